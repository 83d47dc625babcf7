#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# An image that is marked clean but names offsets past the file's end, as a
# host leaves it that lost power: what is named so gives EIO, the rest is
# read, nothing is written, and the file stays as it is to the last byte.  (A
# server that allocates at the end of such a file shows one cluster's content
# in another.)

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-io --version
requires "$PYTHON" --version

image=$tmpdir/disk.qed

reads ()
{
    qemu-io -r -f raw -c "read -P $1 $2 $3" "$uri" > "$tmpdir/out" 2>&1 &&
        ! grep -qi failed "$tmpdir/out" ||
        { cat "$tmpdir/out" >&2; fail "$kind: read $2+$3 should give $1"; }
}

eio ()
{
    qemu-io -r -f raw -c "read $1 $2" "$uri" > "$tmpdir/out" 2>&1 || :
    grep -q "Input/output error" "$tmpdir/out" ||
        { cat "$tmpdir/out" >&2; fail "$kind: read $1+$2 should give EIO"; }
}

refused ()
{
    if qemu-io -t writeback -f raw -c "write -P 0x33 $1 $2" "$uri" \
            > "$tmpdir/out" 2>&1 && ! grep -qi failed "$tmpdir/out"; then
        cat "$tmpdir/out" >&2
        fail "$kind: write $1+$2 was not refused"
    fi
}

for kind in data table short-table; do
    rm -f "$image"
    "$PYTHON" "$srcdir/past-end.py" "$image" $kind
    cp "$image" "$tmpdir/before.qed"
    serve "$image" clean-after=1 2> "$tmpdir/log"

    reads 0x11 0 65536
    reads 0x22 131072 65536
    reads 0 10000000 100000
    if [ $kind = data ]; then
        eio 65536 4096
        eio 131071 2
        eio 196608 65536
        # A request that also touches what is sound fails as a whole.
        eio 0 262144
    else
        eio 3G 512
        eio 2147483648 4096
        eio 2147483136 1024
        reads 0 2147418112 65536
        reads 0 5G 65536
    fi

    # The scan had its time: now all writes are refused, wherever they go.
    sleep 1
    refused 65536 4096
    refused 3G 4096
    refused 5G 4096
    refused 10000000 70000
    refused 0 4096
    reads 0x11 0 65536
    serve_stop
    cmp "$image" "$tmpdir/before.qed" || fail "$kind: the file was changed"
    grep -qi "past\|beyond\|end of the file" "$tmpdir/log" ||
        { cat "$tmpdir/log" >&2; fail "$kind: the log doesn't say it"; }
done
