#!/bin/sh
# /// script
# [tool.slotsched]
# max_time = "60s"
# grace = "1s"
# [tool.slotsched.args]
# steps = { type = "int", default = 20 }
# ///
n=0
while [ "$n" -lt "$ARG_STEPS" ]; do
  echo "0.$n step $n" > "$SLOTSCHED_TASK_PROGRESS"
  echo "step $n"
  n=$((n + 1))
  sleep 0.2
done
