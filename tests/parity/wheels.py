"""The reference software in a cache folder: MMDetection, mmengine with what it needs, mmcv, MMPretrain.

    python tests/parity/wheels.py        fetches what is missing, with pip

The folder is ``.parity_cache/`` in the repository, or ``DETCORE_PARITY_CACHE``. Nothing is installed:
processes that need the reference get its folders by ``PYTHONPATH``.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WHEELS = {
    "mmdet": ["--no-deps", "mmdet==3.3.0"],
    "mmengine": ["--no-deps", "mmengine==0.10.7"],
    "mmcv": ["--no-deps", "mmcv-lite==2.1.0"],
    "mmpretrain": ["--no-deps", "mmpretrain==1.2.0"],
    # What mmengine's Config imports; its pkg_resources left setuptools with version 81.
    "needs": ["addict", "yapf", "termcolor", "pyyaml", "rich", "setuptools<80"],
}


@dataclass(frozen=True)
class Wheels:
    """Folders with unpacked wheels, each to be put on the path: ``wheels.mmdet / 'mmdet'`` is the package."""

    mmdet: Path
    mmengine: Path
    mmcv: Path
    mmpretrain: Path
    needs: Path

    @property
    def configs(self) -> Path:
        """The configs of MMDetection."""
        return self.mmdet / "mmdet" / ".mim" / "configs"

    def environment(self, *folders: Path) -> dict[str, str]:
        """The environment of a process that sees these folders; one thread, so that CPU seconds compare."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"}


def cache() -> Path:
    """The folder that the wheels are kept in."""
    return Path(os.environ.get("DETCORE_PARITY_CACHE", ROOT / ".parity_cache"))


def find() -> Wheels | None:
    """The wheels, if all of them are there."""
    found = {name: cache() / name for name in WHEELS}
    return Wheels(**found) if all(path.is_dir() for path in found.values()) else None


def fetch() -> Wheels:
    """The wheels, fetched where they are missing.

    Raises:
        OSError: pip cannot fetch one.
    """
    for name, wanted in WHEELS.items():
        target = cache() / name
        if target.is_dir():
            continue
        unfinished = target.with_name(f"{name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*command, "--no-compile", "--target", str(unfinished), *wanted],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise OSError(f"pip cannot fetch {wanted[-1]}: {done.stderr.strip().splitlines()[-1:]}")
        unfinished.rename(target)
    return Wheels(**{name: cache() / name for name in WHEELS})


if __name__ == "__main__":
    fetch()
    print(f"The reference software lies in {cache()}.")
