#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The damaged images of recipes/ are checked over the network, with the report
# of any check: by the server of the disk, through its control export, and
# through servers that export the file; those repair it, too.
#
# RECIPES='leak-*' bash test-recipes-remote.sh tries the leaks only.

. ./functions.sh
set -e
export abs_top_builddir

requires qemu-nbd --version
requires nbdkit file --version
requires "$PYTHON" -c 'import nbd'

mkdir "$tmpdir/work"
"$PYTHON" "$srcdir/recipe-remote.py" "$tmpdir/work" \
          "$srcdir"/recipes/${RECIPES:-*}
