"""Teachers and students: who learns, who answers, what a checkpoint means, and mistakes."""

import copy

import pytest
import torch
from torch import nn

from det_semi.pseudo_labels import chosen
from det_semi.semi_base import SemiBaseDetector
from det_semi.soft_teacher import SoftTeacher, jittered, of_label, relative_deviation
from detcore.errors import CheckpointError, ConfigError, DataError
from detcore.registry import MODELS
from detcore.structures import InstanceData
from detcore.weights.load_into import load_into_module

ANY = ["retinanet", "fcos", "cascade_rcnn", "faster_rcnn"]


def summed(losses):
    return sum(
        sum(value) if isinstance(value, list) else value for name, value in losses.items() if "loss" in name
    )


def parts_of(losses, prefix):
    values = [value for name, value in losses.items() if name.startswith(prefix)]
    assert values
    return [part.detach() for value in values for part in (value if isinstance(value, list) else [value])]


def losses_of(model, branches):
    torch.manual_seed(0)
    return model(*branches, mode="loss")


@pytest.mark.parametrize("detector", ANY)
def test_any_detector_teaches_itself(detector, semi, branches):
    model = semi(detector, "SemiBaseDetector", cls_pseudo_thr=0.1)
    losses = losses_of(model, branches)
    assert {name.partition("_")[0] for name in losses} == {"sup", "unsup", "pseudo"}
    summed(losses).backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    trained = [name for name, parameter in model.student.named_parameters() if parameter.grad is not None]
    assert any(name.startswith("backbone") for name in trained)


@pytest.mark.parametrize("kind", ["SoftTeacher", "SemiBaseDetector"])
def test_gradients_reach_the_student_alone_also_on_unlabelled_images(kind, semi, branches):
    low = {} if kind == "SoftTeacher" else {"cls_pseudo_thr": 0.4}
    model = semi("faster_rcnn", kind, sup_weight=0.0, **low)
    losses = losses_of(model, branches)
    assert all(float(part) == 0 for part in parts_of(losses, "sup_loss"))
    summed(losses).backward()
    assert all(parameter.grad is None for parameter in model.teacher.parameters())
    squares = sum(float((p.grad**2).sum()) for p in model.student.parameters() if p.grad is not None)
    assert squares > 0
    assert not any(parameter.requires_grad for parameter in model.teacher.parameters())


def test_the_teacher_stays_in_evaluation_mode(semi):
    model = semi()
    model.train()
    assert model.student.training
    assert not any(module.training for module in model.teacher.modules())
    assert semi(freeze_teacher=False).teacher.training


def test_without_certain_boxes_nothing_is_learnt_of_unlabelled_images(semi, branches):
    model = semi("retinanet", "SemiBaseDetector", cls_pseudo_thr=1.0)
    losses = losses_of(model, branches)
    assert all(float(part) == 0 for part in parts_of(losses, "unsup_loss"))
    assert float(losses["pseudo_empty_images"]) == 1.0


def test_a_silent_teacher_gives_finite_losses_and_gradients(semi, branches):
    model = semi(pseudo_label_initial_score_thr=1.0)
    losses = losses_of(model, branches)
    summed(losses).backward()
    assert all(torch.isfinite(part) for part in parts_of(losses, ""))
    assert float(losses["unsup_loss_bbox"].detach()) == 0.0


def test_labelled_images_without_any_object_are_fine(semi, branches):
    inputs, samples = branches
    for sample in samples["sup"]:
        sample.gt_instances = sample.gt_instances[:0]
    summed(losses_of(semi(), (inputs, samples))).backward()


def test_the_teacher_sees_its_view_and_the_student_learns_in_its_own(semi, branches):
    model = semi()
    inputs, samples = branches
    origin, info = model.get_pseudo_instances(inputs["unsup_teacher"], samples["unsup_teacher"])
    seen = info["samples"][0].gt_instances.bboxes
    back = origin[0].gt_instances.bboxes  # the teacher's view is mirrored
    torch.testing.assert_close(back[:, [0, 2]], 320 - seen[:, [2, 0]])
    torch.testing.assert_close(back[:, [1, 3]], seen[:, [1, 3]])
    pseudo = model.project_pseudo_instances(origin, samples["unsup_student"])
    assert [len(each.gt_instances) for each in pseudo] == [len(each.gt_instances) for each in origin]


# -- uncertainty
# -------------------------------------------------------------------------------------


def test_jitter_scatters_by_parts_of_the_box():
    torch.manual_seed(0)
    boxes = torch.tensor([[0.0, 0, 100, 50], [10, 10, 10.5, 10.5]])
    moved = jittered(boxes, 4000, 0.06) - boxes
    expected = torch.tensor([[6.0, 3, 6, 3], [0.06, 0.06, 0.06, 0.06]])  # a box counts as a pixel at least
    torch.testing.assert_close(moved.std(0), expected, rtol=0.06, atol=0.0)
    assert moved.mean(0).abs().max() < 0.4


