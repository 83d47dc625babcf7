#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl rebase: the guest sees the same over another backing file, of any
# size and format, over none, and over one where there was none; --unsafe
# changes the name alone; a name of any length that fits, and nothing else of
# the header.  By QEMU's eyes.  What is refused leaves the image as it is.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/backing-server.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version

cd "$tmpdir"

# The backing files: old.raw, and others that are like it in parts: with
# zeros, holes and other data in between, down to single sectors.
"$PYTHON" - <<'END'
import random

rng = random.Random(42)
size = 6 << 20
old = bytearray(size)
at = 0
while at < size:
    n = rng.choice([512, 4096, 65536, 100352])
    if rng.random() < .6:
        old[at:at + n] = rng.randbytes(min(n, size - at))
    at += n


def vary(new_size, seed):
    rng = random.Random(seed)
    new = bytearray((old + bytes(new_size))[:new_size])
    at = 0
    while at < new_size:
        n = rng.choice([512, 4096, 65536, 300032])
        kind = rng.randrange(4)
        n = min(n, new_size - at)
        if kind == 0:
            new[at:at + n] = bytes(n)
        elif kind == 1:
            new[at:at + n] = rng.randbytes(n)
        at += n
    return new


def write(name, data):
    with open(name, "wb") as f:
        for at in range(0, len(data), 4096):
            if data[at:at + 4096].count(0) < len(data[at:at + 4096]):
                f.seek(at)
                f.write(data[at:at + 4096])
        f.truncate(len(data))


write("old.raw", old[:size - 300])
write("other.raw", vary(size, 1))
write("shorter.raw", vary(3 << 20, 2)[:-100])
write("longer.raw", vary(9 << 20, 3))
END
: > empty.raw
qemu-img convert -f raw -O qed -o cluster_size=4096 other.raw whole.qed
# Chains: over old.raw, over other.raw.
qemu-img create -q -f qed -b old.raw -F raw mid.qed 5M
qemu-io -f qed -c "write -P 3 1M 300k" -c "write -P 4 3M 4k" mid.qed > out
qemu-img create -q -f qed -o cluster_size=4096 -b other.raw -F raw far.qed 7M
qemu-io -f qed -c "write -P 5 2M 100k" far.qed > out

# An overlay with data of its own, and zeros: make_overlay FILE FORMAT CLUSTER
make_overlay ()
{
    rm -f i.qed model
    qedctl create --cluster-size $3 --backing $1 --backing-format $2 i.qed \
        6292992
    serve i.qed
    client <<'END'
h.pwrite(b"\6" * 70000, 1000000)
h.pwrite(b"\7" * 512, 6292480)
h.zero(131072, 2097152)
h.zero(1000, 4000000)
END
    serve_stop
    qemu-img convert -f qed -O raw i.qed model
}

# same: i.qed has the model's content
same ()
{
    qemu-img compare -f qed -F raw i.qed model > out || {
        cat out
        fail "i.qed: another content"
    }
    [ "$(qedctl info --json i.qed | jq '.["virtual-size"]')" = \
        "$(stat -c %s model)" ] || fail "i.qed: another size"
    walk_free_image i.qed
}

# over NAME FORMAT: what QEMU says; NAME "null" if there is none
over ()
{
    qemu-img info --output=json i.qed > info
    [ "$(jq -r '.["backing-filename"]' < info)" = "$1" ] &&
        [ "$(jq -r '.["backing-filename-format"]' < info)" = "$2" ] || {
        cat info
        fail "i.qed is not over $1 ($2)"
    }
}

# rebase ARGUMENT...: of i.qed
rebase ()
{
    qedctl rebase "$@" i.qed > out 2>&1 || { cat out; fail "rebase $*"; }
    if [ -s out ]; then cat out; fail "rebase $*: it talks"; fi
}

