#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# kill -9 in the middle of random writes, zeroes, trims and flushes, also over
# a backing file: NEED_CHECK is set, everything that was flushed is there when
# the image is served again, and QEMU's repair finds a consistent image with
# the same data.  An image that was only read is untouched.

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
# [BACKING-FILE]
kill_round ()
{
    local seed=$1 worker initial=

    echo "clusters of $cluster, tables of $table, seed $seed, ${2}s $3"
    rm -f "$image"
    if [ -n "$3" ]; then
        qedctl create "$image" 200M --cluster-size "$cluster" \
            --table-size "$table" --backing "$3" --backing-format raw
        initial="--initial $tmpdir/$3"
    else
        make_image "$image" "$cluster" "$table" 200M
    fi
    serve "$image" clean-after=0
    model_test --seed "$seed" --seconds 30 --connections 4 --may-die \
        --max-count 1M --cluster-size "$cluster" --table-size "$table" \
        --zero --trim --status $initial --save "$model" "$uri" \
        > "$tmpdir/model.out" &
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
        $initial --save "$model" "$uri" || fail "what was flushed is lost"
    serve_stop
    # What was found once stays so; and the work goes on.
    serve "$image"
    model_test --load "$model" --verify-only $initial "$uri" ||
        fail "another content at the second look"
    model_test --load "$model" --seed "$seed" --ops 300 --connections 4 \
        --cluster-size "$cluster" --table-size "$table" --zero --trim \
        --status $initial --dump "$tmpdir/dump" "$uri" ||
        fail "the repaired image does not work"
    serve_stop
    qemu_opens "$cluster" "$table" || return 0
    no_corruption "$image"
    qemu-img compare -q -f qed -F raw "$image" "$tmpdir/dump" ||
        fail "QEMU reads another content than we serve"
}

# What was leaked at the kill may still be.
no_corruption ()
{
    qemu-img check -f qed --output=json "$1" > "$tmpdir/check.json" || :
    [ "$(jq '.["check-errors"] + (.corruptions // 0)' \
            < "$tmpdir/check.json")" = 0 ] || {
        cat "$tmpdir/check.json" >&2
        fail "QEMU finds corruptions in $1"
    }
    need_check "$1" && fail "NEED_CHECK is set in $1"
    return 0
}

# QEMU repairs a copy, and reads what was flushed.
qemu_repair ()
{
    qemu_opens "$cluster" "$table" || return 0
    cp "$image" "$tmpdir/copy.qed"
    qemu-img check -f qed -r all "$tmpdir/copy.qed" \
        > "$tmpdir/repair.out" 2>&1 || :
    # QEMU has no repair of leaks.
    no_corruption "$tmpdir/copy.qed"
    qemu-img convert -f qed -O raw "$tmpdir/copy.qed" "$tmpdir/copy.raw"
    nbdkit -U - file "$tmpdir/copy.raw" --run "
        '$abs_top_builddir/tests/model-test' --load '$model' \\
        --verify-only --crash $initial \"\$uri\"" ||
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
if [ "$qed_server" = nbdkit ]; then
    random_file "$tmpdir/base.raw" 150000001 1
    cluster=65536 table=4
    kill_round 6 0.3 base.raw
    kill_round 7 1.5 base.raw
    cluster=4096 table=2
    kill_round 8 1 base.raw
fi

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
