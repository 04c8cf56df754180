"""One of eight processes of tests/parallel/test_convert_layouts.py: load a checkpoint under each layout and save it from there."""

from pathlib import Path

import torch.distributed as dist
from groups import grouped

from mugv.dit.expand import expand
from mugv.dit.model import MugDiT
from mugv.recipe.models import DiTModel
from mugv.recipe.schema import Expansion, Parallel
from mugv.training.convert import open_distributed
from mugv.training.engine import build_chunks
from mugv.training.model_io import load_chunks, save_model

NARROW, WIDE = (DiTModel(layers=2, hidden=96 * e, heads=8 * e, latent_channels=4) for e in (1, 2))
EXPANSION = Expansion(noise_db=20.0)
LAYOUTS = {
    "tp8": Parallel(world=8, tensor=8),
    "tp8-bf16": Parallel(world=8, tensor=8, precision="bf16"),
    "tp4": Parallel(world=8, tensor=4, sequence_parallel=True),
    "tp2": Parallel(world=8, tensor=2),
    "tp2-pp2-bf16": Parallel(world=8, tensor=2, pipeline=2, precision="bf16"),
    "tp1": Parallel(world=8),
}


def main(folder: Path) -> None:
    layouts = {**LAYOUTS, "wide": Parallel(world=8, tensor=2, pipeline=2)}
    for case in grouped([{"name": name, "layout": layout.model_dump()} for name, layout in layouts.items()]):
        name, layout = case["name"], layouts[case["name"]]
        if name == "wide":
            chunks, config = widen(folder, layout), {}
        else:
            chunks, config = load_chunks(folder / ("bf16" if layout.precision == "bf16" else "fp32"), layout)
        if dist.get_rank() == 0:
            (folder / name).mkdir()
        dist.barrier()
        save_model(chunks, folder / name, config)


def widen(folder: Path, layout: Parallel) -> list[MugDiT]:
    """Twice the width, from the checkpoint that one process wrote."""
    chunks = build_chunks(WIDE, 16, 1, layout, 1)
    for chunk in chunks:
        expand(open_distributed(folder / "fp32" / "model"), chunk, EXPANSION)
    return chunks
