#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The server below an image goes away and comes back: what was under way goes
# on; who can't wait is let go; another export is not mistaken for the one that
# was lost.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/backing-server.sh"

requires qemu-img --version
requires qemu-nbd --version
requires nbdcopy --version
requires jq --version
requires "$PYTHON" -c "import nbd"

cd "$tmpdir"

"$PYTHON" - <<'END'
import random
open("base.raw", "wb").write(random.Random(3).randbytes(16 << 20))
END
cp base.raw model

# ---- Under load -----------------------------------------------------------

# Killed again and again, while clients read and write.
start_qemu_backing base.raw raw
: > log
qedctl create top.qed 16M --backing "$backing_uri"
serve top.qed backing=any 2>> log
timeout 200 "$PYTHON" "$srcdir/backing-work.py" "$uri" 5 1500 model &
worker=$!
deaths=0
while kill -0 $worker 2>/dev/null && [ $deaths -lt 12 ]; do
    sleep 0.3
    stop_backing KILL
    deaths=$((deaths + 1))
    sleep 0.2
    start_qemu_backing base.raw raw
done
wait $worker || { cat log; fail "wrong data, or a request failed"; }
lost=$(grep -c "was lost" log || :)
test $lost -ge 1 || { cat log; fail "it was never lost"; }
serve_stop
walk_free_image top.qed
qemu-img compare -q -f qed -F raw top.qed model || fail "not what was written"

# A copy of all of it, through a few deaths.
qedctl create copy.qed 16M --backing "$backing_uri"
serve copy.qed backing=any 2>> log
for i in 1 2 3; do
    nbdcopy --requests=4 --request-size=65536 "$uri" copy &
    worker=$!
    sleep 0.0$i
    stop_backing KILL
    start_qemu_backing base.raw raw
    wait $worker || { cat log; fail "nbdcopy failed"; }
    cmp copy base.raw || fail "a copy is not the same"
done

# ---- One line each, and no more -------------------------------------------

sleep 3                         # an earlier loss is history then
: > log
stop_backing KILL
sleep 1.5
start_qemu_backing base.raw raw
client base.raw <<'END'
with open(args[0], "rb") as f:
    f.seek(70000)
    assert h.pread(5000, 70000) == f.read(5000)
END
grep -v "was lost: \|is back after" log && fail "the log says more"
[ $(wc -l < log) -eq 2 ] || { cat log; fail "not two lines in the log"; }

# ---- Clients that go ------------------------------------------------------

# Each leaves reads, writes and block status behind that wait for the server.
# They end with him, not when the server is back.  He says that no more will
# come and listens on, since nbdkit 1.32 has a failing assertion when it
# answers a client that is gone altogether, whatever the plugin.
threads () { ls /proc/$(cat "$pidfile")/task | wc -l; }
before=$(threads)
stop_backing KILL
for i in 1 2 3; do
    timeout 60 "$PYTHON" - "$uri" <<'END' || fail "requests do not end"
import nbd, os, socket, sys, time
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
for i in range(5):
    h.aio_pread(nbd.Buffer(1 << 20), i << 20)
    h.aio_pwrite(nbd.Buffer.from_bytearray(b"y" * 100), (i << 20) + 5)
    h.aio_block_status(1 << 20, i << 20, lambda *args: 0)
end = time.time() + 1
while time.time() < end:
    h.poll(100)
assert h.aio_in_flight() == 15, h.aio_in_flight()
s = socket.socket(fileno=os.dup(h.aio_get_fd()))
s.shutdown(socket.SHUT_WR)
s.settimeout(5)
while s.recv(65536):
    pass
END
done
for i in {1..50}; do
    if [ $(threads) -le $before ]; then break; fi
    sleep 0.1
done
[ $(threads) -le $before ] || fail "$(threads) threads, not $before"
start_qemu_backing base.raw raw
nbdcopy "$uri" copy
cmp copy base.raw || fail "what was given up was carried out"

# ---- The end of our server ------------------------------------------------

# ends_soon: within five seconds (a sanitizer: ten), and in order.
ends_soon ()
{
    local limit=50

    if [ -n "$SANITIZER" ]; then limit=100; fi
    timed serve_stop
    [ $took -le $limit ] || fail "our server took $took tenths to end"
    need_check copy.qed && fail "the image was not closed cleanly"
    "$PYTHON" "$srcdir/image-walk.py" --free copy.qed > free ||
        fail "the tables are not in order"
}

# Clients wait for a server that is dead.
waiting_client ()
{
    rm -f client.out            # of the one before
    timeout 60 "$PYTHON" - "$uri" > client.out 2>&1 <<'END' &
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
flight = [h.aio_pread(nbd.Buffer(65536), i * 100000) for i in range(10)]
flight += [h.aio_pwrite(nbd.Buffer.from_bytearray(b"z"), 5000000 + i * 65536)
           for i in range(5)]
h.aio_pwrite(nbd.Buffer.from_bytearray(b"w" * 65536), 8 << 20)
print("asked", flush=True)
while True:
    h.poll(100)
END
    client_pid=$!
    for i in {1..100}; do
        if grep -qs asked client.out; then break; fi
        sleep 0.05
    done
    sleep 0.5
}

stop_backing KILL
waiting_client
ends_soon
wait $client_pid || :

# One that is there, and does nothing.
start_qemu_backing base.raw raw
serve copy.qed backing=any 2>> log
kill -STOP $backing_pid
waiting_client
ends_soon
wait $client_pid || :

# The image can't be opened then; that does not take long either.
timed timeout 60 "$abs_top_builddir/nbdkit" -U - qed copy.qed backing=any \
    --run true
[ $took -ge 90 ] && [ $took -le 150 ] || fail "an open took $took tenths"
kill -CONT $backing_pid

# And with nobody waiting.
serve copy.qed backing=any 2>> log
stop_backing KILL
sleep 0.5
ends_soon

# What was whole clusters was written meanwhile.
start_qemu_backing base.raw raw
serve copy.qed backing=any
client <<'END'
assert h.pread(65536, 8 << 20) == b"w" * 65536
END
serve_stop
walk_free_image copy.qed

# ---- Another export -------------------------------------------------------

truncate -s 15M other.raw
serve copy.qed backing=any 2>> log
stop_backing KILL
start_qemu_backing other.raw raw
client <<'END'
import time
start = time.time()
for i in range(3):
    try:
        h.pread(512, 0)
        sys.exit("another export was read")
    except nbd.Error as e:
        assert e.errno == "EIO", e
assert time.time() - start < 15
assert h.pread(65536, 8 << 20) == b"w" * 65536
END
grep -c "not the same any more: it has 15728640 bytes now, and had 16777216" \
     log > count || { cat log; fail "no word about the other export"; }
[ $(cat count) -eq 1 ] || fail "it is said $(cat count) times"
stop_backing KILL
start_qemu_backing base.raw raw
client base.raw <<'END'
with open(args[0], "rb") as f:
    assert h.pread(512, 0) == f.read(512)
END
serve_stop
