# SPDX-License-Identifier: LGPL-2.1-or-later

# For the tests that look at the server from outside: start it, stop it, kill
# it, and judge the image that it leaves.  To be sourced after functions.sh.
#
# QED_SERVER=qemu puts qemu-nbd in the server's place, to tell whether a
# failure is the server's or the test's.

qed_server=${QED_SERVER:-nbdkit}
sock=$tmpdir/sock
pidfile=$tmpdir/pid
uri="nbd+unix:///?socket=$sock"

# make_image FILE CLUSTER-SIZE TABLE-SIZE SIZE
make_image ()
{
    if [ "$qed_server" = qemu ]; then
        qemu-img create -q -f qed -o "cluster_size=$2,table_size=$3" "$1" "$4"
    else
        qedctl create "$1" "$4" \
            --cluster-size "$2" --table-size "$3" >/dev/null
    fi
}

# Serve an image on $uri: serve IMAGE [PARAMETER=VALUE...].
serve ()
{
    rm -f "$sock"
    if [ "$qed_server" = nbdkit ]; then
        start_nbdkit -P "$pidfile" -U "$sock" qed "$@"
    else
        qemu-nbd -f qed --fork -t --shared 64 -k "$sock" \
            --pid-file="$pidfile" "$1"
        cleanup_fn serve_signal KILL "$pidfile"
    fi
}

serve_signal ()
{
    local i pid=$(cat "$2" 2>/dev/null)

    kill -"$1" "$pid" 2>/dev/null || return 0
    for i in {1..300}; do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    fail "qemu-nbd does not end"
}

# Stop the server in the friendly way.  It must agree.
serve_stop ()
{
    if [ "$qed_server" = nbdkit ]; then
        stop_nbdkit "$pidfile" || fail "the server ended with status $?"
    else
        serve_signal TERM "$pidfile"
    fi
}

serve_kill ()
{
    if [ "$qed_server" = nbdkit ]; then
        kill_nbdkit "$pidfile"
    else
        serve_signal KILL "$pidfile"
    fi
}

model_test ()
{
    "$abs_top_builddir/tests/model-test" "$@"
}

# How many requests a client that goes away may leave under way: nbdkit before
# 1.34 dies when it can't send a second reply (an assertion in raw_send_socket).
orphans_max ()
{
    local version minor

    version=$(nbdkit --version)
    version=${version#nbdkit 1.}
    minor=${version%%.*}
    if [ "$minor" -ge 34 ]; then echo 120; else echo 1; fi
}

# Run Python with the connection h to the server: client [ARGUMENT...] <<END.
# The arguments are in args.
client ()
{
    timeout -k 5 120 "$PYTHON" -c '
import sys, nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
args = sys.argv[2:]
exec(compile(sys.stdin.read(), "script", "exec"))
' "$uri" "$@" || fail "what a client did or expected failed"
}

# Run qemu-io, which must agree and find no other content than it was told:
# io FORMAT FILE COMMAND...
io ()
{
    local commands=() format=$1 file=$2 command

    shift 2
    for command; do commands+=(-c "$command"); done
    timeout 60 qemu-io -d unmap -f $format "${commands[@]}" "$file" \
        > "$tmpdir/io.out" 2>&1 &&
        ! grep -qi "fail\|error\|not supported\|invalid" "$tmpdir/io.out" ||
        { cat "$tmpdir/io.out" >&2; fail "qemu-io: $*"; }
}

# random_file FILE BYTES SEED: a raw file, a third of it holes
random_file ()
{
    "$PYTHON" - "$@" <<'END'
import random, sys
rng = random.Random(int(sys.argv[3]))
size = int(sys.argv[2])
with open(sys.argv[1], "wb") as f:
    for at in range(0, size, 100000):
        if rng.random() < .7:
            f.seek(at)
            f.write(rng.randbytes(min(100000, size - at)))
    f.truncate(size)
END
}

# Bytes that a file takes on its file system.
disk_usage ()
{
    echo $(($(stat -c '%b * %B' "$1")))
}

# Whether NEED_CHECK is set: a fact of the byte at offset 16.
need_check ()
{
    local byte

    byte=$(od -A n -t u1 -j 16 -N 1 "$1")
    [ $((byte & 2)) -ne 0 ]
}

# header_field FILE OFFSET BYTES: a little-endian number (as od reads it here)
header_field ()
{
    od -A n -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '
}

# Whether QEMU 7.2 can open images of this geometry: qemu_opens CLUSTER TABLE.
# It wants two clusters a table, and its largest image overflows 64 bits.
qemu_opens ()
{
    local bits=0 n

    [ "$2" -ge 2 ] || return 1
    for ((n = $1; n > 1; n /= 2)); do bits=$((bits + 3)); done
    for ((n = $2; n > 1; n /= 2)); do bits=$((bits + 2)); done
    [ $((bits - 6)) -lt 64 ]
}

# Every cluster must be referenced once, whatever QEMU thinks of the geometry.
walk_image ()
{
    "$PYTHON" "$srcdir/image-walk.py" "$1" ||
        fail "the tables of $1 are not in order"
}

# The same, but clusters may be free, which are holes; and QEMU must find
# nothing else: walk_free_image IMAGE.
walk_free_image ()
{
    local free

    free=$("$PYTHON" "$srcdir/image-walk.py" --free "$1") ||
        fail "the tables of $1 are not in order"
    qemu_check "$1" "$free"
}

# qemu-img check must find nothing: qemu_check IMAGE [FREE].  QEMU 7.2 divides
# by (cluster size - 1) to count clusters, and calls leaked what isn't there:
# exactly so many are tolerated.  Nor does it know of free clusters.
qemu_check ()
{
    local cluster length leaks found free=${2:-0}

    cluster=$(header_field "$1" 4 4)
    length=$(stat -c %s "$1")
    leaks=$((length / (cluster - 1) - length / cluster + free))
    qemu-img check -f qed --output=json "$1" > "$tmpdir/check.json" || :
    found=$(jq -r '"\(.["check-errors"]) \(.corruptions // 0) \(.leaks // 0)"' \
               < "$tmpdir/check.json")
    if [ "$found" != "0 0 $free" ] && [ "$found" != "0 0 $leaks" ]; then
        cat "$tmpdir/check.json" >&2
        fail "qemu-img check of $1: errors, corruptions, leaks: $found"
    fi
}

# A closed image must be in order and have this content, by QEMU's eyes and
# through its chain; what QEMU says to be zeros are zeros: judge_image IMAGE
# RAW-FILE.
judge_image ()
{
    need_check "$1" && fail "NEED_CHECK is set after the server's end"
    walk_free_image "$1"
    qemu-img compare -q -f qed -F raw "$1" "$2" ||
        fail "QEMU reads another content of $1 than it should have"
    qemu-img map --output=json -f qed "$1" > "$tmpdir/map.json"
    "$PYTHON" - "$tmpdir/map.json" "$2" <<'END' ||
import json, os, sys
fd = os.open(sys.argv[2], os.O_RDONLY)
end = 0
for e in json.load(open(sys.argv[1])):
    assert e["start"] == end, e
    end += e["length"]
    for at in range(e["start"], end, 1 << 20) if e["zero"] else ():
        data = os.pread(fd, min(1 << 20, end - at), at)
        assert data.count(0) == len(data), e
assert end == os.fstat(fd).st_size, end
END
        fail "the map of $1 is wrong"
}
