"""Reading a bucket of sources: what lies under a prefix, and whole small objects. Settings: see mugv.store.s3_client."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from mugv.errors import StoreError, UserError

if TYPE_CHECKING:
    from minio import Minio

T = TypeVar("T")
SCHEME = "s3://"


def client(uri: str) -> Minio:
    """Raises UserError without keys."""
    from mugv.store.s3_client import connect

    return connect(f"data.videos {uri}")


def split_uri(uri: str) -> tuple[str, str]:
    """Bucket and key; a key may hold any character. Raises UserError without a bucket, and with keys before it."""
    bucket, _, key = uri.removeprefix(SCHEME).partition("/")
    if "@" in bucket:
        raise UserError(f"{uri}: keys do not belong into a URI; set MUGV_S3_ACCESS_KEY and MUGV_S3_SECRET_KEY")
    if not bucket:
        raise UserError(f"{uri}: no bucket; expected s3://bucket/prefix")
    return bucket, key


def list_objects(uri: str) -> list[tuple[str, int, str]]:
    """(key relative to the prefix, bytes, etag) of every object under s3://bucket/prefix."""
    bucket, prefix = split_uri(uri)
    prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    server = client(uri)

    def listing() -> list[tuple[str, int, str]]:
        found = server.list_objects(bucket_name=bucket, prefix=prefix, recursive=True)
        return [(str(o.object_name)[len(prefix) :], int(o.size or 0), (o.etag or "").strip('"')) for o in found]

    return _asked(uri, f"list {bucket}", listing)


def read_object(uri: str) -> bytes:
    """All bytes of a small object."""
    bucket, key = split_uri(uri)
    server = client(uri)

    def reading() -> bytes:
        response = server.get_object(bucket_name=bucket, object_name=key)
        try:
            return bytes(response.read())
        finally:
            response.close()
            response.release_conn()

    return _asked(uri, f"get {key}", reading)


def check_buckets(uris: Iterable[str]) -> None:
    """Ask each bucket of a list for one object: a wrong bucket or wrong keys stop a run at its start, not at every source.

    An object that is missing or forbidden is none of this.
    """
    for bucket, uri in {split_uri(uri)[0]: uri for uri in reversed(list(uris)) if uri.startswith(SCHEME)}.items():
        if not _answers(client(uri), bucket, split_uri(uri)[1]):
            raise UserError(f"data.videos s3://{bucket}: no such bucket; check the list and the endpoint")


def _answers(server: Minio, bucket: str, key: str) -> bool:
    from mugv.store.s3_client import MissingObjectError, retried

    label = f"data.videos s3://{bucket}"
    try:
        response = retried(label, "get", partial(server.get_object, bucket_name=bucket, object_name=key, length=1))
    except MissingObjectError:
        # Some servers say of a missing bucket that the key is missing.
        return retried(label, "look for the bucket", partial(server.bucket_exists, bucket_name=bucket))
    except StoreError as error:
        if getattr(error.__cause__, "code", "") != "AccessDenied":
            raise
        return True
    response.close()
    response.release_conn()
    return True


def _asked(uri: str, what: str, action: Callable[[], T]) -> T:
    """`action` with retries. Raises UserError when there is no such thing, StoreError when the server refuses or stays away."""
    from mugv.store.s3_client import MissingObjectError, retried

    try:
        return retried(f"data.videos {uri}", what, action)
    except MissingObjectError:
        bucket, key = split_uri(uri)
        absent = f"no such bucket {bucket!r}" if what.startswith("list") else f"no such object {key!r} (or bucket {bucket!r})"
        raise UserError(f"data.videos {uri}: {absent}; check the address and the endpoint") from None
    except StoreError:
        raise
    except ValueError as error:
        # minio checks a bucket's name itself.
        raise UserError(f"data.videos {uri}: {str(error).rstrip('.')}") from None
