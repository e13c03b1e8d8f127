"""What authors of plugins import in their tests: one call checks all that a component promises.

from detcore.testing import check_backbone

def test_it_is_a_backbone():
    check_backbone(dict(type='mine.MyBackbone', depth=2))
"""

from detcore.data.drawn import make_shapes, tiny_coco
from detcore.testing.batches import tiny_batch
from detcore.testing.detectors import check_detector
from detcore.testing.hooks import check_hook
from detcore.testing.losses import check_loss
from detcore.testing.metrics import check_metric
from detcore.testing.networks import check_backbone, check_gradients, check_neck
from detcore.testing.pipelines import check_dataset, check_transform, tiny_results

__all__ = [
    "check_backbone",
    "check_dataset",
    "check_detector",
    "check_gradients",
    "check_hook",
    "check_loss",
    "check_metric",
    "check_neck",
    "check_transform",
    "make_shapes",
    "tiny_batch",
    "tiny_coco",
    "tiny_results",
]
