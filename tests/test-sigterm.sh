#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The end of a server: when it is told to go, it has gone within two seconds
# if it was idle, and leaves a clean image with all that was written, flushed
# or not, cut to the end of use.  Also with clients connected or at work.

. ./functions.sh
set -e

requires qemu-img --version
requires qemu-io --version

cd "$tmpdir"
nbdkit=$abs_top_builddir/nbdkit
uri="nbd+unix:///?socket=$tmpdir/sock"

# Header, L1 table, one L2 table.
tables=$((65536 * (1 + 4 + 4)))

# serve ARGUMENT...: nbdkit on $tmpdir/sock.
serve ()
{
  rm -f sock
  start_nbdkit -P pid -U sock "$@"
}

need_check ()
{
  [ $(($(od -A n -t u1 -j 16 -N 1 disk.qed) & 2)) -ne 0 ]
}

# The client leaves without a flush of its own.
client ()
{
  qemu-io -t unsafe -f raw "$@" "$uri" >out 2>&1 || { cat out; fail "$*"; }
  if grep -i failed out; then fail "$*"; fi
}

# gone PID SIGNAL: within two seconds (a sanitizer, ten).
gone ()
{
  local i n=40

  if [ -n "$SANITIZER" ]; then n=200; fi
  kill $2 $1
  for ((i = 0; i < n; i++)); do
    if ! kill -0 $1 2>/dev/null || grep -qs '^State:.Z' /proc/$1/status; then
      return
    fi
    sleep 0.05
  done
  kill -9 $1
  fail "still there after $((n / 20)) seconds"
}

# wrote COUNT BYTES: wait until the client has, so often.
wrote ()
{
  local i n

  for i in {1..400}; do
    n=$(grep -cs "wrote $2/" client.out || :)
    if [ "${n:-0}" -ge $1 ]; then return; fi
    sleep 0.05
  done
  cat client.out
  fail "the client did not write $2 bytes $1 times"
}

# clean CLUSTERS: the image is, and as long as these need.
clean ()
{
  local length

  if need_check; then fail "NEED_CHECK is set"; fi
  qemu-img check -q -f qed disk.qed || fail "QEMU finds something wrong"
  length=$(stat -c %s disk.qed)
  if [ -n "$1" ] && [ $length -ne $((tables + 65536 * $1)) ]; then
    fail "the file has $length bytes, not $((tables + 65536 * $1))"
  fi
}

content ()
{
  qemu-io -r -f qed "$@" disk.qed >out 2>&1
  if grep -i failed out; then fail "the content is another"; fi
}

daemon=
cleanup_fn eval '[ -z "$daemon" ] || kill -9 $daemon'

# The process that was started may end before its daemon has written this.
wait_pid ()
{
  for i in {1..200}; do
    if [ -s pid ]; then return; fi
    sleep 0.05
  done
  fail "there is no pid file"
}

# Idle, as a service in the foreground and as a daemon, for both signals.
for mode in -f ""; do
  for signal in -TERM -INT; do
    qedctl create --force disk.qed 1G
    rm -f pid sock
    daemon=
    if [ -n "$mode" ]; then
      "$nbdkit" -f -P pid -U sock qed disk.qed clean-after=0 2>log &
      job=$!
    else
      "$nbdkit" -P pid -U sock qed disk.qed clean-after=0
      job=
    fi
    wait_pid
    daemon=$(cat pid)
    client -c 'write -P 1 5000 100000' -c 'write -P 2 200M 65536'
    need_check || fail "NEED_CHECK is not set while it is served"
    gone $daemon $signal
    daemon=
    if [ -n "$job" ]; then
      wait $job || fail "the server ended with status $?"
      if [ -s log ]; then cat log; fail "it complains at its end"; fi
    fi
    clean 3
    content -c 'read -P 0 0 5000' -c 'read -P 1 5000 100000' \
            -c 'read -P 2 200M 65536' -c 'read -P 0 105000 1M'
  done
done

# Nothing was written: nothing is.
cp disk.qed before
serve qed disk.qed
client -c 'read -P 1 5000 100000' -c flush
stop_nbdkit pid
cmp disk.qed before

# Clients are connected, and silent: one that has written, over TCP also one
# that did not even greet.
client=
cleanup_fn eval '[ -z "$client" ] || kill $client'
unix=$uri
for family in unix 127.0.0.1 ::1; do
  qedctl create --force disk.qed 1G
  if [ $family = unix ]; then
    serve qed disk.qed clean-after=0 2>log
  else
    port=$("$PYTHON" -c 'import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET)
s.bind((sys.argv[1], 0))
print(s.getsockname()[1])' $family 2>err) || { cat err; continue; }
    start_nbdkit -P pid -i $family -p $port qed disk.qed clean-after=0 2>log
    uri=nbd://[$family]:$port
    if [ $family = 127.0.0.1 ]; then uri=nbd://$family:$port; fi
    exec 6<>/dev/tcp/$family/$port
  fi
  rm -f input client.out        # of the family before
  mkfifo input
  qemu-io -t unsafe -f raw "$uri" <input >client.out 2>&1 6>&- &
  client=$!
  exec 5>input
  echo 'write -P 3 1M 64k' >&5
  wrote 1 65536
  gone $(cat pid) -TERM
  exec 5>&- 6>&-
  wait $client || :
  client=
  stop_nbdkit pid
  clean 1
  content -c 'read -P 3 1M 64k'
done
uri=$unix

# Clients at work: what was acknowledged is there.
qedctl create --force disk.qed 1G
serve qed disk.qed 2>log
for n in {0..199}; do
  echo "write -P $((n + 1)) ${n}M 96k"
  echo "flush"
done >commands
qemu-io -t unsafe -f raw "$uri" <commands >client.out 2>&1 &
client=$!
wrote 20 98304
gone $(cat pid) -TERM
wait $client || :
client=
stop_nbdkit pid
n=$(grep -c 'wrote 98304/' client.out)
clean ""
for ((i = 0; i < n; i++)); do
  set -- "$@" -c "read -P $((i + 1)) ${i}M 96k"
done
content "$@"

# Many of them, each with many requests under way, and in the middle of the
# next ones.
model_test=$abs_top_builddir/tests/model-test
for seed in 1 2 3 4; do
  qedctl create --force disk.qed 256M
  serve qed disk.qed 2>log
  "$model_test" --seed $seed --seconds 30 --may-die --connections 16 \
    --depth 16 --max-count 1M --zero --trim --save model "$uri" &
  client=$!
  for i in {1..200}; do
    if need_check; then break; fi
    sleep 0.05
  done
  sleep 0.3
  stop_nbdkit pid || fail "the server ended with status $?: $(cat log)"
  wait $client || fail "a client at work failed"
  client=
  if need_check; then fail "NEED_CHECK is set"; fi
  serve qed disk.qed
  "$model_test" --load model --verify-only "$uri"
  stop_nbdkit pid
done

# The end of --run's command is the end of the server, too.
qedctl create --force disk.qed 1G
"$nbdkit" -U - qed disk.qed --run '
  qemu-io -t unsafe -f raw -c "write -P 4 3M 1M" "$uri"' >out
clean 16
content -c 'read -P 4 3M 1M'
