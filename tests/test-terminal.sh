#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Nothing that a server or an image says reaches the terminal as a command: in
# all that qedctl prints there are no control characters.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/qedctl.sh"

cd "$tmpdir"

# harmless PATTERN: what was printed, "out" and "err"; it has the pattern.
harmless ()
{
    "$PYTHON" - out err <<'END2' || fail "$what: a terminal would obey"
import re, sys
for name in sys.argv[1:]:
    text = open(name, "rb").read()
    bad = re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", text)
    assert bad is None, text[max(bad.start() - 80, 0):bad.end() + 80]
END2
    [ -z "$1" ] || grep -q -- "$1" out err ||
        { cat out err; fail "$what: no $1"; }
}

# said PATTERN COMMAND...: whatever its exit status.
said ()
{
    local pattern=$1

    shift
    what="qedctl $*"
    timeout 60 qedctl "$@" >out 2>err || [ $? -le 3 ]
    harmless "$pattern"
}

# ---- What a server says ----

qedctl create disk.qed 64M >/dev/null
# An entry with reserved bits, for something to be found and repaired.
printf '\1\2\3\4\0\0\0\0' |
    dd of=disk.qed bs=1 seek=65536 conv=notrunc status=none

proxy=

stop_proxy ()
{
    if [ -n "$proxy" ]; then kill -KILL $proxy; fi
    proxy=
}
cleanup_fn stop_proxy

# proxy [KEPT...]: on "evil".
proxy ()
{
    stop_proxy
    rm -f evil
    "$PYTHON" "$srcdir/terminal-proxy.py" evil ctl "$@" &
    proxy=$!
    disown
    for i in {1..100}; do if [ -S evil ]; then break; fi; sleep 0.1; done
}

all_commands ()
{
    local json command

    for json in '' --json; do
        said 31m list --control evil $json
        said 31m status --control evil $json
        said 31m top --control evil --interval 0.1 --count 1 $json
        said '' metrics --control evil $json
        said . check --control evil $json
        said . check --control evil --repair $json
        for command in flush release activate; do
            said . $command --control evil $json
        done
    done
    said 31m status --control evil none
    said 31m check --control evil --pause
}

serve disk.qed control=ctl 2>/dev/null
wait_for_control
# So much that qedctl goes on with what it gets; less; nothing that it knows.
proxy use state access name type code path file what le
said 31m metrics --control evil
said 31m check --control evil --repair
said . check --control evil
all_commands
proxy use type
all_commands
proxy
all_commands
serve_stop

# ---- What an image says ----

# with_backing NAME: an image, by what the format allows.
with_backing ()
{
    qedctl create --force named.qed 1M >/dev/null
    "$PYTHON" - "$1" <<'END2'
import struct, sys
name = eval("b'%s'" % sys.argv[1])
with open("named.qed", "r+b") as f:
    f.seek(16)
    f.write(struct.pack("<Q", 1))
    f.seek(56)
    f.write(struct.pack("<II", 64, len(name)))
    f.write(name)
END2
}

for name in 'a\xc2\x9b31m' '\x1b[31m' 'a\x7f\x08' '\xff\x9b31m' '\r\n31m'; do
    with_backing "$name"
    said . info named.qed
    said . info --json named.qed
    said . map named.qed
    said . map --json named.qed
    said . check named.qed
    what="the server"
    : >out
    timeout 60 "$abs_top_builddir/nbdkit" -U - qed named.qed --run true \
            >out 2>err || :
    harmless named.qed
done
