# SPDX-License-Identifier: LGPL-2.1-or-later

"""Check and repair damaged images while they are served:
recipe-online.py DIRECTORY RECIPE...

DIRECTORY is where it works.  The images are served without NEED_CHECK, as the
server would repair some of them when it opens them.
"""

import os
import sys

from imageview import View, copy, digest
from recipe import make
from recipetrial import (LEAKS, Trial, corruptions, demand,
                         each_recipe, finish, judge_content, judge_header,
                         lost_of)
from recipeserver import (Client, DiskServer, found_served, judge_reads,
                          judge_refusal, judge_same, status_of)

# ---- Where a served image is another than a closed one ----

def left_online(trial):
    """Whether a server leaves everything to the repair of the closed image:
    where the disk differs from what memory has of it.
    """
    return "page-differs" in trial.found


def codes_left(trial):
    """Which damage, then."""
    return sorted(code for code in trial.found
                  if code not in LEAKS) if left_online(trial) else []


class Served(Trial):
    """An image, and the copy that is served."""

    def __init__(self, recipe, directory, served):
        super().__init__(recipe, directory)
        os.unlink(self.image)
        self.planted = make(recipe, self.image, False)
        self.before = View(self.image)
        self.same = digest(self.image)
        self.found = self.expect.codes("online") or found_served(self)
        self.export = self.name + ".qed"
        self.served = os.path.join(served, self.export)
        copy(self.image, self.served)

    def ask(self, step, server, *options, door="socket"):
        where = [server.uri(self.export)] if door == "export" else \
            ["--control", server.control, self.export]
        self.run(step, "qedctl", "check", "--json", *options, *where)


# ---- While it is served ----

def look(trial, server):
    """The same is found as in the closed image, and nothing is written."""
    trial.run("closed", "qedctl", "check", "--json", trial.image)
    with Client(server, trial.export) as client:
        client.scanned()
        if trial.planted.changes:
            change_beneath(trial, client)
        trial.ask("online", server)
        if "online" not in trial.expect.values:
            judge_same(trial, "online", trial.found)
        demand("found", trial.report("online")["counts"], trial.found)
        demand("exit", trial.status("online"), status_of(trial.found))
        judge_reads(client, trial.before, trial.before.lost, "EIO")
        if corruptions(trial.found):
            judge_refusal(client, trial.before, trial.before.lost)
    if not trial.before.autoclear:
        demand("unchanged by a check", digest(trial.served), trial.same)


def change_beneath(trial, client):
    """When the server has read its tables."""
    for cluster in trial.before.guest:
        client.read(512, cluster * trial.before.C)
    for path in trial.served, trial.image:
        with open(path, "r+b") as f:
            for at, data in trial.planted.changes:
                f.seek(at)
                f.write(data)
    trial.same = digest(trial.image)
    trial.before = View(trial.image)


def repair(trial, server):
    """Leaks become free; damage is repaired as far as it can be; and what the
    guest has, it keeps.
    """
    before, expect = trial.before, trial.expect
    trial.ask("leaks", server, "--repair=leaks")
    demand("leaks: corruptions", trial.report("leaks").get("corruptions", 0),
           corruptions(trial.found))
    demand("leaks: exit", trial.status("leaks"),
           2 if corruptions(trial.found) else 0)
    trial.ask("all", server, "--repair=all", door="export")
    trial.ask("again", server)
    left = left_online(trial)
    report = trial.report("all")
    demand("exit", trial.status("all"), 2 if left else expect.end)
    demand("what is found again", codes(trial.report("again")),
           codes_left(trial))
    if not left:
        demand("corruptions-fixed", report.get("corruptions-fixed", 0),
               corruptions(trial.found))
        demand("lost", lost_of(report), expect.lost)
    gone = lost_of(report)
    kept = [r for r in before.lost if r not in gone]
    with Client(server, trial.export) as client:
        demand("access", client.scanned()["access"],
               "damaged" if left else "writable")
        judge_reads(client, before, kept, "EIO")
        judge_reads(client, before, gone)


def codes(report):
    return sorted(set(report["counts"]) - set(LEAKS))


# ---- When it is not served any more ----

def judge_served(trial):
    """What was repaired is so on disk; the rest can be repaired now."""
    before, expect = trial.before, trial.expect
    after = View(trial.served)
    left = left_online(trial) and not trial.planted.changes
    judge_header(before, after)
    judge_content(before, after, expect.lost)
    trial.run("stopped", "qedctl", "check", "--json", trial.served)
    if not left:
        demand("lost", after.lost, [])
        demand("invalid entries", after.bad, {})
        demand("shared", after.shared, [])
        stays = expect.left.get("leak", 0)
        demand("leaked", len(after.leaked), stays)
        demand("NEED_CHECK", after.features & 2, 0)
        demand("stopped: exit", trial.status("stopped"),
               3 if after.leaked else 0)
        return
    demand("stopped: exit", trial.status("stopped"), 2)
    trial.run("rest", "qedctl", "check", "--repair=all", "--json",
              trial.served)
    demand("rest: exit", trial.status("rest") in (0, 3), True)
    demand("rest: corruptions", trial.report("rest").get("corruptions"), None)
    judge_content(before, View(trial.served), expect.lost)


def judge_end(trial):
    """And when leaks are closed, nobody finds anything."""
    trial.run("close", "qedctl", "check", "--repair=leaks", trial.served)
    demand("close: exit", trial.status("close"), 0)
    trial.run("last", "qedctl", "check", "--json", trial.served)
    demand("last: exit", trial.status("last"), 0)
    demand("last: counts", trial.report("last")["counts"],
           trial.expect.stays)
    judge_content(trial.before, View(trial.served), trial.expect.lost)
    if trial.expect.get("qemu") != "cannot open":
        trial.run("qemu", "qemu-img", "check", "-f", "qed", trial.served)
        demand("qemu-img check: exit", trial.status("qemu"),
               3 if trial.expect.stays.get("free") else 0)


def main(directory, recipes):
    served = os.path.join(directory, "served")
    os.mkdir(served)
    trials = [t for t in each_recipe(
        recipes, lambda r: Served(r, directory, served)) if t.expect.served]
    for base in ("base.raw", "base.qed"):
        if os.path.exists(os.path.join(directory, base)):
            copy(os.path.join(directory, base), os.path.join(served, base))
    with DiskServer(served, "control-export=admin") as server:
        for t in trials:
            t.attempt(look, server)
            t.attempt(repair, server)
    for t in trials:
        t.attempt(judge_served)
        t.attempt(judge_end)
    finish(trials, [t.end() for t in trials])


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
