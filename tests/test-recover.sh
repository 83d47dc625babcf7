#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# An image that was not closed cleanly: what is certain is repaired when it is
# opened, and nothing where anything is not.

. ./functions.sh
set -e

requires nbdinfo --version
requires qemu-img --version
requires qemu-io --version
requires python3 --version

cd "$tmpdir"
. "$srcdir/serve.sh"

# The image's parts, at clusters of 64 KiB: L1 at 0x10000, the first table at
# 0x50000, data from 0x90000 on.
new_image ()
{
  rm -f disk.qed disk.qed.undo* before.qed
  qedctl create disk.qed 16G "$@"
  serve disk.qed backing=any
  qemu-io -f raw "$uri" -c 'write -P 7 0 64k' -c 'write -P 8 1M 64k' \
          -c 'write -P 9 4G 64k' >out
  serve_stop
  qemu-img check -q -f qed disk.qed
}

# Set NEED_CHECK.
mark ()
{
  poke 16 $(($(header_field disk.qed 16 8) | 2))
}

# poke OFFSET VALUE
poke ()
{
  python3 - "$1" "$2" <<'PY'
import struct, sys
f = open("disk.qed", "r+b")
f.seek(int(sys.argv[1], 0))
f.write(struct.pack("<Q", int(sys.argv[2], 0)))
PY
}

# run PARAMETER ...: serve it, and leave what nbdinfo says in 'out'.
run ()
{
  serve disk.qed "$@" 2>log
  nbdinfo "$uri" >out
  qemu-io -r -f raw "$uri" -c 'read -P 7 0 64k' -c 'read -P 8 1M 64k' \
          -c 'read -P 9 4G 64k' >read
  if grep failed read; then fail "the content is another"; fi
  serve_stop
}

# Nothing is wrong: writable at once, the mark goes.
new_image
mark
run
grep -q 'is_read_only: false' out
grep -q 'disk.qed: NEED_CHECK is set' log
if need_check disk.qed; then fail "the mark stayed"; fi
qemu-img check -q -f qed disk.qed
if [ -e disk.qed.undo ]; then fail "an undo file was made"; fi

# Clusters that nobody refers to, and a tail: not there any more.
new_image
truncate -s +10M disk.qed
mark
run
if need_check disk.qed; then fail "the mark stayed"; fi
qemu-img check -q -f qed disk.qed

# A cluster that nobody refers to, between others, and holds data in two places:
# all of it is given back.
new_image
poke $((0x50000 + 8 * 16)) 0
for i in 1 9; do
  fallocate -p -o $((0xa0000 + i * 4096)) -l 16384 disk.qed
done
mark
serve disk.qed 2>log
nbdinfo "$uri" >out
serve_stop
grep -q '32768 bytes were given back' log || { cat log; fail "another leak"; }
qedctl check disk.qed >out || { cat out; fail "a part of a cluster leaks"; }

# Entries beyond the end, of L1 and of a table: dropped, logged, saved.
new_image
poke $((0x10000 + 8 * 7)) 0x7f000000
poke $((0x50000 + 8 * 100)) 0x7e000000
mark
cp disk.qed before.qed
run
grep -q 'is_read_only: false' out
if need_check disk.qed; then fail "the mark stayed"; fi
grep -q 'l1-entry-past-end' log
grep -q 'l2-entry-past-end.*0x7e000000' log
qemu-img check -q -f qed disk.qed
[ -s disk.qed.undo ]
python3 - <<'PY'
before, now = open("before.qed", "rb").read(), open("disk.qed", "rb").read()
changed = {i & ~7 for i in range(len(now)) if before[i] != now[i]}
assert changed == {16, 0x10000 + 8 * 7, 0x50000 + 8 * 100}, changed
PY

# An older undo file is kept.
cp disk.qed.undo older
poke $((0x50000 + 8 * 101)) 0x7e000000
mark
run
cmp disk.qed.undo older
[ -s disk.qed.undo.1 ]

# untouched CODE: it is served read-only, the code named, no byte changed.
untouched ()
{
  cp disk.qed before.qed
  run "${@:2}"
  grep -q "is_read_only: true" out || fail "$1: not read-only"
  grep -q "disk.qed: damaged: $1" log || { cat log; fail "$1: not named"; }
  cmp disk.qed before.qed || fail "$1: it was changed"
  if [ -e disk.qed.undo ]; then fail "an undo file was made"; fi
}

# The same on an image that is clean: a copy of it may be on its way.
new_image
poke $((0x50000 + 8 * 100)) 0x7e000000
untouched l2-entry-past-end

# And with a backing file: no crash leaves such an entry there.
truncate -s 16G base.raw
new_image --backing base.raw --backing-format raw
poke $((0x50000 + 8 * 100)) 0x7e000000
mark
untouched l2-entry-past-end
# But behind the backing file's end it is certain.
truncate -s 2M base.raw
run
grep -q 'is_read_only: false' out
if need_check disk.qed; then fail "the mark stayed"; fi

# What is not certain, with something beside it that would be.
for value in 0x90000 0x90200 0x90001 0x10000 0x50000; do
  new_image
  poke $((0x50000 + 8 * 100)) $value
  poke $((0x50000 + 8 * 101)) 0x7e000000
  mark
  case $value in
  0x90000) untouched cluster-shared
           grep -q 'cluster-shared: .*+0x10000, and another$' log ;;
  0x90200) untouched l2-entry-reserved-bits ;;
  0x90001) untouched l2-entry-reserved-bits ;;
  *) untouched entry-into-table ;;
  esac
  grep -q 'damaged: l2-entry-past-end' log
done

# check=never: neither looked at nor changed.  -r: as it is.
new_image
mark
cp disk.qed before.qed
run check=never
grep -q 'is_read_only: true' out
cmp disk.qed before.qed
run -r
cmp disk.qed before.qed

# check=always names what is wrong with an image that is only read.
new_image
poke $((0x50000 + 8 * 101)) 0x7e000000
cp disk.qed before.qed
run -r check=always
grep -q 'damaged: l2-entry-past-end' log
cmp disk.qed before.qed
