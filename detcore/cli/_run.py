"""What ``detcore run`` and ``detcore test`` do once their options are read."""
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from detcore.cli._launch import relaunch
from detcore.config import Config, parse_cfg_options
from detcore.engine import distributed
from detcore.engine.check import CheckOptions, check_config, errors_among, launched_processes
from detcore.engine.hooks.prediction_file import PredictionFileHook
from detcore.engine.run_folder import write_run_folder
from detcore.engine.runner import Runner
from detcore.engine.settings import import_named_modules
from detcore.engine.signals import RunInterrupted
from detcore.engine.tta import use_tta
from detcore.errors import ConfigError, DetcoreError
from detcore.plugins import load_user_modules
from detcore.registry.problems import InvalidConfigError


def train(
    *,
    config: str,
    work_dir: str | None,
    resume: str | None,
    amp: bool,
    auto_scale_lr: bool,
    seed: int | None,
    deterministic: bool,
    dry_run: bool,
    gpus: int | None,
    **options: Any,
) -> int:
    """Train as the command line says.

    Returns:
        The exit status.
    """
    if gpus is not None and options["launcher"] is None:
        return relaunch(gpus, sys.argv[1:])
    cfg, overrides = _read(config, work_dir, options)
    if resume is not None:
        cfg["resume"] = "auto" if resume == "auto" else True
        if resume != "auto":
            cfg["load_from"] = resume
    if amp:
        cfg["amp"] = cfg.get("amp") or True
    if auto_scale_lr:
        cfg["auto_scale_lr"] = {**(cfg.get("auto_scale_lr") or {}), "enable": True}
    randomness = dict(cfg.get("randomness") or {})
    if seed is not None:
        randomness["seed"] = seed
    if deterministic:
        randomness["deterministic"] = True
    cfg["randomness"] = randomness
    if dry_run:
        return _dry_run(cfg, trust=options["trust_config"])
    began = _Began()
    return _finished(lambda: _train(cfg, overrides, began, trust=options["trust_config"]), began)


def test(
    *,
    config: str,
    checkpoint: str,
    work_dir: str | None,
    out: str | None,
    show_dir: str | None,
    show: bool,
    tta: bool,
    gpus: int | None,
    **options: Any,
) -> int:
    """Evaluate as the command line says.

    Returns:
        The exit status.
    """
    if out is not None and Path(out).suffix.lower() != ".json":
        raise ConfigError(
            f"--out {out}: predictions are written as JSON (never pickled); name the file *.json"
        )
    if gpus is not None and options["launcher"] is None:
        return relaunch(gpus, sys.argv[1:])
    cfg, _ = _read(config, work_dir, options)
    cfg["load_from"], cfg["resume"] = checkpoint, False
    if tta:
        use_tta(cfg)
    if show_dir is not None or show:
        _draw(cfg, show_dir, show)
    return _finished(lambda: _test(cfg, out, trust=options["trust_config"]), _Began())


class _Began:
    """Whether training steps were made; decides between "nothing was trained" and "could not go on"."""

    def __init__(self) -> None:
        self.runner: Runner | None = None

    def __bool__(self) -> bool:
        return self.runner is not None and self.runner.began


def _read(config: str, work_dir: str | None, options: dict[str, Any]) -> tuple[Config, dict[str, Any]]:
    overrides = parse_cfg_options((*options["cfg_options"], *options["more"]))
    if options["plugin"]:
        load_user_modules(files=options["plugin"], trusted=True)  # naming them here is the trust
    cfg = Config.fromfile(config, trust=options["trust_config"], cfg_options=overrides)
    for key in ("device", "launcher"):
        if options[key] is not None:
            cfg[key] = options[key]
    if work_dir is not None:
        cfg["work_dir"] = work_dir
    return cfg, overrides


def _check(cfg: Config, modes: Sequence[str], *, trust: bool, files: bool = True) -> None:
    """What `detcore check` finds stops the run here, before anything is built.

    The runner checks again what its parts need, for those who start it from Python; it logs the warnings.
    """
    import_named_modules(cfg, trust=trust)
    options = CheckOptions(files=files, networks=False, processes=launched_processes(cfg))
    errors = errors_among(check_config(cfg, modes, options))
    if errors:
        raise InvalidConfigError(errors)


def _train(cfg: Config, overrides: dict[str, Any], began: _Began, *, trust: bool) -> int:
    _check(cfg, ("train", "val"), trust=trust)
    runner = began.runner = Runner.from_cfg(cfg, trust=trust)
    write_run_folder(runner, command=sys.argv, overrides=overrides)
    runner.train()
    return 0


def _dry_run(cfg: Config, *, trust: bool) -> int:
    from detcore.engine.dry_run import make_dry

    _check(cfg, ("train", "val"), trust=trust, files=False)  # what is not there will be drawn
    with tempfile.TemporaryDirectory(prefix="detcore-dry-run-") as folder:
        for note in make_dry(cfg, Path(folder)):
            click.echo(note)
        runner = Runner.from_cfg(cfg, trust=trust)
        status = _finished(lambda: 0 if runner.train() is not None else 1, _Began())
        logging.shutdown()
    if status == 0:
        click.echo("dry run: one step and one evaluation went through")
    return status


def _test(cfg: Config, out: str | None, *, trust: bool) -> int:
    _check(cfg, ("test",), trust=trust)
    runner = Runner.from_cfg(cfg, trust=trust, modes=("test",))
    if out is not None:
        runner.register_hook(PredictionFileHook(out))
    metrics = runner.test()
    if runner.rank == 0:
        click.echo(table(metrics) if metrics else "no figures: the evaluator only wrote the predictions")
        if out is not None:
            click.echo(f"predictions: {out}")
    return 0


def _draw(cfg: Config, show_dir: str | None, show: bool) -> None:
    hooks = dict(cfg.get("default_hooks") or {})
    hook = {"type": "DetVisualizationHook", **(hooks.get("visualization") or {}), "draw": True, "show": show}
    if show_dir is not None:
        hook["test_out_dir"] = str(Path(show_dir).absolute())
    hooks["visualization"] = hook
    cfg["default_hooks"] = hooks
    if cfg.get("visualizer") is None:
        cfg["visualizer"] = {"type": "DetLocalVisualizer"}


def _finished(body: Callable[[], int], began: _Began) -> int:
    """The exit status of ``body``; among several processes this is the end of this one."""
    try:
        status = body()
    except RunInterrupted as stop:
        status = int(str(stop.code))
    except DetcoreError as error:
        if not began and not distributed.is_distributed():
            raise
        click.echo(f"error: {error}", err=True)
        status = 3 if began and not isinstance(error, ConfigError) else 2
    except Exception:
        if not distributed.is_distributed():
            raise
        traceback.print_exc()
        status = 1
    distributed.finish(status)
    return status


def table(metrics: dict[str, Any]) -> str:
    """Figures under one another, names left, numbers right."""
    rows: Sequence[tuple[str, str]] = [
        (name, f"{value:.4f}" if isinstance(value, float) else str(value)) for name, value in metrics.items()
    ]
    wide, long = max(len(name) for name, _ in rows), max(len(value) for _, value in rows)
    return "\n".join(f"{name:<{wide}}  {value:>{long}}" for name, value in rows)
