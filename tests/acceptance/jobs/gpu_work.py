# /// script
# [tool.slotsched]
# max_time = "60s"
# resources = { gpu = 1 }
# ///
"""As `work`, but only where there is a gpu: for tests that must know which instance runs it."""

import work


def main(seconds: float = 0.0) -> dict:
    return work.main(seconds)
