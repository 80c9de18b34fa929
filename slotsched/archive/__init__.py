"""Log stores: an S3 bucket or a folder. What an attempt printed ends here, gzipped, under a key made of ids."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from slotsched.archive.base import Archive, Stored, log_key
from slotsched.errors import InvalidSettings

__all__ = ["Archive", "Stored", "log_key", "open_archive"]

TIMEOUT_SECONDS = 20.0  # for a server that accepts the connection and then says nothing


def open_archive(
    url: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    checksums: Literal["when_supported", "when_required"] | None = None,
    path_style: bool | None = None,
    encryption: str | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Archive:
    """The log store at `s3://bucket/prefix`, or in a folder. Nothing is contacted, no boto3 loaded, until first use.

    endpoint: URL of an S3-compatible server; empty or None: boto3's own chain (AWS_ENDPOINT_URL_S3, then AWS).
    checksums: `when_supported` sends an `x-amz-checksum-sha256`, `when_required` only a Content-MD5; None: the first on
    AWS, the second elsewhere, since some servers do not know the first.
    path_style: `endpoint/bucket/key`; None: for IP addresses and localhost. encryption: `AES256`, `aws:kms`,
    `aws:kms:KEY`. timeout: seconds without an answer. InvalidSettings for values that cannot be used.
    """
    if url.startswith("s3://"):
        from slotsched.archive.s3 import S3Archive, S3Options

        options = S3Options(
            endpoint=endpoint or None,
            region=region or None,
            checksums=checksums,
            path_style=path_style,
            encryption=encryption or None,
            timeout=timeout,
        )
        return S3Archive(url, options)
    if "://" in url and not url.startswith("file://"):
        raise InvalidSettings(f'log_store "{url}": neither s3://bucket/prefix nor a folder')
    if not url:
        raise InvalidSettings("log_store is empty: set it to s3://bucket/prefix or to a folder")
    from slotsched.archive.directory import DirectoryArchive

    return DirectoryArchive(Path(url.removeprefix("file://")))
