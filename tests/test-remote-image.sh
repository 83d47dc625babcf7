#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# An image that lies on another NBD server: made there, served from there by
# file=URI, over several servers; while they die and lose what was not flushed;
# when they are full; and what can't be is said.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/backing-server.sh"

requires qemu-img --version
requires qemu-nbd --version
requires jq --version
requires nbdkit file --version
requires nbdkit memory --version
requires nbdkit --filter=delay --filter=cache --filter=blocksize-policy \
         --filter=noextents --filter=nozero --filter=exitlast null --version
requires "$PYTHON" --version

cd "$tmpdir"
size=$((64 << 20))

# The servers that the image lies on.
remote_file ()
{
    start_backing nbdkit -f -U "$backing_sock" file "$1"
}
remote_qemu ()
{
    start_backing qemu-nbd -t -e 20 -f raw --discard=unmap -k "$backing_sock" \
                  "$1"
}
# No holes, no zeroes, whole blocks.
remote_plain ()
{
    start_backing nbdkit -f -U "$backing_sock" --filter=noextents \
                  --filter=nozero --filter=blocksize-policy file "$1" \
                  blocksize-minimum=4096 blocksize-preferred=4096 \
                  blocksize-error-policy=error
}
remote_slow ()
{
    start_backing nbdkit -f -U "$backing_sock" --filter=delay file "$1" \
                  rdelay=2ms wdelay=2ms
}
# What isn't flushed is lost when it is killed.
remote_volatile ()
{
    start_backing nbdkit -f -U "$backing_sock" --filter=cache --filter=delay \
                  file "$1" cache=writeback rdelay=1ms wdelay=3ms
}

# The end of a server that can't write any more.
serve_stop_lost ()
{
    local job=${nbdkit_jobs[$pidfile]} i

    kill -TERM "$job"
    for i in {1..900}; do
        kill -0 "$job" 2>/dev/null || break
        sleep 0.1
    done
    [ $i -lt 900 ] || fail "the server doesn't end without its own"
    unset "nbdkit_jobs[$pidfile]"
    wait "$job" || :
}

# work ARGUMENT...: random work on the disk, against a model.
work ()
{
    model_test --size $size --cluster-size 65536 --table-size 4 --zero --trim \
               --status --cache "$@" "$uri"
}

# make: an empty image with room for another half of it.
make ()
{
    rm -f disk.qed
    truncate -s $((size * 3 / 2)) disk.qed
    remote_file disk.qed
    qedctl create --force "$backing_uri" $size
    stop_backing TERM
}

