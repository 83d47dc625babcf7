#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The life of NEED_CHECK: set, and durably so, before the first allocating
# write touches the image; not set by reads and in-place writes; cleared after
# clean-after= seconds without change, with the file cut to the end of use;
# set again by the next change; cleared at the end.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version
requires "$PYTHON" --version

image=$tmpdir/disk.qed

# Wait until the bit is as wanted: wait_clean SECONDS
wait_clean ()
{
    for i in $(seq $(($1 * 10))); do
        need_check "$image" || return 0
        sleep 0.1
    done
    return 1
}

client ()
{
    qemu-io -f raw "$@" "$uri" > "$tmpdir/client.out" || {
        cat "$tmpdir/client.out" >&2
        fail "the client failed: $*"
    }
    grep -qi "failed" "$tmpdir/client.out" && {
        cat "$tmpdir/client.out" >&2
        fail "the client failed: $*"
    }
    return 0
}

make_image "$image" 65536 4 1G
serve "$image" clean-after=3
need_check "$image" && fail "NEED_CHECK is set before any change"
client -c "read -P 0 0 1M"
need_check "$image" && fail "a read set NEED_CHECK"

# -t: qemu-io sends no flush of its own on its way out.
client -t unsafe -c "write -P 1 100000 5000"
need_check "$image" || fail "NEED_CHECK is not set after an allocating write"

# Idle: clean, and nothing behind the end of use.
sleep 1
need_check "$image" || fail "NEED_CHECK was cleared before the time"
wait_clean 20 || fail "NEED_CHECK was not cleared after clean-after="
cp "$image" "$tmpdir/copy.qed"
qemu_check "$tmpdir/copy.qed"
# Header, L1, one L2 table, one cluster.
used=$((65536 * (1 + 4 + 4 + 1)))
[ "$(stat -c %s "$tmpdir/copy.qed")" = $used ] ||
    fail "the file has $(stat -c %s "$tmpdir/copy.qed") bytes instead of $used"
qemu-io -f qed -c "read -P 1 100000 5000" "$tmpdir/copy.qed" > "$tmpdir/out"
grep -qi "failed" "$tmpdir/out" && fail "the copy of the clean image lacks data"

# In-place writes are no change of metadata.
client -c "write -P 2 100000 5000" -c flush
need_check "$image" && fail "an in-place write set NEED_CHECK"

# The next change starts it all again.
client -t unsafe -c "write -P 3 500M 300000"
need_check "$image" || fail "NEED_CHECK is not set again"
wait_clean 20 || fail "NEED_CHECK was not cleared for the second time"
cp "$image" "$tmpdir/copy.qed"
qemu_check "$tmpdir/copy.qed"

client -t unsafe -c "write -P 4 700M 3000"
need_check "$image" || fail "NEED_CHECK is not set for the third time"
serve_stop
need_check "$image" && fail "NEED_CHECK is set after the server's end"
qemu_check "$image"
qemu-io -f qed -c "read -P 2 100000 5000" -c "read -P 3 500M 300000" \
    -c "read -P 4 700M 3000" "$image" > "$tmpdir/out"
grep -qi "failed" "$tmpdir/out" && fail "QEMU reads another content"

# clean-after=0: only at the end.
serve "$image" clean-after=0
client -t unsafe -c "write -P 5 900M 3000"
sleep 3
need_check "$image" || fail "NEED_CHECK was cleared despite clean-after=0"
serve_stop
need_check "$image" && fail "NEED_CHECK is set after the second end"

# Changes that begin just as the timer fires: nothing is lost.
rm "$image"
make_image "$image" 65536 4 1G
serve "$image" clean-after=1
model_test --ops 50 --depth 32 --max-count 64K --save "$tmpdir/model" "$uri"
for pause in 0.7 0.8 0.85 0.9 0.95 1; do
    sleep $pause
    model_test --load "$tmpdir/model" --seed "${pause#*.}" --ops 50 \
        --depth 32 --max-count 64K --save "$tmpdir/model" "$uri" > /dev/null
done
serve_stop
need_check "$image" && fail "NEED_CHECK is set after the third end"
walk_image "$image"
serve "$image"
model_test --load "$tmpdir/model" --verify-only "$uri"
serve_stop

# Durable before: in the order of the server's system calls.
if [ -n "$SANITIZER" ]; then
    echo "not checked: strace and the sanitizers don't agree"
    exit 0
fi
rm "$image"
make_image "$image" 65536 4 1G
serve "$image" clean-after=0
: > "$tmpdir/strace.err"
strace -f -y -s 64 -o "$tmpdir/trace" -p "$(cat "$pidfile")" \
    -e trace=pwrite64,pwritev,pwritev2,fdatasync,fsync \
    2> "$tmpdir/strace.err" &
tracer=$!
for i in {1..100}; do
    grep -q attached "$tmpdir/strace.err" && break
    if ! kill -0 $tracer 2>/dev/null; then
        echo "not checked: strace can't be had here"
        exit 0
    fi
    sleep 0.05
done
client -t unsafe -c "write -P 6 0 4096"
serve_stop
wait $tracer || :
"$PYTHON" - "$tmpdir/trace" "$image" <<'END'
import re, sys
header = synced = data = None
pending = {}
for n, line in enumerate(open(sys.argv[1]), 1):
    thread, line = line.split(None, 1)
    if sys.argv[2] not in line and "resumed" not in line:
        continue
    # A call counts as done where it returns, a write as begun at its start.
    call = re.match(r"(?:<\.\.\. )?(\w+)", line).group(1)
    if "<unfinished" in line:
        pending[thread] = line
    first = line
    if "resumed" in line:
        first = pending.pop(thread, "")
        if not first:
            continue
    if call in ("pwrite64", "pwritev", "pwritev2"):
        whole = first.split("<unfinished")[0] + line.split("resumed>")[-1] \
            if first is not line else line
        place = re.search(r", (\d+)(?:, 0)?\)\s+= \d+", whole)
        if place is None:
            continue
        if int(place.group(1)) < 65536:
            header = n if header is None else header
        else:
            data = n if data is None else data
    if call in ("fdatasync", "fsync") and re.search(r"= 0\b", line):
        if header is not None and synced is None:
            synced = n
if None in (header, synced, data) or not header < synced < data:
    sys.exit("NEED_CHECK written in line %s, durable in line %s, data in line "
             "%s of the trace" % (header, synced, data))
END
