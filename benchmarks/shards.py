"""What 10,000 shards cost before any work is done: compiling, scanning, publishing, finding, fetching and merging empty parts on S3.

python -m benchmarks.shards [--shards 10000]     prints a table; S3 is rclone on loopback (the dev extra), the store begins empty

Counted as scan to merge: the scan of a listing with one source a shard; all parts published from and found in threads of this process;
the merge, as its task runs it: finding the parts by their keys, fetching and merging them. Not counted: starting a process a shard
(tens of thousands of interpreters on these cores), which a cluster does on as many nodes as it has. What a shard's task does in its
own process besides (keys, look-ups, records, claim, publishing) is measured over a few shards and told apart.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
KEYS = ("benchmark-access", "benchmark-secret")
SAMPLED = 100
"""Shards whose whole task runs in this process."""
AT_ONCE = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, default=10_000)
    shards = parser.parse_args().shards
    with tempfile.TemporaryDirectory(prefix="mugv-shards-") as folder, s3(Path(folder)):
        for name, value in measure(Path(folder), shards).items():
            print(f"{name:<58} {value}", flush=True)


def measure(folder: Path, shards: int) -> dict[str, str]:
    """Name -> value with its unit."""
    from mugv.stages.environment import RunEnvironment
    from mugv.stages.execute import run_node
    from mugv.stages.graph import Keys
    from mugv.stages.roots import Roots

    recipe = recipe_of(folder, shards)
    found = compiled(folder, recipe, Roots.of(recipe, folder))
    environment = RunEnvironment(folder / "state", "s3://bucket/mugv", run="benchmark", forwarded=True, goal="curate")
    seconds: dict[str, float] = {}
    roots = timed(seconds, "roots: the listing read and digested", lambda: Roots.of(recipe, folder))
    keys = Keys(recipe, roots)
    refs = {"scan": timed(seconds, "scan", lambda: run_node("scan", recipe, {}, environment, roots))}
    tasks = timed({}, "", lambda: [one_task(i, recipe, refs, environment, roots) for i in range(min(SAMPLED, shards))])
    timed(seconds, "empty parts published", lambda: publish(folder, shards, keys, environment))
    timed(seconds, "parts found, as by the tasks of a second run", lambda: find(shards, keys, environment))
    timed(seconds, "merge: found by key, fetched, merged, published", lambda: run_node("curate", recipe, refs, environment, roots))
    found |= {name: f"{value:.1f} s" for name, value in seconds.items()}
    found["scan to merge, all of these"] = f"{sum(seconds.values()):.1f} s"
    found["a shard's task in its process, besides its work (median)"] = f"{1000 * sorted(tasks)[len(tasks) // 2]:.0f} ms"
    return found


def recipe_of(folder: Path, shards: int) -> Any:
    """A recipe that scores alone, so that a set without a clip is a result; its listing names one source a shard."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from mugv.recipe import load_recipe

    listing = folder / "videos.parquet"
    uris = [f"https://videos.invalid/{i:06d}.mp4" for i in range(shards)]
    pq.write_table(pa.table({"uri": uris, "bytes": [1_000_000 + i for i in range(shards)], "caption": ["a film"] * shards}), listing)
    changes = [f"data.videos={listing}", f"data.shards={shards}", "curation.score_only=true"]
    return load_recipe(ROOT / "configs" / "mugv-10b.yaml", changes)


def compiled(folder: Path, recipe: Any, roots: Any) -> dict[str, str]:
    from mugv.platform.kfp_client import compile_pipeline

    seconds: dict[str, float] = {}
    path = timed(seconds, "compile", lambda: compile_pipeline(recipe, folder / "pipeline.yaml", roots))
    return {"compile": f"{seconds['compile']:.1f} s", "IR": f"{path.stat().st_size:,} bytes"}


def one_task(i: int, recipe: Any, refs: Any, environment: Any, roots: Any) -> float:
    """Seconds of a shard's task whose stage writes an empty part."""
    from mugv.stages import curate_shard
    from mugv.stages.execute import run_node

    curate_shard.run = lambda ctx: write_empty(ctx.out, ctx.index)  # type: ignore[assignment, return-value]
    began = time.perf_counter()
    run_node(f"curate_shard-{i}", recipe, refs, environment, roots)
    return time.perf_counter() - began


def write_empty(out: Path, index: int) -> None:
    from mugv.curation.meter import Meter
    from mugv.curation.shard import Finished, write_part

    write_part(Finished([], 0, Meter()), out, index)


def publish(folder: Path, shards: int, keys: Any, environment: Any) -> None:
    store = environment.open_store()

    def one(i: int) -> None:
        out = folder / "parts" / str(i)
        out.mkdir(parents=True)
        write_empty(out, i)
        store.publish(out, f"curate_shard/{keys[f'curate_shard-{i}']}", keys[f"curate_shard-{i}"])

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(SAMPLED, shards)))


def find(shards: int, keys: Any, environment: Any) -> None:
    store = environment.open_store()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert all(pool.map(lambda i: store.find(f"curate_shard/{keys[f'curate_shard-{i}']}"), range(shards)))


def timed(seconds: dict[str, float], name: str, action: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    result = action()
    seconds[name] = time.perf_counter() - began
    return result


@contextmanager
def s3(folder: Path) -> Iterator[None]:
    """rclone serves an empty bucket; the environment names it."""
    (folder / "s3" / "bucket").mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("rclone")
    command = [str(program), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", ",".join(KEYS), str(folder / "s3")]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.environ |= {"MUGV_S3_ENDPOINT": f"http://127.0.0.1:{port}", "MUGV_S3_ACCESS_KEY": KEYS[0], "MUGV_S3_SECRET_KEY": KEYS[1]}
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
