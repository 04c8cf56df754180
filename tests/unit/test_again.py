"""How a task's process ends, and second tries: what a user must mend is told again at once, what may pass is waited for."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from recipes import small_recipe

from mugv.errors import ServiceAwayError, StoreError, UserError
from mugv.platform.kfp_client import compile_pipeline
from mugv.recipe import Recipe
from mugv.stages import again
from mugv.stages.base import StageContext
from mugv.stages.execute import RunEnvironment, run_node
from mugv.stages.roots import Roots
from mugv.store import explained


@pytest.fixture
def environment(tmp_path: Path) -> RunEnvironment:
    return RunEnvironment(tmp_path / "state", str(tmp_path / "state" / "store"), run="r1")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return small_recipe(tmp_path)


class Stage:
    """Stands for the stage `footage`; raises, and counts."""

    def __init__(self, error: BaseException) -> None:
        self.error, self.calls = error, 0

    def run(self, ctx: StageContext) -> dict[str, float]:
        self.calls += 1
        raise self.error


def install(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> Stage:
    stage, module = Stage(error), ModuleType("mugv.stages.sample_footage")
    module.run = stage.run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mugv.stages.sample_footage", module)
    return stage


def attempt(recipe: Recipe, environment: RunEnvironment) -> str:
    with pytest.raises(UserError) as caught:
        run_node("footage", recipe, {}, environment, Roots.of(recipe, environment.state))
    return str(caught.value)


def test_second_try_tells_a_users_error_again_without_the_work(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = install(monkeypatch, UserError("captions.jsonl line 3: not JSON"))
    told = []
    for number in range(3):
        monkeypatch.setenv("KFP_POD_NAME", f"try-{number}")
        monkeypatch.setenv("MUGV_POD_UID", f"of-try-{number}")
        told.append(attempt(recipe, environment))
    assert told == ["captions.jsonl line 3: not JSON"] * 3
    assert stage.calls == 1


@pytest.mark.parametrize("mended", ["later", "settings", "run"])
def test_what_a_person_may_have_mended_is_looked_at_again(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, mended: str
) -> None:
    stage = install(monkeypatch, UserError("bucket team: no such bucket"))
    attempt(recipe, environment)
    if mended == "later":
        now = time.time()
        monkeypatch.setattr(again.time, "time", lambda: now + again.REMEMBERED_SECONDS + 1)
    elif mended == "settings":
        monkeypatch.setenv("MUGV_S3_SECRET_KEY", "another")
    else:
        environment = RunEnvironment(environment.state, environment.store, run="r2")
    attempt(recipe, environment)
    assert stage.calls == 2


@pytest.mark.parametrize("error", [ServiceAwayError("store: away"), OSError(errno.ENOSPC, "full"), OSError(errno.ESTALE, "lost")])
def test_service_or_volume_that_was_away_is_no_remembered_error(
    environment: RunEnvironment, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    stage = install(monkeypatch, error)
    attempt(recipe, environment)
    attempt(recipe, environment)
    assert stage.calls == 2


@pytest.mark.parametrize(("number", "passes"), [(errno.ENOSPC, True), (errno.ESTALE, True), (errno.EACCES, False), (errno.EROFS, False)])
def test_full_or_lost_volume_may_pass_and_a_forbidden_one_does_not(number: int, passes: bool, tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught, explained(tmp_path):
        raise OSError(number, "")
    assert isinstance(caught.value, ServiceAwayError) is passes


@pytest.mark.parametrize(("error", "code"), [("UserError", 2), ("StoreError", 2), ("ServiceAwayError", 75)])
def test_exit_code_says_whether_trying_again_helps(error: str, code: int) -> None:
    script = f"from mugv.errors import *\nfrom mugv.stages.again import exit_codes\nwith exit_codes(waits=False):\n    raise {error}('why')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (code, "mugv-error: why\n")


WAITS = """
import os, sys, time
from pathlib import Path
from mugv.errors import ServiceAwayError
from mugv.stages import again
again.LONGEST_PAUSE_SECONDS = 0.1
with Path(sys.argv[1]).open("a") as file:
    file.write(f"{os.getpid()}\\n")
with again.exit_codes(waits=True):
    if len(Path(sys.argv[1]).read_text().split()) < int(sys.argv[2]):
        raise ServiceAwayError("MLflow: away")
"""


def test_service_that_comes_back_is_waited_for_in_the_same_process(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WAITS, str(tmp_path / "tries"), "4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(set((tmp_path / "tries").read_text().split())) == 1
    assert done.stdout.count("mugv-error: MLflow: away") == 3


def test_service_that_stays_away_ends_the_task_when_patience_does(tmp_path: Path) -> None:
    environment = {**os.environ, "MUGV_PATIENCE_SECONDS": "0.5"}
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", WAITS, str(tmp_path / "tries"), "1000"], capture_output=True, env=environment)
    assert done.returncode == 75
    assert time.monotonic() - began < 30


def test_tries_are_bound_by_the_pools_own_deadline_and_pauses_do_not_grow(tmp_path: Path) -> None:
    """Argo takes `backoffMaxDuration` for the time since the first try after which there is none."""
    import yaml

    recipe = small_recipe(tmp_path, "resources.data.deadline=7200", "resources.data.retries=5")
    tasks = _tasks(yaml.safe_load_all(compile_pipeline(recipe, tmp_path / "p.yaml").read_text()))
    policies = {name: task["retryPolicy"] for name, task in tasks.items()}
    assert policies["scan"] == {"backoffDuration": "15s", "backoffFactor": 1.0, "backoffMaxDuration": "7200s", "maxRetryCount": 5}
    assert policies["pretrain"]["backoffMaxDuration"] == "2592000s"
    assert all(policy["backoffFactor"] == 1.0 for policy in policies.values())


def _tasks(documents: Any) -> dict[str, Any]:
    spec = next(iter(documents))
    dags = [spec["root"], *spec["components"].values()]
    return {
        n: t
        for d in dags
        for n, t in d.get("dag", {}).get("tasks", {}).items()
        if "dag" not in spec["components"][t["componentRef"]["name"]]
    }
