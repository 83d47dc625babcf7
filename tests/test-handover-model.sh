#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The model of the hand-over (model/handover.pml): spin tries every order in
# which servers, clients, QEMU, kill -9 and an administrator can act, and finds
# nothing wrong; and it finds each mistake that is made on purpose.

set -e
. ./functions.sh

requires spin -V
requires gcc --version
# It watches gcc and spin's program to no use.
[ -z "$SANITIZER" ] || skip "nothing of the project is run here"

cd "$tmpdir"
cp "$srcdir/model/handover.pml" .

# explore [-DNAME[=VALUE]...]: try all that the model can do; what spin says is
# in the file out.
explore ()
{
    rm -f pan* ./*.trail
    spin -a "$@" handover.pml > spin.out 2>&1 ||
        { cat spin.out >&2; fail "spin refuses the model"; }
    gcc -O1 -w -DSAFETY -DCOLLAPSE -DMEMLIM=1024 -o pan pan.c
    timeout 300 ./pan -m100000 > out || fail "spin's program failed"
}

# All of it, and nothing is wrong.
expect_right ()
{
    explore "$@"
    grep -q "errors: 0" out && ! grep -q "not completed\|too small" out || {
        cat out >&2
        [ ! -e handover.pml.trail ] || spin -t -p "$@" handover.pml | tail -60
        fail "spin found a mistake, or gave up: $*"
    }
    grep "states, stored" out
}

# expect_wrong MISTAKE CLAIM: it is found, as a violation of this claim.
expect_wrong ()
{
    explore -DBREAK_$1
    grep -q "assertion violated.*$2" out ||
        { cat out >&2; fail "spin does not find the mistake $1"; }
    echo "$1 is found"
}

expect_right
expect_right -DREQUESTS=1 -DCOMMANDS=1 -DWITH_QEMU
expect_right -DSERVERS=3 -DREQUESTS=1 -DKILLS=0 -DCOMMANDS=1

expect_wrong NO_SECOND_TEST "writes\["
expect_wrong NO_DRAIN "writes\["
expect_wrong EARLY_UNLOCK "writes\["
expect_wrong ENTER "writes\["
expect_wrong TRUST "disk=="
expect_wrong NO_REPAIR "marked=="
