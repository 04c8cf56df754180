"""What keys start from: found once, the same in every pod, and never for another recipe or other code."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from recipes import small_recipe

from mugv import digests
from mugv.errors import UserError
from mugv.recipe import Recipe, recipe_to_json
from mugv.stages.environment import RunEnvironment
from mugv.stages.execute import component_main, run_node
from mugv.stages.graph import build_graph, node_keys
from mugv.stages.roots import FILE_KEYS, Roots

FILES = ("align.labels", "weights.dit", "weights.vae", "curation.motion.weights", "curation.aesthetic.clip", "text.path")


def with_files(folder: Path) -> Recipe:
    """A recipe whose every file lies in `folder`."""
    folder.mkdir(parents=True)
    for name in FILES:
        (folder / name).mkdir()
        (folder / name / "weights.bin").write_text(name)
    return small_recipe(folder, *(f"{name}={folder / name}" for name in FILES))


def test_every_file_of_the_graph_is_known_as_one(tmp_path: Path) -> None:
    captioned = ("curation.caption.kind=transformers", "curation.caption.model=a/b")
    assert {path for node in build_graph(small_recipe(tmp_path, *captioned)) for path in node.files} == set(FILE_KEYS)


def test_keys_are_the_same_in_two_pods_with_other_times_and_other_places(tmp_path: Path) -> None:
    """A time or a place in a key would make every pod's key another one."""
    one, two = with_files(tmp_path / "one"), with_files(tmp_path / "two")
    for path in (tmp_path / "two").rglob("*"):
        os.utime(path, (1, 1))
    keys = node_keys(one, Roots.of(one)), node_keys(two, Roots.of(two))
    encoder = [name for name in keys[0] if keys[0][name] != keys[1][name]]
    assert encoder[0] == "encode", "what encode makes says where its text encoder lies"
    assert keys[0]["train_vae"] == keys[1]["train_vae"]
    same = two.model_copy(update={"text": one.text})
    assert node_keys(same, Roots.of(same)) == keys[0]


@pytest.mark.parametrize("name", FILES)
def test_other_content_of_the_same_size_and_time_is_another_file(tmp_path: Path, name: str) -> None:
    recipe = with_files(tmp_path / "files")
    path = tmp_path / "files" / name / "weights.bin"
    before, facts = Roots.of(recipe, tmp_path), path.stat()
    path.write_text(name.upper())
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    after = Roots.of(recipe, tmp_path)
    assert [key for key in before.files if before.files[key] != after.files[key]] == [name]


def test_large_files_are_hashed_once_and_a_damaged_memory_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = with_files(tmp_path / "files")
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
    before = Roots.of(recipe, tmp_path)
    hashed: list[Path] = []
    real = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: hashed.append(path) or real(path))
    assert Roots.of(recipe, tmp_path) == before
    assert hashed == []
    for text in ("", "[]", '{"a": 1}', "[" * 100_000):
        (tmp_path / "digests.json").write_text(text)
        assert Roots.of(recipe, tmp_path) == before
    assert len(hashed) == 4 * len(FILES)


def test_a_carried_file_is_known_by_its_address_and_never_opened(tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text("{}\n")
    local = Roots.of(small_recipe(tmp_path, f"align.labels={labels}"))
    digest = digests.file_digest(labels)
    for place in (f"s3://bucket/prefix/carried/{digest}/labels.jsonl", f"file:///nowhere/store/carried/{digest}/labels.jsonl"):
        carried = small_recipe(tmp_path, f"align.labels={place}")
        assert Roots.of(carried).files == local.files
        assert node_keys(carried, Roots.of(carried)) == node_keys(small_recipe(tmp_path, f"align.labels={labels}"), local)


def test_a_file_that_is_not_there_is_named_and_a_name_on_a_hub_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights\.vae: /nowhere cannot be read .No such file"):
        Roots.of(small_recipe(tmp_path, "weights.vae=/nowhere"))
    names = [Roots.of(small_recipe(tmp_path, f"text.path={name}")).files["text.path"] for name in ("a/b", "a/c")]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    "text", ["{", "[]", "7", '{"data": 1, "files": {}, "code": {}}', '{"data": "", "files": {"a": "b"}, "code": {}}', '{"x": 1}']
)
def test_roots_that_nobody_compiled_are_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="roots: not what `mugv compile` writes; leave the parameter as it was compiled, or empty"):
        Roots.parse(text, small_recipe(tmp_path))


