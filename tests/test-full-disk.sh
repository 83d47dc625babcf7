#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The disk is full: writes that need space fail with ENOSPC, reads and writes
# in place go on, and when there is space again all works, with no restart; the
# image is consistent.  Then what else needs space: create, resize, the undo
# file, a commit, a hand-over.

if [ -z "$FULL_DISK_MOUNTED" ]; then
    # A small file system of our own.
    unshare -rm true 2>/dev/null ||
        { echo "skipped: unshare -rm doesn't work here"; exit 77; }
    FULL_DISK_MOUNTED=1 exec unshare -rm "$BASH" "$0" "$@"
fi

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires jq --version
requires qemu-img --version
requires "$PYTHON" -c 'import nbd'
[ "$qed_server" = nbdkit ] || skip "this is about our server"

cd "$tmpdir"
mkdir disk
mount -t tmpfs -o size=24M none disk 2>/dev/null ||
    skip "can't mount a file system here"
cleanup_fn umount -l "$tmpdir/disk"

# Leave so many KiB free; make space again.
fill_up ()
{
    rm -f disk/ballast
    local free=$(df -k --output=avail disk | tail -n 1)
    dd if=/dev/zero of=disk/ballast bs=1K count=$((free - $1)) status=none
}
make_space () { rm -f disk/ballast; }

# ---- While it is served ---------------------------------------------------

