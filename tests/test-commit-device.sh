#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl commit into a block device: its length stays as it is, so the overlay
# must hold no data behind it; and it must not be in use.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires losetup --version
requires qemu-img --version
requires qemu-io --version
requires jq --version
[ "$(id -u)" = 0 ] || skip "needs root to make a loop device"

cd "$tmpdir"
truncate -s 8M disk
loop=$(losetup --show -f disk 2>/dev/null) || skip "cannot make a loop device"
cleanup_fn losetup -d "$loop"

# make_top SIZE COMMAND...: qemu-io's
make_top ()
{
    local commands=() c

    size=$1
    shift
    for c; do commands+=(-c "$c"); done
    tr '\0' '\1' < /dev/zero | dd of="$loop" bs=1M count=8 status=none \
        oflag=direct iflag=fullblock
    rm -f top.qed
    qedctl create top.qed $size --backing "$loop" --backing-format raw
    qemu-io -f qed "${commands[@]}" top.qed > /dev/null
    cp top.qed top.was
    qemu-img convert -f qed -O raw top.qed want
}

commit () { timeout 60 qedctl commit --allow-backing any top.qed; }

refuses ()
{
    if commit 2> err; then fail "it was not refused"; fi
    grep -q "$1" err || { cat err; fail "the message lacks \"$1\""; }
    cmp top.qed top.was || fail "the overlay was changed"
    dd if="$loop" bs=1M status=none | cmp - \
        <(tr '\0' '\1' < /dev/zero | head -c 8M) || fail "it was written to"
}

succeeds ()
{
    commit || fail "it was refused"
    dd if="$loop" bs=1M status=none > device
    cmp -n $((size < 8388608 ? size : 8388608)) device want ||
        fail "the device's content is wrong"
    qemu-img convert -f qed -O raw top.qed now
    cmp now want || fail "the content has changed"
    qemu_check top.qed
    [ $(stat -c %s top.qed) -eq 327680 ] || fail "the overlay is not empty"
}

echo "as long as the device, and in two ways shorter"
make_top 8388608 "write -P 2 0 1M" "write -z 2M 1M" "write -P 3 7M 1M"
succeeds
make_top 4194304 "write -P 2 0 1M" "write -z 2M 64k"
succeeds
make_top $((4 * 1048576 + 512)) "write -P 2 4M 512"
succeeds

echo "longer: zeros may lie behind the device's end, data may not"
make_top 16777216 "write -P 2 7M 1M" "write -z 6M 8M"
succeeds
make_top 16777216 "write -P 2 7M 64k" "write -P 4 15M 64k"
refuses "holds data up to 15794176 bytes.* is a device of 8388608 bytes"
make_top 8390656 "write -P 4 8M 2k"
refuses "device of 8388608 bytes"

echo "where it may lie, and who uses it"
make_top 8388608 "write -P 2 0 1M"
if qedctl commit top.qed 2> err; then fail "a device isn't beside it"; fi
grep -q "$loop is not inside.*--allow-backing" err || { cat err; fail why; }
timeout 60 qedctl commit --allow-backing /dev top.qed
qemu-img map -f qed --output=json top.qed | jq -e 'all(.depth == 1)' \
    > /dev/null || fail "it was not committed"
if mkfs.ext4 -q -F "$loop" 2>/dev/null && mkdir mnt &&
        mount "$loop" mnt 2>/dev/null; then
    qemu-io -f qed -c "write -P 2 0 1M" top.qed > /dev/null
    cp top.qed top.was
    if commit 2> err; then fail "a mounted device was written to"; fi
    umount mnt
    grep -q "$loop: .*busy" err || { cat err; fail "the message is wrong"; }
    cmp top.qed top.was || fail "the overlay was changed"
else
    echo "not checked: nothing can be mounted here"
fi
