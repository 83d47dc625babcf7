#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl check of an image file that an NBD server exports: it finds what a
# check of the file itself finds, with many reads under way, and says what to
# do where it can't.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/qedctl.sh"
. "$srcdir/backing-server.sh"

requires jq --version
requires qemu-img --version
requires qemu-nbd --version
requires nbdkit file --version
requires nbdkit --filter=delay --filter=log --filter=stats \
         --filter=noextents null --version
requires "$PYTHON" --version

cd "$tmpdir"

# check STATUS TARGET [OPTION...]: the JSON report in report, without the name.
check ()
{
    local r=0

    timeout 60 qedctl check --json "${@:3}" "$2" > out 2> err < /dev/null ||
        r=$?
    [ $r -eq $1 ] || { cat out err; fail "check $2: exit $r, not $1"; }
    [ ! -s out ] || jq -S 'del(.filename)' out > report
}

# same IMAGE SERVER...: the server's export gives the report of the file.
same ()
{
    local status=0

    qedctl check --json "$1" 2>/dev/null | jq -S 'del(.filename)' > local ||
        fail "$1: the file can't be checked"
    qedctl check "$1" > /dev/null 2>&1 || status=$?
    "${@:2}"
    check $status "$backing_uri"
    stop_backing TERM
    cmp local report || { diff local report; fail "$1, ${*:2}: not the same"; }
}

# craft FILE TABLES: a full image, whose data nobody wrote: only its tables
# are no holes.
craft ()
{
    "$PYTHON" - "$@" <<'END'
import struct, sys
C = 65536
T = 4 * C
N = T // 8
tables = int(sys.argv[2])
places = [C + T + i * (T + N * C) for i in range(tables)]
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<IIIIQQQQQII", 0x00444551, C, 4, 1, 0, 0, 0, C,
                        tables * N * C, 0, 0))
    f.seek(C)
    f.write(struct.pack("<%dQ" % N, *places, *[0] * (N - tables)))
    for at in places:
        f.seek(at)
        f.write(struct.pack("<%dQ" % N, *range(at + T, at + T + N * C, C)))
    f.truncate(places[-1] + T + N * C)
END
}

# ---- The same is found ----------------------------------------------------

# test-recipes-remote.sh has more of this.

# Where the server can't tell holes from data.
"$PYTHON" "$srcdir/leaky-image.py" leaky.qed
same leaky.qed start_nbdkit_backing --filter=noextents file leaky.qed
same leaky.qed start_nbdkit_backing file leaky.qed

# ---- Holes cost nothing ---------------------------------------------------

# 64 TiB; then a table of 1 GiB, all of which is a hole.
qedctl create sparse.qed 64T > /dev/null
same sparse.qed start_nbdkit_backing file sparse.qed
same sparse.qed start_qemu_backing sparse.qed raw
qedctl create huge.qed 64T --cluster-size 64M --table-size 16 > /dev/null
same huge.qed start_nbdkit_backing --filter=stats file huge.qed \
     statsfile="$tmpdir/stats"
"$PYTHON" - stats <<'END' || { cat stats; fail "too much was read"; }
import re, sys
read = re.search(r"^read: (\d+) ops, .*?, ([\d.]+) (\w+),", open(sys.argv[1]).read(),
                 re.M)
assert int(read[1]) < 20
assert read[3] in ("bytes", "KiB")
END

# ---- Many reads at once, and so faster ------------------------------------

craft full.qed 300

start_nbdkit_backing -t 64 --filter=log --filter=delay file full.qed \
    rdelay=50ms logfile="$tmpdir/log"
check 0 "$backing_uri"
stop_backing TERM
"$PYTHON" - log <<'END' || fail "too few reads are in flight"
import re, sys
now = most = reads = 0
for line in open(sys.argv[1]):
    if " Read id=" in line:
        now += 1
        reads += 1
        most = max(most, now)
    elif "...Read id=" in line:
        now -= 1
print("%d reads, %d at once" % (reads, most))
assert reads >= 300 and most >= 16
END

