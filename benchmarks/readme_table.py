"""Writes the README's results: the judge's table of a run between two marks, and the picture of generated clips.

    python benchmarks/readme_table.py                     the newest run of .mugv
    python benchmarks/readme_table.py --run RUN --state DIR
    python benchmarks/readme_table.py --evaluation DIR    an output folder of the evaluate stage
    python -m benchmarks.readme_table --seeds DIR         over the runs of benchmarks/tiny_seeds; a picture of the first footage

The README must hold the lines `<!-- results:begin -->` and `<!-- results:end -->`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from mugv.errors import UserError
from mugv.evaluation.scores import CHANCE, ROWS

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
PICTURE = Path("docs/images/samples.webp")


def table(tree: dict[str, Any]) -> str:
    """Markdown of metrics.json: a row an attribute, a column of the judge's table each, intervals under the shares."""
    if not tree["table"]:
        raise UserError(f"this run has no judge's table: {tree['judge_reason']}")
    columns = list(tree["table"].values())
    rows = [["", *(c["title"] for c in columns), "chance"]]
    for name, title in ROWS.items():
        cells = [f"**{c[name]['value']:.2f}** ({c[name]['low']:.2f} to {c[name]['high']:.2f})" for c in columns]
        rows.append([title, *cells, f"{CHANCE[name]:.2f}"])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join([*lines, "", _caption(tree)])


def _caption(tree: dict[str, Any]) -> str:
    clips = sorted({column["n"] for column in tree["table"].values()})
    number = str(clips[0]) if len(clips) == 1 else f"{clips[0]} to {clips[-1]}"
    height, width = tree["size"]
    text = f"{number} clips a column, {tree['frames']} frames of {width}x{height}, 95% intervals."
    text += " When the judge is not sure, the clip counts as wrong."
    vae = tree["vae"]
    if vae:
        text += f" VAE on held-out clips: PSNR {vae['psnr']['value']:.1f} dB, SSIM {vae['ssim']['value']:.3f}."
    if "validation_flow_loss" in tree["metrics"]:
        text += f" Validation flow loss {tree['metrics']['validation_flow_loss']:.3f}."
    return text


def insert(readme: str, content: str) -> str:
    """The README with everything between the two marks replaced."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"README: the lines {BEGIN} and {END} must be there, in this order")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def find_evaluation(state: Path, run: str) -> Path:
    """The folder that the evaluate stage of a run published."""
    from mugv.platform.records import find_run
    from mugv.store import open_store
    from mugv.store.base import Ref

    record = find_run(state, run)
    output = record.stage("evaluate").get("output")
    if not output:
        raise UserError(f"run {record.run} in {state} has no finished evaluation")
    root = output["uri"].removesuffix(f"/evaluate/{output['key']}")
    return open_store(root, state / "cache").fetch(Ref(**output))


def _over_seeds(folder: Path) -> tuple[Path, str]:
    """The evaluation whose picture is shown, and the table over all runs."""
    from benchmarks import tiny_seeds

    found = tiny_seeds.results(folder)
    if not found:
        raise UserError(f"{folder}: no finished run; `python -m benchmarks.tiny_seeds` makes them")
    clips = {column["n"] for result in found for column in result["table"].values()}
    psnr = [result["metrics"]["vae_psnr"] for result in found]
    first = next(item for item in tiny_seeds.RUNS if (folder / item.file).is_file())
    text = (
        f"Mean and range over {len(found)} runs with other footage, VAE and training (`python -m benchmarks.tiny_seeds`), one of them "
        f"imitating an older processor; {max(clips)} clips a column and run. When the judge is not sure, the clip counts as wrong. "
        f"VAE on held-out clips: PSNR {min(psnr):.1f} to {max(psnr):.1f} dB."
    )
    return find_evaluation(first.state(folder), "latest"), f"{tiny_seeds.table(found)}\n\n{text}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--state", type=Path, default=Path(".mugv"))
    parser.add_argument("--run", default="latest")
    parser.add_argument("--evaluation", type=Path)
    parser.add_argument("--seeds", type=Path)
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    given = parser.parse_args()
    if given.seeds:
        folder, content = _over_seeds(given.seeds)
    else:
        folder = given.evaluation or find_evaluation(given.state, given.run)
        content = table(json.loads((folder / "metrics.json").read_text()))
    picture = given.readme.parent / PICTURE
    text = insert(given.readme.read_text(), f"![Clips that the model generated]({PICTURE.as_posix()})\n\n{content}")
    picture.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "samples/preview.webp", picture)
    given.readme.write_text(text)
    print(content)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"readme_table: {error}", file=sys.stderr)
        raise SystemExit(2) from None
