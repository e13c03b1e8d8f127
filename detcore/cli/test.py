"""``detcore test CONFIG CHECKPOINT``: evaluate a checkpoint on the test data."""
from typing import Any

import click


@click.command()
@click.argument("config")
@click.argument("checkpoint")
@click.option("--out", metavar="FILE", help="Write the predictions as JSON.")
@click.option("--show-dir", metavar="DIR", help="Write the images with the predictions drawn.")
@click.option("--show", is_flag=True, help="Show each image in a window.")
@click.option(
    "--tta", is_flag=True, help="Merge predictions of several views of each image (tta_pipeline, tta_model)."
)
@click.option("--work-dir", metavar="DIR", help="Gets the log [work_dirs/<name of the config>].")
@click.option("--cfg-options", multiple=True, metavar="KEY=VALUE...", help="Change settings of the config.")
@click.option("--device", help="cpu, cuda, cuda:1 [the first GPU, else the CPU].")
@click.option("--gpus", type=click.IntRange(min=1), metavar="N", help="Start N processes on this machine.")
@click.option(
    "--launcher",
    type=click.Choice(["none", "pytorch", "slurm"]),
    help="Who started this process: nobody, torchrun, or srun.",
)
@click.option("--trust-config", is_flag=True, help="Run the config, and modules that it names, as Python.")
@click.option(
    "--plugin", multiple=True, metavar="FILE", help="A Python file of yours that registers components."
)
@click.argument("more", nargs=-1, metavar="")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Evaluate CHECKPOINT by test_dataloader and test_evaluator of CONFIG.

    With format_only=True in the evaluator predictions are written for a server that has the truth.
    """
    from detcore.cli import _run

    ctx.exit(_run.test(**options))
