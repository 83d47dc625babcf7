#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl status: requests in flight, and what the oldest waits for, while the
# server below an image hangs; the health of an image through its life; and
# the log, which names what failed in one line and is not flooded.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/qedctl.sh"
. "$srcdir/backing-server.sh"

requires jq --version
requires qemu-nbd --version
requires "$PYTHON" -c 'import nbd'

cd "$tmpdir"

# ---- In flight ------------------------------------------------------------

head -c 4M /dev/urandom >base.raw
start_qemu_backing base.raw raw
qedctl create top.qed 4M --backing "$backing_uri" >/dev/null
serve top.qed backing=any control=ctl 2>log
wait_for_control
until_status '.["requests-in-flight"] == 0 and .["oldest-request"] == null and
              .health == "clean"'

cat >work.py <<'END'
import sys
import nbd

h = nbd.NBD()
h.connect_uri(sys.argv[1])
bufs = [nbd.Buffer(4096) for i in range(int(sys.argv[2]))]
for i, b in enumerate(bufs):
    h.aio_pread(b, 8192 + i * 65536)
while h.aio_in_flight() > 0:
    h.poll(-1)
data = open("base.raw", "rb").read()
for i, b in enumerate(bufs):
    at = 8192 + i * 65536
    assert b.to_bytearray() == data[at:at + 4096]
h.shutdown()
END
kill -STOP $backing_pid
timeout 60 "$PYTHON" work.py "$uri" 3 &
worker=$!
until_status '.["requests-in-flight"] == 3 and
              (.["oldest-request"] | .request == "read" and .length == 4096 and
               .step == "fetch" and (.offset - 8192) % 65536 == 0 and
               .seconds > 0.3)'
qedctl status --control ctl >out
grep -q '^requests: *3 in flight, 0 so far, 0 of them failed$' out ||
    { cat out; fail "the text doesn't tell of the requests"; }
grep -Eq '^oldest request: +read of 4096 bytes at 0x[0-9a-f]+, for [0-9]+\.[0-9]{3} s, at fetch: the backing' out ||
    { cat out; fail "the text doesn't tell of the oldest request"; }
qedctl metrics --control ctl |
    "$PYTHON" "$srcdir/prometheus.py" >values
jq -e '.["nbdkit_qed_requests_in_flight{image=top.qed}"] == 3 and
       .["nbdkit_qed_oldest_request_seconds{image=top.qed}"] > 0.3' values >/dev/null ||
    { cat values; fail "metrics don't tell of them"; }
kill -CONT $backing_pid
wait $worker || fail "the reads failed"
until_status '.["requests-in-flight"] == 0 and .requests == 3 and
              .["oldest-request"] == null'

# A client that goes away takes its requests with it.
kill -STOP $backing_pid
n=$(orphans_max)
if [ $n -gt 3 ]; then n=3; fi
"$PYTHON" work.py "$uri" $n 2>/dev/null &
worker=$!
until_status ".[\"requests-in-flight\"] == $n"
kill -9 $worker
wait $worker 2>/dev/null || :
until_status '.["requests-in-flight"] == 0 and .clients == 0'
kill -CONT $backing_pid
serve_stop
stop_backing KILL

# ---- Health ---------------------------------------------------------------

make_image life.qed 65536 4 64M
serve life.qed control=ctl clean-after=1 2>log
wait_for_control
"$PYTHON" -c '
import sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pwrite(b"x" * 65536, 0)
h.shutdown()' "$uri"
until_status '.health == "clean" or .health == "dirty"'
until_status '.health == "clean" and .state == "clean"'
qedctl list --control ctl >out
grep -Eq '^open +clean +0 clients  life.qed$' out || { cat out; fail "list"; }
serve_stop

"$PYTHON" "$srcdir/leaky-image.py" leaky.qed
serve leaky.qed control=ctl check=never 2>log
wait_for_control
qedctl check --control ctl >out || [ $? -eq 3 ]
until_status '.health == "leaks" and .["last-check"]["exit-code"] == 3 and
              .["last-check"].leaks > 0'
qedctl status --control ctl >out
grep -q '^last check: .*leaks (exit 3): 0 corruptions, ' out ||
    { cat out; fail "the text doesn't tell of the last check"; }
qedctl list --control ctl --json | jq -e '.images[0].health == "leaks"' >/dev/null ||
    fail "the list doesn't tell of leaks"

# One that was canceled says nothing: what was known stays so.
qedctl check --control ctl --limit 1K >/dev/null 2>&1 &
checker=$!
until_status 'has("running-check")'
status 0 check --control ctl --cancel
wait $checker || :
until_status '.["last-check"].verdict == "canceled" and .health == "leaks" and
              .["last-complete-check"].leaks > 0'
status 0 status --control ctl
says '^last check: .*canceled (exit 1): 0 corruptions' \
     '^last complete check: .*leaks (exit 3): 0 corruptions'
