"""Predictions kept in files: what they hold, and that nothing but plain data is in them."""
import pickle
import pickletools

import numpy as np
import pytest
import torch

from detcore.errors import ConfigError
from detcore.evaluation import Evaluator
from detcore.evaluation.dump import DumpDetResults, DumpProposals, DumpResults
from detcore.structures import DetDataSample, InstanceData


class Opaque:
    """Something that no file shall hold."""


def samples(number=2):
    made = []
    for index in range(number):
        sample = DetDataSample(
            metainfo={"img_id": index, "img_path": f"data/val/{index}.jpg", "ori_shape": (4, 6)}
        )
        sample.gt_instances = InstanceData(bboxes=torch.zeros(1, 4), labels=torch.zeros(1, dtype=torch.long))
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 3, 3]]),
            scores=torch.tensor([0.2, 0.9, 0.5]),
            labels=torch.tensor([0, 1, 0]),
            masks=torch.tensor([[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[1, 1], [1, 1]]], dtype=torch.bool),
        )
        made.append(sample)
    return made


def dumped(metric, path, given=None):
    evaluator = Evaluator(metric)
    evaluator.process(None, samples() if given is None else given)
    assert evaluator.evaluate(2) == {}
    return pickle.loads(path.read_bytes())  # written a line above


def globals_in(path):
    """Every name that reading the file would import."""
    found, strings = set(), []
    for operation, argument, _ in pickletools.genops(path.read_bytes()):
        if isinstance(argument, str):
            strings.append(argument)
        if operation.name == "STACK_GLOBAL":
            found.add(".".join(strings[-2:]))
    return found


def test_whole_samples_are_kept_as_dicts_of_tensors(tmp_path):
    path = tmp_path / "out" / "results.pkl"
    content = dumped(DumpResults(str(path)), path)
    assert [sample["img_id"] for sample in content] == [0, 1]
    assert content[0]["ori_shape"] == (4, 6)
    assert torch.equal(content[0]["pred_instances"]["scores"], torch.tensor([0.2, 0.9, 0.5]))
    assert torch.equal(content[0]["gt_instances"]["labels"], torch.zeros(1, dtype=torch.long))
    assert globals_in(path) <= {
        "torch._utils._rebuild_tensor_v2",
        "torch.storage._load_from_bytes",
        "collections.OrderedDict",
    }


def test_what_is_no_plain_data_is_left_out_with_its_name(tmp_path, caplog):
    path = tmp_path / "results.pkl"
    given = [{"img_id": 0, "pred_instances": {"scores": torch.ones(1), "odd": Opaque()}, "note": None}]
    assert dumped(DumpResults(str(path)), path, given) == [
        {"img_id": 0, "pred_instances": {"scores": torch.ones(1)}, "note": None}
    ]
    assert "leaves out pred_instances.odd, which is a Opaque" in caplog.text


def test_predictions_alone_are_kept_with_masks_as_run_lengths(tmp_path):
    from pycocotools import mask

    path = tmp_path / "results.pickle"
    given = samples()
    content = dumped(DumpDetResults(str(path)), path, given)
    assert set(content[0]) == {"img_id", "img_path", "ori_shape", "pred_instances"}
    found = content[1]["pred_instances"]["masks"]
    assert [one["size"] for one in found] == [[2, 2]] * 3
    assert mask.decode(found[2]).all()
    assert "gt_instances" in given[0]  # other metrics see what there was


def test_what_came_from_other_processes_is_the_same(tmp_path):
    from detcore.evaluation import gather

    path = tmp_path / "results.pkl"
    metric = DumpResults(str(path))
    metric.process(None, [sample.to_dict() for sample in samples(1)])
    metric.compute_metrics(gather.decode(gather.encode(metric.results)))
    content = pickle.loads(path.read_bytes())
    assert torch.equal(content[0]["pred_instances"]["scores"], torch.tensor([0.2, 0.9, 0.5]))


def test_the_best_proposals_are_kept_under_the_images_names(tmp_path):
    path = tmp_path / "proposals" / "rpn.pkl"
    metric = DumpProposals(str(path.parent), path.name, num_max_proposals=2)
    content = dumped(metric, path)
    assert list(content) == ["val/0.jpg", "val/1.jpg"]
    best = content["val/0.jpg"]
    assert best["scores"].tolist() == pytest.approx([0.9, 0.5])
    assert best["bboxes"].tolist() == [[0, 0, 2, 2], [0, 0, 3, 3]]
    assert best["bboxes"].dtype == best["scores"].dtype == np.float32


@pytest.mark.parametrize("metric", [DumpResults, DumpDetResults])
def test_other_files_are_refused(metric):
    with pytest.raises(ConfigError, match=r"must end in \.pkl or \.pickle, got 'results.json'"):
        metric("results.json")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"proposals_file": "a.txt"}, r"must end in \.npz, \.json or \.pkl, got 'a.txt'"),
        ({"num_max_proposals": 0}, "positive"),
        ({"file_client_args": {"backend": "disk"}}, "old name of backend_args"),
        ({"backend_args": {"backend": "petrel"}}, "only local files"),
    ],
)
def test_settings_of_proposals_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        DumpProposals(**settings)
