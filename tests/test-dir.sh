#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# dir=: each *.qed in the directory is an export, as long as it is there and
# inside.  An image is open only while it has clients, and some seconds longer;
# then other programs may have it, and find it clean.  Its clients share one
# engine, and what is wrong with one image is the matter of its clients alone.

. ./functions.sh
set -e

requires nbdinfo --version
requires qemu-img --version
requires qemu-io --version
requires "$PYTHON" -c 'import nbd'

cd "$tmpdir"
nbdkit=$abs_top_builddir/nbdkit
export socket=$tmpdir/sock

mkdir images outside
for name in a b; do
  qedctl create images/$name.qed 1M
done

# serve ARGUMENT...: nbdkit on $tmpdir/sock, its words in the file "log".
serve ()
{
  rm -f sock
  start_nbdkit -P pid -U sock qed "$@" 2>log
}

# uri NAME: percent-encoded by the caller.
uri ()
{
  echo "nbd+unix:///$1?socket=$socket"
}

# client NAME COMMAND...: qemu-io, which leaves without a flush of its own.
client ()
{
  local args=() c

  for c in "${@:2}"; do args+=(-c "$c"); done
  timeout 60 qemu-io -t unsafe -f raw "${args[@]}" "$(uri $1)" >out 2>&1 ||
    { cat out; fail "$*"; }
  if grep -i failed out; then cat out; fail "$*"; fi
}

# hold NAME COMMAND: a client does this and stays, until let_go.
held=
hold ()
{
  rm -f input
  : >held.out
  mkfifo input
  qemu-io -t unsafe -f raw "$(uri $1)" <input >>held.out 2>&1 &
  held=$!
  exec 5>input
  also "$2"
}

# How many of its commands the client has carried out.
held_done ()
{
  grep -c '\(wrote\|read\) [0-9]*/' held.out || :
}

# also COMMAND: it does one more thing.
also ()
{
  local i before

  before=$(held_done)
  echo "$1" >&5
  for i in {1..400}; do
    if [ "$(held_done)" -gt $before ]; then
      if grep -i failed held.out; then fail "held: $1"; fi
      return
    fi
    sleep 0.05
  done
  cat held.out
  fail "the client did not do it: $1"
}

let_go ()
{
  exec 5>&-
  if [ -n "$held" ]; then wait $held || :; fi
  held=
}
cleanup_fn let_go

need_check ()
{
  [ $(($(od -A n -t u1 -j 16 -N 1 images/$1) & 2)) -ne 0 ]
}

# free NAME: QEMU may have it.
free ()
{
  qemu-img info images/$1 >qemu.out 2>&1
}

# closed NAME: within some seconds it is, and clean.
closed ()
{
  local i

  for i in {1..300}; do
    if free $1; then break; fi
    sleep 0.1
  done
  free $1 || { cat qemu.out; fail "$1 is not closed"; }
  if need_check $1; then fail "$1 was not closed cleanly"; fi
  qemu-img check -q -f qed images/$1 || fail "QEMU finds something wrong in $1"
}

# list: the exports with their descriptions, in the file "list".
list ()
{
  timeout 60 "$PYTHON" -c '
import nbd, os
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_unix(os.environ["socket"])
h.opt_list(lambda name, description: print(name + ": " + description))
h.opt_abort()' >list
}

