#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# control=SOCKET: who may connect, where the socket comes from and goes to, what
# the commands answer, and that no client can harm the server or another.

. ./functions.sh
set -e

requires jq --version
requires "$PYTHON" -c 'import nbd'
requires setpriv --version

cd "$tmpdir"
export XDG_RUNTIME_DIR=$tmpdir/runtime
mkdir -m 700 runtime
qedctl create disk.qed 1G

if [ "$(id -u)" -eq 0 ]; then
  links=/run/nbdkit-qed/by-inode
else
  links=$XDG_RUNTIME_DIR/nbdkit-qed/by-inode
fi
link=$links/$(stat --format=%d-%i disk.qed)

# serve ARGUMENT...: nbdkit on "sock" and with the control socket "ctl".
serve ()
{
  rm -f sock
  start_nbdkit -P pid -U sock qed control=ctl "$@" 2>log
}

# nbd CODE: Python, with "h" connected to the server.
nbd ()
{
  timeout 60 "$PYTHON" -c "
import nbd
h = nbd.NBD()
h.connect_unix('sock')
$1" || fail "NBD: $1"
}

# ask REQUEST [FILTER]: its reply is in "reply"; the filter must hold for it.
ask ()
{
  timeout 60 "$PYTHON" "$srcdir/control-client.py" ctl "$1" >reply ||
    fail "$1: no reply"
  if [ $# -gt 1 ]; then holds "$2" "$1"; fi
}

holds ()
{
  jq -e "$1" reply >/dev/null ||
    { cat reply; fail "$2: expected of the reply: $1"; }
}

# refuses CODE REQUEST
refuses ()
{
  ask "$2" '.output_version == 1 and .error.code == "'"$1"'" and
            (.error.message | length) > 10'
}

# ---- The socket's file ----

# ends PATTERN ARGUMENT...: nbdkit does at once, with one line.
ends ()
{
  local r=0

  timeout 30 "$abs_top_builddir/nbdkit" -U - qed disk.qed "${@:2}" \
          --run 'echo served' >out 2>err || r=$?
  if [ $r -eq 0 ] || [ $r -ge 124 ] || [ -s out ] ||
       [ "$(wc -l <err)" -ne 1 ] || ! grep -q -- "$1" err; then
    cat out err
    fail "${*:2}: exit $r; expected 1 and one line with '$1'"
  fi
}

long=$(printf 'x%.0s' {1..108})
ends 'control: the value is missing'    control=
ends 'control=.*before'                 control=ctl control=ctl
ends "control=.*$long: the path of a socket may have 107" "control=$long"
ends 'control=.*nowhere/ctl: cannot bind.*No such file' control=nowhere/ctl
echo precious >file
ends 'control=.*/file: .*no socket' control=file
grep -qx precious file
ln -s nowhere.sock symlink
ends 'control=.*/symlink: .*no socket' control=symlink
"$abs_top_builddir/nbdkit" qed --help | grep -q '^control='

serve disk.qed
ask '{"command":"list"}' '.images | length == 1'
test "$(stat --format='%a %u' ctl)" = "600 $(id -u)"
test "$(readlink "$link")" = "$tmpdir/ctl"
# Another server would take this one's place.
qedctl create other.qed 1M
r=0
timeout 30 "$abs_top_builddir/nbdkit" -U - qed other.qed control=ctl \
        --run true 2>err || r=$?
test $r -eq 1
grep -q 'control=.*/ctl: another server uses this socket' err
ask '{"command":"list"}' '.images | length == 1'
stop_nbdkit pid
if [ -e ctl ] || [ -L "$link" ]; then fail "something was left behind"; fi
if [ -s log ]; then cat log; fail "it complains"; fi

# A server that was killed leaves its socket and its link; the next one
# replaces them.
serve disk.qed
ask '{"command":"list"}' '.images | length == 1'
kill_nbdkit pid
test -S ctl
test -L "$link"
serve disk.qed
ask '{"command":"list"}' '.images | length == 1'
# Whoever has replaced one of them keeps it.
rm ctl
echo precious >ctl
ln -sfn elsewhere "$link"
stop_nbdkit pid
grep -qx precious ctl
test "$(readlink "$link")" = elsewhere
rm ctl "$link"

# ---- What is answered ----

serve disk.qed
nbd 'h.pwrite(b"1" * 65536, 1 << 20)
h.pread(512, 0)
h.flush()'
server=$(cat pid)
ask '{"command":"list"}' '.output_version == 1 and .more == false and
  .server.pid == '$server' and .server."read-only" == false and
  (.images | length) == 1 and .images[0].name == "disk.qed" and
  .images[0].use == "open" and
  .images[0].file == "'$(stat --format=%d-%i disk.qed)'"'
ask '{"command":"list","file":"'$(stat --format=%d-%i disk.qed)'"}' \
    '.images | length == 1'
ask '{"command":"list","file":"1-1"}' '.images == []'
ask '{"command":"list","after":"disk.qed"}' '.images == []'
ask '{"command":"list","after":"a"}' '.images | length == 1'

for image in '' ',"image":""' ',"image":"disk.qed"'; do
  ask '{"command":"status","id":"x"'"$image"'}' '.id == "x" and
    (.images | length) == 1 and (.images[0] |
     .name == "disk.qed" and .path == "'"$PWD"'/disk.qed" and
     .state == "dirty" and ."need-check" and .access == "writable" and
     .scanned and ."virtual-size" == 1073741824 and
     ."cluster-size" == 65536 and ."file-size" >= 65536 * 10 and
     ."used-bytes" == 65536 * 10 and ."freed-clusters" == 0 and
     ."cached-pages" >= 2 and ."cached-pages-max" >= ."cached-pages" and
     ."dirty-pages" == 0 and has("last-check") == false)'
done
for i in {1..200}; do
  ask '{"command":"status"}'
  if jq -e '.images[0].state == "clean"' reply >/dev/null; then break; fi
  sleep 0.1
done
ask '{"command":"status"}' '.images[0] | .state == "clean" and
  ."need-check" == false and ."file-size" == 65536 * 10'
ask '{"command":"flush"}' '.flushed'
ask '{"command":"check"}' '.image == "disk.qed" and .problems == [] and
  .repairs == [] and (.result | .corruptions == 0 and .leaks == 0 and
  ."allocated-clusters" == 1 and ."total-clusters" == 16384 and
  ."check-errors" == 0 and ."need-check" == false)'
ask '{"command":"check","data":true,"action":"start","rate":0}' \
    '.result.corruptions == 0'
ask '{"command":"repair","what":"leaks"}' '.result.leaks == 0'
ask '{"command":"repair"}' '.result.corruptions == 0'
ask '{"command":"status"}' '.images[0]."last-check" |
  .what == "repair-all" and .verdict == "clean" and (.ended | length) == 20'
ask '{"command":"metrics"}' '[.metrics[] | {(.name): .}] | add |
  .nbdkit_qed_images_open.samples[0].value == 1 and
  .nbdkit_qed_size_bytes.type == "gauge" and
  .nbdkit_qed_size_bytes.samples ==
    [{"labels": {"image": "disk.qed"}, "value": 1073741824}] and
  .nbdkit_qed_last_check_exit_code.samples[0].value == 0 and
  .nbdkit_qed_clients.samples[0].value == 0 and
  (.nbdkit_qed_requests_total | .type == "counter" and
   ([.samples[] | select (.labels.request == "write").value] == [1]) and
   ([.samples[] | select (.labels.request == "read").value] == [1]) and
   ([.samples[] | select (.labels.request == "flush").value] == [1])) and
  ([.nbdkit_qed_request_bytes_total.samples[] |
    select (.labels.request == "write").value] == [65536]) and
  .nbdkit_qed_request_errors_total.samples[0].value == 0'

refuses bad-request '{}'
refuses bad-request '[]'
refuses bad-request '"list"'
refuses bad-request '{"command":"list"'
refuses bad-request '{"command":"list"} {"command":"list"}'
refuses bad-request '{"command":"list","command":"list"}'
refuses bad-request '{"command":null}'
refuses bad-request '{"command":["list"]}'
refuses bad-request '{"command":"list","unknown":1}'
refuses bad-request '{"command":"list","image":"disk.qed"}'
refuses bad-request '{"command":"status","image":1}'
refuses bad-request '{"command":"status","id":{}}'
refuses bad-request '{"command":"status","id":1.5}'
refuses bad-request '{"command":"check","data":1}'
refuses bad-request '{"command":"check","rate":-1}'
refuses bad-request '{"command":"check","rate":1e3}'
refuses bad-request '{"command":"check","rate":99999999999999999999}'
refuses bad-request '{"command":"check","action":"stop"}'
refuses bad-request '{"command":"repair","what":"nothing"}'
refuses unknown-command '{"command":"shutdown"}'
refuses unknown-command '{"command":""}'
refuses no-such-image '{"command":"status","image":"other.qed"}'
refuses no-such-image '{"command":"check","image":"other.qed"}'
refuses no-such-image '{"command":"flush","image":"../disk.qed"}'
refuses no-such-image '{"command":"repair","image":"qed-control"}'
refuses not-running '{"command":"check","action":"cancel"}'
ask '{"command":"nothing","id":-7}' '.id == -7'
# No more was logged than what names that do not exist cause.
if grep -v 'there is no export "' log; then cat log; fail "it complains"; fi

# ---- Clients that misbehave ----

timeout 240 "$PYTHON" "$srcdir/hostile-control.py" ctl "$server" \
        $([ -z "$SANITIZER" ] || echo sanitized) ||
  fail "they did harm"
kill -0 "$server"
stop_nbdkit pid

# ---- Other users ----

if [ "$(id -u)" -eq 0 ]; then
  serve disk.qed
  chmod 755 .
  cp "$srcdir/control-client.py" .
  chmod 644 control-client.py
  other='timeout 60 setpriv --reuid=65534 --regid=65534 --clear-groups'
  other="$other $PYTHON control-client.py ctl"
  if $other '{"command":"list"}' >reply 2>&1; then fail "the mode is wrong"; fi
  grep -q 'Permission denied' reply
  chmod 666 ctl
  $other '{"command":"list"}' >reply 2>&1 || :
  holds '.error.code == "forbidden"' "another user"
  stop_nbdkit pid

  # A server that becomes another user gives him its socket; root may use it.
  mkdir -m 755 theirs
  chown 65534 theirs disk.qed
  start_nbdkit -P theirs/pid -U - -u 65534 qed disk.qed control=theirs/ctl 2>log2
  test "$(stat --format='%a %u' theirs/ctl)" = "600 65534"
  grep -q 'warning: .* --control=.*/theirs/ctl only' log2
  ln -sfn theirs/ctl ctl2
  for user in 0 65534; do
    timeout 60 setpriv --reuid=$user --clear-groups "$PYTHON" \
            control-client.py theirs/ctl '{"command":"list"}' >reply
    holds '.images | length == 1' "user $user"
  done
  stop_nbdkit theirs/pid
  test ! -e theirs/ctl
  chown 0 disk.qed
fi
