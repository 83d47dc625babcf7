# SPDX-License-Identifier: LGPL-2.1-or-later

"""What the benchmark measures of checks: their time and memory, of a file and
over a line, how soon a dirty image is served, and how long clients wait while
their image is checked.
"""

import collections
import contextlib
import os
import re
import subprocess
import threading
import time

import images
import report
from servers import BenchError, Server, builddir

LINE_DELAY = 5          # ms that each answer takes on its way
LINE_THREADS = 64       # a line delays answers; nbdkit's filter holds a thread
                        # for each of them meanwhile
TOOL_TIMEOUT = 120

# What clients do meanwhile; the writes are held back, for they take memory.
LOAD = ("--time_based=1", "--norandommap=1", "--iodepth=4",
        "--name=write", "--rw=randwrite", "--bs=64k", "--fsync=64",
        "--rate=200m",
        "--name=trim", "--rw=randtrim", "--bs=64k", "--rate=200m",
        "--name=read", "--rw=randread", "--bs=4k")


class CheckCase(collections.namedtuple("CheckCase", "name image kind time "
                                       "memory limit")):
    """time, memory: the ratios to be reached against qemu-img or qemu-nbd;
    limit: what our time has to stay below, in ms.
    """

    def describe(self):
        """For the list of cases."""
        targets = ["%s>=%g" % (what, target)
                   for what, target in (("qemu", self.time),
                                        ("memory: qemu", self.memory))
                   if target is not None]
        if self.limit is not None:
            targets.append("<%g ms" % self.limit)
        return "%-15s %-10s %-40s %s" % (self.name, self.image, self.kind,
                                         " ".join(targets))

    @property
    def servers(self):
        return ("ours",) if self.kind == "stalls" else ("ours", "qemu")

    def results(self, values):
        """values: for each server the rounds, each a tuple of figures."""
        def column(i):
            return {s: [figures[i] for figures in v]
                    for s, v in values.items()}

        if self.kind == "stalls":
            return [report.compare(self.name, "ms", column(0), {}, True,
                                   self.limit),
                    report.compare(self.name + "-none", "ms", column(1), {},
                                   True)]
        results = [report.compare(self.name, "ms", column(0),
                                  {"qemu": self.time}, True, self.limit)]
        if self.memory is not None:
            results.append(report.compare(self.name + "-mem", "KiB",
                                          column(1), {"qemu": self.memory},
                                          True))
        return results


# ---- One check ------------------------------------------------------------

def miscounted(path):
    """So many leaks qemu-img reports where there are none: it takes the file
    for longer, by a cluster for each 65535 clusters of 64 KiB.
    """
    with open(path, "rb") as f:
        cluster_size = images.HEADER.unpack(f.read(images.HEADER.size))[1]
    length = os.stat(path).st_size
    return length // (cluster_size - 1) - length // cluster_size


