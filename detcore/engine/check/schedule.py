"""Learning rate, schedules and evaluations: do they fit the batch size and the length of the training?"""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from detcore.engine.check.reading import entries, name_of_type, number, table
from detcore.engine.settings import RunConfig, loop_config
from detcore.registry import METRICS
from detcore.registry.lookup import known
from detcore.registry.problems import Problem


def check_schedule(
    cfg: RunConfig, modes: Sequence[str], scope: str | None, processes: int
) -> Iterator[Problem]:
    """Settings of a training that contradict one another; warnings, because each may be meant."""
    if "train" not in modes:
        return
    yield from _check_rate(cfg, processes)
    loop = loop_config(table(cfg.get("train_cfg")), "EpochBasedTrainLoop") or {}
    by_epoch = not name_of_type(loop).startswith("IterBased")
    length = number(loop.get("max_epochs" if by_epoch else "max_iters"))
    if length is not None:
        yield from _check_ends(cfg, loop, length, by_epoch)
    if "val" in modes:
        yield from _check_best(cfg, scope)


def _check_rate(cfg: RunConfig, processes: int) -> Iterator[Problem]:
    scaling = table(cfg.get("auto_scale_lr"))
    base = number(scaling.get("base_batch_size"))
    batch = number(table(cfg.get("train_dataloader")).get("batch_size"))
    path = "optim_wrapper.optimizer.lr"
    rate = number(table(table(cfg.get("optim_wrapper")).get("optimizer")).get("lr"))
    if not base or not batch or rate is None or scaling.get("enable") or batch * processes == base:
        return
    counts = number(table(cfg.get("optim_wrapper")).get("accumulative_counts")) or 1
    if batch * processes * counts == base:
        return
    own = f"{processes} processes make" if processes > 1 else "one process makes"
    fitting = rate * batch * processes / base
    needed = base / batch
    gpus = f"or train with --gpus {needed:g}" if needed.is_integer() and needed != processes else ""
    hint = f"--auto-scale-lr makes it {fitting:g}"
    yield Problem(
        path,
        f"{rate:g} is for batches of {base:g} images (auto_scale_lr.base_batch_size); {own} batches of "
        f"{batch * processes:g}",
        f"{hint}, {gpus}" if gpus else hint,
        severity="warning",
    )


def _check_ends(cfg: RunConfig, loop: Mapping[str, Any], length: float, by_epoch: bool) -> Iterator[Problem]:
    unit = "epochs" if by_epoch else "steps"
    schedulers = cfg.get("param_scheduler")
    for index, scheduler in enumerate(entries(schedulers)):
        own = table(scheduler)
        if own.get("by_epoch", True) is not by_epoch:
            continue
        path = "param_scheduler" if isinstance(schedulers, Mapping) else f"param_scheduler.{index}"
        late = [each for each in entries(own.get("milestones")) if (number(each) or 0) >= length]
        if late:
            text = f"{', '.join(map(str, late))} is never reached: the training ends after {length:g} {unit}"
            yield Problem(f"{path}.milestones", text, severity="warning")
        begin = number(own.get("begin"))
        if begin is not None and begin >= length:
            text = f"{begin:g} is never reached: the training ends after {length:g} {unit}"
            yield Problem(f"{path}.begin", text, severity="warning")
    interval = number(loop.get("val_interval", 1))
    # One more than there are is how one switches evaluations off.
    if interval is not None and interval > length + 1 and cfg.get("val_dataloader") is not None:
        text = f"no evaluation is ever due: the training ends after {length:g} {unit}"
        yield Problem("train_cfg.val_interval", f"{interval:g} {unit}; {text}", severity="warning")


def _check_best(cfg: RunConfig, scope: str | None) -> Iterator[Problem]:
    """Figures to save the best checkpoint by that no metric gives."""
    prefixes = list(_prefixes(cfg.get("val_evaluator"), scope))
    path = "default_hooks.checkpoint.save_best"
    wanted = table(table(cfg.get("default_hooks")).get("checkpoint")).get("save_best")
    if None in prefixes or not prefixes:
        return
    for key in [wanted] if isinstance(wanted, str) else entries(wanted):
        if isinstance(key, str) and key != "auto" and key.partition("/")[0] not in prefixes:
            listed = " or ".join(f"{prefix}/" for prefix in prefixes)
            bare = key.rpartition("/")[2]
            text = f"no metric of val_evaluator gives {key!r}: their figures begin with {listed}"
            yield Problem(path, text, f"did you mean '{prefixes[0]}/{bare}'?", severity="warning")


def _prefixes(evaluator: Any, scope: str | None) -> Iterator[str | None]:
    """With what the figures of each metric begin; None where that is not known."""
    own = table(evaluator)
    for metric in entries(own.get("metrics", evaluator)):
        given = table(metric)
        kind = given.get("type")
        component = known(METRICS, kind, scope) if isinstance(kind, str) and kind else kind
        yield given.get("prefix") or getattr(component, "default_prefix", None)
