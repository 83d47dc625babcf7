# SPDX-License-Identifier: LGPL-2.1-or-later

# Recorded sessions of a real server, and power cuts of them.  To be sourced
# after functions.sh and serve.sh.
#
#   $states   power cuts of each session
#   $seed     of everything that is drawn; what meets in time is the machine's
#   $real     one state in so many is served and repaired by the programs

power=$abs_top_builddir/tests/power
files=$tmpdir/files             # where the image lies
mnt=$tmpdir/mnt                 # where the server sees it
session_count=0
writes_per_session=20000

power_requires ()
{
    [ -x "$power/record-fs" ] || skip "record-fs wasn't built: no fuse3"
    [ -w /dev/fuse ] || skip "/dev/fuse can't be used here"
    requires fusermount3 --version
    requires qemu-img --version
    mkdir "$files" "$mnt"
    cleanup_fn unmount
}

unmount ()
{
    mountpoint -q "$mnt" && fusermount3 -u "$mnt"
    [ -z "$recorder" ] || wait "$recorder" || :
    recorder=
}

# What failed is kept: the session, and with it the way to reproduce it.
keep_session ()
{
    local kept=${POWER_KEEP:-$abs_top_builddir/tests/power-failed}

    mkdir -p "$kept"
    rm -rf "$kept/${session##*/}-$name"
    cp -r --sparse=always "$session" "$kept/${session##*/}-$name"
    fail "$name: $1; the session is kept as $kept/${session##*/}-$name"
}

# record IMAGE-PARAMETERS... : mount the recorder and serve the image on it
record ()
{
    session_count=$((session_count + 1))
    session=$tmpdir/session-$session_count
    first=$((session_count * writes_per_session))
    mkdir "$session"
    cp --sparse=always "$files/disk.qed" "$session/begin"
    "$power/record-fs" "$files" disk.qed "$session" "$mnt" &
    recorder=$!
    for i in {1..100}; do
        mountpoint -q "$mnt" && break
        sleep 0.05
    done
    mountpoint -q "$mnt" || fail "record-fs did not mount"
    serve "$mnt/disk.qed" "$@"
}

# guest REQUESTS [OPTION...]
guest ()
{
    local requests=$1

    shift
    timeout 120 "$power/power-client" --seed $((seed + session_count)) \
        --places "$seed" --first $first --requests "$requests" \
        --cluster "$cluster" "$@" "$uri" "$session"
}

# judge_session STATES [OPTION...]: cut the power, so many times
judge_session ()
{
    local count=$1

    shift
    timeout 7200 "$power/power-judge" --seed $((seed + session_count)) \
        --states "$count" --first $first $backing_options "$@" "$session"
}

# The session is over: end_session [OPTION...]
end_session ()
{
    unmount
    judge_session "$states" --real "$real" \
        --nbdkit "$abs_top_builddir/nbdkit" \
        --real-file "$files/state.qed" --final "$files/disk.qed" \
        --next "$tmpdir/next.qed" "$@" ||
        keep_session "the judge ended with status $?"
}

# A sync that was none must be noticed: prove STATES EACH
prove ()
{
    local status=0

    judge_session "$1" --drop-syncs "$2" 2> "$tmpdir/proof" || status=$?
    if [ $status -ne 1 ] || ! grep -q VIOLATION "$tmpdir/proof"; then
        cat "$tmpdir/proof" >&2
        fail "$name: one sync in $2 is a lie, and the judge ends with $status"
    fi
    grep VIOLATION "$tmpdir/proof"
}

# power_image NAME CLUSTER-SIZE TABLE-SIZE raw|qed|none
power_image ()
{
    local size=$((($2 < 65536 ? 32 : $2 < 1048576 ? 64 : 512) * 1048576))
    local sectors=$((size / 512 - 64 * 9))

    name=$1 cluster=$2 backing_options=
    echo "--- $name: clusters of $2, tables of $3, backing $4, seed $seed"
    rm -f "$files"/*
    if [ "$4" = none ]; then
        qedctl create "$files/disk.qed" $size --cluster-size "$2" \
            --table-size "$3"
        return
    fi
    backing_options="--backing-sectors $sectors --backing-name base.$4"
    "$power/power-judge" --make-backing "$files/base.raw" $backing_options
    if [ "$4" = qed ]; then
        qemu-img convert -f raw -O qed "$files/base.raw" "$files/base.qed"
    fi
    qedctl create "$files/disk.qed" $size --cluster-size "$2" \
        --table-size "$3" --backing "base.$4" --backing-format "$4"
}

# A life of an image: from its birth to a clean end, a second server on the
# tables that are there, which is told to end in the middle of its work, then
# from a power cut to kill -9, and from another one to an end: the repairs at
# open are recorded, too, and power is cut in them: power_life REQUESTS
power_life ()
{
    record clean-after=1
    guest "$1" --pauses 1
    serve_stop
    end_session --clean

    record clean-after=0
    guest 100000 --may-die & worker=$!
    sleep 0.4
    serve_stop
    wait $worker || fail "$name: a request failed"
    end_session --clean --next "$tmpdir/next.qed"

    mv "$tmpdir/next.qed" "$files/disk.qed"
    record clean-after=1
    guest 100000 --may-die & worker=$!
    sleep 0.4
    serve_kill
    wait $worker || fail "$name: a request failed"
    end_session

    mv "$tmpdir/next.qed" "$files/disk.qed"
    record clean-after=0
    guest $(($1 / 2))
    serve_stop
    end_session --clean
}
