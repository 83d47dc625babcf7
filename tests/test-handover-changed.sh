#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# A client that stays connected while its image is away: it waits, or gets an
# error by on-release=; when the image comes back as it was it goes on; when its
# size, its backing file or its writability is another it has to connect anew.
# And a standby serves what is there when it takes over.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/handover.sh"

requires jq --version
requires qemu-io --version

make_image "$image" 65536 4 100M

# Run Python with the connection h to server a: stays <<END.
stays ()
{
    { cat <<'END_PRELUDE'; cat; } | uri=$(uri_of a) client "$tmpdir" "$image"
import errno, os, subprocess, threading, time
tmp, image = args
def run(*command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
def ctl(command):
    run("qedctl", command, "--control", tmp + "/a.control")
def connect():
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    return h
def error_of(what, *arguments):
    try:
        what(*arguments)
    except nbd.Error as e:
        return e.errnum
    return 0
END_PRELUDE
}

start a
stays <<'END'
h.pwrite(b"x" * 65536, 0)
ctl("release")
# What is asked for now waits until the image is there again.
answers = []
waiting = threading.Thread(target=lambda: answers.append(h.pread(65536, 0)))
waiting.start()
time.sleep(0.5)
assert not answers
run("qemu-io", "-f", "qed", "-c", "write -P 121 0 32k", image)
ctl("activate")
waiting.join(10)
assert answers == [b"y" * 32768 + b"x" * 32768]
h.pwrite(b"z" * 512, 0)
h.flush()

# It comes back larger: the client has to learn that.
ctl("release")
run("qedctl", "resize", image, "120M")
ctl("activate")
for i in range(2):
    assert error_of(h.pread, 512, 0) == errno.ESHUTDOWN
    assert error_of(h.pwrite, b"x" * 512, 0) == errno.ESHUTDOWN
    assert error_of(h.flush) == errno.ESHUTDOWN
# Nor does it help that it is again as it was.
ctl("release")
run("qedctl", "resize", "--shrink", image, "100M")
ctl("activate")
assert error_of(h.pread, 512, 0) == errno.ESHUTDOWN
h = connect()
assert h.get_size() == 100 << 20
assert h.pread(512, 0) == b"z" * 512

# Over another backing file.
ctl("release")
with open(tmp + "/base.raw", "wb") as f:
    f.truncate(100 << 20)
run("qedctl", "rebase", "--backing", "base.raw", "--backing-format", "raw",
    image)
ctl("activate")
assert error_of(h.pread, 512, 0) == errno.ESHUTDOWN
h = connect()
assert h.pread(512, 0) == b"z" * 512

# It can't be written any more.
if os.getuid() != 0:
    ctl("release")
    os.chmod(image, 0o400)
    ctl("activate")
    assert error_of(h.pread, 512, 0) == errno.ESHUTDOWN
    h = connect()
    assert h.is_read_only()
    os.chmod(image, 0o600)
END
stop a

# A standby serves what is there when it takes over, not what was there when
# it started.
start a
start b standby=on
kill -STOP "$(cat "$tmpdir/b.pid")"
stop a
qedctl resize "$image" 130M >/dev/null
qedctl rebase --no-backing "$image" >/dev/null
kill -CONT "$(cat "$tmpdir/b.pid")"
[ "$(timeout 20 nbdinfo --size "$(uri_of b)")" = $((130 << 20)) ] ||
    fail "a standby serves another size"
stop b

# on-release=fail: an error at once, also for who connects.
start a on-release=fail
stays <<'END'
h.set_strict_mode(0)
ctl("release")
assert error_of(h.pread, 512, 0) == errno.ESHUTDOWN
assert error_of(connect) != 0
ctl("activate")
assert h.pread(512, 0) == b"z" * 512
END
stop a
walk_free_image "$image"

# Through an NBD export, by who may.
start a control-export=admin
start b standby=on control-export=check
qedctl release "$(uri_of a)" >/dev/null
within 5 open b
! qedctl release "$(uri_of b)" 2> "$tmpdir/out" || fail "who may check releases"
grep -q "not allowed here" "$tmpdir/out" || fail "the reason is not told"
ctl b release >/dev/null
qedctl activate "$(uri_of a)" >/dev/null
expect_state a open
stop a
stop b

# A reader can be sent away, too.
rm -f "$tmpdir/a.sock"
start_nbdkit -P "$tmpdir/a.pid" -U "$tmpdir/a.sock" -r qed "$image" \
    control="$tmpdir/a.control"
timeout 20 qedctl release --control "$tmpdir/a.control" >/dev/null
io qed "$image" "write -P 5 0 64k"
ctl a activate >/dev/null
timeout 20 qemu-io -r -f raw -c "read -P 5 0 64k" "$(uri_of a)" \
    > "$tmpdir/out" || fail "a reader does not see the new content"
stop a
