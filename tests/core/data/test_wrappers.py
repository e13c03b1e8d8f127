import pytest

from detcore.data import BaseDetDataset, ClassBalancedDataset, ConcatDataset, RepeatDataset, build_dataloader
from detcore.errors import DataError
from detcore.registry import DATASETS


class Made(BaseDetDataset):
    """Images with the labels that the test gives."""

    METAINFO = {"classes": ("a", "b", "c")}  # noqa: RUF012

    def __init__(self, *labels, **arguments):
        self.labels = labels
        super().__init__(**arguments)

    def load_data_list(self):
        return [
            {"img_path": f"{number}.jpg", "height": 10, "width": 20 + number,
             "instances": [{"bbox": [0, 0, 5, 5], "bbox_label": label} for label in found]}
            for number, found in enumerate(self.labels)
        ]


def test_concatenated_data_sets_follow_each_other():
    both = ConcatDataset([Made([0], [1]), Made([2], [0, 1], [])])
    assert len(both) == 5
    assert [both.get_cat_ids(i) for i in range(5)] == [[0], [1], [2], [0, 1], []]
    assert [both.get_dataset_source(i) for i in range(5)] == [0, 0, 1, 1, 1]
    assert both[-1]["img_path"] == "2.jpg"
    assert both.image_size(4) == (10, 22)
    assert both.metainfo["classes"] == ("a", "b", "c")
    with pytest.raises(IndexError):
        both[5]


def test_different_classes_cannot_be_concatenated_unseen():
    other = Made([0], metainfo={"classes": ("a", "c", "b")})
    with pytest.raises(DataError, match=r"datasets\[1\] differ in metainfo 'classes'(.|\n)*two things"):
        ConcatDataset([Made([0]), other])
    assert len(ConcatDataset([Made([0]), other], ignore_keys="classes")) == 2
    with pytest.raises(DataError, match="empty"):
        ConcatDataset([])


def test_a_repeated_data_set_starts_over():
    repeated = RepeatDataset(Made([0], [1]), times=3)
    assert len(repeated) == 6
    assert [repeated.get_cat_ids(i) for i in range(6)] == [[0], [1]] * 3
    with pytest.raises(ValueError, match="times"):
        RepeatDataset(Made([0]), times=0)


def test_rare_classes_are_repeated_by_the_square_root_of_their_rarity():
    # Class 1 is on 1 of 8 images: sqrt(0.5 / 0.125) = 2; class 0 on 7: no repeat; class 2 on none.
    data = Made([0], [0], [0, 0], [1], [0], [0], [0], [0])
    balanced = ClassBalancedDataset(data, oversample_thr=0.5)
    assert len(balanced) == 9
    assert [balanced.get_cat_ids(i) for i in (2, 3, 4, 5)] == [[0, 0], [1], [1], [0]]
    assert len(ClassBalancedDataset(data, oversample_thr=0.0)) == 8
    with pytest.raises(ValueError, match="oversample_thr"):
        ClassBalancedDataset(data, oversample_thr=5)


def test_wrappers_build_from_nested_configs_and_load(tiny_cfg):
    wrapped = {"type": "RepeatDataset", "times": 2, "dataset": {
        "type": "ConcatDataset", "datasets": [
            {"type": "ClassBalancedDataset", "oversample_thr": 0.9, "dataset": tiny_cfg()},
            tiny_cfg(indices=2),
        ]}}
    length = len(DATASETS.build(wrapped))
    loader = build_dataloader({
        "batch_size": 3, "dataset": wrapped, "sampler": {"type": "DefaultSampler", "shuffle": True},
        "batch_sampler": {"type": "AspectRatioBatchSampler"},
    }, seed=0)
    assert sum(len(batch["inputs"]) for batch in loader) == length


def test_skipped_images_are_counted_through_wrappers(tiny_cfg, tiny):
    (tiny / "images" / "1.png").unlink()
    wrapped = ConcatDataset([DATASETS.build(tiny_cfg(on_bad_image="skip")), DATASETS.build(tiny_cfg())])
    assert wrapped[1]["data_samples"].img_id != 1
    assert wrapped.take_skipped()["image-missing"][0] >= 1
    assert wrapped.take_skipped() == {}
