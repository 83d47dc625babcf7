#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl and a server on this host: a file that is served is found and checked
# there, with the report and the exit status of any check; a check that runs is
# steered, stopped with Ctrl-C, followed on a terminal; servers that are gone,
# or go, or are others than the links say.

set -e
. ./functions.sh
. "$srcdir/qedctl.sh"

requires "$PYTHON" -c 'import nbd'
requires jq --version

cd "$tmpdir"
export XDG_RUNTIME_DIR=$tmpdir/runtime
mkdir -m 700 runtime
if [ "$(id -u)" -eq 0 ]; then
  links=/run/nbdkit-qed/by-inode
else
  links=$XDG_RUNTIME_DIR/nbdkit-qed/by-inode
fi

serve ()
{
  rm -f sock
  start_nbdkit -P pid -U sock qed "$@" 2>>log
  wait_for_control
}

# ---- Found by the file ----

qedctl create disk.qed 1G
qedctl create other.qed 1M
ln -s disk.qed symlink.qed
ln disk.qed hard.qed
refused 'no server on this host' status disk.qed
refused 'no server .* that takes commands' check --cancel disk.qed
refused 'nothing.qed: No such file' status nothing.qed
status 1 check nothing.qed
status 0 check disk.qed
if grep served out; then fail "it is not served"; fi

serve disk.qed control=ctl
for file in disk.qed "$PWD/disk.qed" ./symlink.qed hard.qed; do
  status 0 check $file
  says "$file is being served: its server checks it" "$file is in order"
  status 0 check --json $file
  json '.filename == "'"$file"'" and .served and .complete'
  status 0 status $file
  says '^image: *disk.qed$' '^state: *clean$' '^writable: *yes$'
done
status 0 check --control ctl
says "$PWD/disk.qed is in order"
status 0 check --control ctl disk.qed
status 0 check --json --control ctl
json '.filename == "'"$PWD/disk.qed"'"'
status 0 list disk.qed
says '^open  *clean  *0 clients  disk.qed$'
status 0 flush disk.qed
status 0 flush --json --control ctl disk.qed
json '.flushed'
status 0 check --repair --data disk.qed
refused 'there is no export "x"' status --control ctl x
refused 'there is no export "x"' check --control ctl x
refused 'exclude each other' status --control ctl nbd://localhost/
refused 'too many' list --control ctl disk.qed
refused 'too many' status disk.qed other.qed
refused 'too few' status
refused 'exclude each other' check --pause --cancel disk.qed
refused 'beside them' check --pause --repair disk.qed
refused 'with --continue' check --cancel --limit 1 disk.qed
refused 'is not running\|no check of this image' check --pause disk.qed
status 0 check other.qed

status 0 metrics disk.qed
says '^# HELP nbdkit_qed_clients ' '^# TYPE nbdkit_qed_clients gauge$' \
     '^nbdkit_qed_clients{image="disk.qed"} 0$' \
     '^# TYPE nbdkit_qed_requests_total counter$' \
     '^nbdkit_qed_requests_total{image="disk.qed",request="read"} 0$'
"$PYTHON" "$srcdir/prometheus.py" out >/dev/null ||
  fail "not Prometheus's format"
cp out expected
status 0 metrics --control ctl --textfile m.prom
test ! -s out
test "$(stat --format=%a m.prom)" = 644
diff <(grep -v cached_pages expected) <(grep -v cached_pages m.prom)
status 0 metrics --json --control ctl
json '.metrics | length > 20'
refused 'nowhere/m.prom' metrics --control ctl --textfile nowhere/m.prom
echo old >m.prom
cp m.prom before
stop_nbdkit pid

# It is gone, and so is the link.
refused 'No such file' metrics --control ctl --textfile m.prom
cmp m.prom before
refused 'no server on this host' status disk.qed
status 0 check disk.qed

# A server that was killed leaves both.
serve disk.qed control=ctl
kill_nbdkit pid
test -L "$links/$(stat --format=%d-%i disk.qed)"
refused 'no server serves this socket' status --control ctl
refused 'no server on this host' status disk.qed
status 0 check disk.qed

# Links that lead to a server of another file, or to none, are not believed.
serve other.qed control=ctl
ln -sfn "$PWD/ctl" "$links/$(stat --format=%d-%i disk.qed)"
refused 'no server on this host' status disk.qed
status 0 check disk.qed
if grep served out; then fail "the wrong server checks it"; fi
for target in /dev/null "$PWD" "$PWD/disk.qed" "$PWD/nothing" loop; do
  ln -sfn "$target" "$links/$(stat --format=%d-%i disk.qed)"
  status 1 status disk.qed
done
rm "$links/$(stat --format=%d-%i disk.qed)"
stop_nbdkit pid

# Without a control socket there is the lock, which says who has it.
rm -f sock
start_nbdkit -P pid -U sock qed disk.qed 2>>log
status 1 check disk.qed
grep -q 'in use by .*nbdkit' err
stop_nbdkit pid

# ---- Reports and exit codes ----

