#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl map: the same as qemu-img map of images, chains and parts of them;
# cheap; whole as far as a damaged image allows; and the sums.

. ./functions.sh
set -e
. "$srcdir/serve.sh"
. "$srcdir/map-images.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version
requires "$PYTHON" -c 'import nbd'
requires truncate -s 1M "$tmpdir/holes"
requires fallocate --punch-hole --offset 4096 --length 4096 "$tmpdir/holes"

cd "$tmpdir"

# compare IMAGE [RAW-SIZE RAW-DEPTH] [-- OPTION...]: with qemu-img's map.
compare ()
{
  local image=$1 raw=() ours=() theirs=()

  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do raw+=("$1"); shift; done
  if [ $# -gt 0 ]; then
    ours=(--start "$2" --max-length "$3")
    theirs=(--start-offset="$2" --max-length="$3")
  fi
  qedctl map --json "${ours[@]}" "$image" >ours.json 2>err ||
    fail "$image: $(cat err)"
  test ! -s err
  qemu-img map --output=json "${theirs[@]}" -f qed "$image" >theirs.json
  "$PYTHON" "$srcdir/map-compare.py" ours.json theirs.json "${raw[@]}" ||
    fail "$image ${ours[*]}: not what qemu-img says"
}

# ---- The same as QEMU's ----

# Empty, or of no size at all.
qemu-img create -q -f qed x.qed 0
test "$(qedctl map --json x.qed)" = "[]"
qemu-img create -q -f qed x.qed 10G
compare x.qed

# Geometries, with writes here and there.
for geometry in 4096:2 4096:16 65536:4 1048576:2; do
  cluster=${geometry%:*}
  rm -f x.qed
  table=${geometry#*:}
  qemu-img create -q -f qed -o "cluster_size=$cluster,table_size=$table" \
           x.qed 41943552
  for at in 3000 300 20000 12288 35000 0 12289; do
    echo "write -P 1 ${at}k 100k"
  done | qemu-io -f qed x.qed >/dev/null
  qemu-io -f qed -c 'write -z 8M 3M' -c 'write -P 3 41943040 512' x.qed >out
  compare x.qed
done

# Written at random through the server, trimmed and zeroed.
rm -f x.qed
qedctl create x.qed 1G --cluster-size 4K --table-size 1
serve x.qed
client <<'END'
import random
random.seed(1)
for i in range(2000):
    at = random.randrange(0, 1 << 30) // 512 * 512
    n = min(random.choice([512, 4096, 50000 // 512 * 512]), (1 << 30) - at)
    what = random.randrange(8)
    if what == 0:
        h.trim(n, at)
    elif what == 1:
        h.zero(n, at)
    else:
        h.pwrite(b"x" * n, at)
END
serve_stop
qedctl map --json x.qed >ours.json
test "$(jq length ours.json)" -gt 1000
# QEMU can't open tables of one cluster; a copy through the server has others.
rm -f y.qed
qemu-img create -q -f qed -o cluster_size=4096,table_size=2 y.qed 1G
"$PYTHON" - <<'END' >commands
import json
for e in json.load(open("ours.json")):
    if e["data"]:
        print("write -P 1 %d %d" % (e["start"], e["length"]))
END
qemu-io -f qed y.qed <commands >/dev/null
compare y.qed
for part in '0 100k' '1 511' '123456 512M' '536870912 100M' '1073741312 512'; do
  compare y.qed -- $part
done
# QEMU lists an extent of no length.
test "$(qedctl map --json --start 7777777 --max-length 0 y.qed)" = "[]"

# A chain: raw, whose end is no sector's, with holes; a larger QED image over
# it, with other clusters; a smaller and a larger one over that.
"$PYTHON" - base.raw <<'END'
import sys
with open(sys.argv[1], "wb") as f:
    for mib in 0, 1, 4, 9, 17:
        f.seek(mib * 1048576 + 65536)
        f.write(b"\2" * 500000)
    f.truncate(20 * 1048576 + 700)
END
raw_size=$((20 * 1048576 + 700))
qemu-img create -q -f qed -b base.raw -F raw -o cluster_size=4096 middle.qed 30M
qemu-io -f qed -c 'write -P 3 3M 100k' -c 'write -z 4M 300k' \
        -c 'write -P 3 25M 100k' -c 'write -z 19M 1M' middle.qed >out
compare middle.qed $raw_size 1
for size in 25M 40M; do
  rm -f top.qed
  qemu-img create -q -f qed -b middle.qed -F qed top.qed $size
  qemu-io -f qed -c 'write -P 4 10M 64k' -c 'write -z 3M 1M' \
          -c 'write -P 4 15M 3M' -c 'write -z 16M 256k' \
          -c 'write -P 4 24M 1M' top.qed >out
  compare top.qed $raw_size 2
  compare top.qed $raw_size 2 -- 3145000 20000000
done
# All there is, down the chain.
qedctl map --json top.qed | jq -e '
  map (select (.allocated | not)) | any (.present) and any (.present | not)' \
  >/dev/null
mkdir elsewhere
qemu-img create -q -f qed -b ../top.qed -F qed elsewhere/far.qed 40M
compare elsewhere/far.qed $raw_size 3

# ---- For people ----

qedctl map top.qed >text
has text '^Start  *Length  *Mapped to  *Depth, file$'
has text '^0x10000 *[0-9.]* KiB *0x10000 *2 .*/base\.raw$'
has text '^0x300000 *1 MiB *zero *0 top\.qed$'
has text '^0xa00000 *64 KiB *0x[0-9a-f]* *0 top\.qed$'
has text ' hole *2 .*/base\.raw$'
has text ' past end *2 .*/base\.raw$'
has text ' past end *1 .*/middle\.qed$'
rows=$(grep -c '^0x' text)
test "$rows" -ge "$(qedctl map --json top.qed | jq length)"
test "$(grep -c '^Data\|^  at depth' text)" -eq 4
has text '^Zero clusters  *[0-9.]* [KM]iB  *[0-9.]* %$'
has text '^Mapped  *40 MiB  *100 %  of the disk$'
if grep -q 'a cell' text; then fail "a strip where there is no terminal"; fi

# How fragmented.
make_order
qedctl map order.qed >text
has text '^Data  *1.38 MiB  *2.15 %$'
has text '^Fragments  *9  '
has text '^Runs of data  *13  of 108.31 KiB on average$'
qedctl map --max-length 6553600 order.qed >text
has text '^Fragments  *0  '
has text '^Runs of data  *1  of 640 KiB on average$'
has text '^Mapped  *6.25 MiB  *9.77 %  of the disk$'

# ---- Large ones ----

# within MILLISECONDS COMMAND...
within ()
{
  local start=$(date +%s%N) most=$1 took

  [ -z "$SANITIZER" ] || most=$((most * 5))
  shift
  "$@"
  took=$((($(date +%s%N) - start) / 1000000))
  echo "$took ms: $*"
  [ "$took" -le "$most" ] || fail "it took $took ms: $*"
}

make_sparse
map_to ()
{
  qedctl map --json --svg "$2.svg" "$1" >"$2.json"
}
within 1500 map_to sparse.qed sparse
test "$(jq 'map (select (.data)) | length' sparse.json)" -eq 100
within 1500 map_to over.qed over
test "$(jq 'map (select (.data and .depth == 0)) | length' over.json)" -eq 100
compare sparse.qed
compare over.qed

make_tables
within 1500 map_to tables.qed tables
jq -c '.[] | select (.data) | [.start, .length, .offset]' tables.json >found
"$PYTHON" - <<'END' >expected
C = 65536
for i in range(0, 5120, 10):
    for n in 3, 0x7abc:
        print("[%d,%d,%d]" % ((i * 32768 + n) * C, C,
                              (5 + 5120 * 4 + 2 * i + (n > 3)) * C))
END
cmp found expected

# Memory stays what it is for a small image.
make_reverse
within 5000 map_to reverse.qed reverse
test "$(jq length reverse.json)" -eq 200000
test "$(stat -c %s reverse.svg)" -lt 1000000
memory ()
{
  "$PYTHON" - "$@" <<'END'
import resource, subprocess, sys
subprocess.run(["qedctl", "map", "--json", "--svg", "memory.svg", sys.argv[1]],
               check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
END
}
if [ -z "$SANITIZER" ]; then
  small=$(memory order.qed)
  large=$(memory reverse.qed)
  echo "memory: $small KiB, $large KiB"
  test "$large" -le $((small + 8192))
fi

# ---- In use, dirty, damaged ----

serve order.qed
fails "order.qed: .* in use by nbdkit, process $(cat "$pidfile")" \
      qedctl map order.qed
test ! -s out
fails 'in use' qedctl map --json --svg locked.svg order.qed
test ! -e locked.svg
serve_stop
serve order.qed -r
qedctl map order.qed >text2
serve_stop

cp order.qed dirty.qed
poke dirty.qed 16 02
sum=$(sha256sum dirty.qed)
qedctl map --json dirty.qed >dirty.json 2>err
has err 'NEED_CHECK'
qedctl map --json order.qed >order.json
cmp order.json dirty.json
test "$sum" = "$(sha256sum dirty.qed)"

# Entries that must not be followed: named, and everything else is there.
table=$(header_field order.qed 65536 8)
cp order.qed bad.qed
poke bad.qed $((table + 8 * 5)) 00 00 00 00 00 10 00 00
poke bad.qed $((table + 8 * 105)) 07 00 00 00 00 00 00 00
r=0
qedctl map --json --svg bad.svg bad.qed >bad.json 2>err || r=$?
test $r -eq 1
test "$(wc -l <err)" -eq 3
has err 'bad.qed: damaged: .* guest offset 0x50000 '
has err 'bad.qed: damaged: .* guest offset 0x690000 '
has err "128 KiB of the disk can't be mapped, the first at guest offset 0x50000"
"$PYTHON" - <<'END' || fail "the map of a damaged image is wrong"
import json
def clusters(name):
    found = {}
    for e in json.load(open(name)):
        for at in range(e["start"], e["start"] + e["length"], 65536):
            found[at] = (e["data"], e["offset"] + at - e["start"]
                         if "offset" in e else None)
    return found
good, bad = clusters("order.json"), clusters("bad.json")
assert len(good) == len(bad) == 1024
for at in good:
    damaged = at in (5 * 65536, 105 * 65536)
    assert bad[at] == ((True, None) if damaged else good[at]), (at, bad[at])
END
has bad.svg 'class="damaged" x="[0-9]*" y="[0-9.]*" width="2"'
if qedctl map bad.qed >text 2>err; then fail "damage, and exit 0"; fi
has text '^0x50000  *64 KiB  *damaged  *0 bad\.qed$'
has text '^Damaged  *128 KiB '
# A table, whose whole reach is unknown.
cp order.qed bad.qed
poke bad.qed 65536 01
if qedctl map --json bad.qed >bad.json 2>err; then fail "exit 0"; fi
has err 'guest offset 0x0:'
test "$(jq -c '[.[] | [.start, .length, .data, .offset]]' bad.json)" = \
     '[[0,67108864,true,null]]'
# Nothing of it was changed.
test "$(stat -c %s bad.qed)" = "$(stat -c %s order.qed)"

# ---- Arguments ----

qedctl map --help >help
for option in --json --svg --start --max-length --strip; do
  has help "^  $option "
done
for args in '' 'order.qed order.qed' '--nonsense order.qed' '--svg' \
            '--start x order.qed' '--start -1 order.qed' \
            '--start 65M order.qed' \
            '--max-length 1Q order.qed' '--json --json order.qed' \
            '--json --strip order.qed' 'nothing.qed' '.'; do
  fails '^qedctl: ' qedctl map $args
  test ! -s out
done
qedctl map --start 64M --json order.qed >out
test "$(cat out)" = '[]'
