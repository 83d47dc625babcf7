#!/usr/bin/env bash
# SPDX-License-Identifier: LGPL-2.1-or-later

# qedctl top: tables and JSON without a terminal; on one, a live view that
# ends with q and with Ctrl-C, follows the size of the terminal, and gives it
# back as it was, also when the server goes away.

set -e
. ./functions.sh
. "$srcdir/serve.sh"
. "$srcdir/qedctl.sh"

requires jq --version
requires "$PYTHON" -c 'import nbd'

cd "$tmpdir"

make_image disk.qed 65536 4 64M
serve disk.qed control=ctl
wait_for_control

# ---- Without a terminal ---------------------------------------------------

# A fixed number of requests between two looks; which look sees how many of
# them is not ours to say, but all of them are seen.
qedctl top --control ctl --interval 0.5 --count 8 --json >json &
top=$!
sleep 1
"$PYTHON" -c '
import sys, time, nbd
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for i in range(200):
    h.pwrite(b"x" * 8192, i * 8192)
    time.sleep(0.001)
for i in range(400):
    h.pread(4096, i * 4096)
h.flush()
h.shutdown()' "$uri"
wait $top || fail "top --json failed"
[ "$(wc -l <json)" -eq 8 ] || { cat json; fail "not 8 lines"; }
jq -es 'def about(n): (. - n) | fabs < 0.001;
  length == 8 and
  (map(.seconds * .total["reads-per-second"]) | add | about(400)) and
  (map(.seconds * .total["writes-per-second"]) | add | about(200)) and
  (map(.seconds * .total["others-per-second"]) | add | about(1)) and
  (map(.seconds * .images[0]["read-bytes-per-second"]) | add | about(1638400)) and
  (map(.seconds * .images[0]["write-bytes-per-second"]) | add | about(1638400)) and
  all(.images[0].name == "disk.qed" and .seconds > 0.4) and
  all(if .total["reads-per-second"] + .total["writes-per-second"] > 0
      then .total["mean-seconds"] > 0 and .total["p99-seconds"] > 0
      else true end)' json >/dev/null || { cat json; fail "wrong numbers"; }

qedctl top --control ctl --interval 0.2 --count 2 >out
[ "$(grep -c '^IMAGE  *HEALTH ' out)" -eq 2 ] &&
    [ "$(grep -Ec '^disk.qed +(clean|dirty) +0 ' out)" -eq 2 ] &&
    [ "$(grep -c '^total ' out)" -eq 2 ] || { cat out; fail "not 2 tables"; }
if grep -q $'[\033\r]' out; then fail "escapes in a file"; fi

for args in '--interval 0' '--interval x' '--interval nan' '--count 0' \
            '--count -1' '--count 1x' 'a b'; do
    if qedctl top --control ctl $args >out 2>err; then
        fail "top $args is accepted"
    fi
    [ "$(wc -l <err)" -eq 1 ] && [ ! -s out ] || fail "top $args: not one line"
done
if qedctl top --control none >out 2>err; then fail "nobody is asked"; fi

# ---- On a terminal --------------------------------------------------------

cat >terminal.py <<'END'
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

LEAVE = b"\033[?25h\033[?1049l"


class Top:
    def __init__(self, rows, columns):
        self.out = b""
        self.master, slave = pty.openpty()
        # As it is in the end it would not outlive its last user.
        self.slave = slave
        self.resize(rows, columns)
        self.before = termios.tcgetattr(slave)
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            for fd in range(3):
                os.dup2(slave, fd)
            os.execvp("qedctl", ["qedctl", "top", "--control", "ctl",
                                 "--interval", "0.3"])

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ,
                    struct.pack("HHHH", rows, columns, 0, 0))

    def read(self, seconds):
        if select.select([self.master], [], [], seconds)[0]:
            self.out += os.read(self.master, 65536)

    def until(self, pattern, after=0):
        end = time.time() + 30
        while not re.search(pattern, self.out[after:], re.S):
            assert time.time() < end, (pattern, self.out[-2000:])
            self.read(0.1)

    def end(self, status):
        end = time.time() + 30
        pid = 0
        while pid == 0:
            assert time.time() < end, "it doesn't end"
            self.read(0.05)
            pid, is_ = os.waitpid(self.pid, os.WNOHANG)
        self.read(0.1)
        assert is_ == status << 8, is_
        assert self.out.startswith(b"\033[?1049h\033[?25l"), self.out[:40]
        assert self.out.count(LEAVE) == self.out.count(b"\033[?1049h")
        assert termios.tcgetattr(self.slave) == self.before, "not restored"
        return self.out[self.out.rindex(LEAVE) + len(LEAVE):]


def widths(screen):
    lines = re.sub(rb"\033\[[0-9;?]*[A-Za-z]", b"", screen).split(b"\r")
    return [len(line.strip(b"\n")) for line in lines]


# It shows something at once, and again and again; q ends it.
top = Top(24, 80)
top.until(rb"IMAGE.*disk\.qed.*total")
top.until(rb"(disk\.qed.*){3}")
assert termios.tcgetattr(top.slave) != top.before
assert max(widths(top.out)) <= 80, widths(top.out)
assert b"OLDEST" not in top.out

# A wider window has room for more, a small one for less.
at = len(top.out)
top.resize(24, 160)
top.until(rb"OLDEST.*total", at)
at = len(top.out)
top.resize(5, 30)
time.sleep(0.5)
at = len(top.out)
top.until(rb"\033\[H.*\033\[J", at)
at = top.out.index(b"\033[H", at)
assert max(widths(top.out[at:])) <= 30
os.write(top.master, b"xq")
assert top.end(0) == b""

# Ctrl-C, from the terminal; other signals.
top = Top(24, 80)
top.until(rb"total")
os.write(top.master, b"\3")
assert top.end(0).strip() in (b"", b"^C")
for number in signal.SIGTERM, signal.SIGHUP:
    top = Top(24, 80)
    top.until(rb"total")
    os.kill(top.pid, number)
    assert top.end(0) == b""

# Ctrl-Z gives the terminal back meanwhile.
top = Top(24, 80)
top.until(rb"total")
os.kill(top.pid, signal.SIGTSTP)
assert os.WIFSTOPPED(os.waitpid(top.pid, os.WUNTRACED)[1])
assert termios.tcgetattr(top.slave) == top.before
at = len(top.out)
os.kill(top.pid, signal.SIGCONT)
top.until(re.escape(LEAVE) + rb".*\033\[\?1049h.*total", at)
os.write(top.master, b"q")
assert top.end(0) == b""

# A server that hangs: Ctrl-C ends it all the same.
server = int(open(sys.argv[1]).read())
top = Top(24, 80)
top.until(rb"total")
os.kill(server, signal.SIGSTOP)
time.sleep(0.5)
os.write(top.master, b"\3")
top.end(0)
os.kill(server, signal.SIGCONT)

# One that ends: one line, on the screen from before.
top = Top(24, 80)
top.until(rb"total")
os.kill(server, signal.SIGTERM)
rest = top.end(1)
assert rest.startswith(b"qedctl: ") and rest.count(b"\n") == 1, rest
END
timeout 120 "$PYTHON" terminal.py "$pidfile"
serve_stop
