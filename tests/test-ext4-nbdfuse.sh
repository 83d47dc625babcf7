#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# A file system on the image, through nbdfuse and a loop device: made, filled,
# unmounted, checked; and the same again after the server was restarted.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

PATH=$PATH:/usr/sbin:/sbin

requires nbdfuse --version
requires qemu-img --version
requires mkfs.ext4 -V
requires losetup --version
requires jq --version
requires "$PYTHON" --version
[ "$(id -u)" = 0 ] || skip "a loop device and a mount need root"
[ -c /dev/fuse ] || skip "there is no /dev/fuse"
losetup -f >/dev/null 2>&1 || skip "there is no free loop device"

image=$tmpdir/disk.qed
mkdir "$tmpdir/fuse" "$tmpdir/mnt"
loop=

detach ()
{
    if mountpoint -q "$tmpdir/mnt"; then umount "$tmpdir/mnt"; fi
    if [ -n "$loop" ]; then losetup -d "$loop"; fi
    loop=
    if mountpoint -q "$tmpdir/fuse"; then fusermount3 -u "$tmpdir/fuse"; fi
    if [ -n "$fuse_pid" ]; then wait "$fuse_pid" || :; fi
    fuse_pid=
}

attach ()
{
    nbdfuse "$tmpdir/fuse/disk" "$uri" &
    fuse_pid=$!
    for i in $(seq 100); do
        [ -f "$tmpdir/fuse/disk" ] && break
        kill -0 "$fuse_pid" 2>/dev/null || skip "nbdfuse can't mount here"
        sleep 0.1
    done
    [ -f "$tmpdir/fuse/disk" ] || fail "nbdfuse did not mount"
    loop=$(losetup -f --show "$tmpdir/fuse/disk") || skip "losetup can't attach"
}
cleanup_fn detach

# A few hundred files, large and small, with names and holes.
mkdir "$tmpdir/files"
"$PYTHON" - "$tmpdir/files" <<'END'
import os, random, sys
random.seed(6)
for i in range(300):
    d = os.path.join(sys.argv[1], "d%d" % (i % 7))
    os.makedirs(d, exist_ok=True)
    with open(os.path.join(d, "file%d" % i), "wb") as f:
        if i % 10 == 0:
            f.seek(random.randrange(1000000))
        f.write(random.randbytes(random.randrange(1, 200000)))
END

make_image "$image" 65536 4 300M
serve "$image"
attach
mkfs.ext4 -q -E nodiscard "$loop"
mount -t ext4 "$loop" "$tmpdir/mnt" 2>/dev/null || skip "ext4 can't be mounted"
cp -a "$tmpdir/files" "$tmpdir/mnt/first"
sync -f "$tmpdir/mnt"
umount "$tmpdir/mnt"
e2fsck -fn "$loop" || fail "e2fsck finds errors"
detach
serve_stop
need_check "$image" && fail "NEED_CHECK is set after the server's end"
walk_image "$image"
qemu_check "$image"

serve "$image"
attach
e2fsck -fn "$loop" || fail "e2fsck finds errors after a restart"
mount -t ext4 "$loop" "$tmpdir/mnt"
diff -r "$tmpdir/files" "$tmpdir/mnt/first" ||
    fail "files differ after a restart"
cp -a "$tmpdir/files" "$tmpdir/mnt/second"
rm -r "$tmpdir/mnt/first"
umount "$tmpdir/mnt"
detach
serve_stop

# And without us: QEMU's view of the image holds the file system, too.
qemu_check "$image"
qemu-img convert -f qed -O raw "$image" "$tmpdir/disk.raw"
e2fsck -fn "$tmpdir/disk.raw" || fail "e2fsck finds errors in QEMU's view"
mount -t ext4 -o ro,loop,noload "$tmpdir/disk.raw" "$tmpdir/mnt"
diff -r "$tmpdir/files" "$tmpdir/mnt/second" ||
    fail "files differ in QEMU's view"
umount "$tmpdir/mnt"
