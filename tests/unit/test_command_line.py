"""What every command has: mistakes in one line, a version, completion, a help that is whole, quiet and verbose."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from mugv import __version__
from mugv.cli import common
from mugv.cli.main import app


def mugv(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments, prog_name="mugv")
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rn"], "No such command 'rn'. Did you mean 'run', 'runs'? (`mugv --help` lists what there is)"),
        (["--versoin"], "No such option: --versoin (Possible options: --version)"),
        (["run", "--recip", "x"], "No such option: --recip (Possible options: --help, --recipe) (`mugv run --help` lists what there is)"),
        (["run", "extra"], "Got unexpected extra argument(s) (extra)"),
        (["run", "--set"], "Option '--set' requires an argument"),
        (["run", "-q", "-v"], "--quiet and --verbose exclude each other; give one of them"),
        (["plan", "--gpus", "many"], "Invalid value for '--gpus': Input should be a valid integer"),
        (["plan", "--gpus", "0"], "Invalid value for '--gpus': Input should be greater than or equal to 1"),
        (["promote"], "Missing argument 'version'"),
        (["schedule"], "Missing option '--cron'"),
    ],
)
def test_a_mistake_of_spelling_is_one_line(arguments: list[str], message: str) -> None:
    code, out, err = mugv(*arguments)
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert message in err


def test_version_is_that_of_the_package() -> None:
    assert mugv("--version") == (0, f"mugv {__version__}\n", "")


def test_no_sentence_of_the_list_of_commands_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    code, out, _ = mugv("--help")
    assert code == 0
    assert "..." not in out.partition("Commands:")[2]
    assert max(map(len, out.splitlines())) <= 80
    assert "single-shot, filtered, captioned, without duplicates." in " ".join(out.split())


def test_the_command_alone_prints_its_help() -> None:
    code, out, _ = mugv()
    assert code == 2
    assert "Commands:" in out


def test_the_shell_completes_commands() -> None:
    environment = {**os.environ, "_MUGV_COMPLETE": "complete_bash", "COMP_WORDS": "mugv pl", "COMP_CWORD": "1"}
    program = "from mugv.cli.main import app; app(prog_name='mugv')"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["plan"]


def test_a_file_name_that_is_no_text_is_printed_escaped() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mugv.cli.main", "convert", b"/nowhere/\xff", "x.pt"],
        capture_output=True,
        env={**os.environ, "LANG": "C.UTF-8"},
    )
    assert done.returncode == 2
    assert re.fullmatch(rb"error: [^\n]*\\udcff[^\n]*\n", done.stderr), done.stderr


def command(function) -> typer.Typer:
    made = typer.Typer()
    made.command()(common.one_line_errors(common.with_talk(function)))
    return made


def test_a_file_that_cannot_be_used_is_one_line_and_verbose_tells_where(tmp_path: Path) -> None:
    def work() -> None:
        (tmp_path / "none" / "x").write_text("")

    quiet, loud = (CliRunner().invoke(command(work), flags) for flags in ([], ["-v"]))
    assert (quiet.exit_code, quiet.stderr) == (2, f"error: {tmp_path}/none/x: No such file or directory\n")
    assert loud.exit_code == 2
    assert "Traceback" in loud.stderr
    assert loud.stderr.endswith(quiet.stderr)


def test_quiet_silences_what_is_said_on_the_way_alone() -> None:
    def work() -> None:
        common.open_console(progress=True).print("on the way")
        common.open_console().print("result")

    said = [CliRunner().invoke(command(work), flags).stdout for flags in ([], ["-q"], [])]
    assert said == ["on the way\nresult\n", "result\n", "on the way\nresult\n"]
