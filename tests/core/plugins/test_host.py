"""The host with real distributions, each test in processes of its own."""
import json
import os

import pytest

from detcore import __version__

CORE = f"detcore {__version__}"
RAISING = """
    from detcore.registry import MODELS

    @MODELS.register_module()
    class Half:
        pass

    raise OSError("no such device")
"""


def test_a_scope_is_imported_when_it_is_named_and_a_component_when_it_is_got(site):
    site.plugin("good")
    site.plugin("other")
    seen = site.output("""
        import sys
        from detcore.registry import MODELS
        mine = lambda: sorted(name for name in sys.modules if name.startswith(("det_good", "det_other")))
        print(mine())
        from detcore.plugins import host
        print([*host().scopes()].count("good"), mine())
        print(host().table("good").names("models"), mine())
        print(MODELS.get("good.Thing"), mine())
    """).splitlines()
    assert seen == [
        "[]",
        "1 []",
        "['Thing'] ['det_good', 'det_good.plugin']",
        "<class 'det_good.parts.Thing'> ['det_good', 'det_good.parts', 'det_good.plugin']",
    ]


class TestIsolation:
    LOOK = """
        from detcore.plugins import host
        from detcore.registry import MODELS
        print(len([record for record in host().load_all() if record.scope in ("bad", "good")]))
        print(MODELS.get("good.Thing").__name__, MODELS.registered_names("bad"))
    """

    def test_a_plugin_that_raises_is_rolled_back_with_one_line_of_warning(self, site):
        site.plugin("bad", RAISING)
        site.plugin("good")
        done = site.python(self.LOOK + "\n        host().load_all()")
        assert done.stdout.splitlines() == ["2", "Thing []"]
        lines = [line for line in done.stderr.splitlines() if "'bad'" in line]
        assert lines == ["plugin 'bad' (det-bad 1.0) cannot be used: OSError: no such device "
                         "(see `detcore plugins doctor`)"]
        assert "Traceback" not in done.stderr

    def test_what_a_failing_hook_had_registered_is_rolled_back(self, site):
        site.plugin("bad", more="""
    components.add("models", "Broken", "no target")
""")
        text = site.refusal("from detcore.registry import MODELS; MODELS.get('bad.Thing')")
        assert "scope 'bad' (det-bad 1.0): 'no target' is not of the form" in text

    def test_naming_a_broken_scope_is_a_hard_error_that_chains_the_original(self, site):
        site.plugin("bad", RAISING)
        for ask in ("MODELS.get('bad.Half')", "MODELS.get('Half', default_scope='bad')",
                    "MODELS.build(dict(type='bad.Half'))"):
            text = site.refusal(f"from detcore.registry import MODELS; {ask}")
            assert "OSError: no such device" in text
            assert "direct cause" in text
            assert "plugin 'bad' (det-bad 1.0) cannot be used: OSError: no such device" in text

    def test_strict_raises_at_once(self, site):
        site.plugin("bad", RAISING)
        text = site.refusal(self.LOOK, DETCORE_STRICT_PLUGINS="1")
        assert "PluginError: plugin 'bad' (det-bad 1.0) cannot be used" in text

    def test_a_plugin_that_exits_at_import_does_not_take_the_host_along(self, site):
        site.plugin("bad", "import sys; sys.exit(3)")
        site.plugin("good")
        assert "Thing" in site.output(self.LOOK)

    def test_a_plugin_that_asks_for_itself_while_it_loads_is_told_so(self, site):
        site.plugin("bad", "from detcore.registry import MODELS; MODELS.get('bad.Thing')")
        text = site.refusal("from detcore.registry import MODELS; MODELS.get('bad.Thing')")
        assert "plugin 'bad' (det-bad 1.0) cannot be used: loading" in text


