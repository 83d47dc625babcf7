#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl check and qedctl undo as an administrator meets them: options and
# what can't be, images that others hold, an end by a signal, what is written
# to a terminal.  What a check finds is test-recipes.sh's.

. ./functions.sh
set -e

requires jq --version
requires "$PYTHON" --version
requires qemu-img --version
requires qemu-io --version

cd "$tmpdir"

# plant LINE...: disk.qed by a recipe of these lines.
plant ()
{
  mkdir -p planted
  printf '%s\n' "$@" >planted/recipe
  "$PYTHON" "$srcdir/recipe.py" planted .
}

# wrong PATTERN COMMAND...: exit 1, nothing on stdout, and one line on stderr
# that has the pattern.
wrong ()
{
  local r=0

  timeout 60 "${@:2}" >out 2>err </dev/null || r=$?
  if [ $r -ne 1 ] || [ "$(wc -l <err)" -ne 1 ] || ! grep -q -- "$1" err ||
       [ -s out ]; then
    cat out err
    fail "${*:2}: exit $r; expected 1 and one line with '$1'"
  fi
}

has ()
{
  grep -q -- "$1" out || { cat out; fail "there is no '$1'"; }
}

need_check ()
{
  [ $(($(od -A n -t u1 -j 16 -N 1 "$1") & 2)) -ne 0 ]
}

# ---- Arguments ----

exits 0 qedctl check --help
for option in repair dry-run data undo limit verbose json help; do
  has "--$option\\b"
done
exits 0 qedctl undo --help
exits 0 qedctl --help
for command in check undo; do has "^  $command "; done

qedctl create disk.qed 1M
cp disk.qed before
wrong 'few arguments' qedctl check
wrong 'many arguments' qedctl check disk.qed disk.qed
wrong 'nonsense is unknown' qedctl check --nonsense disk.qed
wrong 'given twice' qedctl check --json --json disk.qed
wrong 'leaks or all' qedctl check --repair=some disk.qed
wrong 'leaks or all' qedctl check --repair= disk.qed
wrong 'without --repair' qedctl check --undo file disk.qed
wrong 'without --repair' qedctl check --dry-run disk.qed
wrong 'exclude each other' qedctl check --repair --dry-run --undo f disk.qed
wrong 'limit x is not a size' qedctl check --limit x disk.qed
wrong 'never end' qedctl check --limit 0 disk.qed
wrong 'needs a value' qedctl check disk.qed --limit
wrong 'few arguments' qedctl undo file
wrong 'many arguments' qedctl undo file disk.qed disk.qed
test ! -e file
cmp disk.qed before

# ---- What is no image ----

echo nothing >text
mkdir dir
mkfifo fifo
wrong 'missing.qed: .*No such file' qedctl check missing.qed
wrong 'text: not a QED image' qedctl check text
wrong 'text: not a QED image' qedctl check --repair text
wrong 'text: not a QED image' qedctl check --json text
test ! -s out
wrong 'dir: .*directory' qedctl check dir
wrong 'fifo: .*image' qedctl check fifo
wrong '/dev/null: .*image' qedctl check --repair /dev/null
test "$(cat text)" = nothing
cp disk.qed cut.qed
truncate -s 100000 cut.qed
wrong 'cut.qed: header field l1_table_offset' qedctl check --repair cut.qed

# An undo file that can't be made: nothing is done.
plant 'image("1M", cluster="4K", table=2)' 'leak(3)' 'data(0, 3)'
cp disk.qed before
wrong 'no/dir/undo: .*No such file' \
      qedctl check --repair --undo no/dir/undo disk.qed
wrong 'text: .*exists' qedctl check --repair --undo text disk.qed
test "$(cat text)" = nothing
cmp disk.qed before

# An image that may only be read is checked, and not repaired.
chmod 444 disk.qed
chmod 711 .
if [ "$(id -u)" -eq 0 ]; then
  without="setpriv --bounding-set=-dac_override,-dac_read_search
           --inh-caps=-dac_override,-dac_read_search"
  $without true 2>/dev/null || without=
