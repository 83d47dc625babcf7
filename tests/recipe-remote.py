# SPDX-License-Identifier: LGPL-2.1-or-later

"""Check damaged images over the network: recipe-remote.py DIRECTORY RECIPE...

DIRECTORY is where it works.  By the server that serves the disk, through its
control export; and from afar, through any server that exports the file.
"""

import sys

from recipetrial import Trial, demand, each_recipe, finish, judge_report
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


# ---- All of them ----

def serve(trials, server, function):
    with server:
        for t in trials:
            t.attempt(function, server)


def main(directory, recipes):
    trials = list(each_recipe(recipes, lambda r: Trial(r, directory)))
    for t in trials:
        t.export = t.name + ".qed"
        t.attempt(check_closed)
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
    finish(trials, [t.end() for t in trials])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
