"""The files of a registered version, compared with what was registered: a registry keeps no digests of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mugv.errors import UserError
from mugv.store.manifest import NAME as MANIFEST
from mugv.store.manifest import Manifest, ManifestError

DIGEST = "mugv.digest."
"""Tags of a version: digest of each output that it was made of, as the output's manifest in the store has it."""


@contextmanager
def readable(model: str, name: str) -> Iterator[None]:
    """One line for a version whose own files are lost or damaged. A server that is away passes."""
    import yaml
    from mlflow.exceptions import MlflowException

    try:
        yield
    except UserError:
        raise
    except (
        yaml.YAMLError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        FileNotFoundError,
        NotADirectoryError,
    ) as error:
        raise UserError(f"model {model}: its {name} cannot be read ({type(error).__name__}: {error}); take another version") from None
    except MlflowException as error:
        if error.error_code == "TEMPORARILY_UNAVAILABLE" or "API request" in str(error):
            raise
        raise UserError(f"model {model}: its {name} cannot be read ({error}); take another version") from None


def check(model: str, folders: Mapping[str, Path], tags: Mapping[str, str]) -> None:
    """Raise UserError when a file is not what was registered. Versions registered without digests pass."""
    for name, folder in folders.items():
        digest = tags.get(DIGEST + name, "")
        wrong = _damaged(folder, digest) if digest else ""
        if wrong:
            raise UserError(
                f"model {model}: {folder / wrong} is damaged since it was registered; take another version, or remove this one "
                "from the registry, and `mugv run` registers it again"
            )


def _damaged(folder: Path, digest: str) -> str:
    """The first file that differs from the output of this digest; the manifest itself counts, "" when none does."""
    try:
        found = Manifest.parse((folder / MANIFEST).read_bytes())
    except (OSError, ManifestError):
        return "" if Manifest.of_folder(folder, "").digest == digest else MANIFEST
    return MANIFEST if found.digest != digest else next(iter(found.damaged(folder)), "")
