#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# What clients were told is written is never lost by qedctl undo: what a killed
# server had acknowledged before the repair, and what was written since, be it
# the repair of a closed image or that of a server at open.

. ./functions.sh
set -e
. "$srcdir/serve.sh"

. "$srcdir/backing-server.sh"

requires "$PYTHON" -c 'import nbd'
requires nbdkit file --version
export XDG_RUNTIME_DIR=$(mktemp -d /dev/shm/nbdkit-qed-test.XXXXXX)
[ -d "$XDG_RUNTIME_DIR" ] || skip "no tmpfs"
cleanup_fn rm -rf "$XDG_RUNTIME_DIR"
[ "$(stat -f -c %T "$XDG_RUNTIME_DIR")" = tmpfs ] ||
    skip "/dev/shm is not tmpfs"

cd "$tmpdir"

# The image's parts, at clusters of 64 KiB: L1 at 0x10000, the first table at
# 0x50000, data from 0x90000 on.

# new_image: with data at 0 and at 4 GiB, each with a table
new_image ()
{
    rm -f disk.qed disk.qed.undo* undo
    make_image disk.qed 65536 4 16G
    serve disk.qed
    client <<'END'
h.pwrite(b"\1" * 65536, 0)
h.pwrite(b"\1" * 65536, 4 << 30)
END
    serve_stop
}

# damage OFFSET VALUE...: write entries
damage ()
{
    "$PYTHON" - "$@" <<'END'
import struct, sys
with open("disk.qed", "r+b") as f:
    for at, value in zip(*[map(lambda x: int(x, 0), sys.argv[1:])] * 2):
        f.seek(at)
        f.write(struct.pack("<Q", value))
END
}

# has VALUE GUEST-OFFSET...: the disk, in 64 KiB from there on
has ()
{
    serve disk.qed 2> log
    client "$@" <<'END'
value = int(args[0])
for at in args[1:]:
    assert h.pread(65536, int(at, 0)) == bytes([value]) * 65536, at
END
    serve_stop
}

says ()
{
    grep -q -- "$1" err || { cat err; fail "it does not say '$1'"; }
}

echo "what a killed server had acknowledged, before the repair"
new_image
serve disk.qed clean-after=0
client <<'END'
for n in range(1, 20):
    h.pwrite(b"\2" * 65536, n << 20)
END
serve_kill
need_check disk.qed
damage $((0x50000 + 8 * 8000)) 0x123
exits 0 qedctl check --repair --undo undo disk.qed
says "acknowledged changes that a killed server had not written"
[ "$(grep -c "pending log" err)" -eq 1 ] || fail "it is said more than once"
exits 0 qedctl undo undo disk.qed
exits 2 qedctl check disk.qed
grep -q '^l2-entry-reserved-bits: entry at file offset 0x5fa00' out
exits 0 qedctl check --repair disk.qed
has 2 $(for n in {1..19}; do echo $((n << 20)); done)

echo "what was written since a repair at open"
dropped=(0x10038 0x7f000000 0x50320 0x7e000000 0x50328 0x7e010000)
new_image
damage 16 2 ${dropped[@]}
serve disk.qed 2> log
client <<'END'
h.pwrite(b"\2" * 65536, 101 << 16)     # this entry was dropped
h.pwrite(b"\2" * 65536, 102 << 16)     # it is beside that
h.pwrite(b"\2" * 65536, 8 << 30)       # a new table
END
serve_stop
exits 1 qedctl undo disk.qed.undo disk.qed
says "1 of 3 entries .* are not put back: written since, and kept: 1;"
exits 2 qedctl check disk.qed
grep -q '^l1-entry-past-end: entry at file offset 0x10038,' out
grep -q '^l2-entry-past-end: entry at file offset 0x50320,' out
[ $(grep -c past-end: out) -eq 2 ]
exits 0 qedctl check --repair disk.qed
has 2 $((101 << 16)) $((102 << 16)) $((8 << 30))
has 1 0 $((4 << 30))

echo "and what its killed server had acknowledged"
new_image
damage 16 2 ${dropped[@]}
serve disk.qed clean-after=0 2> log
client <<'END'
h.pwrite(b"\2" * 65536, 101 << 16)
h.pwrite(b"\2" * 65536, 14 << 30)      # of the table that was dropped
END
serve_kill
exits 1 qedctl undo disk.qed.undo disk.qed
says "acknowledged changes that a killed server had not written"
says "2 of 3 entries .* are not put back: written since, and kept: 2;"
exits 0 qedctl check --repair disk.qed
has 2 $((101 << 16)) $((14 << 30))

# A repair that copies, drops and moves; then the image is used.
use_repaired ()
{
    new_image
    damage $((0x50000 + 8 * 100)) 0x123 $((0x50000 + 8 * 101)) 0x90000
}

echo "what was written since a repair"
use_repaired
exits 0 qedctl check --repair --undo undo disk.qed
serve disk.qed
client <<'END'
h.pwrite(b"\2" * 65536, 1 << 20)
h.pwrite(b"\2" * 65536, 101 << 16)
END
serve_stop
cp disk.qed used
exits 1 qedctl undo undo disk.qed
says "disk.qed: was changed since the repair: .* so nothing is put back"
cmp disk.qed used

echo "what was written since, where a table was that the repair unlinked"
new_image
damage $(for i in {0..63}; do
             echo $((0xa0000 + 8 * i)) $((12345 + 16 * i))
         done) $((0x50000 + 8 * 100)) 0xa0000 $((0x10000 + 8 * 7)) 0x123200
exits 3 qedctl check --repair --undo undo disk.qed
serve disk.qed
client <<'END'
for i in range(10, 14):
    h.pwrite(b"\2" * 65536, i << 20)
END
serve_stop
cp disk.qed used
exits 1 qedctl undo undo disk.qed
says "disk.qed: was changed since the repair: .* so nothing is put back"
cmp disk.qed used
has 2 $((10 << 20)) $((11 << 20)) $((12 << 20)) $((13 << 20))

echo "what was written since a repair over the wire"
use_repaired
truncate -s +1M disk.qed
cp disk.qed damaged
start_backing nbdkit -f -U "$backing_sock" file disk.qed
r=0
timeout 60 qedctl check --repair --raw-image --undo undo "$backing_uri" \
        > out 2> err < /dev/null || r=$?
[ $r -eq 0 ] || [ $r -eq 3 ] || { cat out err; fail "the repair: exit $r"; }
stop_backing TERM
! grep "cannot note" err || fail "what the repair left is not known"
cp disk.qed repaired
damage $((0x50000 + 8 * 100)) 1
cp disk.qed used
start_backing nbdkit -f -U "$backing_sock" file disk.qed
exits 1 qedctl undo --raw-image undo "$backing_uri"
says "was changed since the repair: other content at"
stop_backing TERM
cmp disk.qed used
cp repaired disk.qed
start_backing nbdkit -f -U "$backing_sock" file disk.qed
exits 0 qedctl undo --raw-image undo "$backing_uri"
stop_backing TERM
cmp disk.qed damaged
