#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Which backing files may be opened, and which chains make sense.  The name
# stands in a file that a stranger may have made.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires nbdinfo --version
requires "$PYTHON" --version

cd "$tmpdir"
mkdir in in/sub out inside
top=in/top.qed

# make_top NAME [FEATURES [OFFSET [SIZE]]]: an image of 64 KiB whose header
# names a backing file; NAME is Python's.
make_top ()
{
    rm -f "$top"
    qedctl create "$top" 64K
    "$PYTHON" - "$top" "$@" <<'END'
import struct, sys
name = eval('b"' + sys.argv[2] + '"')
features, at, size = [int(a or 0) for a in (sys.argv[3:] + [""] * 3)[:3]]
with open(sys.argv[1], "r+b") as f:
    f.seek(at or 4096)
    f.write(name)
    f.seek(56)
    f.write(struct.pack("<II", at or 4096, size or len(name)))
    f.seek(16)
    f.write(struct.pack("<Q", features or 1))
END
}

run ()
{
    timeout 20 "$abs_top_builddir/nbdkit" -U - qed "$@" \
        --run 'nbdcopy "$uri" content' > log 2>&1
}

# accepts BYTE [PARAMETER...]: the content comes from the backing file
accepts ()
{
    local byte=$1

    shift
    rm -f content
    run "$top" "$@" || { cat log >&2; fail "refused: $name $*"; }
    [ "$(od -A n -t x1 -N 1 content | tr -d ' ')" = $byte ] ||
        fail "the content is not the backing file's: $name $*"
}

# refuses PATTERN [PARAMETER...]
refuses ()
{
    local pattern=$1 status

    shift
    rm -f content
    run "$top" "$@" && fail "accepted: $name $*" || status=$?
    [ $status -lt 124 ] || fail "it hung or died ($status): $name $*"
    [ ! -e content ] || fail "a client was served: $name $*"
    grep -qi -e "$pattern" log ||
        { cat log >&2; fail "the message doesn't say \"$pattern\": $name $*"; }
}

# try NAME ACCEPTS-OR-REFUSES...
try ()
{
    name=$1
    make_top "$1"
    shift
    "$@"
}

make_raw () { head -c 65536 /dev/zero | tr '\0' "\\$2" > "$1"; }
make_raw in/base.raw 21         # octal: 0x11
make_raw in/sub/base.raw 42     # 0x22
make_raw out/base.raw 63        # 0x33
make_raw inside/base.raw 104    # 0x44

# ---- Beside the image -----------------------------------------------------

ln -s base.raw in/link-in
ln -s sub in/link-sub
ln -s ../out/base.raw in/link-out
ln -s ../../out/base.raw in/sub/link-out
ln -s "$tmpdir/out/base.raw" in/link-absolute
ln -s ../out in/dir-out
ln -s .. in/dir-up
ln -s link-loop in/link-loop
inside="not inside"

try base.raw accepts 11
try ./base.raw accepts 11
try sub/base.raw accepts 22
try sub/../base.raw accepts 11
try .//sub/.././sub//base.raw accepts 22
try "$tmpdir/in/base.raw" accepts 11
try link-in accepts 11
try link-sub/base.raw accepts 22

try ../out/base.raw refuses "$inside"
try ../in/base.raw accepts 11           # it is, after all
try ../inside/base.raw refuses "$inside"
try sub/../../out/base.raw refuses "$inside"
try "$tmpdir/out/base.raw" refuses "$inside"
try "$tmpdir/in/../out/base.raw" refuses "$inside"
try "$tmpdir/inside/base.raw" refuses "$inside"
try /etc/passwd refuses "$inside"
try ../../../../../../../../../etc/passwd refuses "$inside"
try /proc/self/root/etc/passwd refuses "$inside"
for link in link-out sub/link-out link-absolute dir-out/base.raw \
            dir-up/out/base.raw; do
    try $link refuses "$inside"
done
try link-loop refuses "link-loop"
try missing.raw refuses "missing.raw.*No such file"
try sub refuses "regular file"
try . refuses "."
try / refuses "."

# What isn't a file is not even opened.
mkfifo in/fifo
try fifo refuses "regular file"
"$PYTHON" -c 'import socket
socket.socket(socket.AF_UNIX).bind("in/socket")'
try socket refuses "regular file"
if mknod in/zero c 1 5 2>/dev/null; then
    try zero refuses "regular file"
