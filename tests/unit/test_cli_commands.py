"""The command line: starts fast, imports nothing heavy, and turns every mistake into one line and exit code 2."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from processor_time import children_seconds
from recipes import write_recipe
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.errors import UserError
from mugv.platform.records import RunRecord, find_run, new_run_id


def mugv(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    program = "import sys, mugv.cli.main; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "kfp", "mlflow", "av", "cv2", "pandas", "numpy", "megatron"} & set(loaded)
    seconds = []
    for _ in range(3):
        began = children_seconds()
        done = subprocess.run([sys.executable, "-m", "mugv.cli.main", "--help"], capture_output=True, text=True, check=True)
        seconds.append(children_seconds() - began)
    assert "schedule" in done.stdout
    assert min(seconds) < 0.5


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MUGV_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return str(write_recipe(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--recipe", "no.yaml"], "recipe no.yaml: cannot be read (No such file or directory)"),
        (["run", "--set", "curation.sharp=1"], "--set curation.sharp: unknown key; did you mean curation.sharpness?"),
        (["run", "--set", "seed=many"], "seed: Input should be a valid integer"),
        (["run", "--set", "parallel.tensor=3"], "parallel: world 1 is not a multiple of tensor x pipeline x context = 3"),
        (["run", "--videos", "nowhere"], "--videos nowhere: not a folder; give the folder that holds the video files"),
        (["run", "--captions", "nowhere"], "--captions nowhere: no such file"),
        (["show"], "does not exist; `mugv run` makes it, or give another one with --state"),
        (["runs"], "does not exist; `mugv run` makes it"),
        (["lineage"], "does not exist; `mugv run` makes it"),
        (["generate", "a red circle", "-o", "x.gif"], "-o x.gif: must end in .mp4"),
        (["generate", "a", "--model", "models:/m/1", "--checkpoint", "c"], "--model and --checkpoint exclude each other"),
        (["generate", "a", "--image", "none.png"], "--image none.png: no such file"),
        (["generate", "a", "--checkpoint", "none"], "none: not a folder; give a folder or the URI of an output"),
        (["stage", "nothing", "--out", "x"], "stage nothing: not in this recipe's graph; it has footage, scan, "),
        (["stage", "scan", "--out", "x"], "stage scan: reads --input footage, got nothing"),
        (["stage", "scan", "--out", "x", "--input", "footage"], "--input footage: expected NAME=PATH"),
        (["compile", "-o", "x.txt"], "output x.txt must end in .yaml"),
        (["compile", "-o", "/proc/x/y.yaml"], "-o /proc/x/y.yaml: cannot be written"),
        (["compile", "-o", "pyproject.toml/y.yaml"], "pyproject.toml is a file, not a folder"),
        (["generate", "a red circle", "-o", "/proc/x/y.mp4"], "-o /proc/x/y.mp4: cannot be written"),
        (["convert", "pyproject.toml", "/proc/x/y"], "TARGET /proc/x/y: cannot be written"),
        (["curate", "--out", "/proc/x/y"], "--out /proc/x/y: cannot be written"),
        (["run", "--state", "pyproject.toml"], "pyproject.toml: is a file; give a folder with --state"),
        (["plan", "--state", "pyproject.toml"], "pyproject.toml: is a file; give a folder with --state"),
        (["runs", "--state", "pyproject.toml"], "pyproject.toml: is a file; give a folder with --state"),
        (["schedule", "--cron", "0 3 * * *"], "cron"),
    ],
)
def test_mistake_is_one_line_that_names_it_and_exit_2(recipe: str, arguments: list[str], message: str) -> None:
    if "--recipe" not in arguments and arguments[0] in ("run", "stage", "compile", "schedule"):
        arguments = [*arguments, "--recipe", recipe]
    code, _, err = mugv(*arguments)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert message in err


def test_a_temporary_folder_that_takes_no_file_is_named(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    monkeypatch.setenv("TMPDIR", "/proc")
    monkeypatch.setattr(tempfile, "tempdir", "/proc")
    code, _, err = mugv("run", "--recipe", recipe)
    assert code == 2
    assert re.fullmatch(r"error: temporary folder /proc: [^\n]+; free some space there, or name another folder in TMPDIR\n", err), err


def test_a_port_that_is_taken_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code, _, err = mugv("ui", "--state", str(tmp_path), "--port", str(server.getsockname()[1]))
    assert code == 2
    assert "cannot listen there (Address already in use); give another port or host" in err


def test_plan_of_the_published_system_has_its_parameter_counts(recipe: str) -> None:
    code, out, err = mugv("plan", "--recipe", "configs/mugv-10b.yaml")
    assert code == 2, "its perceptual loss is not in this version"
    assert re.fullmatch(r"error: this version cannot run the recipe: vae\.train\.perceptual_weight 0\.1 [^\n;]*; set it to 0\n", err)
    assert "DiT 10,830,321,984 parameters, VAE 411,752,900 parameters" in out


@pytest.mark.parametrize("threads", ["0", "-2", "all"])
def test_no_count_of_threads_is_one_line_and_exit_2(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    result = CliRunner().invoke(app, ["run", "--recipe", recipe, "--state", str(tmp_path / "state")])
    assert result.exit_code == 2
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"error: OMP_NUM_THREADS={threads}: expected a number of threads of at least 1")


@pytest.mark.parametrize("before", [None, "1"])
def test_a_model_that_was_held_back_is_told_last_with_how_to_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    from io import StringIO

    from rich.console import Console

    from mugv.cli import summary

    result = {"model": "mugv", "version": "2", "uri": "models:/mugv/2", "champion": False, "previous_champion": before}
    monkeypatch.setattr(summary, "registered", lambda record: {**result, "reasons": ["t2v_seen_colour 0.93 is under 0.95"]})
    out = StringIO()
    summary.print_result(Console(file=out, width=400), RunRecord(tmp_path))
    (line,) = out.getvalue().strip().splitlines()
    standing = "champion stays version 1" if before else "there is no champion"
    assert line.startswith(
        f"model models:/mugv/2 is registered and {standing}: version 2 was held back (t2v_seen_colour 0.93 is under 0.95)"
    )
    assert "--model models:/mugv/2" in line


def test_a_state_without_runs_says_so(tmp_path: Path) -> None:
    assert mugv("runs", "--state", str(tmp_path)) == (0, f"no runs in {tmp_path} yet\n", "")
    code, out, _ = mugv("runs", "--json", "--state", str(tmp_path))
    assert (code, json.loads(out)) == (0, {"state": str(tmp_path), "runs": [], "damaged": []})


def test_plan_writes_nothing(recipe: str, tmp_path: Path) -> None:
    code, out, _ = mugv("plan", "--recipe", recipe)
    assert code == 0
    assert re.search(r"^footage +miss ", out, re.MULTILINE)
    assert "15 of 15 stages would run" in out
    assert not (tmp_path / "state").exists()


def test_run_is_found_by_the_start_of_its_name_or_as_latest(tmp_path: Path) -> None:
    for name in ("20260101-000000-aaaa", "20260102-000000-bbbb"):
        RunRecord.of(tmp_path, name).update(run=name)
    assert find_run(tmp_path, "20260101").run == "20260101-000000-aaaa"
    assert find_run(tmp_path, "latest").run == "20260102-000000-bbbb"
    with pytest.raises(UserError, match="run 2026: 2 runs of that name"):
        find_run(tmp_path, "2026")
    with pytest.raises(UserError, match=r"run x: no run of that name .* known: 20260102-000000-bbbb"):
        find_run(tmp_path, "x")


def test_run_names_sort_by_time_and_differ() -> None:
    names = [new_run_id() for _ in range(50)]
    assert len(set(names)) > 45
    assert sorted(names)[0][:13] == names[0][:13]


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_state_folder_that_cannot_be_written_is_one_line_and_exit_2(recipe: str, tmp_path: Path, kind: str) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    option = "size=4k" if kind == "full" else "ro"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(mount)], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        if kind == "full":
            (mount / "filler").write_bytes(b"x" * os.statvfs(mount).f_bavail * os.statvfs(mount).f_frsize)
        code, _, err = mugv("run", "--recipe", recipe, "--state", str(mount))
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert ("No space left on device" if kind == "full" else "Read-only file system") in err
