#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# fio with checksums in every block: several jobs, sixteen requests in flight
# on each, random reads and writes, and all of it again after a restart.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires fio --version
requires qemu-img --version
requires jq --version
requires "$PYTHON" --version
fio --enghelp 2>/dev/null | grep -q nbd || skip "fio has no nbd engine"

image=$tmpdir/disk.qed
jobs=4

# fio's jobs lie side by side: run_fio NAME ARGUMENTS...
run_fio ()
{
    local name=$1
    shift

    (cd "$tmpdir" && fio --name="$name" --ioengine=nbd --uri="$uri" \
        --numjobs="$jobs" --size=24M --offset_increment=25M --iodepth=16 \
        --verify=crc32c --verify_fatal=1 --randseed=42 --group_reporting \
        --verify_state_save=0 "$@" --output="$tmpdir/fio.out") ||
        { cat "$tmpdir/fio.out" >&2; fail "fio: $name"; }
}

make_image "$image" 65536 4 $((jobs * 25 * 1024 * 1024 + 512))

serve "$image"
run_fio small --rw=randwrite --bs=4k --do_verify=1
run_fio mixed --rw=randrw --bsrange=4k-256k --verify_backlog=64 \
    --fsync=50 --do_verify=1
run_fio last --rw=randwrite --bs=16k --do_verify=0 --end_fsync=1
serve_stop

need_check "$image" && fail "NEED_CHECK is set after the server's end"
walk_image "$image"
qemu_check "$image"

serve "$image"
run_fio last --rw=randwrite --bs=16k --verify_only=1
serve_stop
qemu_check "$image"

# This test can fail: what 'last' wrote is wrong if a cluster is.
"$PYTHON" - "$image" <<'END'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(-32768, 2)
    f.write(b"!")
END
serve "$image"
(run_fio last --rw=randwrite --bs=16k --verify_only=1) 2>/dev/null &&
    fail "fio did not see a wrong byte"
serve_stop