fi
try /dev/zero refuses "regular file" backing=any
try "$tmpdir/in/fifo" refuses "regular file" backing=any

# ---- The other policies ---------------------------------------------------

try ../out/base.raw accepts 33 backing=any
try link-out accepts 33 backing=any
try "$tmpdir/out/base.raw" accepts 33 backing=any
try missing.raw refuses "No such file" backing=any

try base.raw refuses "backing=none" backing=none
try missing.raw refuses "backing=none" backing=none

try ../out/base.raw accepts 33 backing="$tmpdir/out"
try ../out/base.raw accepts 33 backing="$tmpdir/out/"
try ../out/base.raw accepts 33 backing=out
try ../out/base.raw accepts 33 backing="$tmpdir/in/dir-out"
try ../out/base.raw accepts 33 backing=/
try base.raw refuses "$inside" backing="$tmpdir/out"
try ../inside/base.raw refuses "$inside" backing="$tmpdir/in"
try dir-out/base.raw refuses "$inside" backing="$tmpdir/out"

# A backing file's own backing file: its name counts from its own directory,
# and the policy is that of the image on top.
qedctl create in/sub/middle.qed 64K --backing ../base.raw \
    --backing-format raw
try sub/middle.qed accepts 11
qedctl create in/sub/escape.qed 64K --backing ../../out/base.raw \
    --backing-format raw
try sub/escape.qed refuses "$inside"
try sub/escape.qed accepts 33 backing=any
try sub/escape.qed refuses "backing=none" backing=none
saved=$top
top=in/sub/middle-top.qed
cp in/sub/middle.qed $top
refuses "$inside"
top=$saved

# ---- Names ----------------------------------------------------------------

name="control characters"
for bad in 'base\n.raw' 'base.raw\x00' 'base.raw\x00/etc' '\x1b[31mbase.raw' \
           'base\x7f.raw' '\t'; do
    try "$bad" refuses "control character"
    refuses "control character" backing=any
    [ $(tr -d '\n\040-\176' < log | wc -c) -eq 0 ] ||
        fail "control characters came into the log"
done
unsupported="neither a file nor an NBD URI"
for other in 'json:{\"driver\":\"file\",\"filename\":\"in/base.raw\"}' \
             file:base.raw fat:rw:/ http://localhost/ NBD:localhost:1 \
             nbd:localhost:10809 nbd:/x nbd+vsock:///x NBD://localhost/ \
             nbd+ssh://localhost/ ssh://localhost/x; do
    try "$other" refuses "$unsupported"
    refuses "$unsupported" backing=any
    refuses "$unsupported" backing="$tmpdir/in"
    refuses "backing=none" backing=none
done
touch "in/odd:name" && make_raw in/odd:name 125
try ./odd:name accepts 55

# A server's export, only if any file is allowed.
uri="nbd+unix:///x?socket=$tmpdir/in/server.sock"
run_over_server ()
{
    nbdkit -f -r -U "$tmpdir/in/server.sock" data 'data=0x77*65536' \
        > server.log 2>&1 &
    server=$!
    cleanup_fn kill $server
    for i in {1..100}; do
        if nbdinfo --size "$uri" > /dev/null 2>&1; then return; fi
        sleep 0.05
    done
    fail "nbdkit does not serve"
}
if type nbdkit >/dev/null 2>&1; then
    run_over_server
    try "$uri" refuses "on an NBD server.*backing=any"
    refuses "on an NBD server.*backing=any" backing="$tmpdir/in"
    refuses "on an NBD server.*backing=any" backing=/
    refuses "backing=none" backing=none
    accepts 77 backing=any
    # Nor lower in a chain.
    qedctl create in/over.qed 64K --backing "$uri"
    try over.qed refuses "on an NBD server.*backing=any"
    accepts 77 backing=any
fi
for nobody in nbd://127.0.0.1:1/x nbd://no-such-host.invalid/ \
              "nbd+unix:///x?socket=$tmpdir/in/nobody" \
              "nbds+unix:///x?socket=$tmpdir/in/nobody" \
              nbd+unix:///x nbd:// 'nbd://localhost:99999/' \
              'nbd://[::1/' 'nbd://localhost:1/?bad=%zz'; do
    try "$nobody" refuses "on an NBD server"
    refuses "cannot connect to the backing file" backing=any
