#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Each planted corruption of recipes/ is found, named as it should be, and
# repaired without losing what could be kept; a check and a dry run write
# nothing; --repair=leaks leaves damage alone; undo puts every byte back; and
# when all is done, neither we nor qemu-img find anything.
#
# RECIPES='leak-*' bash test-recipes.sh tries the leaks only.

. ./functions.sh
set -e

requires qemu-img --version
requires "$PYTHON" --version

# There is a recipe for each code.
for code in $(qedctl explain | grep '^[a-z]'); do
  grep -Eqr "^(found|data|online|  ).*\<$code [0-9]" "$srcdir/recipes" ||
    fail "no recipe has $code"
done

mkdir "$tmpdir/work"
"$PYTHON" "$srcdir/recipe-offline.py" "$tmpdir/work" \
          "$srcdir"/recipes/${RECIPES:-*}
