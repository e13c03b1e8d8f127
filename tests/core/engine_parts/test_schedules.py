"""Schedules against values that mmengine 0.10.7 produced, and the exactness of their resumption."""

import copy
import math

import pytest
import torch

from detcore.engine.checkpoint.plain import to_plain
from detcore.engine.optim import OptimWrapper
from detcore.engine.schedules import build_schedules
from detcore.errors import CheckpointError, ConfigError
from detcore.registry import PARAM_SCHEDULERS

EPOCH = 4  # iterations; every curve below is 4 epochs long

# Learning rate of the first group at each iteration.
CURVES = {
    "warm-up by iteration, then milestones by epoch": (
        "SGD",
        [0.02],
        [
            {"type": "LinearLR", "start_factor": 0.001, "by_epoch": False, "begin": 0, "end": 7},
            {
                "type": "MultiStepLR",
                "by_epoch": True,
                "milestones": [2, 3],
                "gamma": 0.1,
                "begin": 0,
                "end": 4,
            },
        ],
        [
            2e-05,
            0.00335,
            0.00668,
            0.01001,
            0.01334,
            0.01667,
            0.02,
            0.02,
            0.002,
            0.002,
            0.002,
            0.002,
            0.0002,
            0.0002,
            0.0002,
            0.0002,
        ],
    ),
    "warm-up, then a cosine converted to iterations": (
        "AdamW",
        [0.001],
        [
            {"type": "LinearLR", "start_factor": 1e-5, "by_epoch": False, "begin": 0, "end": 4},
            {
                "type": "CosineAnnealingLR",
                "eta_min_ratio": 0.05,
                "begin": 1,
                "end": 4,
                "T_max": 3,
                "by_epoch": True,
                "convert_to_iter_based": True,
            },
        ],
        [
            1e-08,
            0.00033334,
            0.00066667,
            0.001,
            0.001,
            0.000983814767487307,
            0.000936362066797608,
            0.00086087572106361,
            0.0007625,
            0.000647939046423697,
            0.000525,
            0.000402060953576303,
            0.0002875,
            0.00018912427893639,
            0.000113637933202392,
            6.61852325126926e-05,
        ],
    ),
    "quadratic warm-up, cosine, constant tail": (
        "SGD",
        [0.01, 0.02],
        [
            {
                "type": "QuadraticWarmupLR",
                "by_epoch": True,
                "begin": 0,
                "end": 1,
                "convert_to_iter_based": True,
            },
            {
                "type": "CosineAnnealingLR",
                "eta_min": 0.0005,
                "begin": 1,
                "T_max": 2,
                "end": 3,
                "by_epoch": True,
                "convert_to_iter_based": True,
            },
            {"type": "ConstantLR", "by_epoch": True, "factor": 1, "begin": 3, "end": 4},
        ],
        [
            0.000625,
            0.0025,
            0.005625,
            0.01,
            0.01,
            0.00963842777942861,
            0.0086087572106361,
            0.00706774630373418,
            0.00525,
            0.00343225369626582,
            0.0018912427893639,
            0.000861572220571388,
            0.000861572220571388,
            0.000861572220571388,
            0.000861572220571388,
            0.000861572220571388,
        ],
    ),
    "a polynomial by epoch and a constant by iteration at once": (
        "SGD",
        [0.02],
        [
            {"type": "PolyLR", "power": 0.9, "eta_min": 1e-4, "begin": 0, "end": 4, "by_epoch": True},
            {"type": "ConstantLR", "factor": 0.1, "by_epoch": False, "begin": 2, "end": 5},
        ],
        [
            0.02,
            0.02,
            0.002,
            0.002,
            0.013915637936966,
            0.013915637936966,
            0.013915637936966,
            0.013915637936966,
            0.0075036170544249,
            0.0075036170544249,
            0.0075036170544249,
            0.0075036170544249,
            0.0001,
            0.0001,
            0.0001,
            0.0001,
        ],
    ),
    "restarts and an exponential": (
        "AdamW",
        [0.001],
        [
            {
                "type": "CosineRestartLR",
                "periods": [5, 6],
                "restart_weights": [1, 0.5],
                "eta_min": 1e-5,
                "by_epoch": False,
            },
            {"type": "ExponentialLR", "gamma": 0.9, "by_epoch": True, "begin": 1},
        ],
        [
            0.001,
            0.000905463412215599,
            0.000657963412215599,
            0.000352036587784401,
            0.000104536587784401,
            0.0005,
            0.000467176223927188,
            0.0003775,
            0.0002295,
            0.00011975,
            3.94074238693157e-05,
            3.94074238693157e-05,
            3.54666814823841e-05,
            3.54666814823841e-05,
            3.54666814823841e-05,
            3.54666814823841e-05,
        ],
    ),
    "one cycle": (
        "SGD",
        [0.02],
        [{"type": "OneCycleLR", "eta_max": 0.1, "total_steps": 16, "by_epoch": False}],
        [
            0.004,
            0.0194904845619644,
            0.055963808582672,
            0.0898787444510269,
            0.0999213410655278,
            0.0971941777387523,
            0.0907780803357892,
            0.0811745653949763,
            0.069134295081568,
            0.0555984014122702,
            0.0416249223360078,
            0.0283060998208699,
            0.0166830043717154,
            0.00766415938342564,
            0.00195452608620941,
            4e-07,
        ],
    ),
}
BETAS = [
    0.9,
    0.8997996829802929,
    0.8992292283715436,
    0.8983754827167503,
    0.8973684210526316,
    0.8963613593885129,
    0.8955076137337196,
    0.8949371591249703,
    0.8949371591249703,
    0.8989358754065201,
    0.9103232559457568,
    0.9273656752824433,
    0.9474685795624851,
    0.9675714838425269,
    0.9846139031792135,
    0.9960012837184502,
]


