"""`mugv generate` on converted weights does what the published script does; on others it does what they were evaluated with."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from generation_tools import VAE, write_checkpoint
from PIL import Image
from release_tools import released_state, write_release
from typer.testing import CliRunner

from mugv.cli.main import app
from mugv.dit.model import MugDiT
from mugv.errors import UserError
from mugv.generation import Generator
from mugv.generation.given import turned
from mugv.generation.settings import Settings
from mugv.media.decode import read_video
from mugv.recipe.flow import Sampler
from mugv.text.hashed import HashedEncoder
from mugv.vae import VideoVAE, load_vae, save_release, save_vae

SUFFIX = " aesthetic score: 6.0."


def mugv(command, *arguments):
    result = CliRunner().invoke(app, [command, *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    save_vae(VideoVAE(VAE), folder)
    return folder


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released")
    return write_release(folder / "dit.pt", {name: 0.3 * tensor for name, tensor in released_state(dtype=torch.bfloat16).items()})


@pytest.fixture(scope="module")
def converted(released, tmp_path_factory):
    folder = tmp_path_factory.mktemp("converted") / "dit"
    assert mugv("convert", released, folder)[0] == 0
    return folder


@pytest.fixture
def heard(monkeypatch):
    """The texts that were encoded, and the fps that the network was told."""
    texts, rates = [], []
    encode, forward = HashedEncoder.encode, MugDiT.forward
    monkeypatch.setattr(HashedEncoder, "encode", lambda self, captions: texts.extend(captions) or encode(self, captions))

    def recorded(self, latents, timestep, text, mask, fps, *more, **named):
        rates.extend(fps.tolist())
        return forward(self, latents, timestep, text, mask, fps, *more, **named)

    monkeypatch.setattr(MugDiT, "forward", recorded)
    return texts, rates


def test_converted_weights_get_the_published_suffix_and_rates_and_say_so(converted, vae, heard, tmp_path):
    asked = ["--checkpoint", converted, "--vae", vae, "--size", "32x16", "--frames", 9, "--steps", 1, "-o", tmp_path / "a.mp4"]
    code, out, err = mugv("generate", "a cat", *asked)
    assert code == 0, err
    texts, rates = heard
    assert texts == ["a cat" + SUFFIX]
    assert set(rates) == {30.0}
    assert read_video(tmp_path / "a.mp4")[1] == 20
    assert out == f"wrote {tmp_path / 'a.mp4'}: 9 frames of 16x32 at 20 a second\n"
    for word in (SUFFIX, "guidance leads away from the empty text", "told 30 frames a second, the file plays at 20"):
        assert word in err


def test_flags_override_what_converted_weights_ask_for(converted, vae, heard, tmp_path):
    asked = ["--checkpoint", converted, "--vae", vae, "--size", "32x16", "--frames", 9, "--steps", 1, "-o", tmp_path / "a.mp4"]
    code, _, err = mugv("generate", "a cat", *asked, "--suffix", "", "--negative", "ugly", "--fps", 30)
    assert (code, err) == (0, ""), err
    assert heard[0] == ["a cat", "ugly"]
    assert read_video(tmp_path / "a.mp4")[1] == 30


def test_a_negative_prompt_given_to_convert_stays_with_the_folder(released, vae, heard, tmp_path):
    assert mugv("convert", released, tmp_path / "dit", "--negative", "blurry, lowres")[0] == 0
    asked = ["--checkpoint", tmp_path / "dit", "--vae", vae, "--size", "32x16", "--frames", 9, "--steps", 1]
    code, _, err = mugv("generate", "a cat", *asked, "-o", tmp_path / "a.mp4")
    assert code == 0, err
    assert heard[0] == ["a cat" + SUFFIX, "blurry, lowres"]
    assert "guidance leads away from 'blurry, lowres', as the checkpoint asks (--negative)" in err


def test_converted_weights_sample_as_the_published_script_does(converted):
    usage = Settings.read(json.loads((converted / "config.json").read_text())).usage
    assert (usage.sampler.steps, usage.sampler.method, usage.sampler.guidance, usage.sampler.dynamic_clamp) == (25, "euler", 4.0, {})


@pytest.mark.parametrize(
    ("default", "shape", "size"),
    [
        ((1280, 720), None, (1280, 720)),
        ((1280, 720), (1248, 704), (1280, 720)),
        ((1280, 720), (704, 1248), (720, 1280)),
        ((720, 1280), (1248, 704), (1280, 720)),
        ((1280, 720), (500, 500), (1280, 720)),
        ((960, 960), (704, 1248), (960, 960)),
    ],
)
def test_the_default_size_stands_or_lies_as_the_picture_does(default, shape, size):
    assert turned(default, shape) == size


def test_a_standing_picture_makes_a_standing_clip(vae, tmp_path):
    """A landscape default kept a third of a portrait picture."""
    dit, _ = write_checkpoint(tmp_path)
    Image.new("RGB", (70, 124), (200, 30, 30)).save(tmp_path / "upright.png")
    asked = ["--checkpoint", dit, "--vae", vae, "--frames", 9, "--steps", 1]
    for flags, wide in ((["--image", tmp_path / "upright.png"], "32x48"), ([], "48x32")):
        code, out, err = mugv("generate", "a", *asked, *flags, "-o", tmp_path / "a.mp4")
        assert code == 0, err
        assert f"9 frames of {wide} at" in out


def test_a_model_samples_as_it_was_evaluated(vae, tmp_path):
    dit, _ = write_checkpoint(tmp_path)
    sampler = Sampler(steps=3, method="ab2", guidance=2.5, dynamic_clamp={1: 0.15})
    (tmp_path / "metrics.json").write_text(json.dumps({"metrics": {}, "sampler": sampler.model_dump()}))
    evaluated, other = Generator.open(dit, vae, evaluated=tmp_path / "metrics.json"), Generator.open(dit, vae)
    assert evaluated.usage.sampler == sampler
    assert other.usage.sampler == Sampler()
    assert torch.equal(evaluated.sample(["a"], [0], frames=9), other.sample(["a"], [0], frames=9, sampler=sampler))
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"metrics.json: holds no sampler of an evaluation"):
        Generator.open(dit, vae, evaluated=tmp_path / "metrics.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_norm": None}, "config.json of the checkpoint: "),
        ({"flow": {"shift": 3}}, r"config.json of the checkpoint: .*Extra inputs"),
        ({"usage": {"file_fps": -1}}, "config.json of the checkpoint: .*greater than 0"),
        ({"size": [100, 100]}, "size 100x100: height and width must be multiples of 16"),
        ({"fps": "fast"}, "config.json of the checkpoint: could not convert"),
    ],
)
def test_a_config_that_says_nonsense_is_one_line(converted, change, message):
    config = json.loads((converted / "config.json").read_text())
    with pytest.raises(UserError, match=message) as error:
        Settings.read({**config, **change})
    assert "\n" not in str(error.value)


def test_a_config_that_lacks_a_part_names_it(converted):
    config = json.loads((converted / "config.json").read_text())
    for name in ("latent_norm", "flow", "size", "frames", "fps"):
        with pytest.raises(UserError, match=re.escape(f"config.json of the checkpoint: {name} is missing")):
            Settings.read({k: v for k, v in config.items() if k != name})


def test_windows_of_image_to_video_are_those_of_the_published_script(converted, vae, monkeypatch):
    """Latents 1 to 13 in windows of 6, 6 and 1; the given frame stands before them. Its own latent is in no window."""
    from mugv.generation import Given

    generator = Generator.open(converted, vae)
    generator.vae.config = VAE.model_copy(update={"decode_window": 6})
    windows = []
    decode = VideoVAE.decode_window
    monkeypatch.setattr(VideoVAE, "decode_window", lambda self, z, **more: windows.append(z) or decode(self, z, **more))
    latents = torch.randn(1, 4, 14, 2, 2)
    picture = np.random.default_rng(0).integers(0, 256, (1, 1, 16, 16, 3), dtype=np.uint8)
    clip = generator.decode(latents, Given(first=picture))
    assert [w.shape[2] for w in windows] == [6, 6, 1]
    assert torch.equal(torch.cat(windows, 2), generator.norm.restore(latents[:, :, 1:]))
    assert clip.shape == (1, 105, 16, 16, 3)
    assert np.array_equal(clip[:, :1], picture)
    windows.clear()
    generator.decode(latents)
    assert [w.shape[2] for w in windows] == [6, 6, 2]


def test_a_negative_prompt_where_there_is_no_dit_to_carry_it_is_refused(converted, vae, tmp_path):
    cases = [(converted, "back.safetensors", "--negative belongs to the folder that a released DiT file becomes")]
    cases += [(tmp_path / "vae.pt", "folder", "is a VAE, which is not guided; --negative belongs to the DiT")]
    save_release(load_vae(vae), tmp_path / "vae.pt")
    for source, target, message in cases:
        code, _, err = mugv("convert", source, tmp_path / target, "--negative", "ugly")
        assert (code, message in err, err.count("\n")) == (2, True, 1), err
        assert not (tmp_path / target).exists()
