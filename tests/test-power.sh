#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Power cuts of the real server on a real file: what it does is recorded, cut
# at random, and judged; the programs repair what is left.  A recorded sync
# that counts as none must be noticed.  'make check-power' looks at more
# images and many more states.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/power/power.sh"

states=${STATES:-60} seed=${SEED:-1} real=${REAL:-20}
power_requires

power_image fresh 65536 4 none
power_life 400

power_image over-raw 4096 2 raw
power_life 400
for each in 1 2; do
    prove 2000 $each
done
