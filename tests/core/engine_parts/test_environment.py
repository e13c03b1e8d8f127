"""What ``env_cfg``, ``randomness`` and ``device`` do to a process."""

import os

import cv2
import pytest
import torch

from detcore.engine import distributed
from detcore.engine.environment import prepare_environment
from detcore.errors import ConfigError


@pytest.fixture(autouse=True)
def as_it_was():
    """Put back what a run changes in its process."""
    threads, benchmark = cv2.getNumThreads(), torch.backends.cudnn.benchmark
    deterministic = torch.backends.cudnn.deterministic
    before = dict(os.environ)
    yield
    cv2.setNumThreads(threads)
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = benchmark, deterministic
    torch.use_deterministic_algorithms(False)
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def joined(monkeypatch):
    """What the process group would be joined with."""
    calls = []

    def join(launcher, backend, **settings):
        calls.append((launcher, backend, settings))
        return torch.device("cpu")

    monkeypatch.setattr(distributed, "init_from_environment", join)
    return calls


def test_opencv_has_no_threads_of_its_own_unless_asked(joined):
    cv2.setNumThreads(3)
    prepare_environment({})
    assert cv2.getNumThreads() == 1  # OpenCV calls "none" one
    prepare_environment({"env_cfg": {"mp_cfg": {"opencv_num_threads": 2}}})
    assert cv2.getNumThreads() == 2


def test_cudnn_may_try_algorithms_but_not_in_a_deterministic_run(joined):
    prepare_environment({"env_cfg": {"cudnn_benchmark": True}})
    assert torch.backends.cudnn.benchmark
    prepare_environment({"env_cfg": {"cudnn_benchmark": True}, "randomness": {"deterministic": True}})
    assert not torch.backends.cudnn.benchmark
    assert torch.are_deterministic_algorithms_enabled()


def test_the_process_group_is_joined_as_the_config_says(joined):
    cfg = {"launcher": "pytorch", "env_cfg": {"dist_cfg": {"backend": "gloo", "timeout": 90}}}
    prepare_environment(cfg)
    assert joined == [("pytorch", "gloo", {"timeout_minutes": 1.5})]
    joined.clear()
    prepare_environment({"env_cfg": {"dist_cfg": {"backend": "nccl"}}, "device": "cpu"})
    assert joined == [("none", "gloo", {"timeout_minutes": 30})]


def test_slurms_port_can_be_chosen(joined, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "x")
    prepare_environment({"launcher": "slurm", "env_cfg": {"dist_cfg": {"port": 12345}}})
    assert os.environ["MASTER_PORT"] == "12345"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"timeout": "long"}, "a number of seconds above 0, got 'long'"),
        ({"timeout": 0}, "above 0"),
        ({"init_backend": "deepspeed"}, "process groups are torch's"),
        ({"bakend": "gloo"}, "takes backend, timeout, port, init_backend; got bakend"),
    ],
)
def test_settings_of_the_process_group_that_make_no_sense_are_refused(settings, words, joined):
    with pytest.raises(ConfigError, match=words):
        prepare_environment({"env_cfg": {"dist_cfg": settings}})


def test_more_files_may_be_open_where_that_is_allowed(joined):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lower = min(256, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lower, hard))
        prepare_environment({"env_cfg": {"resource_limit": lower + 100}})
        reached = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        assert reached == (lower + 100 if hard == resource.RLIM_INFINITY else min(lower + 100, hard))
        prepare_environment({"env_cfg": {"resource_limit": lower}})
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == reached  # never lowered
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_seed_of_each_process_may_differ(joined, monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 2)
    assert prepare_environment({"randomness": {"seed": 7, "diff_rank_seed": True}})[1] == 7
    apart = torch.rand(1)
    prepare_environment({"randomness": {"seed": 9}})
    assert torch.equal(apart, torch.rand(1))  # 7 + 2
    with pytest.raises(ConfigError, match="seed, deterministic, diff_rank_seed; got sed"):
        prepare_environment({"randomness": {"sed": 7}})