# lists NAME...: these, in this order.
lists ()
{
  list
  if [ $# -gt 0 ]; then printf '%s: nbdkit-qed disk\n' "$@"; fi >expected
  cmp list expected || { cat list; fail "expected in the list: $*"; }
}

served ()
{
  timeout 60 nbdinfo --size "$(uri "$1")" >out 2>&1 ||
    { cat out log; fail "\"$1\" is not served"; }
}

# refused NAME PATTERN: with one line that matches.
refused ()
{
  local lines

  lines=$(wc -l <log)
  if timeout 60 nbdinfo --size "$(uri "$1")" >out 2>&1; then
    fail "\"$1\" is served"
  fi
  tail -n +$((lines + 1)) log >new
  # nbdinfo tries a name that is refused only once.
  if [ "$(wc -l <new)" -ne 1 ] || ! grep -q -- "$2" new; then
    cat new
    fail "\"$1\": expected one line with '$2'"
  fi
}

# ---- Parameters ----

# ends PATTERN ARGUMENT...: nbdkit does, with one line.
ends ()
{
  local r=0

  timeout 30 "$nbdkit" -U sock qed "${@:2}" --run 'echo served' >out 2>err ||
    r=$?
  if [ $r -eq 0 ] || [ $r -ge 124 ] || [ -s out ] ||
       [ "$(wc -l <err)" -ne 1 ] || ! grep -q -- "$1" err; then
    cat out err
    fail "qed ${*:2}: exit $r; expected 1 and one line with '$1'"
  fi
}

ends 'file=.*/images/a.qed and dir=.*/images exclude each other' \
     dir=images images/a.qed
ends 'exclude each other'               file=images/a.qed dir=images
ends 'dir=images: .*before'             dir=images dir=images
ends 'dir: the value is missing'        dir=
ends 'nowhere.*No such file'            dir=nowhere
ends 'dir=images/a.qed: is not a dir'   dir=images/a.qed
"$nbdkit" qed --help >help
grep -q '^ *dir=' help

# ---- What is an export ----

qedctl create outside/o.qed 1M
qedctl create images/.hidden.qed 1M
qedctl create images/DISK.QED 1M
cp images/a.qed "images/sp ace.qed"
cp images/a.qed images/$'new\nline.qed'
cp images/a.qed images/no-suffix
mkdir images/sub.qed images/sub
qedctl create images/sub/s.qed 3M
mkfifo images/fifo.qed
ln -s ../outside/o.qed images/out.qed
ln -s "$tmpdir/images/a.qed" images/absolute.qed
ln -s ../images/a.qed images/around.qed
ln -s nothing.qed images/dangling.qed
ln -s sub/s.qed images/below.qed
ln -s images link

serve dir=link clean-after=0
lists a.qed b.qed below.qed 'sp ace.qed'
for name in a.qed b.qed sp%20ace.qed; do served $name; done
served below.qed
grep -qx 3145728 out

exports='the exports are the files \*.qed in '
leads="symlink that leads out of $tmpdir/images"
neither='neither a regular file nor a block device'
refused a '"a": '"$exports"
refused A.QED '"A.QED": '"$exports"
refused DISK.QED '"DISK.QED": '"$exports"
refused .qed '".qed": '"$exports"
refused .hidden.qed '".hidden.qed": '"$exports"
refused no-suffix '"no-suffix": '"$exports"
refused . '".": '"$exports"
refused .. '"..": '"$exports"
refused ../outside/o.qed '"../outside/o.qed": '"$exports"
refused sub/s.qed '"sub/s.qed": '"$exports"
refused sub/../a.qed '"sub/../a.qed": '"$exports"
refused ./a.qed '"./a.qed": '"$exports"
refused %2Fa.qed '"/a.qed": '"$exports"
refused "$(sed 's,/,%2F,g' <<<"$tmpdir")%2Fimages%2Fa.qed" "$exports"
refused new%0Aline.qed '"new?line.qed": '"$exports"
refused qed-control '"qed-control": '"$exports"
refused "$(printf 'x%.0s' {1..300}).qed" "$exports"
refused nothing.qed '"nothing.qed": .*No such file'
refused dangling.qed '"dangling.qed": .*No such file'
refused out.qed "\"out.qed\": it is a $leads"
refused absolute.qed "\"absolute.qed\": it is a $leads"
refused around.qed "\"around.qed\": it is a $leads"
refused sub.qed "\"sub.qed\": .*$neither"
refused fifo.qed "\"fifo.qed\": .*$neither"
refused "" 'default export .* not permitted'

# Files come and go without a restart; the list is never out of date.
qedctl create images/new.qed 5M
lists a.qed b.qed below.qed new.qed 'sp ace.qed'
served new.qed
grep -qx 5242880 out
rm images/new.qed 'images/sp ace.qed' images/below.qed
lists a.qed b.qed
refused new.qed '"new.qed": .*No such file'
stop_nbdkit pid

rm -r images/.hidden.qed images/DISK.QED images/$'new\nline.qed' \
   images/no-suffix images/sub.qed images/sub images/fifo.qed images/out.qed \
   images/absolute.qed images/around.qed images/dangling.qed

# One image is the default export; none, or more than one, isn't.
serve dir=images
refused "" 'default export .* not permitted'
mv images/b.qed outside
served ""
test "$(nbdinfo --json "$(uri "")" |
          sed -n 's/.*"export-name": "\(.*\)".*/\1/p')" = a.qed
mv images/a.qed outside
lists
refused "" 'default export .* not permitted'
refused a.qed '"a.qed": .*No such file'
mv outside/a.qed outside/b.qed images
lists a.qed b.qed

# A list that is longer than nbdkit takes.
touch images/x{1..10010}.qed
list
test "$(wc -l <list)" -eq 10000
served b.qed
rm -f images/x*.qed
stop_nbdkit pid
if grep -v 'not permitted\|there is no export' log; then fail "it complains"; fi

# ---- Open while in use ----

