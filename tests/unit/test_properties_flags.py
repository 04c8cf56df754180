"""Whatever is typed behind a command's options: one line and exit code 2. Each command is given one flaw that it cannot get past, so that
nothing long begins; which mistake it names first does not matter."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from property_tools import few
from typer.testing import CliRunner

from mugv.cli.main import app

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
FLAW = {
    "run": ["--state", "file"],
    "curate": ["--state", "file", "--out", "file"],
    "plan": ["--state", "file"],
    "runs": ["--state", "file"],
    "show": ["--state", "file"],
    "generate": ["--state", "file", "-o", "file"],
    "convert": ["--dtype", "none"],
    "lineage": ["--state", "file"],
    "promote": ["--state", "file"],
    "rollback": ["--state", "file"],
    "ui": ["--state", "file"],
    "compile": ["-o", "file"],
    "drift": ["--state", "file"],
    "confirm": ["--state", "file"],
    "doctor": ["--recipe", "file"],
    "slurm": ["-o", "file", "--recipe", "file"],
    "submit": ["--pipeline", "none"],
    "schedule": ["--cron", "none"],
    "stage": ["--out", "file"],
}
NOT_VARIED = {"help", "endpoint", *(flag.lstrip("-").replace("-", "_") for flaw in FLAW.values() for flag in flaw if flag.startswith("-"))}
typed = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        [
            "",
            "-1",
            "--",
            "-",
            "file",
            "folder",
            "file/x",
            "/proc/x",
            "a=b",
            "seed=3",
            "sft.steps=x",
            "32x32",
            "models:/a/1",
            "s3://",
            "x://y",
        ]
    ),
    st.binary(min_size=1, max_size=6).filter(lambda b: b"\0" not in b).map(lambda b: b.decode("utf-8", "surrogateescape")),
)


@st.composite
def invocation(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from(sorted(COMMANDS)))
    arguments = [name]
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "argument":
            arguments += [draw(typed)] if parameter.required or draw(st.booleans()) else []
        elif parameter.name not in NOT_VARIED and not draw(st.integers(0, 3)):
            arguments += [parameter.opts[0]] if parameter.is_flag else [parameter.opts[0], draw(typed)]
    return [*arguments, *FLAW[name]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flags")
    (root / "folder").mkdir()
    (root / "file").write_text("x")
    return root


def test_every_command_has_its_flaw() -> None:
    assert set(FLAW) == set(COMMANDS)


@few(120)
@given(arguments=invocation())
def test_anything_typed_ends_in_one_line(folder: Path, arguments: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("MLFLOW_TRACKING_URI", "KFP_ENDPOINT"):
            patch.delenv(name, raising=False)
        result = CliRunner().invoke(app, arguments, prog_name="mugv")
    assert (result.exit_code, result.stdout) == (2, ""), result.exception
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr), result.stderr
    assert sorted(p.name for p in folder.iterdir()) == ["file", "folder"]
