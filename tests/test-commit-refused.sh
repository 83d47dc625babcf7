#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# What qedctl commit refuses, with one line that says why, and without a change
# to any file: backing files that the policy doesn't allow (their name stands
# in a file that a stranger may have made), foreign formats, files in use, ones
# that are read-only, damaged or were not closed cleanly.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires "$PYTHON" --version

cd "$tmpdir"
mkdir in in/sub out inside
top=in/top.qed

raw () { head -c 65536 /dev/zero | tr '\0' "\\$2" > "$1"; }

# make_top NAME [FORMAT]: an overlay that holds a cluster
make_top ()
{
    raw in/stand-in.raw 21
    rm -f "$top"
    qedctl create "$top" 64K --backing stand-in.raw \
        --backing-format ${2:-raw}
    qemu-io -f qed -c "write -P 0x99 0 64k" "$top" > /dev/null
    [ ${2:-raw} = raw ] || rm in/stand-in.raw
    "$PYTHON" - "$top" "$1" <<'PYTHON'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    name = sys.argv[2].encode()
    f.seek(4096)
    f.write(name)
    f.seek(56)
    f.write(struct.pack("<II", 4096, len(name)))
PYTHON
}

state () { find in out inside -type f -exec sha256sum {} + | sort; }

# refuses PATTERN [OPTION...]: exit 1, one line, nothing is changed
refuses ()
{
    local pattern=$1 r=0

    shift
    state > before
    timeout 30 qedctl commit "$@" "$top" 2> err || r=$?
    [ $r -eq 1 ] || fail "$name: exit $r"
    [ $(wc -l < err) -eq 1 ] || { cat err; fail "$name: not one line"; }
    grep -qi -e "$pattern" err ||
        { cat err; fail "$name: the message doesn't say \"$pattern\""; }
    state | cmp - before || fail "$name: files were changed"
}

# accepts FILE [OPTION...]: that is what was written to
accepts ()
{
    local file=$1

    shift
    timeout 30 qedctl commit "$@" "$top" || fail "refused: $name $*"
    [ $(od -A n -t x1 -N 1 "$file" | tr -d ' ') = 99 ] ||
        fail "$name: it is not in $file"
    raw "$file" 21
}

try ()
{
    name=$1
    make_top "$1"
    shift
    "$@"
}

# ---- Where the backing file lies ------------------------------------------

for file in in/base.raw in/sub/base.raw out/base.raw inside/base.raw; do
    raw $file 21
done
ln -s base.raw in/link-in
ln -s ../out/base.raw in/link-out
ln -s ../out in/dir-out
inside="not inside .*--allow-backing"

try base.raw accepts in/base.raw
try sub/../base.raw accepts in/base.raw
try sub/base.raw accepts in/sub/base.raw
try link-in accepts in/base.raw
try "$tmpdir/in/base.raw" accepts in/base.raw
try base.raw accepts in/base.raw --allow-backing beside
for path in ../out/base.raw ../inside/base.raw link-out dir-out/base.raw \
            sub/../../out/base.raw "$tmpdir/out/base.raw"; do
    try $path refuses "$inside"
done
try /etc/passwd refuses "$inside"
try /etc/shadow refuses "$inside" --allow-backing out
try ../out/base.raw accepts out/base.raw --allow-backing any
try link-out accepts out/base.raw --allow-backing any
try ../out/base.raw accepts out/base.raw --allow-backing out
try ../out/base.raw accepts out/base.raw --allow-backing in/dir-out
try link-out refuses "$inside" --allow-backing out
try base.raw refuses "$inside" --allow-backing out
try base.raw refuses "nowhere.*No such file" --allow-backing nowhere
try missing.raw refuses "missing.raw.*No such file"
try sub refuses "regular file"
mkfifo in/fifo
try fifo refuses "regular file"
rm in/fifo
try /dev/zero refuses "regular file" --allow-backing any
for uri_name in nbd://localhost/x json:{} file:base.raw; do
    try $uri_name refuses "not a local file.*not possible to commit" \
        --allow-backing any
done

# The backing file's own backing file is under the same policy.
qedctl create in/middle.qed 64K --backing ../out/base.raw \
    --backing-format raw
make_top middle.qed qed
name="below the backing file"
refuses "$inside"
qedctl commit --allow-backing any "$top"
[ $(od -A n -t x1 -N 1 out/base.raw) = 11 ] || fail "it went down too far"
rm in/middle.qed

# ---- What it is -----------------------------------------------------------

name="no backing file"
rm $top
qedctl create $top 64K
refuses "no backing file"
name="no image"
raw $top 21
refuses "magic"
rm $top
refuses "No such file"

