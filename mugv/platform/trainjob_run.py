"""The life of a TrainJob with the task that made it: made or adopted, followed, made again after a loss, deleted at every end.

run(...)  --create | adopt-->  waits  -->  runs  -->  complete
                                 |           |
                      start deadline      failed: made again, or told
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mugv.errors import UserError
from mugv.platform.trainjob import NODE, Ending, Phase, Wait, ending_of, phase_of, why_it_waits
from mugv.platform.trainjob_api import Api, UnreachableError

IMAGE_SECONDS = 600.0
"""An image that cannot be had for so long will not come."""
AWAY_SECONDS = 3600.0
"""So long the API server may be away while a job runs; the job itself goes on without it."""
LEAVE_SECONDS = 15.0
"""Of a task's own grace period, for asking the cluster to delete the job."""
BACK_OFF = 10.0
PROGRESS_SECONDS = 15.0
LOST = 128 + signal.SIGHUP
"""Exit code of a task whose work another try has taken over: that one follows the job."""


def _say(line: str) -> None:
    print(line, flush=True)


@dataclass
class JobRun:
    """One stage's job. `run` returns how it failed at last, None when it is complete; the job is gone then."""

    api: Api
    manifest: dict[str, Any]
    owner: dict[str, Any] | None
    start_deadline: float
    """Seconds."""
    retries: int
    position: Callable[[], int] = lambda: 0
    """How far the training is, in steps: a job that got further does not count as failed in vain."""
    before: Callable[[dict[str, Any]], None] = lambda _: None
    """Called with the manifest before a job is made: clears what a failed one left, remembers that there is one."""
    progress: Callable[[], str] = lambda: ""
    """A line of how far it is, for when the pods' log may not be read."""
    grace: float = 30.0
    """Seconds that the pods have to end."""
    poll: float = 5.0
    back_off: float = BACK_OFF
    say: Callable[[str], None] = _say
    _log: tuple[str, str, float] = field(default=("", "", 0.0), init=False)
    """Pod of rank 0, time of its last line, and when the log was read."""
    _progress: tuple[str, float] = field(default=("", 0.0), init=False)
    """The line that was shown last, and when."""

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    def run(self) -> Ending | None:
        """Raises UserError for what only a person can mend; whatever is raised, the job is deleted before."""
        failures, best = 0, self.position()
        while True:
            ending = self._once()
            if ending is None or ending.by_user:
                return ending
            reached = self.position()
            failures = 1 if reached > best else failures + 1
            best = max(best, reached)
            if failures > self.retries:
                return ending
            self.say(f"TrainJob {self.name}: {ending.reason}; it is made again ({failures} of {self.retries} without getting further)")
            time.sleep(self.back_off * 2 ** (failures - 1))

    def _once(self) -> Ending | None:
        try:
            self._make_or_adopt()
            ending = self._follow()
            self.api.delete(self.name)
            if ending is not None:
                self._wait_until_gone(self.name)
        except BaseException as error:
            if not (isinstance(error, SystemExit) and error.code == LOST):
                self._leave()
            raise
        return ending

    def _leave(self) -> None:
        """Delete the job while this process is being stopped, or has failed: a few tries, then the owner reference must do."""
        until = time.monotonic() + LEAVE_SECONDS
        while True:
            try:
                self.api.delete(self.name)
            except UserError as error:
                if time.monotonic() < until and isinstance(error, UnreachableError):
                    time.sleep(min(self.poll, 1.0))
                    continue
                self.say(
                    f"TrainJob {self.name}: could not be deleted ({error}); it ends with this pod, or: kubectl delete trainjob {self.name}"
                )
            else:
                self.say(f"TrainJob {self.name}: deleted; its processes have {self.grace:.0f} s to save")
            return

    def _make_or_adopt(self) -> None:
        while True:
            found = self._patiently(lambda: self.api.get(self.name))
            if found and "deletionTimestamp" in found["metadata"]:
                self._wait_until_gone(self.name)
            elif found and phase_of(found) is Phase.FAILED:
                self.say(
                    f"TrainJob {self.name}: failed under an earlier try ({ending_of(found, self.api.pods(self.name)).reason}); made anew"
                )
                self.api.delete(self.name)
                self._wait_until_gone(self.name)
            elif found:
                self.api.own(found, self.owner)
                self.say(f"TrainJob {self.name}: an earlier try made it; this one goes on with it")
                return
            else:
                self._end_of_others()
                self.before(self.manifest)
                if self._patiently(lambda: self.api.create(self.manifest)) is not None:
                    nodes, each = (self.manifest["spec"]["trainer"][n] for n in ("numNodes", "numProcPerNode"))
                    self.say(f"TrainJob {self.name}: made in namespace {self.api.namespace}, {nodes} nodes of {each} processes")
                    return

    def _end_of_others(self) -> None:
        """Two jobs must not write one work folder: what another run still saves is waited for, what it still trains is not disturbed."""
        key = self.manifest["metadata"]["labels"]["mugv.io/key"]
        for other in self._patiently(lambda: self.api.of_key(key)):
            name = other["metadata"]["name"]
            if "deletionTimestamp" not in other["metadata"]:
                if phase_of(other) in (Phase.COMPLETE, Phase.FAILED):
                    continue
                raise UserError(f"TrainJob {name} of another run works on the same output; wait for it, or: kubectl delete trainjob {name}")
            self._wait_until_gone(name)

    def _wait_until_gone(self, name: str) -> None:
        """A deleted job is there until its pods are. UserError when it stays: the volume that it writes is not free."""
        until = time.monotonic() + 2 * self.grace + 120
        while self._patiently(lambda: self.api.get(name)) is not None:
            if time.monotonic() > until:
                raise UserError(
                    f"TrainJob {name} is deleted and does not go; see: kubectl get pods -l jobset.sigs.k8s.io/jobset-name={name}"
                )
            time.sleep(min(self.poll, 1.0))

    def _follow(self) -> Ending | None:
        phase, since, told = None, time.monotonic(), Wait("")
        image_since = math.inf
        while True:
            job = self._patiently(lambda: self.api.get(self.name))
            if job is None or "deletionTimestamp" in job["metadata"]:
                raise UserError(f"TrainJob {self.name}: somebody deleted it; run again to go on from its checkpoint")
            now = phase_of(job)
            if now is not phase:
                since = time.monotonic() - (_age(job) if phase is None else 0.0)
                self.say(f"TrainJob {self.name}: {now.value}")
                phase = now
            self._show_log(last=now in (Phase.COMPLETE, Phase.FAILED))
            if now is Phase.COMPLETE:
                return None
            if now is Phase.FAILED:
                return ending_of(job, self.api.pods(self.name))
            if now is not Phase.RUNNING:
                wait = self._why(job)
                if wait != told:
                    self.say(f"TrainJob {self.name}: {wait.reason}")
                    told = wait
                image_since = min(image_since, time.monotonic()) if wait.image else math.inf
                self._give_up(wait, time.monotonic() - since, time.monotonic() - image_since)
            time.sleep(self.poll)

    def _why(self, job: dict[str, Any]) -> Wait:
        try:
            pods = self.api.pods(self.name)
            return why_it_waits(job, pods, self.api.workload(job), self.api.events(self.name))
        except UnreachableError as error:
            return Wait(str(error))

    def _give_up(self, wait: Wait, waited: float, without_image: float) -> None:
        if wait.hopeless or without_image > min(IMAGE_SECONDS, self.start_deadline):
            raise UserError(f"TrainJob {self.name} cannot start: {wait.reason}")
        if waited > self.start_deadline:
            raise UserError(
                f"TrainJob {self.name} did not start within {self.start_deadline:g} s (resources.start_deadline): {wait.reason}"
            )

    def _show_log(self, last: bool) -> None:
        """The lines of rank 0 that came since, as they are; where they may not be read, how far it is."""
        pod, seen, read = self._log
        now = time.monotonic()
        try:
            if not pod:
                pod = next((p["metadata"]["name"] for p in self.api.pods(self.name) if _is_first(p)), "")
            text = self.api.log(pod, NODE, math.ceil(now - read) + 5 if read else 86_400) if pod else None
        except UnreachableError:
            return
        if text is None:
            self._show_progress(now)
            return
        for line in text.splitlines():
            at, _, words = line.partition(" ")
            if at > seen:
                seen = at
                self.say(words)
        self._log = ("", "", 0.0) if last else (pod, seen, now if text else read)

    def _show_progress(self, now: float) -> None:
        line, (before, when) = self.progress(), self._progress
        if line and line != before and now - when >= PROGRESS_SECONDS:
            self._progress = (line, now)
            self.say(line)

    def _patiently(self, call: Callable[[], Any]) -> Any:
        """A training of weeks outlives an API server that is upgraded. Raises UnreachableError when it stays away."""
        began, told = time.monotonic(), False
        while True:
            try:
                return call()
            except UnreachableError as error:
                if time.monotonic() - began > AWAY_SECONDS:
                    raise
                if not told:
                    self.say(f"{error}; the job goes on, and is asked for again")
                    told = True
                time.sleep(max(self.poll, 1.0))


def _is_first(pod: dict[str, Any]) -> bool:
    marks = {**pod["metadata"].get("annotations", {}), **pod["metadata"].get("labels", {})}
    return marks.get("batch.kubernetes.io/job-completion-index") == "0" and pod.get("status", {}).get("phase") != "Pending"


def _age(job: dict[str, Any]) -> float:
    """Seconds since the job was made, for one that is adopted."""
    made = datetime.fromisoformat(job["metadata"]["creationTimestamp"].replace("Z", "+00:00"))
    return max(0.0, (datetime.now(UTC) - made).total_seconds())
