#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Random work on images of several geometries, over one and four connections,
# with zeroes, trims and block status, against a flat model: what is read back
# while the server runs, after a restart, and by QEMU from the image, is what
# was written.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version
requires "$PYTHON" --version

image=$tmpdir/disk.qed
model=$tmpdir/model

# Nothing is leaked or broken, by QEMU's eyes as well, and the content is the
# same; but a large image would take too long: judge SIZE.
judge ()
{
    if ! qemu_opens "$cluster" "$table"; then
        need_check "$image" && fail "NEED_CHECK is set after the server's end"
        "$PYTHON" "$srcdir/image-walk.py" --free "$image" ||
            fail "the tables are not in order"
    elif [ "$1" -le 700000000 ]; then
        judge_image "$image" "$tmpdir/dump"
    else
        walk_free_image "$image"
    fi
}

# geometry CLUSTER-SIZE TABLE-SIZE SIZE OPERATIONS [PARAMETER=VALUE]
geometry ()
{
    local seed connections dump
    cluster=$1 table=$2 dump=
    [ "$3" -gt 700000000 ] || dump="--dump $tmpdir/dump"

    if [ "$qed_server" = qemu ]; then qemu_opens "$1" "$2" || return 0; fi
    for connections in 1 4; do
        seed=$((connections + $1 / 4096 + $2))
        echo "clusters of $1, tables of $2, $3 bytes, seed $seed"
        rm -f "$image"
        make_image "$image" "$1" "$2" "$3"
        serve "$image" $5
        model_test --size "$3" --seed "$seed" --ops "$4" \
            --connections "$connections" --cluster-size "$1" \
            --table-size "$2" --zero --trim --status --cache \
            --save "$model" "$uri"
        serve_stop
        # And once more on what is there already.
        serve "$image" $5
        model_test --load "$model" --seed $((seed + 100)) --ops $(($4 / 2)) \
            --connections "$connections" --depth 16 --cluster-size "$1" \
            --table-size "$2" --zero --trim --status --cache \
            --save "$model" "$uri"
        serve_stop
        serve "$image" $5
        model_test --load "$model" --verify-only $dump "$uri"
        serve_stop
        judge "$3"
    done
}

# The sizes end within a cluster, behind several tables' ends.
geometry 4096 1 $((9 * 1024 * 1024 + 1536)) 700
geometry 4096 2 $((33 * 1024 * 1024 + 512)) 700
geometry 65536 4 $((4 * 1024 * 1024 * 1024 + 66048)) 400
geometry 65536 4 $((200 * 1024 * 1024 + 512)) 400
geometry 1048576 1 $((258 * 1024 * 1024 * 1024 + 512)) 200
[ "$qed_server" = qemu ] ||
    geometry 2097152 16 $((8 * 1024 * 1024 * 1024 * 1024 + 4096512)) 120

# Tables that exceed the metadata cache: each page of one covers 2 MiB, the
# cache holds 64.
[ "$qed_server" = qemu ] ||
    geometry 4096 2 $((600 * 1024 * 1024)) 700 metadata-cache=256K

# Zeros that are written become holes, too.
[ "$qed_server" = qemu ] ||
    geometry 65536 4 $((40 * 1024 * 1024 + 512)) 300 detect-zeroes=on