# Clusters shared, an entry with reserved bits, more problems than are told.
qedctl create --cluster-size 4096 --table-size 1 small.qed 1M
"$PYTHON" - <<'END'
import struct
with open("small.qed", "r+b") as f:
    f.truncate(4 * 4096)
    f.seek(4096)
    f.write(struct.pack("<Q", 8192))
    f.seek(8192)
    f.write(struct.pack("<256Q", *[12288] * 250, 12288 + 8, *[0] * 5))
    f.seek(12288)
    f.write(b"\1" * 4096)
END
cp small.qed closed.qed
status 2 check --json closed.qed
cp out closed.json
serve small.qed control=ctl
status 2 check --json small.qed
json '.corruptions == 250 and ."problems-incomplete" and
      (.problems | map(select (.code == "cluster-shared")) | length) == 100 and
      .counts."l2-entry-reserved-bits" == 1'
# Beside what is told of fewer problems, it is the report of any check.
keep='del(.problems, .filename, .served, ."problems-incomplete")'
diff <(jq -S "$keep" closed.json) <(jq -S "$keep" out)
status 2 check --verbose small.qed
says '^cluster-shared: and 149 more$' '^small.qed is damaged' \
     '^A repair would lose'
status 2 check --repair=leaks small.qed
status 0 check --repair small.qed
says '^corruptions repaired: *250' '^repaired: ' \
     'was repaired and is in order' '^Lost, and reading as zeros'
status 0 check small.qed
stop_nbdkit pid
status 0 check small.qed

# ---- Steering, and who goes away ----

# Tables for 64 ranges of 2 GiB.
qedctl create big.qed 128G
serve big.qed control=ctl control-export=admin
uri="nbd+unix:///?socket=$PWD/sock"
timeout 60 "$PYTHON" -c '
import nbd
h = nbd.NBD()
h.connect_unix("sock")
for i in range(64):
    h.pwrite(b"x" * 4096, i << 31)
h.flush()'

# start ARGUMENT...: a check in the background; what it says is in "check.out"
# and "check.err".
start ()
{
  qedctl check --limit 5K "$@" >check.out 2>check.err &
  check=$!
  until_status 'has("running-check")'
}

# ended STATUS: it has.
ended ()
{
  local r=0

  wait $check || r=$?
  if [ $r -ne $1 ]; then
    cat check.out check.err
    fail "the check: exit $r, expected $1"
  fi
}

for door in big.qed "$uri" '--control ctl'; do
  start $door
  refused 'is running already: .*(since .*, by uid .*--cancel' check $door
  refused 'is running already' check --repair $door
  status 0 check --pause $door
  says '^The check is paused'
  status 0 status $door
  says '^running: *check, [0-9]* %, paused, since .*, by uid'
  status 0 check --continue --limit 100M $door
  says '^The check goes on'
  ended 0
  grep -q 'is in order' check.out

  start $door
  status 0 check --cancel --json $door
  json '.running.what == "check"'
  ended 1
  grep -q 'canceled' check.err
  until_status 'has("running-check") == false'

  # Ctrl-C ends the server's check, too.
  start $door
  kill -INT $check
  ended 1
  grep -q 'stopped by a signal' check.err
  test "$(wc -l <check.err)" -eq 1
  until_status '."last-check".verdict == "canceled" and
                 has("running-check") == false'

  # Killed, it leaves the check to the server.
  start $door
  kill -KILL $check
  wait $check 2>/dev/null || :
  until_status 'has("running-check")'
  status 0 check --continue --limit 100M $door
  until_status '."last-check".verdict == "clean" and
                 has("running-check") == false'
done

# On a terminal there is a bar.
if script --version >/dev/null 2>&1; then
  timeout 60 script -qec "qedctl check --limit 40K big.qed" /dev/null \
          </dev/null >typescript
  grep -q '\[#*-*\] *[0-9]* %' typescript
  grep -q 'is in order' typescript
fi

# The server ends, or is killed.
start "$uri"
stop_nbdkit pid
ended 1
grep -q 'canceled\|connection to the server was lost' check.err
for door in big.qed "$uri"; do
  serve big.qed control=ctl control-export=admin
  start $door
  kill_nbdkit pid
  ended 1
  grep -q 'connection to the server was lost .* qedctl status' check.err
  if [ "$(wc -l <check.err)" -ne 1 ]; then cat check.err; fail "more"; fi
done
# A server that does not answer, or with nonsense.
cat >fake.py <<'END'
import socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.bind("fake")
s.listen()
open("ready", "w").close()
for i in range(5):
    c, _ = s.accept()
    c.recv(65536)
    c.sendall([b"nonsense\n", b"", b'{"output_version":2}\n', b"[1]\n",
               b"x" * (8 << 20)][i])
    c.close()
END
timeout 60 "$PYTHON" fake.py 2>/dev/null &
fake=$!
for i in {1..100}; do if [ -e ready ]; then break; fi; sleep 0.1; done
refused 'is no JSON' status --control fake
refused 'connection to the server was lost' status --control fake
refused 'another version of the protocol' status --control fake
refused 'another version of the protocol' status --control fake
refused 'its answer is too long' status --control fake
wait $fake || :
