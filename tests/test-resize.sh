#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl resize: what grows reads as zeros, whatever lay behind the old end: in
# the last cluster, in the tables, in the backing file; what is cut off is lost
# only with --force, and never comes back; nothing else changes.  By QEMU's
# eyes.  What is refused leaves the image as it is.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/backing-server.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version

cd "$tmpdir"

size_of ()
{
    qedctl info --json "$1" | jq '.["virtual-size"]'
}

# random_file FILE BYTES SEED: with holes
random_file ()
{
    "$PYTHON" - "$@" <<'END'
import random, sys
rng = random.Random(int(sys.argv[3]))
size = int(sys.argv[2])
with open(sys.argv[1], "wb") as f:
    for at in range(0, size, 50000):
        if rng.random() < .7:
            f.seek(at)
            f.write(rng.randbytes(min(50000, size - at)))
    f.truncate(size)
END
}

# work SEED: write at random into i.qed and the model, and up to the end.
work ()
{
    "$PYTHON" - "$1" > commands <<'END'
import os, random, sys
rng = random.Random(int(sys.argv[1]))
size = os.stat("model").st_size
with open("model", "r+b") as f:
    for i in range(12):
        n = rng.choice([512, 4096, 65536, 200704])
        at = rng.randrange(size // 512) * 512
        if i < 2:
            at = max(size - n, 0)
        n = min(n, size - at)
        print("write -P %d %d %d" % (i + 1, at, n))
        f.seek(at)
        f.write(bytes([i + 1]) * n)
END
    qemu-io -f qed i.qed < commands > out 2>&1 || { cat out; fail "qemu-io"; }
    if grep -i failed out; then fail "qemu-io"; fi
}

# same: i.qed and the model have the same content and size.
same ()
{
    [ "$(size_of i.qed)" = "$(stat -c %s model)" ] || fail "i.qed: its size"
    qemu-img compare -f qed -F raw i.qed model > out || {
        cat out
        fail "i.qed: another content"
    }
    walk_free_image i.qed
}

# resize SIZE OPTION...: i.qed and the model
resize ()
{
    qedctl resize "${@:2}" i.qed "$1" > out 2>&1 || {
        cat out
        fail "resize $*"
    }
    if [ -s out ]; then cat out; fail "resize $*: it talks"; fi
    truncate -s "$(size_of i.qed)" model
    same
}

# refused PATTERN ARGUMENT...: one line, exit 1, and i.qed as it was
refused ()
{
    local r=0

    cp i.qed before.qed
    timeout 30 qedctl resize "${@:2}" > out 2> err || r=$?
    if [ $r -ne 1 ] || [ "$(wc -l < err)" -ne 1 ] || [ -s out ] ||
           ! grep -q -e "$1" err; then
        cat out err
        fail "resize ${*:2}: exit $r; expected 1 and one line with '$1'"
    fi
    cmp i.qed before.qed || fail "resize ${*:2}: it changed the image"
}

# ---- Up and down, without a backing file ----------------------------------

seed=0
for geometry in "4096 2" "65536 4" "1048576 2"; do
    set -- $geometry
    echo "clusters of $1, tables of $2"
    rm -f i.qed model
    make_image i.qed $1 $2 1000448
    truncate -s 1000448 model
    # Within the last cluster, to its end, beyond; and into other tables.
    for size in 1000960 1001472 1003520 1048576 1049088 3000320 40000512; do
        seed=$((seed + 1))
        work $seed
        resize $size
    done
    work $seed
    refused "bytes of data are in the way, the first at guest offset 0x" \
        --shrink i.qed 500224
    refused "give --shrink" i.qed 500224
    for size in 30000128 2500608 1048576 512 0; do
        resize $size --shrink --force
        resize +1M
        work $seed              # it is there to be written to
        resize $size --shrink --force
    done
done

# What is cut off gives its space back.
rm -f i.qed
make_image i.qed 65536 4 100M
serve i.qed
qemu-io -f raw -c "write -P 1 0 32M" "$uri" > out
serve_stop
qedctl resize --shrink --force i.qed 1M
[ "$(disk_usage i.qed)" -lt 3000000 ] || fail "the space is not given back"
[ "$(stat -c %s i.qed)" -lt 3000000 ] || fail "the file is not cut"

# ---- What is in the way ---------------------------------------------------

rm -f i.qed
qedctl create i.qed 10M
qemu-io -f qed -c "write -P 1 0 100k" -c "write -P 2 4M 64k" \
    -c "write -z 6M 1M" i.qed > out
refused "i.qed: cannot be cut to 3145728 bytes: 65536 bytes of data .* 0x400000" \
    --shrink i.qed 3M
# Zero clusters are nothing, nor are clusters that are cut in two, if what goes
# is zeros.
qedctl resize --shrink i.qed $((4 * 1024 * 1024 + 65536))
[ "$(size_of i.qed)" -eq 4259840 ] || fail "a cut that loses nothing"
refused "51712 bytes of data are in the way, the first at guest offset 0x403600" \
    --shrink i.qed $((4 * 1024 * 1024 + 0x3600))
qemu-io -f qed -c "write -P 0 4206592 53248" i.qed > out
qedctl resize --shrink i.qed $((4 * 1024 * 1024 + 0x3600))
qemu-io -f qed -c "read -P 2 4M 0x3000" -c "read -P 0 4206592 0x600" i.qed > out
! grep -i failed out || fail "the rest of the last cluster"

# ---- Rubbish behind the end -----------------------------------------------

# shorten BYTES: the header says so, and nothing else does.
shorten ()
{
    "$PYTHON" - "$1" <<'END'
import struct, sys
with open("i.qed", "r+b") as f:
    f.seek(48)
    f.write(struct.pack("<Q", int(sys.argv[1])))
END
    truncate -s "$1" model
}

for size in 1048576 1049088 2097152 1048064; do
    for new in 2097664 4194304 4194304000; do
        rm -f i.qed model
        random_file model 4194304 $size
        qemu-img convert -f raw -O qed -o cluster_size=4096 model i.qed
        shorten $size
        resize $new
    done
done

# ---- Over a backing file --------------------------------------------------

random_file base.raw 5000192 7
random_file small.raw 1000000 8
qemu-img create -q -f qed -b base.raw -F raw -o cluster_size=4096 mid.qed 4M
qemu-io -f qed -c "write -P 3 1M 100k" -c "write -P 4 3M 1M" mid.qed > out
qemu-img create -q -f qed -b base.raw -F raw mid64.qed 5M
for backing in "base.raw raw" "mid.qed qed" "mid64.qed qed" "small.raw raw"; do
    for cluster in 4096 65536; do
        for size in 1048576 999936 4194304; do
            set -- $backing
            echo "over $1, clusters of $cluster, $size bytes"
            rm -f i.qed model
            qemu-img create -q -f qed -b $1 -F $2 -o cluster_size=$cluster \
                i.qed $size
            qemu-img convert -f $2 -O raw $1 model
            truncate -s $size model
            [ $size = 4194304 ] || work $size
            resize $((size + 512))
            resize 4198400
            resize 6000128
        done
    done
done
# And back: the backing file must not show again.
rm -f i.qed
qemu-img create -q -f qed -b base.raw -F raw i.qed 5000192
cp base.raw model
resize 700416 --shrink
resize 5000192
# Its own place is made in the last cluster, for what it had of the base.
qedctl create --force --backing base.raw --backing-format raw i.qed 700416
cp base.raw model
truncate -s 700416 model
resize 700928

# Over the export of a server.
start_nbdkit_backing file base.raw
rm -f i.qed
qedctl create --backing "$backing_uri" i.qed 700416
cp base.raw model
truncate -s 700416 model
refused "on an NBD server: allow that" i.qed 4M
resize 700928 --allow-backing any
resize 6000128 --allow-backing any
stop_backing TERM

# Which backing files may be opened.
mkdir -p sub other
mv base.raw other
qedctl create --force --backing ../other/base.raw sub/out.qed 1M
cp sub/out.qed i.qed
refused "not inside" sub/out.qed 2M
refused "No such file" --allow-backing nowhere sub/out.qed 2M
qedctl resize --allow-backing any sub/out.qed 2M
qedctl resize --allow-backing other sub/out.qed 3M
mv other/base.raw .
[ "$(size_of sub/out.qed)" = 3145728 ] || fail "--allow-backing"

# ---- Quickly --------------------------------------------------------------

rm -f i.qed model
qedctl create i.qed 1M
timeout 20 qedctl resize i.qed 10T || fail "10 TiB take too long"
[ "$(size_of i.qed)" = 10995116277760 ] || fail "10 TiB"
timeout 20 qedctl resize --shrink i.qed -9T || fail "9 TiB take too long"
[ "$(size_of i.qed)" = 1099511627776 ] || fail "1 TiB"
truncate -s 10T sparse.raw
qemu-io -f raw -c "write -P 5 8T 1M" sparse.raw > out
qedctl create --force --backing sparse.raw --backing-format raw i.qed 1M
timeout 20 qedctl resize i.qed 10T || fail "10 TiB take too long over a file"
qemu-io -f qed -c "read -P 0 8T 1M" i.qed > out
! grep -i failed out || fail "the backing file shows"
[ "$(disk_usage i.qed)" -lt 2000000 ] || fail "so much for so little"

# ---- Sizes ----------------------------------------------------------------

rm -f i.qed
qedctl create i.qed 1M
qedctl resize i.qed +512
[ "$(size_of i.qed)" = 1049088 ] || fail "+512"
qedctl resize --shrink i.qed -1K
[ "$(size_of i.qed)" = 1048064 ] || fail "-1K"
for size in 1048064 +0 -0; do
    cp i.qed before.qed
    qedctl resize i.qed $size > out 2> err
    grep -q "1048064 bytes already" out || fail "the same size: $(cat out)"
    [ ! -s err ] && cmp i.qed before.qed || fail "the same size"
done
refused "not a multiple of 512: the next one is 1048576" i.qed 1048065
refused "not a multiple of 512: the next one is 1048576" i.qed +1
refused "is not a size" i.qed x
refused "is not a size" i.qed +x
refused "is not a size" i.qed ++1
refused "is not a size" i.qed ''
refused "too large" i.qed 16E
refused "the image can have 70368744177664 bytes at most" i.qed 65T
refused "the image can have 70368744177664 bytes at most" i.qed +15E
refused "1048064 bytes: 2097152 fewer are not possible" --shrink i.qed -2M
refused "without --shrink" --force i.qed 2M
refused "too few arguments" i.qed
refused "too many arguments" i.qed 1M 2M
refused "too few arguments"
refused "too few arguments" -1
refused "unknown" --grow i.qed 2M
refused "No such file" no.qed 2M
# To the largest, which QEMU can't open.
qedctl resize i.qed 64T
[ "$(size_of i.qed)" = 70368744177664 ] || fail "64T"
qedctl resize --shrink i.qed 0
[ "$(size_of i.qed)" = 0 ] || fail "0"
qedctl resize i.qed 1M
qemu_check i.qed
qedctl create --cluster-size 64M --table-size 16 large.qed 1M
qedctl resize large.qed 9223372036854775296
[ "$(size_of large.qed)" = 9223372036854775296 ] ||
    qedctl info --json large.qed | grep -q 9223372036854775296 ||
    fail "the largest of all"

# ---- Who may not be resized -----------------------------------------------

printf '\x02' | dd of=i.qed bs=1 seek=16 conv=notrunc status=none
refused "NEED_CHECK is set .* repair it first" i.qed 2M
printf '\0' | dd of=i.qed bs=1 seek=16 conv=notrunc status=none
# An unknown feature that may be ignored stays; one that may not is gone.
printf '\x05' | dd of=i.qed bs=1 seek=24 conv=notrunc status=none
printf '\x06' | dd of=i.qed bs=1 seek=32 conv=notrunc status=none
qedctl resize i.qed 2M
[ "$(header_field i.qed 24 8) $(header_field i.qed 32 8)" = "5 0" ] ||
    fail "unknown features"
printf '\0' | dd of=i.qed bs=1 seek=24 conv=notrunc status=none
# What others keep in the header's cluster.
printf 'not yours' | dd of=i.qed bs=1 seek=300 conv=notrunc status=none
qedctl resize i.qed 3M
[ "$(dd if=i.qed bs=1 skip=300 count=9 status=none)" = "not yours" ] ||
    fail "bytes of others in the header"
echo "no image" > text
refused "not a QED image" text 2M
refused "not a regular file\|is a directory\|neither" . 2M

serve i.qed
refused "in use by nbdkit, process $(cat "$pidfile")" i.qed 4M
grep -q "read-only" err && fail "resize can't do with reading"
serve_stop
"$abs_top_builddir/tests/lock-holder" i.qed reader < <(sleep 20) > held &
holder=$!
cleanup_fn eval "kill $holder 2>/dev/null || :"
for i in {1..100}; do [ ! -s held ] || break; sleep 0.1; done
refused "in use by .*lock-holder" i.qed 4M
kill $holder
if [ "$(id -u)" -ne 0 ]; then
    chmod 444 i.qed
    refused "Permission denied" i.qed 4M
    chmod 644 i.qed
fi

# ---- Damage ---------------------------------------------------------------

rm -f i.qed
qemu-img create -q -f qed i.qed 1M
qemu-io -f qed -c "write -P 1 0 64k" i.qed > out
"$PYTHON" - <<'END'
import struct
with open("i.qed", "r+b") as f:
    f.seek(40)
    l1, = struct.unpack("<Q", f.read(8))
    f.seek(l1)
    l2, = struct.unpack("<Q", f.read(8))
    f.seek(l2 + 8)
    f.write(struct.pack("<Q", 0x123000))
END
cp i.qed before.qed
! qedctl resize i.qed 2M 2> err || fail "a damaged image was resized"
grep -q "damaged: " err || fail "the damage is not named"
cmp i.qed before.qed || fail "a damaged image was changed"
