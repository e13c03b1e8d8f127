import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.data.build import TableBuilder
from detcore.data.defects import DefectCounter
from detcore.data.jsonable import from_json_bytes, to_json_bytes
from detcore.data.ragged import Ragged

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)
BOX = st.tuples(*[st.floats(-100, 100, width=32)] * 4).map(list)
MASK = st.none() | st.just([[0.0, 0.0, 4.0, 0.0, 4.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]) | st.just(
    {"size": [4, 5], "counts": [3, 17]}
)
INSTANCE = st.fixed_dictionaries(
    {"bbox": BOX, "bbox_label": st.integers(0, 5), "ignore_flag": st.integers(0, 1)},
    optional={"mask": MASK, "note": PLAIN},
)
IMAGE = st.fixed_dictionaries(
    {
        "img_path": st.text(), "img_id": st.integers(-5, 5) | st.text(),
        "instances": st.lists(INSTANCE, max_size=3),
    },
    optional={"more": PLAIN},
)


def plain(instance):
    return {key: value for key, value in instance.items() if not (key == "mask" and value is None)}


@settings(max_examples=60, deadline=None)
@given(st.lists(IMAGE, max_size=5), st.data())
def test_what_goes_into_a_table_comes_out_also_after_cutting(images, data):
    builder = TableBuilder(DefectCounter("test"))
    for image in images:
        builder.add(image)
    table = builder.build()
    rows = data.draw(st.lists(st.integers(0, len(images) - 1), max_size=6)) if images else []
    cut = table.take(np.array(rows, np.int64))
    for part, expected in ((table, images), (cut, [images[row] for row in rows])):
        assert len(part) == len(expected)
        for row, image in enumerate(expected):
            info = part.image(row)
            assert list(info.pop("instances")) == [plain(instance) for instance in image["instances"]]
            assert info == {key: value for key, value in image.items() if key != "instances"}


@settings(max_examples=100, deadline=None)
@given(PLAIN)
def test_plain_data_survives_json(value):
    assert from_json_bytes(to_json_bytes(value, "here")) == value


@pytest.mark.parametrize("array", [
    np.arange(6).reshape(2, 3), np.zeros(0), np.array(True), np.array([1.5], np.float16),
])
def test_arrays_survive_json(array):
    again = from_json_bytes(to_json_bytes({"a": [array]}, "here"))["a"][0]
    assert again.dtype == array.dtype
    assert again.shape == array.shape
    assert (again == array).all()


@given(st.lists(st.binary(max_size=4)), st.data())
def test_ragged_columns_give_back_their_lists(items, data):
    column = Ragged.from_bytes(items)
    rows = data.draw(st.lists(st.integers(0, len(items) - 1))) if items else []
    assert [column[row].tobytes() for row in range(len(column))] == items
    cut = column.take(np.array(rows, np.int64))
    assert [cut[row].tobytes() for row in range(len(rows))] == [items[row] for row in rows]


def test_instances_can_be_dropped_by_a_mask():
    builder = TableBuilder(DefectCounter("test"))
    for count in (2, 0, 3):
        instances = [
            {"bbox": [k, 0, k + 1, 1], "bbox_label": k, "mask": [[k] * 6], "n": k} for k in range(count)
        ]
        builder.add({"img_path": f"{count}", "instances": instances})
    table = builder.build().take_instances(np.array([False, True, True, False, True]))
    assert table.counts().tolist() == [1, 0, 2]
    assert [[one["n"] for one in table.image(row)["instances"]] for row in range(3)] == [[1], [], [0, 2]]
    assert table.image(2)["instances"][1]["mask"] == [[2.0] * 6]
