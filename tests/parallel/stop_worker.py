"""One rank of tests/parallel/test_stop.py: trains to the end of `FOLDER/NAME`, and one rank may ask all to stop, as a preemption would."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from training_tools import flow_task, latent_set, pretrain_stage

from mugv import stopping
from mugv.recipe.schema import Parallel
from mugv.training.loop import fit

STEPS = 8


def main(folder: Path, name: str, ask_at: int) -> None:
    stopping.listen()
    rank = int(os.environ["RANK"])
    layout = Parallel(world=2, distributed_optimizer=True)

    def ask(done: int, total: int, metrics: dict[str, float]) -> None:
        if done == ask_at:
            # To the launcher, which passes it on, and to this rank alone a step before the other one may have it.
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getppid(), signal.SIGTERM)

    task = flow_task(latent_set(folder / f"latents-{rank}"), pretrain_stage(steps=STEPS, average_decay=0.9), layout)
    fit(task, folder / name, STEPS, STEPS, ask, asynchronous=name == "asynchronous")


if __name__ == "__main__":
    folder, name, ask_at = sys.argv[1:]
    for each in name.split(","):
        main(Path(folder), each, int(ask_at))
