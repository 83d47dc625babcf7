#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The server below an image is gone for good, or there and silent: requests
# that need it fail after their time, and not before; those that don't need it
# go on; and when it comes back all is well.  It takes a minute, asleep.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/backing-server.sh"

requires "$PYTHON" -c "import nbd"

cd "$tmpdir"
server="$PYTHON $srcdir/nbd-server.py"

# over NAME: an image over $backing_uri, served on NAME.sock.
over ()
{
    qedctl create $1.qed 1M --backing "$backing_uri"
    start_nbdkit -P $1.pid -U $1.sock qed $1.qed backing=any 2> $1.log
}

# One that says nothing from the second connection on, the first being that
# of the open; this one goes on.
start_backing $server "$backing_sock" 1M good silent
quiet=$backing_pid
cleanup_fn kill $quiet
over quiet
backing_pid=

# And one that is killed.
backing_sock=$tmpdir/gone-backing.sock
backing_uri="nbd+unix:///?socket=$backing_sock"
start_backing $server "$backing_sock" 1M good
over gone
stop_backing KILL

timeout 150 "$PYTHON" - "$tmpdir" <<'END' || fail "what clients got"
import nbd, sys, threading, time
results = {}

def connect(name):
    h = nbd.NBD()
    h.connect_unix("%s/%s.sock" % (sys.argv[1], name))
    return h

def read(name):
    h = connect(name)
    start = time.time()
    try:
        h.pread(512, 4096)
        results[name] = "it was read"
    except nbd.Error as e:
        results[name] = (e.errno, time.time() - start)

threads = [threading.Thread(target=read, args=(n,))
           for n in ("gone", "quiet")]
for t in threads:
    t.start()

# Meanwhile: whole clusters, and what is allocated.
for name in "gone", "quiet":
    h = connect(name)
    start = time.time()
    h.pwrite(b"x" * 65536, 131072)
    assert h.pread(65536, 131072) == b"x" * 65536
    h.zero(65536, 262144)
    h.flush()
    assert time.time() - start < 5

for t in threads:
    t.join()
print(results)
error, took = results["gone"]
assert error == "EIO" and 29 < took < 40, results
# So long without a word, and once more on another connection.
error, took = results["quiet"]
assert error == "EIO" and 59 < took < 80, results
END

start_backing $server "$backing_sock" 1M good
timeout 60 "$PYTHON" - "$tmpdir" <<'END' || fail "it did not come back"
import nbd, sys
h = nbd.NBD()
h.connect_unix(sys.argv[1] + "/gone.sock")
assert h.pread(1024, 4096) == b"\x08" * 512 + b"\x09" * 512
assert h.pread(65536, 131072) == b"x" * 65536
END
stop_nbdkit gone.pid || fail "the server ended with status $?"
stop_nbdkit quiet.pid || fail "the server ended with status $?"

# One line each.
cat *.log
for line in "gone: was lost" "gone: cannot be reached" "gone: is back" \
            "quiet: cannot be reached (no answer for 30 seconds)"; do
    [ $(grep -c "${line#*: }" ${line%%:*}.log) -eq 1 ] ||
        fail "${line%%:*}.log does not say once: ${line#*: }"
done
