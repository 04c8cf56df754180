"""Card and report of a clip set, balance, and what explains and calibrates thresholds: from parts with real small clips."""

import hashlib
import io
import json
import re
import tarfile
from dataclasses import replace

import numpy as np
import pytest
from footage_tools import shot

from mugv.curation.balance import thin
from mugv.curation.calibrate import as_yaml, calibrate, overall, read_labels
from mugv.curation.explain import explain, judged, would_keep
from mugv.curation.hashing import video_hash
from mugv.curation.publish import publish
from mugv.curation.report.card import card_text, make_card, sources_digest
from mugv.curation.report.histogram import axis_of, histogram
from mugv.curation.report.strips import KEPT_SHOWN, draw_strip
from mugv.curation.rows import ClipRow, read_rows, write_rows
from mugv.curation.shard import write_tar
from mugv.dataset.clipset import ClipSet
from mugv.errors import UserError
from mugv.media.encode import write_video
from mugv.recipe.curation import Curation

SETTINGS = Curation(sharpness={"minimum": 20}, motion={"minimum": 1, "maximum": 9}, require_caption=False)


def row(number: int, **values) -> ClipRow:
    base = {
        "start_seconds": 60.0 * number,
        "end_seconds": 60.0 * number + 17 / 12,
        "end_frame": 17,
        "width": 96,
        "height": 96,
        "fps": 12.0,
        "frames": 17,
        "sharpness": 10.0 * (number + 3),
        "motion": 2.0 + number / 10,
        "status": "kept",
        "caption": f"a <b>dog</b> runs, take {number}",
        "caption_source": "sidecar",
    }
    return ClipRow(f"clip-{number:02d}", f"{number % 4}.mp4", f"digest-{number % 4}", **{**base, **values})


def write_part(folder, rows, strips=True):
    """A shard's part with real clips of the kept rows and strips of all."""
    folder.mkdir(parents=True)
    clips, pictures = [], []
    done = []
    for one in rows:
        frames = shot(int(one.clip_id[-2:]), 17)
        if one.status == "kept":
            buffer = io.BytesIO()
            write_video(buffer, frames, 12)
            clips.append((f"{one.clip_id}.mp4", buffer.getvalue()))
            one = replace(one, hash=video_hash(frames), digest=hashlib.sha256(buffer.getvalue()).hexdigest())
        pictures.append((f"{one.clip_id}.jpg", draw_strip(frames)))
        done.append(one)
    write_rows(folder / "part.parquet", done)
    write_tar(folder / "clips-0.tar", clips)
    if strips:
        write_tar(folder / "strips-0.tar", pictures)
    return folder


ROWS = [
    *(row(k, licence="CC-BY-4.0" if k % 2 else "") for k in range(8)),
    row(8, status="rejected", reason="static", detail="motion 0.2 < 1", motion=0.2),
    row(9, status="rejected", reason="blurred", detail="sharpness 4 < 20", sharpness=4.0),
    ClipRow("cut-10", "1.mp4", "digest-1", start_frame=30, end_frame=40, reason="transition", detail="a blend of 10 frames"),
    ClipRow("bad-file", "5.mp4", "digest-5", reason="unreadable", detail="moov atom not found"),
]


