#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# QEMU's programs as clients: discards, zeroes on any bytes, overlays of
# theirs over an export of ours, commits into it, and copies of sparse disks.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version
requires "$PYTHON" --version

cd "$tmpdir"
image=disk.qed

requires truncate -s 1M holes
requires fallocate --punch-hole --offset 4096 --length 4096 holes

"$PYTHON" -c 'open("base.raw", "wb").write(b"\xbb" * 6000000)'

for base in "" base.raw; do
    rm -f $image
    qedctl create $image 8M ${base:+--backing $base --backing-format raw}
    serve $image clean-after=0
    was=0 && [ -z "$base" ] || was=0xbb

    # Unaligned writes and zeroes, with leave to unmap and without.
    io raw "$uri" "write -P 1 0 1M" "write -z 100001 333" \
        "write -z -u 200000 65536" "write -z 327681 131071" \
        "write -z -u 524288 131072" "write -f -z 700000 1" flush
    io raw "$uri" "read -P 1 0 100001" "read -P 0 100001 333" \
        "read -P 1 100334 99666" "read -P 0 200000 65536" \
        "read -P 1 265536 62145" "read -P 0 327681 131071" \
        "read -P 1 458752 65536" "read -P 0 524288 131072" \
        "read -P 1 655360 44640" "read -P 0 700000 1" \
        "read -P 1 700001 348575"
    # Zeroes where nothing was allocated.
    io raw "$uri" "write -z -u 2097152 1M" "write -z 4194305 100" \
        "read -P 0 2M 1M" "read -P $was 3M 1M" "read -P $was 4M 1" \
        "read -P 0 4194305 100" "read -P $was 4194405 1000"

    # A discard of whole clusters reads as zeros with QEMU's eyes, too; one of
    # parts never shows anything foreign.
    io raw "$uri" "write -P 2 1M 1M" flush
    before=$(disk_usage $image)
    io raw "$uri" "discard 1M 1M" flush "read -P 0 1M 1M"
    for i in {1..50}; do
        [ $(disk_usage $image) -gt $((before - 1000000)) ] || break
        sleep 0.1
    done
    [ $(disk_usage $image) -le $((before - 1000000)) ] ||
        fail "a discard freed nothing"
    io raw "$uri" "write -P 3 1M 128k" "discard 1049000 512" \
        "read -P 3 1M 424" "read -P 3 1049512 64k"
    serve_stop
    walk_free_image $image
done

# ---- QEMU's overlay over our export, and a commit into it -----------------

serve $image
qemu-img create -q -f qcow2 -b "$uri" -F raw overlay.qcow2
io qcow2 overlay.qcow2 "write -P 9 6M 100k" "write -z 0 64k" \
    "write -P 8 5999000 2000" "discard 2M 64k" "read -P 0xbb 3M 1M"
qemu-img convert -f qcow2 -O raw overlay.qcow2 expected.raw
timeout 60 qemu-img commit -q -f qcow2 overlay.qcow2
qemu-img compare -q -f raw -F raw "$uri" expected.raw
serve_stop
walk_free_image $image
qemu-img compare -q -f qed -F raw $image expected.raw

# An overlay in QED over a QED that is served otherwise is refused elsewhere;
# here a copy of the whole chain, through NBD, both ways.
rm -f copy.qed
qedctl create copy.qed 8M
serve copy.qed clean-after=0
timeout 60 qemu-img convert -n -f raw -O raw --target-is-zero -S 4k \
    expected.raw "$uri"
qemu-img compare -q -f raw -F raw "$uri" expected.raw
# Over what is there: the zeros have to be written.
io raw "$uri" "write -P 7 0 8M"
timeout 60 qemu-img convert -n -f raw -O raw expected.raw "$uri"
qemu-img compare -q -f raw -F raw "$uri" expected.raw
serve_stop
walk_free_image copy.qed
qemu-img compare -q -f qed -F raw copy.qed expected.raw
[ $(disk_usage copy.qed) -le 8000000 ] ||
    fail "zeros were stored: $(disk_usage copy.qed) bytes"

# ---- A large sparse disk --------------------------------------------------

rm -f large.qed
qedctl create large.qed 10T
serve large.qed
io raw "$uri" "write -P 1 0 64k" "write -P 2 5T 64k" \
    "write -P 3 10995116212224 64k" "discard 1M 2047M" "write -z -u 1G 2047M" \
    "read -P 1 0 64k" "read -P 2 5T 64k" "read -P 3 10995116212224 64k" \
    "read -P 0 1G 1M" flush
timeout 60 qemu-img map --output=json -f raw "$uri" > map.json
[ $(jq '[.[] | select(.zero | not)] | length' map.json) -eq 3 ] ||
    fail "the map of the large disk is wrong"
serve_stop
walk_free_image large.qed
