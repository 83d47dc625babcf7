#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Each planted corruption of recipes/ is found, named as it should be, and
# repaired without losing what could be kept; a check and a dry run write
# nothing; --repair=leaks leaves damage alone; undo puts every byte back; and
# when all is done, neither we nor qemu-img find anything.
#
# MODES=... and RECIPES=... choose a part: bash test-recipes.sh is run with
# RECIPES='leak-*' to try the leaks only.

. ./functions.sh
set -e

requires qemu-img --version
requires "$PYTHON" --version

MODES=${MODES:-offline}
RECIPES=${RECIPES:-*}

# step NAME COMMAND...: keep what it says and how it ends.  A status of 4 and
# more is a crash, or too long a time.
step ()
{
  local name=$1 status=0

  shift
  timeout -k 5 120 "$@" >"$name.out" 2>"$name.err" </dev/null || status=$?
  echo $status >"$name.status"
  if [ $status -gt 3 ]; then
    echo "$*: status $status" >&2
    cat "$name.err" >&2
    return 1
  fi
}

copy ()
{
  cp --sparse=always "$1" "$2"
}

# Undo what was written down while $1.qed came to be.
try_undo ()
{
  copy "$1.qed" "$1-undone.qed"
  step "$1-undone" qedctl undo "$1.undo" "$1-undone.qed"
}

# ---- The modes ----

# Each of them is run in a directory with the damaged disk.qed, and leaves
# behind what recipe-judge.py wants to see.

# A closed image.
offline ()
{
  copy disk.qed checked.qed &&
  step first qedctl check --json checked.qed &&
  step text qedctl check --verbose checked.qed &&
  step dry qedctl check --repair --dry-run --json checked.qed &&
  step qemu qemu-img check -f qed --output=json disk.qed &&

  copy disk.qed leaks.qed &&
  step leaks qedctl check --repair=leaks --undo leaks.undo --json leaks.qed &&
  try_undo leaks &&

  copy disk.qed all.qed &&
  step all qedctl check --repair=all --undo all.undo --json all.qed &&
  step again qedctl check --json all.qed &&
  try_undo all &&

  copy all.qed final.qed &&
  step final qedctl check --repair=leaks --json final.qed &&
  step last qedctl check --json final.qed &&
  step qemu-last qemu-img check -f qed --output=json final.qed
}

# ---- All recipes ----

tried=0
failed=
for mode in $MODES; do
  for recipe in "$srcdir"/recipes/$RECIPES; do
    name=$(basename "$recipe")
    mkdir "$tmpdir/try"
    "$PYTHON" "$srcdir/recipe.py" "$recipe" "$tmpdir/try"
    if ! (cd "$tmpdir/try" && $mode) ||
         ! "$PYTHON" "$srcdir/recipe-judge.py" $mode "$recipe" "$tmpdir/try"
    then
      failed="$failed $mode/$name"
      cat "$tmpdir"/try/*.err >&2
    fi
    rm -rf "$tmpdir/try"
    tried=$((tried + 1))
  done
done

echo "$tried recipes were tried"
[ -z "$failed" ] || fail "it is not as it should be:$failed"
[ "$RECIPES" != '*' ] || [ $tried -ge 100 ] || fail "there are too few recipes"
