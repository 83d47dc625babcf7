#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# What the README says about converting is run as it stands there, and does
# what it says.

set -e
. ./functions.sh

requires nbdcopy --version
requires qemu-img --version
requires qemu-nbd --version
requires jq --version

cd "$tmpdir"
PATH=$abs_top_builddir:$PATH    # nbdkit with the plugin just built
export PATH

# run_block NAME: the commands under "# NAME"
run_block ()
{
    echo "$1"
    sed -n '/^## Converting$/,/^## [^C]/p' "$srcdir/../README.md" |
        sed -n "/^    # $1\$/,/^\$/s/^    //p" > block
    [ $(wc -l < block) -ge 2 ] || fail "the README has no block \"$1\""
    blocks=$((blocks + 1))
    timeout 60 bash -e block || fail "the commands of \"$1\" failed"
}

# A file with data at the start and at the end, and holes between.
truncate -s 30M original.raw
for at in 0 1000 17000000 31457180; do
    head -c 100 /dev/urandom |
        dd of=original.raw bs=1 seek=$at conv=notrunc status=none
done

# is_sparse FILE
is_sparse ()
{
    [ $(($(stat -c '%b * %B' $1))) -lt 4194304 ] ||
        fail "$1 takes $(stat -c '%b * %B' $1) bytes"
}

blocks=0
cp --sparse=always original.raw disk.raw
run_block "raw to QED"
rm disk.raw
qemu-img check -q -f qed disk.qed
qemu-img compare -q -f raw -F qed original.raw disk.qed || fail "it differs"
is_sparse disk.qed

run_block "QED to raw"
cmp disk.raw original.raw
is_sparse disk.raw

run_block "QED to qcow2"
rm disk.qed
qemu-img check -q -f qcow2 disk.qcow2
qemu-img compare -q -f raw -F qcow2 original.raw disk.qcow2 ||
    fail "it differs"
is_sparse disk.qcow2

run_block "qcow2 to QED"
qemu-img check -q -f qed disk.qed
qemu-img compare -q -f raw -F qed original.raw disk.qed || fail "it differs"
is_sparse disk.qed

# All of them were run.
[ $(sed -n '/^## Converting$/,/^## [^C]/p' "$srcdir/../README.md" |
        grep -c '^    # ') -eq $blocks ] || fail "the README has more blocks"
