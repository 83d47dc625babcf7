#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# A call of the engine fails, in the midst of everything that can be done with
# an image: who is told, what is left, and whether it works again afterwards;
# and the table of steps is complete.  'make check-faults' tries every call;
# here it is a few of them.

. ./functions.sh
set -e

fault_test=$abs_top_builddir/tests/faults/fault-test

sed -n '/^static const struct [a-z]*_step /,/^};/p' "$abs_top_srcdir"/qed/*.c |
    sed -n 's/^  { "\([a-z0-9-]*\)",.*/\1/p' | sort > "$tmpdir/steps"
[ -s "$tmpdir/steps" ] || fail "no tables of steps were found"
"$fault_test" --steps | cut -d' ' -f2 | sort |
    diff "$tmpdir/steps" - || fail "fault-test knows other steps"

"$fault_test" --share 7 --stride 12
