"""Hooks, loops, schedules, optimisers, evaluators and receivers take what the reference's take."""

import pytest
from det_mmdet.names import NOT_YET, reason, reference_names

from detcore import registry
from detcore.engine.optim import build_optim_wrapper
from detcore.engine.schedules import build_schedules
from detcore.errors import ConfigError
from detcore.registry import PARAM_SCHEDULERS
from detcore.registry.lookup import NameNotFoundError
from detcore.registry.signatures import parameters_of

REGISTRIES = {
    "evaluators": registry.EVALUATORS,
    "hooks": registry.HOOKS,
    "log_processors": registry.LOG_PROCESSORS,
    "loops": registry.LOOPS,
    "metrics": registry.METRICS,
    "models": registry.MODELS,
    "optim_wrapper_constructors": registry.OPTIM_WRAPPER_CONSTRUCTORS,
    "optim_wrappers": registry.OPTIM_WRAPPERS,
    "optimizers": registry.OPTIMIZERS,
    "param_schedulers": registry.PARAM_SCHEDULERS,
    "runners": registry.RUNNERS,
    "visbackends": registry.VISBACKENDS,
}
AVERAGES = ("ExpMomentumEMA", "ExponentialMovingAverage", "MomentumAnnealingEMA", "StochasticWeightAverage")
OF_THE_CORE = ("DumpResults", "DumpDetResults", "DumpProposals")
# Names that are not there, by the reason that a config is told; the rest of these registries is.
ABSENT = {
    "tracking and re-identification": {"TrackVisualizationHook"},
    "guided by language": {"GroundingVisualizationHook"},
    "Ascend": {"NPUProfilerHook"},
    "do not change their shape": {"RFSearchHook"},
    "base of all optimisers": {"Optimizer"},
    "another training framework": {
        "ApexOptimWrapper", "ColossalAIOptimWrapper", "DeepSpeedOptimWrapper", "DeepSpeedCPUAdam",
        "FlexibleRunner", "FusedAdam", "FusedLamb", "OnebitAdam", "OnebitLamb", "ZeroOneAdam",
    },
    NOT_YET: {"Lion"},
}  # fmt: skip
SEMI_SUPERVISED = ("MeanTeacherHook", "TeacherStudentValLoop")  # parts of a plugin of its own
# Runner is given a whole config; the star of CheckpointHook hands arguments on to nobody.
EXCEPTIONS = {"Runner": None, "CheckpointHook": {"*"}, "EMAHook": {"*"}}


def named():
    """``(registry, name, arguments of the reference or None)`` of the registries above."""
    for package, kind, name, takes in reference_names():
        if kind not in REGISTRIES or not name[0].isupper() or name in SEMI_SUPERVISED:
            continue  # what is not in capitals is a variable of their sources
        if (kind == "models" and name not in AVERAGES) or (kind == "metrics" and name not in OF_THE_CORE):
            continue
        yield pytest.param(kind, name, takes, id=f"{package}.{name}")


NAMED = list(named())


def test_the_reference_is_not_empty():
    assert {"mmdet.YOLOXModeSwitchHook", "mmengine.ProfilerHook", "mmengine.PolyMomentum"} <= {
        param.id for param in NAMED
    }
    assert len(NAMED) > 90


@pytest.mark.parametrize(("kind", "name", "takes"), NAMED)
def test_a_name_of_the_reference_takes_its_arguments_or_tells_why_it_is_not_there(kind, name, takes):
    told = next((words for words, names in ABSENT.items() if name in names), None)
    if told is not None:
        assert told in reason(name)
        with pytest.raises(NameNotFoundError, match=name):
            REGISTRIES[kind].get(f"mmengine.{name}")
        return
    known = parameters_of(REGISTRIES[kind].get(name))
    allowed = EXCEPTIONS.get(name, set())
    if takes is not None and allowed is not None:
        assert set(takes) - set(known.slots) - allowed == set()


@pytest.mark.parametrize("scope", ["mmdet", "mmengine"])
def test_names_mean_the_same_under_openmmlabs_scopes(scope):
    for name in ("PipelineSwitchHook", "SyncBuffersHook", "ProfilerHook"):
        assert registry.HOOKS.get(f"{scope}.{name}") is registry.HOOKS.get(name)
    found = registry.OPTIM_WRAPPER_CONSTRUCTORS.get(f"{scope}.LearningRateDecayOptimizerConstructor")
    assert found.__name__ == "LearningRateDecayOptimizerConstructor"


@pytest.fixture
def optim():
    from torch import nn

    return build_optim_wrapper(nn.Linear(2, 2), {"optimizer": {"type": "SGD", "lr": 1.0, "momentum": 0.9}})


CONVERTED = {
    "LinearLR": {"start_factor": 0.5, "end": 2},
    "MultiStepLR": {"milestones": [1, 3]},
    "CosineAnnealingLR": {"T_max": 4},
    "StepMomentum": {"step_size": 2},
    "QuadraticWarmupLR": {"end": 2},
    "CosineRestartLR": {"periods": [2, 2], "restart_weights": [1, 0.5], "eta_min": 0},
    "OneCycleLR": {"eta_max": 1.0, "total_steps": 4},
}


@pytest.mark.parametrize("name", CONVERTED)
def test_a_schedule_that_is_converted_to_iterations_checks_cleanly_and_is_built_by_the_run(name, optim):
    cfg = {"type": name, "convert_to_iter_based": True, **CONVERTED[name]}
    assert PARAM_SCHEDULERS.check({**cfg, "optimizer": None}) == []
    (schedule,) = build_schedules(cfg, optim, epoch_length=5)
    assert not schedule.by_epoch
    with pytest.raises(ConfigError, match="how long an epoch is"):
        PARAM_SCHEDULERS.build(cfg, optimizer=optim)
