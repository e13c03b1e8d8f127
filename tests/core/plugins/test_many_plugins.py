"""A machine full of plugins, and a package from a real build."""
import subprocess
import sys
import textwrap

import pytest


@pytest.fixture
def crowded(site):
    for number in range(1000):
        package = f"det_crowd{number}"
        site.distribution(f"det-crowd{number}", {f"crowd{number}": f"{package}.plugin"}, {})
    site.plugin("good")
    return site


def test_help_reads_no_plugin_among_a_thousand(crowded):
    seen = crowded.output("""
        import sys
        sys.argv = ["detcore", "--help"]
        from detcore.cli.main import main
        try:
            main()
        except SystemExit:
            heavy = {"torch", "numpy", "cv2", "importlib_metadata", "pluggy", "rich"}
            print(sorted({name.partition(".")[0] for name in sys.modules} & heavy))
            print([name for name in sys.modules if name.startswith("det_")])
    """)
    assert seen.splitlines()[-2:] == ["[]", "[]"]


def test_naming_one_scope_among_a_thousand_imports_one_plugin(crowded):
    seen = crowded.output("""
        import sys
        from detcore.plugins import host
        from detcore.registry import MODELS
        print(MODELS.get("good.Thing").__name__, len(host().scopes()) > 1000)
        print([name for name in sys.modules if name.startswith("det_")])
    """)
    assert seen.splitlines() == ["Thing True", "['det_good', 'det_good.plugin', 'det_good.parts']"]


PROJECT = """
    [build-system]
    requires = ["hatchling"]
    build-backend = "hatchling.build"

    [project]
    name = "det-built"
    version = "4.5"

    [project.entry-points."detcore.plugins"]
    built = "det_built.plugin"
"""


def test_a_package_that_pip_builds_and_installs_is_found(site, tmp_path):
    project = tmp_path / "project"
    (project / "det_built").mkdir(parents=True)
    (project / "pyproject.toml").write_text(textwrap.dedent(PROJECT))
    sources = type(site)(tmp_path / "sources")
    sources.plugin("built")
    for path in (sources.folder / "det_built").glob("*.py"):
        path.rename(project / "det_built" / path.name)
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps",
               "--no-index", "--disable-pip-version-check", "--target", str(target), str(project)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    done = site.detcore("plugins", "list", PYTHONPATH=str(target), DETCORE_PLUGINS="built")
    assert "built        det-built 4.5              loaded   1 components" in done.stdout
