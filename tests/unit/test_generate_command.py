"""`mugv generate`: each task from files to a file, and each mistake as one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from generation_tools import write_checkpoint
from PIL import Image
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.generation import Generator
from mugv.media.decode import read_video
from mugv.media.encode import write_video


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    dit, vae = write_checkpoint(tmp_path_factory.mktemp("networks"))
    yield ["--checkpoint", str(dit), "--vae", str(vae), "--steps", "2"]
    torch.set_num_threads(before)


@pytest.fixture
def asked(monkeypatch):
    """What the generator was asked; its answer is real."""
    calls = []
    generate = Generator.generate
    monkeypatch.setattr(Generator, "generate", lambda self, prompts, **more: calls.append(more) or generate(self, prompts, **more))
    return calls


def mugv(*arguments):
    """(exit code, output, error output) of `mugv generate`; its own errors end it with one line."""
    result = CliRunner().invoke(app, ["generate", "a red circle", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def picture(path: Path, colour=(200, 30, 30), size=(48, 32)) -> Path:
    Image.new("RGB", size, colour).save(path)
    return path


def video(path: Path, frames: int, fps: float = 12) -> Path:
    """Frame k is grey of brightness 40 + 4 k."""
    write_video(path, [np.full((32, 48, 3), 40 + 4 * k, np.uint8) for k in range(frames)], fps)
    return path


def brightness(frames):
    return [round(float(f.mean())) for f in frames]


def test_text_to_video_needs_no_picture_and_keeps_one_fps(networks, tmp_path):
    code, out, err = mugv(*networks, "-o", tmp_path / "new" / "clip.mp4", "--size", "48x32", "--frames", 9)
    assert code == 0, err
    assert out == f"wrote {tmp_path / 'new' / 'clip.mp4'}: 9 frames of 32x48 at 12 a second\n"
    frames, fps = read_video(tmp_path / "new" / "clip.mp4")
    assert (frames.shape, fps) == ((9, 48, 32, 3), 12)


def test_i16_a_file_name_without_a_folder_is_enough(networks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = mugv(*networks, "-o", "clip.mp4", "--frames", 9)
    assert code == 0, err
    assert (tmp_path / "clip.mp4").exists()


def test_i2_seed_0_is_passed_on_as_0(networks, tmp_path, asked):
    assert mugv(*networks, "-o", tmp_path / "a.mp4", "--seed", 0)[0] == 0
    assert asked[0]["seeds"] == [0]


def test_first_and_last_picture_are_the_ends_of_the_clip(networks, tmp_path, asked):
    first, last = picture(tmp_path / "first.png"), picture(tmp_path / "last.jpg", (20, 20, 220), (300, 200))
    code, _, err = mugv(*networks, "-o", tmp_path / "a.mp4", "--image", first, "--last-image", last)
    assert code == 0, err
    frames, _ = read_video(tmp_path / "a.mp4")
    assert len(frames) == 25
    assert frames[0].mean((0, 1)) == pytest.approx([200, 30, 30], abs=8)
    assert frames[-1].mean((0, 1)) == pytest.approx([20, 20, 220], abs=8)
    assert (asked[0]["given"].first.shape, asked[0]["given"].last.shape) == ((1, 1, 32, 48, 3), (1, 1, 200, 300, 3))


def test_a_continuation_starts_with_the_end_of_the_video(networks, tmp_path, asked):
    clip = video(tmp_path / "before.mp4", 30)
    code, _, err = mugv(*networks, "-o", tmp_path / "a.mp4", "--continue", clip)
    assert code == 0, err
    assert brightness(asked[0]["given"].first[0]) == pytest.approx([40 + 4 * k for k in range(21, 30)], abs=2)
    assert mugv(*networks, "-o", tmp_path / "a.mp4", "--continue", clip, "--continue-frames", 17)[0] == 0
    assert asked[1]["given"].first.shape[1] == 17


def test_a_continuation_of_a_short_video_takes_what_fits(networks, tmp_path, asked):
    assert mugv(*networks, "-o", tmp_path / "a.mp4", "--continue", video(tmp_path / "short.mp4", 5))[0] == 0
    assert brightness(asked[0]["given"].first[0]) == pytest.approx([56], abs=2)


def test_other_videos_are_resampled_to_the_checkpoint_s_fps(networks, tmp_path, asked):
    assert mugv(*networks, "-o", tmp_path / "a.mp4", "--continue", video(tmp_path / "fast.mp4", 48, fps=24))[0] == 0
    steps = np.diff(brightness(asked[0]["given"].first[0]))
    assert steps == pytest.approx(8, abs=2), "every second frame of 24 a second"


def test_video_to_video_takes_the_first_frames(networks, tmp_path, asked):
    clip = video(tmp_path / "long.mp4", 40)
    code, _, err = mugv(*networks, "-o", tmp_path / "a.mp4", "--video", clip, "--reverse-start-step", 1)
    assert code == 0, err
    assert brightness(asked[0]["given"].source[0]) == pytest.approx([40 + 4 * k for k in range(25)], abs=2)
    assert asked[0]["given"].start_step == 1


def test_one_frame_becomes_a_picture_file(networks, tmp_path):
    code, out, err = mugv(*networks, "-o", tmp_path / "a.png", "--frames", 1)
    assert code == 0, err
    assert Image.open(tmp_path / "a.png").size == (48, 32)
    assert out.endswith("a picture of 48x32\n")


def test_a_file_is_replaced_when_the_new_one_is_whole(networks, tmp_path, monkeypatch):
    from mugv.media import encode

    (tmp_path / "a.mp4").write_bytes(b"the one before")
    write = encode.write_video

    def failing(path, *more):
        write(path, *more)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encode, "write_video", failing)
    code, _, err = mugv(*networks, "-o", tmp_path / "a.mp4", "--frames", 9)
    assert (code, "No space left" in err) == (2, True)
    assert (tmp_path / "a.mp4").read_bytes() == b"the one before"
    monkeypatch.undo()
    assert mugv(*networks, "-o", tmp_path / "a.mp4", "--frames", 9)[0] == 0
    assert len(read_video(tmp_path / "a.mp4")[0]) == 9
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_flags_of_precision_and_tiles_reach_the_networks(networks, tmp_path, monkeypatch):
    opened = []
    open_generator = Generator.open
    monkeypatch.setattr(Generator, "open", lambda *folders, **more: opened.append(open_generator(*folders, **more)) or opened[-1])
    flags = ["--precision", "bf16", "--vae-precision", "fp32", "--tile", "32x32", "--frames", 9]
    code, _, err = mugv(*networks, "-o", tmp_path / "a.MP4", *flags)
    assert code == 0, err
    (generator,) = opened
    assert next(generator.model.parameters()).dtype == torch.bfloat16
    assert next(generator.vae.parameters()).dtype == torch.float32
    assert (generator.tiling.height, generator.tiling.width, generator.tiling.overlap) == (32, 32, 16)


@pytest.mark.parametrize("seed", [-1, 2**64, 10**30])
def test_a_seed_of_more_than_64_bits_is_refused(networks, tmp_path, seed):
    code, _, err = mugv(*networks, "-o", tmp_path / "a.mp4", f"--seed={seed}")
    assert code == 2
    assert re.fullmatch(r"error: [^\n]*--seed[^\n]* (0|18446744073709551615) [^\n]*\n", err), err


def test_sampler_flags_reach_the_sampler(networks, tmp_path, asked):
    flags = ["--sampler", "ab2", "--guidance", 3, "--guidance-interval", "200:900", "--guidance-rescale", 0.5]
    code, _, err = mugv(*networks, "-o", tmp_path / "a.mp4", *flags, "--negative", "ugly", "--frames", 9)
    assert code == 0, err
    sampler = asked[0]["sampler"]
    assert (sampler.steps, sampler.method, sampler.guidance) == (2, "ab2", 3.0)
    assert (sampler.guidance_interval, sampler.guidance_rescale, sampler.dynamic_clamp) == ((200.0, 900.0), 0.5, {})
    assert asked[0]["negative"] == "ugly"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "832x1110"], "size 832x1110: height and width must be multiples of 16; the nearest is 832x1104"),
        (["--size", "720p"], "--size 720p: expected HEIGHTxWIDTH in pixels, for example 720x1280"),
        (["--frames", "100"], "frames 100: must be 1 + 8k; the nearest is 97"),
        (["-o", "a.gif"], "-o a.gif: must end in .mp4, or in .png with --frames 1"),
        (["-o", "a.png"], "-o a.png: a picture needs --frames 1; a video must end in .mp4"),
        (["--sampler", "heun"], "--sampler heun: Input should be 'euler' or 'ab2'"),
        (["--guidance-interval", "900:100"], "--guidance-interval 900:100: "),
        (["--guidance-interval", "half"], "expected LOW:HIGH, timesteps from 0 to 1000"),
        (["--guidance-interval", "0:5000"], "--guidance-interval 0:5000: Input should be less than or equal to 1000"),
        (["--guidance-rescale", "2"], "--guidance-rescale 2.0: Input should be less than or equal to 1"),
        (["--dynamic-clamp"], "dynamic_clamp: there is no channel 4; the latents have channels 0 to 3"),
        (["--image", "{text}"], "{text}: not a picture that can be read; expected PNG or JPEG"),
        (["--last-image", "no.png"], "--last-image no.png: no such file"),
        (["-o", "{folder}"], "-o {folder}: is a folder; give the name of a file"),
        (["-o", "/proc/x/y.mp4"], "-o /proc/x/y.mp4: cannot be written ("),
        (["-o", "{text}/y.mp4"], "-o {text}/y.mp4: {text} is a file, not a folder"),
        (["--size", "99984x99984"], "size 99984x99984, 25 frames: needs at least"),
        (["--guidance", "nan"], "--guidance nan: Input should be a finite number"),
        (["--guidance", "1e400"], "--guidance inf: Input should be a finite number"),
        (["--precision", "fp8"], "--precision fp8: must be auto, fp32 or bf16"),
        (["--text-precision", "half"], "--text-precision half: must be auto, fp32 or bf16"),
        (["--tile", "small"], "--tile small: expected HEIGHTxWIDTH in pixels, for example 720x1280"),
        (["--continue", "no.mp4"], "--continue no.mp4: no such file"),
        (["--continue", "{text}"], "{text}: not a video that can be read ("),
        (["--image", "{picture}", "--continue", "{video}"], "--image and --continue exclude each other"),
        (["--continue", "{video}", "--continue-frames", "8"], "--continue-frames 8: must be 1 + 8k (1, 9, 17, ...), beside --continue"),
        (["--continue-frames", "9"], "--continue-frames 9: must be 1 + 8k (1, 9, 17, ...), beside --continue"),
        (["--continue", "{video}", "--continue-frames", "17"], "--continue-frames 17: {video} has 12 frames at 12 a second"),
        (["--continue", "{video}", "--continue-frames", "9", "--frames", "9"], "given frames fill all latents of a clip of 9 frames (2)"),
        (["--image", "{picture}", "--frames", "1"], "given frames fill all latents of a clip of 1 frames (1)"),
        (["--video", "{video}"], "--video and --reverse-start-step go together"),
        (["--reverse-start-step", "3"], "--video and --reverse-start-step go together"),
        (["--video", "{video}", "--reverse-start-step", "1"], "12 frames at 12 a second, the clip 25; lower --frames"),
        (["--video", "{video}", "--reverse-start-step", "9", "--frames", "9"], "start step 9: the sampler has 2 steps"),
    ],
)
def test_each_mistake_is_one_line_and_exit_2(networks, tmp_path, arguments, message):
    (tmp_path / "text.txt").write_text("words")
    (tmp_path / "folder.mp4").mkdir()
    files = {
        "folder": tmp_path / "folder.mp4",
        "text": tmp_path / "text.txt",
        "picture": picture(tmp_path / "p.png"),
        "video": video(tmp_path / "v.mp4", 12),
    }
    given = [a.format(**files) for a in arguments]
    code, _, err = mugv(*networks, *([] if "-o" in given else ["-o", tmp_path / "out.mp4"]), *given)
    assert code == 2
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert message.format(**files) in err
    assert not (tmp_path / "out.mp4").exists()
