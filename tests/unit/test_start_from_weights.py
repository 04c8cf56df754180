"""A run that starts from published weights: the VAE as it is, latents normalised as the DiT was trained, training from its tensors."""

from pathlib import Path

import pytest
import torch
from test_evaluate_stage import TREE, write_clip_set

from mugv.dataset.latentset import LatentSet
from mugv.errors import UserError
from mugv.recipe import Recipe
from mugv.stages import encode, pretrain, train_vae
from mugv.stages.base import StageContext, silent
from mugv.store.base import Ref
from mugv.training.convert import Options, convert
from mugv.training.engine import build_model
from mugv.training.model_io import load_dit, save_model
from mugv.vae import VideoVAE, load_vae, save_vae

SHIFT, SCALE = (0.5, -0.25, 0.0, 1.0), (2.0, 0.5, 1.0, 4.0)


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> dict[str, str]:
    """A VAE and a DiT that went through the published single-file layout and back."""
    folder, recipe = tmp_path_factory.mktemp("weights"), Recipe.model_validate(TREE)
    torch.manual_seed(7)
    save_vae(VideoVAE(recipe.vae.model), folder / "vae")
    description = {
        "model": recipe.dit.model_dump(),
        "width_divisor": 1,
        "text": recipe.text.model_dump(),
        "latent_norm": {"shift": SHIFT, "scale": SCALE},
    }
    save_model(build_model(recipe.dit, recipe.text.width, 1, recipe.parallel, 7), folder / "trained", description)
    convert(folder / "trained", folder / "dit.safetensors", Options())
    convert(folder / "dit.safetensors", folder / "dit", Options(recipe=recipe))
    return {"dit": str(folder / "trained"), "converted": str(folder / "dit"), "vae": str(folder / "vae")}


def context(recipe: Recipe, folder: Path, node: str, **inputs: Path) -> StageContext:
    out, work = folder / node, folder / f"{node}-work"
    out.mkdir(parents=True)
    work.mkdir()
    refs = {name: Ref(f"file:///store/{name}", name * 8, name * 9) for name in inputs}
    return StageContext(recipe=recipe, node=node, index=0, inputs=inputs, refs=refs, out=out, work=work, progress=silent)


def recipe_with(weights: dict[str, str], **changes) -> Recipe:
    return Recipe.model_validate({**TREE, "weights": {"dit": weights["dit"], "vae": weights["vae"]}, **changes})


def test_training_goes_on_from_the_given_networks(weights, tmp_path):
    still = {**TREE["pretrain"][0], "optimizer": {"learning_rate": 1e-12}}
    recipe = recipe_with(weights, pretrain=[still], vae={**TREE["vae"], "train": {"phases": []}})
    write_clip_set(tmp_path / "clips", recipe)
    vae = context(recipe, tmp_path, "train_vae", clips=tmp_path / "clips")
    train_vae.run(vae)
    given, published = load_vae(Path(weights["vae"])).state_dict(), load_vae(vae.out).state_dict()
    assert all(torch.equal(given[name], published[name]) for name in given)
    latents = context(recipe, tmp_path, "encode", clips=tmp_path / "clips", vae=vae.out)
    encode.run(latents)
    norm = LatentSet.open(latents.out).norm
    assert (norm.shift, norm.scale) == (SHIFT, SCALE)
    trained = context(recipe, tmp_path, "pretrain", latents=latents.out)
    pretrain.run(trained)
    before, after = load_dit(Path(weights["dit"]))[0], load_dit(trained.out)[0]
    for (name, a), b in zip(before.named_parameters(), after.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-9), name


def test_the_single_file_keeps_every_tensor(weights):
    before, after = load_dit(Path(weights["dit"]))[0], load_dit(Path(weights["converted"]))[0]
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_weights_of_another_size_are_named(weights, tmp_path):
    recipe = recipe_with(weights, dit={**TREE["dit"], "layers": 2})
    write_clip_set(tmp_path / "clips", recipe)
    latents = context(recipe, tmp_path, "encode", clips=tmp_path / "clips", vae=Path(weights["vae"]))
    encode.run(latents)
    with pytest.raises(UserError, match=r"layers\.1\."):
        pretrain.run(context(recipe, tmp_path, "pretrain", latents=latents.out))
    wide = recipe_with(weights, vae={**TREE["vae"], "model": {**TREE["vae"]["model"], "temporal_blocks": 2}})
    with pytest.raises(UserError, match=r"weights\.vae .* set there \{'temporal_blocks': 1\}"):
        train_vae.run(context(wide, tmp_path, "train_vae", clips=tmp_path / "clips"))


def test_other_weights_make_another_key(weights, tmp_path):
    from recipes import keys_of

    (tmp_path / "dit").mkdir()
    (tmp_path / "dit/config.json").write_text("{}")
    recipe = recipe_with({**weights, "dit": str(tmp_path / "dit")})
    before = keys_of(recipe)
    (tmp_path / "dit/config.json").write_text("[]")
    after = keys_of(recipe)
    changed = {name for name in before if before[name] != after[name]}
    assert {"encode", "pretrain-0"} <= changed
    assert not {"curate", "train_vae"} & changed
    with pytest.raises(UserError, match=r"weights\.dit: .*cannot be read"):
        keys_of(replace_path(recipe, tmp_path / "absent"))


def replace_path(recipe: Recipe, path: Path) -> Recipe:
    return recipe.model_copy(update={"weights": recipe.weights.model_copy(update={"dit": str(path)})})