serve dir=images clean-after=0
list
free a.qed || { cat qemu.out; fail "a.qed is open before its first client"; }
hold a.qed 'write -P 1 0 100k'
if free a.qed; then fail "a.qed is served, and not locked"; fi
grep -q lock qemu.out
free b.qed || { cat qemu.out; fail "b.qed is open without clients"; }
need_check a.qed || fail "NEED_CHECK is not set while it is written to"

# Others come and go meanwhile, longer than an image without clients is open.
# They see what the first one wrote, as it sees what they write.
for i in {1..10}; do
  client a.qed "read -P 1 0 100k" "write -P $((i + 1)) 512k 64k"
  also "read -P $((i + 1)) 512k 64k"
  sleep 0.4
done
if free a.qed; then fail "a.qed was closed under a client"; fi
need_check a.qed || fail "it was closed and opened again"

# It stays open for a moment after the last one.
let_go
SECONDS=0
if free a.qed && [ $SECONDS -lt 2 ]; then fail "closed without a pause"; fi
client a.qed 'read -P 1 0 100k'
closed a.qed
if [ $SECONDS -gt 20 ]; then fail "closed only after $SECONDS seconds"; fi
qemu-io -f qed -c 'read -P 1 0 100k' -c 'read -P 11 512k 64k' \
        -c 'write -P 33 0 64k' images/a.qed >out
if grep -i failed out; then fail "not what was written"; fi

# And again, with what QEMU has written.
client a.qed 'read -P 33 0 64k' 'write -P 34 64k 64k'
closed a.qed

# A name is a file's: when another file takes its place, those who have the
# old one keep it, and the others get the new one.
hold a.qed 'read -P 33 0 64k'
qedctl create outside/a.qed 2M
mv outside/a.qed images/a.qed
served a.qed
grep -qx 2097152 out
client a.qed 'read -P 0 0 64k' 'write -P 35 0 64k'
also 'read -P 33 0 64k'
rm images/a.qed
lists b.qed
also 'write -P 36 0 128k'
also 'read -P 36 0 128k'
let_go

# Two names of one file are one image, and no conflict.
ln images/b.qed images/hard.qed
ln -s b.qed images/soft.qed
hold b.qed 'write -P 40 0 64k'
client hard.qed 'read -P 40 0 64k' 'write -P 41 0 64k'
client soft.qed 'read -P 41 0 64k' 'write -P 42 0 64k'
also 'read -P 42 0 64k'
let_go
closed b.qed
rm images/hard.qed images/soft.qed
stop_nbdkit pid
if [ -s log ]; then cat log; fail "it complains"; fi

# ---- Clients that come at once, and while the image is being closed ----

for i in {0..19}; do qedctl create images/r$i.qed 1M; done
serve dir=images clean-after=0
timeout 120 "$PYTHON" - <<'END' || { cat log; fail "not all were served"; }
import nbd, os, sys, threading, time

wrong = []

def connect(name):
    h = nbd.NBD()
    h.set_export_name(name)
    h.connect_unix(os.environ["socket"])
    return h

def guard(function, *args):
    try:
        function(*args)
    except Exception as e:
        wrong.append("%s%s: %s" % (function.__name__, args, e))

