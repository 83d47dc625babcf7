#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# What test-protocol.sh leaves of the protocol's corners: the chunks of a
# structured read, requests of nearly 4 GiB, of no bytes, of too many, with
# every flag, unknown commands, and block status to the letter.  After each
# request that was refused the connection is asked to go on.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version
requires "$PYTHON" -c "import nbd"

image=$tmpdir/disk.qed
size=$((10 * 1024 * 1024 * 1024 * 1024 + 512))

requires truncate -s 1M "$tmpdir/holes"
requires fallocate --punch-hole --offset 4096 --length 4096 "$tmpdir/holes"

qedctl create "$image" $size
# The server has a line for each of the many that it refuses.
cleanup_fn tail -n 5 "$tmpdir/log"
serve "$image" 2> "$tmpdir/log"

# A client with these: MARK is what lies at 1 MiB; refused() checks that a
# request is, and that the connection goes on.
corner ()
{
    { cat <<'END'; cat; } | client "$uri" "$@"
h.set_strict_mode(0)
size = h.get_size()
MARK = bytes(range(1, 129)) * 4
def alive():
    assert h.pread(512, 1 << 20) == MARK, "the connection goes on wrongly"
def refused(what, *errors):
    try:
        what()
        raise SystemExit("a request was accepted, instead of " + errors[0])
    except nbd.Error as e:
        assert e.errno in errors, (e.errno, errors)
    alive()
def extents(n, at, flags=0):
    found = []
    def extent(context, offset, entries, error):
        assert context == "base:allocation" and error.value == 0
        found.append((offset, list(zip(entries[::2], entries[1::2]))))
        return 0
    h.block_status(n, at, extent, flags)
    assert len(found) == 1 and found[0][0] == at, found
    return found[0][1]
HOLE = nbd.STATE_HOLE | nbd.STATE_ZERO
if not h.is_read_only():
    h.pwrite(MARK, 1 << 20)
alive()
END
}

# ---- The chunks of a structured read --------------------------------------

corner <<'END'
model = bytearray(4 << 20)
for at, n in (70000, 1), (131072, 65536), (1 << 20, 512), (3000000, 300000):
    data = bytes([at % 251 + 1]) * n if at != 1 << 20 else MARK
    h.pwrite(data, (2 << 20) + at)
    model[at:at + n] = data
def read(n, at, flags):
    got, chunks = bytearray(b"?" * n), []
    def chunk(buf, offset, status, error):
        if status == nbd.READ_DATA:
            got[offset - at:offset - at + len(buf)] = buf
        else:
            assert status == nbd.READ_HOLE and buf == bytes(len(buf))
            got[offset - at:offset - at + len(buf)] = buf
        chunks.append((offset, len(buf)))
        return 0
    again = h.pread_structured(n, at, chunk, flags)
    assert got == again
    # They cover the range, and none of it twice.
    end = at
    for offset, length in sorted(chunks):
        assert offset == end and length > 0, chunks
        end += length
    assert end == at + n, chunks
    if flags & nbd.CMD_FLAG_DF:
        assert len(chunks) == 1, chunks
    return got
assert h.can_df()
for n, at in ((4 << 20, 0), (1, 70000), (100000, 69999), (513, 1 << 20),
              (1 << 20, 2900001)):
    for flags in 0, nbd.CMD_FLAG_DF:
        assert read(n, (2 << 20) + at, flags) == model[at:at + n]
for flags in 0, nbd.CMD_FLAG_DF:
    assert read(32 << 20, size - (32 << 20), flags) == bytes(32 << 20)
END

# What wasn't negotiated isn't served.
timeout 60 "$PYTHON" - "$uri" <<'END' || fail "unnegotiated requests"
import sys, nbd
h = nbd.NBD()
h.set_request_structured_replies(False)
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
for what in (lambda: h.pread(512, 0, nbd.CMD_FLAG_DF),
             lambda: h.block_status(512, 0, lambda *a: 0)):
    try:
        what()
        sys.exit("it was served")
    except nbd.Error as e:
        assert e.errno in ("EINVAL", "ENOTSUP"), e
    h.pread(512, 0)
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])              # structured, but no meta context
try:
    h.block_status(512, 0, lambda *a: 0)
    sys.exit("a block status without a context was served")
except nbd.Error as e:
    assert e.errno in ("EINVAL", "ENOTSUP"), e
