import inspect
import logging

import pytest

from detcore import hookspecs
from detcore.errors import PluginError
from detcore.plugins import Observers

OBSERVER = """
    from detcore.plugins import hookimpl
    DETCORE_API = 1

    @hookimpl
    def run_started(state):
        print("{package} started", state)

    @hookimpl
    def step_finished(report):
        print("{package} step", report)

    @hookimpl
    def evaluation_finished(metrics, state):
        print("{package}", state, metrics)

    @hookimpl
    def checkpoint_saved(path):
        print("{package} saved", path)

    @hookimpl
    def run_ended(reason):
        print("{package}", reason)
"""


def test_observers_of_all_allowed_plugins_are_called_in_the_order_of_their_scopes(site):
    for scope in ("b", "a", "off"):
        site.plugin(scope, OBSERVER)
    seen = site.output("""
        from detcore.plugins import observers
        seen = observers()
        seen.run_started(state=1)
        seen.step_finished(state=1, report="r")
        seen.evaluation_finished(state=1, metrics={"AP": 0.5})
        seen.checkpoint_saved(state=1, path="p")
        seen.run_ended(state=1, reason="finished")
    """, DETCORE_DISABLE_PLUGINS="off")
    lines = ["started 1", "step r", "1 {'AP': 0.5}", "saved p", "finished"]
    assert seen.splitlines() == [f"det_{scope} {line}" for line in lines for scope in "ab"]


def test_every_hook_is_documented_and_every_observer_hook_can_be_called():
    import pluggy

    manager = pluggy.PluginManager("detcore")
    manager.add_hookspecs(hookspecs)
    specs = {name: getattr(hookspecs, name) for name in vars(manager.hook) if not name.startswith("_")}
    tables = {"detcore_components", "detcore_commands", "detcore_checkpoints"}
    assert {*specs} == {*tables, *hookspecs.OBSERVER_HOOKS}
    for name, spec in specs.items():
        assert spec.__doc__, name
    for name in hookspecs.OBSERVER_HOOKS:
        arguments = [*inspect.signature(specs[name]).parameters]
        assert [*inspect.signature(getattr(Observers([]), name)).parameters] == arguments


def test_a_broken_plugin_does_not_keep_the_others_from_observing(site):
    site.plugin("a", "1 / 0")
    site.plugin("b", OBSERVER)
    assert site.output("""
        from detcore.plugins import observers
        observers().run_ended(state=1, reason="failed")
    """) == "det_b failed\n"


def observers(calls, *, strict=False):
    def fails(state):
        calls.append("bad")
        raise OSError("disk full")

    def works(state):
        calls.append("good")

    found = [("bad", "run_started", fails, ("state",)), ("bad", "run_ended", fails, ("state",)),
             ("good", "run_started", works, ("state",)), ("good", "run_ended", works, ("state",))]
    return Observers(found, strict=strict)


def test_a_failing_observer_is_reported_once_and_left_out_from_then_on(caplog):
    calls = []
    made = observers(calls)
    with caplog.at_level(logging.WARNING):
        made.run_started(state=1)
        made.run_ended(state=1, reason="finished")
    assert calls == ["bad", "good", "good"]
    assert [record.message for record in caplog.records] == [
        "observer 'run_started' of plugin 'bad' failed and is left out from now on: OSError: disk full"]


def test_strict_makes_a_failing_observer_an_error():
    with pytest.raises(PluginError, match="observer 'run_started' of plugin 'bad' failed: disk full"):
        observers([], strict=True).run_started(state=1)


def test_without_observers_it_is_false_and_calls_nothing():
    made = Observers([])
    assert not made
    made.step_finished(state=1, report=2)
    assert observers([])