def test_boxes_of_less_than_a_pixel_stay_boxes():
    torch.manual_seed(0)
    moved = jittered(torch.tensor([[10.0, 10, 10.01, 10.02]]), 100, 0.06)
    assert (moved[..., 2:] >= moved[..., :2]).all()


def test_uncertainty_is_the_mean_deviation_in_parts_of_the_size():
    # Coordinates deviate by 1, 2, 3 and 4 pixels around a box of 10 x 20.
    base = torch.tensor([0.0, 0, 10, 20])
    steps = torch.tensor([1.0, 2, 3, 4])
    boxes = torch.stack([base - steps, base, base + steps])[:, None]
    expected = (1 / 10 + 2 / 20 + 3 / 10 + 4 / 20) / 4
    assert relative_deviation(boxes).tolist() == pytest.approx([expected])
    assert relative_deviation(torch.zeros(10, 0, 4)).shape == (0,)


def test_boxes_of_the_label_are_taken():
    boxes = torch.arange(2 * 3 * 12.0).view(2, 3, 12)
    taken = of_label(boxes, torch.tensor([2, 0, 1]))
    assert taken[1, 0].tolist() == boxes[1, 0, 8:].tolist()
    assert taken[0, 1].tolist() == boxes[0, 1, :4].tolist()
    assert of_label(boxes[..., :4], torch.tensor([2, 0, 1])).tolist() == boxes[..., :4].tolist()


def test_boxes_are_learnt_where_the_teacher_is_steady(semi, branches):
    """Only the rule of uncertainty decides about the boxes' loss, only scores about the classes'."""
    never, always = (losses_of(semi(reg_pseudo_thr=limit), branches) for limit in (0.0, 1e9))
    (boxes_never,), (boxes_always,) = (parts_of(each, "unsup_loss_bbox") for each in (never, always))
    assert float(boxes_never) == 0.0
    assert float(boxes_always) > 0.0
    assert parts_of(never, "unsup_loss_cls") == parts_of(always, "unsup_loss_cls")
    assert float(never["pseudo_kept_reg"]) == 0.0
    assert float(always["pseudo_kept_reg"]) == 1.0


def test_only_regions_with_a_box_to_learn_go_through_the_head_for_it(semi, branches):
    """With the same losses and gradients as when all do, which a norm over the regions asks for."""
    taught, rows = {}, {}
    for kind in ("positives", "all"):
        model = semi()
        if kind == "all":
            model.student.roi_head.register_module("extra", nn.BatchNorm1d(1))
        counts = rows.setdefault(kind, [])
        model.student.roi_head.bbox_head.register_forward_hook(
            lambda module, inputs, output, counts=counts: counts.append(len(output[0]))
        )
        losses = losses_of(model, branches)
        summed(losses).backward()
        grads = {name: each.grad for name, each in model.student.named_parameters() if each.grad is not None}
        taught[kind] = {**grads, "loss": parts_of(losses, "unsup_loss_bbox")[0]}
    assert rows["positives"][:2] == rows["all"][:2]
    assert 0 < rows["positives"][2] < rows["all"][2]
    assert taught["positives"].keys() == taught["all"].keys()
    for name, value in taught["positives"].items():
        torch.testing.assert_close(value, taught["all"][name], rtol=1e-4, atol=1e-6, msg=name)


def test_the_teachers_belief_in_background_weighs_the_background(semi, branches):
    model = semi()
    inputs, samples = branches
    _, info = model.get_pseudo_instances(inputs["unsup_teacher"], samples["unsup_teacher"])
    regions = [torch.tensor([[10.0, 10, 60, 80]]), torch.tensor([[30.0, 40, 90, 100], [5, 5, 50, 50]])]
    students = samples["unsup_student"]
    for sample, view in zip(students, samples["unsup_teacher"], strict=True):
        sample.set_metainfo({"homography_matrix": view.metainfo["homography_matrix"]})  # the same view
    belief = model.background_belief(regions, students, info)
    direct = model.teacher.roi_head.predict_bbox(
        info["feat"], [view.metainfo for view in info["samples"]],
        [InstanceData(bboxes=each) for each in regions], rcnn_test_cfg=None,
    )  # fmt: skip
    torch.testing.assert_close(belief, torch.cat([each.scores[:, -1] for each in direct]))


# -- who answers
# -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("use", "mode"), [("predict_on", "predict"), ("forward_on", "tensor")])
def test_the_settings_say_which_of_the_two_answers(use, mode, semi, golden_regions):
    model = semi("retinanet", "SemiBaseDetector").eval()
    images, _ = golden_regions()

    def answer(network):
        _, samples = golden_regions()
        found = network(images, samples, mode=mode)
        return found[0].pred_instances.scores if mode == "predict" else found[0][0]

    with torch.no_grad():
        teacher, student = answer(model.teacher), answer(model.student)
        assert teacher.shape != student.shape or not torch.equal(teacher, student)
        torch.testing.assert_close(answer(model), teacher)
        model.semi_test_cfg[use] = "student"
        torch.testing.assert_close(answer(model), student)
        model.semi_test_cfg["extract_feat_on"] = "student"
        torch.testing.assert_close(model.extract_feat(images)[0], model.student.extract_feat(images)[0])


