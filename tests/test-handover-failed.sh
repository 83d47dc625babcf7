#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# An image whose storage has failed (a sync did) is released: nothing is written
# any more, NEED_CHECK stays set, the lock is dropped, and qedctl says so with
# exit status 1.  The standby takes over, and repairs.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/handover.sh"

requires jq --version
requires qemu-io --version
requires strace -qq -o /dev/null -e inject=fdatasync:error=EIO true
[ -z "$SANITIZER" ] || skip "strace and sanitizers get in each other's way"

make_image "$image" 65536 4 100M
start a clean-after=0
nbd_io a "write -P 1 0 1M" flush "write -P 2 10M 1M"
pid=$(cat "$tmpdir/a.pid")
strace -qq -f -p "$pid" -o "$tmpdir/strace" \
    -e trace=fdatasync,pwrite64,ftruncate,fallocate \
    -e inject=fdatasync:error=EIO &
strace=$!
# It is attached to all threads when the last is traced.
for i in {1..100}; do
    traced=$(grep -L "^TracerPid:.0$" /proc/$pid/task/*/status | wc -l)
    [ "$traced" -ne "$(ls /proc/$pid/task | wc -l)" ] || break
    sleep 0.1
done
! ctl a flush 2>/dev/null || fail "the flush did not fail"
[ "$(ctl a status --json | jq -r '.images[0].state')" = failed ] ||
    fail "the image has not failed"
: > "$tmpdir/strace"
cp "$image" "$tmpdir/before.qed"
ctl a release > "$tmpdir/out" 2>&1 && fail "the release succeeds" || status=$?
[ $status -eq 1 ] || fail "exit status $status"
grep -q "not everything could be written" "$tmpdir/out" || fail "no reason"
expect_state a released
kill $strace
wait $strace || :
! grep -q "pwrite\|ftruncate\|fallocate" "$tmpdir/strace" ||
    { cat "$tmpdir/strace"; fail "a failed image is written to"; }
expect_untouched
need_check "$image" || fail "NEED_CHECK was cleared"
start b standby=on
within 5 open b
nbd_io b "read -P 1 0 1M"
stop a
stop b
expect_no_corruption
