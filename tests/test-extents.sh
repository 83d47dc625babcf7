#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Block status: what clients are told agrees with what QEMU reads from the
# same files, through a chain, and costs little however large the image is.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires nbdinfo --version
requires "$PYTHON" -c "import nbd"

image=$tmpdir/top.qed

requires truncate -s 1M "$tmpdir/holes"
requires fallocate --punch-hole --offset 4096 --length 4096 "$tmpdir/holes"

# compare WHAT: three maps of the same disk.  Zero means the same to all; data
# is what isn't zero; and a zero cluster is no hole, since it hides the backing
# file.
compare ()
{
    qemu-img map --output=json -f qed "$image" > "$tmpdir/file.json"
    serve "$image"
    qemu-img map --output=json -f raw "$uri" > "$tmpdir/nbd.json"
    nbdinfo --map --json "$uri" > "$tmpdir/nbdinfo.json"
    serve_stop
    "$PYTHON" - "$tmpdir" <<'END' || fail "$1: the maps differ"
import json, sys
def load(name, zero):
    joined = []
    for e in json.load(open(sys.argv[1] + "/" + name)):
        start = e.get("start", e.get("offset"))
        if name == "nbdinfo.json":
            start = e["offset"]
        if joined and joined[-1][1] == zero(e):
            joined[-1][2] = start + e["length"]
        else:
            joined.append([start, zero(e), start + e["length"]])
    return joined
file = load("file.json", lambda e: e["zero"])
nbd = load("nbd.json", lambda e: e["zero"])
info = load("nbdinfo.json", lambda e: bool(e["type"] & 2))
print(len(file), "extents")
assert len(file) > 4
assert file == nbd, (file, nbd)
assert file == info, (file, info)
assert not any(e["type"] == 1
               for e in json.load(open(sys.argv[1] + "/nbdinfo.json")))
END
}

# ---- One image ------------------------------------------------------------

qedctl create "$image" $((40 * 1048576 + 512))
serve "$image"
client <<'END'
size = h.get_size()
h.pwrite(b"\1" * 300000, 100000)
h.pwrite(b"\1" * 65536, 20 << 20)
h.pwrite(b"\1" * 512, size - 512)
h.pwrite(b"\1" * (1 << 20), 30 << 20)
h.trim(200000, (30 << 20) + 100000)

def extents(n, at, flags=0):
    found = []
    def extent(context, offset, entries, error):
        for length, flags in zip(entries[::2], entries[1::2]):
            found.append((length, flags))
        return 0
    h.block_status(n, at, extent, flags)
    return found

hole = nbd.STATE_HOLE | nbd.STATE_ZERO
# Neighbours are joined, over tables and pages of tables too.
assert extents(65536, 0) == [(65536, hole)]
assert extents(20 << 20, 0) == [(65536, hole), (6 * 65536, 0),
                                ((20 << 20) - 7 * 65536, hole)]
assert extents(20 << 20, 0, nbd.CMD_FLAG_REQ_ONE) == [(65536, hole)]
assert extents(1, 70000, nbd.CMD_FLAG_REQ_ONE)[0][1] == 0
assert extents(512, size - 512) == [(512, 0)]
try:
    h.set_strict_mode(0)
    extents(1024, size - 512)
    sys.exit("a range past the end was accepted")
except nbd.Error as e:
    assert e.errno == "EINVAL", e
END
serve_stop
compare "one image"

# ---- A chain, whose images have different sizes and clusters --------------

rm -f "$image"
"$PYTHON" - "$tmpdir/base.raw" <<'END'
import sys
with open(sys.argv[1], "wb") as f:
    for mib in 0, 1, 4, 9, 17:
        f.seek(mib * 1048576 + 65536)
        f.write(b"\2" * 500000)
    f.truncate(20 * 1048576 + 512)
END
cd "$tmpdir"
qedctl create middle.qed 30M --backing base.raw --backing-format raw \
    --cluster-size 4096
serve middle.qed
client <<'END'
h.pwrite(b"\3" * 100000, 3 << 20)
h.zero(300000, 4 << 20)
h.pwrite(b"\3" * 100000, 25 << 20)
h.zero(1 << 20, 19 << 20)
END
serve_stop
qedctl create top.qed 40M --backing middle.qed
serve top.qed
client <<'END'
h.pwrite(b"\4" * 100, 10 << 20)
h.zero(1 << 20, 3 << 20)
h.trim(1 << 20, 10 << 20)
h.pwrite(b"\4" * 100, 35 << 20)
h.zero(1 << 20, 28 << 20)
h.pwrite(b"\4" * 3000000, 15 << 20)
h.trim(300000, 16 << 20)
END
serve_stop
compare "a chain"
cd "$abs_top_builddir/tests"

# ---- Cheap ----------------------------------------------------------------

# within SECONDS COMMAND...
within ()
{
    local start=$SECONDS most=$1

    [ -z "$SANITIZER" ] || most=$((most * 4))
    shift
    "$@"
    [ $((SECONDS - start)) -le "$most" ] ||
        fail "it took $((SECONDS - start)) seconds: $*"
}

rm -f "$image"
qedctl create "$image" 10T
serve "$image"
client <<'END'
for i in range(100):
    h.pwrite(b"\5" * 512, i * 107374182400)
END
within 20 nbdinfo --map --json "$uri" > "$tmpdir/map.json"
"$PYTHON" - "$tmpdir/map.json" <<'END' || fail "10 TiB: the map is wrong"
import json, sys
data = [e for e in json.load(open(sys.argv[1])) if e["type"] == 0]
assert len(data) == 100, len(data)
assert [e["offset"] for e in data] == [
    i * 107374182400 // 65536 * 65536 for i in range(100)]
assert all(e["length"] == 65536 for e in data)
END
serve_stop
[ "$(disk_usage "$image")" -le 50000000 ] || fail "a map allocated something"

# A long unallocated range, all of whose tables are in the cache, over a
# backing file in small pieces.
rm -f "$image"
"$PYTHON" - "$tmpdir/pieces.raw" <<'END'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for at in range(0, 2 << 30, 131072):
    os.pwrite(fd, b"x" * 4096, at)
os.ftruncate(fd, 2 << 30)
END
qedctl create "$image" 2G --backing pieces.raw --backing-format raw
serve "$image"
client <<'END'
h.pwrite(b"y", (2 << 30) - 1)
for at in range(0, 2 << 30, 1 << 20):
    h.pread(512, at)
END
count_pieces ()
{
    client <<'END'
found = []
def extent(context, offset, entries, error):
    found.extend(entries[::2])
    return 0
h.block_status((2 << 30) - 131072, 0, extent)
assert sum(found) == (2 << 30) - 131072
assert len(found) == 2 * (16384 - 1), len(found)
END
}
within 6 count_pieces
serve_stop
