import pytest

from detcore.registry.spelling import FAR, distance, ranked, slip


@pytest.mark.parametrize(
    ("word", "name", "slips"),
    [
        ("depth", "depth", 0),
        ("dpth", "depth", 1),
        ("deepth", "depth", 1),
        ("debth", "depth", 1),
        ("detph", "depth", 1),
        ("fpn", "FPN", 1.5),
        ("", "ab", 2),
    ],
)
def test_letters_left_out_added_changed_and_swapped_count_one_and_their_case_a_half(word, name, slips):
    assert distance(word, name) == distance(name, word) == slips


def test_beyond_the_limit_only_that_it_is_far_is_known():
    assert distance("depth", "width", limit=1) == FAR
    assert distance("depth", "a much longer name", limit=3) == FAR


def test_the_nearest_name_comes_first_and_equals_keep_their_order():
    assert [name for _, name in ranked("frozen_stags", ["froze_stage", "frozen_stages", "strides"])] == [
        "frozen_stages", "froze_stage"]  # fmt: skip
    assert [name for _, name in ranked("N", ["GN", "BN", "LN"])] == ["GN", "BN", "LN"]


def test_the_beginning_of_a_name_is_near_it():
    assert ranked("paramwise", ["clip_grad", "paramwise_cfg"])[0][1] == "paramwise_cfg"


def test_words_without_a_common_letter_are_never_near():
    assert ranked("z", ["x", "y"]) == []


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("train_pipelin", "train_pipeline"),
        ("CLASSES", "classes"),
        ("norm1", None),
        ("img_scales", None),
        ("loss_weight", None),
        ("x", None),
        ("classes", None),
    ],
)
def test_a_slip_is_told_only_where_hardly_anything_else_can_be_meant(word, meant):
    known = ["train_pipeline", "classes", "norm2", "img_scale", "pos_weight", "xy"]
    assert slip(word, known) == meant
