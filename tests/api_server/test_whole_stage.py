"""A training stage of two nodes through the real API server: the controller is played, its pods are processes that really train."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from kubernetes import client
from player import TRAINJOBS, Player, wait_for
from server import Front, free_port

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/unit"))

from recipes import TREE  # noqa: E402
from test_vae_stage import VAE, clips  # noqa: E402, F401

from mugv.recipe.load import load_recipe  # noqa: E402
from mugv.vae import load_vae  # noqa: E402

SLOW = {
    "vae.train.phases": "[{parts: spatial, steps: 80, batch: 4, learning_rate: 1.0e-3, size: 32}]",
    "vae.train.linear_start": "false",
}
BATCHES = ["pretrain.0.batch=2", "pretrain.1.batch=2", "sft.batch=2", "align.rounds.0.batch=4", "align.rounds.1.batch=4"]


class Cluster(threading.Thread):
    """Starts the pods of each job that is made, as Trainer and kubelet would, until `close`."""

    def __init__(self, objects: client.CustomObjectsApi) -> None:
        super().__init__(daemon=True)
        self.objects, self.pods, self.made, self.closed = objects, list[subprocess.Popen[bytes]](), list[str](), False
        # What other tests left is nobody's to run.
        self.objects.delete_collection_namespaced_custom_object(*TRAINJOBS)
        self.start()

    def run(self) -> None:
        while not self.closed:
            for job in self.objects.list_namespaced_custom_object(*TRAINJOBS)["items"]:
                if job["metadata"]["uid"] not in self.made:
                    self.made.append(job["metadata"]["uid"])
                    self._run_job(job)
            time.sleep(0.05)

    def _run_job(self, job: dict[str, Any]) -> None:
        player = Player(self.objects, job["metadata"]["name"])
        pods, log = self._pods(job["spec"]["trainer"])
        player.runs()
        stopped = False
        while any(pod.poll() is None for pod in pods):
            found = player.job()
            if not stopped and (found is None or "deletionTimestamp" in found["metadata"]):
                stopped = True
                for pod in pods:
                    pod.send_signal(signal.SIGTERM)
            time.sleep(0.05)
            self._show(player, log)
        self._show(player, log)
        bad = next((i for i, pod in enumerate(pods) if pod.returncode), None)
        if not stopped and bad is None:
            player.completes()
        elif not stopped:
            player.fails(pods[bad].returncode)
        player.collected()

    def _pods(self, trainer: dict[str, Any]) -> tuple[list[subprocess.Popen[bytes]], Path]:
        """A process a node with what the Trainer's torch plugin gives it, and the log of the first."""
        command, port, logs = [sys.executable, *trainer["command"][1:], *trainer["args"]], free_port(), list[Path]()
        for index in range(trainer["numNodes"]):
            rendezvous = {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(index),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            }
            environment = {**os.environ, "PYTHONPATH": str(ROOT), **{e["name"]: e["value"] for e in trainer["env"]}, **rendezvous}
            logs.append(Path(trainer["args"][0]).with_name(f"pod-{len(self.made)}-{index}.log"))
            with logs[-1].open("wb") as file:
                self.pods.append(subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT))
        return self.pods[-trainer["numNodes"] :], logs[0]

    def _show(self, player: Player, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines()
        stamped = [f"2026-01-01T00:{i // 60:02d}:{i % 60:02d}.000Z {line}" for i, line in enumerate(lines)]
        Front.logs[f"{player.name}-node-0-0-x"] = "\n".join(stamped)

    def close(self) -> None:
        self.closed = True
        for pod in self.pods:
            if pod.poll() is None:
                pod.kill()
            pod.wait(10)
        self.join(30)


@pytest.fixture
def cluster(objects: client.CustomObjectsApi, defined: None) -> Iterator[Cluster]:
    body = {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "ClusterTrainingRuntime", "metadata": {"name": "mugv-torch"}}
    with suppress(client.ApiException):  # it is there
        objects.create_cluster_custom_object("trainer.kubeflow.org", "v1alpha1", "clustertrainingruntimes", body)
    found = Cluster(objects)
    yield found
    found.close()


def written_recipe(folder: Path, **more: str) -> Path:
    (folder / "plain.yaml").write_text(yaml.safe_dump(TREE))
    changes = {**VAE, **more, "parallel.world": "2", "resources.gpus_per_node": "1"}
    recipe = load_recipe(folder / "plain.yaml", [*(f"{key}={value}" for key, value in changes.items()), *BATCHES])
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(json.loads(recipe.model_dump_json(by_alias=True))))
    return path


