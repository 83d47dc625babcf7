# SPDX-License-Identifier: LGPL-2.1-or-later

"""Check images that lie on a storage that fails in some places:
recipe-failing.py DIRECTORY RECIPE...

DIRECTORY is where it works.  An NBD server fails where the recipe says so; it
is checked as such, and, where there is FUSE, as a local file, by qedctl and by
a server.
"""

import os
import subprocess
import sys
import time

from recipetrial import Trial, demand, finish, judge_report
from recipeserver import Client, FileServer, Server, NBDKIT, judge_refusal

READ = """
if %s; then echo EIO read error >&2; exit 1; fi
dd if="%s" iflag=skip_bytes,count_bytes skip=$4 count=$3 bs=64K status=none
"""
WRITE = """
dd of="%s" oflag=seek_bytes seek=$4 bs=64K conv=notrunc status=none
"""


class FailingServer(FileServer):
    """Of the file of an image."""

    def __init__(self, trial):
        fails = " || ".join(
            "[ $4 -lt %d -a $(($4 + $3)) -gt %d ]" % (at + count, at)
            for at, count in trial.planted.unreadable)
        super().__init__(
            trial.directory, "eval", "thread_model=echo parallel",
            "get_size=stat -c %%s %s" % trial.image,
            "pread=" + READ % (fails, trial.image),
            "pwrite=" + WRITE % trial.image)


class LocalFile:
    """That, as a file of this host: with LocalFile(server, path).  None if it
    can't be had here.
    """

    def __init__(self, server, path):
        self.server, self.path = server, path

    def __enter__(self):
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        self.process = subprocess.Popen(("nbdfuse", self.path,
                                         self.server.uri("")),
                                        stderr=subprocess.PIPE)
        for i in range(200):
            if os.path.exists(self.path):
                return self.path
            if self.process.poll() is not None:
                break
            time.sleep(.05)
        return None

    def __exit__(self, *exception):
        if self.process.poll() is None:
            subprocess.run(("fusermount3", "-u", os.path.dirname(self.path)))
        try:
            self.process.communicate(timeout=30)
        finally:
            self.process.kill()


# ---- Checks and repairs ----

def look(trial, step, target):
    """All is found that can't be read, and where it is."""
    expect = trial.expect
    trial.run(step, "qedctl", "check", "--json", target)
    demand("exit", trial.status(step), expect.exit)
    judge_report(trial.report(step), trial.before, expect.found, expect.lost)
    judge_places(trial, trial.report(step))
    if "data" in expect.values:
        look_at_data(trial, step, target)


def look_at_data(trial, step, target):
    trial.run(step + " data", "qedctl", "check", "--data", "--json", target)
    demand("data: exit", trial.status(step + " data"), 1)
    data = trial.report(step + " data")
    demand("data: counts", data["counts"], trial.expect.codes("data"))
    judge_places(trial, data)
    trial.run(step + " text", "qedctl", "check", "--data", target)
    for p in data["problems"]:
        demand("text", "%s: guest offset 0x%x: Input/output error\n" %
               (p["code"], p["guest"]) in trial.steps[step + " text"].out,
               True)


def judge_places(trial, report):
    """By what the guest has there."""
    view = trial.before
    bad = [(at // view.C * view.C, at) for at, _ in trial.planted.unreadable]
    for p in report["problems"]:
        if p["code"] == "data-unreadable":
            cluster = p["guest"] // view.C
            demand("data that can't be read at 0x%x" % p["guest"],
                   view.guest[cluster] in [start for start, _ in bad], True)
        elif p["code"] == "table-unreadable":
            demand("a table that can't be read", p["where"],
                   trial.planted.unreadable[0][0])


def judge_qemu(trial, target):
    trial.run("qemu", "qemu-img", "check", "-f", "qed", "--output=json",
              target)
    wanted = trial.expect.get("qemu").replace(",", "").split()
    demand("qemu-img check", trial.status("qemu"),
           int(wanted[1]) if wanted[0] == "exit" else 1)


def repair(trial, path):
    """Where not all tables can be read nothing is changed."""
    for what in ("leaks", "all"):
        trial.run(what, "qedctl", "check", "--json", "--repair=" + what, path)
        demand(what + ": exit", trial.status(what), trial.expect.exit)
        demand(what + ": not a byte changed", trial.unchanged("qed"), True)


# ---- While it is served ----

def serve(trial, path):
    """All that can be read is served; nothing is changed."""
    expect = trial.expect
    server = Server(trial.directory)
    server.socket += "-disk"
    server.command = (NBDKIT, "-f", "--exit-with-parent", "-U", server.socket,
                      "qed", "file=" + path, "control=" + server.control)
    with server:
        with Client(server, "") as client:
            status = client.scanned()
            judge_data(trial, client)
            if expect.unknown:
                judge_refusal(client, trial.before, [])
            else:
                demand("access", status["access"], "writable")
        for step, options in ("online", ()), ("online all", ("--repair",)):
            trial.run(step, "qedctl", "check", "--json", *options,
                      "--control", server.control)
            demand(step + ": exit", trial.status(step), expect.exit)
            if trial.status(step) in (0, 2, 3):
                demand(step + ": found", trial.report(step)["counts"],
                       trial.expect.found)
    demand("not a byte changed", trial.unchanged("qed"), True)


def judge_data(trial, client):
    """What can be read is as it was; what can't, or is in a table that can't be
    one, is an error.
    """
    view = trial.before
    for cluster, at in view.guest.items():
        for start in range(0, view.C, 4096):
            fails = view.table_of[cluster // view.N].apart or any(
                unreadable(view, t, cluster, at + start)
                for t in trial.planted.unreadable)
            got = client.read(4096, cluster * view.C + start)
            demand("reading guest offset 0x%x" % (cluster * view.C + start),
                   got == ("EIO" if fails
                           else view.read(cluster, start, 4096)), True)


def unreadable(view, where, cluster, at):
    """Whether the content, or an entry on the way to it, is there."""
    table = view.table_of[cluster // view.N]
    return any(where[0] <= place < where[0] + where[1] for place in (
        at, table.at + cluster % view.N * 8,
        view.L1 + cluster // view.N * 8))


# ---- All of them ----

def try_all(trial):
    mount = os.path.join(trial.directory, "mount", trial.name + ".qed")
    with FailingServer(trial) as server:
        look(trial, "remote", server.uri(""))
        judge_qemu(trial, server.uri(""))
        with LocalFile(server, mount) as path:
            if path is None:
                print("there is no FUSE here")
                return
            look(trial, "local", path)
            repair(trial, path)
            serve(trial, path)


def main(directory, recipes):
    trials = []
    for recipe in recipes:
        trial = Trial(recipe, directory)
        if trial.planted.unreadable:
            trials.append(trial)
            trial.attempt(try_all)
    finish(trials, [t.end() for t in trials])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
