#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The engine on a simulated storage, where power fails at any moment: each
# state that is left keeps what was promised; and a broken ordering rule is
# noticed.  'make check-crash' looks at many more states.

. ./functions.sh
set -e

crash_test=$abs_top_builddir/tests/crash/crash-test

"$crash_test" --states ${CRASH_STATES:-4000} --steps > "$tmpdir/states" ||
    { cat "$tmpdir/states"; fail "a promise was broken"; }
tail -n 1 "$tmpdir/states"

# Power failed before each step of each table there is: NAME_steps[] is of the
# job NAME, and steps[] in NAME.c too.
awk '/_step [a-z_]*steps\[\] = \{|^\} steps\[\] = \{/ {
         job = FILENAME
         gsub (/.*\/|\.c$/, "", job)
         if (match ($0, /[a-z_]+_steps\[/))
             job = substr ($0, RSTART, RLENGTH - 7)
         gsub ("_", "-", job)
     }
     job != "" && match ($0, /^  \{ "[^"]+"/) {
         print job ":" substr ($0, 6, RLENGTH - 6)
     }
     /^\};/ { job = "" }' "$abs_top_srcdir"/qed/*.c | sort > "$tmpdir/tables"
[ "$(grep -c . "$tmpdir/tables")" -gt 60 ] ||
    fail "the step tables were not found in the sources"
sed -n 's/ [1-9][0-9]*$//p' "$tmpdir/states" | sort > "$tmpdir/met"
comm -23 "$tmpdir/tables" "$tmpdir/met" > "$tmpdir/missed"
[ ! -s "$tmpdir/missed" ] ||
    fail "power never failed before:" $(cat "$tmpdir/missed")
echo "power failed before each of $(wc -l < "$tmpdir/tables") steps"

"$crash_test" --self-test

# What a failing seed prints is one command that fails as well, of a few
# requests, without what isn't needed.
if "$crash_test" --leave-out flush:sync --states 500 2> "$tmpdir/failed"; then
    fail "a missing sync was not noticed"
fi
command=$(sed -n 's/.*to reproduce: crash-test //p' "$tmpdir/failed" | tail -n 1)
grep -q -e "--only r[1-9][^ ]*" <<< "$command" ||
    { cat "$tmpdir/failed"; fail "the failing life was not made small"; }
if "$crash_test" $command > "$tmpdir/small" 2>&1; then
    fail "this does not fail: crash-test $command"
fi
grep -q VIOLATION "$tmpdir/small" || fail "no violation: crash-test $command"
[ "$(grep -c ' caller[0-9] .*: done$' "$tmpdir/small")" -le 3 ] ||
    fail "too many requests are left: crash-test $command"
