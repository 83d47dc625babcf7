#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The file locks, both ways: what QEMU's programs hold we refuse, by the
# holder's name, and change nothing; what we hold they refuse.  Of two racers
# exactly one wins.

. ./functions.sh
set -e

requires qemu-img --version
requires qemu-io --version
requires qemu-nbd --version

cd "$tmpdir"
lock_holder=$abs_top_builddir/tests/lock-holder

qemu-img create -q -f qed x.qed 1M
cp x.qed before

# hold READY COMMAND...: run it in the background with its input held open
# until let_go; wait until READY succeeds.
hold ()
{
  rm -f input output            # of the one before
  mkfifo input
  "${@:2}" <input >output 2>&1 &
  held=$!
  exec 5>input
  for i in {1..200}; do
    if "$1"; then return; fi
    sleep 0.05
  done
  cat output
  fail "$2 did not take its lock"
}

let_go ()
{
  exec 5>&-
  wait $held || :
  held=
}

cleanup_held ()
{
  exec 5>&-
  if [ -n "$held" ]; then kill $held 2>/dev/null || :; fi
}
cleanup_fn cleanup_held

# QEMU's locks are there, as the kernel tells (which merges neighbours).
any_lock ()
{
  cat /proc/$held/fdinfo/* 2>/dev/null >lines || :
  grep -q '^lock:.* 100 10[0-3]$' lines && grep -q '^lock:.* 20[1-3]$' lines
}

held_by_us ()
{
  grep -qs '^held$' output
}

# we_refuse NAME: a writer of ours, in words and without a change.
we_refuse ()
{
  local r=0

  timeout 20 qedctl create --force x.qed 1M 2>err || r=$?
  if [ $r -ne 1 ] || [ "$(wc -l <err)" -ne 1 ] ||
       ! grep -q "in use by $1, process $held:" err; then
    cat err
    fail "exit $r, expected one line that names $1, process $held"
  fi
  cmp x.qed before
}

# we_get READER-OR-WRITER WHAT
we_get ()
{
  local got

  got=$("$lock_holder" x.qed "$1" </dev/null || :)
  case $got in
    $2*) ;;
    *) fail "a $1 got '$got', not $2" ;;
  esac
}

# Free: all may.
we_get writer held
we_get reader held
qedctl create --force x.qed 1M

# QEMU writes: neither a writer nor a reader of ours.
hold any_lock qemu-io -f qed x.qed
we_refuse qemu-io
we_get reader "refused qemu-io, process $held"
we_get nfs-writer "refused qemu-io, process $held"
let_go
we_get writer held
we_get nfs-writer held

# QEMU reads: a reader of ours, but no writer.
hold any_lock qemu-io -r -f qed x.qed
we_refuse qemu-io
we_get nfs-writer "refused qemu-io, process $held"
we_get reader held
let_go

# qemu-nbd, both ways of serving.
for ro in "" -r; do
  hold any_lock qemu-nbd $ro -f qed -k "$tmpdir/sock" x.qed
  we_refuse qemu-nbd
  kill $held
  let_go
done
we_get writer held

# We write: QEMU does neither; and as we do on NFS, with write locks.
for writer in writer nfs-writer; do
  hold held_by_us "$lock_holder" x.qed $writer
  if qemu-io -f qed -c 'write 0 512' x.qed >out 2>&1; then fail "two writers"; fi
  grep -q 'lock' out || fail "qemu-io fails otherwise: $(cat out)"
  if qemu-io -r -f qed -c 'read 0 512' x.qed >out 2>&1; then
    fail "QEMU reads what we write"
  fi
  if qemu-nbd -f qed -k "$tmpdir/sock" x.qed >out 2>&1 </dev/null; then
    fail "qemu-nbd serves what we write"
  fi
  if qemu-img check x.qed >out 2>&1; then
    fail "qemu-img checks what we write"
  fi
  cmp x.qed before
  qemu-img info -U x.qed >out || fail "nobody may look"
  we_refuse lock-holder
  for other in writer nfs-writer; do
    we_get $other "refused lock-holder, process $held"
  done
  we_get reader "refused lock-holder, process $held"
  let_go
done

# We read: QEMU reads too, and does not write.
hold held_by_us "$lock_holder" x.qed reader
if qemu-io -f qed -c 'write 0 512' x.qed >out 2>&1; then
  fail "QEMU writes what we read"
fi
qemu-io -r -f qed -c 'read 0 512' x.qed >out 2>&1 ||
  fail "QEMU can't read what we read: $(cat out)"
we_refuse lock-holder
we_get reader held
cmp x.qed before
let_go

# Dropped explicitly, although a child has a copy of the descriptor.
hold held_by_us "$lock_holder" x.qed writer drop-after-fork
we_get writer held
qemu-io -f qed -c 'read 0 512' x.qed >out 2>&1 ||
  fail "QEMU can't open what was dropped: $(cat out)"
let_go

# A holder that dies lets go.
hold held_by_us "$lock_holder" x.qed writer
kill -9 $held
let_go 2>/dev/null
we_get writer held

# A lock that is let go within the second is waited for.
hold held_by_us "$lock_holder" x.qed writer
(sleep 0.2; kill $held) 5>&- &
we_get writer held
wait $! || :
let_go 2>/dev/null

# Racers: one wins, one is refused, whoever it is.
for round in {1..6}; do
  other=writer
  [ $((round % 2)) -eq 0 ] || other=nfs-writer
  rm -f a b                     # of the round before
  mkfifo race
  "$lock_holder" x.qed writer <race >a 2>&1 &
  first=$!
  "$lock_holder" x.qed $other <race >b 2>&1 &
  second=$!
  exec 6>race
  for i in {1..300}; do
    if grep -qs refused a b && grep -qs held a b; then break; fi
    sleep 0.05
  done
  exec 6>&-
  wait $first || :
  wait $second || :
  rm race
  if [ "$(cat a b | grep -c '^held$')" -ne 1 ] ||
       [ "$(cat a b | grep -c '^refused lock-holder, process ')" -ne 1 ]; then
    fail "round $round: one got '$(cat a)', the other '$(cat b)'"
  fi
done
cmp x.qed before

# A lease, such as a client of this host's NFS server may have, is given back a
# while after someone wants the file; that is waited for, too, but not forever.
cat >lease.py <<'END'
import fcntl, os, signal, sys, time
fd = os.open("x.qed", os.O_RDWR)
asked = False
def give_back(*_):
    global asked
    asked = True
signal.signal(signal.SIGIO, give_back)
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("leased", flush=True)
while not asked:
    time.sleep(0.01)
time.sleep(float(sys.argv[1]))
fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
print("given back", flush=True)
END
# lease SECONDS: until so long after it is asked back.
lease ()
{
  rm -f leased
  timeout 60 "$PYTHON" lease.py $1 >leased &
  lease=$!
  for i in {1..100}; do [ ! -s leased ] || break; sleep 0.1; done
  [ -s leased ] || fail "there is no lease"
}
if "$PYTHON" -c 'import fcntl, os
fcntl.fcntl(os.open("x.qed", os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)'; then
  for beneath in '' 1; do
    lease 0.5
    if [ -z "$beneath" ]; then
      qedctl check --repair x.qed >out 2>&1 || fail "leased: $(cat out)"
    else
      timeout 30 "$abs_top_builddir/nbdkit" -U - qed dir=. \
              --run 'nbdinfo --size "nbd+unix:///x.qed?socket=$unixsocket"' \
              >out 2>&1 || fail "leased: $(cat out)"
    fi
    wait $lease
  done
  lease 6
  if qedctl check --repair x.qed >out 2>&1; then fail "leased for long"; fi
  grep -q "x.qed: cannot open: a client of this host's NFS server has it" out ||
    fail "leased for long: $(cat out)"
  wait $lease
fi
