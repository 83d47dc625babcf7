#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl check --repair --raw-image of an image file that an NBD server
# exports: servers of all kinds will do, those that die take nothing along, and
# what can't be done is said.  What it leaves is test-recipes-remote.sh's.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/qedctl.sh"
. "$srcdir/backing-server.sh"

requires jq --version
requires qemu-img --version
requires qemu-nbd --version
requires nbdkit file --version
requires nbdkit --filter=delay --filter=log --filter=cache --filter=noextents \
         --filter=blocksize-policy --filter=nozero null --version
requires "$PYTHON" --version

cd "$tmpdir"

# start SERVER FILE: one that takes writes.
start ()
{
    case $1 in
        nbdkit) start_backing nbdkit -f -U "$backing_sock" file "$2" ;;
        qemu) start_backing qemu-nbd -t -e 20 -f raw --discard=unmap \
                            -k "$backing_sock" "$2" ;;
        # What isn't flushed is lost with it.
        volatile) rm -f log
                  start_backing nbdkit -f -U "$backing_sock" --filter=log \
                                --filter=cache --filter=delay file "$2" \
                                cache=writeback rdelay=10ms wdelay=40ms \
                                logfile="$tmpdir/log" ;;
    esac
}

# repair STATUS [OPTION...]: the report in out, messages in err.  Where tables
# were wrong (status 3, here: "mended") the leaks stay for now.
repair ()
{
    local r=0

    timeout 60 qedctl check --repair --raw-image --json "${@:2}" \
            "$backing_uri" > out 2> err < /dev/null || r=$?
    [ $1 != mended ] || [ $r -ne 3 ] || r=mended
    [ $1 != mended ] || [ $r != 0 ] || r=mended
    [ $r = $1 ] || { cat out err; fail "repair: exit $r, not $1"; }
}

# begin FILE: a repair of it, $checker, at a server that is slow.  The third
# connection is that which is made anew when it is lost.
begin ()
{
    start volatile "$1"
    timeout 60 qedctl check --repair --raw-image "$backing_uri" \
            > out 2> err < /dev/null &
    checker=$!
    wait_for grep -q "connection=3 Connect" log
}

# wait_for COMMAND...: until it is true, for 20 seconds at most.
wait_for ()
{
    local i

    for i in {1..400}; do
        if "$@"; then return 0; fi
        sleep 0.05
    done
    fail "this doesn't become true: $*"
}

# recipe NAME: its image is disk.qed.
recipe ()
{
    "$PYTHON" "$srcdir/recipe.py" "$srcdir/recipes/$1" .
}

# sound FILE: after its leaks are cut, nobody finds anything.
sound ()
{
    qedctl check --repair=leaks "$1" > final.out 2>&1 &&
        qedctl check "$1" > final.out 2>&1 || { cat final.out; fail "$1"; }
    qemu-img check -f qed "$1" > final.out || { cat final.out; fail "$1"; }
}

# ---- Other servers --------------------------------------------------------

# No holes, no zeroes, blocks of 4096 bytes: gaps are filled, the tail stays.
leaky ()
{
    "$PYTHON" "$srcdir/leaky-image.py" leaky.qed
    truncate -s %64K leaky.qed  # no part of a block at its end
}
leaky
start_backing nbdkit -f -U "$backing_sock" --filter=noextents --filter=nozero \
              --filter=blocksize-policy file leaky.qed \
              blocksize-minimum=4096 blocksize-preferred=4096 \
              blocksize-error-policy=error
repair 3
grep -q "counts as leaked until the file is cut" err || { cat err; fail "no hint"; }
stop_backing TERM
[ "$(jq '.["image-end-offset"]' out)" -lt $(stat -c %s leaky.qed) ] ||
    fail "no gap was closed"
sound leaky.qed

# What was leaked is a hole in the end, and counts as free.
leaky
start nbdkit leaky.qed
repair 0
[ "$(jq '.["leaks-fixed"] > 0 and .free == .["leaks-fixed"]' out)" = true ] ||
    { cat out; fail "the leaks are not free"; }
timeout 60 qedctl check "$backing_uri" > out || { cat out; fail "again"; }
stop_backing TERM
sound leaky.qed

# ---- Servers that die -----------------------------------------------------

# Each time at another moment; what is written is lost with them unless it was
# flushed.  The second one finds what the first has left.
recipe everything
truncate -s +1M disk.qed
cp --sparse=always disk.qed one.qed
start nbdkit one.qed
repair mended
stop_backing TERM
qemu-img convert -f qed -O raw one.qed one.raw

# QEMU's server.
cp --sparse=always disk.qed other.qed
start qemu other.qed
repair mended
stop_backing TERM
sound other.qed
qemu-img compare -f qed -F raw other.qed one.raw > out ||
    { cat out; fail "at qemu-nbd: another disk"; }

