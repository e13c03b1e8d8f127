"""When checkpoints are saved, how many are kept, and which one was the best."""
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detcore.engine.hooks.base import Hook
from detcore.engine.hooks.local_files import require_local
from detcore.engine.hooks.rule import comparison_rule
from detcore.errors import ConfigError

_log = logging.getLogger(__name__)


class CheckpointHook(Hook):
    """The policy of saving; the training loop calls it by name, after every hook has seen the step.

    Args:
        interval: Passes (or steps) between two checkpoints; -1 saves none at intervals.
        by_epoch: Count passes (``epoch_N.pth``), else steps (``iter_N.pth``).
        save_optimizer: Whether checkpoints hold the optimiser; without it they cannot be resumed from.
        save_param_scheduler: Whether checkpoints hold the schedules; the same holds for those.
        out_dir: Folder for checkpoints, if not the work folder; the work folder's name is added.
        max_keep_ckpts: How many of the newest to keep; -1 keeps all.
        save_last: Save at the end of the training as well.
        save_best: Key of the figure (or a list of keys) of which the best checkpoint is kept as
            ``best_<key>_<epoch or iter>_N.pth``; ``auto`` takes the first figure.
        rule: ``greater`` or ``less``, one for all keys or one for each; told from the key where it is left
            out.
        greater_keys: Further parts of keys of which more is better.
        less_keys: Further parts of keys of which less is better.
        file_client_args: The older name of ``backend_args``.
        published_keys: Write the last and the best checkpoint with only these keys at the end as well.
        save_begin: Pass (or step) before which nothing is saved.
        filename_tmpl: Name of the files, with ``{}`` for the number.
        backend_args: None or ``dict(backend='local')``.

    Raises:
        ConfigError: If a setting makes no sense.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        interval: int = -1,
        by_epoch: bool = True,
        save_optimizer: bool = True,
        save_param_scheduler: bool = True,
        out_dir: str | None = None,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | Sequence[str] | None = None,
        rule: str | Sequence[str] | None = None,
        greater_keys: str | Sequence[str] | None = None,
        less_keys: str | Sequence[str] | None = None,
        file_client_args: dict[str, Any] | None = None,
        published_keys: str | Sequence[str] | None = None,
        save_begin: int = 0,
        filename_tmpl: str | None = None,
        backend_args: dict[str, Any] | None = None,
    ) -> None:
        require_local(self, out_dir, backend_args, file_client_args)
        self.interval = interval
        self.by_epoch = by_epoch
        self.save_optimizer = save_optimizer
        self.save_param_scheduler = save_param_scheduler
        self.out_dir = out_dir
        self.max_keep_ckpts = max_keep_ckpts
        self.save_last = save_last
        self.save_begin = save_begin
        if save_begin < 0:
            raise ConfigError(f"CheckpointHook: save_begin must be at least 0, got {save_begin}")
        self.published_keys = _listed(published_keys)
        self._template = filename_tmpl or ("epoch_{}.pth" if by_epoch else "iter_{}.pth")
        if self._template.format(1) == self._template.format(2):
            raise ConfigError(f"CheckpointHook: filename_tmpl={filename_tmpl!r} has no {{}} for the number")
        self._keys = _listed(save_best)
        if "auto" in self._keys and len(self._keys) > 1:
            raise ConfigError("CheckpointHook: save_best='auto' cannot stand beside other keys")
        if len(set(self._keys)) < len(self._keys):
            raise ConfigError(f"CheckpointHook: save_best={self._keys} names a figure twice")
        self._directions = (_listed(greater_keys), _listed(less_keys))
        self._rules = [
            None if key == "auto" and one is None else comparison_rule(key, one, *self._directions)
            for key, one in zip(self._keys, _rule_of_each(self._keys, rule), strict=True)
        ]
        self.best: dict[str, dict[str, Any]] = {}
        self.last_name: str | None = None

    def step_done(self, runner: Any) -> None:
        """Save if a step is due; called when ``runner.iter`` steps are complete."""
        if not self.by_epoch and self._due(runner.iter, runner.iter == runner.max_iters):
            self._save(runner, runner.iter)

    def epoch_done(self, runner: Any) -> None:
        """Save if a pass is due; called when ``runner.epoch`` passes are complete."""
        if self.by_epoch and self._due(runner.epoch, runner.epoch == runner.max_epochs):
            self._save(runner, runner.epoch)

    def validation_done(self, runner: Any, metrics: dict[str, float]) -> None:
        """Keep this state if one of the watched figures is the best so far.

        Raises:
            ConfigError: If a watched figure does not exist.
        """
        if self._keys == ["auto"] and metrics:
            self._keys = [next(iter(metrics))]
            self._rules = [self._rules[0] or comparison_rule(self._keys[0], None, *self._directions)]
        for key, rule in zip(self._keys, self._rules, strict=True):
            if key == "auto":
                continue
            if key not in metrics:
                raise ConfigError(
                    f"CheckpointHook: save_best={key!r} is not among the figures {sorted(metrics)}"
                )
            self._keep_if_best(runner, key, str(rule), float(metrics[key]))

    def training_done(self, runner: Any) -> None:
        """Write the published files; called once, when the training is complete."""
        if self.published_keys:
            names = [self.last_name, *(entry["name"] for entry in self.best.values())]
            for name in dict.fromkeys(name for name in names if name):
                runner.publish_checkpoint(self._folder(runner) / name, list(self.published_keys))

    def state_dict(self) -> dict[str, Any]:
        """The best figures, the watched keys and the newest file's name."""
        return {"best": self.best, "keys": self._keys, "rules": self._rules, "last_name": self.last_name}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from the best figures; those of keys that are no longer watched are dropped."""
        if self._keys == ["auto"]:
            self._keys, self._rules = list(state["keys"]), list(state["rules"])
        self.best = {key: dict(entry) for key, entry in state["best"].items() if key in self._keys}
        self.last_name = state["last_name"]

    def _due(self, number: int, last: bool) -> bool:
        if last and self.save_last:
            return True
        return (
            self.interval > 0 and number > self.save_begin and (number - self.save_begin) % self.interval == 0
        )

    def _save(self, runner: Any, number: int) -> None:
        self.last_name = self._template.format(number)
        self._write(runner, self.last_name, regular=True)
        runner.checkpoints_of(self._folder(runner)).prune(self.max_keep_ckpts)

    def _write(self, runner: Any, name: str, *, regular: bool) -> None:
        runner.save_checkpoint(
            self._folder(runner),
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            regular=regular,
        )

    def _keep_if_best(self, runner: Any, key: str, rule: str, score: float) -> None:
        previous = self.best.get(key)
        if math.isnan(score):
            _log.warning("%s is NaN; the best checkpoint stays as it is", key)
            return
        if previous is not None and not (
            score > previous["score"] if rule == "greater" else score < previous["score"]
        ):
            return
        unit, number = ("epoch", runner.epoch) if self.by_epoch else ("iter", runner.iter)
        name = f"best_{re.sub(r'[^A-Za-z0-9.-]+', '_', key)}_{self._template.format(number)}"
        self.best[key] = {"score": score, "name": name, "step": runner.iter}
        self._write(runner, name, regular=False)
        runner.logger.info(
            "The best checkpoint with %.4f %s at %s %d is saved to %s", score, key, unit, number, name
        )
        if previous is not None and previous["name"] != name:
            runner.checkpoints_of(self._folder(runner)).remove(previous["name"])

    def _folder(self, runner: Any) -> Path:
        work_dir = Path(runner.work_dir)
        return work_dir if self.out_dir is None else Path(self.out_dir) / work_dir.name


def _listed(value: str | Sequence[str] | None) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _rule_of_each(keys: Sequence[str], rule: str | Sequence[str] | None) -> list[str | None]:
    """One rule for each key, from one for all or one for each."""
    rules: list[str | None] = [rule] if rule is None or isinstance(rule, str) else list(rule)
    if len(rules) == 1:
        return rules * len(keys)
    if len(rules) != len(keys):
        raise ConfigError(f"CheckpointHook: {len(keys)} keys in save_best, but {len(rules)} rules")
    return rules