class TestMetadata:
    @pytest.mark.parametrize("points", [
        b"[detcore.plugins]\nno value\n",
        b"[detcore.plugins]\n\xff = x\n",
        b"[other]\nno value [detcore.plugins]",
    ])
    def test_a_damaged_package_costs_nobody_else(self, site, points):
        site.plugin("good")
        site.distribution("damaged", {}, {})
        (site.folder / "damaged-1.0.dist-info" / "entry_points.txt").write_bytes(points)
        done = site.python("from detcore.registry import MODELS; print(MODELS.get('good.Thing').__name__)")
        assert done.stdout == "Thing\n"
        line, = done.stderr.splitlines()
        assert "damaged-1.0.dist-info cannot be read: " in line
        doctor = site.detcore("plugins", "doctor", "good")
        assert doctor.returncode == 1
        assert "damaged-1.0.dist-info cannot be read" in doctor.stdout

    def test_a_package_without_metadata_is_reported(self, site):
        site.plugin("good")
        (site.folder / "det_good-1.0.dist-info" / "METADATA").unlink()
        assert "det_good-1.0.dist-info cannot be read" in site.detcore("plugins", "list").stderr

    def test_doctor_names_a_plugin_that_imports_torch_too_early(self, site):
        site.write("torch.py", "")
        site.plugin("slow", more="\nimport torch\n")
        done = site.detcore("plugins", "doctor", "slow")
        assert done.returncode == 1
        assert "det_slow.plugin imports torch" in done.stdout


class TestEnvironment:
    SCOPES = """
        from detcore.plugins import host
        print(*[scope for scope in host().scopes() if scope in ("loud", "good")])
        host().load_all()
    """

    def loud(self, site):
        site.plugin("loud", more="\nprint('imported loud')\n")
        site.plugin("good")

    @pytest.mark.parametrize(("environment", "allowed"), [
        ({}, "good loud\nimported loud"),
        ({"DETCORE_DISABLE_PLUGINS": "loud"}, "good"),
        ({"DETCORE_DISABLE_PLUGINS": "x, loud ,good"}, ""),
        ({"DETCORE_DISABLE_PLUGINS": "__all__"}, ""),
        ({"DETCORE_PLUGINS": "good"}, "good"),
        ({"DETCORE_PLUGINS": ""}, ""),
        ({"DETCORE_PLUGINS": "good,loud", "DETCORE_DISABLE_PLUGINS": "loud"}, "good"),
    ])
    def test_lists_are_applied_before_anything_loads(self, site, environment, allowed):
        self.loud(site)
        assert site.output(self.SCOPES, **environment).strip() == allowed

    def test_asking_for_a_disabled_scope_says_why(self, site):
        self.loud(site)
        ask = "from detcore.registry import MODELS; MODELS.get('loud.Thing')"
        text = site.refusal(ask, DETCORE_DISABLE_PLUGINS="loud")
        assert "loud (blocked: disabled by DETCORE_DISABLE_PLUGINS)" in text
        assert "loud (blocked: not listed in DETCORE_PLUGINS)" in site.refusal(ask, DETCORE_PLUGINS="good")

    def test_an_allowed_name_that_is_not_installed_is_told_with_near_names(self, site):
        self.loud(site)
        done = site.python(self.SCOPES, DETCORE_PLUGINS="goood,loud")
        assert "DETCORE_PLUGINS names 'goood', which is not installed; did you mean good?" in done.stderr

    def test_the_core_cannot_be_disabled(self, site):
        code = "from detcore.plugins import host; print(len(host().table('detcore')) > 0)"
        assert site.output(code, DETCORE_DISABLE_PLUGINS="__all__", DETCORE_PLUGINS="").strip() == "True"


class TestVersions:
    ASK = "from detcore.registry import MODELS; MODELS.get('old.Thing')"

    @pytest.mark.parametrize(("api", "message"), [
        ("99", f"det-old 2.3 is written for plugin API 99, {CORE} has 1: pip install --upgrade detcore"),
        ("0", f"det-old 2.3 is written for plugin API 0, {CORE} has 1: pip install --upgrade det-old"),
        ("'1'", "det_old.plugin must state its plugin API version, DETCORE_API = 1; got '1'"),
        ("None", "det_old.plugin must state its plugin API version, DETCORE_API = 1; got None"),
    ])
    def test_the_api_version_is_compared_before_the_plugin_registers(self, site, api, message):
        source = f"""
            from detcore.plugins import hookimpl
            DETCORE_API = {api}

            @hookimpl
            def detcore_components(components):
                print("was asked for its components")
        """
        site.plugin("old", source, version="2.3")
        done = site.python(self.ASK)
        assert message in done.stderr
        assert done.stdout == ""


