#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# A Linux guest attaches a served image with nbd-client and keeps a file
# system on it: with one connection, with two, and across a restart of the
# server.  What the guest wrote is then verified on the host without it: over
# NBD, and in the image itself.
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

requires qemu-system-x86_64
requires qemu-img
requires nbdcopy
requires nbdinfo
requires e2fsck
requires debugfs

server=${VM_SERVER:-qed}
scenarios=${VM_SCENARIOS:-single multi restart}
pidfile=$tmpdir/pid
vm_source=$srcdir/vm
vm_cache=${VM_CACHE:-$abs_top_builddir/tests/vm/cache}
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
  start_nbdkit -P "$pidfile" -i 127.0.0.1 -p "$port" "$server" "file=$image"
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
  local features

  [ "$server" = qed ] || return 0
  features=$(od -A n -t u1 -j 16 -N 1 "$image")
  [ $((features & 2)) -eq 0 ] || fail "$image: NEED_CHECK is set"
  qemu-img check -f qed "$image"
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
verify_both ()
{
  verify_export
  stop_server
  verify_image
  [ "$server" = qed ] || return 0
  qemu-img convert -f qed -O raw "$image" "$tmpdir/converted"
  cmp "$tmpdir/copy" "$tmpdir/converted"
}

scenario_single ()
{
  make_image single 512M 65536 4
  expect_files 2 files 32
  serve_image
  run_guest single "$port" "$export_name" 150
  verify_both
}

scenario_multi ()
{
  # Smaller tables: eight of them, so that writers meet in them and apart.
  make_image multi 512M 16384 2
  expect_files 1 one 16
  expect_files 2 two 16
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
  expect_files 1 before 8
  expect_files 2 after 8
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

build_guest
port=$("$PYTHON" -c 'import socket
s = socket.socket ()
s.bind (("127.0.0.1", 0))
print (s.getsockname ()[1])')
for scenario in $scenarios; do
  rm -f "$tmpdir/sums"
  scenario_$scenario
done
