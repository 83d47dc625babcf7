#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# What can't be served makes nbdkit end with one line that says why, before it
# becomes a daemon, and is not changed.  What is damaged inside is served as
# far as it goes: what can't be trusted reads as an error, and nothing is
# written.  (test-bad-header.sh goes through the header field by field.)

. ./functions.sh
set -e

requires qemu-img --version
requires qemu-io --version

cd "$tmpdir"
nbdkit=$abs_top_builddir/nbdkit

# poke FILE OFFSET HEX...
poke ()
{
  printf "$(printf '\\x%s' "${@:3}")" |
    dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none
}

# refused PATTERN FILE: as a daemon, for writing and with -r.
refused ()
{
  local r readonly

  for readonly in "" -r; do
    r=0
    rm -f pid
    timeout 30 $without "$nbdkit" $readonly -U sock -P pid qed "$2" \
            >out 2>err </dev/null || r=$?
    if [ $r -eq 0 ]; then sleep 1; fi
    if [ -s pid ]; then
      kill "$(cat pid)"
      fail "$2 ($1): became a daemon"
    fi
    if [ $r -eq 0 ] || [ $r -ge 124 ] || [ -s out ] ||
         [ "$(wc -l <err)" -ne 1 ] || ! grep -q -- "$1" err ||
         ! grep -qF -- "$2" err; then
      cat out err
      fail "$2: nbdkit $readonly: exit $r; expected 1 and one line with '$1'"
    fi
  done
}
without=

# bad PATTERN OFFSET HEX...: a good image with these bytes.
bad ()
{
  cp good.qed bad.qed
  poke bad.qed "${@:2}"
  cp bad.qed before
  refused "$1" bad.qed
  cmp bad.qed before
}

qedctl create good.qed 1G
qemu-io -f qed -c 'write -P 1 0 64k' -c 'write -P 2 512M 64k' good.qed >out

# ---- The header ----

bad 'magic'                                  0 51 45 44 01
bad 'cluster_size (offset 0x4) is 0'         4 00 00 00 00
bad 'cluster_size (offset 0x4) is 2147'      4 00 00 00 80
bad 'table_size (offset 0x8) is 3'           8 03
bad 'header_size (offset 0xc) is 4294967295' 12 ff ff ff ff
bad 'features (offset 0x10)'                 16 08
bad 'l1_table_offset (offset 0x28) is 0x0'   40 00 00 00 00 00 00 00 00
bad 'l1_table_offset.*is 0x40000000'         40 00 00 00 40
bad 'l1_table_offset.*is 0xffffffffffff0000' 40 00 00 ff ff ff ff ff ff
bad 'image_size (offset 0x30) is 1073741825' 48 01
bad 'image_size (offset 0x30) is 18446744'   48 00 fe ff ff ff ff ff ff

# The backing file is not there.
cp good.qed base.qed
qemu-img create -q -f qed -b base.qed -F qed bad.qed
rm base.qed
cp bad.qed before
refused 'cannot open the backing file' bad.qed
cmp bad.qed before

# ---- Cut, or no image at all ----

for length in 0 1 63 64 65536 327679; do
  head -c $length good.qed >bad.qed
  cp bad.qed before
  refused 'not a QED image\|header_size\|l1_table_offset' bad.qed
  cmp bad.qed before
done
echo 'hello, this is a text file of more than sixty-four bytes, is it not?' >t
refused 'not a QED image' t
qemu-img create -q -f qcow2 q.qcow2 1M
refused 'not a QED image' q.qcow2
mkdir directory
refused 'directory' directory
mkfifo fifo
refused 'FIFO' fifo
refused 'character device' /dev/zero
refused 'No such file' nothing
refused 'No such file' nothing/at/all
refused 'Not a directory' good.qed/x
ln -s loop loop
refused 'symbolic links' loop
refused 'too long' "$(printf 'x%.0s' {1..300})"

# A name with a newline does not make two lines of one.
r=0
"$nbdkit" -U sock qed $'no\nsuch' 2>err || r=$?
test $r -ne 0
test "$(wc -l <err)" -eq 1

# Not readable: root may read all, unless it gives that up.
cp good.qed bad.qed
chmod 0 bad.qed
if [ "$(id -u)" -eq 0 ]; then
  without="setpriv --bounding-set=-dac_override,-dac_read_search
                   --inh-caps=-dac_override,-dac_read_search"
fi
if ! $without cat bad.qed >/dev/null 2>&1 && $without true 2>/dev/null; then
  refused 'Permission denied' bad.qed
fi
without=
chmod 600 bad.qed

# ---- Damage inside ----

uri="nbd+unix:///?socket=$tmpdir/sock"

# client FILE COMMAND...: what qemu-io says.
client ()
{
  timeout 60 qemu-io -t unsafe -f raw "${@:2}" "$uri" >"$1" 2>&1 || :
}

# damaged NAME OFFSET HEX...: the first half gigabyte (what the first entry of
# a table leads to) is an error, the rest is there, and nothing is written.
damaged ()
{
  cp good.qed bad.qed
  poke bad.qed "${@:2}"
  cp bad.qed before
  rm -f sock
  start_nbdkit -P pid -U sock qed bad.qed 2>log
  client out -r -c 'read 0 64k'
  grep -q 'read failed: Input/output error' out ||
    { cat out; fail "$1: no error"; }
  if [ "$1" != table ]; then
    client out -r -c 'read -P 2 512M 64k'
    if grep -i failed out; then fail "$1: another cluster is lost"; fi
  fi
  client out -c 'write -P 9 700M 64k' -c 'write -P 9 0 64k' -c flush
  if grep '^wrote' out; then fail "$1: a write was accepted"; fi
  stop_nbdkit pid
  grep -q 'bad.qed: damaged: ' log || { cat log; fail "$1: nothing is said"; }
  cmp bad.qed before || fail "$1: the image was changed"
}

l1=$(($(od -A n -t u8 -j 40 -N 8 good.qed)))
l2=$(($(od -A n -t u8 -j $l1 -N 8 good.qed)))
data=$(($(od -A n -t u8 -j $l2 -N 8 good.qed)))
test $l2 -gt 0
test $data -gt 0

# bytes NUMBER: as eight little-endian ones.
bytes ()
{
  printf "%016x" "$1" | sed 's/\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)\(..\)/\8 \7 \6 \5 \4 \3 \2 \1/'
}

# The undamaged one takes that very write: the test can tell.
cp good.qed bad.qed
rm -f sock
start_nbdkit -P pid -U sock qed bad.qed
client out -c 'write -P 9 700M 64k' -c 'write -P 9 0 64k' -c flush
test "$(grep -c '^wrote' out)" -eq 2
stop_nbdkit pid

damaged 'entry into L1'          $l2 $(bytes $l1)
damaged 'entry into an L2 table' $l2 $(bytes $l2)
damaged 'entry misaligned'       $l2 $(bytes $((data + 0x1000)))
damaged 'entry with low bits'    $l2 $(bytes $((data + 8)))
damaged 'entry past the end'     $l2 $(bytes $((data + (1 << 40))))
damaged 'entry at 2^64'          $l2 $(bytes -65536)
damaged table                    $l1 $(bytes $l1)
damaged table                    $l1 $(bytes $((l2 + 0x1000)))
damaged table                    $l1 $(bytes $((1 << 50)))
damaged table                    $l1 $(bytes -65536)
damaged table                    $l1 $(bytes 1)
