"""What an earlier run curated is taken over: the same bytes as without it, and never more than is the same."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from footage_tools import context, encode, recipe_for, shot

from mugv.curation import shard as module
from mugv.curation.reuse import take_over
from mugv.curation.rows import ClipRow, read_rows
from mugv.curation.source import Item
from mugv.curation.sources import SourceFile
from mugv.recipe.curation import Curation
from mugv.stages import curate, curate_shard, scan
from mugv.stages.earlier import Earlier
from mugv.store.directory import DirectoryStore


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for k, name in enumerate("abc"):
        encode(folder / f"{name}.mp4", np.concatenate([shot(2 * k + 1), shot(2 * k + 2)]), fps=12)
    (folder / "broken.mp4").write_bytes(b"no video at all")
    return folder


def run(
    root: Path, videos: Path, store: DirectoryStore | None, shards: int = 1, made_with: str = "one", **curation: object
) -> dict[str, float]:
    """Metrics of all shards together, whose parts are then in the store; the clip set lies in root/curate/out."""
    recipe = recipe_for(root, f"data.videos={videos}", f"data.shards={shards}", **{"require_caption": False, **curation})
    scanned = context(root, "scan", recipe)
    scan.run(scanned)
    total, parts = {"sources_taken_over": 0.0, "frames": 0.0}, {}
    for k in range(shards):
        ctx = context(root, f"curate_shard-{k}", recipe, {"scan": scanned.out}, k)
        if store:
            ctx = replace(ctx, earlier=Earlier(store, "curate_shard", made_with, ctx.work))
        metrics = curate_shard.run(ctx)
        total = {name: total[name] + metrics[name] for name in total}
        parts[f"parts/{k}"] = shutil.copytree(ctx.out, root / "parts" / str(k))
        if store:
            store.publish(ctx.out, f"curate_shard/{root.name}{k}", f"{root.name}{k}")
    curate.run(context(root, "curate", recipe, parts))
    return total


def published(root: Path) -> dict[str, bytes]:
    out = root / "curate/out"
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def frames_of(*names: str, shots: int = 2) -> float:
    return sum(shots * len(shot(1)) for _ in names)


def test_a_source_more_is_decoded_alone_and_the_clip_set_is_that_of_a_run_from_nothing(tmp_path, videos, capsys):
    store, later = DirectoryStore(tmp_path / "store"), videos / "c.mp4"
    data = later.read_bytes()
    later.unlink()
    run(tmp_path / "first", videos, store)
    later.write_bytes(data)
    # Another number of shards puts the old sources elsewhere.
    second = run(tmp_path / "second", videos, store, shards=2)
    assert second == {"sources_taken_over": 3, "frames": frames_of("c")}
    assert "taken over from earlier runs" in capsys.readouterr().out
    run(tmp_path / "fresh", videos, None, shards=2)
    assert published(tmp_path / "second") == published(tmp_path / "fresh")
    # Parts that were taken over are taken over again.
    assert run(tmp_path / "third", videos, store) == {"sources_taken_over": 4, "frames": 0}


def test_a_source_is_curated_again_when_what_is_said_of_it_changed(tmp_path, videos):
    store = DirectoryStore(tmp_path / "store")
    run(tmp_path / "first", videos, store)
    captions = videos / "captions.jsonl"
    captions.write_text(json.dumps({"source": "a.mp4", "caption": "a new word"}) + "\n")
    assert run(tmp_path / "second", videos, store) == {"sources_taken_over": 3, "frames": frames_of("a")}
    rows = [row for row in read_rows(tmp_path / "second/curate/out/manifest.parquet") if row.source == "a.mp4"]
    assert {row.caption for row in rows if row.status == "kept"} == {"a new word"}
    (videos / "a.mp4").rename(videos / "z.mp4")
    captions.unlink()
    assert run(tmp_path / "third", videos, store) == {"sources_taken_over": 3, "frames": frames_of("z")}


def test_nothing_is_taken_over_from_another_recipe_or_other_code(tmp_path, videos):
    store = DirectoryStore(tmp_path / "store")
    run(tmp_path / "first", videos, store)
    assert run(tmp_path / "second", videos, store, made_with="two") == {"sources_taken_over": 0, "frames": frames_of(*"abc")}


def test_a_source_that_could_not_be_had_is_tried_again(tmp_path, videos):
    table = tmp_path / "list.parquet"
    import pyarrow as pa

    pq.write_table(pa.table({"uri": [str(videos / "a.mp4"), str(videos / "gone.mp4")]}), table)
    store = DirectoryStore(tmp_path / "store")
    run(tmp_path / "first", table, store)
    assert run(tmp_path / "second", table, store)["sources_taken_over"] == 1


@pytest.mark.parametrize("harm", ["clips-0.tar", "contents.json", "manifest.json"])
def test_a_damaged_earlier_output_is_said_and_passed_over(tmp_path, videos, caplog, harm):
    store = DirectoryStore(tmp_path / "store")
    run(tmp_path / "first", videos, store)
    path = tmp_path / "store/curate_shard/first0" / harm
    path.chmod(0o644)
    if harm == "manifest.json":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    assert run(tmp_path / "second", videos, store) == {"sources_taken_over": 0, "frames": frames_of(*"abc")}
    assert harm == "manifest.json" or "nothing is taken over" in caplog.text


def test_embeddings_come_along(tmp_path, monkeypatch):
    """The arithmetic of a CLIP model is tested elsewhere."""

    def items(source: SourceFile, *_: object):
        for k in range(2):
            row = ClipRow(f"{source.name}-{k}", source.name, source.digest, status="kept")
            yield Item(row, b"clip", embedding=np.full(4, k + ord(source.name), np.float32))

    monkeypatch.setattr(module, "curate_source", items)
    for name in "ab":
        (tmp_path / name).write_bytes(b"x")
    sources = [SourceFile(name, 64 * name, 1, ()) for name in "ab"]

    def shard(name: str, some: list[SourceFile]) -> tuple[module.Finished, Path]:
        out = tmp_path / name
        out.mkdir()
        finished = module.curate_shard(some, module.Access(tmp_path), Curation(), tmp_path / f"{name}.work", lambda *_: None)
        module.write_part(finished, out, 0)
        return finished, out

    finished, part = shard("first", sources)
    monkeypatch.setattr(module, "curate_source", None)
    outputs = [(module.held(finished), lambda: part)]
    assert take_over(sources[1:], outputs, tmp_path / "second.work") == 1
    _, second = shard("second", sources[1:])
    assert pq.read_table(second / "embeddings.parquet").to_pylist() == pq.read_table(part / "embeddings.parquet").to_pylist()[2:]


def test_names_in_an_earlier_part_lead_out_of_no_folder(tmp_path, monkeypatch):
    names = ["a-0", "../../../out", "/tmp/mugv-never"]

    def items(source: SourceFile, *_: object):
        yield from (Item(ClipRow(name, source.name, source.digest, status="kept")) for name in names)

    monkeypatch.setattr(module, "curate_source", items)
    (tmp_path / "a").write_bytes(b"x")
    source = SourceFile("a", 64 * "a", 1, ())
    finished = module.curate_shard([source], module.Access(tmp_path), Curation(), tmp_path / "first.work", lambda *_: None)
    part = tmp_path / "part"
    part.mkdir()
    module.write_part(finished, part, 0)
    wrong = [f"{name}.mp4" for name in names[1:]] + ["../../x/a-0.mp4", "sub/a-0.mp4", "a-0.sh", "a-0.mp4/../../x"]
    module.write_tar(part / "clips-0.tar", [(name, b"clip") for name in ["a-0.mp4", *wrong]])
    before = set(tmp_path.rglob("*"))
    home = tmp_path / "deep/down/work"
    assert take_over([source], [(module.held(finished), lambda: part)], home) == 1
    made = {p.relative_to(home / module.home_name(source)).as_posix() for p in set(tmp_path.rglob("*")) - before if p.is_file()}
    assert made == {"a-0.mp4", "rows.parquet", "meter.json"}
    assert not Path("/tmp/mugv-never.mp4").exists()
