"""A recipe with local captions, labels and a list, compiled here and run where none of these files is."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from s3_server import KEYS, served

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "unit"))

from footage_tools import shot  # noqa: E402

from mugv.media.encode import write_video  # noqa: E402
from mugv.recipe import recipe_from_json  # noqa: E402
from mugv.store.carried import carried_digest, local_path  # noqa: E402

ROOT = HERE.parents[1]
ELSEWHERE = """
import sys
from kfp import components, local
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2], raise_on_error=True)
components.load_component_from_file(sys.argv[1])()
"""


def recipe_file(folder: Path) -> Path:
    tree = yaml.safe_load((ROOT / "tests/pipeline/micro.yaml").read_text())
    tree["data"] = {"shards": 1, "videos": "list.parquet", "captions": "captions.jsonl"}
    tree["align"]["labels"] = "labels.jsonl"
    tree["curation"]["validation_fraction"] = 0
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return folder / "recipe.yaml"


def write_inputs(folder: Path, bucket: Path) -> None:
    (bucket / "raw").mkdir()
    names = ["a.mp4", "b.mp4"]
    for k, name in enumerate(names):
        write_video(bucket / "raw" / name, shot(k), 12)
    uris = [f"s3://bucket/raw/{name}" for name in names]
    pq.write_table(pa.table({"uri": uris, "name": names}), folder / "list.parquet")
    said = [json.dumps({"source": name, "caption": f"shape {k}"}) + "\n" for k, name in enumerate(names)]
    (folder / "captions.jsonl").write_text("".join(said))
    (folder / "labels.jsonl").write_text('{"kind": "absolute", "clip": "0000-0", "pass": true}\n')


def test_tasks_need_no_file_of_the_machine_that_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = tmp_path / "laptop", tmp_path / "pod"
    mine.mkdir()
    other.mkdir()
    with served(tmp_path, monkeypatch) as server:
        write_inputs(mine, server.root / "bucket")
        env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "MUGV_STORE": "s3://bucket/mugv",
            "MUGV_S3_ENDPOINT": f"http://127.0.0.1:{server.port}",
            "MUGV_S3_ACCESS_KEY": KEYS[0],
            "MUGV_S3_SECRET_KEY": KEYS[1],
        }
        command = [sys.executable, "-m", "mugv.cli.main", "compile", "--recipe", recipe_file(mine).name, "--pipeline", "data"]
        subprocess.run([*command, "-o", str(other / "pipeline.yaml")], cwd=mine, env={**env, "MUGV_STATE": str(mine / "state")}, check=True)
        shutil.rmtree(mine)
        text = (other / "pipeline.yaml").read_text()
        assert str(mine) not in text
        default = yaml.safe_load(text.split("\n---\n")[0])["root"]["inputDefinitions"]["parameters"]["recipe"]["defaultValue"]
        recipe = recipe_from_json(default)
        assert recipe.align
        for value in (recipe.data.videos, recipe.data.captions, recipe.align.labels):
            assert carried_digest(value or "")
        pod = {**env, "MUGV_STATE": str(other / "state")}
        ran = [sys.executable, "-c", ELSEWHERE, str(other / "pipeline.yaml"), str(other / "kfp")]
        done = subprocess.run(ran, cwd=other, env=pod, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        card = next((server.root / "bucket" / "mugv" / "curate").glob("*/card.json"))
        assert sum(json.loads(card.read_text())["clips"].values()) == 2
        monkeypatch.setenv("MUGV_STATE", str(other / "state"))
        assert local_path(recipe.align.labels or "").read_text().startswith('{"kind": "absolute"')
