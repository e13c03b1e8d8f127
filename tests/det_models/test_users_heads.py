"""Heads of users' own over ours: what they may redefine, and what is said of what is not called."""

import logging

import pytest
import torch
from det_models.anchor_head import AnchorHead
from det_models.dense_cfg import DenseTestCfg
from det_models.retinanet import RetinaHead


def test_methods_that_take_one_image_are_not_called_and_a_warning_says_so(caplog):
    with caplog.at_level(logging.WARNING):

        class Silent(RetinaHead):
            def _bbox_post_process(self, results):
                return results

    assert "Silent._bbox_post_process is not called; redefine predict_by_feat instead" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):

        class Whole(RetinaHead):  # calls its own method itself
            def predict_by_feat(self, *args, **kwargs):
                return self._bbox_post_process(super().predict_by_feat(*args, **kwargs))

            def _bbox_post_process(self, results):
                return results

    assert not caplog.text


def test_parts_and_settings_may_come_as_configs():
    class Own(AnchorHead):
        def __init__(self, *args, loss_bbox, test_cfg, **kwargs):
            super().__init__(*args, loss_bbox=loss_bbox, test_cfg=test_cfg, **kwargs)

    test_cfg = {"score_thr": 0.5, "nms": {"type": "nms", "iou_threshold": 0.3}}
    head = Own(2, 4, loss_bbox={"type": "L1Loss", "loss_weight": 3.0}, test_cfg=test_cfg)
    assert head.loss_bbox.loss_weight == 3.0
    assert isinstance(head.test_cfg, DenseTestCfg)
    scores, boxes = head((torch.rand(1, 4, 8, 8), torch.rand(1, 4, 4, 4)))
    assert [tuple(each.shape) for each in scores] == [(1, 18, 8, 8), (1, 18, 4, 4)]
    assert [tuple(each.shape) for each in boxes] == [(1, 36, 8, 8), (1, 36, 4, 4)]


def test_settings_read_like_the_dict_that_they_were():
    cfg = DenseTestCfg(score_thr=0.5)
    assert cfg["score_thr"] == cfg.get("score_thr", 0) == cfg.score_thr == 0.5
    assert cfg.get("unknown", 7) == 7
    with pytest.raises(KeyError, match="unknown"):
        cfg["unknown"]