for delay in 0.1 0.3 0.6 0.9 1.2; do
    cp --sparse=always disk.qed lost.qed
    begin lost.qed
    sleep $delay
    stop_backing KILL
    start volatile lost.qed
    r=0
    wait $checker || r=$?
    stop_backing TERM
    [ $r -eq 3 ] || { cat out err; fail "after the loss: exit $r"; }
    if [ $delay = 0.3 ]; then
        grep -q "is back after" err || { cat err; fail "nothing was lost"; }
    fi
    sound lost.qed
    qemu-img compare -f qed -F raw lost.qed one.raw > out ||
        { cat out; fail "after the loss: another disk"; }
done

# Ours dies, or is stopped: another run finishes.
for signal in INT KILL; do
    for delay in 0.1 0.4 0.8; do
        cp --sparse=always disk.qed lost.qed
        begin lost.qed
        sleep $delay
        kill -$signal $(pgrep -P $checker) || :
        wait $checker || :
        # The server dies too.
        [ $signal = INT ] || { stop_backing KILL; start nbdkit lost.qed; }
        repair mended
        stop_backing TERM
        sound lost.qed
        qemu-img compare -f qed -F raw lost.qed one.raw > out ||
            { cat out; fail "after $signal: another disk"; }
    done
done

# It comes back for reading alone.
cp --sparse=always disk.qed lost.qed
begin lost.qed
sleep 0.3
stop_backing KILL
start_nbdkit_backing file lost.qed
r=0
wait $checker || r=$?
[ $r -eq 1 ] && grep -q "can't be written to as before; start again" err ||
    { cat out err; fail "back read-only: exit $r"; }
stop_backing TERM
start nbdkit lost.qed
repair mended
stop_backing TERM
sound lost.qed

# ---- What cannot be -------------------------------------------------------

leaky
cp leaky.qed same.qed
start nbdkit leaky.qed
for options in --repair --repair=leaks "--repair --undo save"; do
    wrong "without --raw-image: give it if the export is a QED file" \
          qedctl check $options "$backing_uri"
done
[ ! -e save ] || fail "an undo file was made"
stop_backing TERM
start_nbdkit_backing file leaky.qed
wrong "exported read-only: let its server allow writing" \
      qedctl check --repair --raw-image "$backing_uri"
stop_backing TERM

start_backing nbdkit -f -U "$backing_sock" eval \
    get_size='stat -c %s '"$tmpdir/leaky.qed" pread='
    dd if='"$tmpdir/leaky.qed"' bs=$3 count=1 skip=$4 \
       iflag=skip_bytes,fullblock status=none' pwrite='exit 1'
wrong "offers no flush" qedctl check --repair --raw-image "$backing_uri"
stop_backing TERM

# A guest's disk isn't touched unless it is said that it holds a QED file.
qedctl create disk.qed --force 64M > /dev/null
serve disk.qed
qemu-img convert -n -f raw -O raw leaky.qed "$uri"
wrong "the server has no control export" \
      qedctl check --repair "$uri"
[ $(nbdinfo --size "$uri") -eq $((64 << 20)) ]
qemu-img compare -f raw -F raw leaky.qed "$uri" > out ||
    { cat out; fail "a guest's disk was changed"; }
serve_stop

if nbdkit --dump-config | grep -q '^tls=yes'; then
    printf 'user:%064d\n' 1 > keys
    printf 'user:%064d\n' 2 > wrong-keys
    chmod 600 keys wrong-keys
    tls="nbds+unix://user@/?socket=$backing_sock&tls-psk-file=$tmpdir"
    start_backing nbdkit -f -U "$backing_sock" --tls=require --tls-psk=keys \
                  file leaky.qed
    wrong "requires TLS.*: use nbds:// and a key" \
          qedctl check --repair --raw-image "$backing_uri"
    wrong "see that the server knows the key" \
          qedctl check --repair --raw-image "$tls/wrong-keys"
    cmp leaky.qed same.qed || fail "a repair that was refused has written"
    timeout 60 qedctl check --repair --raw-image "$tls/keys" > out 2> err ||
        { cat out err; fail "over TLS"; }
    stop_backing TERM
    sound leaky.qed
fi
wrong "Connection refused: see that the server runs" \
      qedctl check --repair --raw-image "nbd://localhost:1/"

# A disk is not a QED file.
truncate -s 1M raw.img
start nbdkit raw.img
r=0
timeout 60 qedctl check --repair --raw-image "$backing_uri" > out 2> err ||
    r=$?
[ $r -eq 1 ] && grep -q "not a QED" err || { cat err; fail "raw: exit $r"; }
stop_backing TERM
