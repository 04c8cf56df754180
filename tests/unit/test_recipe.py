"""A recipe's mistakes are refused by name, before anything starts."""

from pathlib import Path

import pytest
import yaml

from mugv.errors import UserError
from mugv.recipe import digest, load_recipe, recipe_from_json, recipe_to_json
from mugv.stages.graph import node_keys
from mugv.stages.roots import Roots

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "configs/tiny.yaml"


@pytest.mark.parametrize("name", ["tiny", "footage", "mugv-10b", "mugv-10b-finetune"])
def test_shipped_recipes_load_and_survive_their_own_json(name):
    recipe = load_recipe(ROOT / f"configs/{name}.yaml")
    assert recipe_from_json(recipe_to_json(recipe)) == recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("curation.sharpnes=3", r"^--set curation\.sharpnes: unknown key; did you mean curation\.sharpness\?$"),
        ("register_.model=x", r"register_: unknown key; did you mean register\?"),
        ("steps=3", r"unknown key; a key of that name is vae\.train\.phases\.N\.steps or pretrain\.N\.steps or sft\.steps$"),
        ("curation.qqq=3", r"accepted here: aesthetic, aspect, .* \(26 keys, all in docs/reference/recipe\.md\)$"),
        ("dit.layers=null", "null is not accepted here; expected a whole number, or leave the key out for its default 56"),
        ("encode.sizes=32", "expected a list of lists of 2 whole numbers, got 32"),
        ("sft.size=3", r"--set sft\.size: expected a list of 2 whole numbers, got 3"),
        ("pretrain=x", "expected a list of mappings with keys such as average_decay, batch"),
        ("curation.exposure.minimum=.nan", "finite number, got nan"),
        ("sft.optimizer.learning_rate=.inf", "finite number, got inf"),
        ("seed={a: 1, a: 2}", "key 'a' is given twice"),
        ("seed=0x_", "not a valid YAML value .*cannot be read"),
        ('seed=!!int ""', "not a valid YAML value .*cannot be read"),
        ("seed.x=3", "nothing can be set under a value such as 0"),
        (f"{'a.' * 3000}a=3", "no key of a recipe lies that deep"),
        (f"seed={'[' * 3000}", "nested too deep"),
        ("curation.border.crop=maybe", "valid boolean"),
        ("dit.layers=many", r"dit\.layers: .*integer.*'many'"),
        ("dit.heads=5", "heads 5"),
        ("evaluate.judge=none", r"register\.gate\.minimum: evaluate\.judge none gives no real_colour; it gives vae_psnr"),
        ("register.gate.minimum={t2v_seen_colr: 0.9}", "gives no t2v_seen_colr; it gives .*t2v_seen.*_colour"),
        ("register.gate.compare=t2v_all", r"register\.gate\.compare: evaluate\.judge shapes gives no t2v_all"),
        ("register.gate.maximum={flow_loss: 1}", r"register\.gate\.maximum: evaluate\.judge shapes gives no flow_loss"),
        ("register.gate={minimum: {vae_psnr: 30}, maximum: {vae_psnr: 20}}", "minimum 30 of vae_psnr must not exceed its maximum 20"),
        ("register.gate.maximum={vae_psnr: .inf}", r"register\.gate\.maximum\.vae_psnr: .*finite"),
        ("register.gate.significance=0", r"register\.gate\.significance: .*greater than or equal to 0\.001"),
        (
            "resources.train.memory=8 GB",
            r"resources\.train\.memory: must be memory as Kubernetes writes it, a whole number such as 8G or 512Mi, got '8 GB'",
        ),
        ("resources.train.memory=0.5G", r"resources\.train\.memory: must be memory"),
        ("resources.train.memory=8K", r"resources\.train\.memory: must be memory"),
        ("resources.train.memory=٣G", r"resources\.train\.memory: must be memory"),
        ("resources.train.shared_memory=big", r"resources\.train\.shared_memory: must be memory"),
        ("resources.train.gpu_type=gpu", r"resources\.train\.gpu_type: must be the name of a node's resource"),
        ("resources.train.devices={rdma/ib: 0}", r"resources\.train\.devices\.rdma/ib: .*greater than or equal to 1"),
        ("resources.train.devices={rdma/ib: 1, ib: 1}", r"resources\.train\.devices.*must be the name of a node's resource"),
        ("resources.train.environment={MASTER_ADDR: host}", r"resources\.train\.environment.*is set by the launcher"),
        ("resources.train.environment={PET_NNODES: '3'}", r"resources\.train\.environment.*is set by the launcher"),
        ("resources.train.job.queue=My Queue", r"resources\.train\.job\.queue: must be the name of a Kubernetes object"),
        ("resources.train.job.priority=high", r"resources\.train\.job.*priority needs queue"),
        ("resources.vae.job.topology=rack", r"resources\.vae\.job.*topology needs queue"),
        ("resources.image_train='mugv train'", r"resources\.image_train: must be the name of an image"),
        ("resources.start_deadline=.inf", r"resources\.start_deadline: .*finite number"),
        ("resources={gpus_per_node: 8, train: {gpus: 4}}", r"gpus_per_node 8 is more than resources\.train\.gpus 4"),
        ("resources.job_retries=-1", r"resources\.job_retries: .*greater than or equal to 0"),
        ("resources.vae.cpu='-1'", r"resources\.vae\.cpu: must be processors as Kubernetes writes them, such as 2, 0\.5 or 500m"),
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
        ("sft.steps=yes", r"sft\.steps: .*integer.*'yes'"),
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read .No such file"),
        (b"a: [1", "not valid YAML .line 1, column 6"),
        (b"name: x\nname: \xff", "line 2 is not UTF-8 text"),
        (b"seed: 1\nname: x\nseed: 2", "key 'seed' is given twice, on lines 1 and 3"),
        (b"a: " + b"[" * 5000, "nested too deep"),
        (b"- 1", "expected a mapping of keys, got a list"),
        (b"hello", "expected a mapping of keys, got text"),
        (b"", "expected a mapping of keys, got nothing"),
        (b"a: &a [*a, *a]", "a: unknown key"),
        (b"name: *x", "undefined alias"),
        (b"name: x\x00", "not valid YAML"),
        (b"? [1]\n: 2", "not valid YAML"),
        (b"#" * (1 << 21), "larger than 1 MiB"),
    ],
)
def test_unreadable_and_malformed_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"bad\\.yaml: .*{message}") as error:
        load_recipe(path)
    assert "\n" not in str(error.value)


