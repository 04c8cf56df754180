"""The pages of docs/reference: they follow the code, and a page that lags behind is named."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer

from mugv.cli import reference_docs
from mugv.cli.main import COMMANDS
from mugv.platform import generated
from mugv.platform.recipe_docs import recipe_page
from mugv.recipe import Recipe
from mugv.recipe.models import ModelPart
from mugv.recipe.schema import Encode

RECIPE, COMMAND_PAGE = "docs/reference/recipe.md", "docs/reference/commands.md"


@pytest.fixture
def written(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of the code as it is, in a folder of their own."""
    monkeypatch.setattr(generated, "ROOT", tmp_path)
    assert reference_docs.main([]) == 0
    assert reference_docs.main(["--check"]) == 0


def test_the_committed_pages_are_those_of_the_code(capsys) -> None:
    assert reference_docs.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.usefixtures("written")
def test_a_changed_default_makes_the_recipe_page_stale(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    class Larger(Encode):
        """More clips at once."""

        batch: int = 9

    class Changed(Recipe):
        encode: Larger

    monkeypatch.setattr(reference_docs, "Recipe", Changed)
    assert reference_docs.main(["--check"]) == 1
    assert f"stale: {RECIPE};" in capsys.readouterr().out


@pytest.mark.usefixtures("written")
def test_an_added_option_makes_the_page_of_commands_stale(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def runs(loud: Annotated[bool, typer.Option("--loud", help="Say more.")] = False) -> None:
        """The runs of a state folder."""

    app = typer.Typer(name="mugv")
    for name, function in {**COMMANDS, "runs": runs}.items():
        app.command(name)(function)
    monkeypatch.setattr(reference_docs, "app", app)
    assert reference_docs.main(["--check"]) == 1
    assert f"stale: {COMMAND_PAGE};" in capsys.readouterr().out


def test_no_key_of_a_recipe_is_missing_on_its_page() -> None:
    page = recipe_page(Recipe)
    for key in ("name", "curation.motion.maximum", "vae.train.phases.N.learning_rate", "pretrain.N.expand.factor", "register.gate.minimum"):
        assert f"| `{key}` |" in page
    assert "At `pretrain.N.optimizer`, `sft.optimizer`, `align.rounds.N.optimizer`." in page
    assert "| `curation.exposure` | [Levels](#levels) | `minimum: 8`, `maximum: 247` |" in page


def test_a_key_without_words_and_an_option_without_help_are_refused_by_name() -> None:
    class Silent(ModelPart):
        width: int = 1

    with pytest.raises(ValueError, match="no docstring under width"):
        recipe_page(Silent)

    app = typer.Typer(name="mugv")
    app.command("a")(lambda: None)

    def silent(width: Annotated[int, typer.Option()] = 1) -> None:
        """Words."""

    app.command("b")(silent)
    with pytest.raises(ValueError, match="no help: b --width"):
        reference_docs.commands_page(typer.main.get_command(app))
