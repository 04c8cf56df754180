"""Running a node: hits, resumes, failures and what they leave behind. The stages here are tiny, the machinery is the real one."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from recipes import keys_of, small_recipe
from torch.distributed.checkpoint import CheckpointException

from mugv.errors import StoreError, UserError
from mugv.recipe import Recipe, recipe_to_json
from mugv.stages.base import StageContext
from mugv.stages.earlier import Earlier
from mugv.stages.environment import RunEnvironment
from mugv.stages.execute import component_main, run_node
from mugv.stages.roots import Roots
from mugv.store.base import Ref
from mugv.store.directory import _signature
from mugv.store.manifest import Manifest

STAGE = "mugv.stages.sample_footage"


@pytest.fixture
def environment(tmp_path: Path) -> RunEnvironment:
    return RunEnvironment(tmp_path / "state", str(tmp_path / "state" / "store"), run="r1", forwarded=True)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return small_recipe(tmp_path)


def install(monkeypatch: pytest.MonkeyPatch, run: Any, stage: str = STAGE) -> None:
    module = ModuleType(stage)
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stage, module)


def write_one(ctx: StageContext) -> dict[str, float]:
    (ctx.out / "a.txt").write_text("a")
    (ctx.work / "inner").mkdir()
    (ctx.work / "inner" / "metrics.jsonl").write_text('{"step": 0, "time": 1.0, "loss": 2.0}\n')
    return {"files": 1}


def test_stage_output_is_published_recorded_and_its_work_removed(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, write_one)
    ref = run_node("footage", recipe, {}, environment, Roots.of(recipe))
    assert (environment.open_store().fetch(ref) / "a.txt").read_text() == "a"
    record = environment.record().stage("footage")
    assert record["status"] == "ran"
    assert record["metrics"] == {"files": 1.0}
    assert record["params"]["data.sample.fps"] == 12
    assert not (environment.state / "work" / ref.key).exists()
    assert (environment.record().curves("footage") / "inner" / "metrics.jsonl").is_file()


def test_second_run_is_a_hit_and_runs_no_stage(environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, write_one)
    first = run_node("footage", recipe, {}, environment, Roots.of(recipe))
    install(monkeypatch, lambda ctx: pytest.fail("the stage ran again"))
    assert run_node("footage", recipe, {}, environment, Roots.of(recipe)) == first
    assert environment.record().stage("footage")["status"] == "hit"


def test_killed_stage_goes_on_from_its_work_folder(environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def dies(ctx: StageContext) -> dict[str, float]:
        (ctx.work / "half").write_text("half")
        (ctx.out / "half").write_text("half")
        raise KeyboardInterrupt

    def goes_on(ctx: StageContext) -> dict[str, float]:
        assert (ctx.work / "half").read_text() == "half"
        assert list(ctx.out.iterdir()) == []
        (ctx.out / "whole").write_text("whole")
        return {}

    install(monkeypatch, dies)
    with pytest.raises(KeyboardInterrupt):
        run_node("footage", recipe, {}, environment, Roots.of(recipe))
    assert environment.record().stage("footage")["status"] == "interrupted"
    install(monkeypatch, goes_on)
    ref = run_node("footage", recipe, {}, environment, Roots.of(recipe))
    assert environment.record().stage("footage")["status"] == "resumed"
    assert sorted(p.name for p in environment.open_store().fetch(ref).iterdir()) == ["manifest.json", "whole"]


def test_users_mistake_in_a_stage_is_recorded_as_one_line(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(ctx: StageContext) -> dict[str, float]:
        raise UserError("captions.jsonl line 3: not JSON")

    install(monkeypatch, refuses)
    with pytest.raises(UserError):
        run_node("footage", recipe, {}, environment, Roots.of(recipe))
    record = environment.record().stage("footage")
    assert (record["status"], record["user_error"], record["error"]) == ("failed", True, "captions.jsonl line 3: not JSON")


def test_defect_in_a_stage_keeps_its_traceback(environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(ctx: StageContext) -> dict[str, float]:
        return {"x": [][1]}

    install(monkeypatch, breaks)
    with pytest.raises(IndexError):
        run_node("footage", recipe, {}, environment, Roots.of(recipe))
    record = environment.record().stage("footage")
    assert record["user_error"] is False
    assert "in breaks" in record["traceback"]


def test_output_that_nothing_will_read_is_not_made(environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, write_one, "mugv.stages.scan")
    empty = environment.state / "empty"
    empty.mkdir(parents=True)
    keys = keys_of(recipe)
    environment.open_store().publish(empty, f"register/{keys['register']}", keys["register"])
    assert run_node("footage", recipe, {}, environment, Roots.of(recipe)) == Ref("", keys["footage"], "")
    assert environment.record().stage("footage")["status"] == "not needed"


def test_missing_and_vanished_inputs_are_named(environment: RunEnvironment, recipe: Recipe) -> None:
    with pytest.raises(UserError, match="stage scan: input footage is missing; it reads footage"):
        run_node("scan", recipe, {}, environment, Roots.of(recipe))
    ref = Ref("file:///x", keys_of(recipe)["footage"], "d" * 64)
    with pytest.raises(StoreError, match="stage scan: the output of footage was removed from the store during the run; run again"):
        run_node("scan", recipe, {"footage": ref}, environment, Roots.of(recipe))
    on_a_cluster = replace(environment, forwarded=False, run="r2")
    with pytest.raises(StoreError, match=r"of footage is not in file://.* any more; Kubeflow .* cache: submit again, which looks in"):
        run_node("scan", recipe, {"footage": ref}, on_a_cluster, Roots.of(recipe))


def test_an_output_that_was_made_anew_is_read_though_kubeflow_remembers_the_old_one(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key says what an output is; the digest that a cached task hands on may be that of a copy that was removed."""
    install(monkeypatch, write_one)
    made = run_node("footage", recipe, {}, environment, Roots.of(recipe))
    seen = []
    install(monkeypatch, lambda ctx: seen.append((ctx.refs["footage"], (ctx.inputs["footage"] / "a.txt").read_text())), "mugv.stages.scan")
    for remembered in (Ref("s3://old/footage", made.key, "0" * 64), Ref("", made.key, "")):
        environment.open_store().remove("scan")
        run_node("scan", recipe, {"footage": remembered}, environment, Roots.of(recipe))
    assert seen == [(made, "a")] * 2