for format in qcow2 vmdk vdi; do
    rm -f in/foreign
    qemu-img create -q -f $format in/foreign 64K
    make_top foreign qed
    name=$format
    refuses "is a $format"
done
# Known to be raw, it is just bytes.
make_top foreign raw
name="qcow2 as raw"
accepts in/foreign
rm in/foreign

try top.qed refuses "back itself"
ln $top in/other.qed
try other.qed accepts in/other.qed      # another file by now
ln -f $top in/other.qed
"$PYTHON" - $top <<'END_PYTHON'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(4096)
    f.write(b"other.qed")
    f.seek(60)
    f.write(bytes([9]))
END_PYTHON
name="hard link"
refuses "back itself"
rm in/other.qed
qedctl create in/circle.qed 64K --backing top.qed
make_top circle.qed qed
name=circle
refuses "in use by qedctl"              # by ourselves
rm in/circle.qed

# set_features FILE VALUE
set_features ()
{
    printf "\\x$2" | dd of=$1 bs=1 seek=16 conv=notrunc status=none
}

make_top base.raw
set_features $top 07
name="dirty overlay"
refuses "top.qed: NEED_CHECK.*repair it first"
qedctl create in/dirty.qed 64K
set_features in/dirty.qed 02
make_top dirty.qed qed
name="dirty backing file"
refuses "dirty.qed: NEED_CHECK.*repair it first"
rm in/dirty.qed

# refuses_damaged FILE: its first L2 entry leads nowhere
refuses_damaged ()
{
    "$PYTHON" - $1 <<'END_PYTHON'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    f.seek(40)
    l1, = struct.unpack("<Q", f.read(8))
    f.seek(l1)
    l2, = struct.unpack("<Q", f.read(8))
    f.seek(l2)
    f.write(struct.pack("<Q", 1 << 40))
END_PYTHON
    state > before
    if qedctl commit $top 2> err; then fail "$name: it was accepted"; fi
    grep -q "${1#in/}: damaged: .*past.*end" err ||
        { cat err; fail "$name: the damage is not named"; }
    state | cmp - before || fail "$name: files were changed"
}

make_top base.raw
name="damaged overlay"
refuses_damaged $top
qedctl create in/damaged.qed 64K
qemu-io -f qed -c "write 0 64k" in/damaged.qed > /dev/null
make_top damaged.qed qed
name="damaged backing file"
refuses_damaged in/damaged.qed
rm in/damaged.qed

# ---- Who uses it ----------------------------------------------------------

# hold FILE FORMAT [OPTION...]: QEMU has it open
hold ()
{
    rm -f input
    mkfifo input
    timeout 60 qemu-io -f $2 "${@:3}" $1 < input > output 2>&1 &
    holder=$!
    exec 5> input
    for i in {1..100}; do
        if grep -q ":$(stat -c %i $1) 100 101\$" /proc/locks; then
            return 0
        fi
        sleep .1
    done
    fail "qemu-io does not lock $1"
}

let_go ()
{
    exec 5>&-
    wait $holder || :
}

used="in use by qemu-io, process [0-9]*: stop that program first$"
make_top base.raw
name="locked overlay"
hold $top qed
refuses "top.qed: .*$used"
let_go
name="locked backing file"
hold in/base.raw raw
refuses "base.raw: .*$used"
let_go

# Two overlays of one backing file: it is served.
name="another overlay"
qedctl create in/second.qed 64K --backing base.raw --backing-format raw
serve in/second.qed
refuses "base.raw: .*in use by nbdkit"
serve_stop
rm in/second.qed
accepts in/base.raw

# ---- What may not be written ----------------------------------------------

# As root only what lies on a file system that is read-only.
read_only ()
{
    if [ $(id -u) = 0 ]; then
        mount --bind "$1" "$1" 2>/dev/null &&
            mount -o remount,bind,ro "$1" 2>/dev/null || return 1
        cleanup_fn umount "$1"
    else
        chmod a-w "$1"
    fi
}

may="Read-only file system\|Permission denied"
make_top ../out/base.raw
name="read-only backing file"
if read_only out/base.raw; then
    refuses "base.raw: .*\($may\)" --allow-backing any
    make_top base.raw
    name="read-only overlay"
    read_only $top
    refuses "top.qed: .*\($may\)"
else
    echo "not checked: read-only files can't be made here"
fi

# ---- Usage ----------------------------------------------------------------

for arguments in "" "a b" "--allow-backing" "--keep=1 a" "--unknown a" \
                 "--keep --keep a"; do
    if qedctl commit $arguments 2> err; then fail "accepted: $arguments"; fi
    [ $(wc -l < err) -eq 1 ] || { cat err; fail "not one line: $arguments"; }
done
