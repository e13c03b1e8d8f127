"""The folder of a run's checkpoints: the newest good one is found, and never deleted."""

import random
import shutil

import pytest
import torch

from detcore.engine.checkpoint import CheckpointFolder, load_checkpoint, save_checkpoint
from detcore.errors import CheckpointError


def content(step):
    return {"meta": {"iter": step}, "w": torch.tensor([float(step)])}


def names(folder):
    return sorted(p.name for p in folder.work_dir.iterdir() if p.suffix == ".pth")


def damage(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_an_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    for path in (tmp_path, tmp_path / "not_there"):
        folder = CheckpointFolder(path)
        assert folder.newest_good() is None
        assert folder.load_newest_good() is None
        assert folder.best is None
        assert folder.last is None
        assert folder.prune(1) == []


def test_the_newest_is_by_steps_done_whatever_the_name_and_the_time_of_the_file(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for name, step in (
        ("iter_30.pth", 30),
        ("epoch_1.pth", 20),
        ("epoch_2.pth", 40),
        ("epoch_10.pth", 200),
        ("iter_9.pth", 9),
    ):
        folder.save(name, content(step))
    shutil.copy(tmp_path / "iter_30.pth", tmp_path / "copy")
    (tmp_path / "copy").rename(tmp_path / "iter_30.pth")
    assert [p.name for p in folder.regular()] == [
        "epoch_10.pth",
        "epoch_2.pth",
        "iter_30.pth",
        "epoch_1.pth",
        "iter_9.pth",
    ]
    path, loaded = folder.load_newest_good()
    assert (path.name, loaded["meta"]["iter"]) == ("epoch_10.pth", 200)
    assert folder.last == tmp_path / "iter_9.pth"


def test_best_published_and_unnumbered_files_are_no_regular_checkpoints(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for name, step in (
        ("best_coco_bbox_mAP_epoch_3.pth", 3),
        ("best_coco_bbox_mAP_epoch_5.pth", 5),
        ("epoch_2-published-0a1b2c34.pth", 9),
        ("resnet.pth", 99),
        ("epoch_2.pth", 2),
    ):
        save_checkpoint(tmp_path / name, content(step))
    (tmp_path / "epoch_77.pth").mkdir()
    assert [p.name for p in folder.regular()] == ["epoch_2.pth"]
    assert folder.best.name == "best_coco_bbox_mAP_epoch_5.pth"


def test_a_damaged_number_of_steps_cannot_hide_a_damaged_file(tmp_path, caplog):
    folder = CheckpointFolder(tmp_path)
    good = folder.save("iter_40.pth", content(40))
    bad = folder.save("iter_60.pth", content(60))
    raw = bad.read_bytes()
    bad.write_bytes(raw.replace(b"step=000000000060", b"step=000000000020"))
    assert folder.newest_good() == good
    assert "iter_60.pth" in caplog.text


def test_where_all_are_damaged_nothing_starts_afresh_silently(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        damage(folder.save(f"iter_{step}.pth", content(step)))
    with pytest.raises(CheckpointError, match=r"(?s)no checkpoint in .* is whole.*iter_2\.pth.*iter_1\.pth"):
        folder.newest_good()


def test_pruning_keeps_the_newest_the_protected_and_the_best(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save("epoch_1.pth", content(1), protect=True)
    for step in range(2, 7):
        folder.save(f"epoch_{step}.pth", content(step))
    save_checkpoint(tmp_path / "best_mAP_epoch_2.pth", content(2))
    assert sorted(p.name for p in folder.prune(2, protect=["epoch_3.pth"])) == ["epoch_2.pth", "epoch_4.pth"]
    assert names(folder) == [
        "best_mAP_epoch_2.pth",
        "epoch_1.pth",
        "epoch_3.pth",
        "epoch_5.pth",
        "epoch_6.pth",
    ]
    assert folder.prune(-1) == []


def test_pruning_spares_the_newest_good_one_even_if_all_that_stay_are_damaged(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in range(1, 5):
        folder.save(f"epoch_{step}.pth", content(step))
    damage(tmp_path / "epoch_4.pth")
    damage(tmp_path / "epoch_3.pth")
    folder.prune(1)
    assert names(folder) == ["epoch_2.pth", "epoch_4.pth"]
    assert folder.newest_good().name == "epoch_2.pth"


def test_pruning_does_not_touch_what_is_not_ours(tmp_path):
    torch.save(content(1), tmp_path / "epoch_12.pth")
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2, 3):
        folder.save(f"epoch_{step}.pth", content(step))
    folder.prune(1)
    assert names(folder) == ["epoch_12.pth", "epoch_3.pth"]


@pytest.mark.parametrize("seed", range(40))
def test_after_any_sequence_of_saves_damages_and_prunings_the_newest_good_one_is_there(tmp_path, seed):
    chance = random.Random(seed)
    folder, good, step = CheckpointFolder(tmp_path), {}, 0
    for _ in range(15):
        action = chance.choice(["save", "save", "damage", "prune"])
        if action == "save":
            step += 1
            name = f"{chance.choice(['epoch', 'iter'])}_{step}.pth"
            folder.save(name, content(step))
            good[name] = step
        elif action == "damage" and len(good) > 1:
            name = chance.choice(sorted(good))
            damage(tmp_path / name)
            del good[name]
        elif action == "prune":
            best = max(good, key=good.get, default=None)
            folder.prune(chance.randint(1, 3))
            good = {name: value for name, value in good.items() if (tmp_path / name).exists()}
            assert best is None or best in good
        if good:
            newest = max(good, key=good.get)
            assert folder.newest_good().name == newest
            assert load_checkpoint(tmp_path / newest, require_checksum=True)["meta"]["iter"] == good[newest]


def test_leftovers_of_processes_that_are_gone_are_removed_at_the_next_save(tmp_path):
    import os
    import socket

    host = socket.gethostname()
    gone, alive, elsewhere = (
        tmp_path / f".a.pth.{place}.tmp" for place in (f"{host}-4194304", f"{host}-{os.getppid()}", "other-5")
    )
    for path in (gone, alive, elsewhere):
        path.write_bytes(b"half")
    CheckpointFolder(tmp_path).save("epoch_1.pth", content(1))
    assert [p.exists() for p in (gone, alive, elsewhere)] == [False, True, True]


def test_only_the_main_process_changes_the_folder(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        folder.save(f"epoch_{step}.pth", content(step))
    monkeypatch.setattr("detcore.engine.checkpoint.folder.is_main", lambda: False)
    folder.save("epoch_3.pth", content(3))
    folder.prune(1)
    folder.remove("epoch_1.pth")
    assert names(folder) == ["epoch_1.pth", "epoch_2.pth"]
