#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# System calls of a whole server, and of qedctl, that fail or do less than was
# asked: short transfers and signals are nobody's concern; a sync that fails
# ends all writing, and status, log and exit codes say so; a file that can't
# grow fails the writes that need it, until it can.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires jq --version
requires qemu-img --version
requires "$PYTHON" -c 'import nbd'
[ -z "$SANITIZER" ] || skip "a second preloaded library disturbs a sanitizer"
shim=$abs_top_builddir/tests/.libs/fault-shim.so
[ -f "$shim" ] || skip "there is no fault-shim.so"
[ "$qed_server" = nbdkit ] || skip "this is about our server"

cd "$tmpdir"
rule=$tmpdir/rule
: > "$rule"
cat > faulty-nbdkit <<END
#!/bin/sh
FAULT_RULE='$rule' LD_PRELOAD='$shim' exec '${NBDKIT:-nbdkit}' "\$@"
END
chmod +x faulty-nbdkit
NBDKIT=$tmpdir/faulty-nbdkit
export NBDKIT

# fails CALL SKIP TIMES ERRNO, from now on; fails short SEED; fails: no more.
fails () { echo "$*" > rule.new; mv rule.new "$rule"; }

faulty () { FAULT_RULE=$rule LD_PRELOAD=$shim timeout 60 "$@"; }

status ()
{
    timeout 60 qedctl status --control ctl --json | jq -e "$1" > /dev/null
}

# ---- Short transfers, signals ---------------------------------------------

for seed in 1 2 3; do
    fails short $seed
    rm -f disk.qed
    faulty qedctl create disk.qed 40M --cluster-size 4096 --table-size 2
    serve disk.qed
    model_test --size 41943040 --seed $seed --ops 300 --connections 2 \
        --cluster-size 4096 --table-size 2 --zero --trim --status \
        --save model "$uri"
    serve_stop
    serve disk.qed
    model_test --load model --verify-only --dump dump "$uri"
    serve_stop
    judge_image disk.qed dump

    head -c 8M /dev/urandom > base.raw
    cp base.raw base.was
    rm -f top.qed
    faulty qedctl create top.qed 8M --backing base.raw --backing-format raw
    serve top.qed
    model_test --size 8388608 --initial base.was --seed $seed --ops 100 \
        --zero --trim --dump dump "$uri"
    serve_stop
    judge_image top.qed dump
    faulty qedctl resize top.qed +1M
    faulty qedctl resize top.qed 8M --shrink --force
    faulty qedctl commit top.qed
    cmp base.raw dump || fail "commit with short transfers"
    "$PYTHON" "$srcdir/leaky-image.py" leaky.qed
    faulty qedctl check --repair=all --undo undo leaky.qed > out ||
        { cat out; fail "repair with short transfers"; }
    rm -f undo
done
fails

# ---- A sync fails ---------------------------------------------------------

make_image sync.qed 65536 4 64M
serve sync.qed control=ctl clean-after=0 2> log
client <<END
h.pwrite(b"a" * 65536, 0)
h.flush()
h.pwrite(b"b" * 65536, 1 << 20)
END
status '.images[0].state == "dirty"'
fails sync 0 1 5
client <<END
import errno
def expect(error, f, *args):
    try:
        f(*args)
    except nbd.Error as e:
        assert e.errnum == error, e
    else:
        raise SystemExit("it did not fail")
expect(errno.EIO, h.flush)
expect(errno.EIO, h.flush)
expect(errno.EIO, h.pwrite, b"c" * 512, 0)
expect(errno.EIO, h.pwrite, b"c" * 512, 2 << 20)
expect(errno.EIO, h.trim, 65536, 0)
assert h.pread(65536, 0) == b"a" * 65536
assert h.pread(65536, 1 << 20) == b"b" * 65536
END
status '.images[0] | .state == "failed" and .health == "failed"' ||
    { qedctl status --control ctl; fail "status doesn't say that it failed"; }
qedctl status --control ctl | grep -q "sync" ||
    { qedctl status --control ctl; fail "status doesn't say why"; }
grep -q "sync.qed: sync failed (.*): Input/output error: .*restart the" log ||
    { cat log; fail "the log doesn't tell"; }
need_check sync.qed || fail "NEED_CHECK was cleared"
cp sync.qed before.qed
serve_stop
cmp sync.qed before.qed || fail "a failed image was written to at the end"
fails
serve sync.qed
client <<END
assert h.pread(65536, 0) == b"a" * 65536
h.pwrite(b"d" * 65536, 3 << 20)
END
serve_stop
need_check sync.qed && fail "NEED_CHECK is set"
walk_free_image sync.qed

# ---- The file can't grow --------------------------------------------------

make_image grow.qed 65536 4 64M
serve grow.qed 2> log
client <<END
h.pwrite(b"a" * 512, 0)
END
fails resize 0 4294967295 28
client <<END
import errno
failed = 0
for i in range(1, 800):
    try:
        h.pwrite(b"b" * 65536, i % 900 * 65536)
    except nbd.Error as e:
        assert e.errnum == errno.ENOSPC, e
        failed += 1
assert failed > 0
assert h.pread(512, 0) == b"a" * 512
h.pwrite(b"c" * 512, 512)
h.flush()
END
fails
client <<END
h.pwrite(b"e" * 65536, 60 << 20)
h.flush()
END
serve_stop
walk_free_image grow.qed
grep -q "No space left" log || { cat log; fail "the log doesn't tell"; }

# ---- Locks ----------------------------------------------------------------

fails lock 0 4294967295 37
if faulty "$abs_top_builddir/nbdkit" -U - qed grow.qed --run true 2> err; then
    fail "served without a lock"
fi
grep -q "cannot lock the image: No locks available: use lock=off" err ||
    { cat err; fail "no word about locks"; }
"$abs_top_builddir/nbdkit" -U - qed grow.qed lock=off --run true

# ---- qedctl ---------------------------------------------------------------

# refused PATTERN COMMAND...: exit status 1, and says that.
refused ()
{
    local pattern=$1 code=0

    shift
    faulty "$@" > out 2> err || code=$?
    [ $code -eq 1 ] || { cat out err; fail "exit status $code: $*"; }
    grep -q "$pattern" err || { cat err; fail "it doesn't say $pattern: $*"; }
}

fails sync 0 1 5
refused "Input/output error" qedctl create new.qed 1G
[ ! -e new.qed ] || fail "a file is left that is no image"
fails sync 0 1 5
fails resize 0 1 28
refused "No space left" qedctl create new.qed 1G
[ ! -e new.qed ] || fail "a file is left that is no image"
for call in sync write read; do
    for n in {0..99}; do
        cp grow.qed r.qed
        fails $call $n 1 5
        if faulty qedctl resize r.qed +1G 2> err; then break; fi
        grep -q "Input/output error" err || { cat err; fail "$call $n"; }
        fails
        qedctl check --repair=all r.qed > out || { cat out; fail "$call $n"; }
        walk_free_image r.qed
        [ "$(header_field r.qed 48 8)" = 1140850688 ] ||
            qedctl resize r.qed 1088M || fail "$call $n"
    done
    [ $n -ge 1 ] && [ $n -lt 99 ] || fail "resize: $n calls of $call"
    walk_free_image r.qed
done
"$PYTHON" "$srcdir/leaky-image.py" leaky.qed
fails sync 1 1 5
refused "Input/output error" qedctl check --repair=all leaky.qed
fails
faulty qedctl check --repair=all leaky.qed > out || { cat out; fail "check"; }
