#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The units: systemd understands and finds them hardened, users and directories
# come to be, and what the units run does what they count on: a server that
# tells when it is ready and alive, that takes systemd's socket, and a scrub
# that is loud about damage.

. ./functions.sh
set -e

requires systemd-analyze --version
requires systemd-socket-activate --version
requires "$PYTHON" --version
requires qemu-img --version

cd "$tmpdir"
units=$abs_top_builddir/systemd
sources=$abs_top_srcdir/systemd

# ---- What systemd says of them ----

# Their programs are those that were built.
mkdir units
for u in "$units"/*.service "$sources"/*.socket "$sources"/*.timer; do
  sed -e "s,=[^ ]*/qedctl ,=$abs_top_builddir/server/qedctl ," \
      -e "s,=[^ ]*/scrub ,=$sources/scrub ," "$u" >"units/${u##*/}"
done
for u in units/*; do
  # Documentation is installed later than this test runs.
  systemd-analyze verify --man=no --recursive-errors=no \
                  "${u/@/@x}" >out 2>&1 ||
    { cat out; fail "systemd doesn't take ${u##*/}"; }
  [ ! -s out ] || { cat out; fail "systemd complains of ${u##*/}"; }
  case $u in
    *.service)
      systemd-analyze security --offline=yes --threshold=20 "$u" >out 2>&1 ||
        { cat out; fail "${u##*/} is exposed: more than 2.0"; }
      tail -n 1 out ;;
  esac
done

mkdir -p root/etc
systemd-sysusers --root="$PWD/root" "$sources/sysusers.d/nbdkit-qed.conf"
grep -q '^nbdkit-qed:.*/var/lib/nbdkit-qed' root/etc/passwd
if [ "$(id -u)" -eq 0 ]; then
  mkdir -p root/run root/var/lib
  systemd-tmpfiles --root="$PWD/root" --create \
                   "$sources/tmpfiles.d/nbdkit-qed.conf"
  uid=$(awk -F: '$1 == "nbdkit-qed" { print $3 }' root/etc/passwd)
  test "$(stat -c '%u %a' root/run/nbdkit-qed/by-inode)" = "$uid 755"
  test "$(stat -c '%u %a' root/var/lib/nbdkit-qed)" = "$uid 750"
fi

# ---- What a server tells ----

"$PYTHON" "$srcdir/notify-socket.py" "$tmpdir/notify" >told &
ear=$!
cleanup_fn kill $ear

# told PATTERN: the server comes to say so.
told ()
{
  local i

  for i in {1..200}; do
    if grep -q "$1" told; then return; fi
    sleep 0.05
  done
  cat told
  fail "the server never told: $1"
}

if nbdkit --version >/dev/null && grep -q '^#define HAVE_LIBSYSTEMD 1' \
     "$abs_top_builddir/config.h"; then
  for i in {1..100}; do [ -S notify ] && break; sleep 0.05; done
  qedctl create disk.qed 1G
  printf '\002' | dd of=disk.qed bs=1 seek=16 conv=notrunc status=none
  export NOTIFY_SOCKET=$tmpdir/notify WATCHDOG_USEC=1000000
  start_nbdkit -P pid -U sock qed disk.qed control=door
  unset NOTIFY_SOCKET WATCHDOG_USEC
  told '^READY=1$'
  told '^STATUS=Serving disk.qed, clean$'
  qemu-io -f raw -c 'write 0 64k' "nbd+unix:///?socket=$tmpdir/sock" >out
  told '^STATUS=Serving disk.qed, in use$'
  n=$(grep -c '^WATCHDOG=1$' told || :)
  sleep 2
  test $(grep -c '^WATCHDOG=1$' told) -ge $((n + 2)) ||
    fail "the watchdog got no signs of life"
  if grep -q '^STOPPING=1$' told; then fail "it isn't stopping"; fi
  stop_nbdkit pid
  told '^STOPPING=1$'
  test $(grep -c '^READY=1$' told) -eq 1
  rm disk.qed
fi

# ---- Its socket is systemd's ----

qedctl create disk.qed 1G
systemd-socket-activate --listen="$tmpdir/activated" \
  "$abs_top_builddir/nbdkit" -f -P activated.pid qed disk.qed \
  control=door 2>log &
job=$!
cleanup_fn eval 'kill $job 2>/dev/null'
for i in {1..100}; do [ -S activated ] && break; sleep 0.05; done
qemu-io -f raw -c 'write -P 1 0 64k' -c 'read -P 1 0 64k' \
        "nbd+unix:///?socket=$tmpdir/activated" >out || { cat log; false; }
if grep -i failed out; then fail "the data is wrong"; fi

# ---- The scrub ----

scrub=$sources/scrub
export PATH=$abs_top_builddir/server:$PATH
"$scrub" "$tmpdir/door" file="$tmpdir/disk.qed" --limit 100M >out 2>err ||
  { cat out err; fail "a clean image"; }
test ! -s err
kill $job
wait $job || :

# A directory, of which one image is damaged and one leaks.
mkdir disks
qedctl create disks/a.qed 1G
"$PYTHON" "$srcdir/leaky-image.py" disks/c.qed
"$PYTHON" "$srcdir/recipe.py" "$srcdir/recipes/l2-misaligned-first" .
mv disk.qed disks/b.qed
rm -f pid sock
start_nbdkit -P pid -U sock qed dir=disks control=door 2>log
r=0
"$scrub" "$tmpdir/door" dir="$tmpdir/disks" >out 2>err || r=$?
cat err
test $r -eq 2
grep -q "^<0>.*DAMAGE in $tmpdir/disks/b.qed" err
grep -q "^<4>.*$tmpdir/disks/c.qed" err
test "$(wc -l <err)" -eq 2
rm disks/b.qed
r=0
"$scrub" "$tmpdir/door" dir="$tmpdir/disks" >out 2>err || r=$?
test $r -eq 3
stop_nbdkit pid
r=0
"$scrub" "$tmpdir/door" dir="$tmpdir/disks" >out 2>err || r=$?
test $r -eq 1
grep -q "^<2>" err
r=0
"$scrub" "$tmpdir/door" disk.qed >out 2>err || r=$?
test $r -eq 1
