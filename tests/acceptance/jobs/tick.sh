#!/bin/sh
# /// script
# [tool.slotsched]
# max_time = "60s"
# [tool.slotsched.args]
# seconds = { type = "float", default = 0.0 }
# ///
# The cheapest task under test: tells the witness when it begins and ends. /proc/uptime is CLOCK_BOOTTIME.
tell() {
    read -r at _ < /proc/uptime
    printf '{"event":"%s","task":"%s","attempt":%d,"fence":%d,"pid":%d,"slots":%d,"instance":"%s","at":%s}\n' \
        "$1" "$SLOTSCHED_TASK_ID" "$SLOTSCHED_TASK_ATTEMPT" "$SLOTSCHED_TASK_FENCE" $$ "$SLOTSCHED_TASK_SLOTS" \
        "$SLOTSCHED_TASK_INSTANCE" "$at" >> "$WITNESS"
}
tell start
sleep "$ARG_SECONDS"
tell end
