#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Two servers of one image: the standby leaves it alone, takes over when the
# other releases it or is killed, and repairs it first; of two standbys one
# wins; what was released can be taken back; QEMU takes part.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/handover.sh"

requires jq --version
requires qemu-io --version
requires qemu-nbd --version

# ---- A standby keeps its hands off ----

make_image "$image" 65536 4 100M
start a clean-after=0           # what it writes it writes when told
nbd_io a "write -P 1 0 1M" flush
start b standby=on standby-timeout=1
expect_state a open
expect_state b standby
nbd_io a "write -P 2 1M 1M" flush
cp "$image" "$tmpdir/before.qed"
# The client waits for a second, then is told.
SECONDS=0
! timeout 20 qemu-io -r -f raw -c "read 0 1M" "$(uri_of b)" \
    > "$tmpdir/out" 2>&1 || fail "a standby serves"
[ $SECONDS -lt 10 ] || fail "a client waited for $SECONDS s"
ctl b flush | grep -q "not open" || fail "a standby flushes"
! ctl b check 2> "$tmpdir/out" || fail "a standby checks"
grep -q "does not have the image" "$tmpdir/out" || fail "no reason is given"
# check NAME finds who has it, though both are there.
qedctl check "$image" > "$tmpdir/out" || fail "the server doesn't check"
! ctl b activate 2> "$tmpdir/out" || fail "two servers are active"
grep -q "in use by nbdkit" "$tmpdir/out" || fail "the holder is not named"
expect_state b standby
stop b
expect_untouched
start b standby=on

# ---- Released, taken, given back ----

qedctl release "$image" > "$tmpdir/out"
grep -q "is released" "$tmpdir/out" || fail "no word of the release"
need_check "$image" && fail "NEED_CHECK is set after a release"
within 5 open a b
[ "$who" = b ] || fail "who has released it takes it"
expect_state a released
ctl a status | grep -q "released: another server" || fail "status says nothing"
nbd_io b "read -P 1 0 1M" "read -P 2 1M 1M" "write -P 3 2M 1M"
! ctl a activate 2>/dev/null || fail "two servers are active"
ctl a release | grep -q "released before" || fail "a second release"
ctl b release --json | jq -e '.released' >/dev/null
sleep 0.5
expect_state a released         # it does nothing by itself
expect_state b released
qemu_check "$image"
qedctl check "$image" > "$tmpdir/out" || fail "a released image isn't checked"
grep -q "^Checking .*read-only" "$tmpdir/out" ||
    fail "a server checks what it has released"
qedctl activate "$image" > "$tmpdir/out" # the last one that had it
expect_state b open
ctl b release >/dev/null
ctl a activate --json | jq -e '.activated' >/dev/null
ctl a activate | grep -q "active before" || fail "a second activation"
nbd_io a "read -P 3 2M 1M" "write -P 4 3M 1M"
stop a
sleep 0.5
expect_state b released         # nor does it when the other ends
ctl b activate >/dev/null
nbd_io b "read -P 4 3M 1M"
stop b
qemu_check "$image"

# ---- Killed: the standby repairs, then serves ----

for round in 1 2; do
    start a clean-after=0
    start b standby=on
    nbd_io a "write -P 1$round ${round}0M 300k" flush "write -P 99 6${round}M 1M"
    need_check "$image" || fail "NEED_CHECK is not set"
    kill9 a
    nbd_io b "read -P 1$round ${round}0M 300k" "write -P 5 30M 64k"
    expect_state b open
    stop b
    expect_no_corruption
done

# ---- Two standbys: one wins ----

start a
start b standby=on
start c standby=on
start d standby=on
for round in 1 2 3; do
    case $round in
        1) kill9 a; others="b c d" ;;
        *) pids=                # they find it free at the same moment
           others=${others/$who/}
           for name in $others; do pids+=" $(cat "$tmpdir/$name.pid")"; done
           kill -STOP $pids
           ctl "$who" release > "$tmpdir/out"
           kill -CONT $pids ;;
    esac
    within 5 open $others
    nbd_io "$who" "read -P 12 20M 300k" "write -P $round 40M 1M"
done
for name in b c d; do stop $name; done
expect_no_corruption

# ---- QEMU takes part ----

timeout 60 qemu-nbd -f qed -k "$tmpdir/qemu.sock" --pid-file "$tmpdir/qemu.pid" \
    -t "$image" &