@pytest.fixture(scope="module")
def clip_set(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    part, out = write_part(root / "part", ROWS[:10]), root / "out"
    write_rows(root / "part/part.parquet", [*read_rows(root / "part/part.parquet"), *ROWS[10:]])
    out.mkdir()
    publish([part], out, SETTINGS, 0)
    return out


def test_card_counts_add_up_and_say_by_what_the_set_was_made(clip_set):
    card = json.loads((clip_set / "card.json").read_text())
    assert sum(card["clips"].values()) == 8
    assert card["rejected"] == {"blurred": 1, "static": 1, "transition": 1, "unreadable": 1}
    assert (card["sources"], card["sources_kept"]) == (5, 4)
    assert card["licences"] == {"CC-BY-4.0": 4, "not stated": 4}
    assert card["thresholds"]["motion"] == {"minimum": 1.0, "maximum": 9.0}
    assert card["thresholds"]["sharpness"]["minimum"] == 20.0
    assert {"av", "scenedetect-headless", "opencv-python-headless"} <= set(card["tools"])
    assert Curation.model_validate(card["settings"]).motion == SETTINGS.motion
    for shard, digest in card["shards"].items():
        assert hashlib.sha256((clip_set / shard).read_bytes()).hexdigest() == digest
    text = (clip_set / "DATA_CARD.md").read_text()
    assert "| CC-BY-4.0 | 4 |" in text
    assert "| motion | minimum 1, maximum 9 |" in text


def test_sources_digest_changes_with_a_name_or_a_content_and_not_with_the_order():
    first = sources_digest(ROWS)
    assert sources_digest(ROWS[::-1]) == first
    assert sources_digest([*ROWS[1:], replace(ROWS[0], source="other.mp4")]) != first
    assert sources_digest([*ROWS[1:], replace(ROWS[0], source_digest="other")]) != first


def test_report_is_one_page_with_every_reason_and_nothing_from_outside(clip_set):
    page = (clip_set / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "a &lt;b&gt;dog&lt;/b&gt; runs" in page
    assert "<b>dog" not in page
    for reason in ("static", "blurred", "transition", "unreadable"):
        assert f'id="reason-{reason}"' in page or f'href="#reason-{reason}"' in page
    assert page.count("data:image/jpeg;base64,") == 8 + 2
    assert "min 1<" in page
    assert "max 9<" in page


def test_a_set_without_strips_draws_them_from_the_clips(clip_set, tmp_path):
    part = write_part(tmp_path / "part", ROWS[:8], strips=False)
    (tmp_path / "out").mkdir()
    publish([part], tmp_path / "out", SETTINGS, 0)
    assert (tmp_path / "out/report.html").read_text().count("data:image/jpeg;base64,") == 8


def test_equal_parts_give_equal_bytes_however_many_shards(tmp_path):
    whole, first, second = (write_part(tmp_path / n, r) for n, r in (("w", ROWS[:10]), ("a", ROWS[1:10:2]), ("b", ROWS[0:10:2])))
    for name, parts in (("one", [whole]), ("two", [first, second])):
        (tmp_path / name).mkdir()
        publish(parts, tmp_path / name, SETTINGS, 0)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file())
    assert {"card.json", "DATA_CARD.md", "report.html", "manifest.parquet"} <= {p.name for p in files}
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), path


def test_score_only_drops_nothing_and_keeps_no_pixels(tmp_path):
    rows = [replace(r, status="scored") if r.motion is not None else r for r in ROWS]
    part = write_part(tmp_path / "part", rows[:10])
    (tmp_path / "out").mkdir()
    card = publish([part], tmp_path / "out", SETTINGS.model_copy(update={"score_only": True}), 0)
    assert card["scored"] == {"blurred": 1, "none": 8, "static": 1}
    assert card["clips"] == card["shards"] == {}
    assert len(ClipSet.open(tmp_path / "out").rows(status="scored")) == 10
    assert "Every candidate was scored" in (tmp_path / "out/report.html").read_text()


def test_long_sets_show_an_even_choice(tmp_path):
    from mugv.curation.report.strips import choose

    rows = [row(k) for k in range(100)]
    shown = choose(rows, {r.clip_id: b"x" for r in rows}, {})
    assert len(shown[""]) == KEPT_SHOWN
    assert shown[""][0][0] is rows[0]
    assert shown[""][-1][0] is rows[-1]


def test_an_earlier_set_that_is_none_is_one_line(tmp_path):
    part = write_part(tmp_path / "part", ROWS[:2])
    settings = SETTINGS.model_copy(update={"duplicates": SETTINGS.duplicates.model_copy(update={"earlier": (str(tmp_path),)})})
    with pytest.raises(UserError, match=r"duplicates\.earlier .*: not a clip set, manifest\.parquet is missing"):
        publish([part], tmp_path / "out", settings, 0)


def test_a_set_given_as_earlier_leaves_nothing_of_the_same_footage(clip_set, tmp_path):
    part = write_part(tmp_path / "part", ROWS[:8])
    settings = SETTINGS.model_copy(update={"duplicates": SETTINGS.duplicates.model_copy(update={"earlier": (str(clip_set),)})})
    with pytest.raises(UserError, match="no clip was kept: duplicate 8"):
        publish([part], tmp_path / "out", settings, 0)


