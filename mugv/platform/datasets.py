"""What a stage reads, as MLflow's data sets: with DVC's digest and address where the data are DVC's, else with the output's own digest.

MLflow can load the source again (`mlflow.data.get_source`); tags of the input say which stage made it, or which DVC revision it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from mugv.redact import redact

INPUTS = ("clips", "latents", "footage")
READERS_OF_VIDEOS = ("scan", "resolve_data")
LONGEST_DIGEST = 36
"""Of MLflow; the whole one is in a tag."""


def stage_datasets(run: dict[str, Any], stage: dict[str, Any]) -> list[Any]:
    """mlflow.entities.DatasetInput of each data set that a stage of a run reads, from their records."""
    found = []
    for name, ref in stage.get("inputs", {}).items():
        if name in INPUTS:
            tags = {"mugv.key": ref.get("key", ""), "mugv.digest": ref.get("digest", "")}
            found.append(dataset_input(name, ref.get("uri", ""), ref.get("digest", ""), stage["stage"], tags))
    if stage["stage"] in READERS_OF_VIDEOS and (videos := run_dataset(run, stage["stage"])):
        found.append(videos)
    return found


def run_dataset(run: dict[str, Any], context: str) -> Any:
    """The user's videos that a run began with; None for the sample footage."""
    if not run.get("videos"):
        return None
    dvc: dict[str, str] = run.get("dvc", {})
    tags = {f"dvc.{name}": dvc[key] for name, key in (("rev", "commit"), ("path", "path"), ("md5", "md5")) if dvc.get(key)}
    name = f"videos@{dvc['commit'][:12]}" if dvc.get("commit") else "videos"
    data = run.get("data_digest") or ""
    return dataset_input(name, dvc.get("url") or run["videos"], dvc.get("md5") or data, context, {**tags, "mugv.digest": data})


def dataset_input(name: str, uri: str, digest: str, context: str, tags: dict[str, str]) -> Any:
    """As mlflow.data.MetaDataset describes itself; its package would take two seconds to import here."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    scheme = uri.partition("://")[0]
    kind, field = ("http", "url") if scheme in ("http", "https") else ("s3" if scheme == "s3" else "local", "uri")
    dataset = Dataset(name, (digest or "none")[:LONGEST_DIGEST], kind, json.dumps({field: redact(uri)}))
    shown = {"mlflow.data.context": context, **{key: value for key, value in tags.items() if value}}
    return DatasetInput(dataset, [InputTag(key, value[:500]) for key, value in shown.items()])


def dvc_of(videos: str | None) -> dict[str, str]:
    """What DVC says of a local folder or file beside which its `.dvc` file lies; {} for all else."""
    path = Path(f"{videos}.dvc")
    if not videos or "://" in videos or not path.is_file():
        return {}
    try:
        (out, *_) = yaml.safe_load(path.read_text())["outs"]
        return {"path": str(out["path"]), "md5": str(out["md5"])}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return {}
