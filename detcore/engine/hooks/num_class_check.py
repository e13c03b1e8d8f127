"""Holds the heads' number of classes against the data set's."""
from typing import Any

from detcore.engine.hooks.base import Hook
from detcore.errors import ConfigError


class NumClassCheckHook(Hook):
    """Compares ``num_classes`` of every head with the classes of the data set before a pass begins."""

    def before_train_epoch(self, runner: Any) -> None:
        """Check the training data."""
        check_num_classes(runner.model, runner.train_dataloader.dataset, "train_dataloader.dataset")

    def before_val_epoch(self, runner: Any) -> None:
        """Check the validation data."""
        check_num_classes(runner.model, runner.val_dataloader.dataset, "val_dataloader.dataset")


def check_num_classes(model: Any, dataset: Any, where: str) -> None:
    """Hold every ``num_classes`` of the model against the classes of a data set.

    Backbones and region proposal heads are left out: theirs mean something else.

    Args:
        model: The detector.
        dataset: A data set with ``metainfo``.
        where: Config path of the data set, for the message.

    Raises:
        ConfigError: If the classes are one string, or a head has another number of classes.
    """
    classes = getattr(dataset, "metainfo", {}).get("classes")
    if classes is None:
        return
    if isinstance(classes, str):
        raise ConfigError(
            f"{where}: classes must be a tuple of names, got the string {classes!r}; "
            f"write classes=({classes!r},) (a tuple of one name has a comma)"
        )
    wrong = []
    for name, module in model.named_modules():
        if name.endswith("rpn_head") or name.split(".")[0] == "backbone":
            continue
        num_classes = getattr(module, "num_classes", None)
        if isinstance(num_classes, int) and num_classes != len(classes):
            wrong.append(f"model.{name or '(root)'} has num_classes={num_classes}")
    if wrong:
        shown = ", ".join(map(str, classes[:5])) + (", ..." if len(classes) > 5 else "")
        raise ConfigError(
            f"{'; '.join(wrong)}, but {where} has {len(classes)} classes ({shown}): make them equal"
        )
