#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# What trim frees goes back to the file system and is used again before the
# file grows, also after a restart; parts of clusters; discard=ignore.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version
requires "$PYTHON" -c "import nbd"

MiB=1048576
image=$tmpdir/disk.qed
count=24                        # MiB that are written

requires truncate -s 1M "$tmpdir/holes"
requires fallocate --punch-hole --offset 4096 --length 4096 "$tmpdir/holes"

new_image ()
{
    rm -f "$image"
    make_image "$image" 65536 4 $((64 * MiB + 512))
}

# fill BYTE: all of the MiB
fill ()
{
    client "$1" $count <<'END'
for i in range(int(args[1])):
    h.pwrite(bytes([int(args[0])]) * 1048576, i * 1048576)
END
}

# The freed clusters are punched soon after the flush, not before its answer.
wait_for_usage ()
{
    local i

    for i in {1..100}; do
        [ "$(disk_usage "$image")" -gt "$1" ] || return 0
        sleep 0.1
    done
    fail "the file takes $(disk_usage "$image") bytes, more than $1"
}

# ---- The file shrinks, and what was trimmed reads as zeros ----------------

new_image
serve "$image" clean-after=0
fill 1
client <<'END'
h.flush()
END
full=$(disk_usage "$image")
[ "$full" -ge $((count * MiB)) ] || fail "the file is too small: $full"
client <<'END'
h.trim(16 << 20, 4 << 20)
h.flush()
assert h.pread(16 << 20, 4 << 20) == bytes(16 << 20)
assert h.pread(4 << 20, 0) == b"\1" * (4 << 20)
assert h.pread(4 << 20, 20 << 20) == b"\1" * (4 << 20)
END
wait_for_usage $((full - 15 * MiB))
serve_stop
walk_free_image "$image"

# Without a flush the write-back comes by itself, some seconds later.
serve "$image" clean-after=0
client <<'END'
h.trim(4 << 20, 0)
END
wait_for_usage $((full - 19 * MiB))
serve_stop
walk_free_image "$image"

# ---- Fill, trim, fill again: the file doesn't grow ------------------------

for between in nothing flush fua flush-twice; do
    new_image
    serve "$image" clean-after=0
    fill 2
    serve_stop
    first=$(stat -c %s "$image")

    new_image
    serve "$image" clean-after=0
    for byte in 2 3 4; do
        fill $byte
        [ $between != flush-twice ] || client <<'END'
h.flush()
END
        client $between $count <<'END'
h.trim(int(args[1]) << 20, 0, nbd.CMD_FLAG_FUA if args[0] == "fua" else 0)
if args[0].startswith("flush"):
    h.flush()
END
    done
    fill 5
    # It grows in large steps, and is cut in the end.
    running=$(stat -c %s "$image")
    [ "$running" -le $((first + 17 * MiB)) ] ||
        fail "$between: it grew from $first to $running bytes"
    client $count <<'END'
for i in range(int(args[0])):
    assert h.pread(1 << 20, i << 20) == b"\5" * (1 << 20)
END
    serve_stop
    again=$(stat -c %s "$image")
    [ "$again" -le "$first" ] ||
        fail "$between: filled again it takes $again, not $first bytes"
    walk_free_image "$image"
done

# ---- The same with a restart between --------------------------------------

serve "$image" clean-after=0
client $count <<'END'
h.trim((int(args[0]) << 20) - 65536, 0)
END
serve_stop
[ "$(stat -c %s "$image")" -le "$first" ] || fail "a trim made the file grow"
[ "$(disk_usage "$image")" -le $((2 * MiB)) ] ||
    fail "after the end $(disk_usage "$image") bytes are still taken"
qemu-img compare -q -f qed -F qed "$image" "$image"
serve "$image" clean-after=0
client $count <<'END'
n = int(args[0]) << 20
assert h.pread(65536, n - 65536) == b"\5" * 65536
for i in range(0, n, 65536):
    h.pwrite(b"\6" * 512, i + 4096)
for i in range(0, n - 65536, 65536):
    assert h.pread(65536, i) == bytes(4096) + b"\6" * 512 + bytes(60928), i
END
serve_stop
again=$(stat -c %s "$image")
[ "$again" -le "$first" ] ||
    fail "after a restart it grew from $first to $again bytes"

