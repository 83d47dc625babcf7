#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl through the control export: over a Unix socket, TCP and TLS, with
# control-export=check and =admin; and what it says, and doesn't do, where there
# is no control export, or none of ours.

set -e
. ./functions.sh
. "$srcdir/qedctl.sh"

requires "$PYTHON" -c 'import nbd'
requires jq --version
requires nbdkit --version
nbdkit --dump-config | grep -q '^tls=yes' || skip "nbdkit has no TLS"

cd "$tmpdir"
export XDG_RUNTIME_DIR=$tmpdir

# Two entries of one table name the same cluster.
qedctl create good.qed 1G
cp good.qed bad.qed
"$PYTHON" - <<'END'
import struct
table, data = 5 << 16, 9 << 16
with open("bad.qed", "r+b") as f:
    f.truncate(data + (1 << 16))
    f.seek(65536)
    f.write(struct.pack("<Q", table))
    f.seek(table)
    f.write(struct.pack("<2Q", data, data))
    f.seek(data)
    f.write(b"\1" * 65536)
END

# A port that is free, as far as one can tell.
port=$("$PYTHON" -c '
import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')
unix="nbd+unix:///?socket=$tmpdir/sock"
tcp="nbd://127.0.0.1:$port/"

# serve NBDKIT-ARGUMENT... qed PLUGIN-ARGUMENT...: its words in the file "log".
serve ()
{
  rm -f sock
  start_nbdkit -P pid "$@" 2>>log
}

# looks URI: what both kinds allow.
looks ()
{
  status 0 list "$1"
  grep -q '^open .* good.qed$' out
  status 0 list --json "$1"
  jq -e '.images[0].name == "good.qed" and .output_version == 1' out >/dev/null
  status 0 status "$1"
  grep -q '^virtual size: *1 GiB' out
  status 0 metrics "$1"
  grep -qx 'nbdkit_qed_size_bytes{image="good.qed"} 1073741824' out
  status 0 check "$1"
  grep -q 'is being served' out
  grep -q 'is in order.$' out
  status 0 check --json --data "$1"
  jq -e '.served and .complete and .problems == [] and .format == "qed" and
         ."check-errors" == 0 and ."total-clusters" == 16384' out >/dev/null
  status 0 status "$1"
  grep -q '^last check: *check at .*: clean (exit 0): 0 corruptions, ' out
}

# ---- Over a Unix socket ----

serve -U sock qed good.qed control-export=check
looks "$unix"
looks "nbd+unix:///good.qed?socket=$tmpdir/sock"
refused 'repair is not allowed here' check --repair "$unix"
refused 'repair is not allowed here' check --repair=leaks "$unix"
refused 'flush is not allowed here' flush "$unix"
refused 'no check of this image is running' check --cancel "$unix"
refused 'there is no export "x.qed"' check "nbd+unix:///x.qed?socket=$tmpdir/sock"
stop_nbdkit pid

serve -U sock qed good.qed control-export=admin
looks "$unix"
status 0 check --repair "$unix"
status 0 check --repair=leaks "$unix"
status 0 flush "$unix"
grep -q durable out
stop_nbdkit pid

# What is wrong, and repaired, in the same words as for a file.
serve -U sock qed bad.qed control-export=admin
status 2 check --json "$unix"
jq -e '.corruptions == 1 and .counts."cluster-shared" == 1 and
       (.problems[0] | .code == "cluster-shared" and .guest == 65536 and
        .severity == "corruption" and .value == "0x90000")' out >/dev/null
status 2 check "$unix"
grep -q '^cluster-shared: .*0x10000+0x10000 and 0x0$' out
grep -q 'is damaged' out
refused 'in use by its server, which has no --dry-run' \
        check --repair --dry-run "$unix"
refused 'in use by its server, which has no --undo' \
        check --repair --undo undo "$unix"
test ! -e undo
status 0 check --repair "$unix"
grep -q '^repaired: cluster-shared' out
grep -q 'was repaired and is in order.$' out
status 0 check "$unix"
stop_nbdkit pid
status 0 check bad.qed
qemu-img check -q bad.qed

# With dir= the URI names the image.
mkdir images
cp good.qed bad.qed images
serve -U sock qed dir=images control-export=admin
status 0 check "nbd+unix:///bad.qed?socket=$tmpdir/sock"
status 0 check --repair "nbd+unix:///good.qed?socket=$tmpdir/sock"
refused 'has not just one image' check "$unix"
refused 'has not just one image' flush "$unix"
status 0 list "$unix"
test "$(wc -l <out)" -eq 2
stop_nbdkit pid

# ---- Over TCP: admin is refused without TLS ----

: >log
serve -i 127.0.0.1 -p $port qed good.qed control-export=check
looks "$tcp"
refused 'repair is not allowed here' check --repair "$tcp"
stop_nbdkit pid
serve -i 127.0.0.1 -p $port qed good.qed control-export=admin
for command in list status check flush metrics; do
  refused 'no control export, or not for this connection: .*nbds://' \
          $command "$tcp"
done
grep -q '127.0.0.1 port [0-9]*: the export "qed-control" is served over TLS' log
stop_nbdkit pid
serve -i 127.0.0.1 -p $port qed good.qed
refused 'no control export, or not for this connection: .*control-export=' \
        status "$tcp"
refused 'no control export' check "$tcp"
stop_nbdkit pid
refused 'cannot connect: .*refused.*: is the server running' status "$tcp"

# ---- TLS with pre-shared keys, and with certificates ----

key=$("$PYTHON" -c 'import secrets; print(secrets.token_hex(32))')
other=$("$PYTHON" -c 'import secrets; print(secrets.token_hex(32))')
echo "admin:$key" >keys
echo "admin:$other" >wrong
tls="nbds://admin@127.0.0.1:$port/?tls-psk-file=$tmpdir/keys"
serve -i 127.0.0.1 -p $port --tls=require --tls-psk=keys \
      qed good.qed control-export=admin
looks "$tls"
status 0 check --repair "$tls"
status 0 flush "$tls"
refused 'use nbds://' status "$tcp"
status 1 check "$tcp"
grep -q 'use nbds://' err
refused 'cannot connect: .*the key' status "${tls%/keys}/wrong"
refused 'cannot connect: .*the key' check "${tls/admin@/nobody@}"
stop_nbdkit pid

# Where TLS is optional, it decides.
serve -i 127.0.0.1 -p $port --tls=on --tls-psk=keys \
      qed good.qed control-export=admin
looks "$tls"
refused 'not for this connection: .*nbds://' status "$tcp"
stop_nbdkit pid
serve -i 127.0.0.1 -p $port qed good.qed control-export=check
refused 'cannot connect: .*does the server use TLS' status "$tls"
stop_nbdkit pid

if openssl version >/dev/null 2>&1; then
  mkdir pki
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca \
          -keyout pki/ca-key.pem -out pki/ca-cert.pem 2>/dev/null
  openssl req -newkey rsa:2048 -nodes -subj /CN=localhost \
          -keyout pki/server-key.pem -out pki/server.csr 2>/dev/null
  openssl x509 -req -days 2 -in pki/server.csr -CA pki/ca-cert.pem \
          -CAkey pki/ca-key.pem -CAcreateserial -out pki/server-cert.pem \
          -extfile <(echo subjectAltName=DNS:localhost,IP:127.0.0.1) \
          2>/dev/null
  serve -i 127.0.0.1 -p $port --tls=require --tls-certificates=pki \
        qed good.qed control-export=admin
  looks "nbds://localhost:$port/?tls-certificates=$tmpdir/pki"
  status 0 check --repair "nbds://localhost:$port/?tls-certificates=$tmpdir/pki"
  # Not if another authority is trusted.
  mkdir strangers
  openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca \
          -keyout strangers/ca-key.pem -out strangers/ca-cert.pem 2>/dev/null
  refused 'cannot connect: .*certificates' \
          status "nbds://localhost:$port/?tls-certificates=$tmpdir/strangers"
  stop_nbdkit pid
fi

# ---- Servers that are none of ours: nothing is written ----

# not_ours: all commands, with any name, by a server on "sock" that keeps what
# is written; then the disk is as before.
not_ours ()
{
  for command in list status flush metrics 'check --cancel'; do
    refused "$1" $command "$unix"
    refused "$1" $command "nbd+unix:///disk?socket=$tmpdir/sock"
  done
  # A check takes it for an image file, which it is not, and says so.
  status 1 check "$unix"
  status 1 check --repair "$unix"
}

"$PYTHON" -c '
import random
open("disk", "wb").write(random.Random(1).randbytes(4 << 20))'
cp disk before
# other COMMAND...: not_ours for a server that exports the disk.
other ()
{
  local job i

  rm -f pid sock
  timeout 120 "$@" 2>/dev/null &
  job=$!
  for i in {1..100}; do
    if [ -s pid ]; then break; fi
    sleep 0.1
  done
  test -s pid || fail "it doesn't start: $*"
  not_ours 'no server of nbdkit-qed'
  kill "$(cat pid)"
  wait $job || :
  cmp disk before || fail "something was written: $*"
}

other nbdkit -f -P pid -U sock file disk
other nbdkit -f -P pid -U sock -o file disk
# Of the right size, and described as ours: only the magic is missing.
other nbdkit -f -P pid -U sock --filter=exportname file disk \
      'exportdesc=fixed:nbdkit-qed control'
# Of another version.
{ printf 'nbdkit-qed mail\n\0\0\0\2\0\0\0\2'; cat before; } |
  head -c 4194304 >disk
cp disk before
other nbdkit -f -P pid -U sock --filter=exportname file disk \
      'exportdesc=fixed:nbdkit-qed control'
if qemu-nbd --version >/dev/null 2>&1; then
  other qemu-nbd --pid-file=pid -k "$tmpdir/sock" -f raw -t -x disk \
        -D text disk
fi
