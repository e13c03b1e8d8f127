import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from detcore.errors import DataError
from detcore.evaluation.gather import decode, encode, interleave

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(PLAIN)
def test_plain_data_comes_back_as_it_was(value):
    assert decode(encode(value)) == value


@settings(max_examples=60, deadline=None)
@given(npst.arrays(st.sampled_from(["f4", "f8", "i8", "u1", "?"]), npst.array_shapes(min_side=0, max_dims=3)))
def test_arrays_come_back_bit_for_bit(array):
    back = decode(encode({"x": [array]}))["x"][0]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


def test_tensors_come_back_as_arrays_and_infinities_survive():
    back = decode(encode({"t": torch.arange(3), "h": torch.ones(2, dtype=torch.bfloat16), "i": float("inf")}))
    assert back["t"].tolist() == [0, 1, 2]
    assert back["h"].tolist() == [1.0, 1.0]
    assert back["i"] == float("inf")


@pytest.mark.parametrize(
    ("value", "named"),
    [({"a": [object()]}, r"results\.a\[0\]"), ({1: 2}, "string keys"), (np.array([{}]), "ndarray")],
)
def test_what_is_not_plain_is_refused_by_place(value, named):
    with pytest.raises(DataError, match=named):
        encode(value)


def test_damaged_bytes_are_refused():
    payload = encode({"a": np.arange(4)})
    for damaged in (b"", payload[:5], payload[:-3], payload.replace(b'"array"', b'"xxxxx"')):
        with pytest.raises(DataError, match="damaged"):
            decode(damaged)


def test_object_arrays_cannot_be_smuggled_in():
    with pytest.raises(DataError, match="damaged"):
        decode(encode({"a": np.arange(2)}).replace(b'"<i8"', b'"|O8"'))


def test_interleaving_restores_the_order_of_a_dealt_out_data_set():
    dealt = [list(range(10))[rank::3] for rank in range(3)]
    assert interleave(dealt) == list(range(10))
    assert interleave([]) == []


SCRIPT = """
import os, sys, torch.distributed as dist
from detcore.errors import DetcoreError
from detcore.evaluation import Metric
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)

class Plain(Metric):
    default_prefix = "p"
    def process(self, data_batch, data_samples): self.results.extend(data_samples)
    def compute_metrics(self, results):
        return {"n": len(results), "order": sum(i * r for i, r in enumerate(results))}

class Known(Plain):
    def identify(self, result): return result

class Broken(Plain):
    def compute_metrics(self, results): raise ValueError("no such thing")

share = [0, 2, 4] if rank == 0 else [1, 3, 0]  # five images; the sampler padded rank 1 with image 0
for kind in (Plain, Known):
    metric = kind()
    metric.process(None, share)
    assert metric.evaluate(5) == {"p/n": 5, "p/order": 30}, kind
metric = Broken()
metric.process(None, share)
try:
    metric.evaluate(5)
except (ValueError, DetcoreError) as error:
    assert "no such thing" in str(error)
    assert isinstance(error, ValueError if rank == 0 else DetcoreError)
else:
    raise AssertionError("a failure on rank 0 must reach every rank")
print("fine", flush=True)
os._exit(0)
"""


def test_two_ranks_count_each_image_once_and_share_figures_and_failures(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meet")],
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        said = [rank.communicate(timeout=90) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    for out, err in said:
        assert out.strip().endswith("fine"), err
