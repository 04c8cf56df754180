"""A damaged newest checkpoint costs the steps since the one before, never the run, and never passes unseen."""

import logging
import shutil

import pytest
import torch
from test_training import StoppedError, flow_task, latents, losses, stage, stop_after

from mugv.errors import UserError
from mugv.training.checkpoint_writer import checkpoints
from mugv.training.engine import all_parameters
from mugv.training.loop import fit

assert latents  # the fixture


@pytest.fixture(scope="module")
def cut(latents, tmp_path_factory):
    """A run that was stopped after step 5 of 6: checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("cut")
    with pytest.raises(StoppedError):
        fit(flow_task(latents, stage()), folder, 6, 2, progress=stop_after(5))
    assert [step for step, _ in checkpoints(folder)] == [2, 4]
    return folder


@pytest.fixture(scope="module")
def whole(latents, tmp_path_factory):
    task, folder = flow_task(latents, stage()), tmp_path_factory.mktemp("whole")
    fit(task, folder, 6, 2)
    return losses(folder), [p.clone() for p in all_parameters(task.result)]


FILES = ["state/.metadata", "state/__0_0.distcp", "state/common.pt", "average/model/__0_1.distcp", "state/metadata.json", "digests.json"]


def turn(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "gone": lambda path: path.unlink(),
    "one bit": turn,
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(cut, whole, latents, tmp_path, caplog, kind, name):
    folder = shutil.copytree(cut, tmp_path / "work")
    DAMAGE[kind](folder / "step-00000004" / name)
    task = flow_task(latents, stage())
    with caplog.at_level(logging.WARNING):
        fit(task, folder, 6, 2)
    assert "step-00000004 is damaged" in caplog.text
    assert losses(folder) == whole[0]
    assert all(torch.equal(a, b) for a, b in zip(all_parameters(task.result), whole[1], strict=True))
    assert [step for step, _ in checkpoints(folder)] == [4, 6]


def test_with_every_checkpoint_damaged_the_training_begins_anew(cut, whole, latents, tmp_path, caplog):
    folder = shutil.copytree(cut, tmp_path / "work")
    for _, path in checkpoints(folder):
        turn(path / "state" / "__0_0.distcp")
    fit(flow_task(latents, stage()), folder, 6, 2)
    assert caplog.text.count("is damaged") == 2
    assert losses(folder) == whole[0]


def test_a_whole_checkpoint_of_another_network_is_refused_and_kept(cut, latents, tmp_path):
    from test_training import TINY

    from mugv.recipe.schema import Parallel
    from mugv.training.engine import build_model
    from mugv.training.flow_data import FlowData
    from mugv.training.tasks import FlowTask

    folder, settings = shutil.copytree(cut, tmp_path / "work"), stage()
    data = FlowData(latents, latents.clips("train"), settings.size, settings.frames, settings.flow, settings.mask)
    wider = FlowTask(build_model(TINY.model_copy(update={"hidden": 48}), 8, 1, Parallel(), 0), data, settings, Parallel(), 1)
    with pytest.raises(UserError, match="of another network"):
        fit(wider, folder, 6, 2)
    assert [step for step, _ in checkpoints(folder)] == [2, 4]


def test_a_checkpoint_beyond_the_steps_that_are_asked_for_is_refused(cut, latents, tmp_path):
    folder = shutil.copytree(cut, tmp_path / "work")
    with pytest.raises(UserError, match=r"step-00000004: of a training that was longer than 3 steps"):
        fit(flow_task(latents, stage(steps=3)), folder, 3, 2)


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(latents, tmp_path, monkeypatch):
    """A rename may reach the disk before the content does; a power cut then leaves a whole name over empty files."""
    import os
    from pathlib import Path

    done, rename = [], Path.rename
    real = os.fsync

    def fsync(descriptor):
        done.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    def renamed(path, target):
        if path.name.startswith("writing-"):
            files = {str(p) for p in path.rglob("*")}
            missing = {p for p in files if p not in done and not p.endswith("digests.json")}
            assert not missing
            assert any("digests.json" in p for p in done)
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", renamed)
    fit(flow_task(latents, stage()), tmp_path, 2, 2)
    assert str(tmp_path) in done


def test_a_save_forks_no_process_that_may_lock_up_beside_a_thread(latents, tmp_path, monkeypatch):
    def forked() -> int:
        raise AssertionError("forked")

    monkeypatch.setattr("os.fork", forked)
    fit(flow_task(latents, stage()), tmp_path, 4, 2)
    assert [step for step, _ in checkpoints(tmp_path)] == [2, 4]
