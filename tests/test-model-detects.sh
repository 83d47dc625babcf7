#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# model-test finds what it is there to find: a server that is right passes; a
# changed byte, a lost write, data in another's place, and a lost restart do
# not.  All on raw files behind nbdkit's own plugins.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires nbdkit file --version
requires nbdkit eval --version
requires "$PYTHON" --version

raw=$tmpdir/raw
model=$tmpdir/model

file_server ()
{
    nbdkit -U - file "$raw" --run "$1"
}

run="$abs_top_builddir/tests/model-test"

# expect STATUS WORDS MESSAGE: what the last run gave.
expect ()
{
    [ "$status" = "$1" ] || fail "$3: status $status instead of $1"
    grep -q "$2" "$tmpdir/err" || { cat "$tmpdir/err" >&2; fail "$3: no '$2'"; }
}

verify ()
{
    status=0
    file_server "$run --load $model --verify-only \"\$uri\"" 2> "$tmpdir/err" ||
        status=$?
}

# A right server passes, with all operations, and again after a restart.
truncate -s 10000384 "$raw"
file_server "$run --ops 400 --connections 3 --cluster-size 4096 --zero --trim \
    --max-count 1M --save $model \"\$uri\""
verify
[ "$status" = 0 ] || fail "a right server was refused"
cp "$raw" "$tmpdir/good"

# One bit of one byte.
"$PYTHON" - "$raw" <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(5000000)
    byte = f.read(1)[0]
    f.seek(5000000)
    f.write(bytes([byte ^ 1]))
END
verify
expect 1 "WRONG DATA at offset 0x4c4b40" "a flipped bit"
grep -q "1 of [0-9]* bytes are wrong" "$tmpdir/err" || fail "more than a byte"

# The content of one cluster in another's place.
cp "$tmpdir/good" "$raw"
"$PYTHON" - "$raw" <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    data = f.read()
    full = [i for i in range(0, len(data) - 4096, 4096)
            if data[i:i + 4096].count(0) < 100]
    f.seek(full[1])
    f.write(data[full[0]:full[0] + 4096])
END
verify
expect 1 "foreign data" "a cluster in another's place"

# All writes of the second half lost, while the client is there.
status=0
nbdkit -U - eval get_size='echo 1048576' can_write='exit 0' \
    pread="dd if=$raw bs=1 skip=\$4 count=\$3 status=none" \
    pwrite="if [ \$4 -ge 524288 ]; then cat >/dev/null; else
            dd of=$raw bs=1 seek=\$4 conv=notrunc status=none; fi" \
    --run "truncate -s 0 $raw; truncate -s 1M $raw
           $run --ops 100 --max-count 8K --cluster-size 4096 \"\$uri\"" \
    2> "$tmpdir/err" || status=$?
expect 1 "WRONG DATA" "lost writes"

# A disk that is back at its old state after a restart, although all was
# flushed: only with --crash is anything forgiven, and not that.
cp "$tmpdir/good" "$raw"
file_server "$run --load $model --ops 200 --seed 2 --max-count 64K \
    --cluster-size 4096 --save $tmpdir/model2 \"\$uri\""
cp "$tmpdir/good" "$raw"
status=0
file_server "$run --load $tmpdir/model2 --verify-only --crash \"\$uri\"" \
    2> "$tmpdir/err" || status=$?
expect 1 "after a crash" "flushed data lost in a crash"

# What wasn't flushed may be lost in a crash, and only there.
truncate -s 0 "$raw"
truncate -s 1M "$raw"
file_server "$run --ops 1 --seed 3 --save $model \"\$uri\""
truncate -s 0 "$raw"
truncate -s 1M "$raw"
verify
expect 1 "WRONG DATA" "an unflushed write lost without a crash"
file_server "$run --load $model --verify-only --crash \"\$uri\"" ||
    fail "the loss of unflushed data in a crash was refused"

# A disk that isn't zeros at first, as over a backing file: known with
# --initial, missed without.  What is dumped is what is there.
random_file "$raw" 3000000 1
truncate -s 2999808 "$raw"
cp "$raw" "$tmpdir/initial"
file_server "$run --ops 300 --connections 3 --cluster-size 4096 --zero --trim \
    --status --cache --initial $tmpdir/initial --save $model --max-count 64K \
    --dump $tmpdir/dump \"\$uri\""
cmp "$raw" "$tmpdir/dump" || fail "the dump isn't what is there"
verify
expect 1 "WRONG DATA" "content that nobody wrote"
truncate -s 1M "$tmpdir/initial"
status=0
file_server "$run --load $model --verify-only --initial $tmpdir/initial \
    \"\$uri\"" 2> "$tmpdir/err" || status=$?
expect 1 "WRONG DATA" "content behind the backing file's end"

# Block status that calls data zeros.
for extents in "0 1048576 hole,zero" "0 1048576 zero"; do
    status=0
    nbdkit -U - eval get_size='echo 1048576' can_write='exit 0' \
        can_extents='exit 0' extents="echo $extents" \
        pread="dd if=$raw bs=1 skip=\$4 count=\$3 status=none" \
        pwrite="dd of=$raw bs=1 seek=\$4 conv=notrunc status=none" \
        --run "truncate -s 0 $raw; truncate -s 1M $raw
               $run --ops 100 --max-count 8K --cluster-size 4096 --status \
                   \"\$uri\"" 2> "$tmpdir/err" || status=$?
    expect 1 "block status" "a block status of $extents"
done

# image-walk.py has eyes, too.
for kind in data table short-table; do
    "$PYTHON" "$srcdir/past-end.py" "$tmpdir/bad.qed" $kind
    if "$PYTHON" "$srcdir/image-walk.py" "$tmpdir/bad.qed" 2> "$tmpdir/err"
    then
        fail "image-walk.py accepts an entry past the end"
    fi
    grep -q "past the end" "$tmpdir/err" || fail "image-walk.py: $kind"
done
qedctl create "$tmpdir/good.qed" 10M >/dev/null
"$PYTHON" "$srcdir/image-walk.py" "$tmpdir/good.qed" ||
    fail "image-walk.py refuses a good image"
truncate -s +65536 "$tmpdir/good.qed"
if "$PYTHON" "$srcdir/image-walk.py" "$tmpdir/good.qed" 2> "$tmpdir/err"; then
    fail "image-walk.py overlooks a leak"
fi
grep -q "1 of 6 clusters leaked" "$tmpdir/err" || fail "image-walk.py: a leak"

# A failing server is a failure.
status=0
nbdkit -U - --filter=error memory 10M error-pwrite-rate=10% \
    --run "$run \"\$uri\"" 2> "$tmpdir/err" || status=$?
expect 1 "Input/output error" "a failed write"

# The same seed makes the same work.
for i in 1 2; do
    nbdkit -U - memory 10M --run "$run --ops 300 --seed 7 \"\$uri\"" \
        > "$tmpdir/out$i"
done
cmp "$tmpdir/out1" "$tmpdir/out2" || fail "the same seed made different work"
