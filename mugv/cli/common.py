"""What the commands share: options, one-line errors, the recipe and the state folder. Imports nothing heavy."""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, get_type_hints

import typer

from mugv.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mugv.recipe import Recipe

P = ParamSpec("P")
R = TypeVar("R")
ROOT = Path(__file__).resolve().parents[2]
SCRATCH = 1 << 16
"""Bytes that the temporary folder must take."""
DEFAULT_RECIPE = ROOT / "configs" / "tiny.yaml"
FOOTAGE_RECIPE = ROOT / "configs" / "footage.yaml"
"""What `--videos` uses when no recipe is named."""

_RECIPE_HELP = "Recipe file (default: configs/tiny.yaml, or configs/footage.yaml with --videos)."
RecipeOption = Annotated[Path | None, typer.Option("--recipe", help=_RECIPE_HELP)]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; may be repeated.")]
_VIDEOS_HELP = "Folder, s3://bucket/prefix, or .parquet list of URIs (default: sample footage is made)."
VideosOption = Annotated[str | None, typer.Option("--videos", metavar="WHERE", help=_VIDEOS_HELP)]
CaptionsOption = Annotated[str | None, typer.Option("--captions", metavar="FILE", help="captions.jsonl for the videos.")]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="Where runs, outputs and tracking are kept (default .mugv, or MUGV_STATE).")
]
EndpointOption = Annotated[str | None, typer.Option("--endpoint", help="Address of the KFP API (default: KFP_ENDPOINT).")]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document; docs/how-to/scripts.md has its keys.")]


@dataclass
class Talk:
    """How much this process says; -q and -v set it."""

    quiet: bool = False
    verbose: bool = False


talk = Talk()


def with_talk(function: Callable[P, R]) -> Callable[..., R]:
    """A command that also takes -q and -v."""

    @functools.wraps(function)
    def command(*args: Any, quiet: bool, verbose: bool, **kwargs: Any) -> R:
        if quiet and verbose:
            raise UserError("--quiet and --verbose exclude each other; give one of them")
        talk.quiet, talk.verbose = quiet, verbose
        if verbose:
            import logging

            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
        return function(*args, **kwargs)

    quiet_option = typer.Option("--quiet", "-q", help="Print the result and errors, nothing on the way.")
    verbose_option = typer.Option("--verbose", "-v", help="Print the log too, on standard error.")
    more = {"quiet": Annotated[bool, quiet_option], "verbose": Annotated[bool, verbose_option]}
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind) for name, kind in more.items()]
    signature = inspect.signature(function, eval_str=True)
    command.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *parameters])  # type: ignore[attr-defined]
    command.__annotations__ = {**get_type_hints(function, include_extras=True), **more}
    return command


def one_line_errors(function: Callable[P, R]) -> Callable[P, R]:
    """A user's mistake, and a file that cannot be used, end the command with one line and exit code 2; of a file, -v prints the
    traceback too."""

    @functools.wraps(function)
    def command(*args: P.args, **kwargs: P.kwargs) -> R:
        talk.quiet, talk.verbose = False, False
        try:
            return function(*args, **kwargs)
        except UserError as error:
            _say(str(error))
        except OSError as error:
            # Without a file name it is no word about the user's files; a closed pipe is typer's business.
            if not error.filename:
                raise
            if talk.verbose:
                traceback.print_exc()
            _say(f"{os.fsdecode(error.filename)}: {error.strerror}")
        raise typer.Exit(2)

    return command


def _say(message: str) -> None:
    typer.echo(f"error: {' '.join(message.split())}", err=True)


def open_console(progress: bool = False, styled: bool = False) -> Console:
    """For people at a terminal; lines that go to a file or a pipe are not cut at 80 columns. `progress`: silent under -q.

    Square brackets are text, as file names and errors have them; `styled`: they are rich's markup.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True, markup=styled)
    quiet = progress and talk.quiet
    return console if console.is_terminal and not quiet else Console(highlight=False, soft_wrap=True, width=240, quiet=quiet, markup=styled)


def print_json(value: Any) -> None:
    """One document on standard output; numbers that JSON does not have are null."""
    typer.echo(json.dumps(_finite(value), indent=1))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_threads() -> None:
    """UserError when OMP_NUM_THREADS is no count: the OpenMP runtime would only warn, and take all cores."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given and not all(part.strip().isdigit() and int(part) > 0 for part in given.split(",")):
        raise UserError(f"OMP_NUM_THREADS={given}: expected a number of threads of at least 1; leave it unset for one a core")


def check_scratch() -> None:
    """UserError when the temporary folder, where every stage keeps small files, takes none."""
    import tempfile

    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(SCRATCH))
            file.flush()
    except OSError as error:
        where = os.environ.get("TMPDIR") or "/tmp"
        raise UserError(f"temporary folder {where}: {error.strerror}; free some space there, or name another folder in TMPDIR") from None


def check_output(option: str, path: Path) -> None:
    """UserError when a file or folder cannot be made at `path`: said before the work, not after it. Makes nothing."""
    import tempfile

    try:
        above = next((p for p in path.absolute().parents if p.exists()), Path("/"))
        if not above.is_dir():
            raise UserError(f"{option} {path}: {above} is a file, not a folder")
        with tempfile.TemporaryFile(dir=above):
            pass
        if path.is_file():
            path.open("ab").close()
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{option} {path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


def state_folder(given: Path | None) -> Path:
    """Absolute. Raises UserError when something else has its name."""
    state = (given or Path(os.environ.get("MUGV_STATE", ".mugv"))).absolute()
    if state.exists() and not state.is_dir():
        raise UserError(f"state folder {state}: is a file; give a folder with --state")
    return state


def existing_state(given: Path | None) -> Path:
    """The state folder of commands that only look. Raises UserError when there is none."""
    state = state_folder(given)
    if not state.is_dir():
        raise UserError(f"state folder {state}: does not exist; `mugv run` makes it, or give another one with --state")
    return state


def read_recipe(
    recipe: Path | None, changes: list[str] | None, videos: str | None = None, captions: str | None = None, here: bool = False
) -> Recipe:
    """The recipe with `--set`, `--videos` and `--captions` applied. `here`: for this machine, whose GPUs it then uses."""
    from mugv import precision
    from mugv.recipe import load_recipe

    given: list[str | tuple[str, str]] = [*(changes or [])]
    if videos is not None:
        given.append(("data.videos", _videos(videos)))
    if captions is not None:
        if "://" not in captions and not Path(captions).is_file():
            raise UserError(f"--captions {captions}: no such file; give a captions.jsonl")
        given.append(("data.captions", _absolute(captions)))
    made = load_recipe(recipe or (DEFAULT_RECIPE if videos is None else FOOTAGE_RECIPE), given, precision.visible_gpus() if here else None)
    if captions is not None and made.data.videos is None:
        raise UserError(f"--captions {captions}: there are no videos that it could be about; give them with --videos")
    return made


def _videos(given: str) -> str:
    path = Path(given)
    if not given.strip():
        raise UserError("--videos: empty; give the folder that holds the video files")
    if "://" not in given and not path.is_dir() and not (path.is_file() and path.suffix == ".parquet"):
        others = "a .parquet list of URIs, or s3://bucket/prefix"
        raise UserError(f"--videos {given}: not a folder; give the folder that holds the video files, {others}")
    return _absolute(given)


def _absolute(location: str) -> str:
    return location if "://" in location else str(Path(location).absolute())