def test_another_mode_is_refused(semi):
    with pytest.raises(ValueError, match="'loss', 'predict', 'tensor'"):
        semi()(torch.zeros(1, 3, 32, 32), mode="train")


# -- weights
# -------------------------------------------------------------------------------------


def test_the_teacher_begins_as_the_student(semi_config):
    model = MODELS.build(semi_config())
    model.init_weights()
    own = model.student.state_dict()
    assert all(torch.equal(own[name], value) for name, value in model.teacher.state_dict().items())


@pytest.mark.parametrize("kept", ["plain", "student.", "teacher.", "both"])
def test_weights_of_a_plain_detector_or_of_one_of_the_two_go_into_both(kept, semi_config, fill_by_name, semi):
    source = semi()
    state = source.state_dict()
    if kept == "plain":
        state = source.student.state_dict()
    elif kept != "both":
        state = {name: value for name, value in state.items() if name.startswith(kept)}
    model = MODELS.build(semi_config())
    report = load_into_module(model, state, strict=True)
    assert not report
    teacher = source.teacher if kept in ("teacher.", "both") else source.student
    student = source.teacher if kept == "teacher." else source.student
    for part, expected in (("teacher", teacher), ("student", student)):
        got = getattr(model, part).state_dict()
        assert all(torch.equal(got[name], value) for name, value in expected.state_dict().items()), part


@pytest.mark.parametrize("strict", [True, False])
def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_changed(strict, semi, semi_config):
    model = semi("retinanet", "SemiBaseDetector")
    before = copy.deepcopy(model.state_dict())
    other = MODELS.build({"type": "ResNeXt", "depth": 50, "groups": 4, "base_width": 4}).state_dict()
    other = {f"encoder.{name}": value for name, value in other.items()}
    with pytest.raises(CheckpointError):
        load_into_module(model, other, strict=strict)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_teacher_of_another_width_is_refused(semi, semi_config):
    config = semi_config("retinanet", "SemiBaseDetector")
    config["detector"]["bbox_head"]["num_classes"] = 7
    other = MODELS.build(config).state_dict()
    model = semi("retinanet", "SemiBaseDetector")
    with pytest.raises(CheckpointError, match="retina_cls"):
        load_into_module(model, other)


# -- mistakes
# -------------------------------------------------------------------------------------


@pytest.mark.parametrize("detector", ["retinanet", "cascade_rcnn"])
def test_soft_teacher_says_what_it_needs(detector, semi):
    with pytest.raises(ConfigError, match=r"two stages with one box head.*SemiBaseDetector"):
        semi(detector)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cls_pseudo_thr": 1.5}, "cls_pseudo_thr"),
        ({"unsup_weight": -1}, "unsup_weight"),
        ({"jitter_times": 1}, "jitter_times"),
        ({"jitter_scale": 0}, "jitter_scale"),
        ({"cls_pseudo_th": 0.9}, "cls_pseudo_thr"),
        ({"burn_in_iters": -1}, "burn_in_iters"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message, semi):
    with pytest.raises(ConfigError, match=message):
        semi(**settings)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda inputs: inputs.pop("sup"), r"no labelled images \(branch 'sup'\).*source_ratio"),
        (lambda inputs: inputs.pop("unsup_teacher"), "no the teacher's view|unsup_teacher"),
        (lambda inputs: inputs.update(unsup_studnet=inputs.pop("unsup_student")), "unsup_studnet.*knows sup"),
    ],
)
def test_missing_and_unknown_branches_are_named(change, message, semi, branches):
    inputs, samples = branches
    change(inputs)
    with pytest.raises(DataError, match=message):
        semi()(inputs, samples, mode="loss")


def test_a_batch_without_branches_is_explained(semi, golden_regions):
    with pytest.raises(DataError, match="MultiBranch"):
        semi()(*golden_regions(), mode="loss")


def test_users_derive_from_both(semi_config, branches, fill_by_name):
    class Louder(SoftTeacher):
        def rpn_loss_by_pseudo_instances(self, x, batch_data_samples):
            losses, proposals = super().rpn_loss_by_pseudo_instances(x, batch_data_samples)
            return {name: [each * 2 for each in value] for name, value in losses.items()}, proposals

    config = {**semi_config(), "type": Louder}
    twice, once = (
        sum(parts_of(losses_of(fill_by_name(MODELS.build(each)).train(), branches), "unsup_loss_rpn_cls"))
        for each in (config, semi_config())
    )
    torch.testing.assert_close(twice, 2 * once)
    assert issubclass(SoftTeacher, SemiBaseDetector)
    assert isinstance(MODELS.build(semi_config()), nn.Module)
    assert chosen([], lambda _: torch.zeros(0)) == []
