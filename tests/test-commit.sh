#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl commit: what an overlay holds goes into its backing file, raw or QED,
# shorter or longer; the content stays, and the overlay is empty after it.
# The result is what qemu-img commit makes of copies.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version
requires nbdcopy --version
requires "$PYTHON" -c "import nbd"

cd "$tmpdir"
MiB=1048576

# content IMAGE FILE: what a guest reads
content ()
{
    rm -f "$2"
    timeout 60 "$abs_top_builddir/nbdkit" -r -U - qed "$1" backing=any \
        --run "nbdcopy \"\$uri\" '$2'" || fail "$1 can't be read"
}

# random_raw FILE BYTES: data and holes
random_raw ()
{
    "$PYTHON" - "$@" <<'PYTHON'
import os, random, sys
rng = random.Random(7)
size = int(sys.argv[2])
with open(sys.argv[1], "wb") as f:
    f.truncate(size)
    while f.tell() < size:
        n = min(rng.randrange(200000), size - f.tell())
        if rng.random() < .5:
            f.write(rng.randbytes(n))
        else:
            f.seek(n, os.SEEK_CUR)
PYTHON
}

# work IMAGE SEED: a guest's writes, zeroes and trims
work ()
{
    content "$1" model
    serve "$1" backing=any
    timeout 60 "$PYTHON" "$srcdir/backing-work.py" "$uri" "$2" 60 model ||
        fail "the guest's work failed"
    serve_stop
}

# read_base COPY: the backing file by itself, where $format says how
read_base ()
{
    if [ $format = raw ]; then
        cp --sparse=always "$1/base" base.now
    else
        content "$1/base" base.now
    fi
}

# The backing file holds all that the overlay showed, and its own rest; it is
# in order; and the overlay shows the same.
verify ()
{
    read_base d
    [ $(stat -c %s base.now) = $((length > size ? length : size)) ] ||
        fail "the backing file has $(stat -c %s base.now) bytes"
    cmp -n $size base.now want || fail "the backing file's content is wrong"
    cmp -i $size base.now base.was || [ $length -lt $size ] ||
        fail "what is behind the overlay's end was changed"
    [ $format = raw ] || "$PYTHON" "$srcdir/image-walk.py" --free d/base \
        > free || fail "the backing file's tables are not in order"
    [ $format = raw ] || cmp d/lowest copy/lowest ||
        fail "what lies below the backing file was changed"
    content d/top.qed now
    cmp now want || fail "the content has changed"
}

# commit_round CLUSTER TABLE SIZE raw|qed LENGTH [CLUSTER-BELOW TABLE-BELOW
#              [LENGTH-OF-THE-LOWEST]]
commit_round ()
{
    local cluster=$1 table=$2

    size=$3 format=$4 length=$5
    echo "clusters of $1, tables of $2, size $3, over $4 of $5 bytes ${*:6}"
    rm -rf d copy
    mkdir d
    make_base "${@:6}"
    qedctl create d/top.qed $size --cluster-size $cluster \
        --table-size $table --backing base --backing-format $format
    work d/top.qed 2
    cp model want
    read_base d
    mv base.now base.was
    cp -r --sparse=always d copy

    # What it keeps stays as it is, to the byte.
    qedctl commit --keep d/top.qed
    cmp d/top.qed copy/top.qed || fail "--keep changed the overlay"
    verify
    qedctl commit d/top.qed
    verify
    walk_image d/top.qed
    [ $(stat -c %s d/top.qed) = $((cluster * (table + 1))) ] ||
        fail "the overlay is still $(stat -c %s d/top.qed) bytes long"

    # Now there is nothing to do.
    cp d/top.qed empty.qed
    qedctl commit d/top.qed
    cmp d/top.qed empty.qed || fail "an empty overlay was changed"
    # QEMU can't make a QED file larger.
    if qemu_opens $cluster $table &&
            { [ $format = raw ] ||
                  { qemu_opens $6 $7 && [ $length -ge $size ]; }; }; then
        compare_with_qemu
    fi
}

