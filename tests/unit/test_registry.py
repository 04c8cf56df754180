"""The gate, the champion and its history, on a real MLflow database with small registered versions."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from recipes import small_recipe
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.cli.models import model_name
from mugv.errors import UserError
from mugv.evaluation.paired import FILE, Group, to_json
from mugv.platform.registered_files import DIGEST
from mugv.platform.registry import HISTORY, REASONS, Registry, Version, decide, log_version
from mugv.platform.tracking import Tracking
from mugv.recipe.schema import Gate
from mugv.store import open_store

GATE = Gate(minimum={"colour": 0.9, "shape": 0.7}, compare="all")
GOOD = {"colour": 0.95, "shape": 0.8, "all": 0.6}


def champion_with(**metrics: float) -> Version:
    return Version("m", "7", "r", {f"metric.{k}": repr(v) for k, v in metrics.items()}, "")


def test_first_version_that_meets_the_thresholds_becomes_champion() -> None:
    assert decide(GATE, GOOD, None).champion


@pytest.mark.parametrize(
    ("metrics", "champion", "reason"),
    [
        ({**GOOD, "colour": 0.89}, None, "colour 0.89 is under 0.9"),
        ({"colour": 0.95, "all": 0.6}, None, "shape was not measured (no judge for this footage); at least 0.7 is asked"),
        (GOOD, champion_with(all=0.6), "all 0.6 is not above champion 7's 0.6 (numbers alone: champion 7 kept no results by prompt)"),
        ({"colour": 0.95, "shape": 0.8}, champion_with(all=0.6), "all was not measured, so it cannot be compared with champion 7"),
        ({**GOOD, "loss": float("nan")}, None, "loss is nan: no finite number"),
        ({**GOOD, "loss": float("inf")}, champion_with(all=0.5), "loss is inf: no finite number"),
        (GOOD, champion_with(shape=0.5), "champion 7 has no all to compare with; `mugv promote` replaces it all the same"),
    ],
)
def test_gate_holds_a_version_back_and_says_why(metrics: dict[str, float], champion: Version | None, reason: str) -> None:
    decision = decide(GATE, metrics, champion, unmeasured="no judge for this footage")
    assert not decision.champion
    assert decision.reasons == (reason,)


def test_better_version_passes_and_names_what_it_beat() -> None:
    decision = decide(GATE, GOOD, champion_with(all=0.5))
    assert decision.champion
    assert "all 0.6 is above champion 7's 0.5" in decision.reasons[-1]


def test_a_maximum_holds_a_version_back() -> None:
    gate = Gate(maximum={"loss": 1.0}, compare=None)
    assert decide(gate, {"loss": 1.0}, None).champion
    assert decide(gate, {"loss": 1.5}, None).reasons == ("loss 1.5 is over 1",)
    assert decide(gate, {}, None).reasons == ("loss was not measured; at most 1 is asked",)


def test_a_champion_that_is_no_number_can_be_replaced() -> None:
    """It was above every challenger for ever: nothing is greater than nan."""
    decision = decide(GATE, GOOD, champion_with(all=float("nan")))
    assert decision.champion
    assert "champion 7's all is nan: no finite number to compare with" in decision.reasons


def test_a_lower_flow_loss_wins_by_the_numbers_too() -> None:
    gate = Gate(compare="validation_flow_loss")
    assert decide(gate, {"validation_flow_loss": 0.8}, champion_with(validation_flow_loss=0.9)).champion
    assert not decide(gate, {"validation_flow_loss": 0.9}, champion_with(validation_flow_loss=0.8)).champion


def results(right: int, prompts: int = 40, **conditions: str) -> dict[str, Group]:
    values = [1.0] * right + [0.0] * (prompts - right)
    return {"t2v_seen": Group(conditions, [f"p{k}" for k in range(prompts)], {"all": values})}


@pytest.mark.parametrize(
    ("mine", "replace", "promoted", "says"),
    [
        (
            31,
            "better",
            False,
            "1 of 40 common prompts better, 0 worse; not significantly better than champion 7",
        ),
        (31, "not-worse", True, "not significantly worse than champion 7"),
        (
            36,
            "better",
            True,
            "significantly better than champion 7 (paired permutation test, p 0.016 under 0.05)",
        ),
        (29, "not-worse", True, "0 of 40 common prompts better, 1 worse; not significantly worse"),
        (22, "not-worse", False, "0 of 40 common prompts better, 8 worse; significantly worse than champion 7"),
    ],
)
def test_the_champion_is_compared_on_the_same_prompts(mine: int, replace: str, promoted: bool, says: str) -> None:
    """Compared by one number, every second run of an equal model replaced the champion."""
    gate = Gate.model_validate({"replace": replace})
    champion = champion_with(t2v_seen_all=0.75)
    decision = decide(gate, {"t2v_seen_all": mine / 40}, champion, results=results(mine), champion_results=results(30))
    assert decision.champion == promoted
    assert says in decision.reasons[-1]


def test_a_model_judged_by_another_judge_does_not_replace_the_champion() -> None:
    champion = champion_with(t2v_seen_all=0.1)
    decision = decide(Gate(), {"t2v_seen_all": 1.0}, champion, results=results(40, judge="b"), champion_results=results(4, judge="a"))
    assert decision.reasons == (
        "t2v_seen_all is not compared with champion 7: it was measured with another judge; `mugv promote` replaces it all the same",
    )


def test_recipes_without_a_judge_are_compared_by_the_flow_loss() -> None:
    decision = decide(Gate(), {"validation_flow_loss": 0.9, "vae_psnr": 30.0}, champion_with(validation_flow_loss=0.8))
    assert "validation_flow_loss 0.9 is not under champion 7's 0.8" in decision.reasons[0]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    state = tmp_path_factory.mktemp("state")
    return Tracking(f"sqlite:///{state / 'mlflow.db'}", artifacts=state / "mlartifacts")


@pytest.fixture(scope="module")
def three_versions(tracking: Tracking, tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder = tmp_path_factory.mktemp("artifacts")
    # As in a store: the last name of a folder is a key, and both outputs may have equal files.
    for name in ("dit/0a1b", "vae/2c3d"):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(name)
    for accuracy in (0.5, 0.6, 0.7):
        artifacts = {"checkpoint": folder / "dit" / "0a1b", "vae": folder / "vae" / "2c3d"}
        version = log_version(tracking.uri, tracking.experiment, "", "mugv", artifacts, {"run": "r"}, {"all": accuracy})
        Registry(tracking.uri).tag(version, {"metric.all": repr(accuracy)})
    return Registry(tracking.uri)


def test_registered_version_carries_its_files_lineage_and_metrics(three_versions: Registry) -> None:
    version = three_versions.resolve("models:/mugv/2")
    assert version.metrics == {"all": 0.6}
    assert three_versions.lineage(version) == {"run": "r"}
    folders = three_versions.download(version)
    assert {name: (folder / "config.json").read_text() for name, folder in folders.items()} == {"checkpoint": "dit/0a1b", "vae": "vae/2c3d"}


def test_without_a_champion_the_reason_and_the_way_out_are_named(three_versions: Registry) -> None:
    """Before any version was promoted: `mugv generate` ends on this line."""
    three_versions.tag(three_versions.version("mugv", "3"), {REASONS: "t2v_seen_colour 0.93 is under 0.95"})
    with pytest.raises(UserError) as caught:
        three_versions.resolve("models:/mugv@champion")
    message = str(caught.value)
    assert "there is no champion; version 3 was held back (t2v_seen_colour 0.93 is under 0.95)" in message
    assert "--model models:/mugv/3" in message
    assert "\n" not in message


def test_rollback_returns_to_the_champion_before(three_versions: Registry) -> None:
    for number in ("1", "3", "3", "2"):
        three_versions.promote("mugv", number, "test")
    assert three_versions.history("mugv") == ["1", "3", "2"]
    assert three_versions.resolve("models:/mugv@champion").version == "2"
    for expected in ("3", "1"):
        _, back = three_versions.rollback("mugv")
        champion = three_versions.champion("mugv")
        assert champion is not None
        assert back.version == champion.version == expected
    with pytest.raises(UserError, match="no earlier champion to go back to"):
        three_versions.rollback("mugv")


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/mugv/9", "model mugv: no version '9'; there are versions 3, 2, 1"),
        ("models:/none/1", "model none: no version '1'; there are models mugv"),
        ("models:/mugv@best", "model mugv: no version has the alias 'best'"),
        ("mugv@champion", "expected models:/NAME@champion or models:/NAME/VERSION"),
        ("models:/mugv", "expected models:/NAME@champion or models:/NAME/VERSION"),
    ],
)
def test_wrong_model_names_get_one_line_with_what_would_be_right(three_versions: Registry, uri: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        three_versions.resolve(uri)
    assert message in str(caught.value)


@pytest.mark.parametrize(("names", "meant"), [([], "mugv"), (["micro"], "micro"), (["a", "mugv"], "mugv")])
def test_a_model_that_is_not_named_is_the_only_one_or_mugv(names: list[str], meant: str) -> None:
    registry = cast(Registry, SimpleNamespace(names=lambda: names))
    assert model_name(registry, None) == meant
    assert model_name(registry, "other") == "other"


def test_one_of_several_models_must_be_named() -> None:
    with pytest.raises(UserError, match="there are models a, b; say which one, with --name NAME or models:/NAME@champion"):
        model_name(cast(Registry, SimpleNamespace(names=lambda: ["a", "b"])), None)


@pytest.mark.parametrize("command", [["lineage"], ["rollback"], ["promote", "1"], ["generate", "a red circle"]])
def test_a_state_without_models_is_said_and_no_database_is_made_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = CliRunner().invoke(app, [*command, "--state", str(tmp_path)])
    assert result.exit_code == 2
    assert "no model is registered there; `mugv run` does it, or give another --state" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_model_without_a_champion_is_no_error(tracking: Tracking, three_versions: Registry) -> None:
    assert three_versions.champion("never-registered") is None


def run_register(tracking: Tracking, folder: Path, monkeypatch: pytest.MonkeyPatch, right: float, *changes: str, times: int = 1) -> dict:
    """The register stage's output, for an evaluation with `right` of 40 prompts right."""
    from mugv.stages import register
    from mugv.stages.base import StageContext
    from mugv.stages.environment import RunEnvironment
    from mugv.store.base import Ref

    folder.mkdir(exist_ok=True)
    recipe = small_recipe(folder, *changes)
    environment = RunEnvironment(folder / "s", str(folder / "s" / "store"), "run1", tracking.uri, tracking.experiment, "", "")
    for name, value in environment.to_env().items():
        monkeypatch.setenv(name, value)
    inputs = {name: folder / name for name in ("evaluate", "checkpoint", "vae", "latents", "clips")}
    for each in inputs.values():
        each.mkdir()
        (each / "metrics.json").write_text(json.dumps({"t2v_seen_all": right / 40, "judge_reason": ""}))
    if math.isfinite(right):
        (inputs["evaluate"] / FILE).write_text(to_json(results(int(right))))
    refs = {name: Ref("file:///x", "k", "d") for name in inputs}
    for attempt in range(times):
        out = folder / f"attempt{attempt}"
        out.mkdir()
        register.run(StageContext(recipe, "register", 0, inputs, refs, out, folder))
    return json.loads((out / "registered.json").read_text())