def wrapper(kind="SGD", rates=(0.02,), **settings):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": rate} for rate in rates]
    extra = {"momentum": 0.9} if kind == "SGD" else {}
    return OptimWrapper(getattr(torch.optim, kind)(groups, **{**extra, **settings}))


def run(optim, schedules, steps, start=0, read=lambda optim: optim.param_groups[0]["lr"]):
    values = []
    for i in range(start, start + steps):
        values.append(read(optim))
        schedules.step_iteration()
        if (i + 1) % EPOCH == 0:
            schedules.step_epoch()
    return values


@pytest.mark.parametrize("name", CURVES)
def test_composed_curves_are_those_of_the_reference(name):
    kind, rates, configs, expected = CURVES[name]
    optim = wrapper(kind, rates)
    got = run(optim, build_schedules(copy.deepcopy(configs), optim, epoch_length=EPOCH), 16)
    assert got == pytest.approx(expected, rel=1e-9, abs=0)


def test_momentum_schedules_move_adams_first_beta():
    configs = [
        {
            "type": "CosineAnnealingMomentum",
            "T_max": 8,
            "eta_min": 0.85 / 0.95,
            "begin": 0,
            "end": 8,
            "by_epoch": False,
        },
        {
            "type": "CosineAnnealingMomentum",
            "T_max": 8,
            "eta_min": 1,
            "begin": 8,
            "end": 16,
            "by_epoch": False,
        },
    ]
    optim = wrapper("AdamW", [0.001])
    got = run(optim, build_schedules(configs, optim), 16, read=lambda o: o.param_groups[0]["betas"][0])
    assert got == pytest.approx(BETAS, rel=1e-9, abs=0)
    assert optim.param_groups[0]["betas"][1] == 0.999


def test_momentum_schedules_move_sgds_momentum():
    optim = wrapper()
    build_schedules({"type": "ConstantMomentum", "factor": 0.5, "by_epoch": False}, optim)
    assert optim.get_momentum() == {"momentum": [0.45]}


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("kill_at", [1, 5, 8, 13])
def test_a_resumed_schedule_goes_on_with_the_same_bits(name, kill_at):
    kind, rates, configs, _ = CURVES[name]
    optim = wrapper(kind, rates)
    schedules = build_schedules(copy.deepcopy(configs), optim, epoch_length=EPOCH)
    run(optim, schedules, kill_at)
    saved = to_plain({"optim": optim.state_dict(), "schedules": schedules.state_dict()})
    rest = run(optim, schedules, 16 - kill_at, start=kill_at)
    fresh = wrapper(kind, rates)
    resumed = build_schedules(copy.deepcopy(configs), fresh, epoch_length=EPOCH)
    fresh.load_state_dict(saved["optim"])
    resumed.load_state_dict(saved["schedules"])
    assert run(fresh, resumed, 16 - kill_at, start=kill_at) == rest


def test_the_base_rate_is_scheduled_beside_the_groups():
    optim = wrapper("SGD", [0.02, 0.002], lr=0.5)
    build_schedules({"type": "ConstantLR", "factor": 0.5}, optim)
    assert optim.get_lr() == {"lr": [0.01, 0.001], "base_lr": [0.25]}


