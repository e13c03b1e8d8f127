"""How long `detcore --help` takes with few and with many plugins installed.

    python benchmarks/startup.py [--repeats 21] [--plugins 4 1000]

Each process is started afresh; the figures are medians. The plugins are installed layouts in a scratch
folder, none of which may be imported for the help.
"""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUDGETS = {4: 0.12, 1000: 0.15}  # plugins -> seconds
PLUGIN = """\
from detcore.plugins import hookimpl
DETCORE_API = 1

@hookimpl
def detcore_components(components):
    components.add("models", "Net", "{package}.net:Net")
"""


def install(folder: Path, number: int) -> None:
    """Write one plugin with its metadata."""
    package = f"det_made{number}"
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    (folder / package / "plugin.py").write_text(PLUGIN.format(package=package))
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: det-made{number}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[detcore.plugins]\nmade{number} = {package}.plugin\n")


def seconds(command: list[str], folder: Path, repeats: int) -> float:
    """Median wall time of a process."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one may still write bytecode


def main() -> int:
    """Print the table; status 1 if a budget is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--plugins", type=int, nargs="+", default=sorted(BUDGETS))
    options = parser.parse_args()
    script = str(Path(sys.executable).with_name("detcore"))
    one_lookup = "from detcore.plugins import host; host().table('made0')"
    slow = False
    print(f"{'command':<34}{'plugins':>8}{'median ms':>11}{'budget ms':>11}")
    for count in options.plugins:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for number in range(count):
                install(folder, number)
            rows = {
                "python -c pass": [sys.executable, "-c", "pass"],
                "python -c 'import click'": [sys.executable, "-c", "import click"],
                "detcore --help": [script, "--help"],
                "python: load the one scope named": [sys.executable, "-c", one_lookup],
            }
            for label, command in rows.items():
                took = seconds(command, folder, options.repeats)
                budget = BUDGETS.get(count) if label == "detcore --help" else None
                slow |= budget is not None and took > budget
                shown = f"{budget * 1000:.0f}" if budget is not None else ""
                print(f"{label:<34}{count:>8}{took * 1000:>11.1f}{shown:>11}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
