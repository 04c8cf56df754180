"""Exactly the right nodes get a new key when something changes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from recipes import keys_of, small_recipe

from mugv.errors import UserError
from mugv.stages import code_digest as digests
from mugv.stages.graph import AFTER_SHARDS, build_graph, needed_nodes

CHAIN = ["curate_shard-0", "curate_shard-1", "curate", "train_vae", "encode", "pretrain-0", "pretrain-1", "sft", "candidates"]
CHAIN += ["align-0", "align-1", "evaluate", "register"]
ALL = ["footage", "scan", *CHAIN]


def changed(folder: Path, *overrides: str) -> list[str]:
    before, after = keys_of(small_recipe(folder)), keys_of(small_recipe(folder, *overrides))
    return [name for name in after if before.get(name) != after[name]]


@pytest.mark.parametrize(
    ("override", "first"),
    [
        ("data.sample.seed=5", "footage"),
        ("curation.sharpness.minimum=50", "curate_shard-0"),
        ("curation.duplicates.distance=3", "curate"),
        ("vae.train.phases.0.steps=9", "train_vae"),
        ("encode.batch=2", "encode"),
        ("pretrain.0.steps=9", "pretrain-0"),
        ("pretrain.1.expand.factor=4", "pretrain-0"),
        ("pretrain.1.steps=9", "pretrain-1"),
        ("sft.steps=9", "sft"),
        ("align.prompts=9", "candidates"),
        ("align.rounds.0.steps=9", "align-0"),
        ("align.rounds.1.steps=9", "align-1"),
        ("evaluate.clips=150", "evaluate"),
        ("register.gate.compare=i2v_all", "register"),
    ],
)
def test_changed_setting_reruns_its_stage_and_what_follows_and_nothing_before(tmp_path: Path, override: str, first: str) -> None:
    assert changed(tmp_path, override) == ALL[ALL.index(first) :]


@pytest.mark.parametrize("override", ["name=other", "resources.train.gpus=8", "data.dvc_revision=abc"])
def test_setting_that_changes_no_output_reruns_nothing(tmp_path: Path, override: str) -> None:
    assert changed(tmp_path, override) == []


MODEL = ("curation.caption.kind=endpoint", "curation.caption.url=http://a/v1", "curation.caption.model=small")


@pytest.mark.parametrize(
    "override",
    [
        "curation.caption.kind=transformers",
        "curation.caption.model=large",
        "curation.caption.frames=4",
        "curation.caption.language=de",
        "curation.tags.kind=endpoint",
    ],
)
def test_another_caption_model_decodes_nothing_again(tmp_path: Path, override: str) -> None:
    before, after = keys_of(small_recipe(tmp_path, *MODEL)), keys_of(small_recipe(tmp_path, *MODEL, override))
    assert [n for n in after if before[n] != after[n]] == ["caption-0", "caption-1", *CHAIN[CHAIN.index("curate") :]]


@pytest.mark.parametrize(
    "override",
    ["url=http://b/v1", "concurrency=1", "attempts=9", "timeout_seconds=1", "requests_a_minute=5", "price_output=2", "key_variable=KEY"],
)
def test_captions_that_were_paid_for_are_not_asked_again_for_another_address_or_rate(tmp_path: Path, override: str) -> None:
    recipes = [small_recipe(tmp_path, *MODEL), small_recipe(tmp_path, *MODEL, f"curation.caption.{override}")]
    assert keys_of(recipes[0]) == keys_of(recipes[1])


def test_other_weights_in_a_folder_caption_again(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    recipe = small_recipe(tmp_path, "curation.caption.kind=transformers", f"curation.caption.model={folder}")
    before = keys_of(recipe)
    (folder / "config.json").write_text('{"a": 1}')
    after = keys_of(recipe)
    assert [n for n in after if before[n] != after[n]][:3] == ["caption-0", "caption-1", "curate"]


def test_clips_of_an_earlier_set_count_by_their_content(tmp_path: Path) -> None:
    folder = tmp_path / "earlier"
    folder.mkdir()
    (folder / "manifest.parquet").write_bytes(b"one")
    recipe = small_recipe(tmp_path, f"curation.duplicates.earlier=[{folder}]")
    before = keys_of(recipe)
    (folder / "manifest.parquet").write_bytes(b"two")
    after = keys_of(recipe)
    assert [n for n in after if before[n] != after[n]] == CHAIN[CHAIN.index("curate") :]


def test_more_shards_rerun_only_the_shards(tmp_path: Path) -> None:
    assert changed(tmp_path, "data.shards=3") == ["scan", "curate_shard-0", "curate_shard-1", "curate_shard-2"]


def test_new_videos_rerun_everything(tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, f"data.videos={tmp_path}", "curation.require_caption=false")
    (tmp_path / "a.mp4").write_bytes(b"one")
    before = keys_of(recipe)
    (tmp_path / "a.mp4").write_bytes(b"two")
    after = keys_of(recipe)
    assert "footage" not in after
    assert all(before[name] != after[name] for name in after)


def test_shards_have_keys_of_their_own(tmp_path: Path) -> None:
    keys = keys_of(small_recipe(tmp_path))
    assert len(set(keys.values())) == len(keys) == len(ALL)


def test_labels_filled_by_people_rerun_the_alignment(tmp_path: Path) -> None:
    labels = tmp_path / "labels.jsonl"
    labels.write_text("{}\n")
    before = keys_of(small_recipe(tmp_path, f"align.labels={labels}"))
    labels.write_text('{"a": 1}\n')
    after = keys_of(small_recipe(tmp_path, f"align.labels={labels}"))
    assert [n for n in after if before[n] != after[n]] == ALL[ALL.index("align-0") :]
    labels.unlink()
    with pytest.raises(UserError, match=r"align\.labels: .*labels\.jsonl cannot be read"):
        keys_of(small_recipe(tmp_path, f"align.labels={labels}"))


def test_optional_stages_are_left_out_with_their_sections(tmp_path: Path) -> None:
    nodes = build_graph(small_recipe(tmp_path, "sft=null", "align=null"))
    assert [n.name for n in nodes][-3:] == ["pretrain-1", "evaluate", "register"]
    assert nodes[-2].inputs["checkpoint"] == "pretrain-1"


def test_every_input_is_an_earlier_node(tmp_path: Path) -> None:
    seen: set[str] = set()
    for node in build_graph(small_recipe(tmp_path)):
        assert set(node.inputs.values()) <= seen
        seen.add(node.name)
    assert len(seen) == len(ALL)


def test_only_outputs_that_somebody_will_read_are_made(tmp_path: Path) -> None:
    nodes = build_graph(small_recipe(tmp_path))
    assert needed_nodes(nodes, set()) == set(ALL)
    assert needed_nodes(nodes, set(ALL)) == {"register"}
    wanted = needed_nodes(nodes, set(ALL) - {"encode", "scan", "evaluate", "register"})
    assert wanted == {"register", "evaluate", "align-1", "encode", "train_vae", "curate"}


def test_a_run_for_the_clips_alone_makes_them_though_all_that_reads_them_is_there(tmp_path: Path) -> None:
    nodes = build_graph(small_recipe(tmp_path))
    assert needed_nodes(nodes, set(ALL) - {"curate"}) == {"register"}
    assert "curate" in needed_nodes(nodes, set(ALL) - {"curate"}, "curate")


@pytest.fixture
def code_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {
        "mugv/__init__.py": "",
        "mugv/stages/one.py": "def run():\n    from mugv.lib import (\n        first,\n        second as other,\n    )\n",
        "mugv/stages/two.py": 'COMMAND = ["-m", "mugv.lib.worker"]\nfrom mugv.cli.main import app\n',
        "mugv/lib/__init__.py": "",
        "mugv/lib/first.py": "import mugv.deep.helper\n",
        "mugv/lib/second.py": "",
        "mugv/lib/worker.py": "",
        "mugv/deep/__init__.py": "",
        "mugv/deep/helper.py": "",
        "mugv/deep/page.html.j2": "hello",
        "mugv/cli/main.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(digests, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("edited", "stages"),
    [
        ("mugv/stages/one.py", {"one"}),
        ("mugv/lib/second.py", {"one"}),
        ("mugv/deep/helper.py", {"one"}),
        ("mugv/deep/page.html.j2", {"one"}),
        ("mugv/lib/worker.py", {"two"}),
        ("mugv/lib/__init__.py", {"one", "two"}),
        ("mugv/cli/main.py", set()),
    ],
)
def test_edited_code_changes_the_stages_that_run_it_and_no_other(code_tree: Path, edited: str, stages: set[str]) -> None:
    def current() -> dict[str, str]:
        for cached in (digests._imports, digests._path, digests._source_digest):
            cached.cache_clear()
        return {s: digests.code_digest((f"mugv.stages.{s}",)) for s in ("one", "two")}

    before = current()
    (code_tree / edited).write_text((code_tree / edited).read_text() + "\n# edited\n")
    after = current()
    for cached in (digests._imports, digests._path, digests._source_digest):
        cached.cache_clear()
    assert {s for s in after if before[s] != after[s]} == stages


def test_graph_and_recipe_import_nothing_heavy() -> None:
    program = "import sys, mugv.stages.graph, mugv.recipe, mugv.stages.execute; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert not re.findall(r"'(torch|kfp|mlflow|av|cv2|pandas|minio|numpy)'", loaded)


def test_a_shard_is_the_same_whatever_is_done_with_it_later(tmp_path: Path) -> None:
    """Else a part from the store would differ from one made now."""
    from mugv.curation.source import curate_source
    from mugv.curation.sources import SourceFile
    from mugv.media.footage import plan, write_file

    sample = small_recipe(tmp_path, "data.sample.shots=3", "data.sample.shots_per_file=3").data.sample
    file = plan(sample)[0]
    write_file(file, tmp_path, sample)
    later = (
        "caption.language=de",
        "caption.score_suffix=true",
        "duplicates.distance=0",
        "validation_fraction=0.5",
        "balance.shares={a: 1}",
    )
    recipes = [small_recipe(tmp_path), small_recipe(tmp_path, *(f"curation.{change}" for change in later))]
    assert set(AFTER_SHARDS) == {change.partition(".")[0].partition("=")[0] for change in later} | {"tags"}
    source = SourceFile(file.name, "0" * 64, 1, ())
    made = [[repr((i.row, i.clip, i.strip)) for i in curate_source(source, tmp_path / file.name, r.curation)] for r in recipes]
    assert made[0] == made[1] != []


CHANGES_NO_RESULT = {
    "scan": "curation",  # whether a run without captions is refused
    "train_vae": "encode.batch",  # how many clips are measured at once
    "evaluate": "register.gate.minimum",  # bars beside the table; the report of a run draws them anew
}


def test_stages_read_only_the_parts_of_the_recipe_that_are_in_their_key(tmp_path: Path) -> None:
    """A setting that a stage reads but neither its key nor the keys of its inputs hold would serve stale outputs."""
    harmless = ("name", "data.videos", "data.captions", "data.dvc_revision")
    declared: dict[str, set[str]] = {}
    wrong = []
    for node in build_graph(small_recipe(tmp_path)):
        before = {part for source in node.inputs.values() for part in declared[source]}
        declared[node.name] = before | {*node.parts, *node.placement, *node.files}
        source = digests.ROOT / f"mugv/stages/{node.stage}.py"
        for path in re.findall(r"(?<!mugv\.)\brecipe\.([a-z_]+(?:\.[a-z_]+)*)", source.read_text() if source.is_file() else ""):
            path = path.replace("register_", "register").replace("dit_seed", "training_seed")
            allowed = (*declared[node.name], *harmless, CHANGES_NO_RESULT.get(node.stage, "name"))
            if not any(p == path or p.startswith(f"{path}.") or path.startswith(f"{p}.") for p in allowed):
                wrong.append(f"{node.stage} reads recipe.{path}, which is not in its key {node.parts}")
    assert not wrong, "\n".join(sorted(set(wrong)))
