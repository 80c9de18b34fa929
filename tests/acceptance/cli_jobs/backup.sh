#!/bin/sh
# /// script
# [tool.slotsched]
# slots = 1
# max_time = "20s"
# grace = "1s"
# [tool.slotsched.args]
# code = { type = "int", default = 0, description = "how it ends" }
# ///
echo "to stdout"
echo "to stderr" >&2
exit "$ARG_CODE"
