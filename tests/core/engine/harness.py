"""Runs the command line many times for the price of one import: reads jobs, forks a process for each.

A job is a JSON line with ``arguments``, ``limit`` (seconds), ``output`` (a file) and, where it shall be
disturbed, ``kill_after`` (seconds), ``signal`` and ``group``; with ``processes`` and ``port`` it is one run
of several processes. The answer is a JSON line ``{"status": N}``,
negative when signal -N ended it.
"""
import json
import os
import signal
import sys
import time

from detcore.cli import _run  # what the children need is imported once, here
from detcore.cli.main import main
from detcore.data import DetDataLoader
from detcore.engine.runner import Runner

assert all((_run, DetDataLoader, Runner))


def child(job, rank=None):
    if rank is not None:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(job["processes"]),
            LOCAL_WORLD_SIZE=str(job["processes"]),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(job["port"]),
        )
    out = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.setpgid(0, 0)
    os.environ.update(job.get("environment") or {})
    try:
        main(job["arguments"], standalone_mode=True)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def wait(pid, job):
    begin, killed = time.monotonic(), False
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        passed = time.monotonic() - begin
        if job.get("kill_after") is not None and passed > job["kill_after"] and not killed:
            (os.killpg if job.get("group") else os.kill)(pid, job.get("signal", signal.SIGKILL))
            killed = True
        if passed > job["limit"]:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return os.waitstatus_to_exitcode(status)


for line in sys.stdin:
    request = json.loads(line)
    ranks = range(request["processes"]) if "processes" in request else [None]
    pids = []
    for rank in ranks:
        pid = os.fork()
        if pid == 0:
            child(request, rank)
        pids.append(pid)
    statuses = [wait(pid, request) for pid in pids]
    print(json.dumps({"status": next((status for status in statuses if status), 0)}), flush=True)