def test_a_version_keeps_its_results_by_prompt_and_the_next_is_compared_with_them(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = [
        run_register(tracking, tmp_path / str(right), monkeypatch, right, "register.model=paired", f"evaluate.seed={right}")
        for right in (30, 31, 38)
    ]
    assert [(x["version"], x["champion"]) for x in said] == [("1", True), ("2", False), ("3", True)]
    assert "1 of 40 common prompts better, 0 worse; not significantly better than champion 1" in said[1]["reasons"][0]
    assert "8 of 40 common prompts better, 0 worse; significantly better than champion 1" in said[2]["reasons"][0]
    registry = Registry(tracking.uri)
    assert registry.results(registry.resolve("models:/paired@champion")) == results(38)


def test_a_model_whose_loss_is_no_number_is_registered_and_held_back(
    tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gate asked for the VAE alone, and a DiT of nan became champion."""
    said = run_register(tracking, tmp_path / "run", monkeypatch, float("nan"), "register.model=nan", "register.gate.compare=null")
    assert (said["version"], said["champion"], said["reasons"]) == ("1", False, ["t2v_seen_all is nan: no finite number"])
    assert Registry(tracking.uri).champion("nan") is None


def test_register_stage_does_not_register_twice_after_a_kill(tracking: Tracking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ("register.model=twice", "register.gate.minimum={t2v_seen_all: 0.5}")
    written = run_register(tracking, tmp_path / "run", monkeypatch, 24, *changes, times=2)
    registry = Registry(tracking.uri)
    assert len(registry.versions("twice")) == 1
    lineage = registry.lineage(registry.resolve("models:/twice@champion"))
    assert lineage["run"] == "run1"
    assert lineage["nodes"]["encode"]["inputs"] == {"clips": "curate", "vae": "train_vae"}
    assert (written["uri"], written["champion"]) == ("models:/twice/1", True)


@pytest.fixture
def digests(tracking: Tracking, tmp_path: Path) -> Registry:
    """A model of two versions, registered with the digests that their outputs have in a store."""
    store = open_store(tmp_path / "store")
    for k in range(2):
        artifacts, tags = {}, {}
        for name in ("checkpoint", "vae"):
            (tmp_path / name / "model").mkdir(parents=True)
            (tmp_path / name / "model" / "weights.bin").write_bytes(bytes([k]) * 1000)
            ref = store.publish(tmp_path / name, f"{name}/k{k}", f"k{k}")
            artifacts[name], tags[DIGEST + name] = store.fetch(ref), ref.digest
        version = log_version(tracking.uri, tracking.experiment, "", tmp_path.name, artifacts, {"run": "r"}, {})
        Registry(tracking).tag(version, tags)
    return Registry(tracking)


@pytest.mark.parametrize("harm", ["flipped", "cut", "removed", "manifest"])
def test_damaged_registered_model_is_one_line_for_generate_promote_and_rollback(digests: Registry, tmp_path: Path, harm: str) -> None:
    name = tmp_path.name
    first = digests.promote(name, "1", "test")
    digests.promote(name, "2", "test")
    folder = digests.download(first)["vae"]
    path = folder / ("manifest.json" if harm == "manifest" else "model/weights.bin")
    path.chmod(0o644)
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(b"x" if harm == "cut" else b"x" + path.read_bytes()[1:])
    for action in (lambda: digests.download(first), lambda: digests.promote(name, "1", "x"), lambda: digests.rollback(name)):
        if harm == "manifest":
            # The weights are whole, and their digest shows it.
            action()
            continue
        with pytest.raises(UserError, match=rf"model models:/{name}/1: \S+weights\.bin is damaged since it was registered") as caught:
            action()
        assert "\n" not in str(caught.value)
    assert harm == "manifest" or digests.champion(name).version == "2"  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["", "{", "a: [", "flavors: 5", "\0"])
def test_registered_model_with_a_damaged_description_is_one_line(digests: Registry, tmp_path: Path, text: str) -> None:
    version = digests.version(tmp_path.name, "1")
    next(p / "MLmodel" for p in digests.download(version)["vae"].parents if (p / "MLmodel").is_file()).write_text(text)
    with pytest.raises(UserError, match="its MLmodel cannot be read"):
        digests.download(version)


def test_tags_that_people_edited_stop_nothing(digests: Registry, tmp_path: Path) -> None:
    name = tmp_path.name
    digests.tag(digests.version(name, "1"), {"metric.all": "very good", "metric.colour": "0.5"})
    assert digests.version(name, "1").metrics == {"colour": 0.5}
    for text in ("", "1, 2", "{}", "null"):
        digests.client.set_registered_model_tag(name, HISTORY, text)
        assert digests.history(name) == []
    assert digests.promote(name, "1", "test").version == "1"