def test_missing_weights_are_one_line(tmp_path):
    part = write_part(tmp_path / "part", ROWS[:2])
    (tmp_path / "out").mkdir()
    settings = SETTINGS.model_copy(update={"aesthetic": SETTINGS.aesthetic.model_copy(update={"head": str(tmp_path / "head.pth")})})
    with pytest.raises(UserError, match=r"aesthetic\.head .*head\.pth: cannot be read \(No such file"):
        publish([part], tmp_path / "out", settings, 0)


def test_explain_counts_what_each_threshold_rejects_and_what_it_alone():
    rows = [row(0), row(1, motion=0.5), row(2, motion=0.5, sharpness=5.0), row(3, sharpness=5.0), row(4, motion=20.0), *ROWS[10:]]
    lines = {line.score: line for line in explain(rows, SETTINGS)}
    assert (lines["motion"].rejects, lines["motion"].alone) == ((2, 1), 2)
    assert (lines["sharpness"].rejects, lines["sharpness"].alone) == ((2, 0), 1)
    assert lines["motion"].measured == 5
    assert lines["motion"].quantiles[3] == 2.0
    assert would_keep(rows, SETTINGS) == 1
    without = Curation(require_caption=False, motion={"minimum": None, "maximum": None}, sharpness={"minimum": None})
    assert would_keep(rows, without) == len(judged(rows)) == 5


@pytest.fixture
def labelled(tmp_path):
    rows = [row(k, motion=float(k), sharpness=100.0) for k in range(20)]
    file = tmp_path / "labels.csv"
    lines = [f"{r.clip_id},{'static' if r.motion < 4 else 'too_fast' if r.motion > 14 else 'keep'}" for r in rows]
    file.write_text("\n".join(["clip_id,label", *lines]) + "\n")
    return rows, read_labels(file, {r.clip_id: r for r in rows})


def test_calibrate_measures_each_filter_and_proposes_limits_between_the_labels(labelled):
    rows, labels = labelled
    found = {line.reason: line for line in calibrate(rows, labels, SETTINGS)}
    assert set(found) == {"static", "too_fast"}
    assert (found["static"].now.precision, found["static"].now.recall) == (1.0, 0.25)
    assert (found["too_fast"].now.precision, found["too_fast"].now.recall) == (0.5, 1.0)
    assert 3 < found["static"].proposed <= 4
    assert 14 <= found["too_fast"].proposed < 15
    text = as_yaml(list(found.values()))
    assert re.fullmatch(r"curation:\n  motion: \{minimum: [\d.]+, maximum: [\d.]+\}\n", text)
    chosen = Curation(motion={"minimum": found["static"].proposed, "maximum": found["too_fast"].proposed}, require_caption=False)
    assert (overall(rows, labels, chosen).precision, overall(rows, labels, chosen).recall) == (1.0, 1.0)


