# /// script
# dependencies = ["pymongo>=4.15"]
# [tool.slotsched]
# slots = 1
# max_time = "6h"
# ///
"""Export a MongoDB collection as lines of JSON, page by page in the order of its _id.

Where the database is comes from a file (uri_file=...), or from the variable EXPORT_MONGODB_URI, which an `env` line
in the header above can set. The scheduler's own database settings are not visible to scripts.
"""

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from bson import json_util
from pymongo import MongoClient
from pymongo.collection import Collection

from slotsched import Cancel, log, task

VARIABLE = "EXPORT_MONGODB_URI"


def main(
    database: str,
    collection: str,
    target: Annotated[Path, "the file to write; a name that ends in .gz is compressed"],
    uri_file: Annotated[Path | None, "a file that holds the URI; else it is in the variable"] = None,
    page: Annotated[int, "documents per query"] = 1000,
) -> dict:
    with MongoClient(read_uri(uri_file), serverSelectionTimeoutMS=10_000, timeoutMS=60_000) as client:
        source = client[database][collection]
        expected = source.estimated_document_count()
        if not expected:
            raise Cancel(f"{database}.{collection} is empty")
        unfinished = target.with_name(f".{target.name}.part")
        target.parent.mkdir(parents=True, exist_ok=True)
        written = 0
        try:
            with gzip.open(unfinished, "wb") if target.suffix == ".gz" else unfinished.open("wb") as file:
                for documents in pages(source, page):
                    file.writelines(json_util.dumps(document).encode() + b"\n" for document in documents)
                    written += len(documents)
                    task.progress(min(1.0, written / expected), f"{written} documents")
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    log.info("exported", collection=f"{database}.{collection}", documents=written)
    return {"documents": written, "file": target, "bytes": target.stat().st_size}


def read_uri(uri_file: Path | None) -> str:
    if uri_file is not None:
        return uri_file.read_text().strip()
    if VARIABLE in os.environ:
        return os.environ[VARIABLE]
    raise SystemExit(f"give uri_file=PATH, or set {VARIABLE} in the script's header")


def pages(source: Collection[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    """The documents in order of _id. min() goes on over _ids of every type, where {"$gt": ...} stops at the first."""
    last: list[Any] = []
    while True:
        query = source.find().sort("_id", 1).hint([("_id", 1)]).limit(size + len(last))
        documents = list(query.min([("_id", last[0])]) if last else query)
        documents = documents[len(last) :] if last and documents and documents[0]["_id"] == last[0] else documents
        if not documents:
            return
        yield documents
        last = [documents[-1]["_id"]]