class TestConflicts:
    def test_two_distributions_that_claim_one_scope_are_both_named_and_neither_loads(self, site):
        site.plugin("shared")
        source = {"rival/plugin.py": "print('imported')"}
        site.distribution("rival", {"shared": "rival.plugin"}, source, "3.1")
        done = site.python("from detcore.registry import MODELS; MODELS.get('shared.Thing')")
        assert "claimed by det-shared 1.0 and rival 3.1; uninstall all but one" in done.stderr
        assert done.stdout == ""

    def test_a_stranger_cannot_take_a_standard_scope(self, site):
        site.distribution("rival", {"models": "rival.plugin"}, {"rival/plugin.py": "print('imported')"})
        done = site.python("from detcore.registry import MODELS; MODELS.get('models.RetinaNet')")
        assert f"det-models {__version__} and rival 1.0" in done.stderr
        assert done.stdout == ""

    @pytest.mark.parametrize(("scope", "message"), [
        ("detcore", "scope 'detcore' is reserved, but det-rival 1.0 claims it"),
        ("a-b", "'a-b' of det-rival 1.0 is no scope"),
    ])
    def test_reserved_and_impossible_scopes_are_refused(self, site, scope, message):
        site.distribution("det-rival", {scope: "rival"}, {"rival.py": "print('imported')"})
        done = site.python("""
            from detcore.plugins import host
            host().load_all()
            print(host().table("detcore").owner)
        """)
        assert message in done.stderr
        assert done.stdout == f"{CORE}\n"

    def test_a_name_twice_in_a_scope_names_both(self, site):
        site.plugin("twice", more="""
    components.add("models", "Thing", "det_twice.other:Thing")
""")
        text = site.refusal("from detcore.registry import MODELS; MODELS.get('twice.Thing')")
        assert "'det_twice.parts:Thing' and 'det_twice.other:Thing'" in text

    def test_an_override_is_listed(self, site):
        site.plugin("over", more="""
    components.add("models", "Thing", "det_over.other:Thing", override=True)
""")
        assert "override: models Thing: det_over.parts:Thing -> det_over.other:Thing" in site.detcore(
            "plugins", "list").stdout


class TestHooks:
    @pytest.mark.parametrize(("source", "message"), [
        ("@hookimpl\ndef detcore_componets(components): pass", "unknown hook 'detcore_componets'"),
        ("@hookimpl\ndef step_finished(state, loss): pass", "step_finished"),
        ("def detcore_components(components): pass", "det_odd.plugin.detcore_components lacks @hookimpl"),
        ("@hookimpl(wrapper=True)\ndef run_started(state):\n    yield", "run_started cannot be a wrapper"),
    ])
    def test_a_hook_that_would_not_be_called_is_an_error(self, site, source, message):
        site.plugin("odd", f"from detcore.plugins import hookimpl\nDETCORE_API = 1\n{source}\n")
        assert message in site.refusal("from detcore.registry import MODELS; MODELS.get('odd.Thing')")

    def test_one_module_can_serve_several_scopes(self, site):
        source = """
            from detcore.plugins import hookimpl
            DETCORE_API = 1

            @hookimpl
            def detcore_components(components):
                components.add("models", components.scope.upper(), "collections:Counter")

            @hookimpl
            def run_started(state):
                print("run started", state)
        """
        site.distribution("many", {"one": "many", "two": "many"}, {"many.py": source})
        seen = site.output("""
            from detcore.plugins import observers
            from detcore.registry import MODELS
            print(MODELS.get("one.ONE") is MODELS.get("two.TWO"))
            observers().run_started(state=3)
        """)
        assert seen.splitlines() == ["True", "run started 3"]


