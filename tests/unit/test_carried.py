"""Files that a recipe names on the machine that submits it reach a task that has none of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pipeline_recipes import full_recipe

from mugv.errors import StoreError, UserError
from mugv.platform.carry import FILES, MODELS, VIDEOS, carry_files
from mugv.recipe import Recipe, recipe_to_json
from mugv.recipe.load import part
from mugv.store import carried, open_store
from mugv.store.carried import carried_digest, carry, local_path

NO_PATHS = {
    "name",
    "dit_seed",
    "curation.caption.url",
    "curation.caption.key_variable",
    "curation.per_source.match",
    "data.dvc_revision",
    "pretrain.name",
    "register.model",
    "register.gate.compare",
    "resources.image_data",
    "resources.image_train",
}
"""Texts of a recipe that are neither a file nor a folder."""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUGV_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MUGV_STATE", str(tmp_path / "state"))
    return tmp_path / "store"


def test_one_content_is_carried_once_and_comes_back_whole(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "captions.jsonl"
    file.write_text("one\n")
    uri = carry(file, open_store(store), "data.captions")
    before = sorted(p.stat().st_mtime_ns for p in store.rglob("*.jsonl"))
    assert uri == carry(file, open_store(store), "data.captions")
    assert before == sorted(p.stat().st_mtime_ns for p in store.rglob("*.jsonl"))
    assert len(carried_digest(uri)) == 64
    assert local_path(uri).read_text() == "one\n"
    file.write_text("two\n")
    assert carried_digest(carry(file, open_store(store), "data.captions")) != carried_digest(uri)


def test_the_digest_of_a_folder_knows_contents_and_names_but_no_times(store: Path, tmp_path: Path) -> None:
    def folder(name: str, text: str, time: int) -> Path:
        (tmp_path / name / "deep").mkdir(parents=True)
        path = tmp_path / name / "deep" / "config.json"
        path.write_text(text)
        os.utime(path, (time, time))
        return tmp_path / name

    first, same, other = folder("a", "{}", 1), folder("b", "{}", 2), folder("c", "[]", 1)
    uris = [carry(path, open_store(store), "weights.vae") for path in (first, same, other)]
    assert carried_digest(uris[0]) == carried_digest(uris[1]) != carried_digest(uris[2])
    assert (local_path(uris[1]) / "deep" / "config.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["a b%23.jsonl", "manifest.json", ".hidden", "schnee\u2603.jsonl", "q?x#y.jsonl"])
def test_any_name_can_be_carried(store: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("text")
    assert local_path(carry(tmp_path / name, open_store(store), "align.labels")).read_text() == "text"


def test_a_changed_copy_is_not_used(store: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("right")
    path = local_path(carry(file, open_store(store), "align.labels"))
    uri = carry(file, open_store(store), "align.labels")
    path.chmod(0o644)
    path.write_text("wrong")
    with pytest.raises(StoreError, match="damaged"):
        local_path(uri)


def test_what_is_gone_from_the_store_is_one_line(store: Path) -> None:
    with pytest.raises(StoreError, match="is gone from the store; compile or submit the recipe again"):
        local_path(f"file://{store}/carried/{'0' * 64}/labels.jsonl")


def test_large_files_are_refused_with_the_other_way(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "LARGEST", 10)
    (tmp_path / "head.pth").write_bytes(bytes(11))
    with pytest.raises(
        UserError, match=r"curation.aesthetic.head: .*too large to be carried along .*; put it into the bucket and name it s3://"
    ):
        carry(tmp_path / "head.pth", open_store(store), "curation.aesthetic.head")
    assert not store.exists()


def with_values(values: dict[str, Any]) -> Recipe:
    tree = full_recipe().model_dump(mode="json", by_alias=True)
    for key, value in values.items():
        *above, name = key.split(".")
        node = tree
        for each in above:
            node = node[each]
        node[name] = value
    return Recipe.model_validate(tree)


def test_every_text_of_a_recipe_is_a_known_path_or_none() -> None:
    """A new key that names a file must be carried, or listed here as no path."""

    def texts(tree: Any, above: str) -> set[str]:
        found = set()
        for name, field in tree.model_fields.items():
            key = f"{above}{field.alias or name}"
            inner = [kind for kind in (field.annotation, *getattr(field.annotation, "__args__", ())) if hasattr(kind, "model_fields")]
            found |= texts(inner[0], f"{key}.") if inner else {key} if field.annotation in (str, str | None, tuple[str, ...]) else set()
        return found

    left = texts(Recipe, "") - {*FILES, *MODELS, VIDEOS} - NO_PATHS
    assert {key for key in left if not key.startswith(("resources.data", "resources.vae", "resources.train", "resources.slurm"))} == set()


def file_of(key: str) -> str:
    return "manifest.parquet" if key.endswith("earlier") else "config.json"


def test_every_key_with_a_file_is_carried(store: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {}
    for key in (*FILES, *MODELS):
        path = tmp_path / "mine" / key
        path.mkdir(parents=True)
        (path / file_of(key)).write_text(key)
        (path / "shards.tar").write_text("large")
        values[key] = [str(path)] if key.endswith("earlier") else str(path)
    recipe = with_values({**values, "text.kind": "t5", "curation.caption.kind": "transformers"})
    made, notes = carry_files(recipe)
    assert notes == []
    assert str(tmp_path / "mine") not in recipe_to_json(made)
    for key in values:
        value = part(made, key)
        (uri,) = value if isinstance(value, list) else [value]
        assert (local_path(uri) / file_of(key)).read_text() == key
        assert (local_path(uri) / "shards.tar").exists() == (key != "curation.duplicates.earlier"), "a clip set's videos stay at home"


def test_hub_names_volumes_and_buckets_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUGV_STORE", raising=False)
    values = {
        "data.videos": "/videos/all",
        "data.captions": "/videos/all/said.jsonl",
        "align.labels": "/mugv/labels.jsonl",
        "weights.vae": "s3://bucket/vae",
        "text.kind": "t5",
        "text.path": "google/t5-v1_1-small",
    }
    recipe = with_values(values)
    made, notes = carry_files(recipe)
    assert made == recipe
    assert len(notes) == 1
    assert "on the volume mugv-videos, mounted at /videos/all" in notes[0]


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("data.captions", "/nowhere/captions.jsonl", "is not on this machine"),
        ("align.labels", "labels.jsonl", "is not on this machine"),
        ("data.videos", "videos", "is a folder, which no task can read"),
        ("weights.vae", "vae", "is not on this machine"),
    ],
)
def test_what_no_task_could_read_is_refused(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, value: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    with pytest.raises(UserError, match=f"^{key}: .*{why}"):
        carry_files(with_values({key: value}))


def test_without_a_store_one_line_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MUGV_STORE", raising=False)
    (tmp_path / "labels.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"align.labels: .* must go into the cluster's store: set MUGV_STORE=s3://"):
        carry_files(with_values({"align.labels": str(tmp_path / "labels.jsonl")}))


def test_a_list_is_carried_only_when_its_videos_are_not_of_this_machine(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"uri": ["https://example.org/a.mp4", "s3://b/c.mp4"]}), "remote.parquet")
    pq.write_table(pa.table({"uri": ["a.mp4"]}), "local.parquet")
    made, _ = carry_files(with_values({"data.videos": "remote.parquet"}))
    assert carried_digest(made.data.videos or "")
    with pytest.raises(UserError, match=r"data.videos: local.parquet names files of this machine, such as a.mp4"):
        carry_files(with_values({"data.videos": "local.parquet"}))
    made, notes = carry_files(with_values({"data.videos": str(tmp_path / "local.parquet")}))
    assert made.data.videos == str(tmp_path / "local.parquet")
    assert f"mounted at {tmp_path}" in notes[0]