h.pread(512, 0)
END

# ---- No bytes, and too many -----------------------------------------------

corner <<'END'
data = bytearray(b"\7" * 512)
for at in 0, 1 << 20, size, size + 512:
    refused(lambda: h.pread(0, at), "EINVAL")
    refused(lambda: h.pwrite(b"", at), "EINVAL", "ENOSPC")
    refused(lambda: h.trim(0, at), "EINVAL", "ENOSPC")
    refused(lambda: h.zero(0, at), "EINVAL", "ENOSPC")
    refused(lambda: h.cache(0, at), "EINVAL")
    refused(lambda: h.block_status(0, at, lambda *a: 0), "EINVAL")
most = (1 << 32) - 1
for at in size - most + 1, size - 1, size, (1 << 63) - most, 1 << 62:
    refused(lambda: h.pread(33 << 20, max(at, size - 1)), "EINVAL")
    refused(lambda: h.trim(most, at), "EINVAL", "ENOSPC")
    refused(lambda: h.zero(most, at), "EINVAL", "ENOSPC")
    refused(lambda: h.cache(most, at), "EINVAL")
    refused(lambda: h.block_status(most, at, lambda *a: 0), "EINVAL")
# Between the largest that we ask for and the largest that nbdkit takes.
big = bytearray(b"\7" * (64 << 20))
big[1 << 20:(1 << 20) + 512] = MARK
h.pwrite(big, 0)
assert h.pread(64 << 20, 0) == big
h.trim(64 << 20, 0)
h.pwrite(MARK, 1 << 20)
alive()
END