class TestCommands:
    SERVE = """
        from detcore.plugins import hookimpl
        DETCORE_API = 1

        @hookimpl
        def detcore_commands(commands):
            commands.add("serve", "{package}.serve:command", "Serve a model.")
    """
    CLICK = """
        import click
        from detcore.errors import DataError

        @click.command()
        @click.option("--port", type=int, default=1)
        def command(port):
            if port == 0:
                error = DataError("no port")
                error.add_note("while serving")
                raise error
            print("serving on", port)
    """

    def test_plugins_add_commands_that_get_the_same_error_handling(self, site):
        site.plugin("serve", self.SERVE)
        site.write("det_serve/serve.py", self.CLICK)
        only = {"DETCORE_PLUGINS": "serve"}
        assert site.detcore("serve", "--port", "7", **only).stdout == "serving on 7\n"
        done = site.detcore("serve", "--port", "0", **only)
        assert (done.returncode, done.stderr) == (2, "error: no port\n  while serving\n")
        for arguments in (["serve", "--port", "0", "--traceback"], ["--traceback", "serve", "--port", "0"]):
            done = site.detcore(*arguments, **only)
            assert done.returncode == 2
            assert "Traceback (most recent call last)" in done.stderr
            assert done.stderr.endswith("no port\nwhile serving\n")

    def test_two_plugins_with_one_command_are_both_named(self, site):
        site.plugin("serve", self.SERVE)
        site.plugin("also", self.SERVE)
        done = site.detcore("serve")
        assert done.returncode == 2
        assert "also (det-also 1.0) and serve (det-serve 1.0) both offer the command 'serve'" in done.stderr

    def test_an_unknown_command_is_answered_with_the_known_ones(self, site):
        site.plugin("serve", self.SERVE)
        assert "no command 'srve'; did you mean 'serve'?" in site.detcore("srve").stderr


class TestReports:
    def install(self, site):
        site.plugin("good", version="1.2")
        site.plugin("bad", RAISING)
        site.plugin("off")

    def test_list_prints_json_with_status_and_reason(self, site):
        self.install(site)
        done = site.detcore("plugins", "list", "--json", DETCORE_DISABLE_PLUGINS="off")
        found = {each["scope"]: each for each in json.loads(done.stdout)["plugins"]}
        assert found["good"]["distributions"] == [{"name": "det-good", "version": "1.2"}]
        assert found["good"]["components"] == {"models": ["Thing"]}
        assert (found["good"]["status"], found["good"]["api"]) == ("loaded", 1)
        assert (found["bad"]["status"], found["bad"]["reason"]) == ("failed", "OSError: no such device")
        assert (found["off"]["status"], found["off"]["reason"]) == (
            "blocked", "disabled by DETCORE_DISABLE_PLUGINS")
        assert done.stderr == ""

    def test_doctor_keeps_the_traceback_and_ends_with_status_1(self, site):
        self.install(site)
        done = site.detcore("plugins", "doctor", "good", "bad", DETCORE_STRICT_PLUGINS="1")
        assert done.returncode == 1
        assert "good (det-good 1.2): ok" in done.stdout
        assert "bad (det-bad 1.0): failed" in done.stdout
        assert 'det_bad/plugin.py", line' in done.stdout
        assert site.detcore("plugins", "doctor", "good").returncode == 0
        assert "scope 'gone' is not installed" in site.detcore("plugins", "doctor", "gone").stdout

    def test_doctor_notices_a_second_version_that_does_not_count(self, site, tmp_path):
        site.plugin("good", version="1.2")
        older = type(site)(tmp_path / "older")
        older.plugin("good", version="1.1")
        path = f"{site.folder}{os.pathsep}{older.folder}"
        done = site.start("-m", "detcore", "plugins", "doctor", "good", PYTHONPATH=path)
        assert done.returncode == 1
        assert "good (det-good 1.2): ok" in done.stdout
        assert "det-good is installed 2 times, and the first counts: 1.2 in" in done.stdout

    def test_loaded_plugins_are_named_for_logs_and_checkpoints(self, site):
        self.install(site)
        assert site.output("""
            from detcore.plugins import host
            host().table("good"), host().scopes()
            print(host().requirements())
        """) == "{'good': 'det-good==1.2'}\n"

    def test_doctor_can_import_every_component(self, site):
        site.plugin("good", more="""
    components.add("models", "Lost", "det_good.lost:Lost")
""")
        assert site.detcore("plugins", "doctor", "good").returncode == 0
        done = site.detcore("plugins", "doctor", "good", "--imports")
        assert done.returncode == 1
        assert "models Lost: 'det_good.lost:Lost' of scope 'good'" in done.stdout
