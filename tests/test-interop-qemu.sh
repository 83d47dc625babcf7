#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Images that QEMU made and filled are served with the same content; what is
# then written through us QEMU finds in the image, which it calls clean.  All
# cluster sizes, all table sizes, sizes from 0 to the largest.  Where QEMU
# can't open the geometry, qedctl makes the image and we read it ourselves.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires nbdinfo --version
requires jq --version
requires "$PYTHON" --version

image=$tmpdir/disk.qed

# The places to write, as lines of offset, length and pattern: places SIZE
# CLUSTER TABLE ROUND.  The second round's overlap the first's.
places ()
{
    local size=$1 cluster=$2 span=$(($2 * ($2 * $3 / 8))) shift=0 base=16

    [ "$size" -gt 0 ] || return 0
    if [ "$4" = 2 ]; then shift=2048 base=32; fi
    if [ "$size" -lt 1048576 ]; then
        echo "0 512 $base"
        return 0
    fi
    echo "$shift 4096 $((base + 1))"
    if [ $((16 * cluster)) -lt "$size" ]; then
        echo "$((3 * cluster - 1024 + shift)) 8192 $((base + 2))"
    fi
    # 0: the span doesn't fit 63 bits
    if [ "$span" -gt 0 ] && [ "$span" -lt $((size - 65536)) ]; then
        echo "$((span - 4096 + shift)) 8192 $((base + 3))"
    fi
    echo "$((size / 3 / 512 * 512 + 512 + shift)) 30000 $((base + 4))"
    echo "$((size - 32768 + shift)) 30720 $((base + 5))"
}

# qemu_io COMMAND ROUND TARGET-OPTIONS...: write or read at all places.
qemu_io ()
{
    local command=$1 round=$2 commands=() offset length pattern
    shift 2

    while read -r offset length pattern; do
        commands+=(-c "$command -P $pattern $offset $length")
    done < <(places "$size" "$cluster" "$table" "$round")
    [ ${#commands[@]} -gt 0 ] || return 0
    qemu-io "${commands[@]}" "$@" > "$tmpdir/io.out" 2>&1 ||
        { cat "$tmpdir/io.out" >&2; fail "$what: $command"; }
    if grep -qi failed "$tmpdir/io.out"; then
        cat "$tmpdir/io.out" >&2
        fail "$what: $command finds another content"
    fi
}

# After the second round only parts of the first are left to see: the first
# 2048 bytes of each place.
first_is_left ()
{
    local commands=() offset length pattern

    [ "$size" -ge 1048576 ] || return 0
    while read -r offset length pattern; do
        commands+=(-c "read -P $pattern $offset 2048")
    done < <(places "$size" "$cluster" "$table" 1)
    qemu-io -r -f raw "${commands[@]}" "$uri" > "$tmpdir/io.out" 2>&1 &&
        ! grep -qi failed "$tmpdir/io.out" ||
        { cat "$tmpdir/io.out" >&2; fail "$what: the first round's data"; }
}

case_of ()
{
    cluster=$1 table=$2 size=$3
    what="clusters of $1, tables of $2, $3 bytes"
    local qemu=yes

    qemu_opens "$1" "$2" || qemu=no
    # QEMU's disks end a little earlier.
    [ "$size" -lt 9223372034707292160 ] || qemu=no
    [ "$size" -gt 0 ] || qemu=no
    echo "$what, with QEMU: $qemu"
    rm -f "$image"
    if [ "$qemu" = yes ]; then
        qemu-img create -q -f qed \
            -o "cluster_size=$cluster,table_size=$table" "$image" "$size"
        qemu_io write 1 -f qed "$image"
    elif [ "$qed_server" = qemu ]; then
        return 0
    else
        make_image "$image" "$cluster" "$table" "$size"
    fi

    serve "$image"
    [ "$(nbdinfo --size "$uri")" = "$size" ] || fail "$what: another size"
    [ "$qemu" = yes ] || [ "$size" -ge 9223372034707292160 ] ||
        qemu_io write 1 -f raw "$uri"
    if [ "$size" -lt 9223372034707292160 ]; then
        qemu_io read 1 -r -f raw "$uri"
        qemu_io write 2 -f raw "$uri"
        qemu_io read 2 -r -f raw "$uri"
        first_is_left
    else
        # Nor can it be QEMU that reads the last bytes.
        model_test --ops 100 --connections 2 --cluster-size "$cluster" \
            --table-size "$table" "$uri"
    fi
    serve_stop

    walk_image "$image"
    if [ "$qemu" = yes ]; then
        qemu_check "$image"
        qemu_io read 2 -r -f qed "$image"
    fi
    # All bytes, where they are few.
    if [ "$qemu" = yes ] && [ "$size" -le 268435456 ]; then
        qemu-img convert -f qed -O raw "$image" "$tmpdir/qemu.raw"
        serve "$image"
        qemu-img compare -q -f raw -F raw "$tmpdir/qemu.raw" "$uri" ||
            fail "$what: QEMU reads another content than we serve"
        serve_stop
    fi
}

# The largest image that a geometry can hold, up to 2^63 - 512.
largest ()
{
    "$PYTHON" -c "n = $1 * $2 // 8; print (min (n * n * $1, 2**63 - 512))"
}

# Sizes.
for bytes in 0 512 10486272 268435456 1099511627776 \
             "$(largest 65536 4)"; do
    case_of 65536 4 "$bytes"
done
case_of 4096 1 0
case_of 4096 1 "$(largest 4096 1)"
case_of 4096 2 "$(largest 4096 2)"
case_of 2097152 8 "$(largest 2097152 8)"
case_of 67108864 16 "$(largest 67108864 16)"

# Cluster sizes: 4 KiB to 64 MiB.
for ((c = 4096; c <= 67108864; c *= 2)); do
    most=$(largest $c 4)
    case_of $c 4 $((most < 1099511627776 ? most : 1099511627776))
done

# Table sizes.
for t in 1 2 8 16; do
    case_of 4096 $t $((33 * 1048576 + 512))
    case_of 1048576 $t 1099511627776
done
