# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl, and what it is expected to say.  To be sourced after functions.sh;
# what a command prints is in the files out and err of the current directory.

# ends STATUS COMMAND...: the command ends so.
ends ()
{
  local r=0

  timeout 60 "${@:2}" >out 2>err </dev/null || r=$?
  if [ $r -ne "$1" ]; then
    cat out err
    fail "${*:2}: exit $r; expected $1"
  fi
}

# wrong PATTERN COMMAND...: exit 1, and one line on stderr that has the
# pattern.
wrong ()
{
  ends 1 "${@:2}"
  if [ "$(wc -l <err)" -ne 1 ] || ! grep -q -- "$1" err; then
    cat out err
    fail "${*:2}: expected one line with '$1'"
  fi
}

# status STATUS COMMAND ARGUMENT...: the same two for qedctl; refused PATTERN
# COMMAND ARGUMENT... also has nothing on stdout.
status ()
{
  ends "$1" qedctl "${@:2}"
}

refused ()
{
  wrong "$1" qedctl "${@:2}"
  [ ! -s out ] || { cat out; fail "qedctl ${*:2}: there is output"; }
}

# says PATTERN...: on stdout.
says ()
{
  local pattern

  for pattern; do
    grep -q -- "$pattern" out || { cat out; fail "expected '$pattern'"; }
  done
}

# json FILTER: true of what is on stdout.
json ()
{
  jq -e "$1" out >/dev/null || { cat out; fail "expected $1"; }
}

# Until the control socket is served: wait_for_control [SOCKET].
wait_for_control ()
{
  local i

  for i in {1..100}; do
    if qedctl list --control "${1-ctl}" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  fail "the control socket is not served"
}

# Until it is true of the status of the one image: until_status FILTER [SOCKET].
until_status ()
{
  local i

  for i in {1..200}; do
    status 0 status --control "${2-ctl}" --json
    if jq -e ".images[0] | $1" out >/dev/null; then return; fi
    sleep 0.1
  done
  cat out
  fail "it never came: $1"
}