# full_life [PARAMETER=VALUE...]: of disk/a.qed, which has a MiB of "a" in the
# beginning.
full_life ()
{
    fill_up 1024
    serve disk/a.qed control=ctl clean-after=0 "$@" 2> log
    client <<END
import errno
failed = good = 0
for i in range(16, 80):
    try:
        h.pwrite(bytes([i]) * 65536, i * 65536)
        good += 1
    except nbd.Error as e:
        assert e.errnum == errno.ENOSPC, e
        failed += 1
assert failed > 20, failed
END
    client <<END
import errno
assert h.pread(1 << 20, 0) == b"a" * (1 << 20)
h.pwrite(b"A" * 65536, 65536)
# What was acknowledged has space for its tables.
h.pwrite(b"A" * 512, 65536 + 512, nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(65536, 65536) == b"A" * 65536
try:
    h.pwrite(b"x" * 65536, 50 << 20)
    sys.exit("there was space")
except nbd.Error as e:
    assert e.errnum == errno.ENOSPC, e
for i in range(16, 80):
    data = h.pread(65536, i * 65536)
    assert all(b in (0, i) for b in data), i
END
    timeout 60 qedctl status --control ctl --json |
        jq -e '.images[0] | .state == "dirty" and .access == "writable"' \
            > /dev/null || fail "it doesn't count as writable"
    make_space
    client <<END
for i in range(16, 80):
    h.pwrite(bytes([i]) * 65536, i * 65536)
h.flush()
for i in range(16, 80):
    assert h.pread(65536, i * 65536) == bytes([i]) * 65536
h.pwrite(b"a" * 65536, 65536)
h.trim(64 << 16, 1 << 20)
h.flush()
END
    grep -q "No space left on device" log || { cat log; fail "no word of it"; }
    serve_stop
    need_check disk/a.qed && fail "NEED_CHECK is set"
    walk_free_image disk/a.qed
}

make_first () { io qed disk/a.qed "write -q -P 97 0 1M"; }

make_image disk/a.qed 65536 4 64M
make_first
full_life

rm -f disk/*
head -c 2M /dev/zero | tr '\0' b > disk/base.raw
qedctl create disk/a.qed 64M --backing base.raw --backing-format raw >/dev/null
make_first
full_life

rm -f disk/*
make_image disk/a.qed 4096 2 64M
make_first
full_life detect-zeroes=on

# It ends while there is no space, not even for a table, as another program
# made it with holes: what was flushed is there.
rm -f disk/*
make_image disk/a.qed 65536 4 64M
make_first
table=$(od -An -tu8 -j 65536 -N 8 disk/a.qed)
fallocate -p -o $((table + 4096)) -l $((262144 - 4096)) disk/a.qed
fill_up 256
serve disk/a.qed 2> log
client <<END
h.pwrite(b"F" * 4096, 2 << 20, nbd.CMD_FLAG_FUA)
for i in range(64):
    try:
        h.pwrite(b"z" * 65536, (32 << 20) + i * 65536)
    except nbd.Error:
        pass
END
stop_nbdkit "$pidfile" || :
# What was acknowledged and could not be written waits for space; until then
# the image is only read.
timeout 20 "$abs_top_builddir/nbdkit" -U - qed disk/a.qed --run true 2> err &&
    fail "it is served for writing, though the pending log has no space"
grep -q "No space left on device.*make room" err ||
    { cat err; fail "it doesn't say why it is not served"; }
serve disk/a.qed -r 2>> log
client <<END
assert h.pread(4096, 2 << 20) == b"F" * 4096
assert h.pread(1 << 20, 0) == b"a" * (1 << 20)
END
stop_nbdkit "$pidfile" || :
make_space
serve disk/a.qed 2>> log
client <<END
assert h.pread(4096, 2 << 20) == b"F" * 4096
assert h.pread(1 << 20, 0) == b"a" * (1 << 20)
END
stop_nbdkit "$pidfile"
qedctl check --repair=all disk/a.qed > out || { cat out; fail "check"; }

# ---- qedctl ---------------------------------------------------------------

# no_space COMMAND...: it ends with 1 and says so.
no_space ()
{
    local code=0

    timeout 60 "$@" > out 2> err || code=$?
    [ $code -eq 1 ] || { cat out err; fail "exit status $code: $*"; }
    grep -q "No space left on device" err ||
        { cat err; fail "it doesn't say why: $*"; }
}

rm -f disk/*
fill_up 0
no_space qedctl create disk/new.qed 1G
[ ! -e disk/new.qed ] || fail "create left a file"
make_space
qedctl create disk/new.qed 1G > /dev/null

# The undo file: nothing is repaired without it.
rm -f disk/*
"$PYTHON" "$srcdir/leaky-image.py" disk/leaky.qed
cp disk/leaky.qed leaky.was
fill_up 0
no_space qedctl check --repair=all --undo disk/undo disk/leaky.qed
cmp disk/leaky.qed leaky.was || fail "it was repaired without an undo file"
rm -f disk/undo
make_space
qedctl check --repair=all --undo disk/undo disk/leaky.qed > out ||
    { cat out; fail "check"; }

# A commit into a raw file with holes: the overlay still has everything.
rm -f disk/*
truncate -s 8M disk/base.raw
qedctl create top.qed 8M --backing disk/base.raw --backing-format raw >/dev/null
io qed top.qed "write -q -P 1 0 6M"
qemu-img convert -f qed -O raw top.qed want
fill_up 512
no_space qedctl commit top.qed --allow-backing any
qemu-img compare -q -f qed -F raw top.qed want || fail "commit: the content"
qedctl check top.qed > /dev/null || fail "commit: check"
make_space
qedctl commit top.qed --allow-backing any
cmp disk/base.raw want || fail "commit: the backing file"

# Growing over a longer backing file needs tables.
rm -f disk/* top.qed
head -c 20M /dev/zero | tr '\0' b > base.raw
qedctl create disk/g.qed 64K --backing "$tmpdir/base.raw" \
    --backing-format raw --cluster-size 4096 --table-size 2 > /dev/null
fill_up 0
no_space qedctl resize disk/g.qed 20M --allow-backing any
need_check disk/g.qed && fail "resize left NEED_CHECK set"
qedctl check disk/g.qed > out || { cat out; fail "resize: check"; }
make_space
qedctl resize disk/g.qed 20M --allow-backing any
walk_free_image disk/g.qed

# ---- A hand-over ----------------------------------------------------------

rm -f disk/*
make_image disk/a.qed 65536 4 64M
make_first
serve disk/a.qed control=ctl clean-after=0 2> log
client <<END
h.pwrite(b"r" * 65536, 2 << 20)
END
fill_up 0
timeout 60 qedctl release --control ctl || fail "release"
timeout 60 qedctl activate --control ctl || fail "activate"
client <<END
import errno
assert h.pread(65536, 2 << 20) == b"r" * 65536
try:
    for i in range(64):
        h.pwrite(b"x" * 65536, (8 << 20) + i * 65536)
    sys.exit("there was space")
except nbd.Error as e:
    assert e.errnum == errno.ENOSPC, e
END
timeout 60 qedctl release --control ctl || { cat log; fail "release, full"; }
make_space
timeout 60 qedctl activate --control ctl || fail "activate"
client <<END
h.pwrite(b"x" * (1 << 20), 8 << 20)
h.flush()
END
serve_stop
walk_free_image disk/a.qed
