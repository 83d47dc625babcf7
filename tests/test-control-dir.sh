#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# The control socket of a server with dir=: images are named as for clients; a
# check opens one that isn't open, and keeps it open; looking at them does
# neither.

. ./functions.sh
set -e

requires "$PYTHON" -c 'import nbd'
requires jq --version

cd "$tmpdir"
export XDG_RUNTIME_DIR=$tmpdir/runtime
mkdir -m 700 runtime
mkdir images
if [ "$(id -u)" -eq 0 ]; then
  links=/run/nbdkit-qed/by-inode
else
  links=$XDG_RUNTIME_DIR/nbdkit-qed/by-inode
fi

serve ()
{
  rm -f sock
  start_nbdkit -P pid -U sock qed dir=images control=ctl "$@" 2>log
}

client ()
{
  timeout 60 "$PYTHON" "$srcdir/control-client.py" ctl "$@"
}

ask ()
{
  client "$1" >reply || fail "$1: no reply"
  if [ $# -gt 1 ]; then holds "$2" "$1"; fi
}

holds ()
{
  jq -e "$1" reply >/dev/null ||
    { cat reply; fail "$2: expected of the reply: $1"; }
}

refuses ()
{
  ask "$2" '.error.code == "'"$1"'"'
}

link ()
{
  echo "$links/$(stat --format=%d-%i "images/$1")"
}

# until FILTER: of the list, within some seconds.
until_list ()
{
  local i

  for i in {1..200}; do
    ask '{"command":"list"}'
    if jq -e "$1" reply >/dev/null; then return; fi
    sleep 0.1
  done
  cat reply
  fail "it never came: $1"
}

# nbd NAME CODE: Python, with "h" connected to the export.
nbd ()
{
  timeout 60 "$PYTHON" -c "
import nbd, time
h = nbd.NBD()
h.set_export_name('$1')
h.connect_unix('sock')
$2" || fail "NBD $1: $2"
}

# Three images have tables of 256 KiB for each of 32 ranges of 2 GiB.
for name in a b c d e; do qedctl create images/$name.qed 64G; done
serve
for name in a b c d e; do
  nbd $name.qed '
for i in range(32):
    h.pwrite(b"x" * 4096, i << 31)
h.flush()'
done
stop_nbdkit pid

# ---- Names, and what is open ----

serve
ask '{"command":"list"}' '(.server.directory | endswith ("/images")) and
  [.images[].name] == ["a.qed", "b.qed", "c.qed", "d.qed", "e.qed"] and
  ([.images[] | select (.use != "closed")] == [])'
ask '{"command":"status"}' '.images == []'
ask '{"command":"status","image":"a.qed"}' \
    '.images == [{"name": "a.qed", "use": "closed"}]'
ask '{"command":"flush","image":"a.qed"}' '.flushed == false'
ask '{"command":"metrics"}' '.metrics[0].samples[0].value == 0'
for command in check repair flush; do
  refuses image-needed '{"command":"'$command'"}'
  refuses no-such-image '{"command":"'$command'","image":""}'
  refuses no-such-image '{"command":"'$command'","image":"a"}'
  refuses no-such-image '{"command":"'$command'","image":"../images/a.qed"}'
  refuses no-such-image '{"command":"'$command'","image":"qed-control"}'
done
refuses not-running '{"command":"check","image":"a.qed","action":"cancel"}'
ask '{"command":"list"}' '[.images[] | select (.use != "closed")] == []'
test ! -L "$(link a.qed)"

# A client opens one; looking at it doesn't keep it open.
nbd a.qed 'time.sleep(1)' &
until_list '.images[0].use == "open"'
test "$(readlink "$(link a.qed)")" = "$tmpdir/ctl"
ask '{"command":"status","image":"a.qed"}' '.images[0].clients == 1'
ask '{"command":"status"}' '[.images[].name] == ["a.qed"]'
ask '{"command":"metrics"}' '.metrics[0].samples[0].value == 1'
wait $!
SECONDS=0
until_list '.images[0].use == "closed"'
if [ $SECONDS -gt 15 ]; then fail "open for $SECONDS seconds"; fi
test ! -L "$(link a.qed)"

# A check opens it, and says so; then it is closed.
ask '{"command":"check","image":"b.qed"}' '.image == "b.qed" and
  .result."allocated-clusters" == 32'
until_list '.images[1].use == "closed"'
qemu-img check -q images/b.qed

# What can't be opened is told, with the reason.
echo nonsense >images/broken.qed
ask '{"command":"check","image":"broken.qed"}' '.error |
  .code == "cannot-open" and (.message | test ("not a QED image"))'
refuses cannot-open '{"command":"repair","image":"broken.qed"}'
rm images/broken.qed

# Several at once, but not any number; each is kept open until its end.
rate='"rate":1000'
checks=()
for name in a b c d; do
  client '{"command":"check","image":"'$name'.qed",'$rate'}' >reply.$name &
  checks+=($!)
done
until_list '[.images[0:4][] | select (.use != "open")] == []'
for i in {1..50}; do
  ask '{"command":"status"}'
  if jq -e '[.images[] | select (has ("running-check"))] | length == 4' \
        reply >/dev/null; then break; fi
  sleep 0.1
done
refuses too-many-checks '{"command":"check","image":"e.qed"}'
refuses already-running '{"command":"repair","image":"c.qed"}'
sleep 4                         # longer than an idle image stays open
ask '{"command":"list"}' '[.images[0:4][] | select (.use != "open")] == []'
for name in a b c; do
  ask '{"command":"check","image":"'$name'.qed","action":"cancel"}'
done
ask '{"command":"check","image":"d.qed","action":"continue","rate":0}'
wait "${checks[@]}"
for name in a b c; do
  cp reply.$name reply
  holds '.error.code == "canceled"' $name
done
cp reply.d reply
holds '.result.corruptions == 0' d
until_list '[.images[] | select (.use != "closed")] == []'
for name in a b c d; do qemu-img check -q images/$name.qed; done

# What a closed image's last check found is known when it is open again.
ask '{"command":"check","image":"b.qed"}' '.result.corruptions == 0'
until_list '.images[1].use == "closed"'
nbd b.qed 'time.sleep(0.2)'
ask '{"command":"status"}' '.images[0]."last-check".verdict == "clean"'

# The server ends while one runs.
client '{"command":"check","image":"a.qed","rate":1}' >reply.a &
until_list '.images[0].use == "open"'
SECONDS=0
stop_nbdkit pid
if [ $SECONDS -gt 20 ]; then fail "its end took $SECONDS seconds"; fi
wait $! || :
test ! -e ctl
if find "$links" -lname "$tmpdir/*" | grep .; then fail "left behind"; fi
if grep -v 'there is no export "\|broken.qed' log; then
  cat log
  fail "it complains"
fi
rm images/[b-e].qed

# ---- One image needs no name ----

serve
ask '{"command":"check"}' '.image == "a.qed"'

# Names that are no plain text, and many of them.
qedctl create $'images/q"uote\\ sp.qed' 1M
ask '{"command":"check","image":"q\"uote\\ sp.qed"}' \
    '.image == "q\"uote\\ sp.qed"'
cp images/a.qed $'images/latin\xe4.qed'
ask '{"command":"list"}' '[.images[].name] | index ("latin\\xe4.qed") != null'
for i in {1..1200}; do : >images/n$i.qed; done
ask '{"command":"list"}' '.more and (.images | length) == 500'
ask "$(jq -c '{"command": "list", "after": .images[499].name}' reply)" \
    '.more and (.images | length) == 500'
ask "$(jq -c '{"command": "list", "after": .images[499].name}' reply)" \
    '.more == false and (.images | length) == 203'
id=$(stat --format=%d-%i images/n77.qed)
ask '{"command":"list","file":"'$id'"}' '[.images[].name] == ["n77.qed"]'
stop_nbdkit pid
