#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# A Linux guest attaches a served image with nbd-client and keeps a file
# system on it: with one connection, with two, across a restart of the server,
# after the server was killed, and with discards, also over a backing file.
# What the guest wrote is then verified on the host without it: over NBD, and in
# the image itself.
#
# VM_SERVER=file serves a raw file with nbdkit's file plugin instead, which
# tells whether a failure is the server's or the test's.  VM_SCENARIOS names
# the scenarios to run.  VM_CACHE is where the guest is built and kept.

set -e
set -o pipefail

# The guest's processor is emulated, and the host may be busy.
if [ -z "$VM_TEST_STARTED" ]; then
  export VM_TEST_STARTED=1
  exec timeout --foreground -k 40 400 "$BASH" "$0" "$@"
fi

. ./functions.sh
. "$srcdir/serve.sh"            # how an image is judged

requires qemu-system-x86_64
requires qemu-img
requires nbdcopy
requires nbdinfo
requires e2fsck
requires mkfs.ext4
requires debugfs
requires jq

server=${VM_SERVER:-qed}
scenarios=${VM_SCENARIOS:-single multi restart killed trim}
vm_source=$srcdir/vm
vm_cache=${VM_CACHE:-$abs_top_builddir/tests/vm/cache}
vm_requests=$tmpdir/requests
. "$vm_source/functions.sh"

