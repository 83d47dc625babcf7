#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# An image on a block device that held other data: the header and an empty L1
# table are written, nothing else is looked at; a device that is too small or
# in use is refused.

. ./functions.sh
set -e

requires losetup --version
requires qemu-img --version
if [ "$(id -u)" != 0 ]; then
  skip "needs root to make a loop device"
fi

cd "$tmpdir"
tr '\0' '\377' </dev/zero | head -c 2M >disk
loop=$(losetup --show -f disk 2>/dev/null) || skip "cannot make a loop device"
detach ()
{
  losetup -d "$loop"
}
cleanup_fn detach

# Too small for the default's 256 KiB L1 table in larger clusters.
if qedctl create --force --cluster-size 1M "$loop" 1G 2>err; then
  fail "a device too small was accepted"
fi
grep -q "2097152 bytes" err
test "$(wc -l <err)" -eq 1
if qedctl create "$loop" 1G 2>err; then
  fail "a device was overwritten without --force"
fi
tr '\0' '\377' </dev/zero | head -c 2M | cmp - disk

# With --force: QEMU finds an empty image.
qedctl create --force --cluster-size 4K --table-size 2 "$loop" 8M
qedctl info "$loop" | grep -q '^file length: *2 MiB'
sync "$loop"
# It counts all that no table names as leaked (3), but nothing as corrupt.
r=0
qemu-img check -f qed "$loop" >out || r=$?
test $r -eq 3
if grep -i 'corrupt\|error' out; then fail "not a sound image"; fi
test "$(qemu-img map -f qed --output=json "$loop" | grep -c '"data": true')" \
     -eq 0
# Behind the L1 table nothing was touched.
cmp -n $((2048 * 1024 - 12288)) -i 12288:0 disk \
    <(tr '\0' '\377' </dev/zero | head -c 2M)
