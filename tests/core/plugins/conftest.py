"""Throw-away distributions in a scratch site directory, laid out as an installer leaves them."""
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

GOOD = """
    from detcore.plugins import hookimpl
    DETCORE_API = 1

    @hookimpl
    def detcore_components(components):
        components.add("models", "Thing", "{package}.parts:Thing")
"""
PARTS = """
    class Thing:
        pass
"""


class Site:
    """A folder of installed packages that Python processes can be started with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder.with_name(f"{folder.name}-cache")
        folder.mkdir()

    def distribution(
        self, name: str, scopes: Mapping[str, str], files: Mapping[str, str], version: str = "1.0"
    ) -> None:
        """Install ``files`` (path -> source) with entry points ``scopes`` (scope -> module)."""
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        points = "".join(f"{scope} = {module}\n" for scope, module in scopes.items())
        (info / "entry_points.txt").write_text(f"[detcore.plugins]\n{points}")
        for path, source in files.items():
            self.write(path, source)

    def plugin(self, scope: str, source: str = GOOD, *, version: str = "1.0", more: str = "") -> None:
        """Install the distribution ``det-SCOPE`` with package ``det_SCOPE``."""
        package = f"det_{scope}"
        self.distribution(
            f"det-{scope}",
            {scope: f"{package}.plugin"},
            {
                f"{package}/__init__.py": "",
                f"{package}/plugin.py": textwrap.dedent(source).replace("{package}", package) + more,
                f"{package}/parts.py": PARTS,
            },
            version,
        )

    def write(self, path: str, source: str) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(textwrap.dedent(source))
        return target

    def start(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DETCORE_")}
        return subprocess.run(
            [sys.executable, *arguments],
            env={**clean, "PYTHONPATH": str(self.folder), "DETCORE_CACHE": str(self.cache), **environment},
            cwd=self.folder, capture_output=True, text=True, timeout=60, check=False,
        )

    def python(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run code in a fresh process."""
        return self.start("-W", "error", "-c", textwrap.dedent(code), **environment)

    def output(self, code: str, **environment: str) -> str:
        """What the code prints; it must not fail."""
        done = self.python(code, **environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refusal(self, code: str, **environment: str) -> str:
        """The last lines of the error that ends the code."""
        done = self.python(code, **environment)
        assert done.returncode == 1, done.stdout + done.stderr
        return done.stderr

    def detcore(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.start("-m", "detcore", *arguments, **environment)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "site")
