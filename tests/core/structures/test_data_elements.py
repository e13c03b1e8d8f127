import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.structures import BaseDataElement, DetDataSample, InstanceData, PixelData
from detcore.structures.mask import BitmapMasks


def instances(n=5, **extra):
    return InstanceData(
        metainfo={"img_shape": (8, 9)}, bboxes=torch.arange(4.0 * n).view(n, 4), labels=np.arange(n),
        names=[f"i{i}" for i in range(n)], masks=BitmapMasks(np.ones((n, 4, 6), np.uint8), 4, 6), **extra,
    )


def test_fields_are_metainfo_or_data_and_never_both():
    element = BaseDataElement(metainfo={"img_id": 3}, boxes=torch.zeros(2))
    assert element.keys() == ["boxes"]
    assert element.metainfo_keys() == ["img_id"]
    assert element.all_keys() == ["img_id", "boxes"]
    assert dict(element.all_items())["img_id"] == 3
    assert "img_id" in element
    assert "boxes" in element
    assert "other" not in element
    with pytest.raises(AttributeError, match="img_id is a metainfo field already"):
        element.img_id = 4
    with pytest.raises(AttributeError, match="boxes is a data field already"):
        element.set_metainfo({"boxes": 1})
    element.set_metainfo({"img_id": 5})
    assert element.metainfo == {"img_id": 5}


def test_a_missing_field_is_reported_with_those_that_exist():
    element = BaseDataElement(metainfo={"img_id": 3}, boxes=1)
    with pytest.raises(AttributeError, match=r"no field 'bboxes'; data: \['boxes'\], metainfo: \['img_id'\]"):
        _ = element.bboxes
    assert element.get("bboxes", 7) == 7
    assert element.get("boxes") == 1
    with pytest.raises(KeyError, match="no field 'bboxes'"):
        element.pop("bboxes")
    assert element.pop("bboxes", None) is None
    assert element.pop("boxes") == 1
    assert "boxes" not in element
    del element.img_id
    assert element.all_keys() == []
    with pytest.raises(AttributeError, match="no field"):
        del element.img_id


@pytest.mark.parametrize("name", ["to", "keys", "_data_fields", "metainfo"])
def test_names_of_the_class_itself_cannot_become_fields(name):
    with pytest.raises(AttributeError, match=name):
        setattr(BaseDataElement(), name, 1)


def test_new_clone_and_update_share_values_but_not_the_list_of_fields():
    element = instances()
    for other in (element.clone(), element.new(), copy.copy(element)):
        assert other.bboxes is element.bboxes
        assert other.metainfo == element.metainfo
        other.scores = torch.zeros(5)
        assert "scores" not in element
    replaced = element.new(metainfo={"img_id": 1}, bboxes=torch.zeros(2, 4))
    assert (replaced.keys(), replaced.metainfo_keys()) == (["bboxes"], ["img_id"])
    target = BaseDataElement(metainfo={"img_shape": 0}, bboxes=0)
    target.update(element)
    assert target.img_shape == (8, 9)
    assert target.bboxes is element.bboxes


@pytest.mark.parametrize("via", [lambda e: pickle.loads(pickle.dumps(e)), copy.deepcopy])
def test_elements_survive_pickling_and_deep_copies(via):
    sample = DetDataSample(metainfo={"img_id": 3}, gt_instances=instances())
    sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, 4, 4))
    other = via(sample)
    assert other.img_id == 3
    assert torch.equal(other.gt_instances.bboxes, sample.gt_instances.bboxes)
    assert other.gt_instances.bboxes is not sample.gt_instances.bboxes
    assert other.gt_sem_seg.shape == (4, 4)


def test_conversions_reach_nested_elements_and_leave_the_rest():
    sample = DetDataSample(metainfo={"img_id": 3}, gt_instances=instances())
    arrays = sample.numpy()
    assert isinstance(arrays.gt_instances.bboxes, np.ndarray)
    assert isinstance(sample.gt_instances.bboxes, torch.Tensor)
    assert isinstance(arrays.to_tensor().gt_instances.labels, torch.Tensor)
    assert sample.to(torch.float64).gt_instances.bboxes.dtype == torch.float64
    assert sample.cpu().gt_instances.names == sample.gt_instances.names
    weights = torch.ones(2, requires_grad=True)
    assert not BaseDataElement(x=weights * 2).detach().x.requires_grad
    as_dict = sample.to_dict()
    assert as_dict["img_id"] == 3
    assert set(as_dict["gt_instances"]) == {"img_shape", "bboxes", "labels", "names", "masks"}


