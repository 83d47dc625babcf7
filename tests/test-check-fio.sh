#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Checks of an image that fio writes to, verifies, trims and flushes: they raise
# no false alarm, keep to their rate, can be paused and cancelled, and don't
# keep clients waiting.  Damage that was there before, or is made beneath the
# server, is found and repaired while clients are connected.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/qedctl.sh"

requires fio --version
requires qemu-img --version
requires jq --version
fio --enghelp 2>/dev/null | grep -q nbd || skip "fio has no nbd engine"

slow=${SANITIZER:+5}                    # times as slow
slow=${slow:-1}

cd "$tmpdir"
export XDG_RUNTIME_DIR=$tmpdir/runtime
mkdir -m 700 runtime

# 16 GiB, of which every other cluster is allocated, mostly as holes.
make_half ()
{
    PYTHONDONTWRITEBYTECODE=1 "$PYTHON" - "$srcdir" "$1" <<'END'
import sys
sys.path.insert(0, sys.argv[1] + "/bench")
import images
images.write_qed(sys.argv[2], images.Image(None, 16 << 30, 1 << 16, 4,
                                           images.HALF))
END
}

# damage FILE GUEST=ADD...: add so much to the entry of that guest address.
damage ()
{
    "$PYTHON" - "$@" <<'END'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    def entry(where):
        f.seek(where)
        return struct.unpack("<Q", f.read(8))[0]
    for change in sys.argv[2:]:
        guest, add = (int(n, 0) for n in change.split("="))
        table = entry((1 << 16) + (guest >> 31) * 8)
        where = table + (guest >> 16) % (1 << 15) * 8
        value = entry(where)
        assert value
        f.seek(where)
        f.write(struct.pack("<Q", value + add))
END
}

# start_fio OPTION...: in the background, until end_fio.
start_fio ()
{
    fio --ioengine=nbd --uri="$uri" --thread --time_based --runtime=300 \
        --verify_state_save=0 --randseed=1 --output-format=json \
        --output=fio.out "$@" 2>fio.err &
    fio=$!
    fio_started=$SECONDS
    until_status '.clients > 0'
}

# end_fio [ERRNO]: it must not have ended before, nor have found anything wrong,
# but this error; its words are in fio.json.
end_fio ()
{
    local r=0

    while [ $SECONDS -lt $((fio_started + 3)) ]; do sleep 0.1; done
    kill -INT $fio 2>/dev/null || fail "fio has ended already"
    wait $fio || r=$?
    sed -n '/^{/,$p' fio.out >fio.json
    jq -e "[.jobs[].error] | max == ${1:-0}" fio.json >/dev/null || {
        cat fio.out fio.err
        fail "fio in line ${BASH_LINENO[0]}: exit $r"
    }
}

# check STATUS ARGUMENT...
check ()
{
    local r=0

    timeout 120 qedctl check --control ctl "${@:2}" >out 2>err || r=$?
    [ $r -eq $1 ] || { cat out err; fail "qedctl check ${*:2}: exit $r"; }
}

says ()
{
    grep -q -- "$1" out err || { cat out err; fail "expected '$1'"; }
}

# start_check ARGUMENT...: in the background; it has begun.
start_check ()
{
    timeout 120 qedctl check --control ctl "$@" >check.out 2>&1 &
    check=$!
    until_status 'has("running-check")'
}

# end_check STATUS
end_check ()
{
    local r=0

    wait $check || r=$?
    [ $r -eq $1 ] || { cat check.out; fail "the check: exit $r"; }
}

# ---- Checks all the time ----

make_half disk.qed
serve disk.qed control=ctl
start_fio \
    --name=write --rw=randwrite --bsrange=4k-128k --offset=100m --size=32m \
    --iodepth=8 --fsync=32 --verify=crc32c --verify_backlog=64 \
    --verify_fatal=1 \
    --name=trim --rw=trimwrite --bs=64k --offset=4g --size=128m --iodepth=4 \
    --rate=,20m,20m --fsync=64 \
    --name=read --rw=randread --bs=4k --iodepth=4 --rate=8m
