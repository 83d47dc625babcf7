#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# kill -9 under fio's load, again and again, on the same image: fio's jobs
# write with checksums, region by region, and trim; what a finished job had
# flushed verifies after the restart, and the repaired image is in order.
# 'make check-kill TIMES=100' kills more often.
#
#   TIMES    kills
#   SEED     of the first round, each has its own; round N alone is SEED=N
#            TIMES=1, as far as time lets anything be repeated
#   PROMISE  flushed: what was flushed is there; acknowledged: what was
#            answered is, too

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires fio --version
requires qemu-img --version
requires jq --version
requires "$PYTHON" --version
fio --enghelp 2>/dev/null | grep -q nbd || skip "fio has no nbd engine"

promise=${PROMISE:-flushed}
case $promise in
    flushed | acknowledged) ;;
    *) fail "PROMISE=$promise is neither flushed nor acknowledged" ;;
esac
image=$tmpdir/disk.qed
finished=$tmpdir/finished       # a file a region, of what is to be found there
region=$((2 * 1048576))
writers=3 regions_each=4
blocks=(4k 16k 64k)

# add_job SEED REGION OPTION...: to 'jobs'
add_job ()
{
    jobs+=(--name="job$2" --offset=$(($2 * region)) --size=$region
           --bs=${blocks[$2 / regions_each]} --randseed="$1" "${@:3}")
}

# Run the jobs, all at once: run_fio OPTION...
run_fio ()
{
    (cd "$tmpdir" && timeout 120 fio --ioengine=nbd --uri="$uri" \
        --iodepth=16 --verify_state_save=0 --output=/dev/null \
        "$@" "${jobs[@]}")
}

# fio ends with success though the flush at its end has failed, so this is done
# apart.  In a subshell, since client ends the test.
flush ()
{
    [ "$promise" = acknowledged ] || (client <<<'h.flush()')
}

# write_region SEED REGION
write_region ()
{
    local jobs=()

    add_job "$1" "$2" --rw=randwrite --verify=crc32c --do_verify=0
    run_fio && flush
}

trim_region ()
{
    local jobs=()

    add_job 1 "$1" --rw=trim
    run_fio && flush
}

# Region after region, until the server is gone: writer NUMBER SEED
writer ()
{
    local number=$1 seed=$2 i at

    for ((i = 0; ; i++)); do
        at=$((number * regions_each + (seed + i) % regions_each))
        rm -f "$finished/$at"
        if [ $((RANDOM % 4)) -eq 0 ]; then
            trim_region $at || return 0
            echo zeros > "$finished/$at"
        else
            write_region $((seed + i)) $at || return 0
            echo $((seed + i)) > "$finished/$at"
        fi
        touch "$tmpdir/progress"
    done
}

# What finished jobs have left.
verify ()
{
    local at what jobs=()

    for at in $(cd "$finished" && ls); do
        what=$(cat "$finished/$at")
        if [ "$what" = zeros ]; then
            client $((at * region)) $region <<'END'
offset, size = map(int, args)
assert h.pread(size, offset).count(0) == size, "it isn't zeros"
END
        else
            add_job "$what" "$at" --rw=randwrite --verify=crc32c \
                --verify_only=1 --verify_fatal=1
        fi
    done
    [ ${#jobs[@]} -eq 0 ] || run_fio
}

# round SEED: it begins with a server that runs, and ends with another one
round ()
{
    local seed=$1 number pids=()

    RANDOM=$seed
    rm -f "$tmpdir/progress"
    for ((number = 0; number < writers; number++)); do
        writer $number $((seed * 1000 + number * 100)) 2>/dev/null &
        pids+=($!)
    done
    for i in {1..300}; do
        [ ! -e "$tmpdir/progress" ] || break
        sleep 0.1
    done
    sleep $((RANDOM % 2)).$((RANDOM % 900 + 100))
    serve_kill
    wait "${pids[@]}" || fail "round $seed: a writer failed"
    serve "$image" clean-after=1
    verified=$((verified + $(ls "$finished" | wc -l)))
    verify || fail "round $seed: what was $promise is lost"
    serve_stop
    walk_free_image "$image" || fail "round $seed"
    qedctl check "$image" > "$tmpdir/check.out" ||
        { cat "$tmpdir/check.out"; fail "round $seed: qedctl check"; }
}

new_image ()
{
    rm -rf "$finished"
    mkdir "$finished"
    rm -f "$image"
    make_image "$image" "$1" 2 $((writers * regions_each * region))
}

first=${SEED:-1} times=${TIMES:-2} verified=0
for ((n = first; n < first + times; n++)); do
    # A tenth of the rounds, and the first ones, begin with nothing.
    if [ $n -eq "$first" ] || [ $((n % 10)) -eq 0 ]; then
        if [ $((n / 10 % 2)) -eq 0 ]; then new_image 65536
        else new_image 4096; fi
    fi
    serve "$image" clean-after=1
    round $n
done
echo "$times kills, $verified regions verified"
[ $verified -gt 0 ] || fail "nothing was ever finished"

# This test can fail: a byte of a region that a job has finished is another.
serve "$image"
write_region 7 0
rm -f "$finished"/*
echo 7 > "$finished/0"
verify || fail "what has just been written is wrong"
client <<<'h.pwrite(b"!" * 512, 8192 + 1024)'
(verify) 2>/dev/null && fail "fio does not see a wrong sector"
serve_stop