def task(recipe: Path, footage: Path, state: Path, as_user: Any, run: str) -> subprocess.Popen[str]:
    own = {"MUGV_POD_NAME": f"task-{run}", "MUGV_POD_UID": run, "MUGV_POD_NAMESPACE": "mugv", "MUGV_POLL_SECONDS": "0.1"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MUGV_KUBECONFIG": str(as_user("launcher")), "MUGV_STATE": str(state), **own}
    command = [sys.executable, str(ROOT / "tests/api_server/stage_task.py"), str(recipe), str(footage), str(state), run]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def weights(state: Path) -> dict[str, torch.Tensor]:
    return load_vae(state / "work/key/token.out").state_dict()


def test_two_nodes_train_publish_and_tell_their_progress(cluster: Cluster, clips: Path, tmp_path: Path, as_user: Any) -> None:  # noqa: F811
    process = task(written_recipe(tmp_path), clips, tmp_path / "state", as_user, "a")
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 0, said
    assert json.loads(said.splitlines()[-1])["vae_measured_clips"] == 1
    assert "2 nodes of 1 processes" in said
    assert len(cluster.made) == 1
    assert weights(tmp_path / "state")
    assert (tmp_path / "state/work/key/token.out/metrics.jsonl").is_file()
    assert cluster.objects.list_namespaced_custom_object(*TRAINJOBS)["items"] == [], "nothing is left behind"


def test_a_mistake_that_the_nodes_find_is_told_in_its_own_words_and_once(cluster: Cluster, tmp_path: Path, as_user: Any) -> None:
    from mugv.curation.rows import ClipRow, write_rows

    empty = tmp_path / "empty"
    empty.mkdir()
    write_rows(empty / "manifest.parquet", [ClipRow("c0", "v0.mp4", "d", reason="blurred")])
    (empty / "card.json").write_text('{"shards": {}}')
    process = task(written_recipe(tmp_path), empty, tmp_path / "state", as_user, "b")
    said = process.communicate(timeout=400)[0]
    assert process.returncode == 2, said
    assert "mugv-error: the clip set holds no clip to train on" in said.splitlines()[-1]
    assert len(cluster.made) == 1, "a user's error is not tried again"


def test_a_killed_task_and_a_terminated_one_cost_no_step(cluster: Cluster, clips: Path, tmp_path: Path, as_user: Any) -> None:  # noqa: F811
    recipe, state = written_recipe(tmp_path, **SLOW), tmp_path / "state"
    whole = task(recipe, clips, tmp_path / "whole", as_user, "c")
    assert whole.wait(400) == 0, whole.communicate()[0]
    made = len(cluster.made)

    first = task(recipe, clips, state, as_user, "d")
    saved = state / "work/key/token/train"
    wait_for(lambda: list(saved.glob("*")), 60)
    first.kill()
    first.wait(10)
    second = task(recipe, clips, state, as_user, "d")
    assert second.stdout
    wait_for(lambda: any("an earlier try made it" in line for line in iter(second.stdout.readline, "")), 60)
    assert len(cluster.made) == made + 1, "the job of the killed task goes on"
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 143
    wait_for(lambda: not cluster.objects.list_namespaced_custom_object(*TRAINJOBS)["items"], 60)

    third = task(recipe, clips, state, as_user, "d")
    said = third.communicate(timeout=400)[0]
    assert third.returncode == 0, said
    assert len(cluster.made) == made + 2
    before, after = weights(tmp_path / "whole"), weights(state)
    assert all(torch.equal(before[name], after[name]) for name in before)
