"""Put on PYTHONPATH by tests of `mugv run`: every stage but `register` becomes a tiny one, in all processes of the run."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

STAGES = {"sample_footage", "scan", "curate_shard", "curate", "train_vae", "encode", "pretrain", "sft", "candidates", "align", "evaluate"}


class TinyStages(MetaPathFinder):
    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        package, _, stage = name.rpartition(".")
        if package == "mugv.stages" and stage in STAGES:
            return spec_from_file_location(name, Path(__file__).with_name("tiny_stage.py"))
        return None


sys.meta_path.insert(0, TinyStages())
