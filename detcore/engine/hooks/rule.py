"""Whether a larger figure is a better one."""
from collections.abc import Sequence

from detcore.errors import ConfigError

_GREATER = (
    "acc",
    "top",
    "ar@",
    "auc",
    "precision",
    "recall",
    "dice",
    "iou",
    "ap",
    "pq",
    "_ar",
    "hota",
    "mota",
    "f1",
)
_LESS = ("loss", "error", "mmr", "fppi")


def comparison_rule(
    key: str, rule: str | None = None, greater_keys: Sequence[str] = (), less_keys: Sequence[str] = ()
) -> str:
    """``greater`` or ``less`` for a metric's key.

    Args:
        key: Key of the figure, for example ``coco/bbox_mAP``.
        rule: What the user said, if anything.
        greater_keys: Further (parts of) keys of which more is better.
        less_keys: Further (parts of) keys of which less is better.

    Raises:
        ConfigError: If ``rule`` is neither, or cannot be told from the key.
    """
    if rule is not None:
        if rule not in ("greater", "less"):
            raise ConfigError(f"rule must be 'greater' or 'less', got {rule!r}")
        return rule
    plain = key.lower()
    for known, found in ((less_keys, "less"), (greater_keys, "greater")):
        if any(part.lower() in plain for part in known):
            return found
    if any(part in plain for part in _LESS):
        return "less"
    if key == "auto" or any(part in plain for part in _GREATER):
        return "greater"
    raise ConfigError(f"cannot tell whether a larger {key!r} is better; say rule='greater' or rule='less'")