def test_a_filter_that_no_label_speaks_of_has_no_proposal():
    rows = [row(k) for k in range(3)]
    found = calibrate(rows, {r.clip_id: frozenset() for r in rows}, Curation(motion={"maximum": 0.5}, require_caption=False))
    assert [(line.reason, line.now.precision, line.now.recall, line.proposed) for line in found] == [("too_fast", 0.0, None, None)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip,label\n", r"line 1: column 'clip_id' is missing"),
        ("clip_id,label\nnone,keep\n", r"line 2: clip 'none' is not in the clip set"),
        ("clip_id,label\nclip-00,keep\nclip-00,keep\n", r"line 3: clip 'clip-00' has a label already"),
        ("clip_id,label\nclip-00,ugly\n", r"line 2: label 'ugly' is not known; use keep, or reasons"),
        ("clip_id,label\nclip-00\n", r"line 2: label '' is not known"),
        ("clip_id,label\n", r"no labels"),
    ],
)
def test_bad_labels_are_one_line(tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_labels(tmp_path / "labels.csv", {"clip-00": row(0)})
    with pytest.raises(UserError, match="cannot be read"):
        read_labels(tmp_path / "none.csv", {})


def tagged(tags: str, count: int, start: int) -> list[ClipRow]:
    return [row(start + k, score=k / 100, tags=tuple(tags.split())) for k in range(count)]


def test_balance_thins_the_rest_until_the_share_holds_and_keeps_the_best():
    rows = [*tagged("subject:person", 10, 0), *tagged("", 40, 10)]
    done = thin(rows, {"subject:person": 0.5})
    kept = [r for r in done if r.status == "kept"]
    assert len(kept) == 20
    assert [r.clip_id for r in kept if not r.tags] == [r.clip_id for r in rows[40:]]
    assert {r.reason for r in done if r.status == "rejected"} == {"balance"}
    assert thin(rows, {"subject:person": 0.2}) == rows


def test_balance_holds_two_shares_at_once():
    rows = [*tagged("a", 10, 0), *tagged("b", 30, 10), *tagged("", 60, 40)]
    kept = [r for r in thin(rows, {"a": 0.5, "b": 0.4}) if r.status == "kept"]
    assert [sum(tag in r.tags for r in kept) for tag in "ab"] == [10, 10]


def test_shares_that_cannot_be_held_are_one_line():
    rows = [*tagged("a", 10, 0), *tagged("b", 10, 10)]
    with pytest.raises(UserError, match=r"balance\.shares: a 0\.8 and b 0\.8 cannot be held together"):
        thin(rows, {"a": 0.8, "b": 0.8})
    with pytest.raises(UserError, match=r"no kept clip has the tag 'c'; most frequent are: a, b"):
        thin(rows, {"c": 0.1})


def test_histograms_draw_every_clip_and_stay_inside_the_picture():
    rng = np.random.default_rng(0)
    for values in (rng.normal(5, 1, 500), rng.lognormal(0, 3, 500), np.zeros(10), np.array([3.0])):
        drawing = histogram(values, values[:3] + 100, 0.5, 20.0, "x")
        found = re.findall(r'<rect class="(?:kept|gone)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', drawing)
        bars = [tuple(map(float, bar)) for bar in found]
        assert bars
        assert all(x >= 0 and x + w <= 460 and 0 <= y <= 190 for x, y, w in bars)
    assert axis_of(np.zeros(5), []).high == 0.5
    assert axis_of(rng.lognormal(0, 3, 500), []).logarithmic


def test_clip_tars_hold_exactly_the_kept_clips(clip_set):
    names = []
    for path in sorted(clip_set.glob("shards/*.tar")):
        with tarfile.open(path) as tar:
            names += tar.getnames()
    assert sorted(names) == [f"clip-{k:02d}.mp4" for k in range(8)]


def test_foreign_text_stays_text_in_the_data_card():
    licence = "<b>CC</b>|x\n# head [a](javascript:alert(1)) `c` ![i](u) \u202egnp.\x1b[1m"
    row = ClipRow("a-0", "a.mp4", "d", width=96, height=96, fps=12, frames=17, status="kept", split="train", licence=licence)
    text = card_text(make_card([row, replace(row, clip_id="a-1", licence="CC BY 4.0")], {}, "source", SETTINGS))
    (line,) = [line for line in text.splitlines() if "CC&lt" in line or "<b>" in line]
    assert line == r"| &lt;b&gt;CC&lt;/b&gt;\|x \# head \[a\](javascript:alert(1)) \`c\` \!\[i\](u) \\u202egnp.\\u001b\[1m | 1 |"
    assert "| CC BY 4.0 | 1 |" in text


def test_labels_as_spreadsheets_write_them_are_read_or_one_line(tmp_path):
    rows = {"a-0": None, "a-1": None, "b\u2028-1": None}
    path = tmp_path / "labels.csv"
    path.write_bytes(b'\xef\xbb\xbfclip_id,label,note\r\na-0,"keep",one\xe2\x80\xa8two\r\n\r\na-1, static | blurred ,"three\nfour"\r\n')
    assert read_labels(path, rows) == {"a-0": frozenset(), "a-1": frozenset({"static", "blurred"})}
    wrong = {
        b'clip_id,label\na-0,"keep\na-1,keep\n': r"not CSV \(unexpected end of data\)",
        b"clip_id,label\na-0," + b"x" * 200_000: r"near line 1: not CSV \(field larger than",
        b"clip_id,label\n" + b"y" * 9_000 + b",keep": r"line 2: clip 'y+\.\.\. is not",
        b"clip_id;label\na-0;keep\n": "line 1: column 'clip_id' is missing",
        b"\xff\xfec\x00": "not UTF-8",
        b"": "column 'clip_id' is missing",
        b"clip_id,label\n\x00,keep": "clip '.x00' is not in",
    }
    for data, message in wrong.items():
        path.write_bytes(data)
        with pytest.raises(UserError, match=message) as error:
            read_labels(path, rows)
        assert len(str(error.value)) < 300
    with pytest.raises(UserError, match="not a file"):
        read_labels(tmp_path, rows)
