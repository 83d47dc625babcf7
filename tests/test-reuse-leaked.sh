#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# An image with leaked clusters full of old data: they are used again before
# the file grows, and nothing of what they held is ever seen.  Nor is what
# stands in a last cluster that isn't whole.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-io --version
requires qemu-img --version
requires jq --version
requires "$PYTHON" --version

image=$tmpdir/disk.qed
"$PYTHON" "$srcdir/leaky-image.py" "$image"
before=$(stat -c %s "$image")

io ()
{
    qemu-io -f raw "$@" "$uri" > "$tmpdir/out" 2>&1 &&
        ! grep -qi failed "$tmpdir/out" ||
        { grep -i failed "$tmpdir/out" >&2; fail "reads or writes failed"; }
}

# A little into each of 150 new clusters, which is less than are leaked.
serve "$image" clean-after=0
commands=()
for i in {300..449}; do
    commands+=(-c "write -P 0x22 $((i * 65536 + 30000)) 700")
done
io "${commands[@]}" -c flush
[ "$(stat -c %s "$image")" -le $((before + 65536)) ] ||
    fail "the file grew although there were leaked clusters"

commands=()
for i in {300..449}; do
    commands+=(-c "read -P 0 $((i * 65536)) 30000"
               -c "read -P 0x22 $((i * 65536 + 30000)) 700"
               -c "read -P 0 $((i * 65536 + 30700)) 34836")
done
io "${commands[@]}"

# Beyond the leaked ones: the file's end with its piece of a cluster.
commands=()
for i in {500..560}; do
    commands+=(-c "write -P 0x33 $((i * 65536 + 64000)) 1536")
done
io "${commands[@]}"
commands=()
for i in {500..560}; do
    commands+=(-c "read -P 0 $((i * 65536)) 64000"
               -c "read -P 0x33 $((i * 65536 + 64000)) 1536")
done
for i in {0..180..20}; do
    commands+=(-c "read -P 0x11 $((i * 65536)) 65536"
               -c "read -P 0 $((i * 65536 + 65536)) 65536")
done
io "${commands[@]}"
serve_stop

# All are in use now: nothing is left to leak.
walk_image "$image"
qemu_check "$image"
serve "$image"
io "${commands[@]}"
serve_stop

# And with many requests in flight, on what the first 11 MiB leave free.
"$PYTHON" "$srcdir/leaky-image.py" "$image"
"$PYTHON" - "$image" <<'END'
import sys
# The 0x11 clusters become leaked, too, so that the guest sees a disk of zeros.
with open(sys.argv[1], "r+b") as f:
    f.seek(65536 * 5)
    f.write(bytes(65536 * 4))
END
serve "$image"
model_test --ops 1000 --connections 4 --max-count 64K --save "$tmpdir/model" \
    "$uri"
serve_stop
serve "$image"
model_test --load "$tmpdir/model" --verify-only "$uri"
serve_stop
qemu_check "$image"
walk_image "$image"
