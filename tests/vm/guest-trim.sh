# SPDX-License-Identifier: LGPL-2.1-or-later

# What is deleted goes back to the host: as ext4 deletes it (-o discard), and
# by fstrim.  On an empty disk, and on one over a backing file, whose files
# stay what they are.  At each step the host looks at its image.

discards_offered ()
{
  [ "$(cat /sys/block/nbd0/queue/discard_max_bytes)" -gt 0 ]
}

fill_and_delete ()
{
  dd if=/dev/zero of=$mountpoint/deleted bs=1M count=12 2>/dev/null
  sync
  ask_host "$1-written"
  rm $mountpoint/deleted
  sync
  ask_host "$1-deleted"
}

# Prints how many bytes were trimmed, which must be some.
trim_free_space ()
{
  local bytes

  bytes=$(fstrim -v $mountpoint |
            sed -n 's/^.*[^0-9]\([0-9][0-9]*\) bytes.*$/\1/p')
  echo "$GUEST_SCENARIO: fstrim: $bytes bytes"
  [ "${bytes:-0}" -gt 0 ] || fail "fstrim trimmed nothing"
}

# use_disk empty|over: the file system is there; its files' checksums are in
# /tmp/sums.
use_disk ()
{
  # The inode tables would be written in the background, 16 MiB of zeros.
  mount -t ext4 -o discard,noinit_itable $device $mountpoint
  write_files 1 kept 2
  rm -rf $mountpoint/gone
  fill_and_delete "$1-discard"
  mount -o remount,nodiscard,noinit_itable $mountpoint
  fill_and_delete "$1-fstrim"
  trim_free_space
  ask_host "$1-trimmed"
  umount $mountpoint
  detach

  attach
  check_filesystem
  mount -t ext4 -o ro $device $mountpoint
  verify_files /tmp/sums
  umount $mountpoint
  detach
}

attach
wait_until discards_offered || fail "the server offers no discards"
mkfs.ext4 -q -F $device
grep ' kept/' /guest/sums >/tmp/sums
use_disk empty

GUEST_EXPORT=over-${GUEST_EXPORT#empty-}
attach
cp /guest/sums /tmp/sums
use_disk over
no_kernel_errors
