# /// script
# dependencies = ["pillow"]
# [tool.slotsched]
# slots = 4
# max_time = "30m"
# ///
"""Shrink every picture in a folder."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

from PIL import Image, ImageOps

from slotsched import Cancel, log, task

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def main(
    folder: Annotated[Path, "where the pictures are"],
    width: Annotated[int, "pixels; narrower pictures stay as they are"] = 1280,
    target: Annotated[Path | None, "where the small ones go; without it, a folder small within the first"] = None,
) -> dict:
    pictures = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not pictures:
        raise Cancel(f"no pictures in {folder}")  # ends canceled (exit 100), not failed
    target = target or folder / "small"
    target.mkdir(parents=True, exist_ok=True)
    before = after = 0
    pool = ThreadPoolExecutor(task.slots or 1)  # as many threads as the task holds slots
    try:
        small = pool.map(lambda picture: shrink(picture, width, target), pictures)
        for n, (picture, made) in enumerate(zip(pictures, small, strict=True), 1):
            before, after = before + picture.stat().st_size, after + made.stat().st_size
            log.debug("shrunk", file=picture.name)
            task.progress(n / len(pictures), picture.name)
    finally:
        pool.shutdown(cancel_futures=True)  # a cancel does not wait for what has not begun
    return {"pictures": len(pictures), "folder": target, "bytes_before": before, "bytes_after": after}


def shrink(picture: Path, width: int, target: Path) -> Path:
    """Write the picture at most `width` wide; never a half-written file under its final name."""
    made, unfinished = target / picture.name, target / f".{picture.name}.part"
    with Image.open(picture) as image:
        upright = ImageOps.exif_transpose(image)
        upright.thumbnail((width, upright.height))
        upright.save(unfinished, format=image.format)
    unfinished.replace(made)
    return made
