# SPDX-License-Identifier: LGPL-2.1-or-later

# What the scenarios share; they run in the guest, under busybox's shell with
# 'set -e'.  The host sets, in /guest/env:
#   GUEST_SCENARIO  the scenario's name, for the markers
#   GUEST_PORT      where the server listens on the host's loopback
#   GUEST_EXPORT    the export's name
# and leaves the checksums of the files that a scenario should write in
# /guest/sums.

device=/dev/nbd0
mountpoint=/mnt

# The file is there while the device has a connection.
attached ()
{
  [ -e /sys/block/nbd0/pid ]
}

fail ()
{
  echo "$GUEST_SCENARIO: $*"
  exit 1
}

# Wait up to 20 s until a command succeeds.
wait_until ()
{
  local tries=100

  until "$@"; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || return 1
    sleep 0.2
  done
}

not ()
{
  ! "$@"
}

# attach [nbd-client's options]
attach ()
{
  nbd-client -N "$GUEST_EXPORT" "$@" 10.0.2.2 "$GUEST_PORT" $device
  wait_until attached || fail "$device was not attached"
}

# The kernel sends what it has, and a disconnect to the server.
detach ()
{
  nbd-client -d $device
  wait_until not attached || fail "$device was not detached"
}

# Connections to the server that are open.
connections ()
{
  netstat -tn | grep -c ":$GUEST_PORT .*ESTABLISHED"
}

# Write the tree of files that the host knows the checksums of.
# write_files SEED NAME MEBIBYTES
write_files ()
{
  mkdir -p $mountpoint/"$2"/small
  awk -v seed="$1" -v mebibytes="$3" -v directory=$mountpoint/"$2" \
      -f /guest/generate
}

# All files of /guest/sums, read from the device and not from the cache.
verify_files ()
{
  local sums=${1:-/guest/sums}

  echo 3 >/proc/sys/vm/drop_caches
  (cd $mountpoint && sha256sum -c "$sums" >/tmp/verified 2>&1) || {
    grep -v ': OK$' /tmp/verified | head -n 20
    fail "files have the wrong content"
  }
  echo "$GUEST_SCENARIO: $(grep -c ': OK$' /tmp/verified) files verified"
}

check_filesystem ()
{
  e2fsck -fn $device || fail "e2fsck found errors"
}

# An error that a retry or the file system hid is an error nevertheless.
no_kernel_errors ()
{
  local errors='I/O error|EXT4-fs (error|warning)|nbd0: .*(fail|timed out)'

  if dmesg | grep -E "$errors"; then
    fail "the kernel met errors"
  fi
}

# Tell the host something, and wait for its answer.
ask_host ()
{
  local answer

  printf '\nGUEST-ASK %s\n' "$1"
  read -r answer </dev/console
  [ "$answer" = "$1" ] || fail "the host answered '$answer' to '$1'"
}
