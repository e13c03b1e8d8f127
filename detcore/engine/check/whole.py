"""The whole check: asks all questions and gathers the answers."""
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from detcore import plugins
from detcore.engine.check.channels import check_channels
from detcore.engine.check.classes import check_classes
from detcore.engine.check.files import check_files
from detcore.engine.check.helpers import check_helpers
from detcore.engine.check.keys import check_keys, check_shape, old_config
from detcore.engine.check.parts import check_parts
from detcore.engine.check.places import located
from detcore.engine.check.reading import dicts
from detcore.engine.check.schedule import check_schedule
from detcore.engine.settings import RunConfig
from detcore.registry.examine import Examination
from detcore.registry.planning import Planner
from detcore.registry.problems import Problem

MODES = ("train", "val", "test")


@dataclass(frozen=True)
class CheckOptions:
    """What a check looks at.

    Attributes:
        files: Whether files that the config names must be there.
        networks: Whether the backbone may be built, without memory for weights, to learn its channels.
        imports_pending: Whether modules that the config names were not imported.
        processes: How many processes will train.
    """

    files: bool = True
    networks: bool = True
    imports_pending: bool = False
    processes: int = 1


def check_config(
    cfg: RunConfig, modes: Sequence[str] | None = None, options: CheckOptions | None = None
) -> list[Problem]:
    """Everything that is wrong with a config, as far as it can be told without building what it describes.

    Args:
        cfg: The whole config.
        modes: Which of ``train``, ``val``, ``test`` it will be used for; by default those with a dataloader.
        options: What to look at.

    Returns:
        One problem for each mistake, errors before warnings, with file and line where they are known.
    """
    options = options or CheckOptions()
    if modes is None:
        modes = [mode for mode in MODES if cfg.get(f"{mode}_dataloader") is not None]
    old = old_config(cfg)
    if old is not None:
        return located(cfg, [old])
    scope, problems = _scope(cfg)
    used = Counter(kind for kind in _types(cfg) if isinstance(kind, str))
    examination = Examination(used, options.imports_pending)
    planner = Planner(examiner=examination)
    problems += check_keys(cfg, examination.words(""))
    problems += check_shape(cfg, modes)
    check_parts(planner, cfg, modes, scope, examination.words("custom_keys"))
    problems += planner.problems
    problems += check_classes(cfg, modes, scope)
    problems += check_schedule(cfg, modes, scope, options.processes)
    problems += check_helpers(cfg, examination, scope)
    if options.networks and not any(_is_in(problem, "model.backbone") for problem in problems):
        problems += check_channels(cfg, scope)
    if options.files:
        problems += check_files(cfg, modes)
    return located(cfg, problems)


def errors_among(problems: Sequence[Problem]) -> list[Problem]:
    """Those that stop a run."""
    return [problem for problem in problems if problem.severity == "error"]


def launched_processes(cfg: RunConfig) -> int:
    """How many processes the launcher of this one started, before they know of one another."""
    name = "SLURM_NTASKS" if cfg.get("launcher") == "slurm" else "WORLD_SIZE"
    count = os.environ.get(name, "1")
    return int(count) if count.isdigit() else 1


def _scope(cfg: RunConfig) -> tuple[str | None, list[Problem]]:
    """The default scope, and what is wrong with it; nothing is looked up in one that is wrong."""
    scope: Any = cfg.get("default_scope")
    known = ", ".join(plugins.host().scopes())
    if scope is not None and not isinstance(scope, str):
        return None, [Problem("default_scope", f"must be a name, got {scope!r}", f"there are {known}")]
    if scope is None or scope in plugins.host().scopes():
        return scope, []
    text = f"no plugin serves the scope {scope!r}: {plugins.host().describe(scope)}"
    return None, [Problem("default_scope", text, f"there are {known}")]


def _types(cfg: RunConfig) -> list[Any]:
    return [each.get("type") for key in cfg for _, each in dicts(cfg[key], str(key))]


def _is_in(problem: Problem, path: str) -> bool:
    return problem.severity == "error" and f"{problem.path}.".startswith(f"{path}.")
