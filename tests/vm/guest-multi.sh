# SPDX-License-Identifier: LGPL-2.1-or-later

# Two connections, to which the kernel gives one queue a processor: two
# writers at once, one on each, and a flush on one connection must cover what
# went over the other.

# The driver reads each connection in a work item of its own.  Until the kernel
# has two threads for such items, a busy one may give both to its single rescue
# thread, which then never comes to the second connection: requests on that one
# time out after 30 seconds.  An attach before leaves enough threads.
attach
detach

attach -C 2
[ "$(connections)" -eq 2 ] || fail "$(connections) connections instead of 2"
mkfs.ext4 -q -F $device
mount -t ext4 $device $mountpoint

# write_on PROCESSOR-MASK SEED NAME
write_on ()
{
  taskset "$1" sh -e -c ". /guest/functions; write_files $2 $3 8"
}

write_on 1 1 one &
first=$!
write_on 2 2 two &
second=$!
wait $first || fail "the first writer failed"
wait $second || fail "the second writer failed"

umount $mountpoint
detach

# A single connection sees what two wrote.
attach
check_filesystem
mount -t ext4 -o ro $device $mountpoint
verify_files
umount $mountpoint
detach
no_kernel_errors
