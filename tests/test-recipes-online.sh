#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The damaged images of recipes/ are checked while they are served, with the
# report of any check; and repaired, as far as that can be done while a guest
# uses them; the rest is left to the closed image.
#
# RECIPES='leak-*' bash test-recipes-online.sh tries the leaks only.

. ./functions.sh
set -e
export abs_top_builddir

requires qemu-img --version
requires "$PYTHON" -c 'import nbd'

mkdir "$tmpdir/work"
"$PYTHON" "$srcdir/recipe-online.py" "$tmpdir/work" \
          "$srcdir"/recipes/${RECIPES:-*}
