"""captions.jsonl and the folder of videos: each mistake is one line that names file and line."""

import json
import subprocess
import sys

import pytest
from footage_tools import context, recipe_for

from mugv.curation.source import caption_for
from mugv.curation.sources import Caption, assign_shards, digest_of, table_digest
from mugv.curation.sources_read import read_sources
from mugv.errors import UserError
from mugv.stages import scan

GOOD = {"source": "a.mp4", "start": 0, "end": 2, "caption": "a red bar"}


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    for k, name in enumerate(["a.mp4", "b.MOV", "more/c.webm", "notes.txt"]):
        (folder / name).write_bytes(bytes([k]) * (100 + k))
    return folder


def write(folder, *lines):
    (folder / "captions.jsonl").write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, "", "{'no': json}"], "captions.jsonl line 3: invalid JSON"),
        ([GOOD, {"source": "x.mp4", "caption": "c"}], "captions.jsonl line 2: source 'x.mp4' is not in "),
        ([GOOD, {**GOOD, "caption": "other"}], "captions.jsonl line 2: duplicate key, 'a.mp4' .* already has a caption on line 1"),
        ([{"source": "a.mp4", "caption": "c"}, {"source": "a.mp4", "caption": "d"}], r"line 2: duplicate key, 'a.mp4' \(the whole file\)"),
        ([{**GOOD, "start": 2}], "captions.jsonl line 1: start 2 must be less than end 2"),
        ([{"source": "a.mp4"}], "captions.jsonl line 1: missing key 'caption'"),
        ([{"caption": "c"}], "captions.jsonl line 1: missing key 'source'"),
        ([{**GOOD, "caption": " "}], "line 1: 'caption' must be text"),
        ([{**GOOD, "start": "0"}], "line 1: 'start' must be seconds"),
        ([{**GOOD, "begin": 0}], "line 1: unknown key 'begin'; accepted: source, start, end, caption, licence"),
        (["[1]"], r"line 1: no object but \[1\]; expected a line such as {\"source\""),
        ([{"source": "a.mp4", "licence": 4}], "line 1: 'licence' must be text, got 4"),
        ([{**GOOD, "licence": "CC0"}, {"source": "a.mp4", "licence": "MIT"}], "line 2: licence 'MIT' of 'a.mp4', but line 1 says 'CC0'"),
    ],
)
def test_a_wrong_line_is_named(videos, lines, message):
    write(videos, *lines)
    with pytest.raises(UserError, match=message) as error:
        read_sources(videos, None)
    assert "\n" not in str(error.value)


def test_text_in_another_encoding_names_its_line(videos):
    (videos / "captions.jsonl").write_bytes(json.dumps(GOOD).encode() + b"\n\xff\xfe\n")
    with pytest.raises(UserError, match="line 2: not UTF-8"):
        read_sources(videos, None)


def test_a_captions_file_that_is_not_there_is_an_error_not_silence(videos):
    with pytest.raises(UserError, match="cannot be read"):
        read_sources(videos, str(videos / "nothing.jsonl"))


def test_folder_mistakes_are_told_apart(tmp_path, videos):
    (tmp_path / "empty").mkdir()
    cases = {"empty": "no video files", "missing": "no such folder", "videos/a.mp4": "not a folder"}
    for name, message in cases.items():
        with pytest.raises(UserError, match=message):
            scan.data_digest(recipe_for(tmp_path, f"data.videos={tmp_path / name}"))
    with pytest.raises(UserError, match=r"data\.videos https://host/x: scheme 'https' is not supported; use a path, file://, or s3://"):
        scan.data_digest(recipe_for(tmp_path, "data.videos=https://host/x"))


def test_sources_are_found_at_any_depth_and_only_videos(videos):
    write(videos, GOOD, {"source": "more/c.webm", "caption": "whole"})
    sources = read_sources(videos, None)
    assert [s.name for s in sources] == ["a.mp4", "b.MOV", "more/c.webm"]
    assert sources[0].captions == (Caption(0.0, 2.0, "a red bar"),)
    assert sources[2].captions[0].end is None


def test_of_files_with_the_same_bytes_the_first_stays(videos):
    (videos / "z.mp4").write_bytes((videos / "a.mp4").read_bytes())
    assert {s.name: s.duplicate_of for s in read_sources(videos, None)}["z.mp4"] == "a.mp4"


def test_shards_are_balanced_and_complete(videos):
    for k in range(9):
        (videos / f"x{k}.mp4").write_bytes(bytes([k]) * 1000 * (k + 1))
    sources = assign_shards(read_sources(videos, None), 3)
    loads = [sum(s.bytes for s in sources if s.shard == k) for k in range(3)]
    assert sum(loads) == sum(s.bytes for s in sources)
    assert max(loads) < 1.2 * min(loads)