# judge [SERVER]: the image is in order and has what the model has, by QEMU's
# eyes.  What is free is a hole, if the server can make some.
judge ()
{
    need_check disk.qed && fail "NEED_CHECK is set after the server's end"
    [ "$1" = plain ] ||
        "$PYTHON" "$srcdir/image-walk.py" --free disk.qed > walk.out ||
        fail "the tables are not in order"
    qemu-img check -f qed --output=json disk.qed > check.json || :
    [ "$(jq -r '"\(."check-errors") \(.corruptions // 0)"' check.json)" = \
      "0 0" ] || { cat check.json; fail "qemu-img check finds something"; }
    qemu-img compare -q -f qed -F raw disk.qed dump ||
        fail "QEMU reads another content than it should have"
}

# ---- Several servers ------------------------------------------------------

for remote in file qemu plain slow; do
    make
    remote_$remote disk.qed
    serve "$backing_uri"
    work --seed 1 --ops 400 --connections 4 --save model
    serve_stop
    serve "$backing_uri"
    work --seed 2 --ops 200 --depth 16 --load model --save model --dump dump
    serve_stop
    serve "$backing_uri"
    work --verify-only --load model
    serve_stop
    stop_backing TERM
    judge $remote
    echo "over $remote"
done
qedctl check --repair=leaks disk.qed > check.out
qemu_check disk.qed

# ---- Its name -------------------------------------------------------------

# named URI-PATH NAME: as an export it has this name, and the empty one.
named ()
{
    local name

    serve "nbd+unix:///$1?socket=$backing_sock" control=ctl
    qedctl list --json --control ctl > list
    [ "$(jq -r '.images[0].name' list)" = "$2" ] ||
        { cat list; fail "$1: another name than '$2'"; }
    for name in "$2" ''; do
        timeout 20 nbdinfo --size "nbd+unix:///${name// /%20}?socket=$sock" ||
            fail "$1 is not served as '$name'"
    done
    if timeout 20 nbdinfo --size "nbd+unix:///x?socket=$sock" 2>/dev/null; then
        fail "another name is served"
    fi
    serve_stop
}
make
remote_file disk.qed            # to which all names are the same
named '' ''
named 'disk.qed' disk.qed
named 'disks/my%20disk.qed' 'my disk.qed'
named 'disks/' ''
named 'a%0Ab' ''
if "$abs_top_builddir/nbdkit" -U - qed control-export=check \
       "file=nbd+unix:///qed-control?socket=$backing_sock" --run true 2>log
then
    fail "the control export's name is taken"
fi
stop_backing TERM

# It is in memory, and small: full, it goes on to read, and to reuse.
start_backing nbdkit -f -U "$backing_sock" memory 8M
qedctl create --force "$backing_uri" $size
serve "$backing_uri"
client <<'END'
import errno
n = 0
try:
    while True:
        h.pwrite(b"%04d" % n * 16384, n * 65536)
        n += 1
except nbd.Error as e:
    assert e.errnum == errno.ENOSPC, e
assert n == 128 - 1 - 4 - 4, n
for i in range(n):
    assert h.pread(65536, i * 65536) == b"%04d" % i * 16384, i
h.trim(65536 * 10, 0)
h.flush()
for i in range(10):
    h.pwrite(b"new." * 16384, (n + 1 + i) * 65536)
try:
    h.pwrite(b"more" * 16384, (n + 11) * 65536)
    assert False
except nbd.Error as e:
    assert e.errnum == errno.ENOSPC, e
assert h.pread(655360, (n + 1) * 65536) == b"new." * 163840
assert h.pread(655360, 0) == bytes(655360)
END
serve_stop
timeout 60 qedctl check "$backing_uri" > out || { cat out; fail "full"; }
[ "$(qedctl info --json "$backing_uri" | jq '."dirty-flag"')" = false ]
stop_backing TERM

# Much that nobody asks to be flushed doesn't stay in memory.
make
start_backing nbdkit -f -U "$backing_sock" --filter=log file disk.qed \
              logfile="$tmpdir/log"
serve "$backing_uri"
client <<'END'
for i in range(160):
    h.pwrite(bytes([i + 1]) * (1 << 20), i % 60 << 20)
open("flushes", "w").write(str(open("log").read().count(" Flush id=")))
assert h.pread(1 << 20, 59 << 20) == bytes([120]) * (1 << 20)
END
[ $(cat flushes) -ge 3 ] || fail "$(cat flushes) flushes"
serve_stop
stop_backing TERM

# ---- NEED_CHECK -----------------------------------------------------------

# It is set by the first change, and goes when the disk is idle.
make
remote_file disk.qed
serve "$backing_uri" clean-after=1
need_check disk.qed && fail "NEED_CHECK is set at once"
client <<< 'h.pwrite(b"x" * 512, 0)'
need_check disk.qed || fail "NEED_CHECK is not set"
for i in {1..100}; do need_check disk.qed || break; sleep 0.1; done
need_check disk.qed && fail "NEED_CHECK stays set"

# Ours dies, and is started again.
client <<< 'h.pwrite(b"y" * 65536, 1 << 20); h.flush()'
serve_kill
need_check disk.qed || fail "NEED_CHECK is not set"
serve "$backing_uri"
client <<< 'assert h.pread(65536, 1 << 20) == b"y" * 65536
h.pwrite(b"z" * 512, 0)'
serve_stop
need_check disk.qed && fail "NEED_CHECK is set after the server's end"
stop_backing TERM

# ---- The other server dies ------------------------------------------------

# Again and again; what it had not flushed it has lost.
make
remote_volatile disk.qed
serve "$backing_uri"
work --seed 3 --ops 1200 --connections 4 --save model --dump dump > work.out \
     2>&1 &
worker=$!
for delay in 0.5 0.9 0.4 1.2; do
    sleep $delay
    stop_backing KILL
    remote_volatile disk.qed
done
wait $worker || { cat work.out; fail "the work failed"; }
serve_stop
stop_backing TERM
# The cache filter writes back what it had of a cluster that was trimmed since.
judge plain

# For so long that writes and flushes fail; then all is well again.
if [ -z "$SANITIZER" ]; then
    remote_volatile disk.qed
    serve "$backing_uri"
    client <<'END' &
import os, time
h.pwrite(b"kept" * 16384, 2 << 20)
open("written", "w").close()
while not os.path.exists("killed"):
    time.sleep(.1)
failed = []
for call in (h.flush, lambda: h.pwrite(b"late", 3 << 20),
             lambda: h.pread(512, 2 << 20)):
    try:
        call()
        failed.append(None)
    except nbd.Error as e:
        failed.append(e.errnum)
assert None not in failed[:2], failed
open("failed", "w").close()
for i in range(100):
    try:
        h.flush()
        break
    except nbd.Error:
        time.sleep(.1)
else:
    assert False, "flushes go on to fail"
assert h.pread(65536, 2 << 20) == b"kept" * 16384
h.pwrite(b"more" * 16384, 2 << 20)
h.flush()
END
    worker=$!
    for i in {1..100}; do [ ! -e written ] || break; sleep 0.1; done
    stop_backing KILL
    touch killed
    for i in {1..1200}; do
        [ ! -e failed ] && kill -0 $worker 2>/dev/null || break
        sleep 0.1
    done
    [ -e failed ] || fail "nothing failed"
    remote_volatile disk.qed
    wait $worker || fail "what came back is not as it was"
    serve_stop
    stop_backing TERM
    qemu-io -r -f qed -c "read -P 0x6d 2097152 1" disk.qed > io.out
    grep -q "verification failed" io.out && fail "the last flush was lost"
    need_check disk.qed && fail "NEED_CHECK is set after the server's end"

    # The end comes while it is away: within a minute or so, marked.
    make
    remote_file disk.qed
    serve "$backing_uri"
    client <<< 'h.pwrite(b"last", 40 << 20)'
    stop_backing KILL
    serve_stop_lost
    need_check disk.qed || fail "nobody can have cleared NEED_CHECK"
fi

# ---- What cannot be -------------------------------------------------------

# refused PATTERN NBDKIT-ARGUMENT...: it does not start, and says why.
refused ()
{
    local r=0

    timeout 60 "$abs_top_builddir/nbdkit" -f -U - qed "${@:2}" --run true > out 2>&1 || r=$?
    [ $r -ne 0 ] && grep -q -- "$1" out || { cat out; fail "${*:2}: $r"; }
}

make
remote_file disk.qed
refused "Connection refused: see that the server runs" nbd://localhost:1
wrong=0
timeout 60 qedctl create "$backing_uri" 1M > out 2>&1 || wrong=$?
[ $wrong -eq 1 ] && grep -q "would be lost: overwrite it with --force" out ||
    { cat out; fail "create without --force"; }
timeout 60 qedctl resize "$backing_uri" 1G > out 2>&1 &&
    fail "an image on a server was resized"
stop_backing TERM

# Read-only, there and here.
start_nbdkit_backing file disk.qed
serve "$backing_uri"
client <<< 'assert h.is_read_only()
assert h.pread(512, 0) == bytes(512)'
serve_stop
stop_backing TERM

# A backing file, and a guest's disk.
qedctl create --backing disk.qed over.qed $size > out
remote_file over.qed
refused "an image on an NBD server can't have" "$backing_uri"
stop_backing TERM
rm -f over.qed
start_backing "$abs_top_builddir/nbdkit" -f -U "$backing_sock" qed disk.qed
qemu-img convert -n -f raw -O raw disk.qed "$backing_uri" > out 2>&1 || :
refused "a disk that a server of ours serves" "$backing_uri"
timeout 60 qedctl create --force "$backing_uri" 1M > out 2>&1 &&
    fail "a guest's disk was overwritten"
stop_backing TERM
