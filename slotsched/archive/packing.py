"""Gzip without a clock in it, and back: the same log always makes the same object."""

from __future__ import annotations

import base64
import gzip
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from slotsched.errors import ArchiveError

CHUNK_BYTES = 256 * 1024
LEVEL = 6


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What packing made. length: of the source; stored_bytes, sha256, md5: of the gzipped form (digests raw)."""

    length: int
    stored_bytes: int
    sha256: bytes
    md5: bytes

    @property
    def sha256_base64(self) -> str:
        return base64.b64encode(self.sha256).decode()

    @property
    def md5_base64(self) -> str:
        return base64.b64encode(self.md5).decode()


class Digests:
    """A writer that hashes and counts what passes through it to `target` (None: nowhere)."""

    def __init__(self, target: BinaryIO | None = None) -> None:
        self._target = target
        self.count = 0
        self.sha256 = hashlib.sha256()
        self.md5 = hashlib.md5(usedforsecurity=False)  # S3's ETag and Content-MD5; the proof is the SHA-256

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.md5.update(data)
        self.count += len(data)
        if self._target is not None:
            self._target.write(data)
        return len(data)

    def flush(self) -> None:
        """Asked for by gzip; the owner of the target flushes it."""


def pack(source: Path, target: BinaryIO) -> Packed:
    """Write `source` gzipped to `target`, holding one piece in memory at a time."""
    digests = Digests(target)
    total = 0
    with source.open("rb") as reader:
        packer = gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=cast("BinaryIO", digests), mtime=0)
        with packer:
            while piece := reader.read(CHUNK_BYTES):
                total += len(piece)
                packer.write(piece)
    return Packed(length=total, stored_bytes=digests.count, sha256=digests.sha256.digest(), md5=digests.md5.digest())


def unpack(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The uncompressed bytes of a gzipped stream. ArchiveError when it is damaged or ends early."""
    unpacker = zlib.decompressobj(wbits=31)
    try:
        for piece in pieces:
            rest = piece
            while rest and not unpacker.eof:
                if data := unpacker.decompress(rest, CHUNK_BYTES):
                    yield data
                rest = unpacker.unconsumed_tail
            if unpacker.eof:
                break
        while not unpacker.eof and (data := unpacker.decompress(unpacker.unconsumed_tail, CHUNK_BYTES)):
            yield data
    except zlib.error as error:
        raise ArchiveError(f"{name} is damaged ({error}): it is not the log that was stored") from error
    if not unpacker.eof:
        raise ArchiveError(f"{name} ends early: the transfer was cut, or the object is not whole; try again")
