"""A bucket as the log store; with s3_errors the only importer of boto3, and that only at first use.

boto3's own retries are off: one try that ends soon, so that the spool decides when the next one is.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, cast
from urllib.parse import urlsplit

from slotsched.archive.base import CONTENT_TYPE, PAGE_KEYS, Stored, tasks_of
from slotsched.archive.packing import CHUNK_BYTES, Digests, Packed, pack, unpack
from slotsched.errors import ArchiveError, InvalidSettings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        HeadObjectOutputTypeDef,
        ListObjectsV2OutputTypeDef,
        PutObjectRequestTypeDef,
    )

IN_MEMORY_BYTES = 4 * 1024 * 1024  # a gzipped log up to here needs no temporary file, so a full disk cannot stop it
CONNECT_TIMEOUT_SECONDS = 5.0

_SHA256 = "sha256"  # metadata name
_ADDRESSING: dict[bool | None, Literal["auto", "path", "virtual"]] = {None: "auto", True: "path", False: "virtual"}


@dataclass(frozen=True, kw_only=True)
class S3Options:
    """What open_archive takes, with None for every value left to its default."""

    endpoint: str | None = None
    region: str | None = None
    checksums: Literal["when_supported", "when_required"] | None = None
    path_style: bool | None = None
    encryption: str | None = None
    timeout: float = 20.0


@dataclass(frozen=True, kw_only=True)
class _Connection:
    client: S3Client
    endpoint: str
    who: str  # where the credentials come from, for messages
    checksums: bool


class S3Archive:
    """Logs in a bucket, reached by one long-lived client that is made at first use."""

    def __init__(self, url: str, options: S3Options) -> None:
        parts = urlsplit(url)
        if not parts.netloc or parts.query or parts.fragment:
            raise InvalidSettings(f'log_store "{url}": write it as s3://bucket/prefix')
        self._bucket = parts.netloc
        prefix = parts.path.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._url = f"s3://{self._bucket}/{prefix}".rstrip("/")
        self._options = options
        self._encryption = _encryption_headers(options.encryption)
        self._lock = threading.Lock()
        self._made: _Connection | None = None

    @property
    def url(self) -> str:
        return self._url

    def put(self, key: str, source: Path) -> Stored:
        with self._packed(source) as (body, packed):
            self._put(key, body, packed)
        self._verify(key, packed)
        return Stored(bytes=packed.length, stored_bytes=packed.stored_bytes)

    def get(self, key: str) -> Iterator[bytes]:
        yield from unpack(self._pieces(key), f"{self._url}/{key}")

    def check(self) -> None:
        key = f"slotsched-probe-{secrets.token_hex(8)}"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe"
            source.write_bytes(b"probe\n")
            self.put(key, source)
        if b"".join(self.get(key)) != b"probe\n":
            raise ArchiveError(f"{self._url}: what was stored does not read back -> check the server")
        connection = self._connection()
        with _translated(self._url, "DeleteObject", connection):
            connection.client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def logs_before(self, day: dt.date) -> Iterator[Mapping[str, str]]:
        for folder in self._days(day):
            for page in self._pages(folder):
                yield tasks_of(entry["Key"].removeprefix(self._prefix) for entry in page.get("Contents", []))

    def delete(self, keys: Sequence[str]) -> int:
        if not keys:
            return 0
        connection = self._connection()
        with _translated(self._url, "DeleteObjects", connection):
            answer = connection.client.delete_objects(
                Bucket=self._bucket,
                Delete={"Objects": [{"Key": self._prefix + key} for key in keys], "Quiet": True},
            )
        if failed := answer.get("Errors"):
            first = failed[0]
            raise ArchiveError(
                f"{self._url}: {len(failed)} of {len(keys)} logs could not be deleted"
                f" ({first.get('Code')}) -> check that s3:DeleteObject is allowed"
            )
        return len(keys)

    def close(self) -> None:
        with self._lock:
            if self._made is not None:
                self._made.client.close()
                self._made = None

    # --- storing ------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _packed(self, source: Path) -> Iterator[tuple[BinaryIO, Packed]]:
        """The gzipped log: in memory, else in a file beside it, else in the system's temporary folder.

        The last is for a state directory without space left: emptying the spool is what gives space back. The file
        is unlinked from the start, so a crash leaves nothing behind.
        """
        with contextlib.ExitStack() as stack:
            for folder in (str(source.parent), None):
                spooled = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=IN_MEMORY_BYTES, dir=folder))
                body = cast("BinaryIO", spooled)
                try:
                    packed = pack(source, body)
                    break
                except FileNotFoundError:
                    raise
                except OSError as error:
                    body.close()
                    failure = error
            else:
                hint = "free some space in the state directory"
                raise ArchiveError(f"{self._url}: cannot gzip {source} ({failure.strerror}) -> {hint}") from failure
            body.seek(0)
            yield body, packed

    def _put(self, key: str, body: BinaryIO, packed: Packed) -> None:
        connection = self._connection()
        request: PutObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._prefix + key,
            "Body": body,
            "ContentLength": packed.stored_bytes,
            "ContentType": CONTENT_TYPE,
            "ContentMD5": packed.md5_base64,  # the server refuses a body that was damaged on the way
            "Metadata": {_SHA256: packed.sha256.hex()},
        }
        if connection.checksums:
            # Given by us, as a header: botocore's own way appends it to the body, which some servers store as content.
            request["ChecksumSHA256"] = packed.sha256_base64
            request["ChecksumAlgorithm"] = "SHA256"
        with _translated(self._url, "PutObject", connection):
            connection.client.put_object(**(request | self._encryption))

    def _verify(self, key: str, packed: Packed) -> None:
        """See by HEAD that the object is the one we sent; where no digest of the server's says so, by reading it."""
        connection = self._connection()
        with _translated(self._url, "HeadObject", connection):
            if connection.checksums:
                head = connection.client.head_object(
                    Bucket=self._bucket, Key=self._prefix + key, ChecksumMode="ENABLED"
                )
            else:
                head = connection.client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        length, digest = head.get("ContentLength"), head.get("Metadata", {}).get(_SHA256)
        if length != packed.stored_bytes:
            raise ArchiveError(f"{self._url}/{key}: sent {packed.stored_bytes} bytes, the server has {length}")
        if digest not in (None, packed.sha256.hex()):
            raise ArchiveError(f"{self._url}/{key}: the server has another object (SHA-256 differs)")
        if not _vouched_for(head, packed):
            self._read_back(key, packed)

    def _read_back(self, key: str, packed: Packed) -> None:
        seen = Digests()
        for piece in self._pieces(key):
            seen.write(piece)
        if seen.sha256.digest() != packed.sha256:
            raise ArchiveError(f"{self._url}/{key}: what was stored reads back damaged")

    # --- reading ------------------------------------------------------------------------------------

    def _pieces(self, key: str) -> Iterator[bytes]:
        """The object as it is stored, in one GET without a Range: not every server knows that header."""
        connection = self._connection()
        with _translated(self._url, "GetObject", connection):
            body = connection.client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"]
            with contextlib.closing(body):
                yield from body.iter_chunks(CHUNK_BYTES)

    # --- listing ------------------------------------------------------------------------------------

    def _days(self, before: dt.date) -> Iterator[str]:
        """Date folders `2026/11/20/` before that day, found folder by folder, never by listing newer logs."""
        for year in self._folders(""):
            if year[:4] > f"{before:%Y}":
                continue
            for month in self._folders(year):
                if month[:7] > f"{before:%Y/%m}":
                    continue
                yield from (day for day in self._folders(month) if day[:10] < f"{before:%Y/%m/%d}")

    def _folders(self, under: str) -> list[str]:
        found = []
        for page in self._pages(under, "/"):
            found += [entry["Prefix"].removeprefix(self._prefix) for entry in page.get("CommonPrefixes", [])]
        return [folder for folder in found if folder[len(under) : -1].isdigit()]

    def _pages(self, prefix: str, delimiter: str = "") -> Iterator[ListObjectsV2OutputTypeDef]:
        connection = self._connection()
        paginator = connection.client.get_paginator("list_objects_v2")
        with _translated(self._url, "ListObjectsV2", connection):
            pages = paginator.paginate(
                Bucket=self._bucket,
                Prefix=self._prefix + prefix,
                Delimiter=delimiter,
                PaginationConfig={"PageSize": PAGE_KEYS},
            )
            yield from pages

    # --- the connection -----------------------------------------------------------------------------

    def _connection(self) -> _Connection:
        with self._lock:
            if self._made is None:
                self._made = self._connect()
            return self._made

    def _connect(self) -> _Connection:
        import boto3
        from botocore.config import Config

        options = self._options
        config = Config(
            signature_version="s3v4",
            connect_timeout=min(CONNECT_TIMEOUT_SECONDS, options.timeout),
            read_timeout=options.timeout,
            retries={"total_max_attempts": 1, "mode": "standard"},
            s3={"addressing_style": _ADDRESSING[options.path_style]},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",  # gzip's own checksum is checked while reading
        )
        with _translated(self._url, "connecting", None):
            session = boto3.session.Session()
            client = session.client(
                "s3",
                endpoint_url=options.endpoint,
                region_name=options.region or session.region_name or "us-east-1",
                config=config,
            )
            credentials = session.get_credentials()
        who = f'AWS_PROFILE (now "{session.profile_name}")'
        if credentials is not None and credentials.method == "env":
            who = f'AWS_ACCESS_KEY_ID (now "{credentials.access_key}"), or unset it and set AWS_PROFILE'
        endpoint = client.meta.endpoint_url
        on_aws = (urlsplit(endpoint).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))
        checksums = on_aws if options.checksums is None else options.checksums == "when_supported"
        return _Connection(client=client, endpoint=endpoint, who=who, checksums=checksums)