def test_the_merge_names_the_shards_that_are_gone(environment: RunEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(tmp_path, "data.shards=30")
    keys, store = keys_of(recipe), environment.open_store()
    for i in range(30):
        (tmp_path / "part").mkdir()
        (tmp_path / "part" / "number").write_text(str(i))
        store.publish(tmp_path / "part", f"curate_shard/{keys[f'curate_shard-{i}']}", keys[f"curate_shard-{i}"])
    order = []
    install(monkeypatch, lambda ctx: order.extend((path / "number").read_text() for path in ctx.inputs.values()), "mugv.stages.curate")
    run_node("curate", recipe, {}, environment, Roots.of(recipe))
    assert order == [str(i) for i in range(30)]
    assert environment.record().stage("curate")["inputs"] == {}, "of 10,000 it would be megabytes, written again with every change"
    store.remove("curate")
    for i in (3, 5, 8, 13, 21):
        store.remove(f"curate_shard/{keys[f'curate_shard-{i}']}")
    line = "stage curate: the output of curate_shard-3, curate_shard-5, curate_shard-8, curate_shard-13 and 1 more was removed"
    with pytest.raises(StoreError, match=line):
        run_node("curate", recipe, {}, environment, Roots.of(recipe))


def test_code_that_changes_during_a_run_cannot_put_old_results_under_new_keys(environment: RunEnvironment, recipe: Recipe) -> None:
    with pytest.raises(UserError, match="stage scan: recipe, code or data of footage changed while the run was going on; run again"):
        run_node("scan", recipe, {"footage": Ref("file:///x", "key of the old code", "digest")}, environment, Roots.of(recipe))


def test_component_manifests_carry_output_and_roots(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in environment.to_env().items():
        monkeypatch.setenv(name, value)
    install(monkeypatch, write_one)
    install(monkeypatch, write_one, "mugv.stages.scan")
    text = recipe_to_json(recipe)
    component_main("sample_footage", 0, text, {}, str(tmp_path / "footage"))
    component_main("scan", 0, text, {"footage": str(tmp_path / "footage")}, str(tmp_path / "scan"))
    manifest = json.loads((tmp_path / "scan").read_text())
    assert set(manifest) == {"uri", "key", "digest", "stage", "node", "roots"}
    assert (manifest["stage"], Roots(**manifest["roots"])) == ("scan", Roots.of(recipe))
    timing = environment.record().stage("scan")["timing"]
    assert timing["process"] < timing["entered"] <= timing["left"]


def test_component_with_users_mistake_prints_one_line_and_exits_2(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUGV_STATE", str(tmp_path / "state"))
    with pytest.raises(SystemExit) as caught:
        component_main("scan", 0, recipe_to_json(recipe), {}, str(tmp_path / "scan"))
    assert caught.value.code == 2
    assert capfd.readouterr().out == "mugv-error: stage scan: input footage is missing; it reads footage\n"


def test_hit_is_fast_and_imports_neither_torch_nor_mlflow(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, write_one)
    run_node("footage", recipe, {}, environment, Roots.of(recipe))
    (tmp_path / "recipe.json").write_text(recipe_to_json(recipe))
    program = (
        "import sys, time\nfrom mugv.stages.execute import component_main\nbegan = time.process_time()\n"
        f"component_main('sample_footage', 0, open({str(tmp_path / 'recipe.json')!r}).read(), {{}}, {str(tmp_path / 'm')!r})\n"
        "print(time.process_time() - began, *[m for m in ('torch', 'mlflow', 'kfp', 'numpy', 'minio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment.to_env()}, capture_output=True, text=True, check=True
    )
    seconds, *heavy = done.stdout.split()
    assert heavy == []
    assert float(seconds) < 0.25


def test_terminated_stage_leaves_its_work_for_the_next_run(environment: RunEnvironment, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(recipe_to_json(recipe))
    program = (
        "import sys, time, types\nfrom mugv.stages.execute import component_main\nmodule = types.ModuleType('x')\n"
        "def run(ctx):\n    (ctx.work / 'half').write_text('')\n    print('ready', flush=True)\n    time.sleep(60)\n"
        f"module.run = run\nsys.modules[{STAGE!r}] = module\n"
        f"component_main('sample_footage', 0, open({str(tmp_path / 'recipe.json')!r}).read(), {{}}, {str(tmp_path / 'm')!r})\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, **environment.to_env()}, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    began = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert child.wait(20) == 128 + signal.SIGTERM
    assert time.monotonic() - began < 10
    record = environment.record().stage("footage")
    assert record["status"] == "interrupted"
    assert (Path(record["work"]) / "half").is_file()


def test_failure_before_a_stage_begins_is_recorded_too(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "MUGV_S3_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError):
        run_node("footage", recipe, {}, replace(environment, store="s3://bucket/x"), Roots.of(recipe))
    record = environment.record().stage("footage")
    assert (record["status"], record["user_error"]) == ("failed", True)
    assert "no keys; set MUGV_S3_ACCESS_KEY" in record["error"]


def test_torch_that_cannot_write_a_checkpoint_is_the_line_of_a_full_disk(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def writes(ctx: StageContext) -> dict[str, float]:
        raise CheckpointException("write", {0: (RuntimeError("basic_ios::clear: iostream error"), None)})

    install(monkeypatch, writes)
    with pytest.raises(StoreError, match=r"could not be written whole .disk full, or over a quota.; free some space and run again"):
        run_node("footage", recipe, {}, environment, Roots.of(recipe))
    assert environment.record().stage("footage")["user_error"] is True


def test_weights_that_rotted_in_the_store_are_seen_when_a_stage_reads_them(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = environment.state / "vae"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"a" * 100)
    (environment.state / "clips").mkdir()
    keys, store = keys_of(recipe), environment.open_store()
    refs = {"clips": store.publish(environment.state / "clips", f"curate/{keys['curate']}", keys["curate"])}
    refs["vae"] = store.publish(folder, f"train_vae/{keys['train_vae']}", keys["train_vae"])
    file = store.fetch(refs["vae"]) / "model.safetensors"
    file.chmod(0o644)
    file.write_bytes(b"b" * 100)
    # As a failing disk does it: no time changes, so the store's own mark still fits.
    manifest = Manifest.parse((file.parent / "manifest.json").read_bytes())
    (environment.state / "store" / ".checked" / keys["train_vae"]).write_text(_signature(file.parent, manifest))
    install(monkeypatch, lambda ctx: pytest.fail("the stage read it"), "mugv.stages.encode")
    with pytest.raises(StoreError, match=r"model\.safetensors: damaged since it was published"):
        run_node("encode", recipe, refs, environment, Roots.of(recipe))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"uri": 1, "key": "k", "digest": "d"}', '{"uri": "u"}'])
def test_damaged_manifest_of_an_earlier_task_is_one_line(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setenv("MUGV_STATE", str(tmp_path / "state"))
    (tmp_path / "footage").write_text(text)
    with pytest.raises(SystemExit) as caught:
        component_main("scan", 0, recipe_to_json(recipe), {"footage": str(tmp_path / "footage")}, str(tmp_path / "scan"))
    assert caught.value.code == 2
    assert "is not the manifest of an earlier task's output; run again\n" in capfd.readouterr().out


CONTENTS = ["", "[]", "7", '{"made_with": "m", "holds": 5}', '{"made_with": "m"}', "[" * 100_000, '{"made_with": "m", "holds": {"a": "b"}}']


@pytest.mark.parametrize("text", CONTENTS)
def test_damaged_contents_of_an_earlier_output_are_not_taken_over(environment: RunEnvironment, tmp_path: Path, text: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "contents.json").write_text(text)
    store = environment.open_store()
    store.publish(tmp_path / "out", "scan/k", "k")
    held = [holds for holds, _ in Earlier(store, "scan", "m", tmp_path).outputs()]
    assert held == ([{"a": "b"}] if '"b"' in text else [])
