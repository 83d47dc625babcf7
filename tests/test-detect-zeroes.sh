#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# detect-zeroes=on: clusters of zeros that a client writes take no place, give
# back the one they have, and hide what the backing file has.  Off by default.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version
requires "$PYTHON" -c "import nbd"

image=$tmpdir/disk.qed

requires truncate -s 1M "$tmpdir/holes"
requires fallocate --punch-hole --offset 4096 --length 4096 "$tmpdir/holes"

"$PYTHON" - "$tmpdir/base.raw" <<'END'
import sys
with open(sys.argv[1], "wb") as f:
    f.write(b"\xbb" * 3000001)
END

# write_zeros: 8 MiB of zeros in large and small pieces
write_zeros ()
{
    client <<'END'
h.pwrite(bytes(4 << 20), 0)
for at in range(4 << 20, 8 << 20, 16384):
    h.pwrite(bytes(16384), at)
h.flush()
for at in range(0, 8 << 20, 1 << 20):
    assert h.pread(1 << 20, at) == bytes(1 << 20)
END
}

for mode in off on; do
    rm -f "$image"
    qedctl create "$image" 16M
    if [ $mode = on ]; then
        serve "$image" detect-zeroes=on
    else
        serve "$image"
    fi
    write_zeros
    serve_stop
    length=$(stat -c %s "$image")
    if [ $mode = on ]; then
        [ "$length" -lt 1000000 ] || fail "zeros were stored: $length bytes"
    else
        [ "$length" -gt $((8 << 20)) ] || fail "zeros were not stored"
    fi
    walk_image "$image"
    qemu_check "$image"
done

# Over data: the clusters are freed.
serve "$image" detect-zeroes=on clean-after=0
client <<'END'
h.pwrite(b"\1" * (8 << 20), 0)
h.flush()
END
full=$(disk_usage "$image")
write_zeros
for i in {1..50}; do
    [ "$(disk_usage "$image")" -gt $((full - (15 << 19))) ] || break
    sleep 0.1
done
[ "$(disk_usage "$image")" -le $((full - (15 << 19))) ] ||
    fail "zeros over data left $(disk_usage "$image") of $full bytes"
serve_stop
walk_free_image "$image"

# Random work, with much that is zero, over nothing and over a backing file
# which ends within a cluster.
for base in "" base.raw; do
    for connections in 1 3; do
        rm -f "$image"
        qedctl create "$image" 4194816 \
            ${base:+--backing $base --backing-format raw}
        serve "$image" detect-zeroes=on
        client "${base:+$tmpdir/$base}" $connections "$uri" \
            "$tmpdir/model" <<'END'
import random
rng = random.Random(len(args[0]))
handles = []
for i in range(int(args[1])):
    handles.append(nbd.NBD())
    handles[-1].connect_uri(args[2])
model = bytearray(h.get_size())
if args[0]:
    data = open(args[0], "rb").read()
    model[:len(data)] = data
for i in range(400):
    n = rng.choice([1, 512, 4096, 65536, 131072, 300000])
    at = rng.randrange(len(model))
    if rng.random() < .5:
        at -= at % 65536
    n = min(n, len(model) - at)
    data = bytearray(n)
    if rng.random() < .3:
        data[rng.randrange(n)] = 1
    elif rng.random() < .3:
        data = bytearray([i % 256]) * n
    rng.choice(handles).pwrite(data, at, rng.choice([0, 0, nbd.CMD_FLAG_FUA]))
    model[at:at + n] = data
    if i % 10 == 0:
        at = rng.randrange(len(model) - 300000)
        assert h.pread(300000, at) == model[at:at + 300000], i
assert h.pread(len(model), 0) == model
with open(args[3], "wb") as f:
    f.write(model)
END
        serve_stop
        walk_free_image "$image"
        qemu-img compare -q -f qed -F raw "$image" "$tmpdir/model" ||
            fail "QEMU reads something else"
    done
done
