#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Every test is in a list of tests/Makefile.am, and every source file is in
# the distribution.

. ./functions.sh
set -e
set -o pipefail

requires make --version

unset MAKEFLAGS MAKELEVEL MFLAGS
{
  make -s -C "$abs_top_builddir" print-dist
  make -s -C "$abs_top_builddir/docs" print-dist
  make -s -C "$abs_top_builddir/tests" print-dist
} | sed -e 's,^\./,,' -e 's,/\./,/,g' | sort -u >"$tmpdir/dist"
make -s -C "$abs_top_builddir/tests" print-tests | sort >"$tmpdir/tests"

cd "$abs_top_srcdir"
status=0

# complain REASON: about each file named on standard input.
complain ()
{
  local file

  while read -r file; do
    echo "$file $1" >&2
    status=1
  done
}

(cd tests && ls test-*.sh unit/test-*.c) | sed 's/\.c$//' | sort \
    >"$tmpdir/there"
complain "is in no list of tests/Makefile.am" \
         < <(comm -23 "$tmpdir/there" "$tmpdir/tests")
complain "is listed in tests/Makefile.am but isn't there" \
         < <(comm -13 "$tmpdir/there" "$tmpdir/tests")

# What is source is told by git; a distribution holds nothing else.
if git ls-files --error-unmatch configure.ac >/dev/null 2>&1; then
  git ls-files | while read -r f; do [ ! -e "$f" ] || echo "$f"; done
else
  find . -type f \( -name '*.[ch]' -o -name '*.sh' -o -name '*.py' \) |
    sed -e 's,^\./,,' -e '/^_*build/d' -e '/^config\.h$/d' \
        -e '/^tests\/functions\.sh$/d'
fi | sort >"$tmpdir/sources"
[ -s "$tmpdir/sources" ] || fail "no sources were found"
complain "is not in the distribution" \
         < <(grep -v '\(^\|/\)\.gitignore$' "$tmpdir/sources" |
               comm -23 - "$tmpdir/dist")

exit $status
