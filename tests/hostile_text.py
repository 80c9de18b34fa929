"""Texts that want to be obeyed, a job that writes one wherever a job can, and a database that holds it everywhere."""

from __future__ import annotations

import base64
import re
from typing import Any

from bson import ObjectId

# Title, clear screen, hidden red, link, a string that never ends, 8-bit forms of the same, text that runs backwards,
# overprinting, forged lines, markup.
TRICKS = (
    "\x1b]0;owned\x07\x1b[2J\x1b[31;8m\x1b[35m\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\\x1bP1$r\x1b\\\x1b[6n"
    "\x9b5A\x9d0;owned\x9c\u202egnp.exe\u2066\u200f\x08\x7f\rfake\x0b\x0c\x1bc<script>alert(1)</script>"
)
NASTY = f"{TRICKS}HERE\x1b]0;cut"
OBEYED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]|\r(?!\n)")


def job_that_writes(nasty: str) -> str:
    """A script that prints, logs, reports, returns and raises a text."""
    return f'''# /// script
# [tool.slotsched]
# max_time = "20s"
# ///
"""Writes everything it should not."""
import base64, sys
from slotsched import log, task

def main(word: str = "", fail: bool = False) -> dict:
    nasty = base64.b64decode("{base64.b64encode(nasty.encode()).decode()}").decode()
    print("out " + nasty, flush=True)
    print("err " + nasty, file=sys.stderr, flush=True)
    print('{{"level":30,"time":1,"msg":"' + nasty.replace("\\\\", "").encode("ascii", "ignore").decode()[-9:] + '"}}')
    sys.stdout.buffer.write(b"\\xff\\x9b2J half " + nasty.encode() + b"\\n")
    log.info("log " + nasty, **{{"field": nasty, nasty: 1}})
    task.progress(0.5, "progress " + nasty)
    if fail:
        raise ValueError(nasty)
    return {{"result": nasty, nasty: [nasty]}}
'''


def poison(database: Any, tasks: dict[str, str], text: str = NASTY) -> None:
    """What somebody who can write to the database could do to a reader."""
    for task in tasks.values():
        found = database.tasks.find_one({"_id": ObjectId(task)})
        changed: dict[str, Any] = {"job": f"job {text}", "owner": text, "tags": [text], "trigger": f"x{text}"}
        for number, _ in enumerate(found["attempts"]):
            changed |= {f"attempts.{number}.instance.name": text, f"attempts.{number}.message": text}
            changed |= {f"attempts.{number}.log.store": f"/{text}"} if task == tasks["failed"] else {}
        if "message" in found or task == tasks["failed"]:
            changed["message"] = text
        database.tasks.update_one({"_id": ObjectId(task)}, {"$set": changed})
    database.tasks.update_one({"_id": ObjectId(tasks["wide"])}, {"$set": {"needs.tags": [text]}})
    database.schedules.update_one(
        {"_id": "tricky"},
        {
            "$set": {
                "label": text, "owner": text, "job": text, "args": {text: text}, "state": text,
                "why": text, "status": "broken", "timezone": "UTC",
            }
        },
    )  # fmt: skip
    database.schedules.insert_one({"_id": text, "job": text, "status": "active", "every": text})
    database.instances.insert_one(
        database.instances.find_one({})
        | {"_id": text, "name": text, "host": text, "version": text, "containment": {"name": text}}
        | {"lease": 3600.0}  # nobody renews it
    )
    database.tasks.insert_one({"_id": ObjectId(), "job": text, "status": "completed", "attempts": text})
