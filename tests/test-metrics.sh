#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl metrics: the text is as Prometheus's format demands, the numbers are
# those of a workload that is known, and a strange name does no harm.

set -e
. ./functions.sh
. "$srcdir/serve.sh"

requires jq --version
requires "$PYTHON" -c 'import nbd'

cd "$tmpdir"
name='a "b" \c.qed'

# The reader finds what is wrong.
bad ()
{
    if printf "$1" | "$PYTHON" "$srcdir/prometheus.py" >out 2>&1; then
        fail "this text passes: $1"
    fi
}
h='# HELP x_seconds x\n# TYPE x_seconds histogram\n'
bad 'x 1\n'
bad '# TYPE x gauge\nx 1\n'
bad '# HELP x x\n# TYPE x counter\nx 1\n'
bad '# HELP x x\n# TYPE x gauge\nx 1\nx 1\n'
bad '# HELP x_ms x\n# TYPE x_ms gauge\nx_ms 1\n'
bad "${h}x_seconds_bucket{le=\"1\"} 1\nx_seconds_sum 1\nx_seconds_count 1\n"
bad "${h}x_seconds_bucket{le=\"1\"} 2\nx_seconds_bucket{le=\"+Inf\"} 1\nx_seconds_sum 1\nx_seconds_count 1\n"
bad "${h}x_seconds_bucket{le=\"1\"} 1\nx_seconds_bucket{le=\"+Inf\"} 1\nx_seconds_sum 9\nx_seconds_count 1\n"
bad "${h}x_seconds_bucket{le=\"+Inf\"} 1\nx_seconds_sum 1\nx_seconds_count 2\n"

# metrics: those of now, in 'values'.
metrics ()
{
    qedctl metrics --control ctl >text
    "$PYTHON" "$srcdir/prometheus.py" text >values || { cat text; exit 1; }
}

# value NAME [REQUEST]: of the image.
value ()
{
    local labels

    labels=$(printf '%s' "$name" | sed 's/["\\]/\\&/g')
    jq -r --arg k "nbdkit_qed_$1{image=$labels${2:+,request=$2}}" \
        '.[$k]' values
}

# expect NUMBER NAME [REQUEST]
expect ()
{
    local is

    is=$(value "${@:2}")
    [ "$is" = "$1" ] || { cat text; fail "${*:2}: $is; expected $1"; }
}

make_image "$name" 65536 4 64M
serve "$name" control=ctl
for i in {1..100}; do
    if [ -S ctl ]; then break; fi
    sleep 0.1
done

# No kind is told of that nobody asked for, but its counter is there.
metrics
expect 0 requests_total read
expect null request_seconds_count read
expect 0 requests_in_flight
expect 0 oldest_request_seconds
expect 0 request_errors_total

cat >work.py <<'END'
import sys
import nbd

h = nbd.NBD()
h.connect_uri(sys.argv[1])
for i in range(5):
    h.pwrite(b"x" * 65536, i * 65536)
for i in range(300):
    h.pread(4096, i * 4096)
for i in range(2):
    h.flush()
for i in range(3):
    h.trim(65536, i * 65536)
h.zero(8192, 0)
h.shutdown()
END
"$PYTHON" work.py "$uri"
metrics
for i in 'write 5 327680' 'read 300 1228800' 'trim 3 196608' 'zero 1 8192'; do
    set -- $i
    expect $2 requests_total $1
    expect $2 request_seconds_count $1
    expect $3 request_bytes_total $1
done
expect 2 requests_total flush
expect 2 request_seconds_count flush
expect 0 requests_total cache
expect null request_seconds_count cache
expect 0 requests_in_flight
expect 0 request_errors_total
expect 0 failed

# One L1 page, one of an L2 table.
expect 2 table_loads_total

# Counters only grow, and the file for node_exporter says the same.
cp values before
"$PYTHON" work.py "$uri"
metrics
expect 600 requests_total read
jq -e --slurpfile b before '. as $now | $b[0] | to_entries |
      map(select(.key | test("_total|_count|_sum|_bucket"))) |
      all($now[.key] >= .value)' values >/dev/null || fail "a counter shrank"
qedctl metrics --control ctl --textfile qed.prom
"$PYTHON" "$srcdir/prometheus.py" qed.prom >from-file
[ "$(jq -S 'keys' values)" = "$(jq -S 'keys' from-file)" ] ||
    fail "--textfile has other samples"
serve_stop
