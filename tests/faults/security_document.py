"""The examples of SECURITY.md, for the tests that run them: a document nobody runs is soon wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def documents(key: str) -> list[dict[str, Any]]:
    """The JSON blocks that are objects with this key."""
    return [found for found in map(json.loads, blocks("json")) if key in found]


def actions(policy: dict[str, Any]) -> set[tuple[str, str]]:
    """(action, resource) pairs that a bucket's policy allows."""
    allowed = set()
    for statement in policy["Statement"]:
        assert statement["Effect"] == "Allow"
        named = statement["Action"]
        allowed |= {(action, statement["Resource"]) for action in ([named] if isinstance(named, str) else named)}
    return allowed
