#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl info tells of qemu-img's images what qemu-img put there, names every
# flag, shows strange names harmlessly, and works on an image in use without
# changing it.

. ./functions.sh
set -e

requires qemu-img --version
requires qemu-io --version
requires jq --version

cd "$tmpdir"

# poke FILE OFFSET HEX...: overwrite bytes.
poke ()
{
  local escaped
  escaped=$(printf '\\x%s' "${@:3}")
  printf "$escaped" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# Text and JSON; both must succeed and say nothing on stderr.
info ()
{
  qedctl info "$1" >text 2>err
  qedctl info --json "$1" >json 2>>err
  jq -e . json >/dev/null
  test ! -s err
}

has_text ()
{
  grep -q "$1" text || { cat text; fail "the text lacks '$1'"; }
}

has_json ()
{
  jq -e "$1" json >/dev/null || { cat json; fail "not so in JSON: $1"; }
}

# qemu-img's own images, in the geometries that it can make and read.
for cluster in 4096 65536 1048576 4194304; do
  for table in 2 4 8 16; do
    if [ $((cluster * table)) -gt 8388608 ]; then continue; fi
    for size in 0 1073741824; do
      qemu-img create -q -f qed \
               -o cluster_size=$cluster,table_size=$table x.qed $size
      info x.qed
      qemu-img info --output=json x.qed >theirs
      jq -e --slurpfile theirs theirs '
        . as $ours | $theirs[0] as $theirs |
        all ("filename", "format", "virtual-size", "cluster-size",
             "actual-size"; $ours[.] == $theirs[.])' json >/dev/null ||
        fail "we and qemu-img differ: $(cat json theirs)"
      has_json ".\"table-size\" == $table and .\"header-size\" == 1 and
                .\"l1-table-offset\" == $cluster and
                .\"file-size\" == $(stat -c %s x.qed) and
                .flags == [] and .\"dirty-flag\" == false"
    done
  done
done
# The same in words.
qemu-img create -q -f qed x.qed 1536M
info x.qed
has_text '^image: *x\.qed$'
has_text '^virtual size: *1\.50 GiB (1610612736 bytes)$'
has_text '^largest virtual size: *64 TiB (70368744177664 bytes)$'
has_text '^cluster size: *64 KiB (65536 bytes)$'
has_text '^table size: *4 clusters$'
has_text '^header size: *1 cluster$'
has_text '^L1 table at: *0x10000$'
has_text '^needs a check: *no$'
has_text '^flags: *none$'
if grep -q unknown text; then fail "there is nothing unknown"; fi

# Backing files: with and without a format.
truncate -s 1M base.raw
qemu-img create -q -f qed -b base.raw -F raw x.qed
info x.qed
has_text '^backing file: *base\.raw$'
has_text '^backing format: *raw$'
has_json '.["backing-filename"] == "base.raw"'
has_json '.["backing-filename-format"] == "raw"'
has_json '.flags == ["backing-file", "backing-format-no-probe"]'
qemu-img create -q -f qed base.qed 1M
qemu-img create -q -f qed -b base.qed -F qed x.qed
info x.qed
has_json '.["backing-filename"] == "base.qed" and .flags == ["backing-file"]'
has_json 'has ("backing-filename-format") | not'

# Flags by name, unknown ones in hex.
poke x.qed 16 07
poke x.qed 24 10 00 00 00 00 00 00 80
poke x.qed 32 00 00 ff
info x.qed
has_text '^needs a check: *yes$'
has_text '^flags: *backing-file, need-check, backing-format-no-probe$'
has_text '^unknown compatible: *0x8000000000000010$'
has_text '^unknown autoclear: *0xff0000$'
has_json '.["dirty-flag"] == true and .features == "0x7"'
has_json '.["compat-features"] == "0x8000000000000010"'
has_json '.["autoclear-features"] == "0xff0000"'

# A name that would play with a terminal: ESC, newline, DEL, C1 (as UTF-8),
# a backslash; then one that is no UTF-8, and one that is.
poke x.qed 64 1b 0a 7f c2 9b 5c 62 61
info x.qed
has_text '^backing file: *\\x1b\\x0a\\x7f\\xc2\\x9b\\x5cba$'
has_json '.["backing-filename"] == "\u001b\n\u007f\u009b\\ba"'
if LC_ALL=C grep -q '[[:cntrl:]]' text; then
  fail "a control character came through"
fi
poke x.qed 64 ff fe 61 c3 28 ed a0 80
info x.qed
has_text '^backing file: *\\xff\\xfea\\xc3(\\xed\\xa0\\x80$'
has_json '.["backing-filename"] == "\\xff\\xfea\\xc3(\\xed\\xa0\\x80"'
poke x.qed 64 c3 a9 e2 82 ac 61 61 61
info x.qed
has_text '^backing file: *é€aaa$'
has_json '.["backing-filename"] == "é€aaa"'
# The image's own name likewise.
cp x.qed $'new\nline\e'
info $'new\nline\e'
has_text '^image: *new\\x0aline\\x1b$'

# In use for writing by someone else, and not writable: only read.
qemu-img create -q -f qed x.qed 1M
before=$(stat -c '%Y.%y %Z.%z' x.qed; sha256sum x.qed)
mkfifo hold
qemu-io -f qed x.qed <hold >holding &
holder=$!
exec 5>hold
# qemu-img info would take the lock itself for a moment, and qemu-io lose.
echo 'read 0 512' >&5
for i in {1..100}; do
  if grep -q 'read 512/512' holding; then break; fi
  sleep 0.1
done
grep -q 'read 512/512' holding
if qemu-img info x.qed >/dev/null 2>&1; then fail "nobody holds it"; fi
info x.qed
has_json '.["virtual-size"] == 1048576'
exec 5>&-
wait $holder
test "$before" = "$(stat -c '%Y.%y %Z.%z' x.qed; sha256sum x.qed)"

# Arguments.
qedctl info --help | grep -q -- --json
for args in '' 'x.qed x.qed' '--nonsense x.qed' '--json --json x.qed' '-q' \
            '--json=1 x.qed'; do
  r=0
  qedctl info $args >out 2>err || r=$?
  test $r -eq 1
  test ! -s out
  test "$(wc -l <err)" -eq 1
done
# A report that can't be written is a failure.
if [ -w /dev/full ]; then
  if qedctl info x.qed >/dev/full 2>err; then fail "/dev/full took it"; fi
  test "$(wc -l <err)" -eq 1
fi
