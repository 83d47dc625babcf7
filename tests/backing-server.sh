# SPDX-License-Identifier: LGPL-2.1-or-later

# For tests whose images lie over an export of another server.  To be sourced
# after functions.sh and serve.sh.

backing_sock=$tmpdir/backing.sock
backing_uri="nbd+unix:///?socket=$backing_sock"
backing_pid=

# start_backing COMMAND...: a server on $backing_sock, ready when this returns.
start_backing ()
{
    local i

    rm -f "$backing_sock"
    "$@" > "$tmpdir/backing.log" 2>&1 &
    backing_pid=$!
    for i in {1..200}; do
        if listens "$backing_sock"; then return 0; fi
        kill -0 $backing_pid 2>/dev/null || break
        sleep 0.05
    done
    cat "$tmpdir/backing.log" >&2
    fail "this server did not start: $*"
}

# Whether a Unix socket takes connections, without making one.
listens ()
{
    [ -S "$1" ] && grep -q "00010000 .* $1\$" /proc/net/unix
}

# stop_backing SIGNAL: also a server that is stopped.
stop_backing ()
{
    [ -n "$backing_pid" ] || return 0
    kill -"$1" "$backing_pid" 2>/dev/null || :
    kill -CONT "$backing_pid" 2>/dev/null || :
    wait "$backing_pid" 2>/dev/null || :
    backing_pid=
}
cleanup_fn stop_backing KILL

# QEMU's server: start_qemu_backing FILE [FORMAT]
start_qemu_backing ()
{
    start_backing qemu-nbd -r -t -e 20 -f "${2:-qcow2}" -k "$backing_sock" \
        "$1"
}

# The system's nbdkit: start_nbdkit_backing ARGUMENT...
start_nbdkit_backing ()
{
    start_backing nbdkit -f -r -U "$backing_sock" "$@"
}

# timed COMMAND...: $took says how many tenths of a second it took, whatever
# its status.
timed ()
{
    local start=$(date +%s%N)

    "$@" || :
    took=$((($(date +%s%N) - start) / 100000000))
}
