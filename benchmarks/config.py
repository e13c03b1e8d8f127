"""What reading a config costs: evaluation of shipped files, and overrides, writing and copying.

    python benchmarks/config.py [--repeat N] [--max-ms 10]

Each line is the median of N runs after a first one; the first read of a process is shown beside it. With
`--max-ms` the exit status is 1 where the five-file config takes longer.
"""
import argparse
import copy
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from detcore.config import Config, parse_cfg_options

FIVE_FILES = "detcore::retinanet/retinanet_r50_fpn_1x_coco.py"
SEVEN_FILES = "detcore::retinanet/retinanet_r101_fpn_8xb8-amp-lsj-200e_coco.py"
OPTIONS = ["model.backbone.depth=101", "train_pipeline.2.scale=(640,480)", "data_root=/data/coco/"]
FIRST_READ = (
    "import time; from detcore.config import Config; start = time.perf_counter();"
    f"Config.fromfile({FIVE_FILES!r}); print(1e3 * (time.perf_counter() - start))"
)


def milliseconds(work: Callable[[], object], repeat: int) -> float:
    work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times)


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--repeat", type=int, default=50)
    parser.add_argument("--max-ms", type=float)
    arguments = parser.parse_args()

    config = Config.fromfile(FIVE_FILES)
    text = config.pretty_text
    rows = {
        "read a config of 5 files": lambda: Config.fromfile(FIVE_FILES),
        "read a config of 7 files": lambda: Config.fromfile(SEVEN_FILES),
        "read the same as one file": lambda: Config.fromstring(text),
        "read 5 files with 3 overrides": lambda: Config.fromfile(
            FIVE_FILES, cfg_options=parse_cfg_options(OPTIONS)
        ),
        "write it as Python": lambda: config.pretty_text,
        "deep copy": lambda: copy.deepcopy(config),
    }
    measured = {name: milliseconds(work, arguments.repeat) for name, work in rows.items()}
    first = float(subprocess.run([sys.executable, "-c", FIRST_READ], check=True, capture_output=True).stdout)
    width = max(map(len, rows))
    for name, value in measured.items():
        print(f"{name:{width}}  {value:7.2f} ms")
    print(f"{'first read of a process, 5 files':{width}}  {first:7.2f} ms")
    five = measured["read a config of 5 files"]
    return int(arguments.max_ms is not None and five > arguments.max_ms)


if __name__ == "__main__":
    sys.exit(main())
