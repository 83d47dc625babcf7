# SPDX-License-Identifier: LGPL-2.1-or-later

# The server is stopped and started again while a mounted file system is idle.
# The kernel gives up the device; after attaching anew, all that was synced is
# there, and writing goes on.

attach
# Nothing is left for the kernel to initialize in the background: idle is idle.
mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 $device
mount -t ext4 $device $mountpoint
write_files 1 before 4
sync
no_kernel_errors

ask_host restart

# The connection is gone, so that this can't write the superblock.
umount $mountpoint 2>/dev/null || true
nbd-client -d $device 2>/dev/null || true
wait_until not attached || fail "$device kept its dead connection"
dmesg -c >/dev/null

attach
# The journal is replayed here, as after a crash.
mount -t ext4 $device $mountpoint
grep ' before/' /guest/sums >/tmp/sums
verify_files /tmp/sums
write_files 2 after 4
umount $mountpoint
detach

attach
check_filesystem
mount -t ext4 -o ro $device $mountpoint
verify_files
umount $mountpoint
detach
no_kernel_errors
