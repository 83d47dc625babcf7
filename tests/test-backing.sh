#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Images over backing files: raw and QED, chains, shorter and longer than the
# image, against a flat model, and by QEMU's eyes.  The files below are never
# changed, and only read where that is needed.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version
requires "$PYTHON" -c "import nbd"

cd "$tmpdir"

# work IMAGE MODEL SEED OPERATIONS
work ()
{
    timeout 120 "$PYTHON" "$srcdir/backing-work.py" "$uri" $3 $4 "$2" ||
        fail "$1: wrong data (seed $3)"
}

# layer IMAGE BACKING FORMAT SIZE CLUSTER-SIZE TABLE-SIZE: a new image, worked
# on twice; below it nothing changes.  "model" is the content.
seed=0
layer ()
{
    echo "$1 over $2 ($3): $4 bytes, clusters of $5, tables of $6"
    seed=$((seed + 1))
    find . -name '*.raw' -o -name '*.qed' | xargs sha256sum > sums
    qedctl create "$1" $4 --backing "$2" --backing-format $3 \
        --cluster-size $5 --table-size $6
    serve "$1"
    work "$1" model $seed 150
    serve_stop
    serve "$1" metadata-cache=256K clean-after=1
    work "$1" model $((seed + 100)) 150
    serve_stop
    sha256sum -c --quiet sums || fail "$1: a backing file changed"
    walk_free_image "$1"
    qemu-img compare -q -f qed -F raw "$1" model ||
        fail "$1: QEMU reads something else"
}

# ---- Depth 1: sizes -------------------------------------------------------

# The backing file ends within a cluster, within a sector, before the image,
# behind it, at its end; or is empty.
random_file base.raw 3000001 1
for size in 2097152 3000320 8388608; do
    cp base.raw model
    truncate -s $size model
    layer one-$size.qed base.raw raw $size 65536 4
done
cp base.raw model
layer small.qed base.raw raw 6000128 4096 2
: > empty.raw
: > model
layer over-empty.qed empty.raw raw 1048576 65536 4

# ---- Chains ---------------------------------------------------------------

cp base.raw model
layer c1.qed base.raw raw 4194304 4096 2
layer c2.qed c1.qed qed 3145728 65536 4
layer c3.qed c2.qed qed 9437696 131072 2
layer c4.qed c3.qed qed 5242880 8192 4
layer c5.qed c4.qed qed 6291968 65536 4
# The same again, opened by itself, and read-only.
rm -f "$sock"
start_nbdkit -P "$pidfile" -U "$sock" -r qed c5.qed
client model <<'END'
assert h.is_read_only()
assert h.pread(h.get_size(), 0) == open(args[0], "rb").read()
END
serve_stop

# ---- QEMU's overlays, and ours beneath QEMU's -----------------------------

qemu-img create -q -f qed -b c2.qed -F qed qemu.qed
qemu-io -f qed -c "write -P 0x55 100000 70000" -c "write -z 1M 64K" qemu.qed \
    > out
! grep -i failed out || fail "qemu-io"
qemu-img convert -f qed -O raw qemu.qed qemu.raw
serve qemu.qed
client qemu.raw <<'END'
assert h.pread(h.get_size(), 0) == open(args[0], "rb").read()
END
serve_stop
qemu-img compare -q -f qed -F raw qemu.qed qemu.raw

# ---- What is read of the backing file -------------------------------------

"$PYTHON" -c 'open("bb.raw", "wb").write(b"\xbb" * 2097152)'
qedctl create reads.qed 2M --backing bb.raw --backing-format raw
if [ -z "$SANITIZER" ] && strace -f -y -o trace true 2>/dev/null; then
    serve reads.qed
    # expect_reads yes|no SCRIPT: whether it reads from the backing file
    expect_reads ()
    {
        : > strace.log
        strace -f -y -e trace=pread64,preadv,read -o trace \
            -p $(cat "$pidfile") 2> strace.log &
        tracer=$!
        for i in {1..100}; do
            if grep -q attached strace.log; then break; fi
            sleep 0.1
        done
        grep -q attached strace.log || fail "strace can't attach"
        client <<< "$2"
        kill -INT $tracer
        wait $tracer || :
        if grep -q "bb.raw" trace; then found=yes; else found=no; fi
        [ $found = $1 ] || {
            cat trace >&2
            fail "reads from the backing file: $found, not $1: $2"
        }
    }
    expect_reads yes 'h.pread(512, 1000000)'
    expect_reads no 'h.pwrite(b"\1" * 262144, 131072)'
    expect_reads no 'h.zero(65536, 0)'
    expect_reads no 'h.pwrite(b"\2" * 10, 100)'
    expect_reads no 'h.trim(65536, 131072); h.pwrite(b"\3", 131072)'
    expect_reads yes 'h.pwrite(b"\4", 1048576)'
    expect_reads no 'h.pwrite(b"\5", 1048577); h.pread(65536, 1048576)'
    serve_stop
else
    serve reads.qed
    client <<'END'
h.pwrite(b"\1" * 262144, 131072)
h.zero(65536, 0)
h.pwrite(b"\2" * 10, 100)
h.trim(65536, 131072)
h.pwrite(b"\3", 131072)
h.pwrite(b"\4", 1048576)
h.pwrite(b"\5", 1048577)
END
    serve_stop
fi
serve reads.qed
client <<'END'
expected = bytearray(b"\xbb" * 2097152)
expected[0:65536] = bytes(65536)
expected[100:110] = b"\2" * 10
expected[131072:393216] = b"\1" * 262144
expected[131072:196608] = b"\3" + bytes(65535)
expected[1048576:1048578] = b"\4\5"
assert h.pread(2097152, 0) == expected
END
serve_stop

# ---- The same cluster from many sides -------------------------------------

# Each writes its own bytes of the same clusters at the same time: none is
# lost, and around them is the backing file's content.
rm -f reads.qed
qedctl create reads.qed 2M --backing bb.raw --backing-format raw
serve reads.qed
client "$uri" <<'END'
import random
rng = random.Random(5)
handles = [nbd.NBD() for i in range(4)]
for o in handles:
    o.connect_uri(args[0])
expected = bytearray(b"\xbb" * 2097152)
for cluster in range(32):
    flight = []
    for slot in rng.sample(range(64), 24):
        at = cluster * 65536 + slot * 1024 + rng.randrange(512)
        data = bytearray([slot + 1]) * rng.randrange(1, 512)
        expected[at:at + len(data)] = data
        o = rng.choice(handles)
        flight.append((o, o.aio_pwrite(nbd.Buffer.from_bytearray(data), at)))
    for o, cookie in flight:
        while not o.aio_command_completed(cookie):
            o.poll(1000)
assert h.pread(2097152, 0) == expected
h.flush()
open("expected", "wb").write(expected)
END
# What was flushed is in the file, however the server ends.
serve_kill
serve reads.qed 2> log
client <<'END'
assert h.pread(2097152, 0) == open("expected", "rb").read()
END
serve_stop
