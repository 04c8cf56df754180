"""What curation costs: time beside decoding alone and beside PySceneDetect's command, memory on a long file, a plan of many URIs.

Each measurement runs in a process of its own: `python -m benchmarks.curation_cost CASE ...` prints one JSON line. See benchmarks.curation.

Libraries are imported where they are used: a process that measures ours starts the decoder first, as the stage `curate_shard` does.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.curation_figures import ROOT, Figure, footage_settings, real_videos
from mugv.media.start import start_decoder

if TYPE_CHECKING:
    from mugv.recipe.curation import Curation

ROUNDS = 21
GB = 2**30
LIST_ROWS = 100_000


def decode_seconds(path: Path, threads: int) -> float:
    """Time to decode every frame with PyAV and nothing else; 0 threads: as many as libav likes."""
    import av

    begun = time.perf_counter()
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.thread_count = ("NONE", 1) if threads == 1 else ("AUTO", threads)
        for _ in container.decode(stream):
            pass
    return time.perf_counter() - begun


def measure_seconds(path: Path, settings: Curation) -> float:
    """Time of split, windows and every score of a file; nothing is encoded."""
    from mugv.curation.source import measure_source

    source = _source(path)
    begun = time.perf_counter()
    for _ in measure_source(source, path, settings):
        pass
    return time.perf_counter() - begun


def _source(path: Path) -> Any:
    from mugv.curation.sources_read import read_sources

    return next(source for source in read_sources(str(path.parent)) if source.name == path.name)


def compare(path: Path, threads: int) -> dict[str, Any]:
    """Ours and decoding with `threads` (what ours uses), 1, 2 and libav's own choice, in turn: medians, seconds, and `over N`, the median
    of ours over decoding with N threads in the same round, since other load slows both."""
    import cv2

    cv2.setNumThreads(1)
    settings = footage_settings()
    cases: dict[str, Callable[[], float]] = {"ours": lambda: measure_seconds(path, settings)}
    cases |= {f"decode {n}": lambda n=n: decode_seconds(path, n) for n in {threads, 1, 2, 0}}
    for case in cases.values():
        case()
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, case in cases.items():
            times[name].append(case())
    ours = times["ours"]
    over = {f"over {n}": [a / b for a, b in zip(ours, times[f"decode {n}"], strict=True)] for n in {threads, 1, 2, 0}}
    return {name: statistics.median(values) for name, values in (times | over).items()}


def speed() -> list[Figure]:
    """Split and default scores beside decoding alone, and beside `scenedetect detect-adaptive` (the split alone)."""
    from mugv.media.decode import LARGE_THREADS

    folder = real_videos()
    if folder is None:
        print("speed: skipped, no folder of real footage (set MUGV_REAL_VIDEOS)")
        return []
    figures = []
    for name, threads, bar in (("sintel_trailer_30s.mp4", 1, 1.5), ("motorcycle_4k.mp4", LARGE_THREADS, 1.15)):
        took = _child("compare", str(folder / name), str(threads))
        fastest = max(value for key, value in took.items() if key.startswith("over"))
        note = f"{took['ours'] * 1e3:.0f} ms; decoding with the reader's {threads} thread(s) {took[f'decode {threads}'] * 1e3:.0f} ms"
        note += f"; {fastest:.2f} over the fastest decoding"
        figures.append(Figure(f"{name}: time over decoding alone", took[f"over {threads}"], bar, False, note))
    return [
        *figures,
        *(figure for name in ("motorcycle_4k.mp4", "sintel_trailer_30s.mp4") for figure in _against_scenedetect(folder / name)),
    ]


def _against_scenedetect(path: Path) -> list[Figure]:
    """Whole processes on the same file, one after the other; also without what starting Python and importing takes, beside what a
    program that only decodes (libav's own choice of threads) would reach."""
    command = [str(Path(sys.executable).parent / "scenedetect"), "-q", "-i", str(path), "detect-adaptive"]
    theirs = [_timed(command) for _ in range(3)]
    start = [_timed([*command[:1], "version"]) for _ in range(3)]
    ours = [_timed([sys.executable, "-m", "benchmarks.curation_cost", "measure", str(path)]) for _ in range(3)]
    inside, decoding = (statistics.median(_child(case, str(path))["seconds"] for _ in range(3)) for case in ("measure", "decode"))
    t, s, o = (statistics.median(values) for values in (theirs, start, ours))
    note = f"{t - s:.2f} s, ours {inside:.2f} s, first run; decoding alone {decoding:.2f} s would be {(t - s) / decoding:.2f}"
    return [
        Figure(f"{path.name}: scenedetect's time over ours, whole", t / o, 1.5, note=f"{t:.2f} s, ours {o:.2f} s with all scores"),
        Figure("the same without starting and importing", (t - s) / inside, 1.5, note=note),
    ]


def _timed(command: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - begun


def memory(minutes: float) -> list[Figure]:
    """Peak resident memory on a long 1080p file: split, scores and clips of configs/footage.yaml, then scores of 105 frames at 720 rows."""
    with tempfile.TemporaryDirectory() as folder:
        long = long_file(Path(folder) / "long.mp4", minutes)
        size = f"{minutes:g} minutes of 1080p, {long.stat().st_size / 1e6:.0f} MB"
        figures = []
        for recipe in ("footage", "mugv-10b"):
            got = _child("memory", str(long), recipe)
            note = f"{size}, {got['rows']} rows in {got['seconds']:.0f} s"
            figures.append(Figure(f"peak memory, configs/{recipe}.yaml, GB", got["peak"] / GB, 1.5, False, note))
    return figures


def long_file(path: Path, minutes: float, seconds: float = 40.0) -> Path:
    """1080p at 25 frames a second: `seconds` of rendered takes, encoded once, their packets written again and again with later times."""
    from benchmarks.curation_defects import encode
    from benchmarks.curation_footage import File, pictures, plan

    piece = path.with_name("piece.mp4")
    (group,) = (file.shots for file in plan(5, "a", round(seconds / 2.3), 1, 0, 10_000))
    group = tuple(shot for shot in group if shot.kind in ("clean", "shake", "whip"))
    file = File("piece.mp4", (1080, 1920), 25.0, 26, 250, group)
    encode(piece, pictures(file, {}, {}), 25.0, 26)
    return loop(piece, path, minutes * 60)


def loop(piece: Path, path: Path, seconds: float) -> Path:
    """Repeat a file's packets until it lasts `seconds`; nothing is decoded or encoded."""
    import av

    with av.open(str(piece)) as source:
        packets = [p for p in source.demux(video=0) if p.dts is not None]
        stream_in = source.streams.video[0]
        length = round(stream_in.frames / stream_in.average_rate / stream_in.time_base)
        with av.open(str(path), "w") as target:
            stream = target.add_stream_from_template(stream_in)
            for turn in range(max(1, round(seconds / float(length * stream_in.time_base)))):
                for packet in packets:
                    again = av.Packet(bytes(packet))
                    again.pts, again.dts = packet.pts + turn * length, packet.dts + turn * length
                    again.time_base, again.is_keyframe, again.stream = Fraction(stream_in.time_base), packet.is_keyframe, stream
                    target.mux(again)
    return path


def _curate_long(path: Path, recipe: str) -> dict[str, Any]:
    """Peak of this process over a whole file, and the rows that came."""
    import cv2

    from mugv.curation.source import curate_source, measure_source
    from mugv.recipe import load_recipe

    cv2.setNumThreads(1)
    settings = load_recipe(ROOT / "configs" / f"{recipe}.yaml").curation
    begun, source = time.perf_counter(), _source(path)
    run = curate_source if recipe == "footage" else measure_source
    peaks, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            peaks.append(_resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    rows = sum(1 for _ in run(source, path, settings))
    done.set()
    watcher.join()
    return {"rows": rows, "seconds": time.perf_counter() - begun, "peak": max(*peaks, _resident())}


def _resident() -> int:
    """Bytes of this process and its decoder's together; what they share counts once (Pss)."""
    children = [name for task in Path("/proc/self/task").iterdir() for name in (task / "children").read_text().split()]
    lines = [line for name in ["self", *children] for line in Path(f"/proc/{name}/smaps_rollup").read_text().splitlines()]
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def plan() -> list[Figure]:
    """`mugv plan` on a parquet list of 100,000 S3 URIs: the whole command, from the shell."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "list.parquet"
        uris = [f"s3://raw/videos/{k // 1000:03d}/{k:06d}.mp4" for k in range(LIST_ROWS)]
        columns = {"uri": uris, "bytes": [10_000_000 + k for k in range(LIST_ROWS)], "etag": [f"{k:032x}" for k in range(LIST_ROWS)]}
        pq.write_table(pa.table(columns), path)
        command = [str(Path(sys.executable).parent / "mugv"), "plan", "--videos", str(path), "--state", str(Path(folder) / "state")]
        seconds = statistics.median(_timed(command) for _ in range(3))
    return [Figure(f"plan of {LIST_ROWS:,} URIs, seconds", seconds, 10, False, "mugv plan --videos list.parquet")]


def _child(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.curation_cost", *arguments]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    return json.loads(out.splitlines()[-1])


def _main(case: str, path: Path, *more: str) -> dict[str, Any]:
    if case == "compare":
        return compare(path, int(more[0]))
    if case == "memory":
        return _curate_long(path, more[0])
    if case == "decode":
        return {"seconds": decode_seconds(path, 0)}
    assert case == "measure", case
    return {"seconds": measure_seconds(path, footage_settings())}


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        start_decoder()
    print(json.dumps(_main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])))
