#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Power cuts of many images: 'make check-power STATES=N SEED=N'.  Run in the
# build tree's tests/ directory.  N states in all, spread over the sessions of
# the images below.  A failing session is kept in tests/power-failed/, or
# $POWER_KEEP.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/power/power.sh"

seed=${SEED:-1} real=${REAL:-50}
power_requires

# Images with: the cluster size, the table size, what backs them.
images="65536,4,none 4096,2,none 1048576,2,none
        65536,4,raw 4096,2,raw 1048576,2,raw
        65536,4,qed 4096,2,qed"

sessions=$(($(wc -w <<<"$images") * 4))
states=$(((${STATES:-20000} + sessions - 1) / sessions))

for power_case in $images; do
    power_image "${power_case//,/-}" ${power_case//,/ }
    power_life 1000
    for each in 1 2; do
        prove 5000 $each
    done
done
echo "$((sessions * states)) states of $sessions sessions judged"