def test_a_folder_is_no_recipe(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .Is a directory"):
        load_recipe(tmp_path)


def test_words_that_yaml_takes_for_switches_or_dates_stay_words():
    recipe = load_recipe(TINY, ["curation.text.detector=off", "curation.border.crop=off", "name=2020-01-01"])
    assert (recipe.curation.text.detector, recipe.curation.border.crop, recipe.name) == ("off", False, "2020-01-01")


def test_numbers_and_sizes_are_read_as_they_are_written():
    recipe = load_recipe(TINY, ["sft.optimizer.learning_rate=1e-4", "encode.sizes=32x32,48x64,48x48", "sft.size=48x64"])
    assert recipe.sft.optimizer.learning_rate == 1e-4
    assert recipe.encode.sizes == ((32, 32), (48, 64), (48, 48))
    assert recipe.sft.size == (48, 64)


def test_a_file_from_windows_is_read(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbf" + TINY.read_bytes().replace(b"\n", b"\r\n"))
    assert load_recipe(tmp_path / "r.yaml") == load_recipe(TINY)


def test_a_change_does_not_reach_what_an_alias_shares(tmp_path):
    tree = yaml.safe_load(TINY.read_text())
    tree["sft"] |= {"optimizer": tree["pretrain"][0]["optimizer"], "steps": 100}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    recipe = load_recipe(tmp_path / "r.yaml", ["sft.optimizer.learning_rate=0.5"])
    assert recipe.sft.optimizer.learning_rate == 0.5
    assert recipe.pretrain[0].optimizer.learning_rate != 0.5


def test_a_mistake_is_said_to_stand_where_it_was_made(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(TINY.read_text().replace("\nseed: 0", "\nsead: 0"))
    with pytest.raises(UserError, match=r"^\S+r\.yaml: sead: unknown key; did you mean seed\?$"):
        load_recipe(path, ["sft.steps=3"])
    with pytest.raises(UserError, match=r"^--set dit\.heads: dit: "):
        load_recipe(TINY, ["seed=3", "dit.heads=7"])
    with pytest.raises(UserError, match=r"^--set dit\.latent_channels: dit\.latent_channels 3 must equal"):
        load_recipe(TINY, ["dit.latent_channels=3", "seed=3"])


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


@pytest.mark.parametrize("text", ["", "{", "{'name': 1}", "[]", "null", '"x"', "[" * 100_000])
def test_a_recipe_parameter_that_was_edited_by_hand_is_told_in_one_line(text: str) -> None:
    """Tasks get the recipe as a parameter of the run, which KFP's page lets people change."""
    with pytest.raises(UserError, match=r"^recipe: (is not JSON|must be a JSON object)[^\n]*$"):
        recipe_from_json(text)


def keys_of(recipe):
    return node_keys(recipe, Roots.of(recipe))


@pytest.mark.parametrize(
    ("changes", "gpus", "world"),
    [
        ([], 0, 1),
        ([], None, 1),
        ([], 8, 8),
        (["parallel.world=1"], 8, 1),
        (["parallel.world=auto"], 4, 4),
        (["parallel.world=0"], 4, 4),
        (["parallel.context=2"], 7, 4),
        # 16 and 48 clips a step are no multiple of 7 or 5 ranks.
        ([], 7, 4),
        (["parallel.world=auto", "resources.train.gpus=2"], None, 2),
        (["parallel.world=auto", "resources.train.gpus=8", "resources.gpus_per_node=4"], None, 4),
        (["parallel.world=auto"], None, 1),
    ],
)
def test_a_recipe_that_leaves_the_processes_out_takes_the_gpus_that_there_are(changes, gpus, world):
    recipe = load_recipe(TINY, ["dit.heads=8", *changes], gpus)
    assert recipe.parallel.world == world


def test_a_machine_without_gpus_keeps_the_keys_of_outputs_that_are_there():
    before = load_recipe(TINY)
    assert keys_of(load_recipe(TINY, gpus=0)) == keys_of(before)
    assert keys_of(load_recipe(TINY, gpus=2)) == keys_of(load_recipe(TINY, ["parallel.world=2"]))
