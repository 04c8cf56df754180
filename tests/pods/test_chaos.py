"""What breaks while a compiled pipeline runs, one pod at a time: the run must end right, with the outputs of an undisturbed one."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos import RECIPE, Killer, outputs
from ir import TaskFailedError, Work
from launcher import Cluster
from place import compiled, namespace
from pod import Image, Pod
from services import Faults, Services

Start = Callable[..., Services]
DATA = ("--pipeline", "data")


@pytest.fixture(scope="module")
def expected(image: Image, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Outputs of the data stages when nothing breaks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    services = Services(folder / "services", tracking=False)
    try:
        namespace(image, services, folder).start(compiled(RECIPE, services, folder / "pipeline.yaml", *DATA))
        return outputs(services)
    finally:
        services.stop()


@pytest.fixture
def place(image: Image, make_services: Start, tmp_path: Path) -> Callable[..., tuple[Cluster, Services, Path]]:
    def make(*options: str, faults: Faults | None = None, **of_cluster: Any) -> tuple[Cluster, Services, Path]:
        services = make_services(faults=faults, tracking=False)
        settings = compiled(RECIPE, services, tmp_path / "pipeline.yaml", *DATA, *options)
        return namespace(image, services, tmp_path, **of_cluster), services, settings

    return make


def test_killed_tasks_end_with_equal_outputs(place: Any, expected: dict[str, str]) -> None:
    cluster, services, pipeline = place()
    killer = Killer("scan", after=0.5)
    cluster.started = killer.started
    cluster.start(pipeline)
    assert killer.hit
    assert 137 in cluster.codes(killer.hit)
    assert outputs(services) == expected


def test_storage_that_errs_and_breaks_costs_no_task(place: Any, expected: dict[str, str]) -> None:
    faults = Faults(errors=0.1, cuts=0.05, seed=7)
    cluster, services, pipeline = place(faults=faults)
    cluster.start(pipeline)
    assert faults.counts["errors"] > 3
    assert faults.counts["cuts"] > 1
    assert outputs(services) == expected


def test_storage_that_is_away_is_waited_for_in_the_task(place: Any, expected: dict[str, str]) -> None:
    faults = Faults()
    cluster, services, pipeline = place(faults=faults)
    faults.away.set()
    threading.Timer(15.0, faults.away.clear).start()
    cluster.start(pipeline)
    assert {code for _, _, code in cluster.pods} == {0}
    assert outputs(services) == expected


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_volume_is_waited_for_until_there_is_room(place: Any, expected: dict[str, str], small_volume: Path) -> None:
    cluster, services, pipeline = place(volumes={"mugv-state": small_volume})
    filler = small_volume / "filler"
    subprocess.run(["dd", "if=/dev/zero", f"of={filler}", "bs=1M"], capture_output=True)
    threading.Timer(8.0, filler.unlink).start()
    cluster.start(pipeline)
    first = next(pod for work, pod, _ in cluster.pods if work.name.endswith("footage"))
    assert "No space left on device; free some space" in first.text()
    assert {code for _, _, code in cluster.pods} == {0}
    assert outputs(services) == expected


def test_two_tries_of_one_task_at_once_both_end_with_one_output(place: Any, expected: dict[str, str]) -> None:
    cluster, services, pipeline = place()
    twins: list[Pod] = []

    def twin(pod: Pod, work: Work) -> None:
        other = Pod(pod.image, pod.command, pod.environment, pod.volumes, pod.folder.with_name(f"{pod.folder.name}-twin"))
        shutil.copytree(pod.disk, other.disk)
        twins.append(other.start())

    cluster.started = twin
    cluster.start(pipeline)
    assert [pod.wait(60) for pod in twins] == [0] * len(cluster.pods)
    assert outputs(services) == expected
    assert list((cluster.volumes["mugv-state"] / "work").iterdir()) == []


def test_users_error_is_told_again_at_once_with_the_same_line(place: Any) -> None:
    cluster, _, pipeline = place(
        "--set", "curation.motion.minimum=100", "--set", "curation.motion.maximum=200", "--set", "resources.data.retries=2"
    )
    with pytest.raises(TaskFailedError) as caught:
        cluster.start(pipeline)
    assert caught.value.code == 2
    tries = [pod.text() for work, pod, code in cluster.pods if code]
    lines = [next(line for line in text.splitlines() if line.startswith("mugv-error: ")) for text in tries]
    assert len(lines) == 3
    assert len(set(lines)) == 1
    assert "as in the try before" in tries[1]
