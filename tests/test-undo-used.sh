#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# What clients were told is written is never lost by qedctl undo: what a killed
# server had acknowledged before the repair.

. ./functions.sh
set -e
. "$srcdir/serve.sh"

requires "$PYTHON" -c 'import nbd'
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

# exits STATUS COMMAND...: what it says is in out and err
exits ()
{
    local r=0

    timeout 60 "${@:2}" > out 2> err < /dev/null || r=$?
    [ $r -eq $1 ] || { cat out err; fail "${*:2}: exit $r, not $1"; }
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
