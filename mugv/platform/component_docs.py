"""Writes components/<name>/README.md from the component's signature, its docstring and metadata.yaml.

python -m mugv.platform.component_docs            write them
python -m mugv.platform.component_docs --check    exit 1 and name the stale ones
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import yaml

from mugv.platform.generated import table, write_or_check

MODULE = "mugv.platform.component_docs"
ROOT = Path(__file__).resolve().parents[2] / "components"
REQUIRED = ("name", "stability", "dependencies", "tags", "lastVerified")
STABILITY = ("experimental", "alpha", "beta", "stable")


def names() -> list[str]:
    """Every component folder, sorted."""
    return sorted(path.parent.name for path in ROOT.glob("*/component.py"))


def render(name: str) -> str:
    """The README of one component. Raises ValueError when its metadata is incomplete."""
    component = getattr(importlib.import_module(f"components.{name}.component"), name)
    spec, words = component.component_spec, _docstring(component.python_func)
    metadata = read_metadata(name)
    lines = [
        f"# {name}",
        "",
        "<!-- Generated from component.py and metadata.yaml by `python -m mugv.platform.component_docs`. -->",
        "",
        spec.description.strip() if spec.description else "",
        "",
        *_table("Inputs", ["Name", "Type", "Required", "What"], [_input_row(n, s, words) for n, s in (spec.inputs or {}).items()]),
        *_table("Outputs", ["Name", "Type", "What"], [_output_row(n, s, words) for n, s in (spec.outputs or {}).items()]),
        *_facts(metadata, spec.implementation.container.image),
    ]
    return "\n".join(lines)


def read_metadata(name: str) -> dict[str, Any]:
    """metadata.yaml of a component, checked for the keys that every component must have."""
    metadata: dict[str, Any] = yaml.safe_load((ROOT / name / "metadata.yaml").read_text())
    absent = [key for key in REQUIRED if not metadata.get(key)]
    if absent:
        raise ValueError(f"components/{name}/metadata.yaml: {', '.join(absent)} missing")
    if metadata["name"] != name or metadata["stability"] not in STABILITY:
        raise ValueError(f"components/{name}/metadata.yaml: name must be {name} and stability one of {', '.join(STABILITY)}")
    return metadata


def files() -> dict[str, str]:
    """Path below the repository -> text of a component's README."""
    return {f"components/{name}/README.md": render(name) for name in names()}


def _table(title: str, head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"## {title}", "", *table(head, rows)] if rows else []


def _input_row(name: str, spec: Any, words: dict[str, str]) -> list[str]:
    return [f"`{name}`", _type(spec), "no" if spec.optional else "yes", words.get(name, "")]


def _output_row(name: str, spec: Any, words: dict[str, str]) -> list[str]:
    return [f"`{name}`", _type(spec), words.get(name, "")]


def _docstring(function: Any) -> dict[str, str]:
    """Parameter -> its words; the one unnamed return value is KFP's output `Output`."""
    import docstring_parser

    parsed = docstring_parser.parse(function.__doc__ or "")
    words = {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}
    if parsed.returns and not parsed.returns.return_name:
        words["Output"] = " ".join((parsed.returns.description or "").split())
    return words


def _type(spec: Any) -> str:
    short = str(spec.type).partition("@")[0]
    return f"`list of {short}`" if spec.is_artifact_list else f"`{short}`"


def _facts(metadata: dict[str, Any], image: str) -> list[str]:
    needs = [f"{d['name']} {d['version']}" for group in metadata["dependencies"].values() for d in group]
    return [
        "## Facts",
        "",
        f"- Image: `{image}`, replaced by the recipe's `resources.image_*` when a pipeline is built",
        f"- Stability: {metadata['stability']}; last verified {metadata['lastVerified']}",
        f"- Needs: {', '.join(needs)}",
        f"- Tags: {', '.join(metadata['tags'])}",
        "",
    ]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return write_or_check(files(), MODULE, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
