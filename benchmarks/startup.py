"""What installed plugins cost: `detcore --help`, and a whole `detcore run` that uses none of them.

    python benchmarks/startup.py [--repeats 21] [--runs 7] [--plugins 4 1000]

Each process is started afresh; the figures are medians. The plugins are installed layouts in a scratch
folder, none of which may be imported for the help; of those that a run meets, one is broken. A run is a dry
one of the quickstart's config. It takes seconds, and varies by more than a thousand plugins cost; so a clock
runs while the run is inside the plugin host, and processor seconds of whole runs, in turns with and without
the plugins, stand beside it. Of these torch needs most: it looks through all installed distributions for
backends of its own while it is imported.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUDGETS = {4: 0.12, 1000: 0.15}  # plugins -> seconds
RUN_BUDGET = 0.02  # seconds that all plugins together may cost a run
CONFIG = "detcore::shapes/retinanet_r18_fpn_shapes.py"
PLUGIN = """\
from detcore.plugins import hookimpl
DETCORE_API = 1

@hookimpl
def detcore_components(components):
    components.add("models", "Net", "{package}.net:Net")
"""
# Runs a command with a clock around every question to the plugin host, but for what it imports then.
CLOCKED = """\
import sys, time
from detcore.cli.main import main
from detcore.plugins.host import PluginHost, _Loader

clock = sys.argv.pop(1)
spent, depth = 0.0, 0

def clocked(function):
    def call(*args, **kwargs):
        global spent, depth
        depth += 1
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            depth -= 1
            if depth == 0:
                spent += time.perf_counter() - start
    return call

for name, value in list(vars(PluginHost).items()):
    if callable(value) and not name.startswith("_"):
        setattr(PluginHost, name, clocked(value))

def load(self, load=_Loader.load):  # plugins that are used are not what is measured
    global spent
    start = time.perf_counter()
    try:
        load(self)
    finally:
        if not self.record.scope.startswith("made"):
            spent -= time.perf_counter() - start

_Loader.load = load
try:
    main()
finally:
    with open(clock, "w") as file:
        print(spent, file=file)
"""


def install(folder: Path, number: int, source: str = PLUGIN) -> None:
    """Write one plugin with its metadata."""
    package = f"det_made{number}"
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    (folder / package / "plugin.py").write_text(source.format(package=package))
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: det-made{number}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[detcore.plugins]\nmade{number} = {package}.plugin\n")


def environment(folder: Path) -> dict[str, str]:
    """Of a process that sees the plugins in a folder, and remembers what is installed beside it."""
    return {**os.environ, "PYTHONPATH": str(folder), "DETCORE_CACHE": f"{folder}-cache"}


def seconds(command: list[str], folder: Path, repeats: int) -> float:
    """Median wall time of a process."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run(command, env=environment(folder), stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])  # the first one may still write bytecode


def run_once(folder: Path) -> tuple[float, float]:
    """Seconds inside the host, and processor seconds of the whole process, of one `detcore run`."""
    script, clock = folder.with_name("clocked.py"), folder.with_name("clock")
    script.write_text(CLOCKED)
    command = [sys.executable, str(script), str(clock), "run", CONFIG, "--dry-run"]
    used = processor_seconds(command, folder)
    return float(clock.read_text()), used


def processor_seconds(command: list[str], folder: Path) -> float:
    """Processor time of a process, the kernel's included."""
    before = os.times()
    subprocess.run(
        command, env=environment(folder), cwd=folder.parent, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


def compare_runs(folder: Path, without: Path, repeats: int) -> bool:
    """Print what the plugins in a folder cost a run; whether it is more than the budget."""
    for place in (without, folder):
        shutil.rmtree(f"{place}-cache", ignore_errors=True)
    time.sleep(2.5)  # what was written a moment ago is not remembered
    first = {place: run_once(place) for place in (without, folder)}
    pairs = [(run_once(without), run_once(folder)) for _ in range(repeats)]
    inside = statistics.median(many[0] - none[0] for none, many in pairs)
    whole = statistics.median(many[1] - none[1] for none, many in pairs)
    spread = statistics.pstdev(none[1] for none, _ in pairs)
    torch = [sys.executable, "-c", "import torch"]
    of_torch = statistics.median(
        processor_seconds(torch, folder) - processor_seconds(torch, without) for _ in range(repeats)
    )
    anew = first[folder][0] - first[without][0]
    print("detcore run, of plugins that it does not use, one of them broken:")
    print(f"  {'in the plugin host':<32}{inside * 1000:>19.1f}{RUN_BUDGET * 1000:>11.0f}")
    print(f"  {'the first time after installing':<32}{anew * 1000:>19.1f}")
    print(f"  {'processor time of the process':<32}{whole * 1000:>19.1f}   (without: +-{spread * 1000:.0f})")
    print(f"  {'  of which: import torch':<32}{of_torch * 1000:>19.1f}")
    return inside > RUN_BUDGET


def main() -> int:
    """Print the table; status 1 if a budget is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--plugins", type=int, nargs="+", default=sorted(BUDGETS))
    options = parser.parse_args()
    script = str(Path(sys.executable).with_name("detcore"))
    one_lookup = "from detcore.plugins import host; host().table('made0')"
    slow = False
    print(f"{'command':<34}{'plugins':>8}{'median ms':>11}{'budget ms':>11}")
    for count in options.plugins:
        with tempfile.TemporaryDirectory() as name:
            folder, none = Path(name) / "plugins", Path(name) / "none"
            folder.mkdir()
            none.mkdir()
            for number in range(count):
                install(folder, number, "1 / 0\n" if number == count - 1 else PLUGIN)
            time.sleep(2.5)  # what was written a moment ago is not remembered
            rows = {
                "python -c pass": [sys.executable, "-c", "pass"],
                "python -c 'import click'": [sys.executable, "-c", "import click"],
                "detcore --help": [script, "--help"],
                "python: load the one scope named": [sys.executable, "-c", one_lookup],
            }
            for label, command in rows.items() if options.repeats else ():
                took = seconds(command, folder, options.repeats)
                budget = BUDGETS.get(count) if label == "detcore --help" else None
                slow |= budget is not None and took > budget
                shown = f"{budget * 1000:.0f}" if budget is not None else ""
                print(f"{label:<34}{count:>8}{took * 1000:>11.1f}{shown:>11}")
            slow |= compare_runs(folder, none, options.runs) if options.runs else False
    return int(slow)


if __name__ == "__main__":
    sys.exit(main())
