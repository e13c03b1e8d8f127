"""Two processes are one run: the same weights in both, and the loss of one process with the whole batch."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detcore.engine import distributed
from detcore.errors import TrainingError

WORKER = Path(__file__).with_name("ddp_worker.py")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SLURM = (
    "SLURM_PROCID",
    "SLURM_NTASKS",
    "SLURM_LOCALID",
    "SLURM_NODELIST",
    "SLURM_STEP_NODELIST",
    "SLURM_JOB_ID",
    "SLURM_STEP_TASKS_PER_NODE",
    "SLURM_NTASKS_PER_NODE",
)


@pytest.fixture(scope="module")
def worker():
    spec = importlib.util.spec_from_file_location("ddp_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two gloo processes saw."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "LOCAL_WORLD_SIZE": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, WORKER, folder],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ends = [process.communicate(timeout=90) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for rank, (process, (out, err)) in enumerate(zip(processes, ends, strict=True)):
        assert process.returncode == 0, err
        assert out == f"done {rank}\n"
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_both_processes_hold_equal_weights_and_the_loss_is_that_of_the_whole_batch(
    results, worker, accumulate
):
    first, second = results
    assert first[f"weights_{accumulate}"] == second[f"weights_{accumulate}"]
    assert first[f"losses_{accumulate}"] == second[f"losses_{accumulate}"]
    state, losses = worker.train(accumulate, slice(0, 4))
    assert first[f"losses_{accumulate}"] == pytest.approx(losses, rel=1e-5)
    for name, value in state.model.state_dict().items():
        got = torch.tensor(first[f"weights_{accumulate}"][name])
        torch.testing.assert_close(got, value.flatten(), rtol=1e-4, atol=1e-6)


def test_processes_know_their_places(results):
    assert [(r["world_size"], r["main"]) for r in results] == [(2, True), (2, False)]
    assert [r["order"] for r in results] == ["01", "01"]


def test_bytes_of_any_length_reach_everyone_in_the_order_of_ranks(results):
    expected = [["", "x" * 1000], ["", ""], ['{"rank": 0}', '{"rank": 1}']]
    assert [r["bytes"] for r in results] == [expected, expected]


def test_means_and_seeds_are_the_same_everywhere(results):
    assert [r["mean"] for r in results] == [{"a": 0.5}] * 2
    assert results[0]["seed"] == results[1]["seed"]
    assert [r["given_seed"] for r in results] == [7, 7]


def test_entries_that_differ_between_processes_are_named_in_both(results):
    for result in results:
        assert "process 0: loss_0; process 1: loss_1" in result["mismatch"]


def test_the_random_state_of_every_process_is_captured(results):
    assert all(r["rng_is_mine"] and r["rng_differs"] for r in results)


@pytest.mark.slow
def test_torchrun_starts_the_processes(tmp_path):
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        WORKER,
        tmp_path,
    ]
    done = subprocess.run(
        command, timeout=120, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["0.json", "1.json"]


def test_alone_everything_is_the_identity(tmp_path):
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather_bytes(b"abc") == [b"abc"]
    assert distributed.reduce_mean({"a": torch.tensor(2.0), "b": torch.tensor(3)}) == {"a": 2.0, "b": 3.0}
    assert distributed.reduce_mean({}) == {}
    kept = torch.tensor([1.5, 2.0])
    distributed.average_in_place([kept])
    assert kept.tolist() == [1.5, 2.0]
    assert distributed.broadcast_seed(5) == 5
    assert 0 <= distributed.broadcast_seed() < 2**31
    model = nn.Linear(1, 1)
    assert distributed.wrap_model(model) is model
    assert distributed.unwrap_model(model) is model
    with distributed.main_first():
        distributed.barrier()
    distributed.finish()
    assert distributed.init_from_environment("none").type in ("cpu", "cuda")


def test_a_module_that_happens_to_be_called_module_is_not_unwrapped():
    model = nn.Module()
    model.module = nn.Linear(1, 1)
    assert distributed.unwrap_model(model) is model


@pytest.fixture
def clean_environment(monkeypatch):
    """No launcher's variables, and no process group at the end of it all."""
    for name in (*VARIABLES, *SLURM):
        monkeypatch.setenv(name, "x")  # so that what the code under test sets is taken back
        monkeypatch.delenv(name)
    joined = []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda backend, **_: joined.append(backend))
    return joined


def test_missing_variables_of_a_launcher_are_named(clean_environment):
    with pytest.raises(TrainingError, match=r"RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT.*torchrun"):
        distributed.init_from_environment("pytorch")
    with pytest.raises(TrainingError, match=r"SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID.*srun"):
        distributed.init_from_environment("slurm")
    with pytest.raises(TrainingError, match=r"OMPI_COMM_WORLD_RANK.*mpirun"):
        distributed.init_from_environment("mpi")
    with pytest.raises(TrainingError, match="'k8s' is unknown; available: none, pytorch, slurm, mpi"):
        distributed.init_from_environment("k8s")


def test_open_mpis_variables_become_torchruns(clean_environment, monkeypatch):
    for name, value in {"RANK": "3", "SIZE": "4", "LOCAL_RANK": "3", "LOCAL_SIZE": "4"}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    distributed.init_from_environment("mpi", "gloo")
    assert clean_environment == ["gloo"]
    assert [os.environ[name] for name in VARIABLES] == ["3", "4", "3", "4", "127.0.0.1", "29500"]


def test_slurms_variables_become_torchruns(clean_environment, monkeypatch):
    for name, value in {
        "SLURM_PROCID": "5",
        "SLURM_NTASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_JOB_ID": "123456",
        "SLURM_NODELIST": "gpu[003-004]",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    }.items():
        monkeypatch.setenv(name, value)
    distributed.init_from_environment("slurm", "gloo")
    assert clean_environment == ["gloo"]
    assert [os.environ[name] for name in VARIABLES] == [
        "5",
        "8",
        "1",
        "4",
        "gpu003",
        str(20000 + 123456 % 20000),
    ]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu1", "gpu1"),
        ("gpu1,gpu2", "gpu1"),
        ("gpu[003-007,9],cpu1", "gpu003"),
        ("n[1,5-6]-ib", "n1-ib"),
        ("a-b-[12]", "a-b-12"),
    ],
)
def test_the_first_of_slurms_nodes_is_found(nodes, first):
    assert distributed.first_slurm_node(nodes) == first
