#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The pending log and a standby on the same host: it takes over with all that
# was acknowledged, flushed or not, when the active server is killed, and has
# nothing to replay after a hand-over.  One that looks for logs elsewhere says
# that it found none, and has all that was flushed; what it left behind is
# never replayed on what came later.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/handover.sh"

requires jq --version
requires qemu-img --version
export XDG_RUNTIME_DIR=$(mktemp -d /dev/shm/nbdkit-qed-test.XXXXXX)
[ -d "$XDG_RUNTIME_DIR" ] || skip "no tmpfs"
cleanup_fn rm -rf "$XDG_RUNTIME_DIR"
[ "$(stat -f -c %T "$XDG_RUNTIME_DIR")" = tmpfs ] ||
    skip "/dev/shm is not tmpfs"
logs=$XDG_RUNTIME_DIR/nbdkit-qed/pending
elsewhere=$XDG_RUNTIME_DIR/elsewhere

# launch NAME [PARAMETER=VALUE...]: serve, nothing is written when it is idle;
# what the server says is in NAME.log.
launch ()
{
    start "$@" clean-after=0 2> "$tmpdir/$1.log"
}

# said NAME TEXT: the server has said that.
said ()
{
    grep -q "$2" "$tmpdir/$1.log" ||
        { cat "$tmpdir/$1.log" >&2; fail "server $1 did not say: $2"; }
}

expect_log ()
{
    local log=$(ctl "$1" status --json | jq -r '.images[0]."pending-log"')

    [ "$log" = "$2" ] || fail "the log of server $1 is $log, not $2"
}

# put NAME FROM TO VALUE [flush]: so many changes, of clusters far apart
put ()
{
    uri=$(uri_of "$1") client "$2" "$3" "$4" "${5:-}" <<'END'
first, last, value = map(int, args[:3])
for n in range(first, last):
    h.pwrite(bytes([value]) * 4096, n * 1000000)
if args[3] == "flush":
    h.flush()
END
}

# get NAME FROM TO VALUE: what 'put' has written is there
get ()
{
    uri=$(uri_of "$1") client "$2" "$3" "$4" <<'END'
first, last, value = map(int, args)
for n in range(first, last):
    assert h.pread(4096, n * 1000000) == bytes([value]) * 4096, n
END
}

log_file ()
{
    echo "$logs/$(stat -c %d-%i "$image")"
}

new_image ()
{
    rm -f "$image"
    make_image "$image" 4096 2 64M
}

# The last server ends, and has left an image that is in order.
finish ()
{
    stop "$1"
    [ ! -e "$(log_file)" ] || fail "the log is there after a clean end"
    [ "$(header_field "$image" 32 8)" = 0 ] || fail "autoclear bits are left"
    walk_free_image "$image"
}

echo "killed while clients write, most of it unflushed"
new_image
launch a
launch b standby=on
model_test --seed 1 --seconds 30 --connections 4 --may-die --max-count 300K \
    --cluster-size 4096 --table-size 2 --zero --trim --save "$tmpdir/model" \
    "$(uri_of a)" > "$tmpdir/model.out" &
worker=$!
for i in {1..300}; do need_check "$image" && break; sleep 0.1; done
expect_log a on
sleep 0.5
kill9 a
wait $worker || fail "the client did not get on until the kill"
grep -q "the server was gone" "$tmpdir/model.out" ||
    fail "the work was over before the kill"
model_test --load "$tmpdir/model" --verify-only --connections 4 \
    "$(uri_of b)" || fail "what was acknowledged is lost"
finish b

echo "killed again and again: each standby gets what the last one had"
new_image
launch a
put a 0 5 1
launch b standby=on
kill9 a
put b 5 6 2
launch c standby=on
put b 6 10 2                    # and no time to write the entries back
kill9 b
get c 0 5 1
get c 5 10 2
said c "acknowledged changes"
finish c

echo "handed over with unflushed data, and taken back"
new_image
launch a
put a 0 5 1
launch b standby=on
ctl a release >/dev/null
within 10 open b
get b 0 5 1
! grep -q "pending log" "$tmpdir/b.log" ||
    fail "something is left to replay after a hand-over"
put b 5 10 2
expect_log b on
[ -e "$(log_file)" ] || fail "the new server has no log"
stop a                          # whose end takes nothing from the other
[ -e "$(log_file)" ] || fail "the log of one server was removed by another"
launch c standby=on
kill9 b
get c 0 5 1
get c 5 10 2
put c 10 12 3
ctl c release >/dev/null
ctl c activate >/dev/null
get c 5 10 2
get c 10 12 3
finish c

echo "a standby that looks for logs elsewhere"
new_image
launch a
put a 0 5 1 flush
put a 5 60 2
launch b standby=on pending-log="$elsewhere"
kill9 a
get b 0 5 1
said b "the pending log of a killed server is not used (it is not there)"
put b 0 5 3 flush
put b 20 30 4
[ -n "$(ls "$elsewhere")" ] || fail "it has no log of its own"
[ -e "$(log_file)" ] || fail "the first one's log was removed"
launch c standby=on
kill9 b
get c 0 5 3
said c "is not used (another program opened the image since)"
[ ! -e "$(log_file)" ] || fail "a log that is of no use stays"
finish c

echo "a standby without a log of its own"
new_image
launch a
launch b standby=on pending-log=off
put a 0 5 1
kill9 a
get b 0 5 1                     # it has what the other promised
said b "acknowledged changes"
expect_log b off
put b 0 5 2 flush
put b 5 10 3
launch c standby=on
kill9 b
get c 0 5 2                     # and promises nothing
! grep -q "pending log" "$tmpdir/c.log" || fail "a log out of nowhere"
finish c