# refused PATTERN ARGUMENT...: one line, exit 1, and i.qed as it was
refused ()
{
    local r=0

    cp i.qed before.qed
    timeout 30 qedctl rebase "${@:2}" > out 2> err || r=$?
    if [ $r -ne 1 ] || [ "$(wc -l < err)" -ne 1 ] || [ -s out ] ||
           ! grep -q -e "$1" err; then
        cat out err
        fail "rebase ${*:2}: exit $r; expected 1 and one line with '$1'"
    fi
    cmp i.qed before.qed || fail "rebase ${*:2}: it changed the image"
}

# ---- From one to the other ------------------------------------------------

for cluster in 4096 65536; do
    echo "clusters of $cluster"
    make_overlay old.raw raw $cluster
    sha256sum *.raw whole.qed mid.qed far.qed > sums
    # "raw" is what is found there, and stays so.
    rebase --backing other.raw;                        same; over other.raw raw
    rebase --backing shorter.raw --backing-format raw; same; over shorter.raw raw
    rebase --no-backing;                               same; over null null
    rebase --backing longer.raw;                       same; over longer.raw raw

    make_overlay old.raw raw $cluster
    rebase --backing longer.raw;                       same; over longer.raw raw
    make_overlay old.raw raw $cluster
    rebase --backing empty.raw;                        same; over empty.raw raw
    rebase --backing old.raw;                          same; over old.raw raw
    make_overlay longer.raw raw $cluster
    rebase --backing '';                               same; over null null
    rebase --no-backing;                               same; over null null

    # QED, chains, and files that both have.
    make_overlay mid.qed qed $cluster
    rebase --backing old.raw;                          same; over old.raw raw
    rebase --backing mid.qed;                          same; over mid.qed null
    rebase --backing far.qed --backing-format qed;     same; over far.qed null
    rebase --backing whole.qed;                        same; over whole.qed null
    make_overlay far.qed qed $cluster
    rebase --backing mid.qed;                          same; over mid.qed null
    rebase --no-backing;                               same; over null null
    sha256sum -c --quiet sums || fail "a backing file changed"
done

# Nothing is copied that is the same.
make_overlay old.raw raw 65536
cp old.raw copy.raw
truncate -s 100M copy.raw
was=$(stat -c %s i.qed)
rebase --backing copy.raw
same
[ "$(stat -c %s i.qed)" = "$was" ] || fail "it copied what is the same"
# An image without content of its own becomes whole.
qedctl create --force --backing old.raw --backing-format raw i.qed 6M
qemu-img convert -f qed -O raw i.qed model
rebase --no-backing
mv old.raw away.raw
same
mv away.raw old.raw
# The new one may lie anywhere, and what is beneath it beside it, with a
# warning; the old one is opened by the usual rules.
mkdir -p sub
cp other.raw sub
qedctl create --backing other.raw --backing-format raw sub/top.qed 6M
qedctl rebase --backing ../mid.qed sub/top.qed 2> err
grep -q "/mid.qed is not inside the image's directory: a server opens it only" \
    err || fail "no warning: $(cat err)"
[ "$(wc -l < err)" = 1 ] || fail "more than a warning"
qemu-img compare -q -f qed -F raw sub/top.qed other.raw || fail "sub/top.qed"
cp sub/top.qed i.qed
! qedctl rebase --no-backing sub/top.qed 2> err || fail "a file outside"
grep -q "not inside .*--allow-backing" err || fail "no hint: $(cat err)"
cmp sub/top.qed i.qed
qedctl rebase --allow-backing . --no-backing sub/top.qed
qemu-img compare -q -f qed -F raw sub/top.qed other.raw || fail "sub/top.qed"

# ---- NBD servers ----------------------------------------------------------

make_overlay old.raw raw 4096
start_nbdkit_backing file other.raw
qedctl rebase --backing "$backing_uri" i.qed 2> err || {
    cat err
    fail "over an NBD server"
}
[ "$(wc -l < err)" = 1 ] && grep -q "is on an NBD server" err ||
    fail "more, or less, than a warning: $(cat err)"
