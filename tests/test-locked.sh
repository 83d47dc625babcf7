#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# An image in use by another program makes nbdkit end with one line that names
# it, before it becomes a daemon.  An image that we serve is refused to QEMU's
# programs and to a second server, until ours ends, however it ends.

. ./functions.sh
set -e

requires nbdinfo --version
requires qemu-img --version
requires qemu-io --version

cd "$tmpdir"
nbdkit=$abs_top_builddir/nbdkit
uri="nbd+unix:///?socket=$tmpdir/sock"

qedctl create disk.qed 1M
qemu-io -f qed -c 'write -P 7 64k 64k' disk.qed >/dev/null
cp disk.qed before

# serve ARGUMENT...: nbdkit on $tmpdir/sock.
serve ()
{
  rm -f sock
  start_nbdkit -P pid -U sock "$@"
}

# refused HOLDER-PATTERN ARGUMENT...: nbdkit would become a daemon, and
# doesn't.
refused ()
{
  local r=0

  rm -f pid2
  timeout 30 "$nbdkit" -U sock2 -P pid2 "${@:2}" >out 2>err || r=$?
  if [ $r -eq 0 ]; then sleep 1; fi
  if [ -s pid2 ]; then
    kill "$(cat pid2)"
    fail "nbdkit ${*:2}: it became a daemon"
  fi
  if [ $r -eq 0 ] || [ $r -ge 124 ] || [ "$(wc -l <err)" -ne 1 ] ||
       ! grep -q "disk.qed: .* in use by $1" err; then
    cat out err
    fail "nbdkit ${*:2}: exit $r; expected 1 and one line with '$1'"
  fi
}

# can_write: a program of QEMU's may write the image itself.
can_write ()
{
  qemu-io -f qed -c 'write -P 7 64k 64k' disk.qed >out 2>&1
}

# ---- QEMU has it ----

held=
let_go ()
{
  exec 5>&-
  if [ -n "$held" ]; then wait $held || :; fi
  held=
}
cleanup_fn let_go

# hold ARGUMENT...: qemu-io keeps the image open.
hold ()
{
  mkfifo input
  qemu-io -f qed "$@" disk.qed <input >/dev/null 2>&1 &
  held=$!
  exec 5>input
  rm input
  for i in {1..200}; do
    if cat /proc/$held/fdinfo/* 2>/dev/null |
         grep -q '^lock:.* 100 10[0-3]$'; then return; fi
    sleep 0.05
  done
  fail "qemu-io did not take its lock"
}

hold
refused "qemu-io, process $held" qed disk.qed
refused "qemu-io, process $held" -r qed disk.qed
timeout 30 "$nbdkit" -U - -r qed disk.qed lock=off \
        --run 'nbdinfo --size "$uri"' >out
test "$(cat out)" = 1048576
cmp disk.qed before
let_go

hold -r
refused "qemu-io, process $held" qed disk.qed
timeout 30 "$nbdkit" -U - -r qed disk.qed --run 'nbdinfo --size "$uri"' >out
test "$(cat out)" = 1048576
cmp disk.qed before
let_go

# ---- We have it ----

serve qed disk.qed
refused "nbdkit, process $(cat pid)" qed disk.qed
refused "nbdkit, process $(cat pid)" -r qed disk.qed
if can_write; then fail "QEMU writes what we serve"; fi
grep -qi lock out
if qemu-img check disk.qed >out 2>&1; then
  fail "qemu-img checks what we serve"
fi
# It did not suffer from those who tried.
qemu-io -f raw -c 'read -P 7 64k 64k' "$uri" >out
if grep -i failed out; then fail "the content is another"; fi
stop_nbdkit pid
can_write

# lock=off: at the operator's risk.
serve qed disk.qed lock=off
can_write
stop_nbdkit pid

# The process that was started may end before its daemon has written this.
wait_pid ()
{
  for i in {1..200}; do
    if [ -s pid ]; then return; fi
    sleep 0.05
  done
  fail "there is no pid file"
}

# A daemon keeps the lock after the process that was started has gone.
daemon=
stop_daemon ()
{
  if [ -n "$daemon" ]; then kill $1 $daemon || :; fi
  for i in {1..200}; do
    if ! kill -0 $daemon 2>/dev/null; then daemon=; return; fi
    sleep 0.05
  done
  fail "the daemon is still there"
}
for signal in -TERM -KILL; do
  rm -f sock pid
  "$nbdkit" -U sock -P pid qed disk.qed
  wait_pid
  daemon=$(cat pid)
  cleanup_fn eval '[ -z "$daemon" ] || kill -9 $daemon'
  refused "nbdkit, process $daemon" qed disk.qed
  if can_write; then fail "QEMU writes what a daemon of ours serves"; fi
  stop_daemon $signal
  can_write
done

# A command that --run started has no copy of the lock when the server has
# gone.
"$nbdkit" -U - qed disk.qed --run 'sleep 30 >/dev/null 2>&1 & echo $! >sleeper'
cleanup_fn kill "$(cat sleeper)"
can_write