fi
if [ "$(id -u)" -ne 0 ] || [ -n "$without" ]; then
  exits 3 $without qedctl check disk.qed
  exits 1 $without qedctl check --repair disk.qed
  grep -q 'disk.qed: .*' err
  exits 1 $without qedctl undo text disk.qed
  cmp disk.qed before
fi
chmod 644 disk.qed

# ---- Images that others hold ----

nbdkit=$abs_top_builddir/nbdkit
start_nbdkit -P pid -U sock qed disk.qed
server=$(cat pid)
wrong "disk.qed: .*in use by nbdkit, process $server" qedctl check disk.qed
wrong "disk.qed: .*in use by nbdkit, process $server" \
      qedctl check --repair=leaks disk.qed
wrong "disk.qed: .*in use by nbdkit, process $server" \
      qedctl check --repair --undo undo disk.qed
test ! -e undo
stop_nbdkit pid

# Served read-only it may be read by us, too.
rm -f sock
cp before disk.qed
start_nbdkit -P pid -U sock -r qed disk.qed
server=$(cat pid)
exits 3 qedctl check disk.qed
wrong "disk.qed: .*in use by nbdkit, process $server" \
      qedctl check --repair disk.qed
stop_nbdkit pid
cmp disk.qed before

# ---- What people read ----

exits 3 qedctl check disk.qed
has '^Checking disk.qed, read-only: only with --repair is anything written'
has '^leak: 12288 bytes at file offset 0x3000$'
has '^leaks: *3 clusters$'
has '^disk.qed has leaks'
test ! -s err
exits 3 qedctl check --repair --dry-run disk.qed
has 'nothing is written'
exits 3 qedctl check --repair=leaks --dry-run --json disk.qed
cmp disk.qed before
exits 0 qedctl check --repair=leaks disk.qed
has '^leaks repaired: *3 clusters$'
has '^disk.qed was repaired and is in order'
exits 0 qedctl check disk.qed
has '^disk.qed is in order'

# A hundred lines of a kind are enough, unless all are wanted.
plant 'image("4M", cluster="4K", table=2)' 'data(0)' \
      'for i in range(1, 300): l2(i, at(0))' 'for i in range(400, 500, 2):' \
      '    l2(i, q.end)'
exits 2 qedctl check disk.qed
test "$(grep -c '^cluster-shared: entry' out)" -eq 100
test "$(grep -c '^l2-entry-past-end: entry' out)" -eq 50
has '^cluster-shared: and 199 more'
has '^  0x190000+0x1000 (4096 bytes)$'
test "$(grep -c '^  0x' out)" -eq 50
exits 2 qedctl check --verbose disk.qed
test "$(grep -c '^cluster-shared: entry' out)" -eq 299
if grep -q 'and .* more' out; then fail "not all is said"; fi
exits 2 qedctl check --json disk.qed
jq -e '(.problems | length) == 349 and (.lost | length) == 50 and
       ."lost-bytes" == 50 * 4096 and .corruptions == 349 and
       .complete == true and (has ("leaks") | not)' out >/dev/null
exits 0 qedctl check --repair disk.qed
has '^Lost, and reading as zeros'
has '^repairs of cluster-shared: and 199 more'

# Ranges that touch are joined.
plant 'image("4M", cluster="4K", table=2)' \
      'for i in range(10, 20): l2(i, 0x123)' 'l2(25, 0x123)'
exits 2 qedctl check disk.qed
has '^  0xa000+0xa000 (40960 bytes)$'
has '^  0x19000+0x1000 (4096 bytes)$'

