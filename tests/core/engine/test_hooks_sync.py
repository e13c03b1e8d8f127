"""Hooks that bring the buffers of two processes together."""
import socket

import pytest
import torch

from detcore.engine.checkpoint import load_checkpoint

STATISTICS = ("norm.running_mean", "norm.running_var")


@pytest.fixture
def two(detcore, toy_file):
    """The state of each of two processes after one pass with a hook, and the folder of the run."""

    def run(name, *hooks, evaluate):
        config = toy_file(
            name,
            model={"dropout": 0.0},
            train_cfg={"max_epochs": 1, "val_interval": 1, "val_begin": 1 if evaluate else 9},
            custom_hooks=[{"type": "EMAHook", "momentum": 0.1}, {"type": "ParametersHook"}, *hooks],
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        status = detcore("run", config, "--trust-config", "--launcher", "pytorch", processes=2, port=port)
        assert status == 0, detcore.output
        folder = config.with_suffix("")
        return [torch.load(folder / f"rank_{rank}.pt", weights_only=True)["state"] for rank in (0, 1)], folder

    return run


def test_statistics_are_averaged_over_the_processes_when_each_hook_says_so(two):
    (first, second), _ = two("plain", evaluate=True)
    assert not torch.equal(first[STATISTICS[0]], second[STATISTICS[0]])
    mean = {name: ((first[name].double() + second[name].double()) / 2).float() for name in STATISTICS}

    synced, folder = two("buffers", {"type": "SyncBuffersHook"}, evaluate=False)
    for rank in synced:
        for name in STATISTICS:
            torch.testing.assert_close(rank[name], mean[name])
        assert torch.equal(rank["norm.num_batches_tracked"], first["norm.num_batches_tracked"])
        assert torch.equal(rank["conv.weight"], first["conv.weight"])
    saved = load_checkpoint(folder / "epoch_1.pth")
    torch.testing.assert_close(saved["state_dict"][STATISTICS[0]], mean[STATISTICS[0]])  # the average's, too

    normed, _ = two("norm", {"type": "SyncNormHook"}, evaluate=True)
    assert torch.equal(normed[0][STATISTICS[0]], normed[1][STATISTICS[0]])
    torch.testing.assert_close(normed[0][STATISTICS[0]], mean[STATISTICS[0]])
    idle, _ = two("norm_idle", {"type": "SyncNormHook"}, evaluate=False)
    assert not torch.equal(idle[0][STATISTICS[0]], idle[1][STATISTICS[0]])
