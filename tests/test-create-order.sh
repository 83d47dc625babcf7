#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# A crash while an image is made leaves an image or nothing that is taken for
# one: the header's first sector is written last, after a sync of all else,
# and is synced itself; then the new name is.

. ./functions.sh
set -e

requires strace -V
requires strace -o /dev/null true

cd "$tmpdir"
# The search for leaks does not work under strace.
export ASAN_OPTIONS=${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0

# The calls that matter, one letter each: t(runcate), w(rite), W(rite of the
# header at 0), s(ync).
order ()
{
  strace -o trace -e trace=ftruncate,pwrite64,fdatasync,fsync \
         qedctl create "$@"
  sed -n -e '/^ftruncate.* = 0$/s/.*/t/p' -e '/^f.*sync(.* = 0$/s/.*/s/p' \
      -e '/^pwrite64.*, 512, 0) *= 512$/s/.*/W/p' -e t \
      -e '/^pwrite64.*, 0) *= /s/.*/X/p' -e '/^pwrite64/s/.*/w/p' trace |
    tr -d '\n'
}

expect ()
{
  local got=$(order "${@:2}")
  if [ "$got" != "$1" ]; then
    cat trace
    fail "qedctl create ${*:2}: order is $got, not $1"
  fi
}

# Length, sync, header, sync, sync of the directory.
expect ttsWss new.qed 1G
expect ttsWs --force new.qed 1G
# The rest of a long name comes before the sync.
expect ttwsWss --backing "/$(printf 'x%.0s' {1..700})" long.qed 1G
