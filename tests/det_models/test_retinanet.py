import copy
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from det_models.dense_cfg import DenseTestCfg
from det_models.detector import SingleStageDetector
from det_models.retinanet import RetinaHead, RetinaNet
from det_models.truth import GroundTruth
from torch import nn

from detcore.config import Config
from detcore.errors import ConfigError
from detcore.registry import MODELS, TASK_UTILS
from detcore.structures import DetDataSample, InstanceData

GOLDEN = json.loads((Path(__file__).parent / "golden/retinanet_r18.json").read_text())
BOXES = [[10.0, 12.0, 50.0, 60.0], [20.0, 30.0, 90.0, 60.0]]


def total(losses):
    return sum(part for value in losses.values() for part in value)


def values(losses):
    return {name: torch.stack(list(value)).detach() for name, value in losses.items()}


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def samples(make_sample):
    return [make_sample(64, 96, BOXES, [0, 2]), make_sample(64, 96, BOXES[:1], [1])]


@pytest.fixture(scope="module")
def r18(root, fill_by_name):
    cfg = Config.fromfile(root / "configs/retinanet/retinanet_r18_fpn_1x_coco.py").model
    cfg.backbone.init_cfg = None
    return fill_by_name(MODELS.build(cfg))


# -- the reference's numbers
# -------------------------------------------------------------------------------------


def test_names_and_shapes_are_the_references(r18):
    state = r18.state_dict()
    assert len(state) == GOLDEN["num_keys"]
    assert {name: list(state[name].shape) for name in GOLDEN["shapes"]} == GOLDEN["shapes"]


def test_outputs_and_predictions_are_the_references(r18, golden_batch, batch_statistics):
    images, samples = golden_batch
    batch_statistics(r18, False)
    with torch.no_grad():
        outputs = [level for levels in r18(images, mode="tensor") for level in levels]
        results = r18(images, copy.deepcopy(samples), mode="predict")
    for output, (shape, mean, _) in zip(outputs, GOLDEN["outputs"], strict=True):
        assert list(output.shape) == shape
        assert float(output.abs().mean()) == pytest.approx(mean, rel=1e-4)
    for sample, want in zip(results, GOLDEN["predict"], strict=True):
        found = sample.pred_instances
        assert len(found) == want["n"]
        assert found.labels[:8].tolist() == want["labels"]
        assert found.scores[:8].tolist() == pytest.approx(want["scores"], abs=1e-4)
        torch.testing.assert_close(found.bboxes[:8], torch.tensor(want["bboxes"]), atol=0.05, rtol=0)


def test_losses_and_gradients_are_the_references(r18, golden_batch, batch_statistics):
    images, samples = golden_batch
    batch_statistics(r18, True)
    r18.zero_grad()
    losses = r18(images, samples, mode="loss")
    assert sorted(losses) == sorted(GOLDEN["loss"])
    for name, want in GOLDEN["loss"].items():
        assert [float(value.detach()) for value in losses[name]] == pytest.approx(want, rel=1e-4)
    total(losses).backward()
    norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in r18.parameters() if p.grad is not None))
    assert norm == pytest.approx(GOLDEN["grad_norm"], rel=1e-3)


@pytest.mark.shared
@pytest.mark.slow
def test_the_recorded_detectors_pass(shared, root):
    check = shared("golden/check.py")
    command = [sys.executable, str(check), "--configs", str(root / "configs"), "retinanet/retinanet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.strip().endswith("2 passed, 0 failed"), done.stdout + done.stderr


# -- ground truth of every kind
# ------------------------------------------------------------------------------------


def test_an_image_without_boxes_is_all_background(small_retinanet, images, samples, make_sample):
    model = small_retinanet()
    losses = model(images, [samples[0], make_sample(64, 96, [], [])], mode="loss")
    assert torch.isfinite(total(losses))
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_batch_without_boxes_has_a_box_loss_of_zero_and_finite_gradients(
    small_retinanet, images, make_sample
):
    model = small_retinanet()
    losses = model(images, [make_sample(64, 96, [], []) for _ in range(2)], mode="loss")
    assert all(float(value.detach()) == 0 for value in losses["loss_bbox"])
    assert all(float(value.detach()) > 0 for value in losses["loss_cls"])
    total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_order_of_the_batch_does_not_matter(small_retinanet, images, samples):
    model = small_retinanet()
    model.backbone.eval()
    one = values(model(images, samples, mode="loss"))
    other = values(model(images.flip(0), samples[::-1], mode="loss"))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-5, atol=1e-6)