def run(jobs):
    threads = [threading.Thread(target=guard, args=job) for job in jobs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()

# Each writes its own place and reads it.
def at_once(n):
    h = connect("b.qed")
    data = bytes([n + 1]) * 4096
    h.pwrite(data, n * 4096)
    if h.pread(4096, n * 4096) != data:
        raise Exception("other data")
    h.shutdown()

# Back when the image is closed just then, some sooner, some later.
def close_time(n):
    for turn in range(2):
        h = connect("r%d.qed" % n)
        if turn and h.pread(65536, 0) != bytes([n + 1]) * 65536:
            raise Exception("other data")
        h.pwrite(bytes([n + 1]) * 65536, 0)
        h.shutdown()
        if turn == 0:
            time.sleep(2.98 + n * 0.003)

run([(at_once, n) for n in range(40)] + [(close_time, n) for n in range(20)])
for line in wrong:
    print(line)
sys.exit(1 if wrong else 0)
END
closed b.qed
for i in {0..19}; do closed r$i.qed; done
stop_nbdkit pid
rm images/r*.qed
if [ -s log ]; then cat log; fail "it complains"; fi

# ---- What is wrong with one image ----

qedctl create images/good.qed 1M
qedctl create images/dirty.qed 1M
printf '\2' | dd of=images/dirty.qed bs=1 seek=16 conv=notrunc status=none
echo nonsense >images/broken.qed
qedctl create images/feature.qed 1M
printf '\200' | dd of=images/feature.qed bs=1 seek=17 conv=notrunc status=none
qedctl create images/orphan.qed 1M --backing nowhere.raw
qedctl create images/base.qed 1M
qemu-io -f qed -c 'write -P 50 0 64k' images/base.qed >out
qedctl create images/over.qed 1M --backing base.qed

serve dir=images clean-after=0
hold good.qed 'write -P 7 0 64k'
refused broken.qed 'images/broken.qed: not a QED image'
refused feature.qed 'images/feature.qed: .*feature'
refused orphan.qed 'images/orphan.qed: .*nowhere.raw'
# One that was not closed cleanly is repaired first.
nbdinfo "$(uri dirty.qed)" >out
grep -q 'is_read_only: false' out
grep -q 'images/dirty.qed: NEED_CHECK is set' log
also 'write -P 8 64k 64k'
client good.qed 'read -P 7 0 64k' 'read -P 8 64k 64k'

# An overlay needs its base as it is.
client over.qed 'read -P 50 0 64k' 'write -P 51 4k 4k'
refused base.qed 'images/base.qed: .* in use by .*nbdkit'
let_go
closed over.qed
closed base.qed
client base.qed 'read -P 50 0 64k'
closed good.qed
for i in {1..100}; do if free dirty.qed; then break; fi; sleep 0.1; done
if need_check dirty.qed; then fail "it is not clean"; fi

# What another program has is refused to each who asks, and isn't when it has
# let go.
mkfifo input2
qemu-io -f qed images/good.qed <input2 >other.out 2>&1 &
other=$!
exec 6>input2
cleanup_fn eval 'exec 6>&-'
echo 'read 0 64k' >&6
for i in {1..400}; do
  if grep -q 'read 65536/65536' other.out; then break; fi
  sleep 0.05
done
if free good.qed; then cat other.out; fail "qemu-io does not lock"; fi
lines=$(wc -l <log)
clients=()
for i in 1 2 3; do
  timeout 60 nbdinfo --size "$(uri good.qed)" >out$i 2>&1 &
  clients+=($!)
done
for job in "${clients[@]}"; do
  if wait $job; then fail "served what QEMU has"; fi
done
tail -n +$((lines + 1)) log >new
if [ "$(wc -l <new)" -ne 3 ] ||
     [ "$(grep -c "good.qed: .* in use by qemu-io, process $other" new)" -ne 3 ]
then
  cat new
  fail "expected a line for each of three clients"
fi
exec 6>&-
wait $other || :
client good.qed 'read -P 7 0 64k'
closed good.qed
stop_nbdkit pid

# ---- The end of the server ----

# One image in use, one that was, one that never was.
for name in used idle never; do qedctl create images/$name.qed 1M; done
cp images/never.qed never.before
serve dir=images clean-after=0
hold used.qed 'write -P 60 0 64k'
client idle.qed 'write -P 61 0 64k'
need_check used.qed
need_check idle.qed
SECONDS=0
stop_nbdkit pid
if [ $SECONDS -gt 10 ]; then fail "its end took $SECONDS seconds"; fi
let_go
if [ -s log ]; then cat log; fail "it complains at its end"; fi
for name in used idle; do
  free $name.qed || { cat qemu.out; fail "$name.qed is still locked"; }
  closed $name.qed
done
cmp images/never.qed never.before
for file in used:60 idle:61; do
  qemu-io -r -f qed -c "read -P ${file#*:} 0 64k" images/${file%:*}.qed >out
  if grep -i failed out; then fail "${file%:*}.qed is not what was written"; fi
done

# Clients that wait for one who opens an image do not keep the server alive.
qemu-io -f qed images/used.qed <input2 >/dev/null 2>&1 &
other=$!
exec 6>input2
for i in {1..200}; do
  if ! free used.qed; then break; fi
  sleep 0.05
done
serve dir=images
clients=()
for i in {1..20}; do
  timeout 60 nbdinfo --size "$(uri used.qed)" >/dev/null 2>&1 &
  clients+=($!)
done
sleep 0.5
SECONDS=0
stop_nbdkit pid
if [ $SECONDS -gt 20 ]; then fail "its end took $SECONDS seconds"; fi
for job in "${clients[@]}"; do wait $job || :; done
exec 6>&-
wait $other || :

# ---- Read-only ----

cp images/used.qed before
serve dir=images -r
nbdinfo "$(uri used.qed)" >out
grep -q 'is_read_only: true' out
# QEMU may read what we read.
free used.qed || { cat qemu.out; fail "a reader locks others out"; }
stop_nbdkit pid
cmp images/used.qed before