def run_tool(case, command, output):
    """Run it; return its exit status, its words, and milliseconds and KiB.
    time(1) tells of the memory of its child alone: what Python itself has
    would count in that of a child of ours.
    """
    start = time.monotonic()
    try:
        run = subprocess.run(["time", "-q", "-f", "%M", "-o", output,
                              *command], capture_output=True, text=True,
                             check=False, timeout=TOOL_TIMEOUT,
                             stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise BenchError("%s: %s did not end within %d seconds"
                         % (case.name, command[0], TOOL_TIMEOUT)) from None
    elapsed = time.monotonic() - start
    with open(output) as f:
        memory = int(f.read().split()[-1])
    return run.returncode, run.stdout + run.stderr, (elapsed * 1000, memory)


def run_check(case, server, name, path, output):
    """One check of what 'name' says, a file or a URI, which must find that
    the image is in order.  path: the file.
    """
    if server == "ours":
        command = [os.path.join(builddir(), "server", "qedctl"), "check",
                   name]
        expected = 0
    else:
        command = ["qemu-img", "check", "-f", "qed", name]
        expected = miscounted(path)
    status, text, figures = run_tool(case, command, output)
    leaks = re.search(r"^(\d+) leaked clusters", text, re.MULTILINE)
    if (status != (3 if expected else 0)
            or (int(leaks.group(1)) if leaks else 0) != expected):
        raise BenchError("%s: %s: exit status %d: %s"
                         % (case.name, " ".join(command), status,
                            text[-500:]))
    return figures


def check_over_line(case, server, path, directory):
    """Through a server whose answers take their time."""
    sock = os.path.join(directory, "sock")
    command = ["nbdkit", "-f", "-r", "-U", sock, "-t", str(LINE_THREADS),
               "--filter=delay", "file", path,
               "delay-read=%dms" % LINE_DELAY,
               "delay-extents=%dms" % LINE_DELAY]
    with Server(command, sock, os.path.join(directory, "log")):
        return run_check(case, server, "nbd+unix:///?socket=" + sock, path,
                         os.path.join(directory, "time"))


# ---- Opening a dirty image ------------------------------------------------

def measure_opening(case, server, path, directory):
    """Milliseconds from the server's start to the first answered read."""
    import nbd                          # not needed by other cases

    images.mark_dirty(path)
    sock = os.path.join(directory, "sock")
    if server == "ours":
        command = [os.path.join(builddir(), "nbdkit"), "-f", "-U", sock,
                   "qed", path]
    else:
        command = ["qemu-nbd", "-f", "qed", "-k", sock, "-t", "-e", "64",
                   "--cache=writeback", "--aio=threads", path]
    start = time.monotonic()
    with Server(command, sock, os.path.join(directory, "log"), 0.001):
        h = nbd.NBD()
        h.connect_unix(sock)
        h.pread(4096, h.get_size() // 2)
        elapsed = time.monotonic() - start
        writable = not h.is_read_only()
        h.shutdown()
    if not writable or images.state(path)[0] & images.NEED_CHECK:
        raise BenchError("%s: the repair at open failed" % case.name)
    return (elapsed * 1000,)


# ---- Clients of an image that is checked ----------------------------------

def longest_stall(job):
    """The longest time that a request took, in ms."""
    times = [job[side]["clat_ns"]["max"] for side in ("read", "write",
                                                      "trim")]
    times.append(job["sync"]["lat_ns"].get("max", 0))
    return max(times) / 1e6


class Checks:
    """Checks of an image that is served, one after the other, in a thread of
    their own until the end of the with statement.
    """

    def __init__(self, case, control):
        self.case = case
        self.control = control
        self.count = 0
        self.error = None
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, value, traceback):
        self.ended.set()
        self.thread.join()
        if kind is None and (self.error or self.count == 0):
            raise BenchError("%s: %s" % (self.case.name, self.error
                                         or "no check ended"))

    def run(self):
        command = [os.path.join(builddir(), "server", "qedctl"), "check",
                   "--control", self.control]
        while not self.ended.is_set() and not self.error:
            try:
                run = subprocess.run(command, capture_output=True, text=True,
                                     check=False, timeout=TOOL_TIMEOUT)
            except subprocess.TimeoutExpired:
                self.error = "a check did not end"
                return
            if run.returncode != 0:
                self.error = ("a check ended with %d: %s"
                              % (run.returncode, run.stdout + run.stderr))
            self.count += 1


def measure_stalls(case, path, directory, run_load):
    """The longest stall with checks all the time, and without any."""
    sock, control = (os.path.join(directory, name)
                     for name in ("sock", "control"))
    command = [os.path.join(builddir(), "nbdkit"), "-f", "-U", sock, "qed",
               path, "control=" + control]
    figures = []
    for checked in (True, False):
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                Server(command, sock, os.path.join(directory, "log")))
            if checked:
                stack.enter_context(Checks(case, control))
            figures.append(longest_stall(run_load(sock, LOAD)))
    run_check(case, "ours", path, path, os.path.join(directory, "time"))
    os.unlink(path)
    return tuple(figures)


def measure(case, server, path, directory, run_load):
    """The figures of a round, as CheckCase.results wants them.  directory is
    for sockets and the like; run_load runs fio on a socket.
    """
    if case.kind == "file":
        return run_check(case, server, path, path,
                         os.path.join(directory, "time"))
    if case.kind == "line":
        return check_over_line(case, server, path, directory)
    if case.kind == "opening":
        return measure_opening(case, server, path, directory)
    return measure_stalls(case, path, directory, run_load)
