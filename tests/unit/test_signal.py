"""How pictures are stored: orientation, colours, range, fields. What comes out must be what a viewer sees, as BT.709."""

import struct
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from footage_tools import curated, encode, scaled, shot
from foreign_files import joined, ts

from mugv.curation.rows import ClipRow
from mugv.media import tone
from mugv.media.decode import VideoReader, read_video
from mugv.media.decoder import ProcessReader
from mugv.media.orientation import stored_box, upright
from mugv.media.picture import Want
from mugv.media.probe import UnreadableVideoError, probe
from mugv.media.signal import Gamut, Transfer

COLOURS = np.array([[220, 20, 20], [20, 200, 20], [20, 20, 220], [235, 235, 235], [128, 128, 128], [40, 30, 60]], np.float64)


def corners(height: int = 96, width: int = 128, frames: int = 3) -> np.ndarray:
    """Red, green, blue and white from the top left by rows, uint8 [T, H, W, 3]."""
    picture = np.zeros((height, width, 3), np.uint8)
    for k, colour in enumerate(COLOURS[:4]):
        picture[k // 2 * height // 2 :, k % 2 * width // 2 :][: height // 2, : width // 2] = colour
    return np.repeat(picture[None], frames, 0)


def four(rgb: np.ndarray) -> np.ndarray:
    """Mean colours [4, 3] of the middles of the quarters."""
    h, w = rgb.shape[0] // 8, rgb.shape[1] // 8
    return np.array([rgb[y * h : (y + 2) * h, x * w : (x + 2) * w].mean((0, 1)) for y, x in ((1, 1), (1, 5), (5, 1), (5, 5))])


def seen(path: Path) -> list[np.ndarray]:
    """The quarters' colours by every way that pictures take: exact and fast, here and from the decoder's process."""
    here, there = next(iter(VideoReader(path))), next(iter(ProcessReader(path, [Want(1000)])))
    return [four(here.rgb()), four(here.bgr(96)[..., ::-1]), four(there.rgb()), four(there.bgr(96)[..., ::-1])]


def with_matrix(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """The file with another display matrix in its track header."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    values = (a, b, 0, c, d, 0, 0, 0)
    data[at : at + 36] = struct.pack(">9i", *(round(value * 65536) for value in values), 1 << 30)
    path.write_bytes(data)
    return path


MATRICES = {
    "mirrored": ((-1, 0, 0, 1), 4),
    "upside down mirrored": ((1, 0, 0, -1), 6),
    "transposed": ((0, 1, 1, 0), 5),
    "the other diagonal": ((0, -1, -1, 0), 7),
    "180": ((-1, 0, 0, -1), 2),
    "270": ((0, 1, -1, 0), 3),
    "5 degrees": ((0.9962, 0.0872, -0.0872, 0.9962), 0),
    "86 degrees": ((0.0698, 0.9976, -0.9976, 0.0698), 3),
    "twice the size": ((0, -2, 2, 0), 1),
    "all zero": ((0, 0, 0, 0), 0),
}


@pytest.mark.parametrize(("matrix", "how"), MATRICES.values(), ids=MATRICES)
def test_display_matrices_are_applied_whole(tmp_path, matrix, how):
    """Front cameras mirror; a mirrored picture came out upside down, and 5 degrees turned it by 270."""
    path = with_matrix(encode(tmp_path / "a.mp4", corners()), *matrix)
    expected = four(upright(corners()[0], how))
    for found in seen(path):
        assert np.abs(found - expected).max() < 6
    info = probe(path)
    assert (info.rotation, info.mirrored) == (how % 4 * 90, how >= 4)
    assert (info.height, info.width) == ((128, 96) if how % 2 else (96, 128))


@pytest.mark.parametrize("how", range(8))
def test_a_box_of_the_upright_picture_is_found_in_the_stored_one(how):
    stored = np.arange(35).reshape(5, 7)
    shown = upright(stored, how)
    left, top, width, height = box = (1, 2, 3, 2)
    x, y, columns, rows = stored_box(box, how, stored.shape)
    assert np.array_equal(upright(stored[y : y + rows, x : x + columns], how), shown[top : top + height, left : left + width])


def test_a_crop_of_a_mirrored_picture_is_mirrored(tmp_path):
    frame = next(iter(VideoReader(with_matrix(encode(tmp_path / "a.mp4", corners()), 0, 1, 1, 0))))
    box = (0, 64, 48, 64)
    assert np.abs(four(frame.bgr(48, box)[..., ::-1]) - COLOURS[1]).max() < 6
    assert np.abs(four(frame.rgb(48, box)) - COLOURS[1]).max() < 6


@pytest.mark.parametrize(("height", "width", "matrix"), [(720, 1280, "ITU709"), (480, 640, "ITU601"), (1024, 576, "ITU709")])
def test_colours_without_a_tag_are_read_as_players_read_them(tmp_path, height, width, matrix):
    """By BT.709 from high definition on: green came out as 32, 230, 25."""
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=12)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        frame = av.VideoFrame.from_ndarray(corners(height, width)[0]).reformat(format="yuv420p", dst_colorspace=matrix)
        frame.colorspace = 2
        container.mux([*stream.encode(frame), *stream.encode(None)])
    assert probe(path).signal.matrix == ""
    for found in seen(path):
        assert np.abs(found - COLOURS[:4]).max() < 4


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
def test_what_is_transparent_in_webm_becomes_black(tmp_path, codec):
    """libav's own decoder drops the transparency, and hidden colours showed."""
    frames = np.dstack([corners()[0], np.full((96, 128, 1), 255, np.uint8)])
    frames[:, 64:, 3] = 0
    options, tags = {"auto-alt-ref": "0"}, {"alpha_mode": "1"}
    path = encode(tmp_path / "a.webm", frames[None].repeat(3, 0), codec, "yuva420p", options=options, stream_tags=tags)
    for found in seen(path):
        assert found[[1, 3]].max() <= 2
        assert np.abs(found[[0, 2]] - COLOURS[[0, 2]]).max() < 8


def signal(colours: np.ndarray, transfer: int, gamut: int, white: float = 203.0) -> np.ndarray:
    """Colours [N, 3] of BT.709 (BT.1886, 0 to 255) as a signal of 16 bits, by the formulas of the standards; the inverse of the reading."""
    light = (colours / 255) ** 2.4
    if gamut:
        light = light @ np.linalg.inv(tone._to_709(gamut).astype(np.float64)).T
    if transfer == Transfer.PQ:
        power = (light * white / 10000) ** 0.1593017578125
        coded = ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375
    elif transfer == Transfer.HLG:
        scene = (light * white / 1000) ** (1 / 1.2)
        coded = np.where(scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073)
    elif transfer == Transfer.LINEAR:
        coded = light
    else:
        coded = light ** (1 / 2.4)
    return np.round(np.clip(coded, 0, 1) * 65535).astype(np.uint16)


@pytest.mark.parametrize("gamut", [0, *Gamut])
@pytest.mark.parametrize("transfer", [0, Transfer.PQ, Transfer.HLG, Transfer.LINEAR])
def test_colours_of_standard_range_come_back_from_every_transfer_and_gamut(transfer, gamut):
    """HDR footage was read as if it were SDR: grey and flat. Only what is near white is rolled off."""
    back = tone.to_standard(signal(COLOURS, transfer, gamut)[None], transfer, gamut)[0].astype(float)
    most = 12 if transfer in (Transfer.PQ, Transfer.HLG) else 1
    assert np.abs(back - COLOURS).max() <= most
    assert np.abs(back[4:] - COLOURS[4:]).max() <= 1


def test_highlights_stay_apart_and_keep_their_hue():
    grey = np.ones((1, 3)) * np.linspace(100, 255 * (1000 / 203) ** (1 / 2.4), 60)[:, None]
    back = tone.to_standard(signal(grey, Transfer.PQ, Gamut.BT2020)[None], Transfer.PQ, Gamut.BT2020)[0].astype(int)
    assert (np.diff(back[:, 1]) >= 0).all()
    assert 228 <= np.interp(255, grey[:, 1], back[:, 1]) <= 236
    assert 245 <= back[-1].max() <= 254
    orange = tone.to_standard(signal(np.array([[600.0, 300, 60]]), Transfer.PQ, Gamut.BT2020)[None], Transfer.PQ, Gamut.BT2020)[0, 0]
    light = (orange / 255) ** 2.4
    assert light[1] / light[0] == pytest.approx(0.5**2.4, rel=0.05)


HDR = {
    "PQ": (16, 9, 9, "yuv420p10le"),
    "HLG": (18, 9, 9, "yuv420p10le"),
    "PQ of 8 bits": (16, 9, 9, "yuv420p"),
    "PQ, primaries not told": (16, 2, 9, "yuv420p10le"),
    "BT.2020": (14, 9, 9, "yuv420p10le"),
    "Display P3": (1, 12, 1, "yuv420p10le"),
}


@pytest.mark.parametrize(("transfer", "primaries", "matrix", "pixels"), HDR.values(), ids=HDR)
@pytest.mark.parametrize("full", [False, True], ids=["tv", "pc"])
def test_hdr_and_wide_gamut_files_come_out_as_bt709(tmp_path, transfer, primaries, matrix, pixels, full):
    path = hdr_file(tmp_path / "a.mkv", transfer, primaries, matrix, pixels, full)
    for found in seen(path):
        assert np.abs(found - COLOURS[:4]).max() <= 20
    info = probe(path)
    names = {16: "smpte2084", 18: "arib-std-b67", 14: "bt2020-10", 1: "bt709"}[transfer], {9: "bt2020", 12: "smpte432", 2: ""}[primaries]
    assert (info.signal.transfer, info.signal.primaries, info.signal.color_range) == (*names, "pc" if full else "tv")
    assert not info.signal.plain


def hdr_file(path: Path, transfer: int, primaries: int, matrix: int, pixels: str, full: bool) -> Path:
    kind = transfer if transfer in (16, 18) else 0
    coded = signal(corners()[0].reshape(-1, 3).astype(float), kind, 9 if primaries == 2 else primaries).reshape(96, 128, 3)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=12)
        stream.height, stream.width, stream.pix_fmt = 96, 128, pixels
        ctx = stream.codec_context
        ctx.color_trc, ctx.color_primaries, ctx.colorspace, ctx.color_range = transfer, primaries, matrix, 2 if full else 1
        source = av.VideoFrame.from_ndarray(coded, format="rgb48le")
        spaces = {"dst_colorspace": 9 if matrix == 9 else 1, "dst_color_range": 2 if full else 1}
        for k in range(26):
            frame = source.reformat(format=pixels, **spaces)
            frame.color_trc, frame.color_primaries, frame.pts = transfer, primaries, k
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_a_matrix_that_cannot_be_converted_is_a_reason(tmp_path):
    path = hdr_file(tmp_path / "a.mkv", 16, 9, 14, "yuv420p10le", False)
    with pytest.raises(UnreadableVideoError, match="ictcp"):
        read_video(path)
    with pytest.raises(UnreadableVideoError, match="ictcp"):
        list(ProcessReader(path, [Want(96)]))


INTERLACED = {"x264-params": "bff=1", "flags": "+ildct+ilme"}


def interlaced(path: Path, frames: np.ndarray, **form: object) -> Path:
    """Every two frames woven into one, bottom field first, as the encoder marks it."""
    woven = frames[1::2].copy()
    woven[:, 1::2] = frames[::2, 1::2]
    return encode(path, woven, fps=25, options=INTERLACED, **form)


def comb(luma: np.ndarray) -> float:
    """How much more neighbouring lines differ than lines of one field: about 0.5 for progressive pictures, 4 for a moving one woven."""
    g = luma.astype(float)
    return np.abs(2 * g[2:-2] - g[1:-3] - g[3:-1]).mean() / np.abs(2 * g[2:-2] - g[:-4] - g[4:]).mean()


def panning(frames: int, step: int = 6) -> np.ndarray:
    """Blurred noise that moves `step` pixels a frame."""
    noise = np.random.default_rng(0).normal(0, 1, (120, 160 + step * frames)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    return np.stack([np.repeat(texture[:, step * k : step * k + 160, None], 3, 2) for k in range(frames)])


def test_interlaced_pictures_are_deinterlaced(tmp_path):
    path, frames = tmp_path / "a.mp4", panning(50)
    interlaced(path, frames)
    reader = VideoReader(path)
    found = list(reader)
    assert [frame.index for frame in found] == list(range(25))
    assert [frame.seconds for frame in found] == pytest.approx([k / 25 for k in range(25)], abs=1e-6)
    assert np.mean([comb(frame.luma(120)) for frame in found]) < 0.8
    with av.open(str(path)) as container:
        assert np.mean([comb(frame.to_ndarray(format="gray")) for frame in container.decode(video=0)]) > 2
    assert np.mean([np.abs(frame.rgb().astype(int) - frames[2 * frame.index]).mean() for frame in found]) < 4
    assert [frame.key for frame in found][:2] == [True, False]
    assert reader.info.signal.field_order == "bb"


def test_progressive_pictures_in_an_interlaced_stream_stay_as_they_are(tmp_path):
    """Half a file progressive, half interlaced, in one stream: only the woven pictures are touched."""
    frames = panning(50)
    plain = ts(tmp_path / "1.ts", frames[:25], fps=25)
    woven = ts(tmp_path / "2.ts", interlaced(tmp_path / "woven.mp4", frames), offset=1.0)
    path = joined([plain, woven], tmp_path / "a.ts")
    alone, both = list(VideoReader(plain)), list(VideoReader(path))
    assert len(both) == 50
    assert all(np.array_equal(a.rgb(), b.rgb()) for a, b in zip(alone, both[:25], strict=True))
    assert np.mean([comb(frame.luma(120)) for frame in both[25:]]) < 0.8


def test_the_manifest_says_how_the_source_was_stored(tmp_path):
    (tmp_path / "videos").mkdir()
    hdr_file(tmp_path / "videos" / "a.mkv", 16, 9, 9, "yuv420p10le", False)
    with_matrix(encode(tmp_path / "videos" / "b.mp4", scaled(shot(3), 96, 128)), -1, 0, 0, 1)
    rows: dict[str, ClipRow] = {row.source: row for row in curated(tmp_path, tmp_path / "videos")}
    told = rows["a.mkv"]
    assert (told.transfer, told.primaries, told.matrix, told.color_range) == ("smpte2084", "bt2020", "bt2020nc", "tv")
    assert (told.field_order, told.rotation, told.mirrored) == ("", 0, False)
    assert (rows["b.mp4"].transfer, rows["b.mp4"].mirrored) == ("", True)
