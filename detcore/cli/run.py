"""``detcore run CONFIG``: train and validate what a config says."""
from typing import Any

import click

STATUS = """Exit status: 0 when the training is complete. 2 when the config, the data or the command line is
wrong; nothing was trained. 3 when the training could not go on, for example because a loss was not finite or
the disk is full; the last checkpoint stays. 128 + N when signal N ended it after it had saved: 143 SIGTERM,
130 Ctrl-C, 138 SIGUSR1. A second signal ends it at once."""


@click.command(epilog=STATUS)
@click.argument("config")
@click.option("--work-dir", metavar="DIR", help="Gets checkpoints and logs [work_dirs/<name of the config>].")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="auto",
    metavar="[auto|FILE]",
    help="Go on exactly where a checkpoint was saved: the newest in the work folder (auto; starts afresh "
    "where there is none), or FILE.",
)
@click.option("--cfg-options", multiple=True, metavar="KEY=VALUE...", help="Change settings of the config.")
@click.option("--amp", is_flag=True, help="Mixed precision: float16 on a GPU, bfloat16 on the CPU.")
@click.option("--auto-scale-lr", is_flag=True, help="Scale the learning rate to this run's batch size.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of everything random.")
@click.option("--deterministic", is_flag=True, help="Only operations that give the same result every time.")
@click.option("--device", help="cpu, cuda, cuda:1 [the first GPU, else the CPU].")
@click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="Start N processes on this machine.")
@click.option(
    "--launcher",
    type=click.Choice(["none", "pytorch", "slurm"]),
    help="Who started this process: nobody, torchrun, or srun.",
)
@click.option(
    "--dry-run", is_flag=True, help="One step and one evaluation, on made-up data if there is none."
)
@click.option("--trust-config", is_flag=True, help="Run the config, and modules that it names, as Python.")
@click.option(
    "--plugin", multiple=True, metavar="FILE", help="A Python file of yours that registers components."
)
@click.argument("more", nargs=-1, metavar="")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Train and validate what CONFIG says; `detcore::retinanet/...` is a config that comes with detcore."""
    from detcore.cli import _run

    ctx.exit(_run.train(**options))