def test_plateau_lowers_the_rate_after_patience_and_keeps_its_counters():
    def build():
        optim = wrapper()
        cfg = {
            "type": "ReduceOnPlateauLR",
            "monitor": "coco/bbox_mAP",
            "rule": "greater",
            "factor": 0.5,
            "patience": 1,
            "cooldown": 1,
        }
        return optim, build_schedules(cfg, optim)

    optim, schedules = build()
    seen = []
    for value in (0.1, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2):
        schedules.step_epoch()
        schedules.step_validation({"coco/bbox_mAP": value})
        seen.append(optim.get_lr()["lr"][0])
    assert seen == [0.02, 0.02, 0.02, 0.01, 0.01, 0.01, 0.005]
    again, resumed = build()
    again.load_state_dict(optim.state_dict())
    resumed.load_state_dict(schedules.state_dict())
    assert resumed.state_dict() == schedules.state_dict()
    with pytest.raises(ConfigError, match=r"waits for 'coco/bbox_mAP'; there are loss"):
        schedules.step_validation({"loss": 1.0})


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        ({"type": "LinearLR", "begin": 5, "end": 5}, "end must be larger than begin"),
        ({"type": "LinearLR", "start_factor": 2.0}, "start_factor must be between 0 and 1"),
        ({"type": "LinearLR", "strat_factor": 0.1}, r"(?s)param_scheduler\[0\].*strat_factor.*start_factor"),
        ({"type": "LinaerLR"}, r"(?s)param_scheduler\[0\].*LinearLR"),
        ({"type": "QuadraticWarmupLR"}, "give `end`"),
        ({"type": "CosineAnnealingLR", "T_max": 3, "eta_min": 0.1, "eta_min_ratio": 0.1}, "not both"),
        ({"type": "CosineRestartLR", "periods": [1, 2], "eta_min": 0}, "2 periods, but 1 restart_weights"),
        ({"type": "MultiStepLR", "milestones": "8"}, "milestones must be a list"),
        ({"type": "StepLR", "step_size": 0}, "step_size"),
        (
            {"type": "OneCycleLR", "eta_max": 0.1, "total_steps": 4, "anneal_strategy": "cosine"},
            "anneal_strategy",
        ),
        ({"type": "ReduceOnPlateauLR", "factor": 1.5}, "factor < 1"),
        ({"type": "LinearLR", "convert_to_iter_based": True, "by_epoch": False}, "needs by_epoch=True"),
        ({"type": "LinearLR", "convert_to_iter_based": True, "strat": 1}, "strat"),
        ("LinearLR", "must be a dict, got str"),
    ],
)
def test_wrong_settings_are_named(cfg, words):
    with pytest.raises(ConfigError, match=words):
        build_schedules([cfg], wrapper(), epoch_length=EPOCH)


def test_conversion_needs_the_length_of_an_epoch():
    with pytest.raises(ConfigError, match="iterations in an epoch"):
        build_schedules({"type": "LinearLR", "convert_to_iter_based": True}, wrapper())


def test_momentum_schedules_refuse_optimisers_without_momentum():
    with pytest.raises(ConfigError, match="neither momentum nor betas"):
        build_schedules({"type": "LinearMomentum"}, wrapper("Adagrad"))


def test_another_number_of_schedules_than_saved_is_refused():
    with pytest.raises(CheckpointError, match="2 schedules were saved, the config has 1"):
        build_schedules({"type": "ConstantLR"}, wrapper()).load_state_dict([{}, {}])


def test_a_users_own_schedule_takes_part():
    from detcore.engine.schedules import ParamScheduler

    class HalveLR(ParamScheduler):
        def __init__(self, optimizer, **kwargs):
            super().__init__(optimizer, "lr", **kwargs)

        def _get_value(self):
            return [value / 2 for value in self.get_last_value()]

    PARAM_SCHEDULERS.register_module(module=HalveLR)
    optim = wrapper()
    schedules = build_schedules([{"type": "HalveLR", "by_epoch": False}], optim)
    assert run(optim, schedules, 3) == [0.01, 0.005, 0.0025]


def test_a_cosine_reaches_its_bottom_and_comes_back():
    optim = wrapper()
    schedules = build_schedules(
        {"type": "CosineAnnealingLR", "T_max": 4, "eta_min": 0.0, "by_epoch": False}, optim
    )
    got = run(optim, schedules, 9)
    expected = [0.02 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(9)]
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-12)