# What libnbd can't be made to send: requests past nbdkit's limit, with and
# without their data, offsets that wrap around, commands that there aren't.
cat > "$tmpdir/raw.py" <<'END'
import socket, struct, sys
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
OK, EINVAL, ENOMEM, ENOSPC, EOVERFLOW = 0, 22, 12, 28, 75
ENOTSUP = 95
path, size = sys.argv[1], int(sys.argv[2])
def receive(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise EOFError("the server closed the connection")
        data += more
    return data
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(30)
    s.connect(path)
    assert receive(s, 16) == b"NBDMAGICIHAVEOPT"
    receive(s, 2)
    s.sendall(struct.pack(">I", 3) + b"IHAVEOPT" + struct.pack(">II", 1, 0))
    assert struct.unpack(">QH", receive(s, 10))[0] == size
    return s
def send(s, command, offset, count, data=b"", flags=0, magic=0x25609513):
    s.sendall(struct.pack(">IHHQQI", magic, flags, command, 99,
                          offset % 2**64, count) + data)
def answer(s):
    magic, error, cookie = struct.unpack(">IIQ", receive(s, 16))
    assert magic == 0x67446698 and cookie == 99
    return error
def refused(s, *args, **kwargs):
    """And the connection goes on."""
    send(s, *args, **kwargs)
    error = answer(s)
    assert error in (EINVAL, ENOMEM, ENOSPC, EOVERFLOW, ENOTSUP), \
        (args[:3], error)
    send(s, READ, 1 << 20, 512)
    assert answer(s) == OK
    assert receive(s, 512) == bytes(range(1, 129)) * 4
s = connect()
for count in (64 << 20) + 1, 1 << 31, (1 << 32) - 512, (1 << 32) - 1:
    for offset in 0, 512, size - 512, size, -512:
        refused(s, READ, offset, count)
for command in TRIM, ZERO, CACHE, READ:
    for offset in -1, -512, -(1 << 32), 1 << 63, (1 << 63) - 512, size:
        for count in 1, 512, 1 << 16:
            refused(s, command, offset, count)
for offset in -1, -512, 1 << 63, (1 << 63) - 512, size, size - 511:
    refused(s, WRITE, offset, 512, bytes(512))
# The data of a write that is too long is read past.
refused(s, WRITE, 0, (64 << 20) + 512, bytes((64 << 20) + 512))
for command in 8, 9, 99, 65535:
    refused(s, command, 0, 0)
    refused(s, command, 0, 512)
refused(s, STATUS, 0, 512)              # not negotiated
s.sendall(struct.pack(">IHHQQI", 0x25609513, 0, DISC, 0, 0, 0))
assert s.recv(1) == b"", "an answer to a disconnect"
# A write whose length nobody can mean, and no data: it ends the connection,
# or is refused.
s = connect()
send(s, WRITE, 0, (1 << 32) - 1)
try:
    assert answer(s) != OK
except (EOFError, ConnectionError):
    pass
s.close()
s = connect()
send(s, READ, 0, 512, magic=0x25609514)
try:
    assert answer(s) != OK
except (EOFError, ConnectionError):
    pass
s.close()
# Others are served.
s = connect()
refused(s, 99, 0, 0)
END
timeout 100 "$PYTHON" "$tmpdir/raw.py" "$sock" $size ||
    fail "a raw client's requests"

# ---- Flags ----------------------------------------------------------------

corner <<'END'
FUA, NO_HOLE, DF, REQ_ONE, FAST = (
    nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_DF,
    nbd.CMD_FLAG_REQ_ONE, nbd.CMD_FLAG_FAST_ZERO)
old = bytes([3]) * 65536
h.pwrite(old, 8 << 20)
commands = [
    ("read", lambda f: h.pread(512, 8 << 20, f), {DF}),
    ("write", lambda f: h.pwrite(b"\4" * 512, 8 << 20, f), {FUA}),
    ("zero", lambda f: h.zero(512, 8 << 20, f), {FUA, NO_HOLE, FAST}),
    ("trim", lambda f: h.trim(512, 8 << 20, f), {FUA}),
    ("cache", lambda f: h.cache(512, 8 << 20, f), set()),
    ("flush", lambda f: h.flush(f), set()),
    ("status", lambda f: extents(512, 8 << 20, f), {REQ_ONE}),
]
for name, command, known in commands:
    for flag in [1 << i for i in range(16)]:
        if flag == FUA and name != "write":
            # The protocol lets any command have it.
            command(flag)
            alive()
        elif flag in known:
            command(flag)
            alive()
        else:
            before = h.pread(65536, 8 << 20)
            refused(lambda: command(flag), "EINVAL")
            refused(lambda: command(flag | FUA), "EINVAL")
            assert h.pread(65536, 8 << 20) == before, name
    h.pwrite(old, 8 << 20)
h.trim(65536, 8 << 20)
END

# ---- Block status ---------------------------------------------------------

corner <<'END'
most = 0xfffffe00
data = [(1 << 20, 65536), (5 << 32, 65536), ((5 << 32) + most, 65536),
        (1 << 43, 1 << 20), (size - 512, 512)]
for at, n in data[1:]:
    h.pwrite(b"\1" * n, at)
# Rounded to clusters, in order.
data = [(at & -65536, min(-(-(at + n) // 65536) * 65536, size))
        for at, n in data]
expected, end = [], 0
for start, stop in data:
    expected += [(end, start, HOLE), (start, stop, 0)]
    end = stop
def walk(step, flags):
    """The map of the disk, by requests of so many bytes."""
    joined, at = [], 0
    while at < size:
        n = min(step, size - at)
        got = extents(n, at, flags)
        assert got and all(length > 0 for length, kind in got), got
        if flags:
            assert len(got) == 1 and got[0][0] <= n, (at, n, got)
        # Only the last may say more than was asked.
        assert sum(length for length, kind in got[:-1]) < n, (at, n, got)
        for length, kind in got:
            assert at + length <= size, (at, length)
            if joined and joined[-1][2] == kind:
                joined[-1] = (joined[-1][0], at + length, kind)
            else:
                joined.append((at, at + length, kind))
            at += length
    return joined
for step in most, 0xffffffff, 0x80000000:
    for flags in 0, nbd.CMD_FLAG_REQ_ONE:
        got = walk(step, flags)
        assert got == expected, (step, flags, got)
# From within an extent, and of a byte.
for at, kind in ((0, HOLE), ((1 << 20) - 1, HOLE), (1 << 20, 0),
                 ((1 << 20) + 65535, 0), ((1 << 20) + 65536, HOLE),
                 ((5 << 32) - 1, HOLE), (5 << 32, 0), ((1 << 43) + 12345, 0),
                 (size - 1, 0), (size - 511, 0)):
    for flags in 0, nbd.CMD_FLAG_REQ_ONE:
        assert extents(1, at, flags)[0][1] == kind, at
for at in size, size - 1, 1 << 62:
    refused(lambda: extents(2, at), "EINVAL")
    refused(lambda: extents(2, at, nbd.CMD_FLAG_REQ_ONE), "EINVAL")
for at, n in (5 << 32, 65536), ((5 << 32) + most, 65536), (1 << 43, 1 << 20):
    h.trim(n, at)
END

# ---- Read-ahead -----------------------------------------------------------

before=$(disk_usage "$image")
corner <<'END'
for at, n in ((0, 0xffffffff), (0, 1), (size - 1, 1), (1 << 42, 0xfffffe00),
              ((1 << 20) + 1, 510), (size - 0xfffffe00, 0xfffffe00)):
    h.cache(n, at)
    alive()
for at, n in (size, 1), (size - 1, 2), (size - 512, 0xfffffe00):
    refused(lambda: h.cache(n, at), "EINVAL")
END
[ "$(disk_usage "$image")" -le $((before + 65536)) ] ||
    fail "a read-ahead allocated"

# ---- One connection's flush is every connection's -------------------------

corner <<'END'
assert h.can_multi_conn()
others = []
for i in range(3):
    o = nbd.NBD()
    o.connect_uri(args[0])
    assert o.can_multi_conn()
    others.append(o)
h.pwrite(b"\6" * (1 << 20), 16 << 20, nbd.CMD_FLAG_FUA)
others[0].pwrite(b"\5" * 100000, 12345678)
others[1].trim(65536 * 3, 16 << 20)
others[2].zero(65536 * 3, (16 << 20) + 65536 * 8)
assert others[1].pread(100000, 12345678) == b"\5" * 100000
h.flush()
END
serve_kill
serve "$image" 2>> "$tmpdir/log"
corner <<'END'
assert h.pread(100000, 12345678) == b"\5" * 100000
expected = b"\0\0\0\6\6\6\6\6\0\0\0\6\6\6\6\6"
for i, byte in enumerate(expected):
    got = h.pread(65536, (16 << 20) + 65536 * i)
    assert got == bytes([byte]) * 65536, i
END
serve_stop

# ---- Nearly 4 GiB, with data inside, durable ------------------------------

# most OPERATION [BACKING-FILE]
most ()
{
    echo "$1, ${2:-no backing file}"
    rm -f "$image"
    qedctl create "$image" 40G ${2:+--backing "$2" --backing-format raw}
    serve "$image" 2>> "$tmpdir/log"
    cat > "$tmpdir/inside" <<'END'
import time
n, start = 0xfffffe00, 4 << 32
inside = [start, start + 65536, start + 123456789, start + n // 2,
          start + n - 512]
around = [start - 512, start + n]
END
    corner "$1" <<END
$(cat "$tmpdir/inside")
for at in inside + around:
    h.pwrite(b"\\x77" * 512, at)
h.pwrite(b"\\x78" * (24 << 20), start + (3 << 30))
h.flush()
clock = time.monotonic()
getattr(h, args[1])(n, start, nbd.CMD_FLAG_FUA)
assert time.monotonic() - clock < 40
END
    # The machine is gone; the operation was durable.
    serve_kill
    serve "$image" 2>> "$tmpdir/log"
    corner "$1" "$2" <<END
$(cat "$tmpdir/inside")
for at in around:
    assert h.pread(512, at) == b"\\x77" * 512, "outside, at %d" % at
for at in inside:
    got = h.pread(512, at)
    # Over a backing file a trim may leave parts of clusters as they are.
    assert got == bytes(512) or (args[1] == "trim" and args[2] and
                                 at == inside[-1]), "at %d" % at
for at in range(start + (3 << 30), start + (3 << 30) + (24 << 20), 1 << 20):
    assert h.pread(1 << 20, at) == bytes(1 << 20)
if args[1] == "zero":
    assert h.pread(1 << 20, start + (1 << 30)) == bytes(1 << 20)
# All of it is said to be zeros, but for the last part of a cluster.
at, last = start, start + n - 65536
while at < last:
    for length, kind in extents(last - at, at):
        assert kind & nbd.STATE_ZERO or (args[1] == "trim" and args[2]), at
        at += length
END
    serve_stop
}

truncate -s 40G "$tmpdir/base.raw"
"$PYTHON" - "$tmpdir/base.raw" <<'END'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
for at in (4 << 32) + (1 << 30), (4 << 32) + (3 << 30), (4 << 32) - (1 << 20):
    os.pwrite(fd, b"\xbb" * (1 << 20), at)
END
for base in "" base.raw; do
    most zero $base
    most trim $base
done
