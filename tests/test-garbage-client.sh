#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Clients that send garbage, go away in the middle of a request, ask for what
# isn't there, or flood the server with half requests: it serves the others as
# before, and the image is unharmed.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires "$PYTHON" --version
requires nbdinfo --version
requires qemu-img --version
requires jq --version

image=$tmpdir/disk.qed
model=$tmpdir/model
size=$((40 * 1024 * 1024 + 512))

make_image "$image" 65536 4 "$size"
serve "$image"
model_test --ops 300 --max-count 512K --save "$model" "$uri"

# A good client works all the while.
model_test --load "$model" --seed 2 --seconds 4 --connections 2 \
    --max-count 256K --save "$model" "$uri" &
good=$!
"$PYTHON" "$srcdir/garbage-client.py" "$sock" "$size" "$(orphans_max)"
wait "$good" || fail "the good client got wrong answers among the bad ones"

kill -0 "$(cat "$pidfile")" || fail "the server is gone"
[ "$(nbdinfo --size "$uri")" = "$size" ] || fail "the server does not answer"
model_test --load "$model" --verify-only --connections 2 "$uri"
serve_stop

need_check "$image" && fail "NEED_CHECK is set after the server's end"
walk_image "$image"
qemu_check "$image"
serve "$image"
model_test --load "$model" --verify-only "$uri"
serve_stop
