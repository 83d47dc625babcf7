#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Write zeroes: with and without leave to trim, fast or not at all, on any
# bytes, over a backing file, of nearly 4 GiB, durable with FUA, and at the
# same time as writes to other bytes of the cluster.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version
requires "$PYTHON" -c "import nbd"

image=$tmpdir/disk.qed
overlay=$tmpdir/overlay.qed

requires truncate -s 1M "$tmpdir/holes"
requires fallocate --punch-hole --offset 4096 --length 4096 "$tmpdir/holes"

"$PYTHON" - "$tmpdir/base.raw" <<'END'
import sys
with open(sys.argv[1], "wb") as f:
    f.write(b"\xbb" * 5000000)
END

# ---- Holes, no holes, and fast ones ---------------------------------------

make_image "$image" 65536 4 16M
serve "$image" clean-after=0
client <<'END'
assert h.can_zero() and h.can_fast_zero() and h.can_fua() and h.can_trim()
h.pwrite(b"\1" * (8 << 20), 0, nbd.CMD_FLAG_FUA)
END
full=$(disk_usage "$image")

# To be kept allocated.
client <<'END'
h.zero(1 << 20, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.zero(1000, (3 << 20) + 1, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
assert h.pread(1 << 20, 0) == bytes(1 << 20)
assert h.pread(1002, 3 << 20) == b"\1" + bytes(1000) + b"\1"
END
sleep 1
[ "$(disk_usage "$image")" -ge "$full" ] ||
    fail "zeroes without leave to trim made a hole"

# A fast zero is done, or refused with ENOTSUP and nothing has changed; where
# zeros would have to be written it must be refused.
client <<'END'
import errno
fast = nbd.CMD_FLAG_FAST_ZERO
before = h.pread(8 << 20, 0)
try:
    h.zero(1 << 20, 1 << 20, fast | nbd.CMD_FLAG_NO_HOLE)
    sys.exit("a fast zero without leave to trim was not refused")
except nbd.Error as e:
    assert e.errno == "ENOTSUP", e.errno
assert h.pread(8 << 20, 0) == before
h.zero(1 << 20, 1 << 20, fast)
assert h.pread(1 << 20, 1 << 20) == bytes(1 << 20)
assert h.pread(6 << 20, 2 << 20) == before[2 << 20:]
h.zero(8 << 20, 8 << 20, fast)          # nothing is there
h.flush()
END

client <<'END'
h.zero(4 << 20, 4 << 20)
h.flush()
END
for i in {1..50}; do
    [ "$(disk_usage "$image")" -gt $((full - (4 << 20))) ] || break
    sleep 0.1
done
[ "$(disk_usage "$image")" -le $((full - (4 << 20))) ] ||
    fail "zeroes made no holes: $(disk_usage "$image") of $full bytes"
serve_stop
walk_free_image "$image"

# ---- Any bytes, with and without a backing file ---------------------------

cat > "$tmpdir/random" <<'END'
import random
seed, base = int(args[0]), args[1]
rng = random.Random(seed)
size = h.get_size()
model = bytearray(size)
if base:
    data = open(base, "rb").read()[:size]
    model[:len(data)] = data
flags = [0, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_FAST_ZERO,
         nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE]
for i in range(500):
    n = rng.choice([1, 511, 512, 4096, 65536, 65537, 200000, 131072])
    at = rng.randrange(size)
    if rng.random() < .4:
        at -= at % 65536
    if rng.random() < .05:
        at = size - n
    n = min(n, size - at)
    op = rng.randrange(5)
    if op == 0:
        h.pwrite(bytes([i % 255 + 1]) * n, at)
        model[at:at + n] = bytes([i % 255 + 1]) * n
    elif op < 4:
        f = rng.choice(flags)
        try:
            h.zero(n, at, f)
            model[at:at + n] = bytes(n)
        except nbd.Error as e:
            assert f & nbd.CMD_FLAG_FAST_ZERO and e.errno == "ENOTSUP", e
    got = h.pread(n, at)
    assert got == model[at:at + n], "operation %d: %d bytes at %d" % (i, n, at)
for at in range(0, size, 1 << 20):
    n = min(1 << 20, size - at)
    assert h.pread(n, at) == model[at:at + n], "at %d" % at
with open(args[2], "wb") as f:
    f.write(model)
END

# Smaller and larger than the backing file, which ends within a cluster.
for size in 8389120 3145728; do
    for base in "" "$tmpdir/base.raw"; do
        for cluster in 4096 65536; do
            echo "$size bytes, clusters of $cluster, over ${base:-nothing}"
            rm -f "$image"
            qedctl create "$image" $size --cluster-size $cluster \
                ${base:+--backing "$base" --backing-format raw}
            serve "$image"
            client 1 "$base" "$image.model" < "$tmpdir/random"
            serve_stop
            walk_free_image "$image"
            qemu-img compare -q -f qed -F raw "$image" "$image.model" ||
                fail "QEMU reads something else"
        done
    done
done

# A fast zero of a part of a cluster would copy the rest over a backing file:
# that is refused, and nothing changes; whole clusters are fast.
cat > "$tmpdir/part" <<'END'
before = h.pread(1 << 20, 0)
try:
    h.zero(100000, 1000, nbd.CMD_FLAG_FAST_ZERO)
    sys.exit("a fast zero that has to copy was not refused")
except nbd.Error as e:
    assert e.errno == "ENOTSUP", e.errno
assert h.pread(1 << 20, 0) == before
h.zero(131072, 65536, nbd.CMD_FLAG_FAST_ZERO)
assert h.pread(1 << 20, 0) == \
    before[:65536] + bytes(131072) + before[196608:]
END
rm -f "$image"
qedctl create "$image" 4M --backing "$tmpdir/base.raw" --backing-format raw
serve "$image"
client < "$tmpdir/part"
serve_stop

# ---- Nearly 4 GiB ---------------------------------------------------------

cat > "$tmpdir/large" <<'END'
import time
most = (1 << 32) - 1
for op in h.zero, h.trim:
    for at in 1, (3 << 32) - 12345:
        for p in at - 1, at + 100, at + (1 << 31), at + most - 1, at + most:
            h.pwrite(b"x", p)
        start = time.monotonic()
        op(most, at, nbd.CMD_FLAG_FUA)
        seconds = time.monotonic() - start
        assert seconds < 20, seconds
        assert h.pread(1, at - 1) == b"x" and h.pread(1, at + most) == b"x"
        for p in at + 100, at + (1 << 31), at + most - 1:
            got = h.pread(1, p)
            # Over a backing file a trim may leave the ends as they are.
            assert got == b"\0" or (args and op == h.trim and
                                    p != at + (1 << 31)), (op, at, p)
END
rm -f "$image"
qedctl create "$image" 10T
serve "$image"
client < "$tmpdir/large"
serve_stop
walk_free_image "$image"
[ "$(disk_usage "$image")" -le 4000000 ] || fail "10 TiB: the file is too big"

truncate -s 20G "$tmpdir/large.raw"
rm -f "$image"
qedctl create "$image" 20G --backing large.raw --backing-format raw
serve "$image"
client backing < "$tmpdir/large"
serve_stop
walk_free_image "$image"

# ---- FUA: what was zeroed doesn't come back after a crash -----------------

for op in zero trim; do
    for base in "" base.raw; do
        rm -f "$image"
        qedctl create "$image" 4M \
            ${base:+--backing $base --backing-format raw}
        serve "$image"
        client <<'END'
h.pwrite(b"\1" * (1 << 20), 0)
h.flush()
END
        client $op <<'END'
getattr(h, args[0])(655360, 65536, nbd.CMD_FLAG_FUA)
END
        serve_kill
        serve "$image"
        client <<'END'
assert h.pread(1 << 20, 0) == (b"\1" * 65536 + bytes(655360) +
                               b"\1" * (1048576 - 655360 - 65536))
END
        serve_stop
    done
done

# ---- Zeroes that meet writes ----------------------------------------------

# A cluster is zeroed while a sector of it is written.  Around the sector are
# zeros then, never what the backing file has there.
qedctl create "$overlay" 4M --backing base.raw --backing-format raw \
    --cluster-size 4096
serve "$overlay"
client "$uri" <<'END'
other = nbd.NBD()
other.connect_uri(args[0])
data = nbd.Buffer.from_bytearray(bytearray(b"\2" * 512))
for i in range(1024):
    at, sector = i * 4096, i % 8 * 512
    if i % 2:
        z = h.aio_zero(4096, at)
        w = other.aio_pwrite(data, at + sector)
    else:
        w = other.aio_pwrite(data, at + sector)
        z = h.aio_zero(4096, at)
    while not h.aio_command_completed(z):
        h.poll(1000)
    while not other.aio_command_completed(w):
        other.poll(1000)
    got = h.pread(4096, at)
    assert got[:sector] == bytes(sector), i
    assert got[sector + 512:] == bytes(4096 - 512 - sector), i
    assert got[sector:sector + 512] in (data.to_bytearray(), bytes(512)), i
END
serve_stop
walk_free_image "$overlay"
