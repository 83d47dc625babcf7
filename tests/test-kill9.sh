#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# kill -9 in the middle of random writes, flushes and FUA writes: NEED_CHECK
# is set, everything that was flushed is there when the image is served
# again, and QEMU's repair finds a consistent image with the same data.
# An image that was only read is untouched.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version
requires nbdkit file --version

image=$tmpdir/disk.qed
model=$tmpdir/model

# Kill the server SECONDS after the first change: kill_round SEED SECONDS
kill_round ()
{
    local seed=$1 worker

    echo "clusters of $cluster, tables of $table, seed $seed, ${2}s"
    rm -f "$image"
    make_image "$image" "$cluster" "$table" 200M
    serve "$image" clean-after=0
    model_test --seed "$seed" --seconds 30 --connections 4 --may-die \
        --max-count 1M --cluster-size "$cluster" --table-size "$table" \
        --save "$model" "$uri" > "$tmpdir/model.out" &
    worker=$!
    for i in {1..300}; do
        need_check "$image" && break
        sleep 0.1
    done
    sleep "$2"
    serve_kill
    wait "$worker" || fail "the client did not get on until the kill"
    cat "$tmpdir/model.out"
    grep -q "the server was gone" "$tmpdir/model.out" ||
        fail "the work was over before the kill"
    need_check "$image" || fail "NEED_CHECK is not set after kill -9"

    qemu_repair
    serve "$image"
    model_test --load "$model" --verify-only --crash --connections 4 \
        --save "$model" "$uri" || fail "what was flushed is lost"
    serve_stop
    # What was found once stays so.
    serve "$image"
    model_test --load "$model" --verify-only "$uri" ||
        fail "another content at the second look"
    serve_stop
}

# QEMU repairs a copy, and reads what was flushed.
qemu_repair ()
{
    qemu_opens "$cluster" "$table" || return 0
    cp "$image" "$tmpdir/copy.qed"
    qemu-img check -f qed -r all "$tmpdir/copy.qed" \
        > "$tmpdir/repair.out" 2>&1 || :
    # QEMU has no repair of leaks, and an unflushed end leaves some.
    qemu-img check -f qed --output=json "$tmpdir/copy.qed" \
        > "$tmpdir/check.json" || :
    [ "$(jq '.["check-errors"] + (.corruptions // 0)' \
            < "$tmpdir/check.json")" = 0 ] || {
        cat "$tmpdir/repair.out" "$tmpdir/check.json" >&2
        fail "QEMU still finds corruptions after its repair"
    }
    need_check "$tmpdir/copy.qed" && fail "QEMU could not repair the image"
    qemu-img convert -f qed -O raw "$tmpdir/copy.qed" "$tmpdir/copy.raw"
    nbdkit -U - file "$tmpdir/copy.raw" --run "
        '$abs_top_builddir/tests/model-test' --load '$model' \\
        --verify-only --crash \"\$uri\"" ||
        fail "what was flushed is lost in the image that QEMU repaired"
    rm -f "$tmpdir/copy.qed" "$tmpdir/copy.raw"
}

cluster=65536 table=4
kill_round 1 0.3
kill_round 2 1.5
cluster=4096 table=2
kill_round 3 0.3
kill_round 4 1.5
cluster=4096 table=1
kill_round 5 0.7

# One flushed write, and idleness: the smallest case.
cluster=65536 table=4
make_image "$tmpdir/one.qed" 65536 4 10M
serve "$tmpdir/one.qed" clean-after=0
qemu-io -f raw -c "write -P 0x5a 3000000 5000" -c flush "$uri" >/dev/null
serve_kill
need_check "$tmpdir/one.qed" || fail "NEED_CHECK is not set after one write"
serve "$tmpdir/one.qed"
qemu-io -r -f raw -c "read -P 0x5a 3000000 5000" -c "read -P 0 2900000 100000" \
    "$uri" > "$tmpdir/out" ||
    { cat "$tmpdir/out" >&2; fail "one write was lost"; }
serve_stop

# A reader leaves no trace.
make_image "$tmpdir/read.qed" 65536 4 10M
cp "$tmpdir/read.qed" "$tmpdir/before.qed"
serve "$tmpdir/read.qed"
qemu-io -r -f raw -c "read -P 0 0 10M" "$uri" >/dev/null
qemu-io -f raw -c flush "$uri" >/dev/null
serve_kill
cmp "$tmpdir/read.qed" "$tmpdir/before.qed" || fail "a reader changed the image"
