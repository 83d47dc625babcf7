#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The examples of the manual pages are run as they stand there, and print what
# the pages say; requests of the control protocol are understood by a server.

. ./functions.sh
set -e

requires "$PYTHON" --version
requires jq --version
requires nbdcopy --version
requires nbdinfo --version
requires qemu-io --version
requires qemu-nbd --version
requires od --version

cd "$tmpdir"
. "$srcdir/docs-examples.sh"

skipped=0
for page in "$abs_top_srcdir"/docs/*.pod; do
  page=$(basename "$page" .pod)
  [ "$page" != nbdkit-qed-tutorial ] || continue        # a test of its own
  run_examples "$page"
  check_blocks "$page"
  skipped=$((skipped + $(ls "$page"/blocks | grep -c '\.skip$' || :)))
done
[ $skipped -le 4 ] || fail "$skipped blocks are not run"

# Requests: the server is to know the command and all of its members.
qedctl create disk.qed 1G >/dev/null
start_nbdkit -P pid -U sock qed disk.qed control="$tmpdir/ctl"
requests=0
for block in "$tmpdir"/qed-control/blocks/*.request; do
  reply=$("$PYTHON" - "$block" <<'END'
import json, socket, sys
request = json.load(open(sys.argv[1]))
s = socket.socket(socket.AF_UNIX)
s.settimeout(30)
s.connect("ctl")
s.sendall(json.dumps(request).encode() + b"\n")
for line in s.makefile():
    reply = json.loads(line)
    if "event" not in reply:
        print(line)
        break
END
)
  jq -e 'has ("error") | not' <<<"$reply" >/dev/null ||
    fail "qed-control.pod: $(cat "$block"): $reply"
  requests=$((requests + 1))
done
[ $requests -ge 6 ] || fail "there are $requests requests"
