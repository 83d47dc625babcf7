#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# nbdkit -r, however it is written: the image is opened as a reader, so that
# several such servers share it, and not a byte of it changes, neither then
# nor when the server ends.  The same for an image that can't be written.

. ./functions.sh
set -e

requires nbdinfo --version
requires qemu-io --version
requires nbdkit --long-options

cd "$tmpdir"
nbdkit=$abs_top_builddir/nbdkit
uri="nbd+unix:///?socket=$tmpdir/sock"

qedctl create disk.qed 1M
qemu-io -f qed -c 'write -P 7 64k 64k' disk.qed >/dev/null
cp disk.qed before

# serve ARGUMENT...: nbdkit on $tmpdir/sock.
serve ()
{
  rm -f sock
  start_nbdkit -P pid -U sock "$@"
}

unchanged ()
{
  cmp disk.qed before || fail "the image was changed: $*"
}

# The options that the plugin looks for are those of this nbdkit: each one is
# in its table, and takes an argument there if it does here.
options=$srcdir/../server/plugin-readonly.c
for option in $(nbdkit --long-options | sed 's/^--//'); do
  kind=FLAG
  # Given last, an option that wants an argument says so.
  if LC_ALL=C nbdkit --$option 2>&1 </dev/null |
       grep -q 'requires an argument'; then
    kind=TAKES
  fi
  case $option in
    read-only | readonly) line="\"$option\", no_argument, NULL, 'r'" ;;
    user) line="\"user\", required_argument, NULL, 'u'" ;;
    *) line="$kind (\"$option\")" ;;
  esac
  grep -qF "$line" "$options" || fail "nbdkit's --$option is not known as $kind"
done
short=$(sed -n 's/^static const char short_options.*"\(.*\)";/\1/p' "$options")
test -n "$short"
for option in $(nbdkit --short-options | sed 's/^-//'); do
  kind=
  if LC_ALL=C nbdkit -$option 2>&1 </dev/null |
       grep -q 'requires an argument'; then
    kind=:
  fi
  grep -q "$option$kind\([^:]\|$\)" <<<"$short" ||
    fail "nbdkit's -$option is not known as $option$kind"
done

# A reader shares the image with this one; a writer is refused.
serve -r qed disk.qed

# as_reader ARGUMENT...: nbdkit with these opens the image as a reader.
as_reader ()
{
  timeout 30 "$nbdkit" -U - --run 'nbdinfo --is read-only "$uri"' "$@" \
          >out 2>&1 || { cat out; fail "not read-only: nbdkit $*"; }
}

# as_writer ARGUMENT...
as_writer ()
{
  # Not "-U -": an nbdkit that fails leaves that socket's directory behind.
  if timeout 30 "$nbdkit" -U sock2 --run true "$@" >out 2>&1; then
    fail "taken for read-only: nbdkit $*"
  fi
  grep -q 'in use by' out || { cat out; fail "refused, but not for the lock"; }
}

as_reader -r qed disk.qed
as_reader qed disk.qed -r
as_reader qed -r disk.qed
as_reader --read-only qed disk.qed
as_reader --readonly qed disk.qed
as_reader --reado qed disk.qed
as_reader --rea qed disk.qed
as_reader -fr qed disk.qed
as_reader -rf qed disk.qed
as_reader -rr qed disk.qed
as_reader -fre disk.qed qed disk.qed
as_reader -t 4 -r qed disk.qed
as_reader --threads 4 -r qed disk.qed
as_reader -r qed -- disk.qed
as_writer qed disk.qed
as_writer -t 4 qed disk.qed
as_writer -e -r qed disk.qed
as_writer -e-r qed disk.qed
as_writer -er qed disk.qed
as_writer -fer qed disk.qed
as_writer --export -r qed disk.qed
as_writer --export-name=-r qed disk.qed
as_writer -P -r qed disk.qed
as_writer --pidfile --read-only qed disk.qed
as_writer -D qed.trace=1 qed disk.qed
rm -f -- -r --read-only r

# After "--" it is a name.
cp disk.qed ./-r
timeout 30 "$nbdkit" -U - --run 'nbdinfo --can write "$uri"' qed -- -r
rm ./-r

# Served so, it refuses writes; readers of QEMU's may read it.
nbdinfo --is read-only "$uri"
if nbdinfo --can write "$uri"; then fail "a client may write"; fi
if qemu-io -f raw -c 'write 0 512' "$uri" >out 2>&1; then
  fail "a client wrote"
fi
qemu-io -r -f raw -c 'read -P 7 64k 64k' -c 'read -P 0 0 64k' "$uri" >out
if grep -i 'failed' out; then fail "the content is another"; fi
qemu-io -r -f qed -c 'read -P 7 64k 64k' disk.qed >out
if grep -i 'failed' out; then fail "QEMU can't read it meanwhile"; fi
unchanged "while served with -r"
stop_nbdkit pid
unchanged "at the end of -r"

# An image that was not closed cleanly, and is not to be checked: as it is.
printf '\x02' | dd of=disk.qed bs=1 seek=16 conv=notrunc status=none
cp disk.qed before
for r in -r ""; do
  serve $r qed disk.qed check=never 2>log
  grep -q 'disk.qed: NEED_CHECK is set .* read-only' log
  nbdinfo --is read-only "$uri"
  unchanged "with NEED_CHECK, served with '$r'"
  as_reader -r qed disk.qed
  stop_nbdkit pid
  unchanged "with NEED_CHECK, after '$r'"
done

# Autoclear bits of others stay, too.
printf '\x00' | dd of=disk.qed bs=1 seek=16 conv=notrunc status=none
printf '\x04' | dd of=disk.qed bs=1 seek=33 conv=notrunc status=none
cp disk.qed before
as_reader -r qed disk.qed
unchanged "with an autoclear bit"

# No permission to write: said, and served read-only without -r.
chmod a-w disk.qed
without=
if [ "$(id -u)" -eq 0 ]; then
  without="setpriv --bounding-set=-dac_override --inh-caps=-dac_override"
fi
if ! $without sh -c ': >>disk.qed' 2>/dev/null && $without true; then
  timeout 30 $without "$nbdkit" -U - qed disk.qed \
          --run 'nbdinfo --is read-only "$uri"' 2>log
  grep -q 'disk.qed.*read-only' log || { cat log; fail "not said"; }
  unchanged "without write permission"
fi
