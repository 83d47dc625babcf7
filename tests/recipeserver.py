# SPDX-License-Identifier: LGPL-2.1-or-later

"""Serve the images of recipes, many with one server, and see them as a client
does.
"""

import errno
import json
import os
import signal
import socket
import subprocess
import time

import nbd

from recipetrial import LEAKS, TOLD, corruptions, demand, judge_report

PIECE = 1 << 16                 # what is read of each end of a cluster
NBDKIT = os.path.join(os.environ["abs_top_builddir"], "nbdkit")


class Server:
    """with Server(directory, command...) as server: one that listens at
    self.socket, and serves what is in a directory.  It must end well.
    """

    def __init__(self, directory, *command):
        self.directory = directory
        self.socket = os.path.join(directory, "socket")
        self.control = os.path.join(directory, "control")
        self.log = ""
        self.command = command

    def __enter__(self):
        with open(os.path.join(self.directory, "log"), "w") as log:
            self.process = subprocess.Popen(self.command, stderr=log,
                                            stdin=subprocess.DEVNULL)
        for i in range(600):
            if os.path.exists(self.socket) or self.process.poll() is not None:
                break
            time.sleep(.05)
        return self

    def __exit__(self, *exception):
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = "none, it didn't end"
        with open(os.path.join(self.directory, "log")) as f:
            self.log = f.read()
        if os.path.exists(self.socket):
            os.unlink(self.socket)
        if status != 0 and exception == (None, None, None):
            raise SystemExit("the server's status: %s\n%s" %
                             (status, self.log))

    def uri(self, export):
        return "nbd+unix:///%s?socket=%s" % (export, self.socket)

    def said(self, export):
        """What it said about an image."""
        return [line for line in self.log.splitlines()
                if "/%s: " % export in line]

    def ask(self, **request):
        """The reply of the control socket."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(60)
            s.connect(self.control)
            s.sendall(json.dumps(request).encode() + b"\n")
            with s.makefile("rb") as lines:
                return json.loads(lines.readline())

    def status(self, export):
        return self.ask(command="status", image=export)["images"][0]


class FileServer(Server):
    """The system's nbdkit: FileServer(directory, argument...)"""

    def __init__(self, directory, *arguments):
        super().__init__(directory)
        self.command = ("nbdkit", "-f", "--exit-with-parent", "-U",
                        self.socket, *arguments)


class DiskServer(Server):
    """Ours, of all images in the directory."""

    def __init__(self, directory, *parameters, read_only=False):
        super().__init__(directory)
        self.command = (NBDKIT, "-f", "--exit-with-parent", "-U", self.socket,
                        *["-r"] * read_only, "qed", "dir=" + directory,
                        "control=" + self.control, *parameters)


class QemuServer(Server):
    """QEMU's, of the file of one image."""

    def __init__(self, directory, export):
        super().__init__(directory)
        self.command = ("qemu-nbd", "-t", "-r", "-f", "raw", "-k", self.socket,
                        "-x", export, os.path.join(directory, export))


class Client:
    """Of an export: with Client(server, export) as client."""

    def __init__(self, server, export):
        self.server, self.export = server, export

    def __enter__(self):
        self.h = nbd.NBD()
        self.h.set_strict_mode(0)       # what the server refuses is tried
        self.h.set_export_name(self.export)
        self.h.connect_unix(self.server.socket)
        return self

    def __exit__(self, *exception):
        self.h.shutdown()

    def scanned(self):
        """Its status, when the server has read all tables."""
        for i in range(600):
            status = self.server.status(self.export)
            if status["scanned"]:
                return status
            time.sleep(.01)
        raise OSError("the tables were not read within 6 seconds")

    def error(self, call, *arguments):
        """The name of the error that it fails with, or None."""
        try:
            call(*arguments)
        except nbd.Error as e:
            return errno.errorcode.get(e.errnum, str(e.errnum))
        return None

    def read(self, count, at):
        """What the guest reads, or the error."""
        try:
            return self.h.pread(count, at)
        except nbd.Error as e:
            return errno.errorcode.get(e.errnum)


def judge_reads(client, view, lost, error=None):
    """That the guest reads what the image holds; or an error, where the
    server can't know which of two is right.  What is lost reads as 'error'.
    """
    for cluster in sorted(view.guest):
        start = cluster * view.C
        for at in {0, max(0, view.C - PIECE)}:
            count = min(PIECE, view.C, view.size - start - at)
            if count <= 0:
                continue
            got = client.read(count, start + at)
            if got == "EIO" and view.is_doubtful(cluster):
                continue
            if got != view.read(cluster, at, count):
                demand("reading guest offset 0x%x" % (start + at),
                       "other content" if isinstance(got, bytearray) else got,
                       "as it was")
    for start, end in lost[:20]:
        for at in {start, max(start, end - 512)}:
            demand("reading what is lost at guest offset 0x%x" % at,
                   client.error(client.h.pread, 512, at), error)


def judge_refusal(client, view, lost):
    """That no write is accepted, wherever it goes."""
    places = [c * view.C for c in view.guest][:1] + [s for s, _ in lost[:1]]
    for at in places + [0]:
        if at + 512 <= view.size:
            demand("writing at guest offset 0x%x" % at,
                   client.error(client.h.pwrite, b"\xee" * 512, at)
                   in ("EROFS", "EPERM"), True)


# ---- What a server's check tells ----

def found_served(trial):
    """NEED_CHECK is the server's own business, and only a field of the
    report; holes behind the last cluster in use are its room for growth.
    """
    view, found = trial.before, dict(trial.expect.found)
    found.pop("need-check", None)
    behind = sum(c >= view.end_of_use for c in view.free)
    if found.get("free", 0) > behind:
        found["free"] -= behind
    else:
        found.pop("free", None)
    return found


def status_of(found):
    return 2 if corruptions(found) else 3 if found.get("leak") else 0


def judge_same(trial, step, found):
    """The report is that of the closed image, but for what a server doesn't
    count, or has no room to tell.
    """
    report, closed = trial.report(step), trial.report("closed")
    judge_report(report, trial.before, found, trial.expect.lost,
                 trial.before.end_of_use)
    demand("problems", problems(report), problems(closed))
    for one in report, closed:
        for key in ("filename", "served", "problems", "problems-incomplete",
                    "counts", "leaks", "free"):
            one.pop(key, None)
    demand("the report", report, closed)


def problems(report):
    """So many as a server tells of each code."""
    lists = {}
    for p in report["problems"]:
        if p["code"] not in LEAKS + ("need-check",):
            told = lists.setdefault(p["code"], [])
            if len(told) < TOLD:
                told.append(p)
    return lists