def _translated(place: str, operation: str, connection: _Connection | None) -> AbstractContextManager[None]:
    from slotsched.archive.s3_errors import translated  # loads botocore

    if connection is None:
        return translated(place=place, operation=operation, endpoint="the endpoint", who="AWS_PROFILE")
    return translated(place=place, operation=operation, endpoint=connection.endpoint, who=connection.who)


def _encryption_headers(encryption: str | None) -> PutObjectRequestTypeDef:
    """The request's fields for `AES256`, `aws:kms` or `aws:kms:KEY`."""
    if encryption is None:
        return cast("PutObjectRequestTypeDef", {})
    if encryption in ("AES256", "aws:kms"):
        return cast("PutObjectRequestTypeDef", {"ServerSideEncryption": encryption})
    key = encryption.removeprefix("aws:kms:")
    if key in ("", encryption):
        raise InvalidSettings(f's3_encryption "{encryption}": use AES256, aws:kms or aws:kms:KEY')
    return cast("PutObjectRequestTypeDef", {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": key})


def _vouched_for(head: HeadObjectOutputTypeDef, packed: Packed) -> bool:
    """Whether a digest that the server computed itself is ours. An ETag is one only without KMS and odd servers."""
    if head.get("ChecksumSHA256") == packed.sha256_base64:
        return True
    return head.get("ETag", "").strip('"').lower() == packed.md5.hex()
