#!/bin/sh
# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "500ms"
# ///
trap '' TERM
echo ready
sleep 50 &
while true; do sleep 0.1; done
