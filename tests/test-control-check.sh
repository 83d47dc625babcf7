#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Checks that are started through the control socket: one at a time for an
# image; they are paused, slowed down, cancelled by whoever may; they go on when
# who started them has gone, and don't keep the server from ending.  What they
# find and repair is told.

set -e
. ./functions.sh
. "$srcdir/qedctl.sh"

requires jq --version
requires "$PYTHON" -c 'import nbd'

cd "$tmpdir"
export XDG_RUNTIME_DIR=$tmpdir/runtime
mkdir -m 700 runtime

serve ()
{
  rm -f sock
  start_nbdkit -P pid -U sock "${options[@]}" qed control=ctl "$@" 2>log
}
options=()

client ()
{
  timeout 60 "$PYTHON" "$srcdir/control-client.py" ctl "$@"
}

# nbd CODE: Python, with "h" connected to the server.
nbd ()
{
  timeout 60 "$PYTHON" -c "
import nbd
h = nbd.NBD()
h.connect_unix('sock')
$1" || fail "NBD: $1"
}

# ask REQUEST [FILTER]: its reply is in "reply"; the filter must hold for it.
ask ()
{
  client "$1" >reply || fail "$1: no reply"
  if [ $# -gt 1 ]; then holds "$2" "$1"; fi
}

holds ()
{
  jq -e "$1" reply >/dev/null ||
    { cat reply; fail "$2: expected of the reply: $1"; }
}

refuses ()
{
  ask "$2" '.error.code == "'"$1"'"'
}

# start REQUEST: in the background; its reply will be in "started".
start ()
{
  client "$1" >started &
  starter=$!
  until_status 'has("running-check")'
}

# Tables of 256 KiB, one for each of 64 guest ranges of 2 GiB: 16 MiB.
qedctl create big.qed 128G
serve big.qed
nbd '
for i in range(64):
    h.pwrite(b"x" * 4096, i << 31)
h.flush()'

# ---- One that runs ----

start '{"command":"check","rate":5000}'
until_status '."running-check".total > 0'
json '.images[0]."running-check" | .what == "check" and .rate == 5000 and
  .paused == false and .done <= .total and (.by | test ("uid [0-9]+, process"))
  and (.since | length) == 20'
for command in check repair; do
  ask '{"command":"'$command'"}' '.error.code == "already-running" and
    (.running | .what == "check" and .total > 0)'
done
ask '{"command":"metrics"}' '[.metrics[] | {(.name): .samples[0].value}] | add |
  .nbdkit_qed_checks_running == 1 and .nbdkit_qed_check_running == 1 and
  .nbdkit_qed_check_total > 0'

# Paused, it stays where it is.
ask '{"command":"check","action":"pause"}' '.running.paused'
sleep 1
ask '{"command":"status"}'
done=$(jq '.images[0]."running-check".done' reply)
sleep 1.5
ask '{"command":"status"}' '.images[0]."running-check" | .paused and
  .done == '"$done"
# Clients are served meanwhile, and it can be cancelled.
nbd 'h.pwrite(b"y" * 65536, 1 << 20); h.flush()'
ask '{"command":"flush"}' '.flushed'
ask '{"command":"check","action":"cancel"}' '.running.paused'
wait $starter
cp started reply
holds '.error.code == "canceled"' "the one who had started it"
ask '{"command":"status"}' '.images[0] | has("running-check") == false and
  ."last-check".verdict == "canceled"'

# Slow, it is cancelled at once all the same, and goes on at once when it may.
start '{"command":"check","rate":1}'
SECONDS=0
ask '{"command":"check","action":"cancel"}'
wait $starter
if [ $SECONDS -gt 20 ]; then fail "cancel took $SECONDS seconds"; fi
start '{"command":"check","rate":1,"data":true}'
SECONDS=0
ask '{"command":"check","action":"continue","rate":0}' '.running.rate == 0'
wait $starter
if [ $SECONDS -gt 20 ]; then fail "it went on after $SECONDS seconds"; fi
cp started reply
holds '.result | .corruptions == 0 and ."allocated-clusters" == 65' "continued"

# Who started it goes; it goes on.
start '{"command":"check","rate":5000}'
kill $starter
wait $starter 2>/dev/null || :
ask '{"command":"check","action":"continue","rate":5000000}'
until_status 'has("running-check") == false'
json '.images[0]."last-check".verdict == "clean"'

# The server ends in spite of it, and says so.
start '{"command":"check","rate":1}'
SECONDS=0
stop_nbdkit pid
if [ $SECONDS -gt 20 ]; then fail "its end took $SECONDS seconds"; fi
wait $starter
cp started reply
holds '.error.code == "canceled"' "at the end"
start_failed=
serve big.qed
start '{"command":"check","action":"start","rate":1}'
ask '{"command":"check","action":"pause"}'
SECONDS=0
stop_nbdkit pid
if [ $SECONDS -gt 20 ]; then fail "its end took $SECONDS seconds"; fi
wait $starter || :
qemu-img check -q big.qed
rm big.qed

# ---- What is found and repaired ----

# Two entries of one table name the same cluster, one more has reserved bits.
qedctl create bad.qed 1G
qemu-io -f qed -c 'write -P 1 0 64k' -c 'write -P 2 64k 64k' \
        -c 'write -P 3 128k 64k' bad.qed >/dev/null
"$PYTHON" - <<'END'
import struct
with open("bad.qed", "r+b") as f:
    f.seek(65536)
    table, = struct.unpack("<Q", f.read(8))
    f.seek(table)
    entries = list(struct.unpack("<3Q", f.read(24)))
    entries[1] = entries[0]
    entries[2] += 8
    f.seek(table)
    f.write(struct.pack("<3Q", *entries))
END
cp bad.qed before

options=(-r)
serve bad.qed
ask '{"command":"list"}' '.server."read-only"'
ask '{"command":"status"}' '.images[0].access == "read-only"'
ask '{"command":"check"}' '.result.corruptions == 2 and
  ([.problems[].code] | sort | .[0:2]) ==
    ["cluster-shared", "l2-entry-reserved-bits"]'
ask '{"command":"repair"}' '.error.code == "read-only" and
  (.error.message | test ("started read-only"))'
stop_nbdkit pid
cmp bad.qed before
options=()

serve bad.qed
until_status '.scanned'
json '.images[0] | .state == "damaged" and .access == "damaged"'
ask '{"command":"metrics"}' '[.metrics[] | {(.name): .samples[0].value}] | add |
  .nbdkit_qed_damaged == 1 and .nbdkit_qed_writable == 0'
ask '{"command":"check"}' '."more-problems" == false and
  .result.counts."cluster-shared" == 1 and
  (.problems | map(select (.code == "cluster-shared"))[0] |
   .guest == 65536 and ."guest-bytes" == 65536 and .other == 0 and
   (.value | test ("^0x[0-9a-f]+$")))'
ask '{"command":"status"}' '.images[0]."last-check" |
  .verdict == "corruptions" and .corruptions == 2'
ask '{"command":"repair","what":"leaks"}' '.result.corruptions == 2'
ask '{"command":"repair","what":"all"}' '.result."corruptions-fixed" == 2 and
  .result.corruptions == 0 and (.repairs | length) >= 2 and
  (.repairs[0].action | length) > 5'
ask '{"command":"status"}' '.images[0] | .access == "writable" and
  ."last-check".verdict == "clean"'
nbd 'assert h.pread(131072, 0) == bytes([1]) * 131072
h.pwrite(b"4" * 65536, 65536)
h.flush()
assert h.pread(65536, 0) == bytes([1]) * 65536'
stop_nbdkit pid
qemu-img check bad.qed