def test_repr_names_kind_and_fields():
    text = repr(DetDataSample(metainfo={"img_id": 3}, gt_instances=InstanceData(labels=[1])))
    for word in ("DetDataSample", "img_id: 3", "gt_instances: <InstanceData", "labels: [1]"):
        assert word in text


def test_a_subclass_may_check_its_fields_by_properties():
    class Sample(BaseDataElement):
        @property
        def boxes(self):
            return self._boxes

        @boxes.setter
        def boxes(self, value):
            self.set_field(value, "_boxes", dtype=torch.Tensor)

        @boxes.deleter
        def boxes(self):
            del self._boxes

    sample = Sample(boxes=torch.zeros(1))
    assert sample.keys() == ["boxes"]
    assert sample.to(torch.float64).boxes.dtype == torch.float64
    with pytest.raises(TypeError, match="must be Tensor, got int"):
        sample.boxes = 1
    del sample.boxes
    assert "boxes" not in sample


def test_a_sample_checks_the_types_of_its_fields():
    sample = DetDataSample()
    for name in ("proposals", "gt_instances", "pred_instances", "ignored_instances"):
        with pytest.raises(TypeError, match=f"DetDataSample.{name} must be InstanceData, got PixelData"):
            setattr(sample, name, PixelData())
        setattr(sample, name, InstanceData())
    for name in ("gt_panoptic_seg", "pred_panoptic_seg", "gt_sem_seg", "pred_sem_seg"):
        with pytest.raises(TypeError, match="PixelData"):
            setattr(sample, name, InstanceData())
        setattr(sample, name, PixelData())
    with pytest.raises(TypeError, match="InstanceData"):
        DetDataSample(gt_instances={"bboxes": 1})
    sample.anything = 1
    assert sample.anything == 1


def test_all_fields_of_instances_have_one_length():
    data = instances()
    with pytest.raises(ValueError, match=r"InstanceData.scores has 4 entries, but 'bboxes' has 5"):
        data.scores = torch.zeros(4)
    with pytest.raises(TypeError, match="needs one entry an instance, got int"):
        data.scores = 3
    with pytest.raises(TypeError, match="tensor without dimensions"):
        data.scores = torch.tensor(3)
    data.bboxes = torch.zeros(5, 4)
    alone = InstanceData(bboxes=torch.zeros(5, 4))
    alone.bboxes = torch.zeros(3, 4)
    assert len(alone) == 3
    assert len(InstanceData()) == 0


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (2, [2]),
        (-1, [4]),
        (np.int64(1), [1]),
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, 2), [0, 2, 4]),
        (torch.tensor([4, 0, 0]), [4, 0, 0]),
        (torch.tensor([True, False, True, False, False]), [0, 2]),
        (np.array([3, 1]), [3, 1]),
        (np.array([False, True, False, False, True]), [1, 4]),
        ([1, -1], [1, 4]),
        ([True, False, False, False, True], [0, 4]),
        ([], []),
        (torch.zeros(5, dtype=torch.bool), []),
        (torch.zeros(0, dtype=torch.long), []),
    ],
)
def test_indexing_selects_from_every_field_alike(index, expected):
    data = instances()[index]
    assert data.bboxes[:, 0].tolist() == [4.0 * i for i in expected]
    assert data.labels.tolist() == expected
    assert data.names == [f"i{i}" for i in expected]
    assert len(data.masks) == len(data) == len(expected)
    assert data.metainfo == {"img_shape": (8, 9)}


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (5, IndexError, "index 5 is out of range for 5"),
        (-6, IndexError, "out of range"),
        (torch.zeros(4, dtype=torch.bool), IndexError, "length 4 does not fit 5"),
        (torch.zeros(2, 2, dtype=torch.long), IndexError, "one dimension"),
        (torch.zeros(2), TypeError, "integers or booleans"),
        (None, TypeError, "NoneType"),
        (1.5, TypeError, "float"),
    ],
)
def test_wrong_indices_are_refused(index, error, message):
    with pytest.raises(error, match=message):
        instances()[index]


