# /// script
# [tool.slotsched]
# max_time = "20s"
# ///
"""Takes any arguments and gives back what it was given, as read from its file."""

import json
import os
from pathlib import Path

given = json.loads(Path(os.environ["SLOTSCHED_TASK_ARGS"]).read_text(encoding="utf-8"))
Path(os.environ["SLOTSCHED_TASK_RESULT"]).write_text(json.dumps({"given": given}), encoding="utf-8")
