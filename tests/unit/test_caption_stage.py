"""The stage `caption` as a process of its own: killed it goes on, without a server it ends in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from caption_tools import Server, good, serving, status, write_part
from recipes import TREE

from mugv.curation.captions import read_captioned

CLIPS = 24


def command(folder: Path, server: Server, out: str = "out") -> list[str]:
    caption = {"kind": "endpoint", "url": server.url, "model": "vlm", "concurrency": 3, "attempts": 1}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**TREE, "curation": {"caption": caption}}))
    part = folder / "part"
    if not part.exists():
        write_part(part, CLIPS, frames=1)
    arguments = ["stage", "caption-0", "--recipe", str(recipe), "--input", f"part={part}", "--out", str(folder / out)]
    return [sys.executable, "-m", "mugv.cli.main", *arguments]


def slowly(request: dict) -> tuple[int, dict[str, str], bytes]:
    time.sleep(0.1)
    return good(request)


def wait_for(server: Server, count: int) -> None:
    until = time.monotonic() + 240
    while len(server.requests) < count:
        assert time.monotonic() < until, "the stage asks for nothing"
        time.sleep(0.005)


def test_a_killed_stage_asks_again_only_for_the_clips_in_flight(tmp_path: Path) -> None:
    with serving() as server:
        server.always = slowly
        for asked in (5, 14):
            child = subprocess.Popen(command(tmp_path, server), stdout=subprocess.DEVNULL)
            wait_for(server, asked)
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
        done = subprocess.run(command(tmp_path, server), capture_output=True, text=True, check=True)
        time.sleep(0.2)
        assert len(server.requests) <= CLIPS + 2 * 3, "at most the requests in flight at each kill are paid twice"
        server.always = good
        subprocess.run(command(tmp_path, server, "whole"), check=True, stdout=subprocess.DEVNULL)
    assert (tmp_path / "out" / "captions.jsonl").read_bytes() == (tmp_path / "whole" / "captions.jsonl").read_bytes()
    assert len(read_captioned([tmp_path / "out"])) == CLIPS
    assert f"caption-0: {CLIPS} captions, 0 refused, {100 * CLIPS} + {20 * CLIPS} tokens" in done.stdout


def test_a_server_that_fails_ends_the_stage_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    with serving() as server:
        server.always = status(500)
        failed = subprocess.run(command(tmp_path, server), capture_output=True, text=True)
    assert failed.returncode == 2
    lines = [line for line in failed.stderr.splitlines() if line.strip()]
    assert "Traceback" not in failed.stderr
    said = " ".join(lines)
    assert f"{CLIPS} of {CLIPS} clips wait for a caption (500 {CLIPS}; 500: status 500 on purpose)" in said
    assert "run the same command again" in said
    assert not (tmp_path / "out").exists()


def test_nothing_of_the_key_reaches_the_output(tmp_path: Path) -> None:
    environment = {**os.environ, "MUGV_CAPTION_KEY": "sk-very-secret"}
    with serving() as server:
        done = subprocess.run(command(tmp_path, server), capture_output=True, text=True, check=True, env=environment)
        assert server.headers[0]["authorization"] == "Bearer sk-very-secret"
    written = (tmp_path / "out" / "captions.jsonl").read_text()
    assert "sk-very-secret" not in written + done.stdout + done.stderr
    assert {json.loads(line)["source"] for line in written.splitlines()} == {"vlm"}


@pytest.mark.parametrize("name", ["caption-0", "caption-1"])
def test_a_recipe_with_sidecar_captions_alone_has_no_such_stage(tmp_path: Path, name: str) -> None:
    from recipes import small_recipe

    from mugv.stages.graph import build_graph

    assert name not in {node.name for node in build_graph(small_recipe(tmp_path))}
