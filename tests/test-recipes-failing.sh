#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The images of recipes/ whose storage fails in places: what can't be read is
# told, with its place; nothing is repaired where a table can't be read; what
# can be read is served.
#
# RECIPES=unreadable-l1 bash test-recipes-failing.sh tries that one.

. ./functions.sh
set -e
export abs_top_builddir

requires qemu-img --version
requires nbdkit eval --version
requires "$PYTHON" -c 'import nbd'

mkdir "$tmpdir/work"
"$PYTHON" "$srcdir/recipe-failing.py" "$tmpdir/work" \
          "$srcdir"/recipes/${RECIPES:-unreadable-*}
