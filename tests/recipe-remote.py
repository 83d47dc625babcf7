# SPDX-License-Identifier: LGPL-2.1-or-later

"""Check damaged images over the network: recipe-remote.py DIRECTORY RECIPE...

DIRECTORY is where it works.  By the server that serves the disk, through its
control export; and from afar, through any server that exports the file, which
can be repaired that way, too.
"""

import os
import sys

from imageview import View, copy, digest
from recipe import NEED_CHECK
from recipetrial import (Trial, demand, each_recipe, finish, judge_content,
                         judge_header, judge_report, lost_of, put_autoclear)
from recipeserver import (DiskServer, FileServer, QemuServer, found_served,
                          judge_same, status_of)

FEW = 12                        # QEMU's server has one export


def check_closed(trial):
    trial.run("closed", "qedctl", "check", "--json", trial.image)


def untouched(trial):
    demand("not a byte changed", trial.unchanged("qed"), True)


# ---- Through our server ----

def check_served(trial, server):
    """Its server checks the disk and tells what it finds."""
    trial.run("served", "qedctl", "check", "--json", server.uri(trial.export))
    if not trial.expect.served:
        demand("served: exit", trial.status("served"), 1)
        return
    found = found_served(trial)
    demand("served: exit", trial.status("served"), status_of(found))
    demand("served", trial.report("served")["served"], True)
    judge_same(trial, "served", found)


def repair_refused(trial, server):
    """By a server whose control export allows checks only."""
    trial.run("refused", "qedctl", "check", "--repair",
              server.uri(trial.export))
    demand("refused: exit", trial.status("refused"), 1)
    if trial.expect.served:
        demand("refused: it says why",
               "not allowed" in trial.steps["refused"].err, True)


# ---- Through any server ----

def check_raw(trial, server):
    """What is read is the file."""
    trial.run("raw", "qedctl", "check", "--json", server.uri(trial.export))
    demand("raw: exit", trial.status("raw"), trial.status("closed"))
    report, closed = trial.report("raw"), trial.report("closed")
    judge_report(report, trial.before, trial.expect.found, trial.expect.lost)
    for one in report, closed:
        one.pop("filename")
    demand("the report", report, closed)


# ---- Repair through any server ----

ROOM = 256 << 20


def repair(trial, step, server, *options):
    trial.run(step, "qedctl", "check", "--repair", "--raw-image", "--json",
              *options, server.uri(trial.export))


def repair_raw(trial, server):
    """The file can't get longer: if there is no room in it for copies, more is
    made on its host.
    """
    path = os.path.join(server.directory, trial.export)
    copy(trial.image, path)
    trial.run("dry", "qedctl", "check", "--repair", "--dry-run", "--json",
              server.uri(trial.export))
    repair(trial, "all", server, "--undo", trial.path("undo"))
    trial.longer = "make the file longer" in trial.steps["all"].err
    if trial.longer:
        os.truncate(path, os.path.getsize(path) + ROOM)
        repair(trial, "all", server, "--undo", trial.path("undo2"))
    copy(path, trial.path("all"))
    judge_repair(trial)


def undo_raw(trial, server):
    """In the order of the changes."""
    path = os.path.join(server.directory, trial.export)
    if trial.longer:
        undo(trial, server, "undo2")
        os.truncate(path, trial.before.length)
    undo(trial, server, "undo")
    put_autoclear(trial.before, path)
    demand("undone: as it was", digest(path), trial.same)
    os.unlink(path)


def undo(trial, server, name):
    trial.run(name, "qedctl", "undo", "--raw-image", trial.path(name),
              server.uri(trial.export))
    demand(name + ": exit", trial.status(name), 0)


def judge_repair(trial):
    """The same comes of it as of a repair of the file, but that the length
    stays: gaps and the tail are holes until a repair of the file cuts them.
    If the image had to be made longer the second run gives the leaks back,
    too.
    """
    expect, before = trial.expect, trial.before
    report, after = trial.report("all"), View(trial.path("all"))
    # The end of the file can't become a hole, where there is less than a block.
    odd = before.length % 4096 > 0
    end = 3 if odd and trial.status("all") == 3 else expect.end

    demand("dry run: exit", trial.status("dry"), expect.exit)
    demand("dry run: lost", lost_of(trial.report("dry")), expect.lost)
    if not trial.longer or trial.status("all") != 0:
        demand("exit", trial.status("all"), end)
    if trial.status("all") == 0:
        demand("leaked", after.leaked, [])
    if not trial.longer:
        if end == expect.end:
            demand("leaked", len(after.leaked), expect.left.get("leak", 0))
        demand("lost, as reported", lost_of(report), expect.lost)
        demand("corruptions-fixed", report.get("corruptions-fixed", 0),
               expect.corruptions)
        demand("length", after.length, before.length)
    demand("corruptions", report.get("corruptions"), None)
    demand("NEED_CHECK", after.features & NEED_CHECK, 0)
    demand("invalid entries", after.bad, {})
    demand("shared", after.shared, [])
    judge_header(before, after)
    judge_content(before, after, expect.lost, trial.longer)


def judge_closed(trial):
    """On its host nothing is left to be done but to close the gaps."""
    expect, path = trial.expect, trial.path("all")
    trial.run("final", "qedctl", "check", "--repair=leaks", "--json", path)
    demand("final: exit", trial.status("final"), 0)
    trial.run("last", "qedctl", "check", "--json", path)
    demand("last: exit", trial.status("last"), 0)
    demand("last: leaks", trial.report("last").get("leaks"), None)
    judge_content(trial.before, View(path), expect.lost, trial.longer)
    if expect.get("qemu") != "cannot open":
        trial.run("qemu", "qemu-img", "check", "-f", "qed", path)
        demand("qemu-img check: exit", trial.status("qemu"),
               3 if expect.stays.get("free") else 0)


# ---- All of them ----

def serve(trials, server, *functions):
    with server:
        for t in trials:
            for function in functions:
                t.attempt(function, server)


def main(directory, recipes):
    trials = list(each_recipe(recipes, lambda r: Trial(r, directory)))
    for t in trials:
        t.export = t.name + ".qed"
        t.attempt(check_closed)
    target = os.path.join(directory, "repaired")
    os.mkdir(target)
    some = trials[::len(trials) // FEW + 1]
    serve(trials, DiskServer(directory, "check=never",
                             "control-export=admin"), check_served)
    serve(some, DiskServer(directory, "check=never", "control-export=check"),
          repair_refused)
    serve(trials, FileServer(directory, "-r", "file", "dir=" + directory),
          check_raw)
    for t in some:
        if t.before.length % 512 == 0:      # it rounds to sectors
            serve([t], QemuServer(directory, t.export), check_raw)
    for t in trials:
        t.attempt(untouched)
    serve(trials, FileServer(target, "file", "dir=" + target), repair_raw,
          undo_raw)
    for t in trials:
        t.attempt(judge_closed)
    finish(trials, [t.end() for t in trials])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
