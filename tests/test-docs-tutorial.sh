#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The tutorial can be typed as it stands, from the first image to the last
# repair: over TCP, with TLS, and through nbdfuse.

. ./functions.sh
set -e

requires "$PYTHON" --version
requires certtool --version
requires psktool --version
requires fusermount3 --version
requires test -w /dev/fuse
requires jq --version
requires nbdcopy --version
requires nbdinfo --version
requires nbdfuse --version
requires qemu-io --version
nbdkit --dump-config | grep -q '^tls=yes' || skip "nbdkit has no TLS"

cd "$tmpdir"
. "$srcdir/docs-examples.sh"

unmount ()
{
  fusermount3 -u "$tmpdir/nbdkit-qed-tutorial/home/mnt" 2>/dev/null
}
cleanup_fn unmount

run_examples nbdkit-qed-tutorial
check_blocks nbdkit-qed-tutorial
[ "$(ls nbdkit-qed-tutorial/blocks/*.skip | wc -l)" -le 6 ] ||
  fail "too many of its examples are not run"