# An L1 table of 8 MiB, in parts.
"$PYTHON" - wide.qed <<'END'
import struct, sys
C = 1 << 20
T = 8 * C
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<IIIIQQQQQII", 0x00444551, C, 8, 1, 0, 0, 0, C,
                        1 << 60, 0, 0))
    f.seek(C)
    # Each 4096th entry is misaligned, and tells where it is.
    for i in range(T // 8):
        f.write(struct.pack("<Q", 0 if i % 4096 else C + 4096 + i * 8))
END
same wide.qed start_nbdkit_backing --filter=delay file wide.qed rdelay=5ms
[ $(jq .corruptions report) -eq 256 ] || fail "not every L1 entry was seen"

# ---- The server dies ------------------------------------------------------

slow ()
{
    start_nbdkit_backing --filter=delay file full.qed rdelay=300ms
}

begin ()
{
    slow
    timeout 100 qedctl check --json "$backing_uri" > out 2> err &
    checker=$!
    sleep 1.5
    stop_backing KILL
}

# And comes back.
begin
sleep 1
start_nbdkit_backing file full.qed
wait $checker || { cat err; fail "it was not found again: exit $?"; }
grep -q "was lost: .* waits for 30 seconds" err &&
    grep -q "is back after" err || { cat err; fail "the messages are wrong"; }
[ $(jq '.["allocated-clusters"]' out) -eq $((300 * 32768)) ] ||
    fail "not everything was read"
stop_backing TERM

# As another one.
begin
start_nbdkit_backing file leaky.qed
r=0
wait $checker || r=$?
[ $r -eq 1 ] && grep -q "not the same any more: it has .* start again" err ||
    { cat err; fail "another export: exit $r"; }
stop_backing TERM

# The user gives up; a check that stops says that nothing was written.
begin
kill -INT $(pgrep -P $checker)
timed wait $checker
[ $took -lt 100 ] || fail "$took/10 seconds after the user gave up"
grep -q "nothing was written" err || { cat err; fail "interrupted"; }

# For good: within the patience, and a little.
begin
r=0
start=$SECONDS
wait $checker || r=$?
[ $r -eq 1 ] && [ $((SECONDS - start)) -lt 45 ] ||
    fail "exit $r after $((SECONDS - start)) seconds"
grep -q "cannot be reached (.*): start again when the server is back" err ||
    { cat err; fail "it isn't said what to do"; }

# ---- What cannot be -------------------------------------------------------

wrong "Connection refused: is the server running" \
      qedctl check "nbd://localhost:1/"
wrong "No such file or directory: is the server running" \
      qedctl check "nbd+unix:///?socket=$tmpdir/none"
wrong "cannot connect: .*nosuchhost.invalid" \
      qedctl check nbd://nosuchhost.invalid/

start_backing qemu-nbd -r -t -e 20 -x file -f raw -k "$backing_sock" leaky.qed
wrong "no export named 'other': .*nbdinfo --list" \
      qedctl check "nbd+unix:///other?socket=$backing_sock"
check 3 "nbd+unix:///file?socket=$backing_sock"
for repair in --repair --repair=leaks "--repair --undo save"; do
    wrong "without --raw-image: give it if the export is a QED file" \
          qedctl check $repair "nbd+unix:///file?socket=$backing_sock"
done
[ ! -e save ] || fail "an undo file was made"
check 3 "nbd+unix:///file?socket=$backing_sock" --data
check 3 "nbd+unix:///file?socket=$backing_sock" --repair --dry-run
stop_backing TERM

if nbdkit --dump-config | grep -q '^tls=yes'; then
    printf 'user:%064d\n' 1 > keys
    printf 'user:%064d\n' 2 > wrong-keys
    chmod 600 keys wrong-keys
    tls="nbds+unix://user@/?socket=$backing_sock&tls-psk-file=$tmpdir"
    start_nbdkit_backing --tls=require --tls-psk=keys file leaky.qed
    check 3 "$tls/keys"
    wrong "requires TLS.*: use nbds:// and a key" qedctl check "$backing_uri"
    wrong "or the user and the key" qedctl check "$tls/wrong-keys"
    stop_backing TERM
    start_nbdkit_backing --tls=off file leaky.qed
    wrong "does the server use TLS" qedctl check "$tls/keys"
    stop_backing TERM
fi

# An image within a guest's disk is the guest's.
qedctl create disk.qed 64M > /dev/null
serve disk.qed
qemu-img convert -n -f raw -O raw leaky.qed "$uri"
wrong "no control export.*control-export=check" qedctl check "$uri"
check 3 "$uri" --raw-image
serve_stop

# A part of a table that can't be read.
start_nbdkit_backing eval get_size='stat -c %s '"$tmpdir/leaky.qed" pread='
    if [ $4 -lt 331776 ] && [ $(($4 + $3)) -gt 327680 ]; then
        echo EIO no >&2; exit 1
    fi
    dd if='"$tmpdir/leaky.qed"' bs=$3 count=1 skip=$4 \
       iflag=skip_bytes,fullblock status=none'
check 1 "$backing_uri"
[ "$(jq -r '.problems[].code' out | sort | uniq -c | tr -s ' ')" = \
  " 1 table-unreadable" ] || { cat out; fail "the wrong thing is unreadable"; }
stop_backing TERM
