#!/bin/sh
# /// script
# [tool.slotsched]
# slots = 2
# max_time = "4h"
# description = "Back up a folder: archive it, verify every checksum, and only then let the oldest archives go"
# [tool.slotsched.args]
# source = { type = "path", description = "the folder to back up" }
# target = { type = "path", description = "the folder of the archives" }
# keep = { type = "int", default = 7, description = "archives to keep" }
# ///
set -eu

progress() { echo "$1" > "$SLOTSCHED_TASK_PROGRESS"; }

[ -d "$ARG_SOURCE" ] || { echo "there is no folder $ARG_SOURCE" >&2; exit 1; }
[ "$ARG_KEEP" -ge 1 ] || { echo "keep=$ARG_KEEP would keep nothing" >&2; exit 1; }
mkdir -p "$ARG_TARGET"

name=$(basename "$ARG_SOURCE" | tr -c 'A-Za-z0-9._\n-' '_')
archive="$name-$(date -u +%Y%m%dT%H%M%SZ).tar.gz"
unfinished="$ARG_TARGET/.$archive.part"
work=$(mktemp -d)
trap 'rm -rf "$work" "$unfinished"' EXIT
trap 'exit 100' TERM    # asked to stop: clean up, end canceled

progress "0.0 reading $name"
(cd "$ARG_SOURCE" && find . -type f -print0 | sort -z | xargs -0 -r sha256sum) > "$work/SHA256SUMS"
files=$(wc -l < "$work/SHA256SUMS")

progress "0.3 packing $files files"
tar -czf "$unfinished" -C "$ARG_SOURCE" .

progress "0.6 verifying"
mkdir "$work/check"
tar -xzf "$unfinished" -C "$work/check"
if [ "$files" -gt 0 ]; then
    (cd "$work/check" && sha256sum --quiet -c ../SHA256SUMS)
fi
mv "$work/SHA256SUMS" "$ARG_TARGET/$archive.sha256"
mv "$unfinished" "$ARG_TARGET/$archive"
echo "wrote $archive with $files files"

progress "0.9 pruning"
pruned=0
for old in $(cd "$ARG_TARGET" && ls -1r | grep "^$name-[0-9TZ]*\.tar\.gz\$" | tail -n "+$((ARG_KEEP + 1))"); do
    rm -f "$ARG_TARGET/$old" "$ARG_TARGET/$old.sha256"
    echo "removed $old"
    pruned=$((pruned + 1))
done

progress "1.0 done"
bytes=$(wc -c < "$ARG_TARGET/$archive")
printf '{"archive": "%s", "files": %d, "bytes": %d, "pruned": %d}' "$archive" "$files" "$bytes" "$pruned" \
    > "$SLOTSCHED_TASK_RESULT"
