#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# What was acknowledged survives kill -9 of the server, flushed or not, on the
# same machine: with the pending log, and where there is none.  The log is not
# used after another program had the image, or another run of the machine, nor
# if it is damaged or another image's; it is gone after a clean end.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version
requires nbdkit --version --filter=retry nbd
[ "$qed_server" = nbdkit ] || skip "qemu-nbd has no log"
export XDG_RUNTIME_DIR=$(mktemp -d /dev/shm/nbdkit-qed-test.XXXXXX)
[ -d "$XDG_RUNTIME_DIR" ] || skip "no tmpfs"
cleanup_fn rm -rf "$XDG_RUNTIME_DIR"
[ "$(stat -f -c %T "$XDG_RUNTIME_DIR")" = tmpfs ] ||
    skip "/dev/shm is not tmpfs"
logs=$XDG_RUNTIME_DIR/nbdkit-qed/pending

image=$tmpdir/disk.qed
control=$tmpdir/control

log_of ()
{
    echo "$logs/$(stat -c %d-%i "$1")"
}

# work SEED SECONDS [PENDING-LOG]: clients that never flush; then kill -9
work ()
{
    local seed=$1 seconds=$2 log=${3:-on} worker

    serve "$image" clean-after=0 pending-log="$log"
    model_test --seed "$seed" --seconds 30 --connections 4 --may-die \
        --max-count 300K --cluster-size $cluster --table-size 2 \
        --zero --trim $initial --save "$tmpdir/model" "$uri" \
        > "$tmpdir/model.out" &
    worker=$!
    for i in {1..300}; do
        need_check "$image" && break
        sleep 0.1
    done
    sleep "$seconds"
    serve_kill
    wait $worker || fail "the client did not get on until the kill"
    grep -q "the server was gone" "$tmpdir/model.out" ||
        fail "the work was over before the kill"
}

# All that was acknowledged is there; the closed image is in order.
verify ()
{
    serve "$image"
    model_test --load "$tmpdir/model" --verify-only --connections 4 \
        $initial "$uri" || fail "what was acknowledged is lost"
    serve_stop
    [ ! -e "$(log_of "$image")" ] || fail "the log is there after a clean end"
    [ "$(header_field "$image" 32 8)" = 0 ] || fail "autoclear bits are left"
    walk_free_image "$image"
}

# A few changes without a flush, then kill -9.
change ()
{
    rm -f "$image"
    make_image "$image" 65536 2 64M
    serve "$image" clean-after=0 control="$control"
    client <<'END'
for i in range(20):
    h.pwrite(bytes([i + 1]) * 4096, i * 1000000)
h.trim(65536, 0)
END
    expect_status on
    [ "$(qedctl status --control "$control" --json |
        jq '.images[0]."pending-records"')" -gt 0 ] || fail "nothing is logged"
    serve_kill
    need_check "$image" || fail "NEED_CHECK is not set after the kill"
}

expect_status ()
{
    local log=$(qedctl status --control "$control" --json |
        jq -r '.images[0]."pending-log"')

    [ "$log" = "$1" ] || fail "the log is $log, not $1"
}

# What 'change' wrote is there, or not: look there|gone
look ()
{
    serve "$image"
    client "$1" <<'END'
for i in range(1, 20):
    b = h.pread(4096, i * 1000000)
    assert b == (bytes([i + 1]) if args[0] == "there" else b"\0") * 4096, i
assert h.pread(4096, 0) == bytes(4096)
END
    serve_stop
    [ "$1" = there ] ||         # QEMU leaves leaks, and the image clean
        qedctl check --repair=leaks "$image" >/dev/null
    walk_free_image "$image"
}

# Overwrite a byte of the image's log: poke OFFSET
poke ()
{
    printf '\377' | dd of="$(log_of "$image")" bs=1 seek="$1" conv=notrunc \
        status=none
}

echo "unflushed work, killed, over and over"
cluster=4096 initial=
make_image "$image" $cluster 2 200M
work 1 0.5
verify
rm -f "$image"
make_image "$image" $cluster 2 200M
work 2 1.5
echo "the first server that sees it is killed, too"
serve "$image"
serve_kill
verify
if [ -z "$QED_QUICK" ]; then
    rm -f "$image"
    random_file "$tmpdir/base.raw" 150000001 1
    qedctl create "$image" 200M --cluster-size 65536 --table-size 2 \
        --backing base.raw --backing-format raw
    cluster=65536 initial="--initial $tmpdir/base.raw"
    work 3 1
    verify
fi