qemu=$!
for i in {1..100}; do [ -s "$tmpdir/qemu.pid" ] && break; sleep 0.1; done
start a standby=on
sleep 0.5
expect_state a standby
qedctl status "$image" | grep -q "standby: waits" ||
    fail "the standby is not found by its file"
io raw "nbd+unix:///?socket=$tmpdir/qemu.sock" "write -P 77 50M 1M" flush
kill $(cat "$tmpdir/qemu.pid")
wait $qemu || fail "qemu-nbd failed"
within 5 open a
nbd_io a "read -P 77 50M 1M" "read -P 3 40M 1M"
! qemu-nbd -f qed -k "$tmpdir/qemu.sock" "$image" 2>/dev/null ||
    fail "QEMU opens what we have"
ctl a release >/dev/null
io qed "$image" "read -P 77 50M 1M" "write -P 78 50M 1M"
ctl a activate >/dev/null
nbd_io a "read -P 78 50M 1M"
stop a
qemu_check "$image"

# ---- What the path leads to when the lock is had ----

# Who has the lock puts another file there, while a server retries.
make_image "$tmpdir/other.qed" 65536 4 50M
mkfifo "$tmpdir/hold"
"$abs_top_builddir/tests/lock-holder" "$image" writer < "$tmpdir/hold" \
    > "$tmpdir/held" &
exec 9> "$tmpdir/hold"
for i in {1..50}; do grep -q held "$tmpdir/held" && break; sleep 0.1; done
cp "$image" "$tmpdir/kept.qed"
{ sleep 0.4; mv "$tmpdir/other.qed" "$image"; } &
exec 9>&-                       # the last one who has it open was that
start a
[ "$(nbdinfo --size "$(uri_of a)")" = $((50 << 20)) ] ||
    fail "a file is served to which the path does not lead any more"
stop a
mv "$tmpdir/kept.qed" "$image"

# ---- What isn't there, and what is no image ----

start a
start b standby=on
ctl a release >/dev/null
within 5 open b
ctl b release >/dev/null
mv "$image" "$image.away"
! ctl a activate 2> "$tmpdir/out" || fail "what isn't there was activated"
grep -q "No such file" "$tmpdir/out" || fail "the reason is not told"
expect_state a released
mv "$image.away" "$image"
ctl a activate >/dev/null
stop a
stop b
start a standby=on              # finds a free lock
within 5 open a
stop a

printf 'no image, but something else of this length' > "$tmpdir/bad.qed"
truncate -s 1M "$tmpdir/bad.qed"
image=$tmpdir/bad.qed
start a standby=on
within 5 failed a
! timeout 20 qemu-io -r -f raw -c "read 0 512" "$(uri_of a)" 2>/dev/null ||
    fail "a failed standby serves"
cp "$tmpdir/disk.qed" "$image"
ctl a activate >/dev/null || fail "what was mended can't be activated"
nbd_io a "read -P 78 50M 1M"
stop a
image=$tmpdir/disk.qed

# ---- What a standby refuses ----

refuses ()
{
    timeout 20 "$abs_top_builddir/nbdkit" -f -U "$tmpdir/x.sock" "${@:2}" \
        2> "$tmpdir/out" && fail "this should be refused: ${*:2}"
    grep -q "$1" "$tmpdir/out" || { cat "$tmpdir/out" >&2; fail "not: $1"; }
}
refuses "lock=off" qed "$image" standby=on lock=off
refuses "NBD has no locks" qed nbd://localhost:1/ standby=on
refuses "option -r" -r qed "$image" standby=on
refuses "file= only" qed dir="$tmpdir" standby=on
refuses "No such file" qed "$tmpdir/none.qed" standby=on
refuses "must be on or off" qed "$image" standby=yes
refuses "must be wait or fail" qed "$image" on-release=no
refuses "number of seconds" qed "$image" standby-timeout=x

# Images of a directory are not handed over.
mkdir "$tmpdir/images"
make_image "$tmpdir/images/x.qed" 65536 4 10M
start_nbdkit -P "$tmpdir/dir.pid" -U "$tmpdir/dir.sock" qed \
    dir="$tmpdir/images" control="$tmpdir/dir.control"
! ctl dir release x.qed 2> "$tmpdir/out" || fail "an image of dir= is released"
grep -q "not handed over" "$tmpdir/out" || fail "the reason is not told"
