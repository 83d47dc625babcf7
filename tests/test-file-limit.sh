#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# A limit on the size of files (ulimit -f, LimitFSIZE=): what would go beyond it
# fails with ENOSPC, and the server lives on.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires "$PYTHON" -c 'import nbd'
[ "$qed_server" = nbdkit ] || skip "this is about our server"

cd "$tmpdir"
qedctl create a.qed 1G
ulimit -S -f 8192
serve a.qed
ulimit -S -f unlimited
client <<'END'
import errno
K = 65536
good = []
for i in range(200):
    try:
        h.pwrite(bytes([i]) * K, i * K)
        good.append(i)
    except nbd.Error as e:
        assert e.errnum == errno.ENOSPC, e
print("%d of 200 clusters fit" % len(good))
assert 100 < len(good) < 128
h.flush()
for i in range(200):
    assert h.pread(K, i * K) == (bytes([i]) if i in good else bytes(1)) * K
h.trim(16 * K, 0)
h.flush()
h.pwrite(b"z" * K, 300 * K)
h.flush()
assert h.pread(K, 300 * K) == b"z" * K
END
serve_stop
qemu-img check -q -f qed a.qed || [ $? -eq 3 ] || fail "QEMU finds damage"
qedctl check a.qed
serve a.qed
client <<'END'
h.pwrite(b"y" * 65536, 400 * 65536)
assert h.pread(65536, 300 * 65536) == b"z" * 65536
END
serve_stop
qedctl check a.qed
