#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# nbdcopy in and out, over several connections: a sparse file with random data
# comes back the same, and QEMU finds it in the image.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires nbdcopy --version
requires qemu-img --version
requires "$PYTHON" --version
requires jq --version

image=$tmpdir/disk.qed
in=$tmpdir/in
size=$((150 * 1024 * 1024 + 512))

# Random data in odd places, and among it what looks like an image.
"$PYTHON" - "$in" "$size" <<'END'
import os, random, sys
random.seed(5)
size = int(sys.argv[2])
with open(sys.argv[1], "wb") as f:
    f.truncate(size)
    for i in range(60):
        f.seek(random.randrange(size - 1000000))
        f.write(os.urandom(random.randrange(1, 1000000)))
    f.seek(65536 * 3)
    f.write(b"QED\0" + bytes([0] * 60))
    f.seek(size - 700)
    f.write(os.urandom(700))
END

for geometry in "4096 2" "65536 4" "1048576 4"; do
    echo "clusters and tables of $geometry"
    rm -f "$image"
    make_image "$image" $geometry "$size"
    serve "$image"
    nbdcopy --connections=4 --requests=32 --flush "$in" "$uri"
    nbdcopy --connections=4 --requests=32 "$uri" "$tmpdir/out"
    cmp "$in" "$tmpdir/out" || fail "another content while the server runs"
    serve_stop

    need_check "$image" && fail "NEED_CHECK is set after the server's end"
    serve "$image"
    rm "$tmpdir/out"
    nbdcopy --connections=1 --synchronous "$uri" "$tmpdir/out"
    cmp "$in" "$tmpdir/out" || fail "another content after a restart"
    serve_stop

    walk_image "$image"
    qemu_check "$image"
    qemu-img compare -f raw -F qed "$in" "$image" ||
        fail "QEMU reads another content"
done

# From one of our images to another, both served.
make_image "$tmpdir/target.qed" 65536 4 "$size"
serve "$image"
source_uri=$uri source_pidfile=$pidfile
sock=$tmpdir/sock2 pidfile=$tmpdir/pid2
uri="nbd+unix:///?socket=$sock"
serve "$tmpdir/target.qed"
nbdcopy --flush "$source_uri" "$uri"
serve_stop
pidfile=$source_pidfile
serve_stop
qemu-img compare -f raw -F qed "$in" "$tmpdir/target.qed" ||
    fail "another content after a copy from image to image"
