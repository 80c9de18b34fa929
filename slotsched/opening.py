"""From settings to the two outside places: the store and the log store. The only place that knows which setting is
whose parameter; both drivers load on first use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from slotsched.settings import Settings

if TYPE_CHECKING:
    from slotsched.archive import Archive
    from slotsched.store import Store


def open_store(settings: Settings, *, timeout: float | None = None) -> Store:
    """The store that the settings name; it connects with the first call. timeout: seconds per call, default theirs."""
    from slotsched.store import connect

    return connect(
        settings.mongodb_uri,
        settings.database,
        timeout=settings.store_timeout if timeout is None else timeout,
        tls_ca=_text(settings.tls_ca),
        tls_cert=_text(settings.tls_cert),
        tls_key=_text(settings.tls_key),
    )


def open_log_store(settings: Settings, url: str | None = None) -> Archive:
    """The log store that the settings name, or the one at `url` reached with the same settings."""
    from slotsched.archive import open_archive

    return open_archive(
        url or settings.log_store,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        checksums=settings.s3_checksums,
        path_style=settings.s3_path_style,
        encryption=settings.s3_encryption,
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
