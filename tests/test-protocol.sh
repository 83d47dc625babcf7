#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The corners of the protocol: structured replies and simple ones, FUA on all
# that takes it, the largest requests, and those past the end, after which the
# connection goes on.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version
requires "$PYTHON" -c "import nbd"

image=$tmpdir/disk.qed
size=$((100 * 1048576 + 512))

qedctl create "$image" $size
serve "$image"

# ---- What is offered ------------------------------------------------------

client $size <<'END'
assert h.get_size() == int(args[0])
assert h.get_structured_replies_negotiated()
assert h.can_meta_context("base:allocation")
for can in ("flush", "fua", "trim", "zero", "fast_zero", "cache", "df",
            "multi_conn"):
    assert getattr(h, "can_" + can)(), can
assert not h.is_read_only() and not h.is_rotational()
assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
assert h.get_block_size(nbd.SIZE_PREFERRED) == 65536
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
END

# ---- The largest requests; and one that is too large ----------------------

client <<'END'
most = 32 << 20
data = bytearray(b"\1" * most)
data[1234567::4096] = b"\2" * len(data[1234567::4096])
h.pwrite(data, 12345)
assert h.pread(most, 12345) == data
assert h.pread(12345, 0) == bytes(12345)
h.pwrite(data, h.get_size() - most, nbd.CMD_FLAG_FUA)
assert h.pread(most, h.get_size() - most) == data
h.cache(most, 12345)
h.set_strict_mode(0)
try:
    h.pread(most * 2 + 1, 0)
    sys.exit("a read of more than 64 MiB was answered")
except nbd.Error as e:
    pass
END

# ---- Past the end ---------------------------------------------------------

client <<'END'
h.set_strict_mode(0)
size = h.get_size()
data = bytearray(1024)
last = h.pread(512, size - 512)
def refused(what, *accepted):
    try:
        what()
        sys.exit("a request past the end was accepted")
    except nbd.Error as e:
        assert e.errno in accepted, (e.errno, accepted)
    # The connection is as good as before.
    assert h.pread(512, size - 512) == last
for at in size - 512, size - 1, size, size + 1, 1 << 62, (1 << 63) - 2048:
    refused(lambda: h.pread(1024, at), "EINVAL")
    refused(lambda: h.pwrite(data, at), "ENOSPC", "EINVAL")
    refused(lambda: h.trim(1024, at), "EINVAL", "ENOSPC")
    refused(lambda: h.zero(1024, at), "ENOSPC", "EINVAL")
    refused(lambda: h.cache(1024, at), "EINVAL")
    refused(lambda: h.block_status(1024, at, lambda *a: 0), "EINVAL")
refused(lambda: h.trim((1 << 32) - 1, 512), "EINVAL", "ENOSPC")
refused(lambda: h.zero((1 << 32) - 1, 0), "EINVAL", "ENOSPC")
# Up to the end is not past it.
h.pwrite(data, size - 1024)
h.zero(1024, size - 1024)
h.trim(1, size - 1)
h.cache(1, size - 1)
assert h.pread(1024, size - 1024) == bytes(1024)
END

# ---- FUA on everything ----------------------------------------------------

cat > "$tmpdir/fua" <<'END'
import random
rng = random.Random(7)
fua = nbd.CMD_FLAG_FUA
model = bytearray(4 << 20)
for i in range(120):
    n = rng.choice([1, 512, 65536, 100000])
    at = rng.randrange(len(model) - n)
    if rng.random() < .5:
        at -= at % 65536
    op = rng.randrange(4)
    if op < 2:
        h.pwrite(bytes([i + 1]) * n, at, fua)
        model[at:at + n] = bytes([i + 1]) * n
    else:
        # There is no backing file: a trim reads as zeros.
        (h.zero if op == 2 else h.trim)(n, at, fua)
        model[at:at + n] = bytes(n)
open(args[0], "wb").write(model)
END
serve_stop
rm -f "$image"
qedctl create "$image" $size
serve "$image" clean-after=0
client "$tmpdir/model" < "$tmpdir/fua"
# All of it is in the file, whatever becomes of the server.
serve_kill
serve "$image" 2> "$tmpdir/log"
client "$tmpdir/model" <<'END'
model = open(args[0], "rb").read()
assert h.pread(len(model), 0) == model
END
serve_stop

# ---- Without structured replies -------------------------------------------

rm -f "$image"
qedctl create "$image" $size
serve "$image"
timeout 60 "$PYTHON" - "$uri" <<'END' || fail "simple replies"
import sys, nbd
h = nbd.NBD()
h.set_request_structured_replies(False)
h.connect_uri(sys.argv[1])
assert not h.get_structured_replies_negotiated()
h.pwrite(b"\3" * 100000, 70000)
assert h.pread(200000, 0) == bytes(70000) + b"\3" * 100000 + bytes(30000)
h.trim(100000, 70000)
assert h.pread(200000, 0) == bytes(200000)
h.set_strict_mode(0)
try:
    h.pread(512, h.get_size())
    sys.exit("past the end")
except nbd.Error as e:
    assert e.errno == "EINVAL"
h.flush()
h.shutdown()
END

# Many at once, of all kinds, on one connection; it is closed while they are
# under way, and the server goes on.
client $(orphans_max) <<'END'
orphans = int(args[0])
for round in range(5 if orphans > 1 else 40):
    o = nbd.NBD()
    o.connect_uri(sys.argv[1])
    buf = nbd.Buffer.from_bytearray(bytearray(b"\5" * (1 << 20)))
    starts = []
    for i in range(24):
        starts += [lambda i=i: o.aio_pwrite(buf, i << 20),
                   lambda i=i: o.aio_trim(1 << 19, i << 20),
                   lambda i=i: o.aio_zero(12345, (i << 20) + 6789),
                   lambda i=i: o.aio_flush(),
                   lambda i=i: o.aio_cache(1 << 20, i << 20)]
    for start in starts[round if orphans == 1 else 0:][:orphans]:
        start()
    # A write has been sent whole before: else nbdkit complains.
    while orphans == 1 and o.aio_is_processing() and \
          o.aio_get_direction() & nbd.AIO_DIRECTION_WRITE:
        o.poll(10)
    if round % 2 and orphans > 1:
        for i in range(20):
            o.poll(10)
    del o
h.pwrite(b"\6" * 512, 0)
assert h.pread(512, 0) == b"\6" * 512
END
serve_stop
walk_free_image "$image"
