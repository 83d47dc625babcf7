#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl rebase and resize, interrupted: after SIGINT and SIGTERM the image is
# clean and as it was, and says so; after kill -9 it has its old content over
# the old backing file or the new one, its old size or the new one; and the
# command can be run again.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version

cd "$tmpdir"

size_of ()
{
    qedctl info --json "$1" | jq '.["virtual-size"]'
}

# no_corruptions: what a kill leaves may have leaks, that's all.
no_corruptions ()
{
    qemu-img check -f qed -r all i.qed > out 2>&1 || :
    qemu-img check -f qed --output=json i.qed > check.json || :
    [ "$(jq '.["check-errors"] + (.corruptions // 0)' < check.json)" = 0 ] || {
        cat out check.json
        fail "corruptions after kill -9"
    }
    need_check i.qed && fail "QEMU could not repair the image"
    return 0
}

# interrupt SIGNAL SECONDS ARGUMENT...: run qedctl, and send the signal so long
# after NEED_CHECK was set; or, with SECONDS "@N", after the command was started.
# $status is its exit status.
interrupt ()
{
    local job

    qedctl "${@:3}" > out 2> err &
    job=$!
    while kill -0 $job 2> /dev/null && [ "${2#@}" = "$2" ] &&
              ! need_check i.qed
    do :; done
    sleep "${2#@}"
    kill "-$1" $job 2> /dev/null || :
    status=0
    wait $job 2> /dev/null || status=$?
}

# ---- rebase ---------------------------------------------------------------

"$PYTHON" - <<'END'
import random
rng = random.Random(9)
with open("old.raw", "wb") as old, open("new.raw", "wb") as new:
    for i in range(96):
        data = rng.randbytes(1 << 20)
        old.write(data)
        new.write(bytes([i + 1]) * (1 << 20) if i % 3 else data)
END

same ()
{
    qemu-img compare -f qed -F raw i.qed old.raw > compare || {
        cat compare
        fail "another content"
    }
}

backing ()
{
    qedctl info --json i.qed | jq -r '.["backing-filename"]'
}

stopped=0
for round in "KILL 0" "KILL 0.05" "KILL 0.2" "KILL 0.4" "INT 0" "INT 0.1" \
             "TERM 0.2"; do
    set -- $round
    rm -f i.qed
    qedctl create --cluster-size 4K --backing old.raw --backing-format raw \
        i.qed 96M
    interrupt $1 $2 rebase --backing new.raw i.qed
    echo "rebase, $1 after $2 s: exit $status, over $(backing)"
    case $status in
    0)
        [ "$(backing)" = new.raw ] || fail "the wrong backing file"
        ;;
    1)
        [ "$(backing)" = old.raw ] || fail "the wrong backing file"
        grep -q "has the backing file and the content that it had; the command \
can be run again" err || fail "it doesn't say so: $(cat err)"
        need_check i.qed && fail "NEED_CHECK is left"
        stopped=$((stopped + 1))
        walk_free_image i.qed
        ;;
    137 | 130)                  # 130: before the signal was expected
        [ "$(backing)" = old.raw ] || [ "$(backing)" = new.raw ] ||
            fail "the wrong backing file"
        no_corruptions
        stopped=$((stopped + 1))
        ;;
    *)
        fail "exit $status"
        ;;
    esac
    same
    # Again.
    qedctl rebase --backing new.raw i.qed
    [ "$(backing)" = new.raw ] || fail "the wrong backing file"
    same
done
[ $stopped -ge 2 ] || fail "it was over each time before the signal"

# ---- resize ---------------------------------------------------------------

# With much to be hidden of the backing file, or to be cut off.
qemu-img convert -f raw -O qed -o cluster_size=4096 old.raw full.qed

# judge OLD NEW
judge ()
{
    local size=$(size_of i.qed)

    case $status in
    0)
        [ $size = $2 ] || fail "exit 0, but the size is $size"
        ;;
    1)
        [ $size = $1 ] || fail "exit 1, but the size is $size"
        grep -q "as before; the command can be run again" err ||
            fail "it doesn't say so: $(cat err)"
        need_check i.qed && fail "NEED_CHECK is left"
        ;;
    137 | 130)                  # 130: before the signal was expected
        [ $size = $1 ] || [ $size = $2 ] || fail "the size is $size"
        no_corruptions
        ;;
    *)
        fail "exit $status: $(cat err)"
        ;;
    esac
    # The old content, as far as it goes; the rest is zeros.
    cp old.raw model
    truncate -s $(($1 < $size ? $1 : $size)) model
    truncate -s $size model
    qemu-img compare -f qed -F raw i.qed model > compare || {
        cat compare
        fail "another content"
    }
}

# grown: what was once behind the end is not there.
grown ()
{
    local size=$(size_of i.qed)

    truncate -s $size model
    qedctl resize i.qed +32M
    truncate -s +32M model
    qemu-img compare -q -f qed -F raw i.qed model ||
        fail "what was cut off is there again"
}

M=$((1024 * 1024))
for delay in @0 @0.01 @0.04 0; do
    for signal in KILL INT; do
        rm -f i.qed
        qedctl create --cluster-size 4K --backing old.raw i.qed 16M
        interrupt $signal $delay resize i.qed 96M
        echo "hide, $signal after $delay s: exit $status, $(size_of i.qed)"
        judge $((16 * M)) $((96 * M))

        cp full.qed i.qed
        interrupt $signal $delay resize --shrink --force i.qed 16M
        echo "cut, $signal after $delay s: exit $status, $(size_of i.qed)"
        judge $((96 * M)) $((16 * M))
        grown
    done
done

# With much to be cleared behind the old end: 8 million zero clusters, and the
# image ends before them.
"$PYTHON" - <<'END'
import struct
size, table = 4096, 16 * 4096
with open("zeros.qed", "wb") as f:
    f.write(struct.pack("<IIIIQQQQQII", 0x00444551, size, 16, 1, 0, 0, 0, size,
                        1 << 20, 0, 0))
    f.seek(size)
    for i in range(1024):
        f.write(struct.pack("<Q", size + table * (i + 1)))
    f.seek(size + table)
    for i in range(1024):
        f.write(struct.pack("<Q", 1) * (table // 8))
END
: > old.raw
stopped=0
for round in "KILL 0" "KILL 0.1" "INT 0" "INT 0.05" "INT 0.1" "TERM 0"; do
    set -- $round
    cp zeros.qed i.qed
    interrupt $1 $2 resize i.qed 32G
    echo "clear, $1 after $2 s: exit $status, $(size_of i.qed)"
    judge $M $((32768 * M))
    [ $status = 0 ] || stopped=$((stopped + 1))
    qedctl resize i.qed 33G
    [ $(size_of i.qed) = $((33792 * M)) ] || fail "it can't be resized again"
    truncate -s 33G model
    qemu-img compare -q -f qed -F raw i.qed model || fail "another content"
done
[ $stopped -ge 2 ] || fail "it was over each time before the signal"