# A name that would play with a terminal, or is no UTF-8.
cp disk.qed $'evil\n\e[31m.qed'
exits 2 qedctl check $'evil\n\e[31m.qed'
has '^Checking evil\\x0a\\x1b\[31m.qed,'
if LC_ALL=C grep '[[:cntrl:]]' out; then fail "it came through"; fi
exits 2 qedctl check --json $'evil\n\e[31m.qed'
jq -e '.filename == "evil\n\u001b[31m.qed"' out >/dev/null
cp disk.qed $'\xff.qed'
exits 2 qedctl check --json $'\xff.qed'
jq -e '.filename == "\\xff.qed"' out >/dev/null

# A report that can't be written is a failure.
if [ -w /dev/full ]; then
  for json in '' --json; do
    if qedctl check $json disk.qed >/dev/full 2>err; then
      fail "/dev/full took it"
    fi
    test "$(wc -l <err)" -eq 1
  done
fi
# A reader that goes away does not end a repair half-way.
cp disk.qed piped.qed
{ sleep 0.5; qedctl check --repair --verbose piped.qed 2>/dev/null || :; } |
  true
exits 0 qedctl check piped.qed

# All data is read, and nothing is found.
plant 'image("1G")' 'data(0, 10)' 'zero(20)'
exits 0 qedctl check --data disk.qed
has '^disk.qed is in order'

# A limit far above what the storage does costs next to nothing, however small
# the pieces are.
plant 'image("160M", cluster="4K", table=2)' \
      'for i in range(0, 40000, 2): data(i)'
plain=$(date +%s%N)
exits 0 qedctl check --data disk.qed
limited=$(date +%s%N)
exits 0 qedctl check --data --limit 1T disk.qed
end=$(date +%s%N)
[ $((end - limited)) -lt $((3 * (limited - plain) + 500000000)) ] ||
  fail "$((limited - plain)) ns without a limit, $((end - limited)) ns with it"

# On a terminal there is a bar, which goes when there is something to say.
if type script >/dev/null 2>&1; then
  plant 'image("64M", cluster="4K", table=2)' \
        'for t in range(10): data(t * 1024)'
  script -qec 'qedctl check --limit 100K disk.qed' /dev/null </dev/null >out
  tr '\r' '\n' <out >lines
  grep -q '^check  *\[#*-*\] *[0-9]* %' lines
  tail -n 3 lines | grep -q '^disk.qed is in order'
  # Not elsewhere.
  exits 0 qedctl check disk.qed
  test ! -s err
fi

# ---- Signals ----

# interrupt SIGNAL COMMAND...: send it when disk.qed is marked or, without
# --repair, after a while; the status is in $r.
interrupt ()
{
  local i

  "${@:2}" >out 2>err </dev/null &
  for i in {1..300}; do
    if need_check disk.qed; then break; fi
    if [[ "$*" != *--repair* ]] && [ $i -gt 10 ]; then break; fi
    sleep 0.05
  done
  kill -$1 $!
  r=0
  wait $! || r=$?
}

# Ten tables: at this rate a look at them takes seconds.
plant 'image("64M", cluster="4K", table=2)' \
      'for t in range(10):' '    data(t * 1024, 200)' \
      '    data(t * 1024 + 512, 100)' 'leak(2)' \
      'for t in range(10): l2(t * 1024 + 600, 0x123)' 'l2(700, at(0))'
cp disk.qed before
for signal in INT TERM HUP; do
  interrupt $signal qedctl check --limit 20K --json disk.qed
  test $r -eq 1
  grep -q 'stopped by a signal' err
  grep -q 'disk.qed: nothing was written' err
  test ! -s out
  cmp disk.qed before
done

# A repair: first in the middle, then to its end.
interrupt INT qedctl check --repair --undo undo --limit 40K disk.qed
test $r -eq 1
need_check disk.qed
grep -q 'disk.qed: the repair is not complete, .*marked.*run it again' err
cp disk.qed half.qed
exits 0 qedctl check --repair disk.qed
exits 0 qedctl check disk.qed
exits 0 qemu-img check -f qed disk.qed
qemu-io -f qed -r -c 'read -P 0 2400k 4k' disk.qed >out
# What was half done can be undone.
mv half.qed disk.qed
exits 0 qedctl undo undo disk.qed
cmp disk.qed before

