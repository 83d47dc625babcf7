#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Random work on images over backing files, 16 connections at once, against a
# flat model: writes, zeroes, trims, FUA, flushes, block status.  The server is
# ended and started again several times, once in the middle of the work.  In
# the end QEMU reads the same from the chain, and no file below has changed.
#
# MODEL_SEED=N works at random elsewhere; MODEL_OPS=N is for how long.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version
requires "$PYTHON" --version

seed=${MODEL_SEED:-1}
ops=${MODEL_OPS:-400}

cd "$tmpdir"

# work ARGUMENT...: one life of the server, of what work there is.
work ()
{
    model_test --seed $seed --connections 16 --depth 4 --max-count 1M \
        --cluster-size $cluster --table-size $table --zero --trim --status \
        --cache --initial "$base_content" --save model "$@" "$uri" ||
        fail "$name: seed $seed"
    seed=$((seed + 1))
}

# over BASE FORMAT CONTENT SIZE CLUSTER-SIZE TABLE-SIZE NAME: a new image,
# worked on; NAME.raw is what it has in the end.
over ()
{
    base_content=$3 cluster=$5 table=$6 name=$7
    echo "$7 over $1 ($2): $4 bytes, clusters of $5, tables of $6"
    sha256sum *.raw $(ls *.qed 2>/dev/null) > sums
    qedctl create "$7.qed" $4 --backing "$1" --backing-format $2 \
        --cluster-size $5 --table-size $6
    serve "$7.qed"
    work --size $4 --ops $ops
    serve_stop
    serve "$7.qed" metadata-cache=256K clean-after=1
    work --load model --ops $ops
    serve_stop
    # Ended while requests are under way: what was answered is there.
    serve "$7.qed" detect-zeroes=on
    work --load model --seconds 30 --may-die &
    sleep 1
    serve_stop
    wait $! || fail "$7: the work failed"
    seed=$((seed + 1))
    serve "$7.qed" clean-after=0
    work --load model --ops $ops
    serve_stop
    serve "$7.qed"
    work --load model --verify-only --dump "$7.raw"
    serve_stop
    sha256sum -c --quiet sums || fail "$7: a backing file changed"
    judge_image "$7.qed" "$7.raw"
}

# Holes and data, ending within a sector: shorter than the image, as long as
# it, longer; or nothing at all.
random_file base.raw 9000001 $seed
over base.raw raw base.raw 20971520 65536 4 longer
over base.raw raw base.raw 9000448 4096 2 equal
over base.raw raw base.raw 4194816 65536 2 shorter
: > empty.raw
over empty.raw raw empty.raw 4194304 16384 2 nothing

# The images made above have data, zero clusters, and holes, and backing files
# of their own.
over longer.qed qed longer.raw 31457792 131072 2 on-longer
over equal.qed qed equal.raw 9000448 4096 4 on-equal
over on-longer.qed qed on-longer.raw 16777216 65536 4 on-both
