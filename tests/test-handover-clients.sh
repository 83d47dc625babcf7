#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Clients that connect anew by themselves see nothing of a hand-over but a
# pause: fio through a proxy, with checksums in all that it writes, and QEMU.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/handover.sh"

requires jq --version
requires qemu-io --version
requires fio --version
fio --enghelp 2>/dev/null | grep -q nbd || skip "fio has no nbd engine"
requires nbdkit --version --filter=retry nbd

link=$tmpdir/link

# ---- fio, through a proxy that connects anew, by a link to the successor ----

make_image "$image" 65536 4 64M
start a on-release=fail
start b standby=on
ln -sfn a.sock "$link"
nbdkit -f -P "$tmpdir/proxy.pid" -U "$tmpdir/proxy.sock" --filter=retry \
    nbd socket="$link" retry-delay=1 retry-exponential=no retries=30 &
proxy=$!
for i in {1..100}; do [ -s "$tmpdir/proxy.pid" ] && break; sleep 0.1; done
(cd "$tmpdir" && timeout 120 fio --name=handover --ioengine=nbd --uri="$(uri_of proxy)" \
    --rw=randrw --bsrange=512-64k --size=60M --io_size=1G --runtime=4 \
    --time_based --iodepth=8 --verify=crc32c --verify_fatal=1 \
    --verify_backlog=256 --verify_state_save=0 --output=fio.out) &
fio=$!
sleep 1
ln -sfn b.sock "$link"
ctl a release >/dev/null
within 5 open b
sleep 1.5                       # the proxy's first second has passed
ln -sfn a.sock "$link"
stop b                          # as at the end of a planned hand-over
ctl a activate >/dev/null
wait $fio || { cat "$tmpdir/fio.out"; fail "fio saw the hand-over"; }
kill -TERM $proxy
wait $proxy || fail "the proxy failed"
stop a
walk_free_image "$image"

# ---- QEMU, which connects anew when it loses the connection ----

rm "$image"
make_image "$image" 65536 4 100M
start a
start b standby=on
ln -sfn a.sock "$link"
{
    for i in {1..30}; do
        echo "aio_write -P $i ${i}M 300k"
        echo "write -P $i $((50 + i))M 64k"
        sleep 0.1
    done
    echo aio_flush
    for i in {1..30}; do
        echo "read -P $i ${i}M 300k"
        echo "read -P $i $((50 + i))M 64k"
    done
} | timeout 60 qemu-io --image-opts \
    driver=raw,file.driver=nbd,file.server.type=unix,file.server.path="$link",file.reconnect-delay=30 \
    > "$tmpdir/qemu.out" 2>&1 &
qemu=$!
sleep 1
ln -sfn b.sock "$link"
ctl a release >/dev/null        # what QEMU asks for waits in a ...
within 5 open b
sleep 0.5
stop a                          # ... which doesn't answer it when it ends
wait $qemu || { cat "$tmpdir/qemu.out"; fail "qemu-io failed"; }
! grep -qi "fail\|error" "$tmpdir/qemu.out" ||
    { cat "$tmpdir/qemu.out"; fail "QEMU saw the hand-over"; }
[ "$(grep -c "read .* bytes at" "$tmpdir/qemu.out")" = 60 ] ||
    { cat "$tmpdir/qemu.out"; fail "QEMU did not read all"; }
stop b
walk_free_image "$image"
