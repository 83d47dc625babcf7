#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The life of a disk in QEMU's hands, over NBD: overlays that are rebased from
# one export to another, flattened, and committed into an export, copies from
# and to exports, zeroes and writes at every alignment, discards, requests in
# flight together, a disk of 8 TiB, a benchmark that flushes.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version
requires "$PYTHON" -c "import nbd"

cd "$tmpdir"

requires truncate -s 1M holes
requires fallocate --punch-hole --offset 4096 --length 4096 holes
requires truncate -s 8T holes
rm holes

# qemu ARGUMENT...: qemu-img within a minute
qemu ()
{
    timeout 60 qemu-img "$@" || fail "qemu-img $*: status $?"
}

# same FORMAT IMAGE RAW-FILE
same ()
{
    qemu compare -q -f $1 -F raw "$2" "$3"
}

# ---- Overlays over exports ------------------------------------------------

# Two disks of one directory, with bases that lie there too.
mkdir disks
random_file disks/base.raw 5000001 1
qedctl create disks/base.qed 6M
serve disks/base.qed
io raw "$uri" "write -P 0x21 0 3M" "write -z -u 1M 128k" "discard 2M 64k" \
    "write -P 0x22 5999000 100000"
serve_stop
qedctl create disks/one.qed 8M --backing base.raw --backing-format raw
qedctl create disks/two.qed 12M --backing base.qed --cluster-size 16384
one="nbd+unix:///one.qed?socket=$sock"
two="nbd+unix:///two.qed?socket=$sock"
sha256sum disks/base.raw disks/base.qed > sums
rm -f "$sock"
start_nbdkit -P "$pidfile" -U "$sock" qed dir=disks
io raw "$one" "write -P 0x31 100000 200000" "write -z 3M 100k" "discard 4M 1M"
io raw "$two" "write -P 0x32 4M 300000" "write -z -u 64k 100k" \
    "write -P 1 11M 1"

# From one export to the other: what they differ in is copied into the
# overlay.  Then without any.
qemu create -q -f qcow2 -b "$one" -F raw over.qcow2
io qcow2 over.qcow2 "write -P 0x41 1M 64k" "write -z 2M 64k" "discard 3M 1M" \
    "write -P 0x42 7M 1M"
qemu convert -f qcow2 -O raw over.qcow2 over.raw
qemu rebase -f qcow2 -b "$two" -F raw over.qcow2
qemu info -U --output=json over.qcow2 > info.json
[ "$(jq -r '."backing-filename"' info.json)" = "$two" ] ||
    fail "the overlay was not rebased"
same qcow2 over.qcow2 over.raw
qemu check -q -f qcow2 over.qcow2

# Committed into an export: over a raw file, and over a QED image.
qemu convert -f raw -O raw "$two" two.raw
qemu commit -q -d -f qcow2 over.qcow2
cp two.raw committed.raw
dd if=over.raw of=committed.raw conv=notrunc status=none
same raw "$two" committed.raw
qemu rebase -f qcow2 -b "" over.qcow2
same qcow2 over.qcow2 over.raw
qemu create -q -f qcow2 -b "$one" -F raw again.qcow2
io qcow2 again.qcow2 "write -P 0x51 12345 67890" "write -P 0x52 4500000 2M" \
    "write -z 1M 1M" "discard 0 64k"
qemu convert -f qcow2 -O raw again.qcow2 again.raw
qemu commit -q -f qcow2 again.qcow2
same raw "$one" again.raw

# An overlay that is larger than the export can't be committed: no harm.
qemu create -q -f qcow2 -b "$one" -F raw large.qcow2 9M
io qcow2 large.qcow2 "write -P 0x61 8M 64k" "write -P 0x62 0 64k"
if timeout 60 qemu-img commit -q -f qcow2 large.qcow2 2> err; then
    fail "an export was made to grow"
fi
[ -s err ] || fail "qemu-img commit failed without a word"
same raw "$one" again.raw

# ---- Copies ---------------------------------------------------------------

