"""Lets a test predict several views of each image and merge the predictions."""

from typing import Annotated, Any

from detcore.engine.hooks.base import Hook
from detcore.registry import MODELS, Deferred


class PrepareTTAHook(Hook):
    """Wraps the model for the time of a test; training and validation use it as it is.

    Checkpoints are loaded before the test begins, so their names need not know of the wrapper.

    Args:
        tta_cfg: The wrapper's config without ``module``, for example
            ``dict(type='DetTTAModel', tta_cfg=dict(nms=..., max_per_img=100))``.
    """

    def __init__(self, tta_cfg: Annotated[dict[str, Any], Deferred(MODELS)]) -> None:
        self.tta_cfg = tta_cfg
        self._model: Any = None

    def before_test(self, runner: Any) -> None:
        """Wrap the model."""
        self._model = runner.model
        cfg = {**self.tta_cfg, "module": runner.model}
        runner.model = MODELS.build(cfg, default_scope=runner.parts.scope, path="tta_model")

    def after_test(self, runner: Any) -> None:
        """Take the wrapper off."""
        runner.model, self._model = self._model, None