# ---- Undo ----

rm -f undo
exits 0 qedctl check --repair --undo undo disk.qed
test "$(stat -c %a undo)" = 600
if cmp -s disk.qed before; then fail "nothing was repaired"; fi
cp disk.qed repaired
qedctl create other.qed 1M
cp other.qed other
wrong 'other.qed: is not the image that undo was saved from' \
      qedctl undo undo other.qed
wrong 'text: .*not the image' qedctl undo undo text
cmp other.qed other
test "$(cat text)" = nothing
wrong 'text: not an undo file of a repair: name the file' \
      qedctl undo text disk.qed
wrong '/dev/null: not an undo file.*made$' qedctl undo /dev/null disk.qed
wrong 'missing: .*No such file' qedctl undo missing disk.qed
wrong 'missing.qed: .*No such file' qedctl undo undo missing.qed
head -c 40 undo >short
wrong 'short: not an undo file' qedctl undo short disk.qed
cmp disk.qed repaired
rm -f sock
start_nbdkit -P pid -U sock qed disk.qed
wrong "disk.qed: .*in use by nbdkit" qedctl undo undo disk.qed
stop_nbdkit pid
exits 0 qedctl undo undo disk.qed
test ! -s out
cmp disk.qed before
exits 0 qedctl undo undo disk.qed
cmp disk.qed before

# Another image of the same geometry, and the same one when it has got a table
# since: neither is what the file was made for.
cp disk.qed good
plant 'image("64M", cluster="4K", table=2)' 'data(0, 3)' 'data(1024, 5)'
cp disk.qed other
wrong 'disk.qed: is not the image that undo was saved from.*L1 table' \
      qedctl undo undo disk.qed
cmp disk.qed other
cp repaired disk.qed
rm -f sock pid
start_nbdkit -P pid -U sock qed disk.qed
qemu-io -f raw -c 'write -P 7 60M 4k' 'nbd+unix:///?socket=sock' >out
stop_nbdkit pid
cp disk.qed used
wrong 'disk.qed: .*changed since' qedctl undo undo disk.qed
cmp disk.qed used

# And when it has got clusters in a table that it had.
cp repaired disk.qed
rm -f sock pid
start_nbdkit -P pid -U sock qed disk.qed
qemu-io -f raw -c 'write -P 7 1m 1m' 'nbd+unix:///?socket=sock' >out
stop_nbdkit pid
cp disk.qed used
wrong 'disk.qed: was changed since the repair' qedctl undo undo disk.qed
cmp disk.qed used

# A damaged record is no end: the others are put back, and it is said.
"$PYTHON" - undo damaged <<'END'
import struct, sys
data = bytearray (open (sys.argv[1], "rb").read ())
at, l1, n = 104, 4096, 0
while at < len (data):
    offset, count = struct.unpack ("<QQ", data[at:at + 16])
    if n == 0 and offset >= l1 + 8192:
        data[at + 32 + count - 1] ^= 1
        print (offset)
        n = 1
    at += 32 + count
open (sys.argv[2], "wb").write (data)
END
cp repaired disk.qed
wrong 'disk.qed: only a part was put back: damaged is damaged.* [1-9][0-9]* rec' \
      qedctl undo damaged disk.qed
if cmp -s disk.qed repaired; then fail "nothing was put back"; fi
# Another file can't know that.
wrong 'disk.qed: was changed since the repair' qedctl undo undo disk.qed
cp repaired disk.qed
exits 0 qedctl undo undo disk.qed
cmp disk.qed before

# So is the end of a file that was cut, as its repair had come to its end.
head -c -30 undo >cut
cp repaired disk.qed
wrong 'disk.qed: only a part was put back: cut is damaged' \
      qedctl undo cut disk.qed
cp repaired disk.qed
exits 0 qedctl undo undo disk.qed
cmp disk.qed before
