"""What the scheduler, the supervisor and a job's script agree on: names and numbers, nothing that runs.

Everything here is imported by job processes too, so this module imports nothing.
"""

# --- exit codes of a job's script -------------------------------------------------------------------
SCRIPT_COMPLETED = 0
SCRIPT_CANCELED = 100

# --- exit codes of the slotsched command ------------------------------------------------------------
EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_STORE_UNREACHABLE = 4
EXIT_REFUSED = 5
EXIT_CANCELED = 100
EXIT_TIMEOUT = 124
EXIT_INTERRUPTED = 130

# --- environment of a job's script ------------------------------------------------------------------
TASK_PREFIX = "SLOTSCHED_TASK_"
ENV_ID = "SLOTSCHED_TASK_ID"
ENV_JOB = "SLOTSCHED_TASK_JOB"
ENV_ATTEMPT = "SLOTSCHED_TASK_ATTEMPT"
ENV_FENCE = "SLOTSCHED_TASK_FENCE"
ENV_TRIGGER = "SLOTSCHED_TASK_TRIGGER"
ENV_SLOTS = "SLOTSCHED_TASK_SLOTS"
ENV_DEADLINE = "SLOTSCHED_TASK_DEADLINE"  # ISO 8601, UTC: when max time ends
ENV_INSTANCE = "SLOTSCHED_TASK_INSTANCE"  # the instance's name
ENV_LAST_COMPLETED_AT = "SLOTSCHED_TASK_LAST_COMPLETED_AT"  # empty outside a series
ENV_LAST_STARTED_AT = "SLOTSCHED_TASK_LAST_STARTED_AT"  # empty outside a series
ENV_ARGS = "SLOTSCHED_TASK_ARGS"  # path: JSON object
ENV_PROGRESS = "SLOTSCHED_TASK_PROGRESS"  # path: "FRACTION MESSAGE" or "? MESSAGE", last line counts
ENV_RESULT = "SLOTSCHED_TASK_RESULT"  # path: JSON
ENV_STATE = "SLOTSCHED_TASK_STATE"  # path: JSON, what the series' last completed run saved
ENV_STATE_OUT = "SLOTSCHED_TASK_STATE_OUT"  # path: JSON, kept only if this run completes
ENV_TYPES = "SLOTSCHED_TASK_TYPES"  # arguments that JSON has no type for: "folder=path days=list:date"
ENV_LOG_FD = "SLOTSCHED_TASK_LOG_FD"  # descriptor of the log pipe; stderr when absent
ENV_RESOURCE_PREFIX = "SLOTSCHED_TASK_RESOURCE_"  # + NAME: indices of the units held, "0,2"
ENV_TRACEPARENT = "TRACEPARENT"
PROGRESS_UNKNOWN = "?"  # instead of a fraction, so that a message may begin with a number
ARG_PREFIX = "ARG_"
PASSED_ENVIRONMENT = ("HOME", "PATH", "LANG", "TZ")

# --- a run directory: one claim's folder, <state dir>/runs/<task id>-<fence>/ -----------------------
RUN_SPEC = "spec.json"  # written by the scheduler before launch
RUN_START = "start"  # the start right: who creates it (O_EXCL) decides whether the script starts
RUN_LOCK = "lock"  # POSIX lock held by the living supervisor; F_GETLK gives its pid
RUN_ORDER = "order.json"  # why and how to end, written before the signal that announces it
RUN_STATUS = "status.json"  # how it ended: fsynced, renamed, written once the tree is dead
RUN_LOG = "log.ndjson"  # the attempt's log: one pino-shaped JSON line per line
RUN_IO = "io"  # what the script reads and writes: args, progress, result, state
RUN_WORK = "work"  # the script's private folder and TMPDIR
IO_ARGS = "args.json"
IO_PROGRESS = "progress"
IO_RESULT = "result.json"
IO_STATE = "state.json"
IO_STATE_OUT = "state-out.json"

# --- limits -----------------------------------------------------------------------------------------
VALUE_BYTES = 1 << 20  # of a task's arguments, result or state as JSON; a document may have 16 MB

# --- pino levels ------------------------------------------------------------------------------------
LEVEL_TRACE, LEVEL_DEBUG, LEVEL_INFO, LEVEL_WARN, LEVEL_ERROR, LEVEL_FATAL = 10, 20, 30, 40, 50, 60
LEVEL_NAMES = {10: "trace", 20: "debug", 30: "info", 40: "warn", 50: "error", 60: "fatal"}
LEVEL_STDOUT = LEVEL_INFO
LEVEL_STDERR = LEVEL_WARN