@pytest.mark.parametrize("change", ["data.videos=/other", "data.captions=/other.jsonl", "weights.dit=/other", "align.labels=/other"])
def test_roots_of_other_data_or_files_are_refused(tmp_path: Path, change: str) -> None:
    """A recipe that is edited in Kubeflow's form would else be served the outputs of the old data."""
    text = Roots.of(small_recipe(tmp_path)).to_json()
    assert Roots.parse(text, small_recipe(tmp_path, "sft.steps=9")) == Roots.of(small_recipe(tmp_path))
    with pytest.raises(UserError, match="roots: found for a recipe with other data or files; compile or submit this recipe"):
        Roots.parse(text, small_recipe(tmp_path, change))


def test_roots_without_a_stage_of_the_recipe_are_one_line(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path)
    roots = Roots.of(recipe)
    with pytest.raises(UserError, match="roots: they say nothing of encode; they are those of another recipe or release: compile again"):
        node_keys(recipe, replace(roots, code={stage: code for stage, code in roots.code.items() if stage != "encode"}))


def environment_of(folder: Path, forwarded: bool) -> RunEnvironment:
    return RunEnvironment(folder / "state", str(folder / "state" / "store"), run="r1", forwarded=forwarded)


@pytest.mark.parametrize(("forwarded", "line"), [(True, "its code changed while the run"), (False, "this image holds other code than the")])
def test_code_other_than_that_of_the_run_makes_nothing(tmp_path: Path, forwarded: bool, line: str) -> None:
    recipe = small_recipe(tmp_path)
    roots = Roots.of(recipe)
    other = replace(roots, code={**roots.code, "sample_footage": "0" * 64})
    with pytest.raises(UserError, match=f"stage footage: {line}"):
        run_node("footage", recipe, {}, environment_of(tmp_path, forwarded), other)
    assert not (tmp_path / "state" / "store").exists()


def test_code_of_another_stage_is_no_concern_of_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of the data pool need not hold the code of the training pool."""
    recipe = small_recipe(tmp_path, "data.sample.shots=2", "data.sample.shots_per_file=2")
    roots = Roots.of(recipe)
    other = replace(roots, code={**roots.code, "evaluate": "0" * 64})
    assert run_node("footage", recipe, {}, environment_of(tmp_path, True), other).digest


def test_roots_of_the_pipeline_come_before_those_of_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that Kubeflow found in its cache hands on the roots of an older run."""
    recipe = small_recipe(tmp_path, "data.sample.shots=2", "data.sample.shots_per_file=2")
    monkeypatch.setenv("MUGV_STATE", str(tmp_path / "state"))
    roots = Roots.of(recipe)
    component_main("sample_footage", 0, recipe_to_json(recipe), {}, str(tmp_path / "footage"), roots.to_json())
    old = json.loads((tmp_path / "footage").read_text())
    old["roots"]["code"]["scan"] = "0" * 64
    (tmp_path / "footage").write_text(json.dumps(old))
    footage = {"footage": str(tmp_path / "footage")}
    component_main("scan", 0, recipe_to_json(recipe), footage, str(tmp_path / "scan"), roots.to_json())
    assert Roots(**json.loads((tmp_path / "scan").read_text())["roots"]) == roots
    with pytest.raises(SystemExit):
        component_main("curate_shard", 0, recipe_to_json(recipe), {**footage, "scan": str(tmp_path / "scan")}, str(tmp_path / "part"))