def test_predictions_of_an_image_do_not_depend_on_its_batch(small_retinanet, images, samples):
    model = small_retinanet().eval()
    with torch.no_grad():
        both = model(images, copy.deepcopy(samples), mode="predict")
        alone = model(images[1:], copy.deepcopy(samples[1:]), mode="predict")
    torch.testing.assert_close(
        both[1].pred_instances.bboxes, alone[0].pred_instances.bboxes, rtol=1e-4, atol=1e-3
    )
    assert both[1].pred_instances.labels.tolist() == alone[0].pred_instances.labels.tolist()


def test_one_class_trains_and_predicts(small_retinanet, images, make_sample):
    model = small_retinanet(num_classes=1)
    samples = [make_sample(64, 96, BOXES, [0, 0]), make_sample(64, 96, BOXES[:1], [0])]
    total(model(images, samples, mode="loss")).backward()
    with torch.no_grad():
        for sample in model.eval()(images, samples, mode="predict"):
            assert set(sample.pred_instances.labels.tolist()) <= {0}


def test_what_stands_on_padding_does_not_count(small_retinanet, make_sample):
    head = small_retinanet().bbox_head
    small, large = make_sample(30, 60, [[4.0, 4.0, 30.0, 28.0]], [1]), make_sample(64, 96, BOXES, [0, 2])
    small.set_metainfo({"pad_shape": (32, 64)})
    sizes = [(8, 12), (4, 6), (2, 3), (1, 2), (1, 1)]
    truth = GroundTruth.pack([small.gt_instances, large.gt_instances])
    targets = head.get_targets(
        head.prior_generator.grid_priors(sizes), sizes, truth, [small.metainfo, large.metainfo]
    )
    finest = targets.label_weights[:, : 8 * 12 * 9].view(2, 8, 12, 9)
    assert finest[0, 4:].sum() == 0
    assert finest[0, :, 8:].sum() == 0
    assert finest[0, :4, :8].sum() > 0
    assert finest[1, 4:].sum() > 0


def test_regions_to_ignore_are_neither_object_nor_background(small_config, fill_by_name, images, samples):
    cfg = small_config()
    cfg["train_cfg"]["assigner"]["ignore_iof_thr"] = 0.5
    model = fill_by_name(MODELS.build(cfg))
    plain = values(model(images, samples, mode="loss"))["loss_cls"].sum()
    for sample in samples:
        sample.ignored_instances = InstanceData(bboxes=torch.tensor([[60.0, 0.0, 96.0, 64.0]]))
    fewer = values(model(images, samples, mode="loss"))["loss_cls"].sum()
    assert fewer < plain


# -- other losses, assigners, precisions
# -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", ["IoULoss", "GIoULoss", "DIoULoss", "CIoULoss", "EIoULoss", "BoundedIoULoss"]
)
def test_boxes_are_compared_decoded_where_the_loss_needs_it(small_retinanet, images, samples, kind):
    model = small_retinanet(reg_decoded_bbox=True, loss_bbox={"type": kind})
    losses = model(images, samples, mode="loss")
    assert total({"b": losses["loss_bbox"]}) > 0
    total(losses).backward()
    assert model.bbox_head.retina_reg.weight.grad.abs().sum() > 0


def test_a_softmax_scores_background_as_one_more_class(small_retinanet, images, samples):
    model = small_retinanet(loss_cls={"type": "CrossEntropyLoss"})
    assert model.bbox_head.cls_out_channels == 4
    total(model(images, samples, mode="loss")).backward()
    with torch.no_grad():
        result = model.eval()(images, samples, mode="predict")[0].pred_instances
    assert set(result.labels.tolist()) <= {0, 1, 2}


class CountingLoss(nn.Module):
    """A user's loss, in the manual's form: it never sees empty input."""

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, pred, target, weight=None, avg_factor=None, reduction_override=None):
        assert pred.size() == target.size()
        assert target.numel() > 0
        assert weight.shape == pred.shape
        return self.loss_weight * ((pred - target).abs() * weight).sum() / avg_factor


def test_a_users_loss_takes_the_place_of_ours(small_retinanet, images, samples):
    ours = values(small_retinanet()(images, samples, mode="loss"))
    theirs = values(small_retinanet(loss_bbox={"type": CountingLoss})(images, samples, mode="loss"))
    torch.testing.assert_close(ours["loss_bbox"], theirs["loss_bbox"])


class OnlyTheFinest(RetinaHead):
    """A user's head: ours but for one method, and one argument more."""

    def __init__(self, num_levels: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_levels = num_levels

    def loss_by_feat(self, *args, **kwargs):
        losses = super().loss_by_feat(*args, **kwargs)
        return {name: value[: self.num_levels] for name, value in losses.items()}


def test_a_users_head_inherits_arguments_and_settings(small_retinanet, images, samples):
    want = values(small_retinanet()(images, samples, mode="loss"))
    model = small_retinanet(type=OnlyTheFinest, num_levels=2)
    got = values(model(images, samples, mode="loss"))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value[:2])