make_base ()
{
    if [ $format = raw ]; then
        random_raw d/base $length
    else
        random_raw d/lowest ${3:-$((length / 2))}
        qedctl create d/base $length --cluster-size $1 --table-size $2 \
            --backing lowest --backing-format raw
        work d/base 1
    fi
}

compare_with_qemu ()
{
    qemu_check d/top.qed
    [ $format = raw ] || qemu_check d/base $(cat free)
    qemu-img compare -q -f qed -F $format d/top.qed d/base ||
        [ $size -lt $length ] || fail "to QEMU they differ"
    qemu-img commit -q -f qed copy/top.qed
    mv base.now ours
    read_base copy
    cmp base.now ours || fail "qemu-img commit makes something else"
}

commit_round 65536 4 $((8 * MiB)) raw $((8 * MiB))
commit_round 4096 2 $((3 * MiB + 512)) raw $((5 * MiB + 1000))
commit_round 65536 2 $((6 * MiB + 1536)) raw $((2 * MiB + 77))
commit_round 4096 1 $((4 * MiB)) raw 0
commit_round 1048576 1 $((20 * MiB)) raw $((7 * MiB))
commit_round 65536 4 $((8 * MiB)) qed $((8 * MiB)) 65536 4
commit_round 4096 2 $((6 * MiB)) qed $((9 * MiB)) 1048576 2
commit_round 1048576 1 $((6 * MiB + 512)) qed $((8 * MiB)) 4096 1
commit_round 65536 4 $((9 * MiB)) qed $((3 * MiB + 512)) 4096 2
commit_round 4096 2 $((9 * MiB)) qed $((2 * MiB + 512)) 65536 4 $((7 * MiB))

# ---- Ten TiB, with little in them: it takes no time -----------------------

rm -rf d copy
mkdir d
qedctl create d/top.qed 10T --backing base --backing-format qed
qedctl create d/base 10T
qemu-io -f qed -c "write -P 1 5T 64k" d/base > /dev/null
qemu-io -f qed -c "write -P 2 0 3M" -c "write -z 5T 1M" \
    -c "write -P 3 10995116212224 64k" d/top.qed > /dev/null
timeout 20 qedctl commit d/top.qed
qemu-io -f qed -c "read -P 2 0 3M" -c "read -P 0 3M 1M" -c "read -P 0 5T 1M" \
    -c "read -P 3 10995116212224 64k" d/base > out
! grep -q "failed" out || { cat out; fail "the content of 10 TiB is wrong"; }
if truncate -s 10T d/raw 2>/dev/null; then
    truncate -s 0 d/raw
    qedctl create --force d/top.qed 10T --backing raw --backing-format raw
    qemu-io -f qed -c "write -P 2 0 3M" -c "write -z 5T 1G" \
        -c "write -P 3 10995116212224 64k" d/top.qed > /dev/null
    timeout 20 qedctl commit d/top.qed
    [ $(stat -c %s d/raw) = 10995116277760 ] || fail "it didn't grow"
    [ $(disk_usage d/raw) -lt $((4 * MiB)) ] || fail "it isn't sparse"
    cmp -n 65536 -i 10995116212224:0 d/raw \
        <(tr '\0' '\3' < /dev/zero | head -c 65536)
fi
qemu_check d/top.qed

# ---- A bar on a terminal, silence elsewhere -------------------------------

rm -rf d
mkdir d
qedctl create d/top.qed 10M --backing base --backing-format raw
truncate -s 10M d/base
qemu-io -f qed -c "write 0 10M" d/top.qed > /dev/null
qedctl commit --keep d/top.qed > out 2>&1
[ ! -s out ] || fail "it is not silent"
"$PYTHON" - <<'END_PYTHON' || fail "there is no bar on a terminal"
import os, pty, sys
pid, fd = pty.fork()
if pid == 0:
    os.execvp("qedctl", ["qedctl", "commit", "d/top.qed"])
out = b""
while True:
    try:
        piece = os.read(fd, 4096)
    except OSError:
        break
    if not piece:
        break
    out += piece
assert os.waitpid(pid, 0)[1] == 0
assert b"\rcommit" in out and b"%" in out, out
assert out.endswith(b"\r"), out
END_PYTHON
