"""The digest of the code that a stage runs: its module and, followed through the source text, everything of ours that it imports.

Nothing is imported to compute it. Left out are the packages that cannot change what a stage writes: the command line, the
platform and the store; and the recipe's schema, whose values enter the cache key themselves.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MACHINERY = tuple(
    f"mugv.stages.{name}"
    for name in (
        *("base", "code_digest", "earlier", "environment", "execute", "finish", "graph", "page"),
        *("pages", "progress", "roots", "run_record", "run_report"),
    )
)
NOT_FOLLOWED = ("mugv.cli", "mugv.platform", "mugv.store", "mugv.recipe", "mugv.errors", *MACHINERY)
_FROM = re.compile(r"^[ \t]*from[ \t]+(mugv[\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)", re.MULTILINE)
_IMPORT = re.compile(r"^[ \t]*import[ \t]+(mugv[\w.]*)", re.MULTILINE)
_STRING = re.compile(r"""["'](mugv(?:\.\w+)+)["']""")


def code_digest(modules: tuple[str, ...]) -> str:
    """SHA-256 (hex) over the source of `modules` and of all that they import. A module that does not exist counts as empty."""
    total = hashlib.sha256()
    for name in sorted(_closure(modules)):
        total.update(f"{name} {_source_digest(name)}\n".encode())
    return total.hexdigest()


def _closure(modules: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += _imports(name)
    return found


def _left_out(module: str) -> bool:
    return any(module == name or module.startswith(name + ".") for name in NOT_FOLLOWED)


@cache
def _imports(module: str) -> tuple[str, ...]:
    """Modules of ours named in a module's source, imported at any depth or given as a string to be run, without those left out."""
    path = _path(module)
    if path is None:
        return ()
    text = path.read_text()
    names = set(_IMPORT.findall(text)) | set(_STRING.findall(text))
    for package, listed in _FROM.findall(text):
        names.add(package)
        names |= {f"{package}.{item.split(' as ')[0].strip()}" for item in listed.strip("()\n ").split(",")}
    known = {n for n in names if _path(n)}
    parents = {n.rpartition(".")[0] for n in known if n.count(".") > 1}
    return tuple(sorted(name for name in known | parents if not _left_out(name)))


@cache
def _path(module: str) -> Path | None:
    base = ROOT.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


@cache
def _source_digest(module: str) -> str:
    """Digest of a module's file; for a package also of its data files (templates), which no import names."""
    path = _path(module)
    digest = hashlib.sha256(path.read_bytes() if path else b"")
    base = ROOT.joinpath(*module.split("."))
    if base.is_dir():
        for data in sorted(p for p in base.iterdir() if p.is_file() and p.suffix not in {".py", ".pyc"}):
            digest.update(data.name.encode() + data.read_bytes())
    return digest.hexdigest()