qedctl metrics --control ctl | "$PYTHON" "$srcdir/prometheus.py" >values
jq -e '.["nbdkit_qed_last_check_leaks{image=leaky.qed}"] > 0 and
       .["nbdkit_qed_last_check_exit_code{image=leaky.qed}"] == 3' values \
   >/dev/null || { cat values; fail "metrics are of the canceled check"; }

# ---- While it is released -------------------------------------------------

# use WORD: metrics say that it is used so.
use ()
{
    qedctl metrics --control ctl | "$PYTHON" "$srcdir/prometheus.py" >values
    jq -e '[to_entries[] | select(.key | startswith("nbdkit_qed_use{"))] |
           length == 6 and (map(.value) | add) == 1 and
           any(.value == 1 and .key ==
               "nbdkit_qed_use{image=leaky.qed,use='$1'}")' values >/dev/null ||
        { cat values; fail "metrics don't say $1"; }
}

use open
client <<'END'
import subprocess, threading, time
def ctl(command, *arguments, out="/dev/null"):
    with open(out, "w") as f:
        subprocess.run(["qedctl", command, "--control", "ctl", *arguments],
                       check=True, timeout=60, stdout=f)
ctl("release")
waiting = threading.Thread(target=lambda: h.pread(4096, 8192))
waiting.start()
time.sleep(0.5)
ctl("status", out="released")
ctl("top", "--interval", "0.1", "--count", "1", out="top")
ctl("activate")
waiting.join(10)
ctl("release")
END
grep -q '^requests: *1 in flight, ' released &&
    grep -Eq '^oldest request: *read of 4096 bytes at 0x2000, for [0-9.]+ s, at hand-over: the image is to be active' released &&
    grep -Eq '^leaky.qed *released .* hand-over$' top ||
    { cat released top; fail "they don't tell of who waits"; }
use released
until_status '.use == "released" and .["requests-in-flight"] == 0'

# Another has repaired it since: what the last check said is not known any more.
status 0 check --repair leaky.qed
status 0 activate --control ctl
until_status '.health == "clean" and has("last-check") == false'
use open
serve_stop

# The same where images are closed when nobody uses them; but if nobody wrote
# to one, it is still known.
mkdir many
"$PYTHON" "$srcdir/leaky-image.py" many/leaky.qed
rm -f "$sock"
start_nbdkit -P "$pidfile" -U "$sock" qed dir=many control=ctl check=never
wait_for_control
closed ()
{
    local i

    for i in {1..100}; do
        status 0 list --control ctl --json
        if jq -e '.images[0].use == "closed"' out >/dev/null; then return; fi
        sleep 0.1
    done
    fail "it is not closed"
}
many="nbd+unix:///leaky.qed?socket=$sock"
status 3 check --control ctl leaky.qed
closed
timeout 20 nbdinfo --size "$many" >/dev/null
until_status '.health == "leaks" and .["last-check"]["exit-code"] == 3'
closed
status 0 check --repair many/leaky.qed
timeout 20 nbdinfo --size "$many" >/dev/null
until_status '.health == "clean" and has("last-check") == false'
serve_stop

# An L1 entry that leads nowhere.
make_image bad.qed 65536 4 64M
printf '\1\2\3\4\0\0\0\0' |
    dd of=bad.qed bs=1 seek=65536 conv=notrunc status=none
serve bad.qed control=ctl 2>log
wait_for_control
until_status '.health == "corrupt" and .state == "damaged"'
serve_stop

# ---- The log --------------------------------------------------------------

start_backing "$PYTHON" "$srcdir/nbd-server.py" "$backing_sock" 4M error
qedctl create err.qed 4M --backing "$backing_uri" >/dev/null
serve err.qed backing=any control=ctl 2>log
wait_for_control
"$PYTHON" -c '
import errno, sys, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for i in range(60):
    try:
        h.pread(4096, i * 4096)
        sys.exit("a read succeeded")
    except nbd.Error as e:
        assert e.errnum == errno.EIO
h.shutdown()' "$uri"
until_status '.["request-errors"] == 60 and .clients == 0'
n=$(grep -c 'failed' log)
[ "$n" -eq 11 ] || { cat log; fail "$n lines about 60 failures"; }
grep -q 'err.qed: 50 more requests failed, which were not logged' log ||
    { cat log; fail "nobody tells of the others"; }
# Nor is it by those who ask for what isn't there.
"$PYTHON" -c '
import sys, nbd
for i in range(300):
    h = nbd.NBD()
    h.set_export_name("none")
    try:
        h.connect_unix(sys.argv[1])
        sys.exit("there is an export")
    except nbd.Error:
        pass' "$sock"
n=$(grep -c 'there is no export "none"; use "err.qed" or ""' log)
[ "$n" -ge 100 ] && [ "$n" -lt 300 ] ||
    { cat log; fail "$n lines about 300 clients"; }
[ "$(grep -Ec 'err\.qed: read of 4096 bytes at 0x[0-9a-f]+ failed: Input/output error \(reading the backing file at offset 0x[0-9a-f]+ failed: .*\); the client got this error' log)" -eq 10 ] ||
    { cat log; fail "a line lacks something"; }
serve_stop
