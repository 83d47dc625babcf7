#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# What is no image, or an image with an impossible header, gets one line that
# names the field, exit 1, and stays as it is; nothing hangs.

. ./functions.sh
set -e

requires qemu-img --version

cd "$tmpdir"

poke ()
{
  local escaped
  escaped=$(printf '\\x%s' "${@:3}")
  printf "$escaped" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# refused FILE PATTERN: the reader of headers says no.
refused ()
{
  local r json

  for json in "" --json; do
    r=0
    timeout 20 qedctl info $json "$1" >out 2>err </dev/null || r=$?
    if [ $r -ne 1 ] || [ -s out ] || [ "$(wc -l <err)" -ne 1 ] ||
         ! grep -q -- "$2" err || ! grep -qF -- "$1" err; then
      cat out err
      fail "$1: exit $r; expected 1 and one line with '$2'"
    fi
  done
}

# bad PATTERN OFFSET HEX... [+ OFFSET HEX...]: a good image with these bytes.
bad ()
{
  local pattern=$1 at=$2
  shift 2
  cp good.qed bad.qed
  while [ $# -gt 0 ]; do
    local bytes=()
    while [ $# -gt 0 ] && [ "$1" != + ]; do bytes+=("$1"); shift; done
    poke bad.qed "$at" "${bytes[@]}"
    if [ $# -gt 0 ]; then at=$2; shift 2; fi
  done
  cp bad.qed before
  refused bad.qed "$pattern"
  cmp bad.qed before
}

truncate -s 1M base
qemu-img create -q -f qed -b base -F raw good.qed 1G
qedctl info good.qed >/dev/null

# One field each.
bad 'not a QED image.*magic'                    0 51 45 44 01
bad 'not a QED image.*magic'                    0 51 46 49 fb
bad 'cluster_size (offset 0x4) is 0:'           4 00 00 00 00
bad 'cluster_size (offset 0x4) is 2048:'        4 00 08 00 00
bad 'cluster_size (offset 0x4) is 65537:'       4 01 00 01 00
bad 'cluster_size (offset 0x4) is 134217728:'   4 00 00 00 08
bad 'cluster_size (offset 0x4) is 4294967295:'  4 ff ff ff ff
bad 'table_size (offset 0x8) is 0:'             8 00 00 00 00
bad 'table_size (offset 0x8) is 3:'             8 03
bad 'table_size (offset 0x8) is 32:'            8 20
bad 'table_size (offset 0x8) is 4294967295:'    8 ff ff ff ff
bad 'header_size (offset 0xc) is 0 '            12 00
bad 'header_size (offset 0xc) is 6 '            12 06   # of 5 in the file
bad 'header_size (offset 0xc) is 4294967295 '   12 ff ff ff ff
bad 'features (offset 0x10) .* bits 0x8:'       16 0d
bad 'features (offset 0x10) .* bits 0x8000000000000000:' \
                                                16 05 00 00 00 00 00 00 80
bad 'l1_table_offset (offset 0x28) is 0x0:'     40 00 00 00
bad 'l1_table_offset (offset 0x28) is 0x10200:' 40 00 02 01
bad 'l1_table_offset (offset 0x28) is 0x11000:' 40 00 10 01
bad 'l1_table_offset (offset 0x28) is 0x20000:.*cut' 40 00 00 02
bad 'l1_table_offset (offset 0x28) is 0x8000000000000000:' \
                                                40 00 00 00 00 00 00 00 80
bad 'l1_table_offset (offset 0x28) is 0xffffffffffff0000:' \
                                                40 00 00 ff ff ff ff ff ff
bad 'l1_table_offset (offset 0x28) is 0xfffffffffffc0000:' \
                                                40 00 00 fc ff ff ff ff ff
bad 'l1_table_offset (offset 0x28) is 0xffffffffffffffff:' \
                                                40 ff ff ff ff ff ff ff ff
bad 'image_size (offset 0x30) is 1073741825:'   48 01
bad 'image_size (offset 0x30) is 70368744178176:' \
                                                48 00 02 00 00 00 40 00 00
bad 'image_size (offset 0x30) is 18446744073709551104:' \
                                                48 00 fe ff ff ff ff ff ff
bad 'image_size (offset 0x30) is 18446744073709551615:' \
                                                48 ff ff ff ff ff ff ff ff
bad 'backing_filename_offset (offset 0x38) is 0x0:'    56 00
bad 'backing_filename_offset (offset 0x38) is 0x3f:'   56 3f
bad 'backing_filename_offset (offset 0x38) is 0xfffd:' 56 fd ff
bad 'backing_filename_offset (offset 0x38) is 0xffffffff:' 56 ff ff ff ff
bad 'backing_filename_size (offset 0x3c) is 0:'        60 00
bad 'backing_filename_size (offset 0x3c) is 4096:'     60 00 10
bad 'backing_filename_size (offset 0x3c) is 4294967295:' 60 ff ff ff ff
bad 'backing file name at offset 0x40 has a NUL at byte 2 of 4' 66 00
# Fields that are wrong only together: 1 GiB tables in a file of 320 KiB; a
# header that grows over the L1 table.
bad 'header_size (offset 0xc) is 1 '   4 00 00 00 04 + 8 10
bad 'l1_table_offset (offset 0x28) is 0x10000:' 12 02

# The limits themselves are fine.
cp good.qed x.qed
poke x.qed 48 00 00 00 00 00 40 00 00           # the largest image
qedctl info x.qed >/dev/null
poke x.qed 56 fc ff                             # the last bytes of the header
poke x.qed 65532 62 61 73 65
qedctl info x.qed | grep -q '^backing file: *base$'

# Cut files: at every sort of place.
for length in 0 1 4 63 64 65 511 512 65535 65536 65537 327679; do
  head -c $length good.qed >bad.qed
  cp bad.qed before
  case $length in
    ?|63)   refused bad.qed 'not a QED image' ;;
    *)      refused bad.qed 'header_size\|l1_table_offset' ;;
  esac
  cmp bad.qed before
done

# Not an image at all.
echo 'hello, this is a text file of more than sixty-four bytes, is it not?' >t
refused t 'not a QED image'
truncate -s 1G zeros
refused zeros 'not a QED image'
qemu-img create -q -f qcow2 q.qcow2 1M
refused q.qcow2 'not a QED image'
mkdir directory
refused directory 'directory'
mkfifo fifo
refused fifo 'FIFO'
refused /dev/zero 'character device'
refused nothing 'No such file'
refused nothing/at/all 'No such file'
refused good.qed/x 'Not a directory'
ln -s loop loop
refused loop 'symbolic links'
refused "$(printf 'x%.0s' {1..300})" 'too long'
# A name with a newline does not make two lines of one.
r=0
qedctl info $'no\nsuch' >out 2>err || r=$?
test $r -eq 1
test "$(wc -l <err)" -eq 1

# Not readable: root may read all, unless it puts that right away.
cp good.qed bad.qed
chmod 0 bad.qed
without="setpriv --bounding-set=-dac_override,-dac_read_search
                 --inh-caps=-dac_override,-dac_read_search"
if [ "$(id -u)" -ne 0 ]; then without=; fi
if ! $without cat bad.qed >/dev/null 2>&1 && $without true 2>/dev/null; then
  r=0
  $without qedctl info bad.qed >out 2>err || r=$?
  if [ $r -ne 1 ] || [ "$(wc -l <err)" -ne 1 ] ||
       ! grep -q 'bad.qed: cannot open: Permission denied' err; then
    cat err
    fail "an image without read permission: exit $r"
  fi
fi