class OlderDetector(SingleStageDetector):
    """A user's detector in the manual's form: it takes configs and hands them on."""

    def __init__(
        self, backbone, neck, bbox_head, train_cfg=None, test_cfg=None, data_preprocessor=None
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=neck,
            bbox_head=bbox_head,
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor,
        )


def test_a_users_detector_may_hand_plain_configs_on(
    small_config, small_retinanet, fill_by_name, images, samples
):
    model = fill_by_name(MODELS.build({**small_config(), "type": OlderDetector}))
    want = values(small_retinanet()(images, samples, mode="loss"))
    torch.testing.assert_close(values(model(images, samples, mode="loss")), want)
    with torch.no_grad():
        assert len(model.eval()(images, samples, mode="predict")[0].pred_instances)


class ImageByImage:
    """A user's assigner that knows single images only."""

    def __init__(self) -> None:
        cfg = {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4}
        self.inner = TASK_UTILS.build(cfg)

    def assign(self, pred_instances, gt_instances, gt_instances_ignore=None):
        return self.inner.assign(pred_instances, gt_instances, gt_instances_ignore)


def test_an_assigner_for_single_images_gives_the_same_losses(
    small_config, small_retinanet, fill_by_name, images, samples
):
    cfg = small_config()
    cfg["train_cfg"]["assigner"] = {"type": ImageByImage}
    samples[1].set_metainfo({"pad_shape": (32, 64), "img_shape": (32, 64)})
    want = values(small_retinanet()(images, samples, mode="loss"))
    got = values(fill_by_name(MODELS.build(cfg))(images, samples, mode="loss"))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value)


def test_under_bf16_autocast_losses_are_float32_and_close(small_retinanet, images, samples):
    model = small_retinanet()
    want = values(model(images, samples, mode="loss"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images, samples, mode="loss")
        results = model(images, samples, mode="predict")
    for name, value in losses.items():
        assert all(part.dtype == torch.float32 for part in value)
        torch.testing.assert_close(torch.stack(list(value)).detach(), want[name], rtol=0.1, atol=0.05)
    total(losses).backward()
    assert results[0].pred_instances.scores.dtype == torch.float32


def test_channels_last_maps_give_the_same_losses(small_retinanet, images, samples):
    model = small_retinanet()
    want = values(model(images, samples, mode="loss"))
    model = model.to(memory_format=torch.channels_last)
    got = values(model(images.to(memory_format=torch.channels_last), samples, mode="loss"))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-5)


def test_positives_are_weighted_and_borders_respected_as_configured(
    small_config, fill_by_name, images, samples
):
    cfg = small_config()
    plain = fill_by_name(MODELS.build(cfg))
    cfg["train_cfg"].update(pos_weight=3.0, allowed_border=0)
    other = fill_by_name(MODELS.build(cfg))
    one, two = values(plain(images, samples, mode="loss")), values(other(images, samples, mode="loss"))
    assert not torch.equal(one["loss_cls"], two["loss_cls"])


def test_losses_are_averaged_over_the_positives_of_all_ranks(small_retinanet, images, samples, monkeypatch):
    model = small_retinanet()
    want = values(model(images, samples, mode="loss"))
    distributed = torch.distributed
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(
        distributed, "all_reduce", lambda value: value.mul_(4)
    )  # the other rank has three times ours
    got = values(model(images, samples, mode="loss"))
    for name, value in want.items():
        torch.testing.assert_close(got[name], value / 2)


# -- predictions
# -------------------------------------------------------------------------------------------------


def test_predictions_are_sorted_limited_and_inside_the_image(small_retinanet, images, samples):
    with torch.no_grad():
        results = small_retinanet().eval()(images, samples, mode="predict")
    for sample in results:
        found = sample.pred_instances
        assert 0 < len(found) <= 20
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        assert found.scores.min() > 0.05
        assert (found.bboxes[:, 0::2] <= 96).all()
        assert (found.bboxes[:, 1::2] <= 64).all()
        assert (found.bboxes >= 0).all()


def test_boxes_are_given_in_the_original_images_pixels(small_retinanet, images, samples):
    model = small_retinanet().eval()
    with torch.no_grad():
        feats = model.extract_feat(images)
        for sample in samples:
            sample.set_metainfo({"scale_factor": (2.0, 0.5)})
        scaled = model.bbox_head.predict(feats, samples, rescale=True)
        plain = model.bbox_head.predict(feats, samples, rescale=False)
    best = plain[0].bboxes[0] / torch.tensor([2.0, 0.5, 2.0, 0.5])
    torch.testing.assert_close(scaled[0].bboxes[0], best)


