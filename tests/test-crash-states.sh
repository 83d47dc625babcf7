#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The engine on a simulated storage, where power fails at any moment: each
# state that is left keeps what was promised; and a broken ordering rule is
# noticed.  'make check-crash' looks at many more states.

. ./functions.sh
set -e

crash_test=$abs_top_builddir/tests/crash/crash-test

"$crash_test" --states ${CRASH_STATES:-4000}
"$crash_test" --self-test
