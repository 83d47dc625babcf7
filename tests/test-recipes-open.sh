#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# A server opens the damaged images of recipes/: what is certain is repaired if
# NEED_CHECK is set, and can be undone; all else is served without being
# touched, to be read, and the server says why.
#
# RECIPES='leak-*' bash test-recipes-open.sh tries the leaks only.

. ./functions.sh
set -e
export abs_top_builddir

requires qemu-img --version
requires "$PYTHON" -c 'import nbd'

mkdir "$tmpdir/work"
"$PYTHON" "$srcdir/recipe-open.py" "$tmpdir/work" \
          "$srcdir"/recipes/${RECIPES:-*}
