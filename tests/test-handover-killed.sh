#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The active server is killed with -9 while clients are at work: the standby
# takes over, repairs the image and serves it, with all that was flushed.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/handover.sh"

requires jq --version
requires qemu-io --version

make_image "$image" 4096 2 64M
start a clean-after=0
start b standby=on
model_test --seed 1 --seconds 30 --connections 4 --may-die --max-count 1M \
    --cluster-size 4096 --table-size 2 --zero --trim --save "$tmpdir/model" \
    "$(uri_of a)" > "$tmpdir/model.out" &
worker=$!
sleep 1.5
kill9 a
wait $worker || fail "the client did not get on until the kill"
grep -q "the server was gone" "$tmpdir/model.out" ||
    fail "the work was over before the kill"
model_test --load "$tmpdir/model" --verify-only --crash --connections 4 \
    "$(uri_of b)" || fail "what was flushed is lost"
stop b
expect_no_corruption
