"""Put on PYTHONPATH by the test of killed runs: a stage that trains is killed once, in or after the step that the test has drawn.

From outside a kill would come too late wherever the machine is busy or a stage quick. KILL_PLAN is a folder with a file for each node
that still has to die: the number of steps after which it does.
"""

import json
import os
import random
import signal
import threading
from pathlib import Path

from mugv.training.metrics_log import MetricsLog

_write = MetricsLog.write


def write(self: MetricsLog, step: int, **values: float) -> None:
    _write(self, step, **values)
    planned = Path(os.environ["KILL_PLAN"]) / node_of(self.path.parents[1])
    if planned.is_file() and step + 1 >= int(planned.read_text()):
        planned.unlink()
        delay = random.uniform(0, values.get("seconds", 0))
        threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()


def node_of(work: Path) -> str:
    """The node that works in a folder `<state>/work/<key>/<token>`, by the records of the runs."""
    for record in work.parents[2].glob("runs/*/stages/*.json"):
        if json.loads(record.read_text()).get("work") == str(work):
            return record.stem
    return ""


if "KILL_PLAN" in os.environ:
    MetricsLog.write = write