echo "without a log the promise is the same"
rm -f "$image"
cluster=4096 initial=
make_image "$image" $cluster 2 200M
mkdir -m 700 "$tmpdir/elsewhere"        # on a disk, or of the wrong mode
chmod 755 "$tmpdir/elsewhere"
work 4 1 "$tmpdir/elsewhere"
[ -z "$(ls "$tmpdir/elsewhere")" ] || fail "there is a log"
verify
rm -f "$image"
make_image "$image" $cluster 2 200M
serve "$image" control="$control" pending-log="$tmpdir/elsewhere"
client <<'END'
h.pwrite(b"x" * 512, 0)
h.pwrite(b"x" * 512, 100 << 20)
END
expect_status write-back
serve_stop
serve "$image" control="$control" pending-log=off
expect_status off
serve_stop
serve "$image" control="$control" lock=off
expect_status write-back
serve_stop

echo "the log is replayed, once"
change
[ "$(stat -c %a "$(log_of "$image")")" = 600 ] || fail "others may read the log"
qedctl info --json "$image" | jq -e '."pending-records" > 0' >/dev/null ||
    fail "qedctl info says nothing of the log"
qedctl check "$image" > "$tmpdir/check.out" 2>&1 || :
grep -q "acknowledged changes wait" "$tmpdir/check.out" ||
    fail "qedctl check says nothing of the log"
look there
[ ! -e "$(log_of "$image")" ] || fail "the log was not removed"
look there

echo "qedctl check --repair replays it"
change
qedctl check --repair "$image" >/dev/null 2>&1 || :
need_check "$image" && fail "not repaired"
look there

echo "another program opened the image"
change
qemu-io -f qed -c "read 0 512" "$image" >/dev/null
look gone
change
qemu-img check -q -r all -f qed "$image" || :
look gone
change
qemu-io -r -f qed -c "read 0 512" "$image" >/dev/null 2>&1 || :
look there

echo "the machine was started anew"
change
at=$(printf %d "0x$("$PYTHON" - "$(log_of "$image")" <<'END'
import sys, uuid
boot = uuid.UUID(open("/proc/sys/kernel/random/boot_id").read().strip()).bytes
print("%x" % open(sys.argv[1], "rb").read().index(boot))
END
)")
poke $at
look gone

echo "a damaged log; one that is too short; another image's; none"
change
poke 4100
look gone
change
truncate -s 5000 "$(log_of "$image")"
look gone
change
cp "$image" "$tmpdir/other.qed"
cp "$(log_of "$image")" "$(log_of "$tmpdir/other.qed")"
chmod 600 "$(log_of "$tmpdir/other.qed")"
mv "$tmpdir/other.qed" "$image"
look gone
change
rm "$(log_of "$image")"
ln -s /etc/passwd "$(log_of "$image")"
look gone

echo "QEMU connects anew, and does not notice"
rm -f "$image"
make_image "$image" 65536 2 64M
serve "$image" clean-after=0
disk="json:{\"driver\": \"raw\", \"file\": {\"driver\": \"nbd\",
      \"reconnect-delay\": 60,
      \"server\": {\"type\": \"unix\", \"path\": \"$sock\"}}}"
timeout 60 qemu-io -t unsafe -c "write -P 1 0 5M" -c "write -z 1M 1M" \
    -c "sleep 3000" -c "read -P 1 0 1M" -c "read -P 0 1M 1M" \
    -c "write -P 2 4M 2M" -c "read -P 1 2M 2M" -c "read -P 2 4M 2M" \
    "$disk" > "$tmpdir/io.out" 2>&1 &
worker=$!
sleep 1.5
serve_kill
serve "$image" clean-after=0
wait $worker || fail "QEMU noticed the kill"
grep -qi "fail\|error" "$tmpdir/io.out" && fail "$(cat "$tmpdir/io.out")"
serve_stop

echo "a client that connects anew does not notice"
rm -f "$image"
make_image "$image" 65536 2 64M
serve "$image" clean-after=0
start_nbdkit -P "$tmpdir/proxy.pid" -U "$tmpdir/proxy" --filter=retry \
    nbd socket="$sock" retry-delay=1 retry-exponential=no retries=30
model_test --seed 9 --seconds 6 --connections 4 --max-count 300K \
    --cluster-size 65536 --table-size 2 --zero --trim \
    "nbd+unix:///?socket=$tmpdir/proxy" &
worker=$!
for i in 1 2; do
    sleep 1.5
    serve_kill
    serve "$image" clean-after=0
done
wait $worker || fail "the client noticed a kill"
stop_nbdkit "$tmpdir/proxy.pid"
serve_stop
walk_free_image "$image"