# All of it trimmed: the file is cut to its tables.
serve "$image" clean-after=0
client <<'END'
h.trim(h.get_size(), 0)
END
serve_stop
[ "$(stat -c %s "$image")" -le $((2 * MiB)) ] ||
    fail "an empty image's file has $(stat -c %s "$image") bytes"
walk_image "$image"

# ---- Parts of clusters, and the image's last one --------------------------

new_image
serve "$image" clean-after=0
client <<'END'
size = h.get_size()
model = bytearray(b"\7" * (1 << 20))
h.pwrite(model, 0)
h.pwrite(b"\7" * 512, size - 512)
h.flush()
# Where there is no backing file, all that is trimmed reads as zeros.
for at, n in [(1, 1), (511, 2), (4096, 4096), (10000, 30000), (65535, 2),
              (131072 - 5, 65536 + 10), (200000, 200000), (458752, 65536)]:
    h.trim(n, at)
    model[at:at + n] = bytes(n)
    assert h.pread(1 << 20, 0) == model, (at, n)
h.trim(512, size - 512)
assert h.pread(512, size - 512) == bytes(512)
h.trim(1 << 20, size - (1 << 20))       # nothing there
# Clusters that are free now are used again.
h.pwrite(b"\x08" * 100, 458752 + 7)
model[458752 + 7:458752 + 107] = b"\x08" * 100
h.flush()
assert h.pread(1 << 20, 0) == model
h.pwrite(b"\7" * (1 << 20), 0)
h.flush()
END
before=$(disk_usage "$image")
client <<'END'
h.trim(40960, 8192)
h.flush()
END
wait_for_usage $((before - 40960))
serve_stop
walk_free_image "$image"

# Over a backing file, a part of a cluster stays as it is: nothing is written.
"$PYTHON" - "$tmpdir/base.raw" <<'END'
import sys
with open(sys.argv[1], "wb") as f:
    f.write(b"\xbb" * (1 << 20))
END
overlay=$tmpdir/overlay.qed
qedctl create "$overlay" 2M --backing base.raw --backing-format raw
serve "$overlay" clean-after=1
client <<'END'
h.pwrite(b"\1" * 131072, 0)
h.flush()
END
sleep 2
cp "$overlay" "$tmpdir/before.qed"
client <<'END'
h.trim(65535, 0)
h.trim(65535, 65537)
h.trim(1000, 200000)
h.trim(65536, 196608)           # has no place: the guest may see what it did
h.flush()
assert h.pread(131072, 0) == b"\1" * 131072
assert h.pread(917504, 131072) == b"\xbb" * 917504
END
cmp "$overlay" "$tmpdir/before.qed" || fail "partial trims wrote something"
client <<'END'
h.trim(131072, 0)               # zeros, not what the backing file has
assert h.pread(131072, 0) == bytes(131072)
h.pwrite(b"\2" * 10, 100)
assert h.pread(65536, 0) == bytes(100) + b"\2" * 10 + bytes(65426)
END
serve_stop
serve "$overlay"
client <<'END'
assert h.pread(65536, 0) == bytes(100) + b"\2" * 10 + bytes(65426)
assert h.pread(65536, 65536) == bytes(65536)
END
serve_stop
walk_free_image "$overlay"
qemu-io -r -f qed -c "read -P 0 65536 65536" -c "read -P 0 0 100" \
    -c "read -P 2 100 10" -c "read -P 0xbb 128K 896K" "$overlay" \
    > "$tmpdir/out" || fail "QEMU reads something else"
! grep -i failed "$tmpdir/out" || fail "QEMU reads something else"

# ---- discard=ignore -------------------------------------------------------

new_image
serve "$image"
fill 9
serve_stop
cp "$image" "$tmpdir/before.qed"
serve "$image" discard=ignore
client $count <<'END'
n = int(args[0]) << 20
h.trim(n, 0)
h.trim(12345, 6789, nbd.CMD_FLAG_FUA)
h.flush()
for i in range(int(args[0])):
    assert h.pread(1 << 20, i << 20) == b"\x09" * (1 << 20)
END
serve_stop
cmp "$image" "$tmpdir/before.qed" || fail "discard=ignore: the file changed"
serve "$image" discard=ignore
client <<'END'
h.zero(1 << 20, 0)              # this is no trim
assert h.pread(1 << 20, 0) == bytes(1 << 20)
assert h.pread(1 << 20, 1 << 20) == b"\x09" * (1 << 20)
END
serve_stop
walk_free_image "$image"
