#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The export qed-control as docs/qed-control.pod describes it: the layout
# of a mailbox, what may be written to it, and that nothing else is possible.

. ./functions.sh
set -e

requires "$PYTHON" -c 'import nbd'

cd "$tmpdir"
export XDG_RUNTIME_DIR=$tmpdir
nbdkit=$abs_top_builddir/nbdkit
qedctl create disk.qed 128G
start_nbdkit -P pid -U sock qed disk.qed
timeout 60 "$PYTHON" -c '
import nbd
h = nbd.NBD()
h.connect_unix("sock")
for i in range(64):
    h.pwrite(b"x" * 4096, i << 31)
h.flush()'
stop_nbdkit pid

rm -f sock
start_nbdkit -P pid -U sock qed disk.qed control-export=admin
timeout 120 "$PYTHON" "$srcdir/mailbox-client.py" sock
# Its end is not held up by a client, nor by what that asked for.
timeout 120 "$PYTHON" - <<'END' &
import nbd, struct, time
h = nbd.NBD()
h.set_export_name("qed-control")
h.connect_unix("sock")
text = b'{"command":"check","rate":1}'
h.pwrite(struct.pack(">QII", 1, 0, len(text)) + text, 0x10000)
open("ready", "w").close()
time.sleep(30)
END
client=$!
for i in {1..100}; do
  if [ -e ready ]; then break; fi
  sleep 0.1
done
SECONDS=0
stop_nbdkit pid
if [ $SECONDS -gt 20 ]; then fail "its end took $SECONDS seconds"; fi
kill $client 2>/dev/null || :
wait $client || :
qemu-img check -q disk.qed

# ---- What the parameter and the name do ----

# ends PATTERN ARGUMENT...: nbdkit does at once, with one line.
ends ()
{
  local r=0

  timeout 30 "$nbdkit" -U - "${@:2}" --run 'echo served' >out 2>err || r=$?
  if [ $r -eq 0 ] || [ $r -ge 124 ] || [ -s out ] ||
       [ "$(wc -l <err)" -ne 1 ] || ! grep -q -- "$1" err; then
    cat out err
    fail "${*:2}: exit $r; expected 1 and one line with '$1'"
  fi
}

ends 'control-export=on: must be off, check or admin' \
     qed disk.qed control-export=on
ends 'control-export: the value is missing' qed disk.qed control-export=
ends 'does not work with .*-r: .*control=SOCKET' \
     -r qed disk.qed control-export=check
cp disk.qed qed-control
ends "qed-control: its name is that of the export" \
     qed qed-control control-export=check
"$nbdkit" qed --help | grep -q '^control-export='
"$nbdkit" qed --dump-plugin | grep -qx qed_control_export=qed-control

# exports ARGUMENT...: what a client gets of the names "qed-control" and "",
# and what is listed.
exports ()
{
  rm -f sock
  timeout 60 "$nbdkit" -U sock "$@" --run "$PYTHON"' - <<END
import nbd
for name in "qed-control", "":
    h = nbd.NBD()
    h.set_export_name(name)
    h.set_full_info(True)
    try:
        h.connect_unix("sock")
        print(name, h.get_export_description(), h.get_size(), sep=",")
    except nbd.Error:
        print(name, "refused", sep=",")
h = nbd.NBD()
h.set_opt_mode(True)
h.connect_unix("sock")
h.opt_list(lambda name, description: print("listed", name, sep=","))
END
' >out 2>err
}

disk=",nbdkit-qed disk,137438953472
listed,disk.qed"
exports qed disk.qed
test "$(cat out)" = "qed-control,refused
$disk"
grep -q 'there is no export "qed-control"' err
for mode in check admin; do
  exports qed disk.qed control-export=$mode
  test "$(cat out)" = "qed-control,nbdkit-qed control,4194304
$disk"
done
exports qed disk.qed control-export=off
grep -q 'qed-control,refused' out
# A disk of that name is one, as long as there is no other meaning.
exports qed qed-control
grep -qx 'qed-control,nbdkit-qed disk,137438953472' out

mkdir images
mv disk.qed images
exports qed dir=images control-export=check
grep -qx 'qed-control,nbdkit-qed control,4194304' out
grep -c listed out | grep -qx 1
exports qed dir=images
grep -qx 'qed-control,refused' out