until=$((SECONDS + 5))
for ((n = 0; SECONDS < until; n++)); do
    check 0
done
echo "$n checks"
check 0 --data

# The tables are 2 MiB: at this rate they take four seconds.
started=$(date +%s%N)
check 0 --limit 512K
ms=$((($(date +%s%N) - started) / 1000000))
echo "2 MiB at 512 KiB/s: $ms ms"
[ $ms -ge 3500 ] && [ $ms -le $((8000 * slow)) ] ||
    fail "--limit: it took $ms ms"

start_check --limit 64K
check 1
says 'is running already: .*since .*by uid'
qedctl check --pause --control ctl >out
sleep 1                                 # what is being read is still counted
until_status '."running-check".paused'
at=$(jq '.images[0]."running-check".done' out)
sleep 1
until_status '."running-check" | .paused and .done == '"$at"
check 1 --repair
says 'is running already'
qedctl check --continue --limit 100M --control ctl >out
end_check 0
start_check --limit 64K
qedctl check --cancel --control ctl >out
end_check 1
check 0 --repair=leaks
end_fio

# The longest that anyone has waited.
jq -r '.jobs[] | "\(.jobname): \(.read.total_ios) reads, \(.write.total_ios
    ) writes, \(.trim.total_ios) trims, \([.read, .write, .trim |
    .clat_ns.max] | max / 1e6) ms at most"' fio.json
jq -e '[.jobs[] | .read, .write, .trim | .clat_ns.max] | max < 2e9 * '$slow \
    fio.json >/dev/null || fail "a client waited too long"
jq -e '[.jobs[] | .write.total_ios] | .[0] > 100 and .[1] > 100' fio.json \
    >/dev/null || fail "fio has not written enough"
until_status '."last-check".verdict == "clean"'
serve_stop
walk_free_image disk.qed

# ---- Damage beneath the server, while fio writes ----

# In pages that nobody has read, a misaligned entry and one with reserved bits.
serve disk.qed control=ctl 2>log
start_fio --ignore_error=,EROFS:EPERM \
    --name=write --rw=randwrite --bs=64k --size=32m --iodepth=4 --rate=5m
check 0
damage disk.qed 0x300000000=0x1000 0x300020000=8
check 2
says '^l2-entry-misaligned: .*guest offset 0x300000000'
says '^l2-entry-reserved-bits: .*guest offset 0x300020000'
says '^corruptions: *2$'
until_status '.access == "damaged"'
check 0 --repair
says '^corruptions repaired: *2$'
until_status '.access == "writable"'
check 0
client <<'END'
assert h.pread(65536, 0x300000000) == bytes(65536)
h.pwrite(b"1" * 65536, 0x300000000)
h.flush()
assert h.pread(65536, 0x300000000) == b"1" * 65536
END
check 0
end_fio 1
grep -q 'damaged: l2-entry-misaligned' log || fail "the log does not tell"
serve_stop
walk_free_image disk.qed

# A page that is cached, and that nobody has changed, is another on the disk.
serve disk.qed control=ctl 2>log
start_fio --ignore_error=,EROFS:EPERM \
    --name=write --rw=randwrite --bs=64k --size=32m --iodepth=4 --rate=5m
client <<'END'
h.pread(65536, 0x380000000)
END
check 0
damage disk.qed 0x380000000=0x20000
check 2
says '^page-differs: '
damage disk.qed 0x380000000=-0x20000
check 0 --repair
until_status '.access == "writable"'
end_fio 1
serve_stop
walk_free_image disk.qed

# ---- Damage that was there before ----

# Where nothing was trimmed: fio's trims and writes of a block race.
damage disk.qed 0x140000000=0x1000 0x140020000=8
serve disk.qed control=ctl 2>log
start_fio --name=read --rw=randread --bs=4k --size=32m --iodepth=4 --rate=4m
check 2
says '^corruptions: *2$'
check 0 --repair
end_fio
start_fio --name=write --rw=randwrite --bs=64k --offset=4g --size=8m \
    --iodepth=4 --verify=crc32c --verify_backlog=64 --verify_fatal=1
check 0
end_fio
serve_stop
walk_free_image disk.qed
