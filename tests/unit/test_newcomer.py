"""What newcomers type: every mistake on the command line or in a file of theirs ends with exit code 2 and one line that says what is
wrong. One process goes through them all; nothing is run."""

import re
import shlex
from pathlib import Path

import pytest
from recipes import write_recipe
from typer.testing import CliRunner

from mugv.cli.main import app

MISTAKES = [
    # command -> words of the line
    ("rnu", "No such command 'rnu'. Did you mean 'run'?"),
    ("--foo", "No such option: --foo"),
    ("run run", "unexpected extra argument(s) (run)"),
    ("run --recpe x", "No such option: --recpe (Possible options: --help, --recipe)"),
    ("run --videos", "'--videos' requires an argument"),
    ("run --videos ''", "--videos: empty"),
    ("run --videos nowhere", "--videos nowhere: not a folder"),
    ("run --videos film.mp4", "--videos film.mp4: not a folder"),
    ("run --videos empty", "no video files"),
    ("run --videos s3://", "no bucket; expected s3://bucket/prefix"),
    ("run --videos s3:/bucket/x", "not a folder; give the folder"),
    ("run --videos gs://bucket/x", "scheme 'gs' is not supported"),
    ("run --videos http://host/list", "scheme 'http' is not supported"),
    ("run --videos text.parquet", "not a parquet file"),
    ("run --videos empty --captions nowhere", "--captions nowhere: no such file"),
    ("run --videos empty --captions empty", "--captions empty: no such file"),
    ("run --videos films", "nothing says what the videos show"),
    ("run --videos films --captions bytes.jsonl", "not UTF-8"),
    ("run --videos films --captions deep.jsonl", "deep.jsonl line 1: "),
    ("run --videos films --captions list.jsonl", "list.jsonl line 1: no object but [1]; expected a line such as"),
    ("run --captions bytes.jsonl", "there are no videos that it could be about"),
    ("run --recipe nowhere.yaml", "cannot be read (No such file or directory)"),
    ("run --recipe empty", "cannot be read (Is a directory)"),
    ("run --recipe bytes.yaml", "line 1 is not UTF-8 text"),
    ("run --recipe list.yaml", "expected a mapping of keys, got a list"),
    ("run --recipe deep.yaml", "nested too deep"),
    ("run --recipe empty.yaml", "expected a mapping of keys, got nothing"),
    ("run --recipe twice.yaml", "key 'seed' is given twice, on lines 1 and 3"),
    ("run --recipe film.mp4", "expected a mapping of keys, got text"),
    ("run --recipe /dev/zero", "larger than 1 MiB"),
    ("run --recipe recipe.yaml --set", "'--set' requires an argument"),
    ("run --set seed", "expected key=value"),
    ("run --set =3", "expected key=value"),
    ("run --set seed=", "null is not accepted here; expected a whole number, or leave the key out for its default 0"),
    ("run --set seed=x", "--set seed: Input should be a valid integer"),
    ("run --set seed=1.5", "fractional part, got 1.5"),
    ("run --set seed=-1", "greater than or equal to 0, got -1"),
    ("run --set seed=1e400", "finite number"),
    ("run --set seed=99999999999999999999999", "less than or equal to"),
    ("run --set seed=true", "expected a number"),
    ("run --set sed=3", "unknown key; did you mean seed?"),
    ("run --set dit.layer=3", "did you mean dit.layers?"),
    ("run --set register_.model=x", "did you mean register?"),
    ("run --set steps=3", "a key of that name is vae.train.phases.N.steps"),
    ("run --set dit.layers.x=3", "nothing can be set under a value such as 2"),
    ("run --set dit=3", "expected a mapping with keys such as"),
    ("run --set dit.heads=7", "hidden 48 is not a multiple of heads 7"),
    ("run --set pretrain.9.steps=3", "'9' is not an index; the list has 2 entries, 0 to 1"),
    ("run --set pretrain.first.steps=3", "'first' is not an index"),
    ("run --set pretrain=[]", "--set pretrain: "),
    ("run --set register.model=a/b", "--set register.model: must begin with a letter"),
    ("run --set register.model=", "null is not accepted here"),
    ("run --set register.gate.minimum.t2v_all=0.5", "gives no t2v_all; it gives vae_psnr"),
    ("run --set register.gate.compare=foo", "gives no foo"),
    ("run --set name=a/b", "--set name: "),
    ("run --set encode.sizes=33x33", "multiples of 16"),
    ("run --set encode.sizes=32", "expected a list of lists of 2 whole numbers, got 32"),
    ("run --set curation.clip.fps=0", "--set curation.clip.fps: "),
    ("run --set curation.clip.frames=16", "frames must be 1 + 8k"),
    ("run --set data.shards=0", "--set data.shards: "),
    ("run --set data.shards=1000000", "less than or equal to 10000"),
    ("run --set curation.score_only=true", "score with `mugv curate`"),
    ("run --set curation.duplicates.distance=-1", "greater than or equal to 0"),
    ("run --set curation.sharpness.minimum=soft", "valid number"),
    ("run --set curation.exposure.minimum=.nan", "finite number"),
    ("run --set curation.caption.kind=endpoint", "kind endpoint needs model"),
    ("run --set curation.caption.kind=gpt", "'sidecar', 'endpoint' or 'transformers'"),
    ("run --set parallel.world=3", "is not a multiple of the 3 data-parallel ranks"),
    ("run --set parallel.tensor=2", "world 1 is not a multiple of tensor x pipeline x context = 2"),
    ("run --set weights.vae=nowhere", "weights.vae: nowhere cannot be read"),
    ("run --set weights.dit=nowhere", "weights.dit: nowhere cannot be read"),
    ("run --set align.labels=nowhere", "align.labels: nowhere cannot be read"),
    ("run --set data.videos=nowhere", "nowhere"),
    ("run --set curation.aesthetic.clip=nowhere", "curation.aesthetic.clip: nowhere cannot be read"),
    ("run --set 'curation.duplicates.earlier=[nowhere]'", "curation.duplicates.earlier: nowhere cannot be read"),
    ("run --state film.mp4", "is a file"),
    ("run --state film.mp4/x", "a file is in the way"),
    ("run --state /proc/x", "cannot be made"),
    ("run -q -v", "exclude each other"),
    ("curate --videos nowhere", "not a folder"),
    ("curate --explain", "no run has made a clip set yet|does not exist"),
    ("curate --explain empty", "manifest.parquet is missing"),
    ("curate --explain film.mp4", "not a clip set"),
    ("curate --calibrate nowhere.csv empty", "not a clip set"),
    ("curate empty", "a clip set goes with --explain or --calibrate"),
    ("curate --videos films --out film.mp4", "--out film.mp4: exists already"),
    ("curate --videos films --out /proc/x/y", "--out /proc/x/y: cannot be written"),
    ("curate a b", "unexpected extra argument(s) (b)"),
    ("plan --gpus 0", "'--gpus': Input should be greater than or equal to 1"),
    ("plan --gpus many", "'--gpus': Input should be a valid integer"),
    ("plan --gpus 8 --mfu 2", "'--mfu': Input should be less than or equal to 1"),
    ("plan --gpus 8 --epoch 0", "'--epoch'"),
    ("plan --state film.mp4", "is a file; give a folder with --state"),
    ("runs --state nowhere", "state folder .*/nowhere: does not exist"),
    ("runs --limit 0", "'--limit'"),
    ("show --state empty", "run latest: no run of that name"),
    ("show x --state empty", "run x: no run of that name"),
    ("show ../../etc --state empty", "no run of that name"),
    ("lineage --state empty", "no model is registered there"),
    ("promote", "Missing argument 'version'"),
    ("promote -1", "No such option: -1"),
    ("promote 1 --state empty", "no model is registered there"),
    ("rollback --state empty", "no model is registered there"),
    ("generate", "Missing argument 'prompt'"),
    ("generate x --state empty", "no model is registered there"),
    ("generate x -o out.gif", "must end in .mp4"),
    ("generate x -o film.mp4/x.mp4", "film.mp4 is a file, not a folder"),
    ("generate x -o /proc/x/y.mp4", "-o /proc/x/y.mp4: cannot be written"),
    ("generate x --frames 2", "frames 2: must be 1 + 8k"),
    ("generate x --frames -7", "must be 1 + 8k"),
    ("generate x --size 3", "--size 3: expected HEIGHTxWIDTH"),
    ("generate x --size 100x100", "multiples of 16; the nearest is 96x96"),
    ("generate x --steps 0", "'--steps'"),
    ("generate x --seed -1", "'--seed'"),
    ("generate x --seed 99999999999999999999999999", "'--seed'"),
    ("generate x --sampler rk4", "--sampler rk4: Input should be 'euler' or 'ab2'"),
    ("generate x --guidance nan", "--guidance nan: Input should be a finite number"),
    ("generate x --guidance-interval 900:100", "--guidance-interval 900:100: "),
    ("generate x --guidance-rescale 2", "--guidance-rescale 2.0: "),
    ("generate x --image nowhere.png", "--image nowhere.png: no such file"),
    ("generate x --image film.mp4", "--image film.mp4: not a picture"),
    ("generate x --image a.png --continue b.mp4", "exclude each other"),
    ("generate x --continue nowhere.mp4", "--continue nowhere.mp4: no such file"),
    ("generate x --continue-frames 5", "--continue-frames 5: "),
    ("generate x --reverse-start-step 3", "--video and --reverse-start-step go together"),
    ("generate x --checkpoint nowhere", "nowhere: not a folder"),
    ("generate x --checkpoint s3://", "names no output"),
    ("generate x --checkpoint foo://a/b/c", "scheme 'foo' is not known"),
    ("generate x --checkpoint empty --state empty", "give --vae"),
    ("generate x --model models:/x@y --checkpoint z", "exclude each other"),
    ("convert", "Missing argument 'source'"),
    ("convert nowhere out", "nowhere: no such file or folder"),
    ("convert film.mp4 out", "a checkpoint file ends in .safetensors, .pt, .pth"),
    ("convert film.pt out", "film.pt: not a readable checkpoint"),
    ("convert empty out", "its name must end in .safetensors"),
    ("convert empty out.pt", "empty: no checkpoint folder"),
    ("convert film.pt out --dtype fp8", "--dtype fp8: must be one of"),
    ("convert film.pt /proc/x", "TARGET /proc/x: cannot be written"),
    ("ui --state nowhere", "does not exist"),
    ("ui --port 99999", "'--port'"),
    ("compile -o x.txt", "output x.txt must end in .yaml"),
    ("compile -o /proc/x/y.yaml", "-o /proc/x/y.yaml: cannot be written"),
    ("compile --pipeline foo", "--pipeline foo: not known; use train, data or retrain"),
    ("submit --pipeline foo", "--pipeline foo: not known"),
    ("submit", "KFP_ENDPOINT"),
    ("schedule", "Missing option '--cron'"),
    ("schedule --cron '0 3 * * *'", "expected 6 fields"),
    ("schedule --cron 'a b c d e f'", "second 'a' is not"),
    ("stage", "Missing argument 'name'"),
    ("stage nothing --out x", "stage nothing: not in this recipe's graph; it has footage, scan"),
    ("stage scan", "Missing option '--out'"),
    ("stage scan --out x", "reads --input footage, got nothing"),
    ("stage scan --out x --input footage", "expected NAME=PATH"),
    ("stage scan --out x --input footage=nowhere", "nowhere is not a folder"),
    ("stage footage --out film.mp4", "is no folder"),
]
WITH_RECIPE = ("run", "plan", "compile", "submit", "schedule", "stage")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a newcomer has lying around."""
    root = tmp_path_factory.mktemp("newcomer")
    write_recipe(root)
    for name in ("empty", "films"):
        (root / name).mkdir()
    files = {
        "film.mp4": b"x",
        "films/film.mp4": b"x",
        "film.pt": b"hello",
        "text.parquet": b"no parquet",
        "bytes.yaml": b"\xff\xfe\x00",
        "list.yaml": b"- 1\n",
        "deep.yaml": b"a: " + b"[" * 4000,
        "empty.yaml": b"",
        "twice.yaml": b"seed: 1\nname: x\nseed: 2\n",
        "bytes.jsonl": b"\xff",
        "deep.jsonl": b'{"a":' * 5000,
        "list.jsonl": b"[1]\n",
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize(("line", "words"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_2(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, words: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MUGV_STATE", str(tmp_path / "state"))
    for name in ("MLFLOW_TRACKING_URI", "KFP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    arguments = shlex.split(line)
    if arguments[0] in WITH_RECIPE and "--recipe" not in arguments and "--videos" not in arguments:
        arguments += ["--recipe", "recipe.yaml"]
    before = sorted(p.name for p in folder.rglob("*"))
    result = CliRunner().invoke(app, arguments, prog_name="mugv")
    assert (result.exit_code, result.stdout) == (2, ""), result.exception
    assert re.fullmatch(r"error: [^\n]+\n", result.stderr), result.stderr
    assert any(re.search(part, result.stderr) or part in result.stderr for part in words.split("|")), result.stderr
    assert sorted(p.name for p in folder.rglob("*")) == before, "a mistake leaves nothing behind"
