"""Real input for the example jobs, made on the spot."""

from __future__ import annotations

import datetime as dt
import gzip
import random
from collections.abc import Iterator
from pathlib import Path

PICTURES = 24
LOG_LINES = 60_000
_PATHS = ("/", "/cart", "/search", "/item/17", "/item/99", "/login", "/static/app.js")


def pictures(folder: Path, count: int = PICTURES) -> Path:
    """A folder of PNG files that are worth shrinking."""
    from PIL import Image

    folder.mkdir(parents=True)
    whole = Image.effect_mandelbrot((1600, 1200), (-2.2, -1.2, 0.8, 1.2), 40)
    for number in range(count):
        whole.rotate(360 * number / count).save(folder / f"{number:02d}.png", compress_level=1)
    return folder


def access_log(path: Path, *, seed: int, lines: int = LOG_LINES) -> Path:
    """A web server's log in the combined format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="ascii") as stream:
        stream.writelines(_access_lines(lines, random.Random(seed)))
    return path


def documents(folder: Path) -> Path:
    """A small tree of files to back up."""
    chance = random.Random(7)
    for number in range(40):
        path = folder / f"{number % 5}" / f"report-{number:02d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(chance.randbytes(40_000)))
    return folder


def _access_lines(count: int, chance: random.Random) -> Iterator[str]:
    moment = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    for _ in range(count):
        moment += dt.timedelta(seconds=chance.expovariate(1.0))
        address = f"10.0.{chance.randrange(4)}.{chance.randrange(256)}"
        status = chance.choices((200, 304, 404, 500), (80, 12, 6, 2))[0]
        path = chance.choice(_PATHS)
        yield (
            f'{address} - - [{moment:%d/%b/%Y:%H:%M:%S} +0000] "GET {path} HTTP/1.1" {status} '
            f'{chance.randrange(200, 90_000)} "-" "Mozilla/5.0"\n'
        )
