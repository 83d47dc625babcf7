#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Export names are strict: "" and the file's name are the disk, any other is
# refused.  What the export says of itself is what clients of ours look for.

. ./functions.sh
set -e

requires nbdinfo --version
requires jq --version

cd "$tmpdir"
mkdir images
qedctl create images/disk.qed 1M
ln -s disk.qed images/other.qed

# serve ARGUMENT...: nbdkit on $tmpdir/sock.
serve ()
{
  rm -f sock
  start_nbdkit -P pid -U sock "$@"
}

# uri NAME: percent-encoded by the caller.
uri ()
{
  echo "nbd+unix:///$1?socket=$tmpdir/sock"
}

# served NAME
served ()
{
  test "$(nbdinfo --size "$(uri "$1")")" = 1048576 ||
    fail "the export \"$1\" is not served"
}

# refused NAME LOGGED-AS
refused ()
{
  local lines

  lines=$(wc -l <log)
  if nbdinfo --size "$(uri "$1")" >out 2>&1; then
    fail "the export \"$1\" is served"
  fi
  tail -n +$((lines + 1)) log >new
  grep -qF "there is no export \"$2\"; use \"disk.qed\" or \"\"" new ||
    { cat new; fail "no line says why \"$1\" is refused"; }
  # Whatever the name: no line is made of the client's words.
  if grep -v '^nbdkit: ' new; then
    fail "the name \"$1\" got a line of its own"
  fi
}

serve qed images/disk.qed 2>log

served ""
served disk.qed
refused other 'other'
refused disk 'disk'
refused disk.qed2 'disk.qed2'
refused DISK.QED 'DISK.QED'
refused images%2Fdisk.qed 'images/disk.qed'
refused %2Fdisk.qed '/disk.qed'
refused other.qed 'other.qed'
refused qed-control 'qed-control'
refused %20disk.qed ' disk.qed'
refused disk.qed%0Anbdkit%3A%20hello 'disk.qed?nbdkit: hello'
refused "$(printf 'x%.0s' {1..4000})" "$(printf 'x%.0s' {1..79})"

# The default export has the name, the list has just this one.
nbdinfo --json "$(uri "")" >json
test "$(jq -r '.exports[0]["export-name"]' json)" = disk.qed
test "$(jq -r '.exports[0].description' json)" = "nbdkit-qed disk"
nbdinfo --list --json "$(uri "")" >json
test "$(jq '.exports | length' json)" = 1
test "$(jq -r '.exports[0]["export-name"]' json)" = disk.qed
test "$(jq -r '.exports[0].description' json)" = "nbdkit-qed disk"

# What it can do.
nbdinfo --json "$(uri disk.qed)" | jq '.exports[0]' >json
for fact in is_rotational:false is_read_only:false can_flush:true \
            can_fua:true can_multi_conn:true can_trim:true can_zero:true \
            can_fast_zero:true can_cache:true block_size_minimum:1 \
            block_size_preferred:65536 block_size_maximum:33554432; do
  test "$(jq ".${fact%:*}" json)" = "${fact#*:}" ||
    fail "${fact%:*} is $(jq ".${fact%:*}" json), not ${fact#*:}"
done
stop_nbdkit pid

# The name that was given counts, not what a link leads to.
serve qed images/other.qed
served ""
served other.qed
if nbdinfo --size "$(uri disk.qed)" >out 2>&1; then
  fail "the name behind the link is served"
fi
stop_nbdkit pid

# The preferred size is the cluster's, within 4K and 64K.
for size in 4096:4096 8192:8192 1048576:65536; do
  qedctl create --force --cluster-size ${size%:*} images/disk.qed 1M
  serve qed images/disk.qed
  test "$(nbdinfo --json "$(uri "")" |
            jq '.exports[0].block_size_preferred')" = ${size#*:}
  stop_nbdkit pid
done
