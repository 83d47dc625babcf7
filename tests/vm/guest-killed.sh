# SPDX-License-Identifier: LGPL-2.1-or-later

# The server is killed while files are being written.  After attaching anew the
# journal is replayed, all that was synced is there, and the file system is
# whole and can be written to.

# QEMU's user network may hide from the kernel that the server is gone.
attach -timeout 15
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 $device
mount -t ext4 $device $mountpoint
write_files 1 before 4
sync
no_kernel_errors

# Each tree is synced, so that flushes are under way, too.
write_on ()
{
  local n=0

  while [ ! -e /tmp/enough ]; do
    n=$((n + 1))
    write_files $n during/$n 1 && sync || return 0
  done
}

write_on 2>/dev/null &
writer=$!
sleep 2
ask_host kill
>/tmp/enough
wait $writer || true

umount $mountpoint 2>/dev/null || true
nbd-client -d $device 2>/dev/null || true
wait_until not attached || fail "$device kept its dead connection"
dmesg -c >/dev/null

attach
mount -t ext4 $device $mountpoint
dmesg | grep -q "EXT4-fs (nbd0): recovery complete" ||
  fail "there was no journal to replay: the server was killed too late"
grep ' before/' /guest/sums >/tmp/sums
verify_files /tmp/sums
umount $mountpoint
check_filesystem

mount -t ext4 $device $mountpoint
rm -rf $mountpoint/during
write_files 2 after 4
umount $mountpoint
check_filesystem
mount -t ext4 -o ro $device $mountpoint
verify_files
umount $mountpoint
detach