def test_the_digest_follows_contents_names_and_captions_only(videos, tmp_path):
    recipe = recipe_for(tmp_path, f"data.videos={videos.as_uri()}", require_caption=False)
    before = scan.data_digest(recipe, tmp_path)
    (videos / "a.mp4").touch()
    (videos / "notes.txt").write_text("changed")
    assert scan.data_digest(recipe, tmp_path) == before == scan.data_digest(recipe)
    write(videos, GOOD)
    captioned = scan.data_digest(recipe, tmp_path)
    (videos / "a.mp4").write_bytes(b"other")
    assert len({before, captioned, scan.data_digest(recipe, tmp_path)}) == 3


def test_scan_and_digest_agree_and_a_wrong_caption_stops_both(videos, tmp_path):
    recipe = recipe_for(tmp_path, f"data.videos={videos}", require_caption=False)
    ctx = context(tmp_path, "scan", recipe)
    assert scan.run(ctx)["sources"] == 3
    assert table_digest(ctx.out / "sources.parquet") == scan.data_digest(recipe) == digest_of(read_sources(videos, None))
    write(videos, "{")
    with pytest.raises(UserError, match="line 1"):
        scan.data_digest(recipe)


def test_scan_imports_nothing_heavy():
    code = "import sys, mugv.stages.scan; print([m for m in ('av', 'cv2', 'numpy', 'torch', 'pyarrow', 'scenedetect') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_licence_stands_alone_or_beside_captions_and_changes_the_digest(videos):
    before = digest_of(read_sources(videos))
    write(videos, {**GOOD, "licence": "CC BY 4.0"}, {"source": "b.MOV", "licence": "CC0"})
    sources = {s.name: s for s in read_sources(videos)}
    assert (sources["a.mp4"].licence, sources["b.MOV"].licence, sources["more/c.webm"].licence) == ("CC BY 4.0", "CC0", "")
    assert sources["b.MOV"].captions == ()
    (videos / "captions.jsonl").write_text(json.dumps(GOOD))
    assert len({before, digest_of(sources.values()), digest_of(read_sources(videos))}) == 3


def test_a_clip_takes_the_caption_that_covers_most_of_it():
    captions = (Caption(0, 2, "first"), Caption(2, 4, "second"), Caption(0, None, "all"))
    assert caption_for(captions[:2], 1.5, 2.9) == "second"
    assert caption_for(captions[:2], 3.4, 4.8) == ""
    assert caption_for(captions, 0.2, 1.2) == "first"
    assert caption_for(captions, 1.5, 2.5) == "all"


def test_lines_that_other_tools_and_editors_write_are_read(videos):
    said = {"source": "a.mp4", "caption": "one\u2028two\u0085three"}
    (videos / "captions.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(said, ensure_ascii=False).encode() + b"\r\n\r\n")
    assert read_sources(videos)[0].captions == (Caption(0.0, None, said["caption"]),)


@pytest.mark.parametrize(
    "line", ['{"source": "a.mp4", "caption": "c", "end": ' + "9" * 400 + "}", "[" * 100_000, '{"source": "a.mp4", "caption": "\\ud83d"}']
)
def test_a_line_that_no_table_can_hold_is_one_line_of_error(videos, line):
    write(videos, GOOD, line)
    with pytest.raises(UserError, match=r"captions\.jsonl line 2: ") as error:
        read_sources(videos)
    assert len(str(error.value)) < 250


def test_a_name_means_its_file_in_either_normal_form(videos):
    for name in ("caf\u00e9.mp4", "cafe\u0301 2.mp4", "both \u00e9.mp4", "both e\u0301.mp4"):
        (videos / name).write_bytes(name.encode())
    write(videos, *({"source": name, "caption": name} for name in ("cafe\u0301.mp4", "caf\u00e9 2.mp4", "both \u00e9.mp4")))
    found = {s.name: s.captions[0].caption for s in read_sources(videos) if s.captions}
    assert found == {"caf\u00e9.mp4": "cafe\u0301.mp4", "cafe\u0301 2.mp4": "caf\u00e9 2.mp4", "both \u00e9.mp4": "both \u00e9.mp4"}


def test_what_is_no_file_is_no_captions_file(videos):
    for path in ("/dev/zero", str(videos)):
        with pytest.raises(UserError, match="not a file"):
            read_sources(videos, path)


def test_without_captions_and_a_model_a_run_stops_before_anything_is_decoded(videos, tmp_path):
    """Every clip would be rejected, after hours, and the line spoke of thresholds."""
    with pytest.raises(UserError, match=r"nothing says what .* --captions FILE.*curation\.caption\.kind.*require_caption=false"):
        scan.data_digest(recipe_for(tmp_path, f"data.videos={videos}"))
    model = {"caption": {"kind": "endpoint", "url": "http://127.0.0.1:1/v1", "model": "m"}}
    for way_out in ({"score_only": True}, {"require_caption": False}, model):
        assert scan.data_digest(recipe_for(tmp_path, f"data.videos={videos}", **way_out))
    write(videos, {"source": "b.MOV", "caption": "one of three"})
    assert scan.data_digest(recipe_for(tmp_path, f"data.videos={videos}"))