# make_image NAME SIZE CLUSTER-SIZE TABLE-SIZE
make_image ()
{
  if [ "$server" = file ]; then
    image=$tmpdir/$1.raw
    truncate -s "$2" "$image"
  else
    image=$tmpdir/$1.qed
    qemu-img create -q -f qed -o "cluster_size=$3,table_size=$4" "$image" "$2"
  fi
  export_name=${image##*/}
}

# Only the loopback is served: the guest's user network ends there.
serve_image ()
{
  start_nbdkit -P "$pidfile" -i 127.0.0.1 -p "$port" --filter=log \
               "$server" "file=$image" \
               "logfile=$vm_requests" logappend=true
}

# Stop the server as an administrator does, whether clients are attached or
# not.  An idle one needs two seconds at most; a busy host gets ten.
stop_server ()
{
  local start=$SECONDS

  stop_nbdkit "$pidfile" || fail "the server ended with status $?"
  [ $((SECONDS - start)) -le 10 ] ||
    fail "an idle server took $((SECONDS - start)) s to stop"
}

# The stopped server has left an image that is clean and free of leaks.
verify_image ()
{
  [ "$server" = qed ] || return 0
  walk_free_image "$image"
}

# The host's view of what the guest wrote, over NBD.
verify_export ()
{
  timeout 100 nbdcopy "nbd://127.0.0.1:$port/$export_name" "$tmpdir/copy"
  e2fsck -fn "$tmpdir/copy"
  rm -rf "$tmpdir/files"
  mkdir "$tmpdir/files"
  # debugfs complains where only root may set the owner.
  debugfs -R "rdump / $tmpdir/files" "$tmpdir/copy" 2>"$tmpdir/debugfs"
  rm -rf "$tmpdir/files/lost+found"
  (cd "$tmpdir/files" && sha256sum --quiet -c "$tmpdir/sums") || {
    cat "$tmpdir/debugfs"
    fail "$export_name: the host reads other files than the guest wrote"
  }
  # Nor is there anything that the guest had deleted.
  diff <(cd "$tmpdir/files" && find . -type f | sed 's,^\./,,' | sort) \
       <(sed 's/^[^ ]*  //' "$tmpdir/sums" | sort)
}

# The same again from the image alone, read by a program that isn't ours.
verify_content ()
{
  verify_image
  [ "$server" = qed ] || return 0
  qemu-img convert -f qed -O raw "$image" "$tmpdir/converted"
  cmp "$tmpdir/copy" "$tmpdir/converted"
}

verify_both ()
{
  verify_export
  stop_server
  verify_content
}

scenario_single ()
{
  make_image single 512M 65536 4
  expect_files 2 files 12
  serve_image
  run_guest single "$port" "$export_name" 150
  verify_both
}

scenario_multi ()
{
  # Smaller tables: eight of them, so that writers meet in them and apart.
  make_image multi 512M 16384 2
  expect_files 1 one 8
  expect_files 2 two 8
  serve_image
  nbdinfo --can multi-conn "nbd://127.0.0.1:$port/$export_name" ||
    fail "the server does not offer several connections"
  run_guest multi "$port" "$export_name" 150 2
  verify_both
}

scenario_restart ()
{
  # A small device gets blocks of 1 KiB: most requests are partial clusters.
  make_image restart 128M 65536 2
  expect_files 1 before 4
  expect_files 2 after 4
  serve_image
  start_guest restart "$port" "$export_name" 150
  wait_for_guest restart
  if [ "$server" = file ]; then
    # nbdkit alone waits for its clients to leave, however idle they are.
    kill_nbdkit "$pidfile"
  else
    stop_server
  fi
  verify_image
  serve_image
  answer_guest restart
  finish_guest
  verify_both
}

scenario_killed ()
{
  make_image killed 128M 65536 4
  expect_files 1 before 4
  expect_files 2 after 4
  serve_image
  start_guest killed "$port" "$export_name" 150
  wait_for_guest kill
  kill_nbdkit "$pidfile"
  [ "$server" = file ] || need_check "$image" ||
    fail "NEED_CHECK is not set after kill -9"
  serve_image
  answer_guest kill
  finish_guest
  verify_export
  stop_server
  [ "$server" = qed ] || return 0
  # What was lost at the kill became holes, which QEMU calls leaks.
  qemu-img check -f qed --output=json "$image" >"$tmpdir/check.json" || true
  [ "$(jq '.["check-errors"] + (.corruptions // 0)' \
         <"$tmpdir/check.json")" = 0 ] || {
    cat "$tmpdir/check.json"
    fail "QEMU finds corruptions"
  }
}

# A backing file with a file system that has the trees base and gone.
make_base_disk ()
{
  local name

  for name in base gone; do
    mkdir -p "$tmpdir/tree/$name/small"
    awk -v seed=4 -v mebibytes=4 -v directory="$tmpdir/tree/$name" \
        -f "$vm_source/generate.awk"
  done
  mkfs.ext4 -q -F -d "$tmpdir/tree" "$1" 256M
  rm -r "$tmpdir/tree"
}

# Both disks lie in a directory that is served: use_disk empty|over.
use_disk ()
{
  if [ "$server" = file ]; then
    image=$tmpdir/disks/$1-disk.raw
  else
    image=$tmpdir/disks/$1-disk.qed
  fi
  export_name=${image##*/}
}

make_disks ()
{
  mkdir "$tmpdir/disks"
  make_base_disk "$tmpdir/disks/base.img"
  if [ "$server" = file ]; then
    truncate -s 256M "$tmpdir/disks/empty-disk.raw"
    cp "$tmpdir/disks/base.img" "$tmpdir/disks/over-disk.raw"
    return
  fi
  qedctl create "$tmpdir/disks/empty-disk.qed" 256M
  qedctl create "$tmpdir/disks/over-disk.qed" 256M \
    --backing base.img --backing-format raw
}

# How much the guest has asked to discard so far.
bytes_trimmed ()
{
  local count sum=0

  for count in $(sed -n 's/^.* Trim .* count=\(0x[0-9a-f]*\) .*$/\1/p' \
                     "$vm_requests"); do
    sum=$((sum + count))
  done
  echo $sum
}

# The server frees what was discarded at its next write-back:
# wait_for_usage WHAT MOST.
wait_for_usage ()
{
  local i

  for i in {1..200}; do
    if [ "$(disk_usage "$image")" -le "$2" ]; then
      echo "$1: the image takes $(disk_usage "$image") bytes after $i looks"
      return
    fi
    sleep 0.1
  done
  grep -E 'Trim|Flush' "$vm_requests" | tail -n 40
  fail "$1: the image takes $(disk_usage "$image") bytes, more than $2"
}

# ext4 discards when it finds the time, and may leave it: what it has left is
# for fstrim.  wait_for_discards WHAT BYTES-BEFORE.
wait_for_discards ()
{
  local i

  for i in {1..100}; do
    [ $(($(bytes_trimmed) - $2)) -lt $((11 * 1048576)) ] || return 0
    sleep 0.1
  done
  echo "$1: ext4 has discarded only $(($(bytes_trimmed) - $2)) bytes"
  return 1
}

# The guest fills the disk and deletes that, once with discards, once with
# fstrim after it: follow_guest empty|over.
follow_guest ()
{
  local how most trimmed

  use_disk "$1"
  for how in discard fstrim; do
    wait_for_guest "$1-$how-written"
    most=$(($(disk_usage "$image") - 10 * 1048576))
    echo "$1-$how: the image takes $((most + 10 * 1048576)) bytes"
    [ $most -gt 0 ] || fail "$1: the image holds less than was written"
    trimmed=$(bytes_trimmed)
    answer_guest "$1-$how-written"
    wait_for_guest "$1-$how-deleted"
    if [ $how = fstrim ]; then
      [ "$(disk_usage "$image")" -gt $most ] ||
        fail "$1: the image shrank before fstrim"
      answer_guest "$1-$how-deleted"
      wait_for_guest "$1-trimmed"
      wait_for_usage "$1-$how" $most
      answer_guest "$1-trimmed"
    else
      wait_for_discards "$1" $trimmed && wait_for_usage "$1-$how" $most
      answer_guest "$1-$how-deleted"
    fi
  done
}

scenario_trim ()
{
  local parameters=clean-after=1

  [ "$server" = qed ] || parameters=
  make_disks
  sha256sum "$tmpdir/disks/base.img" >"$tmpdir/base-sum"
  expect_files 4 base 4
  expect_files 1 kept 2
  use_disk empty
  start_nbdkit -P "$pidfile" -i 127.0.0.1 -p "$port" --filter=log \
               "$server" "dir=$tmpdir/disks" $parameters \
               "logfile=$vm_requests" logappend=true
  start_guest trim "$port" "$export_name" 150
  follow_guest empty
  follow_guest over
  finish_guest
  sha256sum --quiet -c "$tmpdir/base-sum"

  verify_export
  mv "$tmpdir/copy" "$tmpdir/over-copy"
  grep ' kept/' "$tmpdir/sums" >"$tmpdir/kept"
  mv "$tmpdir/kept" "$tmpdir/sums"
  use_disk empty
  verify_export
  stop_server
  verify_content
  use_disk over
  mv "$tmpdir/over-copy" "$tmpdir/copy"
  verify_content
}

build_guest
port=$("$PYTHON" -c 'import socket
s = socket.socket ()
s.bind (("127.0.0.1", 0))
print (s.getsockname ()[1])')
for scenario in $scenarios; do
  rm -f "$tmpdir/sums" "$vm_requests"
  scenario_$scenario
done
