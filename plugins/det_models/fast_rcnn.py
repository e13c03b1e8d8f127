"""Fast R-CNN (Girshick, ICCV 2015, arXiv 1504.08083): proposals that come with the data.

The image goes through the network once; features of each proposal are pooled to one size out of the feature
maps (section 2.1), two linear layers follow, then classes and boxes (:mod:`det_models.bbox_heads`). Training
samples 512 of an image's proposals, a quarter of them positives at most (section 2.3; the paper has 64).
"""

from typing import Any

from torch import nn

from det_models.two_stage import TwoStageDetector


class FastRCNN(TwoStageDetector):
    """Box head on stored proposals; arguments as of :class:`~det_models.two_stage.TwoStageDetector`.

    The data set has a ``proposal_file`` and its pipeline ``LoadProposals``.
    """

    def __init__(self, backbone: nn.Module, roi_head: nn.Module, **kwargs: Any) -> None:
        super().__init__(backbone=backbone, roi_head=roi_head, **kwargs)
