#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# Everything at once: 16 connections that write, zero, trim, flush and read
# the same places, each read compared with a model, in tables that exceed the
# metadata cache, while others check, repair, pause, cancel, ask, flush, release
# and activate the image through both control doors.  Images without a backing
# file, over a raw one, over QED.  In the end the content, the tables and
# QEMU's opinion of them must be right.
#
# Changes are noted in a pending log, where there is a tmpfs for it.
#
# STRESS_SECONDS=N is for how long; 'make check-stress' takes minutes.  Without
# it there is one short round.  STRESS_SEED=N works at random elsewhere.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires qemu-img --version
requires jq --version
requires "$PYTHON" --version

seconds=${STRESS_SECONDS:-12}
seed=${STRESS_SEED:-1}
RANDOM=$seed
size=$((200 * 1024 * 1024 + 512))
image=$tmpdir/disk.qed
export XDG_RUNTIME_DIR=$tmpdir
pending=
if [ "$(stat -f -c %T /dev/shm)" = tmpfs ]; then
    pending=$(mktemp -d /dev/shm/nbdkit-qed-test.XXXXXX)
    cleanup_fn rm -rf "$pending"
fi

# A third of it each, but no longer than 20 seconds: rounds that begin anew.
round=$((seconds / 3))
[ $round -le 20 ] || round=20
[ $round -ge 1 ] || round=1

# ---- Those who steer -------------------------------------------------------

# door: the options that lead to the server, by one of its doors.
door ()
{
    if ((RANDOM % 3)); then
        door=(--control "$tmpdir/control")
    else
        door=("$uri")
    fi
}

# steer COMMAND [OPTION...]: it may come at a bad moment, which it must say; any
# other failure, corruptions among them, ends the test.
steer ()
{
    local status=0 said

    door
    said=$(timeout 120 qedctl "$@" "${door[@]}" 2>&1) || status=$?
    echo "$* ${door[0]}: $status" >> "$tmpdir/steered"
    case $status in
        0) ;;
        3) [ "$1" = check ] && return ;;&       # leaks
        1) grep -q "is running\|canceled\|not have the image\|has released it" \
               <<< "$said" && return ;;&
        *) echo "qedctl $* ${door[*]}: exit status $status: $said" \
               | tee -a "$tmpdir/wrong" >&2 ;;
    esac
}

# pause SHORT LONG: some milliseconds, now and then many.
pause ()
{
    local ms=$((RANDOM % $1))

    ((RANDOM % 8)) || ms=$((RANDOM % $2))
    sleep $((ms / 1000)).$(printf '%03d' $((ms % 1000)))
}

checks ()
{
    local n

    until [ -e "$tmpdir/over" ]; do
        n=$((RANDOM % 8))
        case $n in
            0|1) steer check ;;
            2) steer check --data ;;
            3) steer check --limit $((RANDOM * 32 + 4096)) ;;
            4) steer check --verbose ;;
            5) steer check --repair=leaks ;;
            *) steer check --repair ;;
        esac
        pause 100 1000
    done
}

interrupts ()
{
    until [ -e "$tmpdir/over" ]; do
        pause 300 1000
        case $((RANDOM % 4)) in
            0) steer check --cancel ;;
            1) steer check --continue --limit 100000000 ;;
            *) steer check --pause
               pause 300 500
               steer check --continue --limit 100000000 ;;
        esac
    done
    steer check --continue --limit 1000000000
}

questions ()
{
    until [ -e "$tmpdir/over" ]; do
        case $((RANDOM % 4)) in
            0) steer status ;;
            1) steer list ;;
            2) steer metrics ;;
            3) steer flush ;;
        esac
        pause 100 2000          # long enough for the clean timer
    done
}

handovers ()
{
    until [ -e "$tmpdir/over" ]; do
        pause 1500 3000
        steer release
        pause 20 300
        steer activate
    done
    steer activate
}

# ---- One round -------------------------------------------------------------

# work ARGUMENT...: the guests; their end is that of the others.
work ()
{
    local status=0

    model_test --seed $seed --connections 16 --depth 4 --max-count 512K \
        --size $size --seconds $round --cluster-size $cluster \
        --table-size $table --zero --trim --status --cache "${initial[@]}" \
        --save "$tmpdir/model" "$@" "$uri" || status=$?
    touch "$tmpdir/over"
    return $status
}

# stress CLUSTER-SIZE TABLE-SIZE [CREATE-OPTION...]: a new image, whose file
# has a leaked tail.
stress ()
{
    local jobs=() job

    cluster=$1 table=$2
    shift 2
    echo "seed $seed: clusters of $cluster, tables of $table; $*"
    rm -f "$image" "$tmpdir"/{over,wrong,steered,model,dump}
    (cd "$tmpdir" && qedctl create "$image" $size --cluster-size $cluster \
        --table-size $table "$@" >/dev/null)
    truncate -s +3M "$image"
    serve "$image" backing=any metadata-cache=256K clean-after=1 \
        control="$tmpdir/control" control-export=admin \
        ${pending:+pending-log="$pending"}
    [ -z "$pending" ] || [ "$(qedctl status --control "$tmpdir/control" --json |
        jq -r '.images[0]."pending-log"')" = on ] ||
        fail "there is no pending log"
    for job in checks interrupts questions handovers; do
        RANDOM=$((seed * 7 + ${#jobs[@]}))
        $job &
        jobs+=($!)
    done
    work || { touch "$tmpdir/over"; fail "seed $seed: the guests' work"; }
    for job in "${jobs[@]}"; do wait $job || fail "a job that steers"; done
    [ ! -e "$tmpdir/wrong" ] || fail "what was steered went wrong"
    echo "$(wc -l < "$tmpdir/steered") commands, $(grep -c ': 0$' \
        "$tmpdir/steered") carried out"
    qedctl check --control "$tmpdir/control" >/dev/null ||
        fail "seed $seed: the check of the served image: $?"
    serve_stop

    serve "$image" backing=any
    model_test --load "$tmpdir/model" --verify-only --connections 4 \
        "${initial[@]}" --dump "$tmpdir/dump" "$uri"
    serve_stop
    judge_image "$image" "$tmpdir/dump"
    qedctl check "$image" >/dev/null || fail "seed $seed: the last check: $?"
    seed=$((seed + 1))
}

# ---- The images ------------------------------------------------------------

random_file "$tmpdir/base.raw" $((60 * 1000 * 1000 + 1)) 1
(cd "$tmpdir" && qedctl create base.qed $size --cluster-size 16K \
    --table-size 4 --backing base.raw --backing-format raw >/dev/null)

end=$((SECONDS + seconds))
while :; do
    initial=(--initial "$tmpdir/base.raw")
    stress 4096 4 --backing base.qed --backing-format qed
    [ -n "$STRESS_SECONDS" ] || break
    stress 65536 4 --backing base.raw --backing-format raw
    initial=()
    stress 4096 2
    [ $SECONDS -lt $end ] || break
done
