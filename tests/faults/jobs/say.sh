#!/bin/sh
# /// script
# [tool.slotsched]
# max_time = "120s"
# grace = "1s"
# [tool.slotsched.args]
# lines = { type = "int", default = 3 }
# pause = { type = "float", default = 0.0 }
# stop = { type = "str", default = "" }
# ///
# Says numbered lines, or until there is a file `stop`, and keeps a copy of what it has said beside the witness file:
# what its log is compared with.
# Everything but the pause is built into the shell. /proc/uptime is CLOCK_BOOTTIME.
tell() {
    read -r at _ < /proc/uptime
    printf '{"event":"%s","task":"%s","attempt":%d,"fence":%d,"pid":%d,"slots":%d,"instance":"%s","at":%s}\n' \
        "$1" "$SLOTSCHED_TASK_ID" "$SLOTSCHED_TASK_ATTEMPT" "$SLOTSCHED_TASK_FENCE" $$ "$SLOTSCHED_TASK_SLOTS" \
        "$SLOTSCHED_TASK_INSTANCE" "$at" >> "$WITNESS"
}
exec 9> "$WITNESS.said/$SLOTSCHED_TASK_ID-$SLOTSCHED_TASK_FENCE"
tell start
line=1
while [ "$line" -le "$ARG_LINES" ] && ! [ -e "$ARG_STOP" ]; do
    read -r at _ < /proc/uptime
    echo "line $line $at"
    echo "line $line $at" >&9
    [ "$ARG_PAUSE" = 0.0 ] || sleep "$ARG_PAUSE"
    line=$((line + 1))
done
tell end
