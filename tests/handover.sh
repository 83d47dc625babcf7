# SPDX-License-Identifier: LGPL-2.1-or-later

# Several servers of one image, each with a name, and steps to hand it over.
# To be sourced after functions.sh and serve.sh.

# The links from files to servers belong to this test.
export XDG_RUNTIME_DIR=$tmpdir

image=$tmpdir/disk.qed

# start NAME [PARAMETER=VALUE...]: serve $image.
start ()
{
    local name=$1

    shift
    rm -f "$tmpdir/$name.sock"
    start_nbdkit -P "$tmpdir/$name.pid" -U "$tmpdir/$name.sock" \
        qed "$image" control="$tmpdir/$name.control" "$@"
}

stop ()
{
    stop_nbdkit "$tmpdir/$1.pid" || fail "server $1 ended with status $?"
}

kill9 ()
{
    kill_nbdkit "$tmpdir/$1.pid"
}

uri_of ()
{
    echo "nbd+unix:///?socket=$tmpdir/$1.sock"
}

# ctl NAME COMMAND [ARGUMENT...]
ctl ()
{
    local name=$1 command=$2

    shift 2
    timeout 60 qedctl "$command" --control "$tmpdir/$name.control" "$@"
}

# What a server says of the image: open, standby, released ...
state_of ()
{
    ctl "$1" list --json | jq -r '.images[0].use'
}

expect_state ()
{
    local state=$(state_of "$1")

    [ "$state" = "$2" ] || fail "server $1 is $state, not $2"
}

# within SECONDS STATE NAME...: exactly one of the servers comes to be in this
# state; its name is $who.
within ()
{
    local limit=$1 state=$2 name n i

    shift 2
    for ((i = 0; i <= limit * 10; i++)); do
        n=0
        for name; do
            [ "$(state_of "$name")" = "$state" ] || continue
            n=$((n + 1))
            who=$name
        done
        [ $n -ne 1 ] || return 0
        [ $n -eq 0 ] || fail "$n of the servers $* are $state"
        sleep 0.1
    done
    fail "none of the servers $* is $state within $limit s"
}

# nbd_io NAME COMMAND...: by a client of a server
nbd_io ()
{
    local name=$1

    shift
    io raw "$(uri_of "$name")" "$@"
}

# What was leaked when a server was killed may still be.
expect_no_corruption ()
{
    local status=0

    qedctl check "$image" > "$tmpdir/check.out" || status=$?
    [ $status -eq 0 ] || [ $status -eq 3 ] ||
        { cat "$tmpdir/check.out" >&2; fail "the image is damaged"; }
    need_check "$image" && fail "NEED_CHECK is set"
    return 0
}

# What a standby must not have done: the image is as in the copy.
expect_untouched ()
{
    cmp "$image" "$tmpdir/before.qed" || fail "the image was written to"
}
