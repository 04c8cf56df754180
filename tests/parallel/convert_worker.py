"""One of eight processes of tests/parallel/test_convert_layouts.py: load a checkpoint under each layout and save it again from there."""

import sys
from pathlib import Path

import torch.distributed as dist
from megatron.core import parallel_state

from mugv.recipe.schema import Parallel
from mugv.training.model_io import load_chunks, save_model

LAYOUTS = {
    "tp8": Parallel(world=8, tensor=8),
    "tp8-bf16": Parallel(world=8, tensor=8, precision="bf16"),
    "tp4": Parallel(world=8, tensor=4, sequence_parallel=True),
    "tp2": Parallel(world=8, tensor=2),
    "tp2-pp2-bf16": Parallel(world=8, tensor=2, pipeline=2, precision="bf16"),
    "tp1": Parallel(world=8),
}


def main(folder: Path) -> None:
    for name, layout in LAYOUTS.items():
        source = folder / ("bf16" if layout.precision == "bf16" else "fp32")
        chunks, config = load_chunks(source, layout)
        if dist.get_rank() == 0:
            (folder / name).mkdir()
        dist.barrier()
        save_model(chunks, folder / name, config)
        dist.barrier()
        parallel_state.destroy_model_parallel()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
