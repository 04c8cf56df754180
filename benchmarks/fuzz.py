"""Damaged input through real code, for as long as one likes: nothing may be raised, lost, changed or stuck.

    python -m benchmarks.fuzz files --minutes 10 [--videos DIR] [--seed N] [--keep DIR]

files: small files of some twenty containers and codecs (and the ones of --videos), mutated in bytes and boxes, curated in batches
beside a good file. Reported are reasons, speed and memory; exit code 1 at the first of: a traceback, a source without a row, other
results of the good file, a source that takes longer than a minute, memory that grows. --keep: where batches with a fault are copied.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["files"])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=Path)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args(arguments)
    from benchmarks.fuzz_files import run

    return run(given.minutes, given.seed, given.videos, given.keep)


if __name__ == "__main__":
    sys.exit(main())
