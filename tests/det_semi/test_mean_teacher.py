"""The teacher follows the student, once a step, whatever the config lists."""

import copy
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from det_semi.mean_teacher import MeanTeacher, MeanTeacherHook
from detcore.engine.hooks import Hook
from detcore.engine.runner import Runner
from detcore.errors import ConfigError, TrainingError


def pair():
    student = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    teacher = copy.deepcopy(student)
    with torch.no_grad():
        for tensor in [*student.parameters(), *student.buffers()]:
            if tensor.is_floating_point():
                tensor.uniform_(1, 2)
            else:
                tensor.fill_(7)
    return student, teacher


def after(step):
    return SimpleNamespace(step=step)


@pytest.mark.parametrize("skip_buffer", [False, True])
def test_weights_move_by_the_momentum_and_buffers_where_wanted(skip_buffer):
    student, teacher = pair()
    before = copy.deepcopy(teacher.state_dict())
    MeanTeacher(student, teacher, momentum=0.25, skip_buffer=skip_buffer).update(after(0))
    theirs, now = student.state_dict(), teacher.state_dict()
    for name, value in now.items():
        buffer = "running" in name or "tracked" in name
        if buffer and skip_buffer:
            expected = before[name]
        elif not value.is_floating_point():
            expected = theirs[name]
        else:
            expected = 0.75 * before[name] + 0.25 * theirs[name]
        torch.testing.assert_close(value, expected)


def test_only_every_interval_th_step_counts():
    student, teacher = pair()
    update = MeanTeacher(student, teacher, momentum=0.5, interval=3).update
    before = copy.deepcopy(teacher.state_dict())
    for step in (0, 1):
        update(after(step))
        assert torch.equal(teacher[0].weight, before["0.weight"])
    update(after(2))
    assert not torch.equal(teacher[0].weight, before["0.weight"])


def test_a_student_that_is_not_finite_leaves_the_teacher_alone():
    student, teacher = pair()
    before = copy.deepcopy(teacher.state_dict())
    student[0].weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        MeanTeacher(student, teacher).update(after(0))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("settings", [{"momentum": 0}, {"momentum": 1.0}, {"momentum": -1}, {"interval": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ConfigError):
        MeanTeacher(*pair(), **settings)


def teachers_after(cfg):
    runner = Runner(cfg)
    runner.train()
    return runner.model.teacher.state_dict(), runner


def test_forgetting_the_hook_changes_nothing_and_naming_it_does_not_update_twice(training):
    forgotten, runner = teachers_after(training("forgotten"))
    named, _ = teachers_after(training("named", custom_hooks=[{"type": "semi.MeanTeacherHook"}]))
    faster, _ = teachers_after(
        training("faster", custom_hooks=[{"type": "semi.MeanTeacherHook", "momentum": 0.5}])
    )
    assert all(torch.equal(forgotten[name], value) for name, value in named.items())
    assert any(not torch.equal(forgotten[name], value) for name, value in faster.items())
    assert len(runner.state.after_update) == 1


class Students(Hook):
    """Remembers one weight of the student after each step, and of the teacher before the first."""

    def before_train(self, runner):
        self.students = []
        self.teacher_before = runner.model.teacher.neck.lateral_convs[0].conv.weight.detach().clone()

    def after_train_iter(self, runner, **_):
        self.students.append(runner.model.student.neck.lateral_convs[0].conv.weight.detach().clone())


def test_the_update_is_the_one_by_hand(training):
    cfg = training("one", custom_hooks=[{"type": "semi.MeanTeacherHook", "momentum": 0.1}])
    cfg["train_cfg"]["max_iters"] = 2
    runner = Runner(cfg)
    spy = Students()
    runner.register_hook(spy)
    runner.train()
    expected = spy.teacher_before
    for student in spy.students:
        expected = 0.9 * expected + 0.1 * student
    torch.testing.assert_close(runner.model.teacher.neck.lateral_convs[0].conv.weight, expected)


def test_the_hook_says_what_it_needs():
    runner = SimpleNamespace(model=nn.Linear(1, 1))
    with pytest.raises(ConfigError, match=r"teacher and a student.*Linear"):
        MeanTeacherHook().before_train(runner)


def test_stale_averages_of_batch_norms_are_warned_of(caplog):
    student, teacher = pair()
    with caplog.at_level(logging.WARNING):
        MeanTeacher(student, teacher, skip_buffer=True).warn_of_stale_buffers()
    assert "skip_buffer=False" in caplog.text
    caplog.clear()
    MeanTeacher(student, teacher).warn_of_stale_buffers()
    MeanTeacher(student.eval(), teacher, skip_buffer=True).warn_of_stale_buffers()
    assert not caplog.text
