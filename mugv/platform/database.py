"""MLflow's database in a state folder: made aside and renamed into place, looked at before it is used, mended or set aside.

MLflow changes a database in place, in many steps that are no transaction: a kill in between leaves one that no MLflow opens again.
Here a database has its name only when it is whole; whatever is replaced is kept beside it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from enum import Enum
from functools import cache
from pathlib import Path
from urllib.parse import quote

from mugv.durable import sync
from mugv.errors import UserError

Say = Callable[[str], None]
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BESIDE = ("", "-journal", "-wal", "-shm")
_CONTENT = ("runs", "registered_models")


class Condition(Enum):
    """What a database file is."""

    ABSENT = "absent"
    WHOLE = "whole"
    UNFINISHED = "half made or of an older MLflow"
    DAMAGED = "damaged"
    NEWER = "of a newer MLflow"
    BUSY = "not readable now"


def sqlite_uri(path: Path) -> str:
    """The address under which MLflow opens the file; a `%`, `#` or `?` in the path is a character of its name.

    Such a path is quoted whole: MLflow would make folders of the quoted name if it could see the slashes.
    """
    plain = str(path.absolute())
    return f"sqlite:///{quote(plain, safe='') if set(plain) & set('%#?') else plain}"


def ensure(path: Path, artifacts: Path, say: Say) -> bool:
    """Make `path` a whole database where it is none; True when it is a new one, into which nothing has been sent.

    `say` is given a line when something is done. Raises UserError for a database that only a newer MLflow can read.
    """
    with _locked(path) as mine:
        condition = examine(path) if mine else Condition.BUSY
        if condition is Condition.NEWER:
            raise UserError(f"{path}: written by a newer MLflow than the one here; install that one, or give another --state")
        if condition in (Condition.WHOLE, Condition.BUSY):
            return False
        if condition is Condition.ABSENT:
            say(f"MLflow's database {path} is being made; this takes some seconds, once")
        elif condition is Condition.UNFINISHED and _holds_something(path) and _mended(path, artifacts, say):
            return False
        else:
            kept = _set_aside(path)
            say(f"MLflow's database was {condition.value} and is set aside as {kept}; a new one is made, all runs are sent again")
        with _beside(path) as fresh:
            _make(fresh, artifacts)
            _put_in_place(fresh, path)
        return True


def examine(path: Path) -> Condition:
    """What lies at `path`; nothing is changed but what SQLite itself rolls back of an unfinished transaction."""
    if not path.exists():
        return Condition.ABSENT
    try:
        with closing(_connect(path)) as database:
            if database.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                return Condition.DAMAGED
            if ("alembic_version",) not in database.execute("SELECT name FROM sqlite_master").fetchall():
                return Condition.UNFINISHED
            found = database.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.DatabaseError as error:
        # Locked, no permission, a failing disk: nothing that another file would help.
        return Condition.DAMAGED if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED else Condition.BUSY
    head, known = _revisions()
    if found == [(head,)]:
        return Condition.WHOLE
    return Condition.UNFINISHED if not found or found[0][0] in known else Condition.NEWER


def _connect(path: Path) -> sqlite3.Connection:
    mode = "rw" if os.access(path, os.W_OK) else "ro"
    return sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True, timeout=5)


@cache
def _revisions() -> tuple[str, frozenset[str]]:
    """The newest revision of the schema that this MLflow knows, and all of them."""
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return str(scripts.get_current_head()), frozenset(script.revision for script in scripts.walk_revisions())


def _holds_something(path: Path) -> bool:
    with closing(_connect(path)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return any(database.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in _CONTENT if table in tables)


def _mended(path: Path, artifacts: Path, say: Say) -> bool:
    """Bring a copy to the newest schema, by MLflow's migrations or else row by row, and put it in the place of `path`."""
    with _beside(path) as copy, _beside(path) as fresh:
        with closing(_connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        mended = copy
        if not _migrated(copy):
            _make(fresh, artifacts)
            try:
                _move_rows(path, fresh)
            except sqlite3.DatabaseError:
                return False
            mended = fresh
        kept = _free_name(path)
        os.link(path, kept)
        _put_in_place(mended, path)
    say(f"MLflow's database was {Condition.UNFINISHED.value} and is brought up to date; the one before is kept as {kept}")
    return True


def _migrated(copy: Path) -> bool:
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", sqlite_uri(copy)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0 and examine(copy) is Condition.WHOLE


def _move_rows(source: Path, target: Path) -> None:
    """Every row of `source` into the tables of `target`, by the columns that both have."""
    with closing(sqlite3.connect(target)) as database, database:
        database.execute("ATTACH ? AS old", (str(source),))
        tables = "SELECT name FROM {}.sqlite_master WHERE type = 'table' AND name NOT IN ('alembic_version', 'sqlite_sequence')"
        both = set(database.execute(tables.format("main"))) & set(database.execute(tables.format("old")))
        for (table,) in sorted(both):
            columns = sorted(_columns(database, "main", table) & _columns(database, "old", table))
            listed = ", ".join(f'"{column}"' for column in columns)
            database.execute(f'INSERT OR REPLACE INTO main."{table}" ({listed}) SELECT {listed} FROM old."{table}"')


def _columns(database: sqlite3.Connection, schema: str, table: str) -> set[str]:
    """Those that can be written: computed ones are not listed."""
    return {row[1] for row in database.execute(f'PRAGMA {schema}.table_info("{table}")')}


def _make(path: Path, artifacts: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(sqlite_uri(path), artifacts.as_uri())
    store.engine.dispose()


def _put_in_place(fresh: Path, path: Path) -> None:
    sync(fresh)
    fresh.replace(path)
    sync(path.parent)


def _set_aside(path: Path) -> Path:
    """Rename the file, with SQLite's own beside it; returns where it is now."""
    kept = _free_name(path)
    for suffix in _BESIDE:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(kept.with_name(kept.name + suffix))
    return kept


def _free_name(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    names = (path.with_name(f"{path.name}.{stamp}{f'-{i}' if i else ''}") for i in range(1000))
    return next(name for name in names if not name.exists())


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A name for a database in the making; removed at the end when it was not given its place."""
    folder = path.with_name(f".{path.name}.making-{time.monotonic_ns()}")
    folder.mkdir()
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Alone with the database, after waiting for who has it now; False where the folder cannot be written.

    What a killed process left half made is removed.
    """
    try:
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for left in path.parent.glob(f".{path.name}.making-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield True
    finally:
        os.close(descriptor)
