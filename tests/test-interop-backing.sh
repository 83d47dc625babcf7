#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Overlays that pass back and forth between QEMU and us: made, written,
# rebased and committed by QEMU's own driver, and written, zeroed and trimmed
# through the server between, over raw and QED files that QEMU made.
#
# QEMU 7.2 fills the rest of a zero cluster that it writes a part of with what
# the backing file has there: it is made to write whole clusters only, where
# there may be such.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version
requires "$PYTHON" --version

cd "$tmpdir"
seed=0

# Let QEMU write to an image, and to a raw file what should be in there:
# both_write IMAGE RAW-FILE COMMAND...
both_write ()
{
    local image=$1 raw=$2

    shift 2
    io qed "$image" "$@"
    io raw "$raw" "$@"
}

# What we serve of an image must be what the raw file has: we_serve IMAGE RAW
we_serve ()
{
    serve "$1"
    qemu-img compare -q -f raw -F raw "$uri" "$2" ||
        fail "$1: we serve something else than QEMU reads"
    serve_stop
}

# Work at random on an image through the server; then QEMU's opinion of it:
# we_write IMAGE RAW CLUSTER TABLE
we_write ()
{
    seed=$((seed + 1))
    cp --sparse=always "$2" initial
    serve "$1" clean-after=1
    model_test --seed $seed --ops 300 --connections 4 --max-count 512K \
        --cluster-size $3 --table-size $4 --zero --trim --status \
        --initial initial --dump "$2" "$uri" || fail "$1: seed $seed"
    serve_stop
    judge_image "$1" "$2"
}

# A file for images to lie on, by QEMU: base FORMAT SIZE CLUSTER TABLE
base ()
{
    rm -f base base.raw
    random_file base.raw $2 7
    if [ $1 = raw ]; then
        cp base.raw base
        return
    fi
    qemu-img create -q -f qed -o cluster_size=$3,table_size=$4 base $2
    qemu-img convert -n -f raw -O qed base.raw base
    both_write base base.raw "write -z 0 $((2 * $3))" "write -P 0x11 1M 100k"
}

# between FORMAT BASE-SIZE SIZE CLUSTER TABLE
between ()
{
    local size=$3 cluster=$4 table=$5

    echo "over a $1 file of $2 bytes: $3 bytes, clusters of $4, tables of $5"
    base $1 $2 $cluster $table
    rm -f top.qed
    qemu-img create -q -f qed -o cluster_size=$cluster,table_size=$table \
        -b base -F $1 top.qed $size
    cp base.raw top.raw
    truncate -s $size top.raw
    both_write top.qed top.raw "write -P 0x21 3000 5000" \
        "write -P 0x22 $((2 * cluster)) $((3 * cluster))" \
        "write -P 0x23 $((size - 70000)) 70000" \
        "write -z $((6 * cluster)) $((2 * cluster))"
    sha256sum base > sum
    we_serve top.qed top.raw
    we_write top.qed top.raw $cluster $table

    # QEMU allocates, overwrites, and writes zeros; we free all that, and
    # write again.
    both_write top.qed top.raw "write -P 0x31 0 $cluster" \
        "write -P 0x32 $((7 * cluster)) $((4 * cluster))" \
        "write -z $((9 * cluster)) $cluster" \
        "write -P 0x33 $((12 * cluster)) $((2 * cluster))"
    we_serve top.qed top.raw
    serve top.qed clean-after=0
    io raw "$uri" "discard $((7 * cluster)) $((3 * cluster))" flush \
        "write -P 0x34 $((8 * cluster + 512)) 1000" \
        "write -z -u $((12 * cluster)) $cluster"
    serve_stop
    io raw top.raw "write -z $((7 * cluster)) $((3 * cluster))" \
        "write -P 0x34 $((8 * cluster + 512)) 1000" \
        "write -z $((12 * cluster)) $cluster"
    judge_image top.qed top.raw
    we_write top.qed top.raw $cluster $table

    # All of it trimmed by us: it is the zeros that QEMU reads, and small.
    cp top.qed trimmed.qed
    serve trimmed.qed
    client <<'END'
h.trim(h.get_size(), 0)
for at in range(0, h.get_size(), 1 << 20):
    h.zero(min(1 << 20, h.get_size() - at), at)
END
    serve_stop
    truncate -s $size zeros.raw
    judge_image trimmed.qed zeros.raw
    [ "$(disk_usage trimmed.qed)" -le 2000000 ] ||
        fail "a trimmed image takes $(disk_usage trimmed.qed) bytes"
    rm zeros.raw
    sha256sum -c --quiet sum || fail "the backing file changed"

    # An image of ours on top of QEMU's.
    rm -f ours.qed
    qedctl create ours.qed $((size + 65536)) --backing top.qed
    cp --sparse=always top.raw ours.raw
    truncate -s $((size + 65536)) ours.raw
    we_write ours.qed ours.raw 65536 4

    # QEMU gives it another backing file, then copies what it needs from
    # there: each time we serve the same.
    cp base moved
    qemu-img rebase -u -f qed -b moved -F $1 top.qed
    [ "$(qedctl info --json top.qed | jq -r '."backing-filename"')" = moved ] ||
        fail "qedctl info: $(qedctl info top.qed)"
    rm base
    we_serve top.qed top.raw
    random_file other.raw $2 8
    timeout 60 qemu-img rebase -f qed -b other.raw -F raw top.qed
    rm moved
    we_serve top.qed top.raw
    we_serve ours.qed ours.raw
    we_write top.qed top.raw $cluster $table
    rm ours.qed

    # Committed by QEMU, into the raw file.
    timeout 60 qemu-img commit -q -d -f qed top.qed
    truncate -s $size other.raw
    cmp other.raw top.raw || fail "QEMU commits something else"
    we_serve top.qed top.raw
    rm -f other.raw
}

between raw 8000512 8388608 65536 4
between qed 8388608 8388608 65536 4
between qed 6291456 10486272 65536 2
between raw 12000256 8388608 131072 4
between qed 12582912 8388608 131072 2
between raw 5000192 8388608 65536 16

# Committed by QEMU into an image of QED, which we have made and filled, and
# then serve again.
rm -f *.raw *.qed
qedctl create base.qed 8M --cluster-size 131072
truncate -s 8M base.raw
we_write base.qed base.raw 131072 4
qedctl create top.qed 8M --backing base.qed
cp --sparse=always base.raw top.raw
we_write top.qed top.raw 65536 4
timeout 60 qemu-img commit -q -d -f qed top.qed
we_serve top.qed top.raw
walk_free_image base.qed
qemu-img compare -q -f qed -F raw base.qed top.raw ||
    fail "QEMU commits something else"
we_serve base.qed top.raw
