#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Hostile images, pending logs, names and clients: the inputs of tests/fuzz/corpus, and some
# thousand that are made of them, do no harm.  'make fuzz' tries many more.

. ./functions.sh
set -e

requires "$PYTHON" --version

# What is distributed is what the script makes, and what was found.
"$PYTHON" "$srcdir/fuzz/corpus.py" "$tmpdir/corpus"
(cd "$tmpdir/corpus" && find . -type f) | while read -r f; do
  cmp "$tmpdir/corpus/$f" "$srcdir/fuzz/corpus/$f" ||
    fail "tests/fuzz/corpus is not what corpus.py makes: run it again"
done

[ -n "$TMPDIR" ] || [ ! -w /dev/shm ] || export TMPDIR=/dev/shm
cd "$tmpdir"

# run NAME RUNS
run ()
{
  "$abs_top_builddir/tests/fuzz/fuzz-$1" -runs="$2" -seed="${FUZZ_SEED:-1}" \
      "$srcdir/fuzz/corpus/$1"
}

# Of those with a sanitizer one takes many times as long.
n=1
[ -z "$SANITIZER" ] || n=8
run image $((400 / n))
run pending $((400 / n))
run raw $((1000 / n))
run names $((3000 / n))
run control $((1000 / n))
