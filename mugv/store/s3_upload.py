"""Uploads that are compared with what was sent: an S3 server, or a proxy before it, may say yes to half a file.

The size is asked for after every upload. The ETag is compared where the server makes it of the MD5 of the parts, as most do; one that
does not (a bucket with keys of its own) is found out once by reading an object back.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from minio import Minio

from mugv.store.s3_client import OddAnswerError

PART = 64 << 20
"""Bytes of one part of a large upload; 10,000 of them are the most that S3 takes: 640 GB a file."""


class Uploader:
    """Puts files into one bucket."""

    def __init__(self, client: Minio, bucket: str) -> None:
        self.client = client
        self.bucket = bucket
        self.etag_is_md5 = True

    def put(self, path: Path, name: str) -> None:
        """Raises OddAnswerError when the server does not have what was sent; trying again is right."""
        self.client.fput_object(bucket_name=self.bucket, object_name=name, file_path=str(path), part_size=PART)
        stored = self.client.stat_object(bucket_name=self.bucket, object_name=name)
        size = path.stat().st_size
        if stored.size != size:
            raise OddAnswerError(f"the server has {stored.size} of the {size} bytes sent")
        if self.etag_is_md5 and (stored.etag or "").strip('"').lower() not in (*etags(path), ""):
            if not self._same_content(path, name):
                raise OddAnswerError("the server has another content than was sent")
            self.etag_is_md5 = False

    def _same_content(self, path: Path, name: str) -> bool:
        response = self.client.get_object(bucket_name=self.bucket, object_name=name)
        stored, sent = hashlib.sha256(), hashlib.sha256()
        try:
            for block in response.stream(1 << 20):
                stored.update(block)
        finally:
            response.close()
            response.release_conn()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                sent.update(block)
        return stored.digest() == sent.digest()


def etags(path: Path) -> tuple[str, ...]:
    """The ETags by which S3 servers name the content of a file sent by `put`: its MD5, and that of its parts' MD5s."""
    whole, parts = hashlib.md5(usedforsecurity=False), []
    with path.open("rb") as file:
        while block := file.read(PART):
            whole.update(block)
            parts.append(hashlib.md5(block, usedforsecurity=False).digest())
    joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    return whole.hexdigest(), f"{joined}-{len(parts)}"
