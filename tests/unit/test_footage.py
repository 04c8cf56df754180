"""The sample footage: deterministic, honest about what it planted, and free of what the evaluation holds out."""

import json

import pytest
from footage_tools import context, recipe_for

from mugv.media.decode import VideoReader, read_video
from mugv.media.footage import plan
from mugv.media.probe import UnreadableVideoError
from mugv.media.shapes import held_out_combinations, parse_caption
from mugv.recipe.schema import SampleFootage
from mugv.stages import sample_footage

SMALL = ("data.sample.shots=24", "data.sample.shots_per_file=8", "data.sample.shot_frames=[22,26]")


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    root = tmp_path_factory.mktemp("footage")
    ctx = context(root, "footage", recipe_for(root, *SMALL))
    return ctx.out, sample_footage.run(ctx)


def test_the_same_seed_gives_the_same_bytes(footage, tmp_path):
    ctx = context(tmp_path, "footage", recipe_for(tmp_path, *SMALL))
    sample_footage.run(ctx)
    names = sorted(p.name for p in ctx.out.iterdir())
    assert names == sorted(p.name for p in footage[0].iterdir())
    assert all((ctx.out / name).read_bytes() == (footage[0] / name).read_bytes() for name in names)


def test_another_seed_gives_other_shots():
    assert plan(SampleFootage(shots=24, seed=1)) != plan(SampleFootage(shots=24, seed=0))


def test_every_kind_of_defect_is_there_and_in_the_truth(footage):
    truth = json.loads((footage[0] / "truth.json").read_text())
    kinds = {shot["kind"] for file in truth["files"].values() for shot in file["shots"]}
    assert kinds == {"clean", "blur", "frozen", "fast", "duplicate"}
    assert {file["kind"] for file in truth["files"].values()} == {"footage", "copy", "reencoded", "truncated", "text"}
    assert footage[1]["shots"] == 24


def test_truth_and_files_have_the_same_number_of_frames(footage):
    truth = json.loads((footage[0] / "truth.json").read_text())
    for name, file in truth["files"].items():
        if file["kind"] in ("footage", "copy", "reencoded"):
            assert len(read_video(footage[0] / name)[0]) == file["frames"], name


def test_no_footage_shows_a_held_out_combination(footage):
    lines = [json.loads(line) for line in (footage[0] / "captions.jsonl").read_text().splitlines()]
    seen = {parse_caption(line["caption"]) for line in lines}
    assert None not in seen
    assert not seen & set(held_out_combinations())


def test_combinations_are_balanced():
    shots = [s for f in plan(SampleFootage(shots=120)) if f.kind == "footage" for s in f.shots if s.kind == "clean"]
    counts = {c: sum(s.combination == c for s in shots) for c in {s.combination for s in shots}}
    assert len(counts) == 60
    assert set(counts.values()) == {2}


def test_all_three_joins_occur_in_the_default_footage():
    joins = [s.join for f in plan(SampleFootage(shots=400)) for s in f.shots]
    assert all(joins.count(join) >= 10 for join in ("cut", "crossfade", "fade"))


def test_broken_files_are_broken(footage):
    reader = VideoReader(footage[0] / "truncated.mp4")
    assert sum(1 for _ in reader) > 0
    assert reader.problem
    with pytest.raises(UnreadableVideoError):
        read_video(footage[0] / "not_a_video.mp4")


def test_two_sources_exist_even_for_two_shots():
    assert sum(f.kind == "footage" for f in plan(SampleFootage(shots=2))) == 2
