# SPDX-License-Identifier: LGPL-2.1-or-later

# One connection: make a file system, write files, write them again, delete
# some; all is there after detaching and attaching again.

attach
[ "$(connections)" -eq 1 ] || fail "$(connections) connections instead of 1"
mkfs.ext4 -q -F $device
mount -t ext4 $device $mountpoint

write_files 1 files 4
sync
# The same names again: the old blocks are freed, and some reused in place.
write_files 2 files 12
write_files 3 deleted 2
sync
rm -r $mountpoint/deleted

umount $mountpoint
detach

attach
check_filesystem
mount -t ext4 -o ro $device $mountpoint
verify_files
umount $mountpoint
detach
no_kernel_errors
