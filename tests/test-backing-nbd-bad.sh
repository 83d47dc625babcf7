#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The server below an image is broken, or means harm: a request fails, or is
# asked again on another connection, and our server lives.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/backing-server.sh"

requires nbdinfo --version
requires "$PYTHON" -c "import nbd"

cd "$tmpdir"

# bad MODE...: an image over a server whose connections after the first, that
# of the open, are so; served.
bad ()
{
    echo "$*"
    start_backing "$PYTHON" "$srcdir/nbd-server.py" "$backing_sock" 4M good \
        "$@"
    qedctl create --force top.qed 4M --backing "$backing_uri"
    serve top.qed backing=any 2> log
}

good_again ()
{
    serve_stop
    stop_backing KILL
    cat log
}

# read_all: what the server has, in a few pieces at a time
read_all ()
{
    client <<'END'
expected = b"".join(bytes([i % 251]) * 512 for i in range(8192))
flight = []
for at in range(0, 4 << 20, 262144):
    buf = nbd.Buffer(262144)
    flight.append((h.aio_pread(buf, at), buf, at))
for cookie, buf, at in flight:
    while not h.aio_command_completed(cookie):
        h.poll(1000)
    assert buf.to_bytearray() == expected[at:at + 262144], at
END
}

# What is wrong with a connection is mended by the next one.
for mode in good cut half garbage cookie shutdown; do
    bad $mode $mode good
    read_all
    good_again
    [ $mode = good ] || grep -q "was lost" log ||
        fail "$mode: no word in the log"
done
bad mute good
read_all
good_again

# An error that the server gives is the request's alone.
for mode in error perm inval; do
    bad $mode
    client $mode <<'END'
for i in range(3):
    try:
        h.pread(512, i * 100000)
        sys.exit("it was read")
    except nbd.Error as e:
        assert e.errno == ("EPERM" if args[0] == "perm" else "EIO"), e
    try:
        h.pwrite(b"x", i * 100000)
        sys.exit("it was written")
    except nbd.Error as e:
        assert e.errno == ("EPERM" if args[0] == "perm" else "EIO"), e
h.pwrite(b"x" * 65536, 1 << 20)
h.flush()
assert h.pread(65536, 1 << 20) == b"x" * 65536
END
    good_again
    grep "was lost" log && fail "$mode: the connection was given up"
done

# Answers about block status: without a useful one all of it is data.
for mode in zero none wrong; do
    bad $mode
    nbdinfo --map "$uri" | awk '{ print $1, $2, $3 }' > map
    echo "0 4194304 0" | diff - map || fail "$mode: wrong block status"
    read_all
    good_again
done
bad past
nbdinfo --map "$uri" | awk '{ print $1, $2, $3 }' > map
printf '%s\n' "0 512 0" "512 4193792 3" | diff - map ||
    fail "past: wrong block status"
good_again
bad many
nbdinfo --map "$uri" | awk '{ print $1, $2, $3 }' > map
for i in {0..8191}; do
    echo "$((i * 512)) 512 $((i % 2 * 3))"
done | diff - map || fail "many: wrong block status"
read_all
good_again

# At the open.
for mode in mute refuse; do
    start_backing "$PYTHON" "$srcdir/nbd-server.py" "$backing_sock" 4M $mode
    qedctl create --force top.qed 4M --backing "$backing_uri"
    timed timeout 60 "$abs_top_builddir/nbdkit" -U - qed top.qed backing=any \
        --run 'nbdinfo "$uri" > info' 2> log
    case $mode in
        mute) pattern="no answer for 10 seconds" ;;
        refuse) pattern="server has no export" ;;
    esac
    [ ! -e info ] || fail "$mode: an image was served"
    grep -q "cannot connect to the backing file .*$pattern" log ||
        { cat log; fail "$mode: the log does not say why"; }
    [ $took -le 150 ] || fail "$mode: it took $took tenths"
    stop_backing KILL
done
