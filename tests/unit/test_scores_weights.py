"""Scores with weights by path: a tiny CLIP and heads that the tests save themselves, RAFT where torchvision is installed."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from score_tools import ArrayClip
from test_scores import pan
from transformers import CLIPConfig, CLIPModel

from mugv.curation.scores import build_scores, embed
from mugv.errors import UserError
from mugv.recipe.curation import Curation

WIDTH = 16
TORCHVISION = importlib.util.find_spec("torchvision") is not None


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    part = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "projection_dim": WIDTH}
    text = {**part, "vocab_size": 64, "max_position_embeddings": 8}
    config = CLIPConfig(text_config=text, vision_config={**part, "image_size": 32, "patch_size": 8}, projection_dim=WIDTH)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(folder)
    return folder


def head(path: Path, *sizes: int) -> Path:
    """Linear layers as LAION's heads name them."""
    torch.manual_seed(1)
    state = {}
    for k, (wide, narrow) in enumerate(pairwise(sizes)):
        state[f"layers.{2 * k}.weight"], state[f"layers.{2 * k}.bias"] = torch.randn(narrow, wide), torch.randn(narrow)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def aesthetic(folder: Path, weights: Path | None, **more: int) -> Curation:
    part = {"clip": str(folder), "head": str(weights) if weights else None, **more}
    return Curation(aesthetic=part, text={"detector": "off"})


def scored(settings: Curation, clip: ArrayClip) -> float:
    (score,) = [s for s in build_scores(settings) if s.name == "aesthetic"]
    return score(clip)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_aesthetic_score_is_the_head_on_transformers_own_embedding(tmp_path, clip_folder, suffix):
    weights, clip = head(tmp_path / f"head{suffix}", WIDTH, 12, 4, 1), pan(4)
    found = scored(aesthetic(clip_folder, weights, frames=1), clip)
    rgb = clip.rgb(8, 32)
    left = (rgb.shape[1] - 32) // 2
    pixels = torch.from_numpy(rgb[:, left : left + 32].copy()).permute(2, 0, 1)[None] / 255
    mean, deviation = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    model = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        image = model(pixel_values=(pixels - mean[:, None, None]) / deviation[:, None, None], input_ids=torch.zeros(1, 4, dtype=torch.long))
        x = torch.nn.functional.normalize(image.image_embeds, dim=-1)
        torch.manual_seed(1)
        for wide, narrow in ((WIDTH, 12), (12, 4), (4, 1)):
            weight, bias = torch.randn(narrow, wide), torch.randn(narrow)
            x = x @ weight.T + bias
    assert found == pytest.approx(float(x), rel=1e-4)


def test_embeddings_are_unit_vectors_that_tell_clips_apart(clip_folder):
    settings = aesthetic(clip_folder, None)
    one, same, other = embed(pan(4), settings), embed(pan(4), settings), embed(pan(4, start=(500, 700)), settings)
    assert one.dtype == np.float32
    assert one.shape == (WIDTH,)
    assert float(np.linalg.norm(one)) == pytest.approx(1, abs=1e-5)
    assert one @ same == pytest.approx(1, abs=1e-5)
    assert one @ other < one @ same - 1e-5
    assert embed(pan(4), Curation()) is None


def test_a_clip_is_embedded_once_for_score_and_embedding(tmp_path, clip_folder):
    settings = aesthetic(clip_folder, head(tmp_path / "head.pth", WIDTH, 1))
    (score,) = [s for s in build_scores(settings) if s.name == "aesthetic"]
    runs = []
    handle = score.embedder.function.model.vision_model.register_forward_hook(lambda *a: runs.append(1))
    clip = pan(2)
    score(clip)
    embed(clip, settings)
    handle.remove()
    assert len(runs) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip": "/nowhere"}, r"curation.aesthetic.clip: /nowhere holds no CLIP model"),
        ({"head": "/nowhere.pth"}, r"curation.aesthetic.head: no file /nowhere.pth"),
        ({"clip": None, "head": "/nowhere.pth"}, r"curation.aesthetic.head: .* set aesthetic.clip"),
    ],
)
def test_missing_weights_end_in_one_line_that_names_the_key(clip_folder, change, message):
    settings = Curation(aesthetic={"clip": str(clip_folder), **change}, text={"detector": "off"})
    with pytest.raises(UserError, match=message) as caught:
        build_scores(settings)
    assert "\n" not in str(caught.value)


def test_a_head_of_another_width_or_a_file_of_noise_is_refused(tmp_path, clip_folder):
    with pytest.raises(UserError, match=r"\[1, 768\]; layers from the model's width 16 to 1"):
        build_scores(aesthetic(clip_folder, head(tmp_path / "wide.pth", 768, 1)))
    (tmp_path / "noise.pth").write_bytes(b"noise")
    with pytest.raises(UserError, match=r"noise.pth cannot be read"):
        build_scores(aesthetic(clip_folder, tmp_path / "noise.pth"))
    broken = tmp_path / "clip"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"cannot be read as a CLIP model"):
        build_scores(aesthetic(broken, None))


@pytest.mark.skipif(TORCHVISION, reason="torchvision is installed")
def test_raft_without_its_extra_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"curation.motion.method raft: needs torchvision.*`raft`") as caught:
        build_scores(Curation(motion={"method": "raft"}))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not TORCHVISION, reason="needs torchvision")
def test_raft_reads_torchvisions_weights_and_refuses_others(tmp_path):
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    network = raft_small(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    settings = Curation(motion={"method": "raft", "weights": str(tmp_path / "raft.pth"), "gap_seconds": 1 / 12}, text={"detector": "off"})
    clip = pan(4, count=3)
    (motion,) = [s for s in build_scores(settings) if s.name == "motion"]
    pair = [torch.from_numpy(clip.rgb(k, 360)).permute(2, 0, 1)[None] / 127.5 - 1 for k in (0, 1)]
    with torch.inference_mode():
        first = float(network(*pair)[-1][0].norm(dim=0).mean())
    assert motion.pairs(clip)[0] == pytest.approx(first, rel=1e-3)
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other.pth is not torchvision's RAFT") as caught:
        build_scores(Curation(motion={"method": "raft", "weights": str(tmp_path / "other.pth")}))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"curation.motion.weights: no file"):
        build_scores(Curation(motion={"method": "raft"}))
