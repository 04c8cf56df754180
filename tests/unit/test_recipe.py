"""A recipe's mistakes are refused by name, before anything starts."""

from pathlib import Path

import pytest
import yaml

from mugv.errors import UserError
from mugv.recipe import digest, load_recipe, recipe_from_json, recipe_to_json

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs/tiny.yaml"


@pytest.mark.parametrize("name", ["tiny", "footage", "mugv-10b", "mugv-10b-finetune"])
def test_shipped_recipes_load_and_survive_their_own_json(name):
    recipe = load_recipe(ROOT / f"configs/{name}.yaml")
    assert recipe_from_json(recipe_to_json(recipe)) == recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("curation.sharpnes=3", r"curation\.sharpnes: unknown key; accepted here: .*sharpness"),
        ("dit.layers=many", r"dit\.layers: .*integer.*'many'"),
        ("dit.heads=5", "heads 5"),
        ("evaluate.judge=none", r"register\.gate\.minimum: evaluate\.judge none gives no real_colour; it gives vae_psnr"),
        ("register.gate.minimum={t2v_seen_colr: 0.9}", "gives no t2v_seen_colr; it gives .*t2v_seen.*_colour"),
        ("register.gate.compare=t2v_all", r"register\.gate\.compare: evaluate\.judge shapes gives no t2v_all"),
        ("parallel.tensor=3", "world 1 is not a multiple of tensor x pipeline x context = 3"),
        ("encode.sizes=[[40, 48]]", "multiples of 16"),
        ("curation.clip.frames=16", "1 \\+ 8k"),
        ("pretrain.7.steps=3", "'7' is not an index; the list has 3 entries"),
        ("sft.size=[64, 64]", r"sft\.size \[64, 64\] is not one of encode\.sizes"),
        ("vae.model.latent_channels=16", r"must equal vae\.model\.latent_channels 16"),
        ("pretrain.1.expand.factor=5", "must divide dit.hidden"),
        ("nonsense", "expected key=value"),
        ("align.rounds.0.beta=-100", r"align\.rounds\.0\.beta: .*greater than 0, got -100"),
        ("evaluate.sampler.guidance=.nan", r"evaluate\.sampler\.guidance: .*finite number"),
        ("sft.steps=yes", r"sft\.steps: expected a number; yes"),
        ("register.model=a/b", r"register\.model: must begin with a letter or digit .*got 'a/b'"),
        ("register.model='a:b'", r"register\.model: must begin"),
        ("register.model=''", r"register\.model: must begin"),
        ("register.model='a@b'", r"register\.model: must begin"),
        ("name=''", "name: must begin"),
        ("sft={steps: 1, steps: 2}", "not a valid YAML value"),
        ("vae.train.phases.1.windows=[4]", r"phases\.1\.windows: 4 latents are 32 frames, curation\.clip\.frames 17 give 3 at most"),
        ("vae.train.phases.1.windows=[2]", r"linear_start needs vae\.train\.phases\.1\.windows: \[1\]"),
        ("vae.train.phases.0.size=40", r"phases\.0\.size must be a multiple of 16"),
        ("vae.train.phases=[]", r"vae\.train\.phases is empty: give phases, or a trained VAE as weights\.vae"),
        ("evaluate.sampler.dynamic_clamp={24: 0.1}", r"evaluate\.sampler\.dynamic_clamp: there is no channel 24; latents have 0 to 23"),
        ("data.sample.shot_frames=[30, 20]", r"shot_frames is \[shortest, longest\]"),
    ],
)
def test_a_mistake_is_named_with_what_would_be_right(setting, message):
    with pytest.raises(UserError, match=message) as error:
        load_recipe(TINY, [setting])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["parallel.world=4", "parallel.tensor=4"], r"parallel\.tensor 4 does not divide dit\.heads 1 before the expansions"),
        (["parallel.sequence_parallel=true"], "sequence_parallel needs tensor of at least 2"),
        (["parallel.overlap=true"], "overlap needs distributed_optimizer: true"),
        (["parallel.virtual_pipeline=2"], "virtual_pipeline needs pipeline of at least 2"),
        (["parallel.world=3", "parallel.pipeline=3"], r"pipeline 3 x virtual_pipeline 1 does not divide 4 layers"),
        (
            ["parallel.world=2", "parallel.pipeline=2", "parallel.virtual_pipeline=4"],
            "pipeline 2 x virtual_pipeline 4 does not divide 4 layers",
        ),
        (["parallel.world=2", "parallel.pipeline=2", "parallel.virtual_pipeline=2"], "images and videos need parallel.pack: true"),
        (
            ["parallel.world=2", "parallel.pipeline=2", "parallel.virtual_pipeline=2", "parallel.pack=true", "parallel.micro_batch=64"],
            "must be a multiple of pipeline 2 micro-batches",
        ),
        (["parallel.world=3", "parallel.context=3", "parallel.context_method=ulysses"], "context_method must be gather or auto"),
        (["parallel.world=5"], "is not a multiple of the 5 data-parallel ranks"),
        (["parallel.world=2", "align.rounds.1.batch=6"], r"align\.rounds\.1\.batch 6 must be 2 or a multiple of 4"),
    ],
)
def test_impossible_layouts_are_refused_before_anything_starts(settings, message):
    with pytest.raises(UserError, match=message) as error:
        load_recipe(TINY, settings)
    assert "\n" not in str(error.value)


def test_unreadable_and_malformed_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.yaml: cannot be read"):
        load_recipe(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"bad\.yaml: not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path):
    """YAML takes the last one without a word."""
    (tmp_path / "twice.yaml").write_text(TINY.read_text() + "\nsft: {}\nseed: 3\n")
    with pytest.raises(UserError, match=r"twice\.yaml: .*key 'sft' is given twice, on lines \d+ and \d+"):
        load_recipe(tmp_path / "twice.yaml")


def test_merged_mappings_may_be_changed_key_by_key(tmp_path):
    (tmp_path / "merged.yaml").write_text(TINY.read_text().replace("data:\n  shards: 2", "data:\n  <<: {shards: 3}\n  shards: 2"))
    assert load_recipe(tmp_path / "merged.yaml") == load_recipe(TINY)


def test_the_digest_changes_with_any_value_and_with_nothing_else(tmp_path):
    tree = yaml.safe_load(TINY.read_text())
    (tmp_path / "same.yaml").write_text(yaml.safe_dump(tree, sort_keys=True))
    assert digest(load_recipe(TINY)) == digest(load_recipe(tmp_path / "same.yaml"))
    assert digest(load_recipe(TINY)) != digest(load_recipe(TINY, ["sft.steps=41"]))
