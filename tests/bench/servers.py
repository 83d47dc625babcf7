# SPDX-License-Identifier: LGPL-2.1-or-later

"""The servers that the benchmark starts and ends."""

import os
import signal
import socket
import subprocess
import time

SERVER_TIMEOUT = 20                     # seconds, to start and to stop


class BenchError(Exception):
    """One line: what went wrong, and what to do."""


def builddir():
    here = os.path.dirname(os.path.abspath(__file__))
    return os.environ.get("abs_top_builddir",
                          os.path.dirname(os.path.dirname(here)))


def server_ns(pid):
    """Processor time of the process so far."""
    with open("/proc/%d/stat" % pid) as f:
        fields = f.read().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return ticks * 1e9 / os.sysconf("SC_CLK_TCK")


class Server:
    """A server that runs within a with statement."""

    def __init__(self, command, sock, log, interval=0.01):
        # It dies with us even if we are killed.
        self.command = ["setpriv", "--pdeathsig", "TERM", *command]
        self.name = " ".join(command)
        self.sock = sock
        self.log = log
        self.interval = interval        # how often it is tried, seconds
        self.process = None

    def __enter__(self):
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True)
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind, value, traceback):
        if kind is not None:
            self.kill()
        else:
            self.stop()

    def wait_ready(self):
        """Wait until it greets a client."""
        limit = time.monotonic() + SERVER_TIMEOUT
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                break
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.settimeout(SERVER_TIMEOUT)
                    s.connect(self.sock)
                    if s.recv(8, socket.MSG_WAITALL) == b"NBDMAGIC":
                        return
            except OSError:
                pass
            time.sleep(self.interval)
        self.fail("it does not answer")

    def stop(self):
        """End it and wait until it has written everything back."""
        self.signal(signal.SIGTERM)
        try:
            status = self.process.wait(SERVER_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            self.fail("it does not stop")
        if status != 0:
            self.fail("it ended with status %d" % status)
        self.remove_socket()

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()
        self.remove_socket()

    def signal(self, number):
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            pass

    def remove_socket(self):
        try:
            os.unlink(self.sock)
        except FileNotFoundError:
            pass

    def fail(self, what):
        with open(self.log, errors="replace") as log:
            tail = log.read()[-2000:]
        raise BenchError("%s: %s\n%s" % (self.name, what, tail))