over "$backing_uri" raw
same
refused "on an NBD server: allow that" --no-backing i.qed
rebase --allow-backing any --backing mid.qed
over mid.qed null
same
# From one export to another, with an image between.
qedctl create seat.qed 6M --backing "$backing_uri"
rebase --allow-backing any --backing seat.qed
same
qedctl rebase --allow-backing any --backing "$backing_uri" i.qed 2> err
same
rebase --allow-backing any --no-backing
stop_backing TERM
same
rm -f seat.qed

# ---- Quickly --------------------------------------------------------------

truncate -s 10T sparse1.raw
truncate -s 11T sparse2.raw
qemu-io -f raw -c "write -P 8 5T 1M" sparse1.raw > out
qemu-io -f raw -c "write -P 9 6T 1M" sparse2.raw > out
qedctl create --force --backing sparse1.raw --backing-format raw i.qed 10T
timeout 30 qedctl rebase --backing sparse2.raw i.qed ||
    fail "10 TiB take too long"
qemu-io -f qed -c "read -P 8 5T 1M" -c "read -P 0 6T 1M" i.qed > out
! grep -i failed out || fail "10 TiB: another content"
[ "$(disk_usage i.qed)" -lt 4000000 ] || fail "so much for so little"
timeout 30 qedctl rebase --no-backing i.qed || fail "10 TiB take too long"
timeout 30 qedctl rebase --backing sparse1.raw i.qed ||
    fail "10 TiB take too long"
qemu-io -f qed -c "read -P 8 5T 1M" -c "read -P 0 6T 1M" i.qed > out
! grep -i failed out || fail "10 TiB: another content"

# ---- The name alone -------------------------------------------------------

make_overlay old.raw raw 65536
cp i.qed before.qed
rebase --unsafe --backing other.raw --backing-format raw
over other.raw raw
cmp -i 65536 i.qed before.qed || fail "--unsafe changed more than the header"
rebase -u --backing old.raw --backing-format raw
same
# The old one need not exist.
mv old.raw away.raw
refused "cannot open the backing file .*old.raw: No such file" \
    --backing other.raw i.qed
rebase -u --backing away.raw --backing-format raw
same
rebase -u --no-backing
over null null
# Nor the new one.
qedctl rebase -u --backing gone.raw i.qed 2> err
grep -q "gone.raw cannot be opened now (No such file" err || fail "no warning"
over gone.raw null
qedctl rebase -u --backing nbd://localhost/x i.qed 2> err || fail "a URI"
grep -q "is on an NBD server: a server opens it only with backing=any" err ||
    fail "no warning"
over nbd://localhost/x raw
mv away.raw old.raw
rebase -u --backing old.raw --backing-format raw
same

# ---- Names ----------------------------------------------------------------

# long_name BYTES: a name of old.raw
long_name ()
{
    local name

    name=$(printf './%.0s' $(seq 1 $((($1 - 7) / 2))))
    if [ $((($1 - 7) % 2)) = 1 ]; then name=$name/; fi
    [ $1 = 8 ] && name=./old.raw || name=${name}old.raw
    echo "${name:0:$1}"
}

