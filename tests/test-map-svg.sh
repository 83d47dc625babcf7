#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The picture of qedctl map: valid, harmless, true, and there whole or not at
# all.

. ./functions.sh
set -e
. "$srcdir/serve.sh"
. "$srcdir/map-images.sh"

requires "$PYTHON" -c 'import nbd'

cd "$tmpdir"

# valid FILE: XML, of one piece, with what a picture must have.
valid ()
{
  "$PYTHON" - "$1" <<'END' || fail "$1 is no good picture"
import re, sys, xml.etree.ElementTree as tree
text = open(sys.argv[1], encoding="utf-8").read()
svg = "{http://www.w3.org/2000/svg}"
root = tree.fromstring(text)
assert root.tag == svg + "svg"
assert root.find(svg + "title").text and root.find(svg + "desc").text
words = [t.text for t in root.iter(svg + "text")]
for word in ("What the guest's disk holds", "offset in the guest's disk",
             "offset in the file", "zero clusters", "fragments",
             "in no file (reads as zeros)", "mean run of data", "data"):
    assert word in words, (word, words)
assert any(w.startswith("Where the data lies in ") for w in words)
# Nothing is fetched, and there is nothing to run.
assert text.count("http") == 1
assert not re.search(r"href|url\(|@import|<script|\son[a-z]+=", text)
# All of it is on the page.
width, height = (float(root.get(a)) for a in ("width", "height"))
for e in root.iter(svg + "rect"):
    x, y = (float(e.get(a, "0")) for a in ("x", "y"))
    assert x >= 0 and x + float(e.get("width")) <= width, e.attrib
    assert y >= 0 and y + float(e.get("height")) <= height, e.attrib
for e in root.iter(svg + "path"):
    for x, y in re.findall(r"([\d.]+) ([\d.]+)", e.get("d")):
        assert 0 <= float(x) <= width and 0 <= float(y) <= height, e.attrib
END
  if type xmllint >/dev/null 2>&1; then xmllint --noout "$1"; fi
}

make_order
make_reverse
make_sparse
for name in order reverse sparse over; do
  qedctl map --svg $name.svg $name.qed >text
  valid $name.svg
done

# A chain of six files.
truncate -s 64M base.raw
printf x | dd of=base.raw seek=64512 conv=notrunc status=none
name=base.raw format=raw
for i in 1 2 3 4 5; do
  qedctl create chain$i.qed 64M --backing $name --backing-format $format
  name=chain$i.qed format=qed
  serve $name
  client $i <<'END'
h.pwrite(b"x" * (1 << 20), int(args[0]) << 22)
h.zero(1 << 20, int(args[0]) << 21)
END
  serve_stop
done
qedctl map --svg chain.svg chain5.qed >text
valid chain.svg
has chain.svg 'data in chain4\.qed<'
has chain.svg 'data in files at depth 3 and deeper<'
has chain.svg 'Where the data lies in chain5\.qed<'
place='x="[0-9]*" y="[0-9.]*" width="[0-9]*" height="56.0"'
for class in f0 f1 f2 f3 zero; do
  has chain.svg "class=\"$class\" $place"
done
for part in '0 100' '67108864 1' '1000 6553600'; do
  qedctl map --start ${part% *} --max-length ${part#* } --svg part.svg \
         order.qed >text
  valid part.svg
done
qedctl create x.qed 0
qedctl map --svg part.svg x.qed >text
valid part.svg

# Data in order is one rising line; out of order it is none.
"$PYTHON" - <<'END' || fail "the plot is wrong"
import re, subprocess
def plot(*args):
    subprocess.run(["qedctl", "map", "--svg", "plot.svg", *args], check=True,
                   stdout=subprocess.DEVNULL)
    text = open("plot.svg").read()
    paths = re.findall(r'<path class="s0"[^>]* d="([^"]*)"', text)
    lines = [p for p in paths if "L" in p]
    return ("".join(lines).count("L"), "".join(paths).count("h"),
            [float(n) for n in re.findall(r"[\d.]+", "".join(lines))])
lines, cells, at = plot("--max-length", "640K", "order.qed")
assert (lines, cells) == (1, 0), (lines, cells)
assert at[0] == 110 and at[2] == 910 and at[3] < at[1], at
lines, cells, at = plot("--start", "6400K", "--max-length", "640K",
                        "order.qed")
assert (lines, cells) == (10, 0), (lines, cells)
starts = at[1::4]               # how far from the top each run starts
assert starts == sorted(starts) and len(set(starts)) == 10, at
lines, cells, at = plot("reverse.qed")
assert lines == 0 and cells > 100, (lines, cells)
END

# Names that would be markup, or play with a terminal.
strange=$'a&b<c>"d\'e]]>\n\e[31m\xff\xef\xbf\xbf.qed'
cp order.qed "$strange"
qedctl map --svg strange.svg "$strange" >text
valid strange.svg
has strange.svg 'a&amp;b&lt;c&gt;&quot;d&#39;e\]\]&gt;\\x0a\\x1b\[31m\\xff'
if LC_ALL=C tr -d '\n' <text | LC_ALL=C grep -q '[[:cntrl:]]'; then
  fail "a control character came through"
fi

# It appears whole or not at all, with the permissions of a new file.
(umask 027; qedctl map --svg new.svg order.qed >text)
test "$(stat -c %a new.svg)" = 640
echo old >old.svg
qedctl map --svg old.svg order.qed >text
valid old.svg
cp old.svg keep.svg
fails 'cannot write old.svg: File too large' bash -c '
  ulimit -f 1; exec qedctl map --max-length 64K --svg old.svg order.qed'
cmp old.svg keep.svg
fails 'cannot write no/where.svg' qedctl map --svg no/where.svg order.qed
test ! -s out
mkdir directory
fails 'directory .* not a regular file' qedctl map --svg directory order.qed
fails '/dev/null .* not a regular file' qedctl map --svg /dev/null order.qed
if [ -w /dev/full ]; then
  fails 'cannot write to the standard output' \
        sh -c 'qedctl map --svg full.svg order.qed >/dev/full'
  test ! -e full.svg
fi
# The image and what it needs are no place for it.
ln -s base.raw link.svg
sum=$(sha256sum chain5.qed chain1.qed base.raw)
for name in chain5.qed ./chain5.qed chain1.qed base.raw link.svg; do
  fails 'is a file of the chain' qedctl map --svg $name chain5.qed
done
test "$sum" = "$(sha256sum chain5.qed chain1.qed base.raw)"

# A signal ends it, and leaves nothing.
mkfifo output
qedctl map --svg signal.svg reverse.qed >output 2>err &
job=$!
cleanup_fn eval '[ -z "$job" ] || kill -9 $job'
exec 5<output
read -r line <&5
sleep 1                         # until the pipe is full
kill -INT $job || fail "it had ended"
r=0
wait $job || r=$?
job=
exec 5<&-
test $r -eq 1
has err 'stopped by a signal'
test "$(wc -l <err)" -eq 1
left=$(ls -A | grep -e 'signal' -e '\.svg\.' || :)
test -z "$left" || fail "left behind: $left"
