#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Images over the export of an NBD server: the content against a flat model
# and by QEMU's eyes, block status, many reads at a time, servers that can do
# little, TLS.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/backing-server.sh"

requires qemu-img --version
requires qemu-nbd --version
requires qemu-io --version
requires nbdkit --version
requires nbdinfo --version
requires nbdcopy --version
requires jq --version
requires "$PYTHON" -c "import nbd"

cd "$tmpdir"

# make_base BYTES: base.qcow2 with data, zeros and holes, and its content as
# model.
make_base ()
{
    "$PYTHON" - "$1" > commands <<'END'
import random, sys
size = int(sys.argv[1])
rng = random.Random(size)
for i in range(60):
    at = rng.randrange(size // 512) * 512
    n = min(rng.choice([512, 4096, 65536, 100352, 262144]), size - at)
    print("write %s %d %d" % ("-z" if i % 5 == 4 else "-P %d" % (i + 1),
                              at, n))
END
    rm -f base.qcow2
    qemu-img create -q -f qcow2 base.qcow2 "$1"
    qemu-io -f qcow2 base.qcow2 < commands > out
    if grep -i failed out; then fail "qemu-io"; fi
    qemu-img convert -f qcow2 -O raw base.qcow2 model
    cp base.qcow2 base.before
}

# work IMAGE SEED OPERATIONS
work ()
{
    timeout 200 "$PYTHON" "$srcdir/backing-work.py" "$uri" $2 $3 model ||
        fail "$1: wrong data (seed $2)"
}

# worked IMAGE: after work on it, stopped.
worked ()
{
    walk_free_image "$1"
    qemu-img compare -q -f qed -F raw "$1" model ||
        fail "$1: QEMU reads something else"
    if [ -e base.qcow2 ]; then
        cmp base.qcow2 base.before || fail "the backing file was changed"
    fi
}

# map_of URI: its block status
map_of ()
{
    nbdinfo --map "$1" | awk '{ print $1, $2, $3 }'
}

# ---- qcow2 behind QEMU's server -------------------------------------------

make_base 12582912
start_qemu_backing base.qcow2

qedctl create top.qed 12M --backing "$backing_uri"
qedctl info --json top.qed > info
jq -e '.flags == ["backing-file", "backing-format-no-probe"]' info
qedctl map --json top.qed > map.json
serve top.qed backing=any

# Before anything is written the two are the same, also in what is a hole.
nbdcopy "$uri" copy
cmp copy model || fail "the overlay has other content than its backing file"
map_of "$uri" > map1
map_of "$backing_uri" > map2
diff map1 map2 || fail "the block status differs"
test $(wc -l < map1) -gt 20
# So says qedctl, which asks the server by itself.
data () { awk '$3 != k { print $1, k = $3 }'; }
jq -r '.[] | "\(.start) \(.length) \(.data)"' map.json | data > map2
awk '{ print $1, $2, $3 ? "false" : "true" }' map1 | data | diff - map2 ||
    fail "qedctl map says something else"

work top.qed 1 200
serve_stop
worked top.qed
serve top.qed backing=any metadata-cache=256K clean-after=1 detect-zeroes=on
work top.qed 2 200
serve_stop
worked top.qed

# Its content without the server; back again, by name; and grown, where what
# the server has behind the old end does not show.
cp top.qed flat.qed
qedctl rebase --no-backing --allow-backing any flat.qed
qemu-img compare -q -f qed -F raw flat.qed model || fail "rebase: wrong data"
qedctl rebase --unsafe --backing "$backing_uri" flat.qed
qedctl info --json flat.qed | jq -e --arg uri "$backing_uri" \
    '.["backing-filename"] == $uri and .["backing-filename-format"] == "raw"'
qedctl create grown.qed 5M --backing "$backing_uri"
qedctl resize --allow-backing any grown.qed 9M
nbdcopy "$backing_uri" - | head -c 5M > grown.raw
truncate -s 9M grown.raw
qemu-img compare -q -f qed -F raw grown.qed grown.raw ||
    fail "resize: wrong data"

# The same writes to a local overlay of the same file.
qedctl create nbd.qed 12M --backing "$backing_uri"
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 local.qcow2
"$PYTHON" - > commands <<'END'
import random
rng = random.Random(8)
for i in range(80):
    at = rng.randrange(12582912 - 300000)
    n = rng.choice([1, 100, 512, 70000, 131072, 299999])
    zero = i % 6 == 5
    print("write %s %d %d" % ("-z" if zero else "-P %d" % (i + 100),
                              at // 512 * 512, (n + 511) // 512 * 512))
END
serve nbd.qed backing=any
qemu-io -f raw "$uri" < commands > out
if grep -i failed out; then fail "qemu-io on the overlay"; fi
qemu-img compare -q -f raw -F qcow2 "$uri" local.qcow2 &&
    fail "qemu-img compare sees no difference"
qemu-io -f qcow2 local.qcow2 < commands > out
if grep -i failed out; then fail "qemu-io on the local overlay"; fi
qemu-img compare -q -f raw -F qcow2 "$uri" local.qcow2 ||
    fail "not the same as a local overlay"
serve_stop
qemu-img compare -q -f qed -F qcow2 nbd.qed local.qcow2

# A chain: it needs the loop of the image on top.
cp model model.top
cp top.qed below.qed
qedctl create chain.qed 13M --backing below.qed --cluster-size 4096
serve chain.qed backing=any
work chain.qed 3 200
map_of "$uri" > map1
serve_stop
walk_free_image chain.qed
cmp below.qed top.qed || fail "the file below was changed"
qemu-img compare -q -f qed -F raw chain.qed model
cp model.top model

# As a daemon: its connection is made after the fork.
rm -f "$sock" "$pidfile"
"$abs_top_builddir/nbdkit" -P "$pidfile" -U "$sock" -r qed top.qed backing=any
for i in {1..200}; do if [ -s "$pidfile" ]; then break; fi; sleep 0.05; done
daemon=$(cat "$pidfile")
cleanup_fn eval '[ -z "$daemon" ] || kill -9 $daemon'
nbdcopy "$uri" copy
cmp copy model || fail "the daemon reads something else"
kill $daemon
for i in {1..200}; do
    kill -0 $daemon 2>/dev/null || break
    sleep 0.05
done
kill -0 $daemon 2>/dev/null && fail "the daemon does not end"
daemon=
stop_backing TERM

# Over TCP, by name and by address.
port=$("$PYTHON" -c 'import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
qemu-nbd -r -t -e 20 -f qcow2 -b 127.0.0.1 -p $port -x disk/1 base.qcow2 &
backing_pid=$!
for i in {1..100}; do
    if nbdinfo --size "nbd://127.0.0.1:$port/disk/1" > out 2>&1; then break; fi
    sleep 0.05
done
for host in localhost 127.0.0.1; do
    qedctl create --force tcp.qed 12M --backing "nbd://$host:$port/disk/1"
    serve tcp.qed backing=any
    qemu-img compare -q -f raw -F qcow2 "$uri" base.qcow2
    serve_stop
done
stop_backing TERM

# ---- Servers that can do little -------------------------------------------

"$PYTHON" - <<'END'
import random
open("base.raw", "wb").write(random.Random(3).randbytes(3000001))
END
rm base.qcow2

# small_server NAME ARGUMENT...: work over base.raw; the server goes on.
small_server ()
{
    local name=$1

    shift
    cp base.raw model
    start_nbdkit_backing "$@"
    qedctl create --force $name.qed 4M --backing "$backing_uri"
    serve $name.qed backing=any
    work $name.qed 4 120
    serve_stop
    worked $name.qed
}

# Without structured replies: no block status, all of it is data.
small_server plain --no-sr file base.raw
qedctl create --force plain.qed 4M --backing "$backing_uri"
serve plain.qed backing=any
map_of "$uri" > map1
serve_stop
stop_backing TERM
printf '%s\n' "0 3000001 0" "3000001 1194303 3" > map2
diff map1 map2 || fail "no structured replies: wrong block status"

# Without block status and cache.
small_server bare --filter=nocache --filter=noextents file base.raw
stop_backing TERM

# Only blocks of 4096 bytes, and not more than 64K at a time.
truncate -s 2998272 base.raw
small_server blocks --filter=blocksize-policy file base.raw \
    blocksize-minimum=4096 blocksize-preferred=4096 blocksize-maximum=64K \
    blocksize-error-policy=error
# The policy is what it seems to be.
"$PYTHON" - "$backing_uri" <<'END' || fail "this server takes any block"
import nbd, sys
h = nbd.NBD()
h.set_strict_mode(0)
h.connect_uri(sys.argv[1])
for n, at in (512, 0), (4096, 100), (131072, 0):
    try:
        h.pread(n, at)
    except nbd.Error:
        continue
    sys.exit(1)
END
stop_backing TERM

# ---- Many at a time -------------------------------------------------------

# Each read takes half a second: 32 of them take hardly more.
start_nbdkit_backing -t 64 --filter=log --filter=delay pattern 64M \
  delay-read=500ms logfile=reads.log
qedctl create slow.qed 64M --backing "$backing_uri"
rm -f "$sock"
start_nbdkit -P "$pidfile" -t 64 -U "$sock" qed slow.qed backing=any
client <<'END'
import struct, time
def reads():
    with open("reads.log") as f:
        return sum(" Read id=" in line for line in f)
start = time.time()
flight = []
for i in range(32):
    buf = nbd.Buffer(4096)
    flight.append((h.aio_pread(buf, i * 2000000), buf, i * 2000000))
for cookie, buf, at in flight:
    while not h.aio_command_completed(cookie):
        h.poll(1000)
    assert struct.unpack_from(">Q", buf.to_bytearray())[0] == at
took = time.time() - start
print("32 reads of half a second: %.2f s" % took)
assert took < 8

# A write is one read, of what surrounds it; the rest of the cluster needs
# none then.
before = reads()
h.pwrite(b"x" * 100, 40 * 65536 + 1000)
assert reads() == before + 1, (before, reads())
assert h.pread(8, 40 * 65536 + 8) == struct.pack(">Q", 40 * 65536 + 8)
assert reads() == before + 1, (before, reads())
END
serve_stop
stop_backing TERM

# Read-ahead reaches the server.
start_nbdkit_backing --filter=log --filter=cache pattern 16M \
    logfile="$tmpdir/backing.trace"
qedctl create ahead.qed 16M --backing "$backing_uri"
serve ahead.qed backing=any
client <<< 'h.cache(1 << 20, 5 << 20)'
for i in {1..100}; do
    if grep -q "Cache.*offset=0x500000 count=0x100000" backing.trace; then
        break
    fi
    sleep 0.05
done
grep -q "Cache.*offset=0x500000 count=0x100000" backing.trace ||
    { cat backing.trace; fail "the server was not told of a read-ahead"; }
grep " Read " backing.trace && fail "a read-ahead reads"
serve_stop
stop_backing TERM

# ---- What it looks like does not matter -----------------------------------

# A guest can write any header into its disk.
for format in qed qcow2; do
    rm -f inner
    qemu-img create -q -f $format inner 1M
    start_nbdkit_backing file inner
    qedctl create --force outer.qed 1M --backing "$backing_uri"
    "$PYTHON" -c 'f = open("outer.qed", "r+b"); f.seek(16); f.write(b"\1")'
    serve outer.qed backing=any
    client inner <<'END'
with open(args[0], "rb") as f:
    inner = f.read(1 << 20)
assert h.pread(len(inner), 0) == inner
END
    serve_stop
    stop_backing TERM
done

# ---- TLS ------------------------------------------------------------------

if nbdkit --dump-config | grep -q '^tls=yes'; then
    echo "alice:$(printf '%064d' 7)" > keys.psk
    start_nbdkit_backing --tls=require --tls-psk=keys.psk pattern 64M
    tls_uri="nbds+unix://alice@/?socket=$backing_sock"
    qedctl create tls.qed 64M \
        --backing "$tls_uri&tls-psk-file=$tmpdir/keys.psk"
    serve tls.qed backing=any
    nbdcopy "$uri" copy
    nbdkit -U - pattern 64M --run 'nbdcopy "$uri" expected'
    cmp copy expected || fail "wrong data over TLS"
    serve_stop
    # Without the key, and without TLS.
    echo "alice:$(printf '%064d' 8)" > wrong.psk
    for other in "$tls_uri&tls-psk-file=$tmpdir/wrong.psk" \
                 "nbd+unix:///?socket=$backing_sock"; do
        qedctl create --force tls.qed 64M --backing "$other"
        timeout 60 "$abs_top_builddir/nbdkit" -U - qed tls.qed backing=any \
            --run true 2> log && fail "connected without the key"
        grep -q "cannot connect to the backing file $other" log ||
            { cat log; fail "no word about the connection"; }
    done
    stop_backing TERM
fi
