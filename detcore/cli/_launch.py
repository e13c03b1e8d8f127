"""Starts a command again in several processes, through torchrun."""
import signal
from collections.abc import Sequence

import click


def relaunch(processes: int, arguments: Sequence[str]) -> int:
    """Run ``detcore`` with the same arguments in several processes of this machine.

    Args:
        processes: How many.
        arguments: The command line after the program's name; ``--gpus`` is taken out.

    Returns:
        The exit status of the process that failed first; 0 if none did.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    given = [*_without_gpus(arguments), "--launcher", "pytorch"]
    try:
        main(["--standalone", f"--nproc-per-node={processes}", "-m", "detcore", *given])
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        click.echo(
            f"process {failure.local_rank} of {processes} ended with status {failure.exitcode}", err=True
        )
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except SignalException as error:
        return 128 + int(signal.Signals(error.sigval))
    return 0


def _without_gpus(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    skip = False
    for argument in arguments:
        if skip or argument.startswith("--gpus="):
            skip = False
        elif argument == "--gpus":
            skip = True
        else:
            kept.append(argument)
    return kept