def test_boxes_that_are_tiny_in_the_original_image_are_dropped(small_retinanet, images, samples):
    model = small_retinanet().eval()
    head = model.bbox_head
    metas = [dict(sample.metainfo, scale_factor=(4.0, 2.0)) for sample in samples]
    with torch.no_grad():
        outputs = model(images, mode="tensor")
        cfg = DenseTestCfg(score_thr=0.05, min_bbox_size=6)
        kept = head.predict_by_feat(*outputs, batch_img_metas=metas, cfg=cfg, rescale=True, with_nms=False)
        cfg = DenseTestCfg(score_thr=0.05)
        found = head.predict_by_feat(*outputs, batch_img_metas=metas, cfg=cfg, rescale=True, with_nms=False)
    for some, every in zip(kept, found, strict=True):
        sizes = every.bboxes[:, 2:] - every.bboxes[:, :2]
        assert 0 < len(some) == int((sizes > 6).all(1).sum()) < len(every)


def test_metainfo_that_is_missing_is_named(small_retinanet, images, samples):
    model = small_retinanet().eval()
    for name in ("scale_factor", "img_shape"):
        metas = {key: value for key, value in samples[1].metainfo.items() if key != name}
        metas["ori_shape"] = (32, 48)
        with torch.no_grad(), pytest.raises(ValueError, match=rf"sample 1 \(a\.jpg\) has no {name}"):
            model(images, [samples[0], DetDataSample(metainfo=metas)], mode="predict")


def test_an_image_that_was_never_resized_needs_no_scale_factor(small_retinanet, images, samples):
    model = small_retinanet().eval()
    metas = {key: value for key, value in samples[0].metainfo.items() if key != "scale_factor"}
    metas["ori_shape"] = metas["img_shape"]
    bare = DetDataSample(metainfo=metas)
    with torch.no_grad():
        with_factor = model(images[:1], samples[:1], mode="predict")[0].pred_instances
        without = model(images[:1], [bare], mode="predict")[0].pred_instances
    assert torch.equal(with_factor.bboxes, without.bboxes)


def test_nothing_above_the_threshold_gives_empty_predictions(small_retinanet, images, samples):
    model = small_retinanet().eval()
    nn.init.constant_(model.bbox_head.retina_cls.bias, -30)
    nn.init.zeros_(model.bbox_head.retina_cls.weight)
    with torch.no_grad():
        found = model(images, samples, mode="predict")[0].pred_instances
    assert len(found) == 0
    assert found.bboxes.shape == (0, 4)


def test_without_limits_all_pairs_above_the_threshold_are_kept(small_retinanet, images, samples):
    model = small_retinanet().eval()
    with torch.no_grad():
        cls_scores, bbox_preds = model(images, mode="tensor")
        metas = [sample.metainfo for sample in samples]
        cfg = DenseTestCfg(score_thr=0.5)
        results = model.bbox_head.predict_by_feat(
            cls_scores, bbox_preds, batch_img_metas=metas, cfg=cfg, with_nms=False
        )
    for number, result in enumerate(results):
        assert len(result) == sum(int((score[number].sigmoid() > 0.5).sum()) for score in cls_scores)


def test_score_factors_scale_scores_after_the_threshold(small_retinanet, images, samples):
    model = small_retinanet().eval()
    head = model.bbox_head
    with torch.no_grad():
        cls_scores, bbox_preds = model(images, mode="tensor")
        factors = [torch.zeros(len(s), 9, *s.shape[-2:]) for s in cls_scores]
        metas = [sample.metainfo for sample in samples]
        plain = head.predict_by_feat(cls_scores, bbox_preds, batch_img_metas=metas, with_nms=False)
        halved = head.predict_by_feat(cls_scores, bbox_preds, factors, batch_img_metas=metas, with_nms=False)
    torch.testing.assert_close(halved[0].scores, plain[0].scores * 0.5)


def test_loss_and_predict_agree_with_either(small_retinanet, images, samples):
    model = small_retinanet()
    feats = model.extract_feat(images)
    losses, results = model.bbox_head.loss_and_predict(feats, samples)
    torch.testing.assert_close(
        values(losses)["loss_cls"], values(model.bbox_head.loss(feats, samples))["loss_cls"]
    )
    torch.testing.assert_close(results[0].scores, model.bbox_head.predict(feats, samples)[0].scores)


