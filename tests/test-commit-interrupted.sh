#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl commit that ends early: a full disk, errors, kill -9 and signals at
# given system calls.  What is read through the overlay is always the same,
# the overlay holds everything until the backing file is durable, and a second
# run finishes.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires qemu-io --version
requires jq --version
requires nbdcopy --version
requires strace -o /dev/null -P /dev/null true

cd "$tmpdir"
# The search for leaks does not work under strace.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0
mkdir d

# content FILE: what a guest reads
content ()
{
    rm -f "$1"
    timeout 60 "$abs_top_builddir/nbdkit" -r -U - qed d/top.qed \
        --run "nbdcopy \"\$uri\" '$1'" 2> log ||
        { cat log; fail "the overlay can't be read"; }
}

# Data, zeros, and holes through which the backing file shows.
make_chain ()
{
    format=$1
    rm -rf d/*
    if [ $format = raw ]; then
        truncate -s 40M d/base
    else
        qedctl create d/base 40M
    fi
    qemu-io -f $format -c "write -P 1 0 20M" -c "write -P 2 25M 1M" \
        d/base > /dev/null
    qedctl create d/top.qed 40M --backing base --backing-format $format
    qemu-io -f qed -c "write -P 3 1M 9M" -c "write -z 15M 1M" \
        -c "write -P 4 22M 3M" -c "write -P 5 30M 1M" \
        -c "write -P 6 39M 1M" d/top.qed > /dev/null
    cp d/top.qed top.was
    content want
}

# inject FILE CALL WHAT: qedctl commit, whose calls on a file fail, or bring a
# signal; its exit status is in $status
inject ()
{
    echo "$format: $2 of $1: $3"
    status=0
    timeout 60 strace -f -o trace -P "$PWD/$1" -e trace=$2 \
        -e inject=$2:$3 "$abs_top_builddir/server/qedctl" commit d/top.qed \
        2> err || status=$?
    grep -q "INJECTED\|SIG[IKT]" trace || fail "nothing was injected"
}

# signal_at FILE CALL: that call, made by another thread than the one that
# commits, takes two seconds; meanwhile SIGINT comes
signal_at ()
{
    local i job

    echo "$format: SIGINT at $2 of $1"
    rm -f trace pid
    timeout 60 strace -f -o trace -P "$PWD/$1" -e trace=$2 \
        -e inject=$2:delay_enter=2000000:when=1 \
        bash -c 'echo $$ > pid; exec "$@"' - \
        "$abs_top_builddir/server/qedctl" commit d/top.qed 2> err &
    job=$!
    for i in {1..300}; do
        if grep -q "$2(" trace 2>/dev/null; then break; fi
        sleep .1
    done
    kill -INT $(cat pid)
    status=0
    wait $job || status=$?
    grep -q DELAYED trace || fail "it was not stopped"
}

# stopped PATTERN: it failed, and says why in one line
stopped ()
{
    [ $status -eq 1 ] || { cat err; fail "exit status $status"; }
    grep -q -e "$1" err || { cat err; fail "the message lacks \"$1\""; }
}

# The overlay is as it was, to the byte, and shows the same.
untouched ()
{
    cmp d/top.qed top.was || fail "the overlay was changed"
    content now
    cmp now want || fail "the content has changed"
}

# repair FILE: what a crash of the process leaves
repair ()
{
    local r=0

    qedctl check --repair $1 > log || r=$?
    # What leaks is left to who writes next.
    [ $r -eq 0 ] || [ $r -eq 3 ] || fail "$1 can't be repaired: $r"
}

# The second run.
finish ()
{
    [ $format = raw ] || ! need_check d/base || repair d/base
    qedctl commit d/top.qed || fail "the second run failed"
    qemu_check d/top.qed
    [ $(disk_usage d/top.qed) -le 65536 ] || fail "the overlay is not empty"
    qemu-img compare -q -f qed -F $format d/top.qed d/base ||
        fail "the backing file is not what the overlay shows"
    content now
    cmp now want || fail "the content has changed"
    [ $format = raw ] || qemu_check d/base
}

# ---- Into the backing file ------------------------------------------------

for format in raw qed; do
    for error in EIO ENOSPC; do
        make_chain $format
        inject d/base pwrite64 error=$error:when=4
        case $error in
            EIO) stopped "Input/output error" ;;
            *) stopped "No space left" ;;
        esac
        untouched
        finish
    done

    make_chain $format
    inject d/base fdatasync error=EIO:when=1+
    stopped "Input/output error"
    untouched
    finish

    for signal in INT TERM; do
        make_chain $format
        inject d/base pwrite64 signal=$signal:when=4
        stopped "stopped by a signal"
        stopped "content is as it was: run the command again"
        untouched
        ! [ $format = qed ] || ! need_check d/base ||
            fail "the backing file was not closed"
        finish
    done

    for when in 1 3 6; do
        make_chain $format
        inject d/base pwrite64 signal=KILL:when=$when
        [ $status -eq 137 ] || fail "it was not killed: $status"
        untouched
        finish
    done
done

# ---- Out of the overlay ---------------------------------------------------

# The header says by then that it needs a check.
for call in fdatasync fallocate ftruncate; do
    make_chain raw
    inject d/top.qed $call signal=KILL:when=1
    [ $status -eq 137 ] || fail "it was not killed: $status"
    need_check d/top.qed || fail "NEED_CHECK is not set"
    content now
    cmp now want || fail "the content has changed"
    cmp -n $(stat -c %s d/base) d/base want || fail "it went too early"
    if qedctl commit d/top.qed 2> err; then fail "it was not refused"; fi
    grep -q "top.qed: NEED_CHECK" err || { cat err; fail "why was it?"; }
    repair d/top.qed
    finish
done

# After the first step.
make_chain raw
signal_at d/top.qed fdatasync
stopped "content is as it was: run the command again"
cmp d/base want || fail "it went too early"
content now
cmp now want || fail "the content has changed"
walk_free_image d/top.qed
qemu-img map -f qed --output=json d/top.qed |
    jq -e 'any(.depth == 0 and .start > 30000000)' > /dev/null ||
    fail "it was not stopped"
! qemu-img map -f qed --output=json d/top.qed |
    jq -e 'any(.depth == 0 and .start < 10000000)' > /dev/null ||
    fail "the first step was not done"
finish

# Too late to be stopped.
make_chain raw
signal_at d/top.qed ftruncate
[ $status -eq 0 ] || { cat err; fail "exit status $status"; }
grep -q "was complete" err || { cat err; fail "it doesn't say so"; }
finish

# It can't be made durable.
make_chain raw
inject d/top.qed fdatasync error=EIO:when=1+
stopped "everything is committed, but it cannot be emptied"
content now
cmp now want || fail "the content has changed"
repair d/top.qed
finish

# ---- A full disk ----------------------------------------------------------

if [ $(id -u) = 0 ] && mount -t tmpfs -o size=8M none d 2>/dev/null; then
    cleanup_fn umount d
    for format in raw qed; do
        mount -o remount,size=64M d
        make_chain $format
        # Two more MiB.
        used=$(df --output=used d | tail -n 1)
        mount -o remount,size=$((used + 2048))K d
        if qedctl commit d/top.qed 2> err; then fail "it found room"; fi
        grep -q "No space left on device.*still holds everything" err ||
            { cat err; fail "the message says nothing of it"; }
        untouched
        mount -o remount,size=64M d
        finish
    done
else
    echo "not checked: a tmpfs can't be mounted"
fi
