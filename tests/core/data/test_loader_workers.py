"""Workers that are killed, hang, skip images, or start afresh."""
import os
import signal
from pathlib import Path

import pytest

from detcore.data import build_dataloader
from detcore.errors import DataError


class KillWorker:
    def __call__(self, results):
        if results["sample_idx"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"inputs": results["sample_idx"]}


class Hang:
    def __call__(self, results):
        if results["sample_idx"] == 2:
            signal.pause()
        return {"inputs": results["sample_idx"]}


class Fail:
    def __call__(self, results):
        raise DataError(f"image {results['sample_idx']} is bad")


class Pid:
    def __call__(self, results):
        return {"inputs": os.getpid()}


def loader_of(dataset, **changes):
    cfg = {"batch_size": 1, "num_workers": 1, "prefetch_factor": 1, "persistent_workers": False}
    cfg["dataset"] = dataset
    return build_dataloader({**cfg, **changes}, seed=0)


def alive(pid):
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_killed_worker_is_an_error_that_names_the_sample(tiny_cfg):
    loader = loader_of(tiny_cfg(pipeline=[KillWorker()]))
    with pytest.raises(DataError, match=r"samples 3 .*3\.png.*exited unexpectedly"):
        list(loader)


def test_a_hung_worker_is_noticed_and_leaves_no_process_behind(tiny_cfg):
    loader = loader_of(tiny_cfg(pipeline=[Hang()]), timeout=1)
    batches = iter(loader)
    next(batches)
    next(batches)
    (worker,) = loader._workers
    with pytest.raises(DataError, match=r"samples 2 .*2\.png.*timed out"):
        next(batches)
    assert not alive(worker.pid)


def test_an_error_in_a_worker_keeps_its_type_and_message(tiny_cfg):
    with pytest.raises(DataError, match="image 0 is bad"):
        list(loader_of(tiny_cfg(pipeline=[Fail()])))


def test_workers_outlive_a_sigterm_that_is_meant_for_the_parent(tiny_cfg):
    loader = loader_of(tiny_cfg(pipeline=[Pid()]))
    batches = iter(loader)
    worker = next(batches)["inputs"][0]
    assert worker != os.getpid()
    os.kill(worker, signal.SIGTERM)
    assert [batch["inputs"][0] for batch in batches] == [worker] * 6
    loader.close()
    assert not alive(worker)


def test_persistent_workers_stay_and_others_go(tiny_cfg):
    dataset = tiny_cfg(pipeline=[Pid()])
    stay, change = loader_of(dataset, persistent_workers=True), loader_of(dataset)
    pids = [{batch["inputs"][0] for batch in loader} for loader in (stay, stay, change, change)]
    assert pids[0] == pids[1]
    assert pids[2] != pids[3]
    stay.close()
    assert not any(map(alive, pids[0]))


@pytest.mark.parametrize("workers", [0, 1])
def test_skipped_images_are_counted_over_all_workers_and_reported_once(tiny, tiny_cfg, caplog, workers):
    for number in (1, 4):
        (tiny / "images" / f"{number}.png").unlink()
    (tiny / "images" / "5.png").write_bytes(b"")
    loader = loader_of(tiny_cfg(on_bad_image="skip"), num_workers=workers)
    loaded = [batch["data_samples"][0].img_id for batch in loader]
    assert len(loaded) == 7
    assert not set(loaded) & {1, 4, 5}
    assert loader.skipped["image-missing"] >= 2
    assert loader.skipped["image-empty"] >= 1
    told = [record.getMessage() for record in caplog.records]
    assert sum("image-missing" in text for text in told) == 1
    assert sum("image-empty" in text for text in told) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_started_workers_share_the_annotations_and_give_the_same_batches(tiny_cfg, method):
    def contents(loader):
        batches = [[(s.img_id, s.gt_instances.bboxes.tolist()) for s in b["data_samples"]] for b in loader]
        loader.close()
        return batches

    forked = contents(loader_of(tiny_cfg()))
    started = loader_of(tiny_cfg(), multiprocessing_context=method)
    assert contents(started) == forked
    assert not started.dataset.table.boxes.flags.owndata  # moved to the block that the workers look at