# -- callers' mistakes
# ---------------------------------------------------------------------------------------------


def test_an_unknown_mode_is_named_with_the_known_ones(small_retinanet, images):
    with pytest.raises(ValueError, match=r"'loss', 'predict', 'tensor'.*'train'"):
        small_retinanet()(images, mode="train")


def test_missing_samples_are_noticed(small_retinanet, images, samples):
    model = small_retinanet()
    with pytest.raises(ValueError, match="one data sample an image, 2; got none"):
        model(images, mode="loss")
    with pytest.raises(ValueError, match="got 1"):
        model(images, samples[:1], mode="predict")


def test_a_sample_without_ground_truth_is_named(small_retinanet, images, samples):
    samples[1] = DetDataSample(metainfo=dict(samples[1].metainfo, img_path="b.jpg"))
    with pytest.raises(ValueError, match=r"sample 1 \(b\.jpg\) has no gt_instances"):
        small_retinanet()(images, samples, mode="loss")


def test_a_label_beyond_the_classes_is_refused(small_retinanet, images, make_sample):
    samples = [make_sample(64, 96, BOXES, [0, 3]), make_sample(64, 96, BOXES, [0, 1])]
    with pytest.raises(ValueError, match=r"image 0 .* labels \[0, 3\].*num_classes=3"):
        small_retinanet()(images, samples, mode="loss")


def test_a_head_without_settings_says_which_are_missing(small_config, images, samples):
    cfg = small_config()
    del cfg["train_cfg"], cfg["test_cfg"]
    model = MODELS.build(cfg)
    with pytest.raises(ValueError, match="train_cfg"):
        model(images, samples, mode="loss")
    with pytest.raises(ValueError, match="test_cfg"):
        model(images, samples, mode="predict")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("neck.in_channels", [8, 16, 32, 65], r"\[8, 16, 32, 65\].*\[8, 16, 32, 64\]"),
        ("bbox_head.in_channels", 17, r"bbox_head.in_channels is 17.*FPN gives"),
        ("neck.num_outs", 2, "num_outs must be at least 3"),
        ("bbox_head.num_clases", 3, r"bbox_head\.num_clases.*num_classes"),
        ("train_cfg.assigner.pos_iou", 0.5, r"train_cfg\.assigner\.pos_iou.*pos_iou_thr"),
        ("test_cfg.score_thresh", 0.5, r"test_cfg\.score_thresh.*score_thr"),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_built(small_config, where, value, message):
    cfg = small_config()
    node = cfg
    *path, last = where.split(".")
    for key in path:
        node = node[key]
    node[last] = value
    with pytest.raises(ConfigError, match=message):
        MODELS.build(cfg, path="model")


def test_another_number_of_levels_than_of_strides_is_named(small_config, images, samples):
    cfg = small_config()
    cfg["neck"]["num_outs"] = 4
    with pytest.raises(ValueError, match=r"5 levels.*4 feature maps"):
        MODELS.build(cfg)(images, samples, mode="loss")


def test_the_neck_may_leave_its_channels_to_the_backbone(small_config):
    cfg = small_config()
    del cfg["neck"]["in_channels"]
    model = MODELS.build(cfg)
    assert model.neck.in_channels == (8, 16, 32, 64)
    assert model.neck.out_strides == (8, 16, 32, 64, 128)


def test_the_callers_config_is_left_alone(small_config):
    cfg = small_config()
    before = copy.deepcopy(cfg)
    MODELS.build(cfg)
    assert cfg == before


def test_class_probabilities_start_at_one_percent(small_config, images):
    torch.manual_seed(0)
    model = MODELS.build(small_config())
    model.init_weights()
    bias = model.bbox_head.retina_cls.bias
    torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, 0.01))
    assert float(model.bbox_head.retina_reg.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    bound = (6 / (16 + 64)) ** 0.5
    assert float(model.neck.lateral_convs[2].conv.weight.detach().abs().max()) <= bound


def test_a_detector_is_at_most_two_classes_above_its_parts():
    for component in (RetinaNet, RetinaHead):
        ours = [cls for cls in component.__mro__[1:] if cls.__module__.startswith(("det_models", "detcore"))]
        assert len(ours) <= 2, ours


def test_the_model_survives_a_copy_and_a_round_trip_of_its_state(
    small_retinanet, images, samples, small_config
):
    model = small_retinanet()
    want = values(model(images, samples, mode="loss"))
    other = MODELS.build(small_config())
    other.load_state_dict(model.state_dict())
    for twin in (copy.deepcopy(model), other):
        got = values(twin(images, samples, mode="loss"))
        torch.testing.assert_close(got["loss_cls"], want["loss_cls"])
