"""Detectors for detcore: heads, necks, losses, assigners, coders.

A method is one file (:mod:`det_models.retinanet`). What methods share is beside it, one room a thing, and
public: :mod:`~det_models.detector`, :mod:`~det_models.two_stage`, :mod:`~det_models.dense` and
:mod:`~det_models.roi_head` (the bases), :mod:`~det_models.bbox_heads`, :mod:`~det_models.anchors`,
:mod:`~det_models.assign` and :mod:`~det_models.samplers`, :mod:`~det_models.coders`,
:mod:`~det_models.losses`, :mod:`~det_models.fpn`, :mod:`~det_models.postprocess`, :mod:`~det_models.truth`
(ground truth of a batch in tensors of fixed shape) and :mod:`~det_models.host` (numbers that travel without
anyone waiting).
"""
