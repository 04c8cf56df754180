"""What data a DVC revision means: the content digest and the remote address of a tracked path. Used by retraining and lineage."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from mugv.durable import beside, replace_text, sweep, sync_tree
from mugv.errors import UserError
from mugv.platform.dvc_remote import address, give_keys
from mugv.store.directory import damaged_since
from mugv.store.manifest import Manifest, ManifestError


@dataclass(frozen=True)
class DataVersion:
    """A tracked path at one revision."""

    path: str
    revision: str
    """Git revision that was asked for."""
    commit: str
    """Full commit id of it; empty for the working tree."""
    md5: str
    """DVC's content digest: that of the file, or of the directory's listing (ends in `.dir`)."""
    url: str
    """Address of the content in the DVC remote."""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


def resolve(repository: str | Path, path: str, revision: str | None = None) -> DataVersion:
    """The version of `path` in the DVC repository (folder or URL) at a git revision; None: the working tree.

    Raises UserError when the repository, the revision or the path is not there, or no remote is set.
    """
    import dvc.api
    from dvc.repo import Repo

    if Path(repository).is_dir() and not (Path(repository) / ".dvc").is_dir():
        raise UserError(f"DVC: {repository} is not a DVC repository; run `dvc init` there or give another one")
    give_keys()
    place = address(repository)
    with _explained(repository, path, revision), Repo.open(place, rev=revision) as repo:
        output = repo.find_outs_by_path(str(Path(repo.root_dir) / path))[0]
        if output.hash_info is None or not output.hash_info.value:
            raise UserError(f"DVC {path}: is tracked but has no digest yet; run `dvc repro` or `dvc add`")
        url = dvc.api.get_url(path, repo=place, rev=revision)
        commit = repo.get_rev() if revision else ""
        return DataVersion(path, revision or "", commit or "", output.hash_info.value, url)


def fetch(version: DataVersion, repository: str | Path, folder: Path) -> Path:
    """A local copy of the tracked path under `folder`/<md5>, made once; half-made and damaged copies are never used."""
    from dvc.api import DVCFileSystem

    final = folder / version.md5.removesuffix(".dir")
    if final.exists() and _whole(final):
        return final
    sweep(folder, ".*")
    temporary = beside(final)
    arrived = temporary / final.name
    try:
        temporary.mkdir(parents=True)
        with _explained(repository, version.path, version.revision):
            DVCFileSystem(address(repository), rev=version.commit or None).get(version.path, str(arrived), recursive=True)
        sync_tree(temporary)
        replace_text(_manifest_of(final), Manifest.of_folder(temporary, final.name).to_json())
        _put_in_place(arrived, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def _put_in_place(arrived: Path, final: Path) -> None:
    """Another process may have fetched the same meanwhile: a whole copy stays, since it may be read from."""
    if final.exists() and not _whole(final):
        final.rename(arrived.with_name("damaged"))
    try:
        arrived.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _whole(copy: Path) -> bool:
    """Whether a copy is what was fetched; read whole once, and again after any change."""
    try:
        found = Manifest.parse(_manifest_of(copy).read_bytes())
    except (OSError, ManifestError):
        return False
    return not damaged_since(copy.parent, found, copy.with_name(f"{copy.name}.checked"), verify=False)


def _manifest_of(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.manifest.json")


@contextmanager
def _explained(repository: str | Path, path: str, revision: str | None) -> Iterator[None]:
    from dvc.config import NoRemoteError
    from dvc.exceptions import DvcException, NotDvcRepoError, OutputNotFoundError
    from dvc.scm import RevError, SCMError

    at = f" at {revision}" if revision else ""
    try:
        yield
    except NotDvcRepoError:
        raise UserError(f"DVC: {repository} is not a DVC repository; run `dvc init` there or give another one") from None
    except (RevError, SCMError) as error:
        raise UserError(f"DVC: revision {revision!r} not found in {repository} ({error})") from None
    except (OutputNotFoundError, FileNotFoundError):
        raise UserError(f"DVC: {path!r} is not tracked in {repository}{at}; see `dvc ls {repository}`") from None
    except NoRemoteError:
        raise UserError(f"DVC: {repository} has no default remote; run `dvc remote add -d NAME URL`") from None
    except DvcException as error:
        raise UserError(f"DVC: {path!r}{at} cannot be resolved ({error})") from None