# From one export to another of the same server, in parallel, out of order.
# What is behind the end of the smaller one stays.
qemu convert -n -W -m 16 -f raw -O raw "$one" "$two"
dd if=again.raw of=committed.raw conv=notrunc status=none
same raw "$two" committed.raw
mv committed.raw again.raw
# Out, in all formats, and in again over what is there.
for format in raw qcow2 qed; do
    rm -f copy
    qemu convert -f raw -O $format "$two" copy
    same $format copy again.raw
    io raw "$two" "write -P 0x71 0 12M"
    qemu convert -n -m 8 -f $format -O raw copy "$two"
    same raw "$two" again.raw
done
qemu convert -n -S 0 -t writeback -f raw -O raw again.raw "$two"
same raw "$two" again.raw
qemu dd -f raw -O raw bs=1M if="$two" of=dd.raw
same raw "$two" dd.raw

# ---- A benchmark that flushes ---------------------------------------------

qemu bench -q -c 3000 -d 16 -s 4096 -w --pattern=0x81 --flush-interval=50 \
    -t writeback -f raw "$one" > bench.out
qemu bench -q -c 3000 -d 16 -s 5000 -S 2500 -w --pattern=0x82 \
    --flush-interval=64 --no-drain -t writeback -f raw "$two" > bench.out
qemu bench -q -c 1000 -d 32 -s 65536 -f raw "$one" > bench.out
io raw "$one" "read -P 0x81 0 8M"
io raw "$two" "read -P 0x82 0 7502500" flush
qemu convert -f raw -O raw "$one" one.raw
qemu convert -f raw -O raw "$two" two.raw
stop_nbdkit "$pidfile" || fail "the server ended with status $?"
sha256sum -c --quiet sums || fail "a backing file changed"
judge_image disks/one.qed one.raw
judge_image disks/two.qed two.raw

# ---- Every alignment ------------------------------------------------------

