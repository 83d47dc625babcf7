# SPDX-License-Identifier: LGPL-2.1-or-later

# For tests that boot a guest.  To be sourced after ../functions.sh by a script
# that has set
#   vm_source  the directory of this file
#   vm_cache   where the guest is built and kept between runs
#   vm_requests  where nbdkit's log filter notes what the guest asks for

# Build the guest; the test is skipped if that is impossible.
build_guest ()
{
  local reason status=0

  reason=$("$vm_source/build-guest.sh" "$vm_cache" 2>&1) || status=$?
  case $status in
    0) ;;
    77) skip "$reason" ;;
    *) fail "$reason" ;;
  esac
}

# expect_files SEED NAME MEBIBYTES
# Add the checksums of what a scenario's 'write_files' with the same arguments
# writes to $tmpdir/sums, from the host's own run of the generator.
expect_files ()
{
  local seed=$1 name=$2 mebibytes=$3

  mkdir -p "$tmpdir/expected/$name/small"
  awk -v seed="$seed" -v mebibytes="$mebibytes" \
      -v directory="$tmpdir/expected/$name" -f "$vm_source/generate.awk"
  (cd "$tmpdir/expected" && find "$name" -type f | sort |
     xargs sha256sum) >>"$tmpdir/sums"
  rm -r "$tmpdir/expected"
}

# Pack the scripts into an initramfs that the kernel unpacks over the first.
make_scenario ()
{
  local scenario=$1 port=$2 export=$3 root=$tmpdir/root

  rm -rf "$root"
  mkdir -p "$root/guest"
  cp "$vm_source/init" "$root/init"
  cp "$vm_source/guest-functions.sh" "$root/guest/functions"
  cp "$vm_source/generate.awk" "$root/guest/generate"
  cp "$vm_source/guest-$scenario.sh" "$root/guest/scenario"
  cp "$tmpdir/sums" "$root/guest/sums"
  chmod 755 "$root/init"
  cat >"$root/guest/env" <<EOF
GUEST_SCENARIO='$scenario'
GUEST_PORT='$port'
GUEST_EXPORT='$export'
EOF
  (cd "$root" && find . | "$vm_cache/busybox" cpio -o -H newc) \
    2>/dev/null >"$tmpdir/scenario.cpio"
  cat "$vm_cache/base.cpio" "$tmpdir/scenario.cpio" >"$tmpdir/initramfs"
}

# Boot the guest in the background, with one processor unless told otherwise:
# start_guest SCENARIO PORT EXPORT TIMEOUT [PROCESSORS]
# Its console is $tmpdir/console; what is written to descriptor 8 is typed.
start_guest ()
{
  local scenario=$1 timeout=$4 processors=${5:-1}

  make_scenario "$1" "$2" "$3"
  vm_scenario=$scenario
  : >"$tmpdir/console"
  rm -f "$tmpdir/keyboard"
  mkfifo "$tmpdir/keyboard"
  exec 8<>"$tmpdir/keyboard"
  # The processor is emulated everywhere, so that the test is the same on
  # hosts with and without virtualization.  On a busy host the emulated timer
  # may be late at boot, which the kernel would take for a broken one.
  timeout -k 5 "$timeout" \
    qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp "$processors" \
      -m 384 \
      -nodefaults -no-user-config -display none -no-reboot \
      -chardev stdio,id=console,signal=off -serial chardev:console \
      -netdev user,id=net -device virtio-net-pci,netdev=net,romfile= \
      -kernel "$vm_cache/vmlinuz" -initrd "$tmpdir/initramfs" \
      -append "console=ttyS0 quiet panic=-1 mitigations=off no_timer_check" \
      <&8 8>&- >"$tmpdir/console" 2>&1 &
  vm_pid=$!
}

# Whose fault it is that the guest waited: the requests that the server
# answered after more than two seconds, or not at all.
print_slow_requests ()
{
  [ -e "$vm_requests" ] || return 0
  awk '
    {
      split ($2, time, ":")
      now = (time[1] * 60 + time[2]) * 60 + time[3]
      answer = sub (/^\.\.\./, "", $4)
      request = $3 " " $4 " " $5
    }
    $5 !~ /^id=/ { next }
    !answer { begun[request] = now; line[request] = $0 }
    answer {
      took = now - begun[request]
      if (took > 2 || took < 0)
        print line[request], took " s"
      answered++
      if (took > longest) longest = took
      delete begun[request]
    }
    END {
      for (request in begun) print line[request], "no answer"
      print answered + 0 " requests answered, the slowest in " longest + 0 " s"
    }' "$vm_requests"
}

# Print the guest's console, and keep it, since this test has failed.
keep_console ()
{
  mkdir -p "$vm_cache/failed"
  cp "$tmpdir/console" "$vm_cache/failed/$vm_scenario.log"
  echo "$vm_scenario: the guest's console, kept in" \
       "$vm_cache/failed/$vm_scenario.log, ends so:"
  tail -n 60 "$tmpdir/console"
  print_slow_requests
}

# The console has carriage returns.
console_has ()
{
  tr -d '\r' <"$tmpdir/console" | grep -qx "$1"
}

# Wait until the guest asks for WORD.
wait_for_guest ()
{
  until console_has "GUEST-ASK $1"; do
    if ! kill -0 "$vm_pid" 2>/dev/null; then
      keep_console
      fail "$vm_scenario: the guest ended before it asked for '$1'"
    fi
    sleep 0.1
  done
}

answer_guest ()
{
  echo "$1" >&8
}

# Wait for the guest's end and judge by what it printed.
finish_guest ()
{
  local status=0

  wait "$vm_pid" || status=$?
  vm_pid=
  exec 8>&-
  if [ $status -ne 0 ]; then
    keep_console
    [ $status -ne 124 ] || fail "$vm_scenario: the guest took too long"
    fail "$vm_scenario: qemu ended with status $status"
  fi
  if console_has "GUEST-FAIL $vm_scenario" ||
     ! console_has "GUEST-OK $vm_scenario"; then
    keep_console
    fail "$vm_scenario: failed in the guest"
  fi
  tr -d '\r' <"$tmpdir/console" | grep "^$vm_scenario: " || true
}

# run_guest SCENARIO PORT EXPORT TIMEOUT [PROCESSORS]
run_guest ()
{
  start_guest "$@"
  finish_guest
}

# An interrupted test leaves no guest behind.
stop_guest ()
{
  if [ -n "$vm_pid" ]; then
    kill "$vm_pid" 2>/dev/null || true
    wait "$vm_pid" 2>/dev/null || true
    vm_pid=
  fi
}
cleanup_fn stop_guest
