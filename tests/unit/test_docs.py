"""The pages: every command line in them is one that the code accepts, every file that they name or link is there."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path

import pytest
import typer.main

from mugv.cli.main import app
from mugv.recipe.load import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def command_lines(text: str) -> list[list[str]]:
    """Words of every `mugv COMMAND ...` in the indented blocks of a page; continued lines count as one."""
    block = "\n".join(line for line in text.replace("\\\n", " ").splitlines() if line.startswith("    "))
    lines = [part.strip() for line in block.splitlines() for part in re.split(r"\s+#\s|\s;\s|\s&&\s|\s\|\s", line)]
    return [shlex.split(line)[1:] for line in lines if re.match(r"mugv [a-z]", line)]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_names_no_command_or_option_that_is_not_there(page: Path) -> None:
    commands = typer.main.get_command(app).commands
    for words in command_lines(page.read_text()):
        if words == ["COMMAND"]:
            continue
        assert words[0] in commands, words
        known = {option for parameter in commands[words[0]].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} - {"--help"} <= known, words


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_sets_no_key_that_a_recipe_refuses(page: Path) -> None:
    for words in command_lines(page.read_text()):
        given = [after for word, after in pairwise(words) if word == "--set"]
        recipe = next((after for word, after in pairwise(words) if word == "--recipe"), "FILE")
        if given:
            load_recipe(ROOT / ("configs/footage.yaml" if recipe == "FILE" else recipe), given)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_leads_to_no_file_that_is_not_there(page: Path) -> None:
    text = page.read_text()
    linked = [page.parent / target for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in target]
    folders = "mugv|tests|benchmarks|configs|pipelines|components|docs|images|manifests|mlflow"
    named = [ROOT / path for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text)]
    dead = {path.resolve().relative_to(ROOT).as_posix() for path in (*linked, *named) if not path.exists()}
    assert not dead


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_names_no_test_or_benchmark_that_is_not_there(page: Path) -> None:
    text = page.read_text()
    source = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    files = {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    assert [test for test in re.findall(r"\btest_\w+", text) if test not in files and f"def {test}(" not in source] == []
    benchmarks = re.findall(r"benchmarks\.([a-z]\w*)", " ".join(text.split()))
    assert [b for b in benchmarks if not (ROOT / "benchmarks" / f"{b}.py").is_file()] == []


def test_a_command_line_is_read_to_its_end() -> None:
    text = "text\n\n    mugv run --set a=1 \\\n        --set b=2     # why\n    mugv promote 2 ; mugv rollback\n\nmugv is prose"
    assert command_lines(text) == [["run", "--set", "a=1", "--set", "b=2"], ["promote", "2"], ["rollback"]]
