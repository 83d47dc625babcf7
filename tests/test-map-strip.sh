#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The strip of qedctl map: on a terminal, as wide as that, in its characters
# and colours; and what it shows is true.

. ./functions.sh
set -e
. "$srcdir/serve.sh"
. "$srcdir/map-images.sh"

requires "$PYTHON" -c 'import nbd'
requires jq --version

cd "$tmpdir"

# terminal COLUMNS NAME=VALUE... -- COMMAND...: what it shows there.
terminal ()
{
  "$PYTHON" - "$@" <<'END'
import fcntl, os, pty, struct, sys, termios
args = sys.argv[2:]
command = args[args.index("--") + 1:]
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(1, termios.TIOCSWINSZ,
                struct.pack("HHHH", 50, int(sys.argv[1]), 0, 0))
    os.environ.pop("NO_COLOR", None)
    for setting in args[:args.index("--")]:
        os.environ.update([setting.split("=")])
    os.execvp(command[0], command)
shown = b""
while True:
    try:
        some = os.read(fd, 65536)
    except OSError:
        break
    if not some:
        break
    shown += some
status = os.waitpid(pid, 0)[1]
sys.stdout.buffer.write(shown.replace(b"\r\n", b"\n"))
sys.exit(1 if status else 0)
END
}

# Half data in order, half in reverse, then nothing: 100 cells of 4 clusters.
rm -f half.qed
qedctl create half.qed 25M
serve half.qed
client <<'END'
for i in [*range(100), *reversed(range(100, 200))]:
    h.pwrite(b"x" * 65536, i * 65536)
END
serve_stop
utf8=
for l in C.UTF-8 C.utf8 en_US.UTF-8; do
  if [ "$(LC_ALL=$l locale charmap 2>/dev/null)" = UTF-8 ]; then utf8=$l; fi
done

# strip FILE: its two lines.
strip ()
{
  grep -A 1 -e 'a cell' -e '^Fragments, ' "$1" |
    grep -v -e 'a cell' -e '^Fragments, ' -e '^--'
}
# expect_strip FILE FULL: the image half.qed in 100 cells.
expect_strip ()
{
  "$PYTHON" - "$2" >expected <<'END'
import sys
print(sys.argv[1] * 50 + " " * 50)
print(" " * 25 + sys.argv[1] * 25 + " " * 50)
END
  strip "$1" >shown
  cmp shown expected || { cat shown expected; fail "another strip"; }
}

terminal 100 LC_ALL=C NO_COLOR=1 -- qedctl map half.qed >shown.txt
expect_strip shown.txt @
has shown.txt 'Data, 256 KiB a cell:'
if [ -n "$utf8" ]; then
  export PYTHONIOENCODING=utf-8
  terminal 100 LC_ALL=$utf8 NO_COLOR=1 -- qedctl map half.qed >shown.txt
  expect_strip shown.txt $'\xe2\x96\x88'
fi
# Colours, on a terminal alone, and if they are wanted.
terminal 100 LC_ALL=C -- qedctl map half.qed >shown.txt
test "$(grep -c $'\e\\[[0-9]*m' shown.txt)" -eq 2
sed -i $'s/\e\\[[0-9]*m//g' shown.txt
expect_strip shown.txt @
terminal 100 LC_ALL=C NO_COLOR= -- qedctl map half.qed >shown.txt
grep -q $'\e' shown.txt || fail "an empty NO_COLOR counts"
LC_ALL=C qedctl map --strip half.qed >text
strip text >shown
test "$(awk '{print length}' shown | sort -u)" = 80
if grep -q $'\e' text; then fail "colours where there is no terminal"; fi
# A little is never nothing, nor most of it all.
make_order
LC_ALL=C qedctl map --strip order.qed >text
test "$(strip text | head -1 | cut -c 1)" = '#'
make_sparse
LC_ALL=C qedctl map --strip sparse.qed >text
strip text | head -1 | grep -q '^[.]\{78\}  $' ||
  fail "a little looks like nothing"
# Damage shows: a table, whose whole reach is unknown.
cp order.qed bad.qed
poke bad.qed 65536 01
if LC_ALL=C qedctl map --strip bad.qed >text 2>err; then fail "exit 0"; fi
strip text | head -1 | grep -q '^!*$'
# Programs get what they expect, on a terminal too.
terminal 100 -- qedctl map --json half.qed | jq -e . >/dev/null