mv i.qed saved.qed
cp model saved
for length in 1 2 3 440 447 448 449 511 512 513 1022 1023; do
    qedctl create --force --cluster-size 4K --backing old.raw i.qed 6M
    qemu-img convert -f qed -O raw i.qed model
    if [ $length -lt 9 ]; then
        name=$(printf 'n%.0s' $(seq 1 $length))
        cp old.raw $name
    else
        name=$(long_name $length)
        [ ${#name} = $length ] || fail "the name has ${#name} bytes"
    fi
    rebase --backing "$name"
    over "$name" raw
    same
    # All around is as it was.
    rebase --no-backing
    qedctl create --force --cluster-size 4K none.qed 6M
    rebase -u --no-backing
    cmp -n 4096 i.qed none.qed || fail "something is left of the name"
    [ $length -ge 9 ] || rm $name
done

# The longest that fits; then nothing else does.  QEMU's limit is 1023.
qedctl create --force --cluster-size 4K i.qed 1M
name=$(long_name 4032)
rebase --backing "$name"
[ "$(qedctl info --json i.qed | jq -r '.["backing-filename"]')" = "$name" ] ||
    fail "a name of 4032 bytes"
refused "no room for a backing file name of 7 bytes .* at most 0 do" \
    --backing old.raw i.qed
rebase --backing "$name" --backing-format raw
rebase --no-backing
refused "no room for a backing file name of 4033 bytes .* at most 4032 do" \
    -u --backing "x$name" i.qed
rebase --backing "$(long_name 2016)"
rebase --backing "$(long_name 2015)"
rebase --backing "$(long_name 2016)"
qedctl create --force --cluster-size 8K i.qed 1M
refused "4096 bytes long: at most 4095" -u --backing "$(long_name 4096)" i.qed
rebase --backing "$(long_name 4095)"
rebase --backing "$(long_name 4032)"
refused "control character" --backing $'a\nb' i.qed

# What others keep in the header's cluster stays.
qedctl create --force --cluster-size 4K --backing old.raw i.qed 1M
"$PYTHON" - <<'END'
with open("i.qed", "r+b") as f:
    for at in (600, 1500, 4000):
        f.seek(at)
        f.write(b"not yours")
END
rebase --backing "$(long_name 1000)"
rebase --backing other.raw
rebase --no-backing
"$PYTHON" - <<'END'
data = bytearray(open("i.qed", "rb").read(4096))
for at in (600, 1500, 4000):
    assert data[at:at + 9] == b"not yours", at
    data[at:at + 9] = bytes(9)
assert data[64:] == bytes(4032)
END
refused "of 2492 bytes .* at most 2491" --backing "$(long_name 2492)" i.qed
mv saved.qed i.qed
mv saved model

# ---- What is refused ------------------------------------------------------

make_overlay old.raw raw 65536
refused "either --backing FILE or --no-backing" i.qed
refused "either --backing FILE or --no-backing" --backing a --no-backing i.qed
refused "without --backing" --no-backing --backing-format raw i.qed
refused "qcow2 is not possible" --backing a --backing-format qcow2 i.qed
refused "too few arguments" --no-backing
refused "unknown" --base x i.qed
refused "No such file" --no-backing no.qed
refused "No such file" --backing no.raw i.qed
refused "is not a QED image" --backing other.raw --backing-format qed i.qed
qemu-img create -q -f qcow2 foreign 6M
refused "is a qcow2 image" --backing foreign i.qed
refused "neither a regular file" --backing . i.qed
refused "nothing else is supported" --backing json:x i.qed
refused "nothing else is supported" -u --backing json:x i.qed
refused "always raw" -u --backing-format qed --backing nbd://localhost i.qed
# It would back itself.
refused "back itself" --backing i.qed i.qed
refused "back itself" --backing ./sub/../i.qed i.qed
ln -s i.qed link.qed
refused "back itself" --backing link.qed i.qed
refused "its own backing file" -u --backing link.qed i.qed
qemu-img create -q -f qed -b i.qed -F qed above.qed 6M
refused "back itself" --backing above.qed i.qed

printf '\x01' | dd of=i.qed bs=1 seek=24 conv=notrunc status=none
refused "unknown compatible features" --no-backing i.qed
refused "unknown compatible features" -u --backing other.raw i.qed
printf '\0' | dd of=i.qed bs=1 seek=24 conv=notrunc status=none
printf '\x07' | dd of=i.qed bs=1 seek=16 conv=notrunc status=none
refused "NEED_CHECK is set .* repair it first" --no-backing i.qed
refused "NEED_CHECK is set .* repair it first" -u --no-backing i.qed
printf '\x05' | dd of=i.qed bs=1 seek=16 conv=notrunc status=none

serve i.qed
refused "in use by nbdkit, process $(cat "$pidfile")" --no-backing i.qed
refused "in use by nbdkit, process $(cat "$pidfile")" -u --no-backing i.qed
serve_stop
serve whole.qed
refused "in use by nbdkit, process $(cat "$pidfile")" --backing whole.qed i.qed
serve_stop
rebase --no-backing
same
