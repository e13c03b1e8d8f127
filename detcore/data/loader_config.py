"""From a dataloader's config to a `DetDataLoader`."""
from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from detcore.data.fetch import collate_lists
from detcore.data.loader import DetDataLoader
from detcore.data.samplers import PlainBatchSampler
from detcore.errors import ConfigError
from detcore.registry import DATA_SAMPLERS, DATASETS

KNOWN = (
    "batch_sampler", "batch_size", "collate_fn", "dataset", "drop_last", "multiprocessing_context",
    "num_batch_per_epoch", "num_workers", "persistent_workers", "pin_memory", "prefetch_factor", "sampler",
    "timeout", "worker_init_fn",
)
START_METHODS = ("fork", "spawn", "forkserver")
COLLATES = ("pseudo_collate", "collate_lists")
PASSED_ON = {
    "num_workers": "num_workers", "persistent_workers": "persistent_workers", "pin_memory": "pin_memory",
    "prefetch_factor": "prefetch_factor", "timeout": "timeout", "multiprocessing_context": "start_method",
    "num_batch_per_epoch": "batches_per_epoch",
}


def build_dataloader(
    cfg: Mapping[str, Any] | DetDataLoader,
    *,
    seed: int,
    default_scope: str | None = None,
    path: str = "train_dataloader",
) -> DetDataLoader:
    """Build data set, samplers and loader.

    Args:
        cfg: The manual's dataloader config: ``batch_size``, ``num_workers``, ``dataset``, ``sampler``,
            ``batch_sampler``, ``drop_last``, ``persistent_workers``, ``pin_memory``, ``prefetch_factor``,
            ``timeout``, ``multiprocessing_context``, ``num_batch_per_epoch``, ``collate_fn`` and
            ``worker_init_fn`` (callables). A loader is returned as it is.
        seed: Seed of the order and of the samples' randomness.
        default_scope: Scope in which plain names are looked up first.
        path: Where the config stands, for errors.

    Raises:
        ConfigError: An unknown or missing key, or a value that makes no sense.
        RegistryError: An unknown ``type``.
        DataError: The data set cannot be read.
    """
    if isinstance(cfg, DetDataLoader):
        return cfg
    cfg = copy.copy(dict(cfg))
    _check_keys(cfg, path)
    dataset = DATASETS.build(cfg["dataset"], default_scope=default_scope, path=f"{path}.dataset")
    if hasattr(dataset, "full_init"):
        dataset.full_init()
    sampler = _sampler(cfg, dataset, seed, default_scope, path)
    batch_sampler = _batch_sampler(cfg, sampler, default_scope, path)
    _check_sampler_batches(sampler, batch_sampler, path)
    options = {ours: cfg[name] for name, ours in PASSED_ON.items() if cfg.get(name) is not None}
    method = options.get("start_method", "fork")
    if isinstance(method, str) and method not in START_METHODS:
        raise ConfigError(f"{path}.multiprocessing_context={method!r}, expected one of {START_METHODS}")
    return DetDataLoader(
        dataset, batch_sampler, seed=seed,
        collate=_collate(cfg.get("collate_fn"), path),
        worker_setup=_worker_setup(cfg.get("worker_init_fn"), path),
        **options,
    )


def _check_keys(cfg: dict[str, Any], path: str) -> None:
    for key in cfg:
        if key not in KNOWN:
            close = difflib.get_close_matches(str(key), KNOWN, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            known = ", ".join(KNOWN)
            raise ConfigError(f"{path}.{key}: a dataloader has no such key{hint} (known are {known})")
    if "dataset" not in cfg:
        raise ConfigError(f"{path}.dataset is missing")
    if "batch_size" not in cfg and not _is_complete(cfg.get("batch_sampler")):
        raise ConfigError(f"{path}.batch_size is missing: how many images make a batch on one device")
    workers = cfg.get("num_workers", 0)
    if not isinstance(workers, int) or workers < 0:
        raise ConfigError(f"{path}.num_workers must be a whole number from 0 on, got {workers!r}")


def _is_complete(batch_sampler: Any) -> bool:
    """Whether the batch sampler is built already, so that it has its own batch size."""
    return batch_sampler is not None and not isinstance(batch_sampler, Mapping)


def _sampler(cfg: dict[str, Any], dataset: Any, seed: int, scope: str | None, path: str) -> Any:
    given = cfg.get("sampler") or {"type": "DefaultSampler", "shuffle": False}
    if not isinstance(given, Mapping):
        return DATA_SAMPLERS.build(given, default_scope=scope, path=f"{path}.sampler")
    # seed=None in a config means: that of the run.
    own = {key: value for key, value in given.items() if key != "seed" or value is not None}
    try:
        return DATA_SAMPLERS.build(
            own, default_scope=scope, path=f"{path}.sampler", dataset=dataset, seed=seed
        )
    except ValueError as error:
        raise ConfigError(f"{path}.sampler: {error}") from error


def _check_sampler_batches(sampler: Any, batch_sampler: Any, path: str) -> None:
    """A sampler that composes whole batches must cut them where the loader does."""
    composed, cut = getattr(sampler, "batch_size", None), getattr(batch_sampler, "batch_size", None)
    if composed is not None and cut is not None and composed != cut:
        raise ConfigError(
            f"{path}.sampler.batch_size={composed} differs from {path}.batch_size={cut}: "
            f"{type(sampler).__name__} composes whole batches, so both must be the same"
        )


def _batch_sampler(cfg: dict[str, Any], sampler: Any, scope: str | None, path: str) -> Any:
    given = cfg.get("batch_sampler")
    if _is_complete(given):
        return given
    batch_size, drop_last = cfg["batch_size"], bool(cfg.get("drop_last", False))
    if given is None:
        try:
            return PlainBatchSampler(sampler, batch_size, drop_last)
        except ValueError as error:
            raise ConfigError(f"{path}.{error}") from error
    extra: dict[str, Any] = {} if "drop_last" in given or "drop_last" not in cfg else {"drop_last": drop_last}
    return DATA_SAMPLERS.build(
        given, default_scope=scope, path=f"{path}.batch_sampler",
        sampler=sampler, batch_size=batch_size, **extra,
    )


def _collate(given: Any, path: str) -> Callable[[list[Any]], Any]:
    if callable(given):
        return given
    name = given.get("type") if isinstance(given, Mapping) else given
    if callable(name):
        return name
    if name is None or str(name).rsplit(".", 1)[-1] in COLLATES:
        return collate_lists
    raise ConfigError(f"{path}.collate_fn={name!r}: give a function, or one of {', '.join(COLLATES)}")


def _worker_setup(given: Any, path: str) -> Callable[[int], None] | None:
    function = given.get("type") if isinstance(given, Mapping) else given
    # The manual's own function only sets seeds, which is done for each sample here.
    if function is None or function == "worker_init_fn":
        return None
    if not callable(function):
        raise ConfigError(f"{path}.worker_init_fn={function!r}: give a function of the worker's number")
    return function