def test_a_string_index_gives_the_field():
    data = instances()
    assert data["bboxes"] is data.bboxes


def test_cat_joins_all_kinds_of_fields():
    data = InstanceData.cat([instances(2), instances(0), instances(3)])
    assert len(data) == 5
    assert data.names == ["i0", "i1", "i0", "i1", "i2"]
    assert len(data.masks) == 5
    with pytest.raises(ValueError, match="empty list"):
        InstanceData.cat([])
    with pytest.raises(ValueError, match=r"entry 1 has \['bboxes'\]"):
        InstanceData.cat([instances(), InstanceData(bboxes=torch.zeros(1, 4))])
    with pytest.raises(TypeError, match="int"):
        InstanceData.cat([1])


def test_maps_have_one_size_and_are_cut_together():
    data = PixelData(metainfo={"img_id": 1}, sem_seg=torch.arange(12).view(1, 3, 4), depth=np.zeros((3, 4)))
    assert data.shape == (3, 4)
    assert data.depth.shape == (1, 3, 4)
    window = data[1:, 2]
    assert window.sem_seg.tolist() == [[[6], [10]]]
    assert window.depth.shape == (1, 2, 1)
    assert window.img_id == 1
    assert data["sem_seg"] is data.sem_seg
    assert PixelData().shape is None
    with pytest.raises(ValueError, match=r"\(2, 4\) pixels \(height, width\), but 'sem_seg' is \(3, 4\)"):
        data.other = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError, match=r"must be \(C, H, W\)"):
        PixelData(x=torch.zeros(3))
    with pytest.raises(TypeError, match="got list"):
        PixelData(x=[1])
    with pytest.raises(IndexError, match="row 3 is out of range"):
        data[3, 0]
    with pytest.raises(IndexError, match="rows and columns"):
        data[0]
    with pytest.raises(TypeError, match="column is selected"):
        data[0, "a"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_indexing_instances_is_indexing_each_field(data):
    size = data.draw(st.integers(0, 8))
    numbers = np.arange(size)
    instances_of = InstanceData(ids=torch.arange(size), array=numbers, entries=numbers.tolist())
    index = data.draw(st.one_of(
        st.slices(size),
        st.lists(st.booleans(), min_size=size, max_size=size).map(lambda flags: np.array(flags, bool)),
        st.lists(st.integers(-size, size - 1), max_size=6).map(lambda ints: np.array(ints, int))
        if size else st.just(np.zeros(0, int)),
    ))
    want = numbers[index].tolist()
    indices = [index] if isinstance(index, slice) else [index, torch.from_numpy(index), index.tolist()]
    for each in indices:
        got = instances_of[each]
        assert (got.ids.tolist(), got.array.tolist(), got.entries) == (want, want, want)
        assert len(got) == len(want)


def test_the_manuals_examples():
    sample = DetDataSample()
    meta = {"img_shape": (800, 1196), "pad_shape": (800, 1216)}
    gt = InstanceData(metainfo=meta)
    gt.bboxes, gt.labels = torch.rand((5, 4)), torch.rand((5,))
    sample.gt_instances = gt
    assert "img_shape" in sample.gt_instances.metainfo_keys()
    assert len(sample.gt_instances) == 5
    sample = DetDataSample(pred_instances=InstanceData(metainfo=meta, bboxes=torch.rand(5, 4)))
    assert "pred_instances" in sample
    sample.gt_instances = InstanceData(bboxes=torch.rand(2, 4), masks=np.zeros((2, 2, 2)))
    assert "masks" in sample.gt_instances
    sample.gt_panoptic_seg = PixelData(panoptic_seg=torch.rand(2, 4))
    assert "panoptic_seg" in sample.gt_panoptic_seg