done
for relative in 'nbd+unix:///x?socket=nobody' 'nbds+unix:///?socket=./x' \
                'nbds+unix:///?socket=/x&tls-psk-file=keys' \
                'nbds://localhost/?tls-certificates=dir'; do
    try "$relative" refuses "absolute path"
    refuses "absolute path" backing=any
done

name="the name's place"
make_top base.raw 1 "" 5000
refuses backing_filename_size
make_top base.raw 1 65530 100
refuses backing_filename_offset
make_top base.raw 1 "" 4294967295
refuses backing_filename_size

# ---- Chains that make no sense --------------------------------------------

again="already in\|back itself"
try top.qed refuses "$again"
try ./sub/../top.qed refuses "$again"
make_top other.qed
name="hard link"
ln "$top" in/other.qed
refuses "$again"
rm in/other.qed
qedctl create in/a.qed 64K --backing b.qed
qedctl create in/b.qed 64K --backing a.qed
try a.qed refuses "$again"
qedctl create in/down.qed 64K --backing top.qed
try down.qed refuses "$again"

qedctl create in/d1.qed 64K --backing base.raw --backing-format raw
for i in {2..33}; do
    qedctl create in/d$i.qed 64K --backing d$((i - 1)).qed
done
try d31.qed accepts 11                  # and base.raw: 32
try d32.qed refuses "32 backing files"
try d33.qed refuses "32 backing files"

# ---- Formats --------------------------------------------------------------

for format in qcow2 qcow vmdk vhdx vdi vpc parallels; do
    rm -f in/foreign
    qemu-img create -q -f $format in/foreign 1M 2>/dev/null || continue
    case $format in
        vpc) pattern=VHD ;;
        qcow) pattern=qcow ;;
        *) pattern=$format ;;
    esac
    try foreign refuses "is a $pattern"
    # Known to be raw, it is just bytes.
    first=$(od -A n -t x1 -N 1 in/foreign | tr -d ' ')
    name="$format as raw"
    make_top foreign 5
    accepts $first
done
# QED's magic, too.
name="QED as raw"
make_top d1.qed 5
accepts 51
make_top d1.qed 1
accepts 11

printf 'QED\0rubbish' > in/broken.qed
try broken.qed refuses "broken.qed"
head -c 100000 in/d1.qed > in/broken.qed
"$PYTHON" - in/broken.qed <<'END'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    f.seek(4)
    f.write(struct.pack("<I", 12345))
END
try broken.qed refuses "broken.qed.*cluster_size"
printf 'QE' > in/tiny.raw               # shorter than a magic
try tiny.raw accepts 51

# A backing file that was not closed cleanly is read all the same.
qedctl create in/dirty.qed 64K --backing base.raw --backing-format raw
"$PYTHON" - in/dirty.qed <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(16)
    f.write(bytes([7]))
END
cp in/dirty.qed before
try dirty.qed accepts 11
cmp in/dirty.qed before || fail "a backing file was changed"

# ---- Locks ----------------------------------------------------------------

qedctl create in/mid.qed 64K --backing base.raw --backing-format raw
make_top mid.qed
name=locks

# hold FORMAT FILE: QEMU has it open for writing
hold ()
{
    rm -f input
    mkfifo input
    timeout 60 qemu-io -f $1 "$2" < input > output 2>&1 &
    holder=$!
    exec 5> input
    for i in {1..100}; do
        if grep -q ":$(stat -c %i "$2") 100 101\$" /proc/locks; then
            return 0
        fi
        sleep .1
    done
    fail "qemu-io does not lock $2"
}

let_go ()
{
    exec 5>&-
    wait $holder || :
}

hold raw in/base.raw
refuses "base.raw.*in use"
accepts 11 lock=off
let_go
hold qed in/mid.qed
refuses "mid.qed.*in use"
let_go
accepts 11

serve "$top"
for file in in/base.raw in/mid.qed; do
    format=raw
    [ $file = in/base.raw ] || format=qed
    if qemu-io -f $format -c "write 0 512" $file > output 2>&1 &&
            ! grep -qi "lock\|denied\|failed" output; then
        fail "QEMU writes to $file, which backs a served image"
    fi
    qemu-io -r -f $format -c "read -P 0x11 0 512" $file > output 2>&1 ||
        { cat output >&2; fail "QEMU can't read $file"; }
    ! grep -qi failed output || fail "QEMU can't read $file"
done
serve_stop
# And no more when it has ended.
qemu-io -f raw -c "write -P 0x11 0 512" in/base.raw > output
! grep -qi failed output || fail "the lock is still there"
