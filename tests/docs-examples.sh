# SPDX-License-Identifier: LGPL-2.1-or-later

# For tests that run the examples of manual pages: see docs-blocks.py.

port=$("$PYTHON" -c '
import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])')

PATH=$abs_top_builddir:$PATH    # nbdkit with the plugin just built
export PATH

# What the examples' shell is told first.  The port is one that is free, and who
# types is not so fast that a server has not yet begun, or ended.
cat >"$tmpdir/prologue" <<END
set -e
port=$port
END
cat >>"$tmpdir/prologue" <<'END'
nbdkit ()
{
  local arg

  case " $* " in
    *" -U "*) command nbdkit "$@" || return ;;
    *) command nbdkit -p "$port" "$@" || return ;;
  esac
  for arg in "$@"; do
    case $arg in
      control=*) wait_for_control "${arg#*=}" ;;
    esac
  done
}
wait_for_control ()
{
  local i

  for i in {1..100}; do
    qedctl list --control "$1" >/dev/null 2>&1 && return
    sleep 0.1
  done
}
kill ()
{
  local i

  builtin kill "$@"
  for i in {1..300}; do
    builtin kill -0 "${@: -1}" 2>/dev/null || return 0
    sleep 0.1
  done
}
END

# Servers that examples have started write their process ids to files.
end_servers ()
{
  local f pid

  for f in $(find "$tmpdir" -name '*.pid'); do
    pid=$(cat "$f")
    kill "$pid" 2>/dev/null || continue
    timeout 20 tail --pid="$pid" -f /dev/null || kill -9 "$pid"
  done
}
cleanup_fn end_servers

# matches PATTERN-FILE FILE: is the one the other, with "..." for anything?
matches ()
{
  "$PYTHON" - "$1" "$2" <<'END'
import re, sys
pattern, text = (open(name).read().rstrip() for name in sys.argv[1:])
parts = [re.escape(part) for part in pattern.split("...")]
sys.exit(re.fullmatch(".*".join(parts), text, re.S) is None)
END
}

# run_examples PAGE: in a directory of its own.
run_examples ()
{
  local page=$1 dir=$tmpdir/$1 block script r=0 ran=

  mkdir -p "$dir/blocks" "$dir/home" "$dir/run" "$dir/lib"
  "$PYTHON" "$srcdir/docs-blocks.py" \
      "$abs_top_srcdir/docs/$page.pod" "$dir/blocks" \
      "10809=$port" "/run/=$dir/run/" "/var/lib/=$dir/lib/" \
      "nbds://server.example.com=nbds://localhost:$port" \
      "nbds://alice@server.example.com=nbds://alice@localhost:$port" \
      "nbd://server.example.com=nbd://localhost:$port" \
      "server.example.com=localhost" "python3=$PYTHON" || fail "$page.pod"

  script=$dir/script
  cp "$tmpdir/prologue" "$script"
  for block in "$dir"/blocks/*; do
    case $block in
      *.run | *.setup)
        printf 'cd .\n. %q >>%q 2>&1\n' "$block" "$block.out" >>"$script"
        ran=$block ;;
    esac
  done
  [ -n "$ran" ] || return 0
  echo "$page"
  (cd "$dir/home" &&
     XDG_RUNTIME_DIR=$dir/run timeout 300 bash "$script" </dev/null) || r=$?
  if [ $r -ne 0 ]; then
    tail -n 20 "$dir"/blocks/*.out
    fail "$page.pod: its examples ended with status $r"
  fi
  end_servers
}

# check_blocks PAGE: what the examples have printed, and the blocks that are
# no commands.
check_blocks ()
{
  local page=$1 block last=

  for block in "$tmpdir/$page"/blocks/*; do
    case $block in
      *.run) last=$block ;;
      *.output)
        if ! matches "$block" "$last.out"; then
          echo "---- $page.pod says"; cat "$block"
          echo "---- there is"; cat "$last.out"
          fail "$page.pod: the output is another"
        fi ;;
      *.json | *.request)
        jq . "$block" >/dev/null || fail "$page.pod: $(cat "$block")" ;;
      *.skip) echo "$page: not run: $(cat "$block")" ;;
    esac
  done
}
