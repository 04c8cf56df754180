"""`mugv drift` and `mugv confirm`, and what the recipe makes of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.curation.drift.compare import compare
from mugv.curation.drift.verdict import judge
from mugv.recipe.retrain import Drift
from tests.unit.drift_tools import clip_set, clips


def brighter(row: dict[str, Any], _: Any) -> dict[str, Any]:
    return {**row, "exposure": row["exposure"] + 20}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    return clip_set(tmp_path / "old", clips(0)), clip_set(tmp_path / "new", clips(1, change=brighter))


def call(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def test_two_folders_are_compared_and_written(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old, new = (path.parent for path in pair)
    said = call("drift", new, "--against", old, "-o", tmp_path / "out")
    assert said.exit_code == 0, said.output
    assert "exposure !" in said.stdout
    assert "drift against" in said.stdout
    page = (tmp_path / "out" / "report.html").read_text()
    assert "exposure" in page
    assert len(page) < 100_000, "small enough to send"
    assert "http" not in page, "nothing is loaded from elsewhere"
    written = json.loads((tmp_path / "out" / "comparison.json").read_text())
    printed = json.loads(call("drift", new, "--against", old, "--json").stdout)
    assert written == printed
    assert printed["decision"] == "held"
    assert printed["comparison"]["columns"][0]["name"] == "exposure"


def test_limits_come_from_the_command_line_too(pair: tuple[Path, Path]) -> None:
    old, new = (path.parent for path in pair)
    found = json.loads(call("drift", new, "--against", old, "--json", "--set", "retrain.drift.limits.exposure=50").stdout)
    assert found["decision"] == "go on"


@pytest.mark.parametrize(
    "arguments",
    [
        ["drift", "no-such-run"],
        ["drift", "OLD", "--against", "no-such-folder"],
        ["drift", "OLD", "--against", "champion"],
        ["drift", "OLD", "--against", "models:/mugv/7"],
        ["confirm", "0123456789abcdef"],
        ["confirm"],
    ],
)
def test_what_is_not_there_is_one_line(pair: tuple[Path, Path], tmp_path: Path, arguments: list[str]) -> None:
    state = tmp_path / "state"
    (state / "runs").mkdir(parents=True)
    said = call(*[pair[0].parent if a == "OLD" else a for a in arguments], "--state", state)
    assert said.exit_code == 2
    assert len(said.output.strip().splitlines()) == 1, said.output
    assert "Traceback" not in said.output


def test_the_recipe_decides_what_drift_means(pair: tuple[Path, Path]) -> None:
    found = compare(*pair, "m version 1 (champion)", Drift())
    warns = judge(found, Drift(on_drift="warn"))
    assert (warns.go_on, warns.waits) == (True, False)
    stops = judge(found, Drift(on_drift="stop"), confirmed="by me")
    assert (stops.go_on, stops.waits) == (False, False)
    asks = judge(found, Drift())
    assert (asks.go_on, asks.waits) == (False, True)
    assert f"mugv confirm {found.digest}" in asks.line
    assert "exposure PSI" in asks.line
    goes = judge(found, Drift(), confirmed="by me at noon")
    assert goes.go_on
    assert goes.line.endswith("confirmed by me at noon")
    for verdict in (warns, stops, asks, goes):
        assert "\n" not in verdict.line


def test_no_drift_names_what_came_nearest(pair: tuple[Path, Path], tmp_path: Path) -> None:
    same = compare(pair[0], pair[0], "m version 1 (champion)", Drift())
    assert judge(same, Drift()).line == "the clips are those of m version 1 (champion)"
    near = compare(pair[0], clip_set(tmp_path / "b", clips(2)), "m version 1 (champion)", Drift())
    verdict = judge(near, Drift())
    assert verdict.go_on
    assert "furthest: " in verdict.line