# Writes and zeroes from and to each of these places around sectors, pages and
# clusters, of data and of what is not allocated, each in four clusters of its
# own.  alignments BASE: commands in the file commands, the result in model.
alignments ()
{
    "$PYTHON" - "$1" <<'END'
import os, sys
C = 65536
edges = [n + d for n in (0, 512, 4096, C, 2 * C, 3 * C) for d in (-1, 0, 1)
         if n + d >= 0]
pairs = [(a, b) for a in edges for b in edges if a < b]
kinds = [("write -P 5", 5), ("write -z", 0), ("write -z -u", 0),
         ("write -f -z", 0)]
size = 2 * len(pairs) * 4 * C
model = bytearray(size)
if sys.argv[1]:
    base = b"\xbb" * (size - size // 3 - 12345)
    open(sys.argv[1], "wb").write(base)
    model[:len(base)] = base
commands = []
at = 0
for i, (start, end) in enumerate(pairs):
    for filled in False, True:
        if filled:
            commands.append("write -P 7 %d %d" % (at, 4 * C))
            model[at:at + 4 * C] = b"\7" * (4 * C)
        what, byte = kinds[(i + filled) % 4]
        commands.append("%s %d %d" % (what, at + start, end - start))
        model[at + start:at + end] = bytes([byte]) * (end - start)
        at += 4 * C
open("commands", "w").write("".join(c + "\n" for c in commands))
open("model", "wb").write(model)
END
}

for base in "" bb.raw; do
    echo "alignments, ${base:-no backing file}"
    alignments "$base"
    rm -f aligned.qed
    qedctl create aligned.qed $(stat -c %s model) \
        ${base:+--backing $base --backing-format raw}
    serve aligned.qed
    mapfile -t lines < commands
    io raw "$uri" "${lines[@]}"
    same raw "$uri" model
    serve_stop
    judge_image aligned.qed model
done

# A discard of any bytes: what it doesn't cover stays, what it covers is as it
# was, or zero; whole clusters are zero.
for base in "" bb.raw; do
    rm -f discards.qed
    qedctl create discards.qed 20M ${base:+--backing $base --backing-format raw}
    serve discards.qed clean-after=0
    io raw "$uri" "write -P 7 0 10M"
    lines=()
    for edge in 0 1 511 512 4095 4096 65535 65536 65537; do
        for length in 1 512 65536 131071 200000; do
            at=$((${#lines[@]} * 5 * 65536 + edge))
            lines+=("discard $at $length")
        done
    done
    io raw "$uri" "${lines[@]}" flush
    client "$base" "${lines[@]}" <<'END' || fail "discards"
old = bytearray((b"\xbb" if args[0] else b"\0") * h.get_size())
if args[0]:
    length = len(open(args[0], "rb").read())
    old[length:] = bytes(max(0, len(old) - length))
old[:10 << 20] = b"\7" * (10 << 20)
C = 65536
for line in args[1:]:
    at, n = map(int, line.split()[1:])
    first, last = -(-at // C) * C, (at + n) // C * C
    got = h.pread(n, at)
    assert all(g in (0, o) for g, o in zip(got, old[at:at + n])), line
    if first < last and at + n <= 10 << 20:
        assert h.pread(last - first, first) == bytes(last - first), line
    old[at:at + n] = got
for at in range(0, len(old), 1 << 20):
    assert h.pread(1 << 20, at) == old[at:at + (1 << 20)], at
open("model", "wb").write(old)
END
    serve_stop
    judge_image discards.qed model
done

# ---- In flight together ---------------------------------------------------

rm -f flight.qed
qedctl create flight.qed 64M
serve flight.qed
lines=()
for i in {0..255}; do
    lines+=("aio_write -q -P $((i % 255 + 1)) $((i * 131072 + i)) 40000 30000")
    lines+=("aio_write -q -z -u $((i * 131072 + 80000)) 20000")
    if [ $((i % 32)) -eq 31 ]; then
        lines+=(aio_flush "aio_read -q $((i * 65536)) 200000")
    fi
done
io raw "$uri" "${lines[@]}" aio_flush flush
lines=()
for i in {0..255}; do
    lines+=("read -P $((i % 255 + 1)) $((i * 131072 + i)) 70000"
            "read -P 0 $((i * 131072 + i + 70000)) $((60000 - i))")
done
io raw "$uri" "${lines[@]}" "writev -P 9 40M 1 511 4096 65537 100000" \
    "readv -P 9 40M 65537 4096 511 1 100000" "read -P 0 42113569 100000"
qemu convert -f raw -O raw "$uri" flight.raw
serve_stop
judge_image flight.qed flight.raw

# ---- 8 TiB ----------------------------------------------------------------

T=$((1024 * 1024 * 1024 * 1024))
qedctl create huge.qed 8T
serve huge.qed
io raw "$uri" "write -P 1 0 64k" "write -P 2 $((4 * T - 100)) 300" \
    "write -P 3 $((8 * T - 1)) 1" "write -z -u $((6 * T)) 1G" \
    "write -P 4 $((6 * T + 12345)) 1M" "discard $((6 * T)) 1G" \
    "write -P 5 $((2 * T)) 100k" "write -z -u 1M 2047M" flush \
    "read -P 0 $((6 * T)) 2M" "read -P 0 $((4 * T + 200)) 1M"
qemu convert -f raw -O raw "$uri" huge.raw
qemu compare -q -f raw -F raw "$uri" huge.raw
io raw huge.raw "read -P 1 0 64k" "read -P 0 64k 100k" \
    "read -P 2 $((4 * T - 100)) 300" "read -P 3 $((8 * T - 1)) 1" \
    "read -P 5 $((2 * T)) 100k"
qemu map --output=json -f raw "$uri" > map.json
[ "$(jq '[.[] | select(.zero | not)] | length' map.json)" -eq 4 ] ||
    fail "the map of the huge disk: $(cat map.json)"
serve_stop
walk_free_image huge.qed
qemu compare -q -f qed -F raw huge.qed huge.raw
[ "$(disk_usage huge.qed)" -le 6000000 ] ||
    fail "8 TiB: the file takes $(disk_usage huge.qed) bytes"
