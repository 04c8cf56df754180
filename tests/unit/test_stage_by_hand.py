"""`mugv stage` never deletes what it did not write, never goes on with work of another recipe, and two do not work on one folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recipes import TREE
from typer.testing import CliRunner, Result

from mugv.cli.main import app
from mugv.store.manifest import Manifest

FOOTAGE = {"shots": 2, "shots_per_file": 1, "size": 32, "fps": 12, "shot_frames": [22, 22]}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    import yaml

    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**TREE, "data": {"sample": FOOTAGE}}))
    return path


def stage(recipe: Path, out: Path, *more: str, name: str = "footage") -> Result:
    return CliRunner().invoke(app, ["stage", name, "--recipe", str(recipe), "--out", str(out), *more])


def refused(done: Result) -> str:
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    return line


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_folder_of_somebody_is_left_as_it_is(recipe: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    (precious / "sub").mkdir(parents=True)
    (precious / "thesis.txt").write_text("years")
    (precious / "sub/x").write_text("more")
    line = refused(stage(recipe, precious))
    assert "holds what this stage did not write ('sub/x'; 'thesis.txt')" in line
    assert "--force" in line
    assert files(precious) == {"thesis.txt", "sub/x"}
    assert not precious.with_name("precious.work").exists()
    assert stage(recipe, precious, "--force").exit_code == 0
    assert "thesis.txt" not in files(precious)


@pytest.mark.parametrize("kind", ["own file added", "own file changed", "link added", "another stage's", "a store's"])
def test_only_what_the_stage_wrote_is_replaced(kind: str, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert stage(recipe, out).exit_code == 0
    assert stage(recipe, out).exit_code == 0, "its own output is replaced without a question"
    assert files(tmp_path) - files(out) == {"recipe.yaml"} | {f"out/{name}" for name in files(out)}
    if kind == "own file added":
        (out / "notes.txt").write_text("mine")
    elif kind == "own file changed":
        next(out.rglob("*.mp4")).write_bytes(b"cut by hand")
    elif kind == "link added":
        (out / "link").symlink_to(tmp_path, target_is_directory=True)
    else:
        written = Manifest.of_folder(out, "by-hand/scan" if kind.startswith("another") else "0" * 64)
        (out / "manifest.json").write_text(written.to_json())
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert "holds what this stage did not write" in refused(stage(recipe, out))
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_folders_of_somebody_beside_the_output_stay(recipe: Path, tmp_path: Path) -> None:
    for name in ("out.work", "out.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years")
    assert "out.work is where this stage would work, and no stage wrote it" in refused(stage(recipe, tmp_path / "out"))
    shutil.rmtree(tmp_path / "out.work")
    assert stage(recipe, tmp_path / "out").exit_code == 0
    assert files(tmp_path / "out.new") == {"thesis.txt"}


def test_an_output_over_its_input_or_a_file_is_refused(recipe: Path, tmp_path: Path) -> None:
    footage, inside = tmp_path / "footage", tmp_path / "footage/inside"
    assert stage(recipe, footage).exit_code == 0
    for out in (footage, inside, tmp_path):
        assert "lie in one another" in refused(stage(recipe, out, "--input", f"footage={footage}", name="scan"))
    assert "is no folder" in refused(stage(recipe, recipe))
    assert files(footage) >= {"manifest.json"}


def test_a_link_is_followed_to_the_folder_that_it_names(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "disk/out").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk/out")
    assert stage(recipe, tmp_path / "link").exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert "manifest.json" in files(tmp_path / "disk/out")


def unfinished(recipe: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    """As a kill leaves it: the scratch folder with a half-done thing in it."""
    from mugv.stages import sample_footage

    def killed(ctx):  # type: ignore[no-untyped-def]
        (ctx.work / "half").write_text("done by the old recipe")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sample_footage, "run", killed)
        stage(recipe, out, *more)
    assert (out.with_name(f"{out.name}.work") / "scratch/half").exists()


def test_unfinished_work_of_another_recipe_is_not_gone_on_with(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mugv.stages import sample_footage

    out, seen = tmp_path / "out", []
    unfinished(recipe, out, monkeypatch)
    line = refused(stage(recipe, out, "--set", "data.sample.seed=7", "--set", "data.sample.size=48"))
    assert "unfinished work of something else (data.sample.seed 0, now 7; data.sample.size 32, now 48)" in line
    assert (tmp_path / "out.work/scratch/half").exists(), "the old recipe can still go on"
    made = (tmp_path / "out.work/made.json").read_text()
    (tmp_path / "out.work/made.json").write_text(made[:50])
    assert "unfinished work of something else" in refused(stage(recipe, out)), "what it is of cannot be read"
    (tmp_path / "out.work/made.json").write_text(made)
    whole = sample_footage.run
    monkeypatch.setattr(sample_footage, "run", lambda ctx: (seen.append(sorted(os.listdir(ctx.work))), whole(ctx))[1])
    assert stage(recipe, out, "--set", "data.sample.seed=7", "--force").exit_code == 0
    unfinished(recipe, out, monkeypatch)
    assert stage(recipe, out, "--set", "evaluate.clips=3").exit_code == 0, "a key that this stage does not read"
    assert seen == [[], ["half"]], "--force begins anew, an equal recipe goes on"
    assert not (tmp_path / "out.work").exists()


def test_unfinished_work_of_other_inputs_or_code_is_not_gone_on_with(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mugv.stages import roots, scan

    (tmp_path / "footage").mkdir()
    (tmp_path / "footage/a.mp4").write_bytes(b"one")
    arguments = ["--input", f"footage={tmp_path / 'footage'}"]

    def killed(ctx):  # type: ignore[no-untyped-def]
        (ctx.work / "half").touch()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scan, "run", killed)
        stage(recipe, tmp_path / "out", *arguments, name="scan")
    (tmp_path / "footage/a.mp4").write_bytes(b"two")
    monkeypatch.setattr(roots, "code_digest", lambda modules: "another")
    assert "(code changed; inputs.footage changed)" in refused(stage(recipe, tmp_path / "out", *arguments, name="scan"))


def test_a_stage_that_failed_before_it_had_anything_is_just_called_again(recipe: Path, tmp_path: Path) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    assert stage(recipe, tmp_path / "full").exit_code == 0
    assert "no video files" in refused(stage(recipe, tmp_path / "out", "--input", f"footage={tmp_path / 'empty'}", name="scan"))
    assert stage(recipe, tmp_path / "out", "--input", f"footage={tmp_path / 'full'}", name="scan").exit_code == 0


def test_two_at_once_on_one_folder_are_kept_apart(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = (
        "import sys, time\nfrom mugv.stages import sample_footage\nfrom mugv.cli.main import app\nrun = sample_footage.run\n"
        "def slow(ctx):\n    print('works', flush=True)\n    time.sleep(60)\nsample_footage.run = slow\n"
        f"app(['stage', 'footage', '--recipe', {str(recipe)!r}, '--out', {str(out)!r}])"
    )
    first = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == "works\n"
        began = time.monotonic()
        assert f"stage footage: process {first.pid} works on {out} already" in refused(stage(recipe, out))
        assert time.monotonic() - began < 5
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert stage(recipe, out).exit_code == 0, "a lock ends with its process"
    written = json.loads((out / "manifest.json").read_text())
    assert written["key"] == "by-hand/footage"
    assert set(written["files"]) == files(out) - {"manifest.json"}
