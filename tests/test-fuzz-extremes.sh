#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Images that are as large as the format allows in files of a few KiB: tables
# of 1 GiB, 2^27 entries in each, a file of 8 EiB.  Whatever is done with them
# takes seconds, little memory, and no space.

. ./functions.sh
set -e

requires "$PYTHON" --version
requires nbdinfo --version

# On a file system that has files of that size; most have not.
# has_room DIRECTORY
has_room ()
{
  truncate -s $((2 ** 63 - 1)) "$1/long" 2>/dev/null && rm "$1/long"
}
place=$tmpdir
if ! has_room "$place"; then
  place=$(mktemp -d /dev/shm/test-fuzz-extremes.XXXXXX) ||
    skip "there is no /dev/shm"
  cleanup_fn rm -rf "$place"
  has_room "$place" || skip "there is no file system for a file of 8 EiB"
fi
cd "$place"

cat >"$tmpdir/make.py" <<'END'
import os
import struct
import sys

C, T = 1 << 26, 1 << 30                 # clusters and tables
L1 = 1 << 27


def image(path, entries, length, l2=(), features=0, size=1 << 62):
    """A sparse file: L1 entries, L2 entries by their place."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    os.pwrite(fd, struct.pack("<IIIIQQQQQII", 0x00444551, C, 16, 1, features,
                              0, 0, L1, size, 0, 0), 0)
    os.pwrite(fd, struct.pack("<%dQ" % len(entries), *entries), L1)
    for at, value in l2:
        os.pwrite(fd, struct.pack("<Q", value), at)
    os.ftruncate(fd, length)
    os.close(fd)


end = 2**63 - 1
first = 1 << 40
# Nothing in it but the longest table and file.
image("empty", [], end)
# As many tables as the longest image has, all holes.
image("holes", [first + i * T for i in range(512)], end)
# An entry at the start and the end of each.
image("corners", [first + i * T for i in range(512)], end,
      [(first + i * T + at, (1 << 55) + (2 * i + (at > 0)) * C)
       for i in range(512) for at in (0, T - 8)], features=2)
# Each entry of L1 names the same table, or what can't be one.
image("shared", [first] * 300 + [end - 7] * 212, 1 << 60,
      [(first, 1 << 41), (first + 8, 1 << 41)])
# Clusters without data, behind a gap, and some of them named twice.
image("clusters", [first], first + T + 64 * C,
      [(first + 8 * i, first + T + (i // 2) * C) for i in range(64)])
END
"$PYTHON" "$tmpdir/make.py"
images="empty holes corners shared clusters"

# limited COMMAND...: it must end in SECONDS, with KIB of memory; its exit
# status is $status.
SECONDS_MAX=30
KIB_MAX=$((256 << 10))
[ -z "$SANITIZER" ] || SECONDS_MAX=200 KIB_MAX=$((2 << 20))
limited ()
{
  status=0
  "$PYTHON" - "$SECONDS_MAX" "$KIB_MAX" "$@" >out 2>err <<'END' || status=$?
import os
import resource
import subprocess
import sys
import time

seconds, kib, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
begin = time.time()
try:
    status = subprocess.run(command, timeout=seconds).returncode
except subprocess.TimeoutExpired:
    sys.exit("it takes more than %d seconds" % seconds)
used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print("%5.1f s %7d KiB: %s" % (time.time() - begin, used, " ".join(command)),
      file=open("/dev/fd/9", "w"))
if used > kib:
    print("it takes %d KiB" % used, file=sys.stderr)
    status = 99
sys.exit(status if status >= 0 else 98)
END
  if grep -q '^it takes ' err || [ $status -ge 98 ]; then
    cat err >&2
    fail "$*: status $status"
  fi
} 9>&2

# What they take on the disk together, in KiB.
used ()
{
  du -ck $images | tail -1 | cut -f1
}
before=$(used)

for image in $images; do
  limited qedctl info "$image"
  [ $status -eq 0 ] || fail "$image: info: $(cat err)"
  limited qedctl map --start 0 --length 1P "$image"
  limited qedctl map "$image"
  limited qedctl check "$image"
  [ $status -ne 1 ] || fail "$image: check: $(cat err)"
  limited qedctl check --data "$image"
  [ $status -ne 1 ] || fail "$image: check --data: $(cat err)"
done

# Served: the scan reads all tables, as does a check at the same time.
for image in $images; do
  mv "$image" "$image.qed"
  limited "$abs_top_builddir/nbdkit" -U - qed "$image.qed" control="$PWD/c" \
      --run 'nbdinfo --size "$uri" && { qedctl check --control '"$PWD"'/c; :; }'
  [ $status -eq 0 ] || fail "$image: serving: $(cat err)"
  mv "$image.qed" "$image"
done

for image in $images; do
  limited qedctl check --repair=all --undo undo "$image"
  [ $status -ne 1 ] || fail "$image: repair: $(cat out err)"
  limited qedctl check --repair=leaks "$image"
  limited qedctl check "$image"
  [ $status -eq 0 ] || fail "$image: is not repaired: $(cat out err)"
  [ $(du -k undo | cut -f1) -lt $((16 << 10)) ] ||
    fail "$image: the undo file is large: $(du -k undo)"
  rm -f undo
done
after=$(used)
[ "$after" -lt $((before + (16 << 10))) ] ||
  fail "repairs took $before -> $after KiB of space"
