# SPDX-License-Identifier: LGPL-2.1-or-later

"""Check and repair closed images: recipe-offline.py DIRECTORY RECIPE...

DIRECTORY is where it works.
"""

import sys

from imageview import View
from recipetrial import (Trial, demand, each_recipe, finish, judge_content,
                         judge_header, judge_report, judge_text, lost_of,
                         put_autoclear)


def check_closed(trial):
    trial.run("first", "qedctl", "check", "--json", trial.image)
    trial.run("text", "qedctl", "check", "--verbose", trial.image)
    trial.run("dry", "qedctl", "check", "--repair", "--dry-run", "--json",
              trial.image)
    trial.run("qemu", "qemu-img", "check", "-f", "qed", "--output=json",
              trial.image)


def repair_closed(trial):
    for what in ("leaks", "all"):
        path = trial.copy(what)
        trial.run(what, "qedctl", "check", "--repair=" + what, "--json",
                  "--undo", trial.path(what + ".undo"), path)
    trial.run("again", "qedctl", "check", "--json", trial.path("all"))
    final = trial.copy("final", "all")
    trial.run("final", "qedctl", "check", "--repair=leaks", "--json", final)
    trial.run("last", "qedctl", "check", "--json", final)
    trial.run("qemu-last", "qemu-img", "check", "-f", "qed", "--output=json",
              final)


def undo(trial):
    for what in ("leaks", "all"):
        undone = trial.copy(what + ".undone", what)
        trial.run("undo " + what, "qedctl", "undo",
                  trial.path(what + ".undo"), undone)


# ---- The first look ----

def judge_first(trial):
    expect = trial.expect
    demand("lost, as computed", trial.before.lost, expect.lost)
    judge_report(trial.report("first"), trial.before, expect.found,
                 expect.lost)
    judge_text(trial.steps["text"].out, expect)
    dry = trial.report("dry")
    demand("dry run: counts", dry["counts"], expect.found)
    demand("dry run: lost", lost_of(dry), expect.lost)
    for step in ("first", "text", "dry"):
        demand(step + ": exit", trial.status(step), expect.exit)
    demand("a check writes nothing", trial.unchanged("qed"), True)


# ---- Repairs ----

def judge_leaks(trial):
    """--repair=leaks: damage, and what may belong to it, stays as it is."""
    expect, before = trial.expect, trial.before
    report, after = trial.report("leaks"), View(trial.path("leaks"))

    if expect.unknown:
        demand("unchanged", trial.unchanged("leaks"), True)
    demand("corruptions-fixed", report.get("corruptions-fixed"), None)
    demand("corruptions", report.get("corruptions", 0), expect.corruptions)
    if expect.corruptions == 0:
        demand("exit", trial.status("leaks"), 0)
        demand("leaks", report.get("leaks"), None)
        demand("leaks-fixed", report.get("leaks-fixed", 0), expect.leaks)
        demand("leaked", after.leaked, [])
        demand("free", len(after.free), expect.stays.get("free", 0))
        demand("NEED_CHECK", after.features & 2, 0)
    else:
        demand("exit", trial.status("leaks"), 2)
    demand("lost", after.lost, before.lost)
    demand("number of invalid entries", len(after.bad), len(before.bad))
    demand("number of shared clusters", len(after.shared), len(before.shared))
    judge_header(before, after)
    judge_content(before, after, [])


def judge_all(trial):
    """--repair=all: nothing is lost that could be kept."""
    expect, before = trial.expect, trial.before
    report, after = trial.report("all"), View(trial.path("all"))

    demand("exit", trial.status("all"), expect.end)
    demand("corruptions", report.get("corruptions"), None)
    demand("corruptions-fixed", report.get("corruptions-fixed", 0),
           expect.corruptions)
    demand("leaks", report.get("leaks", 0), expect.left.get("leak", 0))
    demand("lost-bytes", report["lost-bytes"],
           sum(e - s for s, e in expect.lost))
    demand("lost, as reported", lost_of(report), expect.lost)
    demand("need-check", report["need-check"], False)
    demand("NEED_CHECK", after.features & 2, 0)
    demand("invalid entries", after.bad, {})
    demand("lost", after.lost, [])
    demand("shared", after.shared, [])
    demand("leaked", len(after.leaked), expect.left.get("leak", 0))
    demand("free", len(after.free), expect.left.get("free", 0))
    if expect.unknown:
        for c in before.leaked:
            demand("what may belong to what was lost, at 0x%x" % (c * before.C),
                   after.place(c * before.C), before.place(c * before.C))
    judge_header(before, after)
    judge_content(before, after, expect.lost)


def judge_after(trial):
    """What a second run finds, and, when it has mended the leaks too, that
    nobody finds anything.
    """
    expect = trial.expect
    demand("second run: exit", trial.status("again"), expect.end)
    demand("second run", trial.report("again")["counts"], expect.left)
    demand("last repair: exit", trial.status("final"), 0)
    demand("last run", trial.report("last")["counts"], expect.stays)
    demand("last run: exit", trial.status("last"), 0)
    final = View(trial.path("final"))
    demand("leaked in the end", final.leaked, [])
    judge_content(trial.before, final, expect.lost)


def judge_undo(trial):
    for step in ("leaks", "all"):
        demand("undo %s: exit" % step, trial.status("undo " + step), 0)
        put_autoclear(trial.before, trial.path(step + ".undone"))
        demand("as it was", trial.unchanged(step + ".undone"), True)


# ---- qemu-img ----

def verdict(trial, step):
    """What it says, in short."""
    report = trial.report(step)
    return {"exit": trial.status(step),
            "corruptions": report.get("corruptions", 0),
            "leaks": report.get("leaks", 0)}


def judge_qemu(trial):
    """That qemu-img check says what the recipe says that it does, that an
    expectation that isn't ours is explained, and that in the end it finds
    nothing.
    """
    expect = trial.expect
    ours = "exit %d, corruptions %d, leaks %d" % (
        expect.exit, expect.corruptions, expect.leaks)
    if expect.get("qemu") != ours and expect.get("why") == "none":
        demand("why qemu-img says %s" % expect.get("qemu"), "none", "known")
    if expect.get("qemu") == "cannot open":
        demand("exit", trial.status("qemu"), 1)
        return
    demand("verdict", "exit %(exit)d, corruptions %(corruptions)d, "
           "leaks %(leaks)d" % verdict(trial, "qemu"), expect.get("qemu"))
    free = expect.stays.get("free", 0)
    demand("verdict in the end", verdict(trial, "qemu-last"),
           {"exit": 3 if free else 0, "corruptions": 0, "leaks": free})
    if expect.corruptions == 0:
        for key in ("allocated-clusters", "fragmented-clusters",
                    "total-clusters"):
            demand(key, trial.report("first").get(key),
                   trial.report("qemu").get(key))


def main(directory, recipes):
    trials, well = [], []
    for trial in each_recipe(recipes, lambda r: Trial(r, directory)):
        for function in (check_closed, repair_closed, undo, judge_first,
                         judge_leaks, judge_all, judge_after, judge_undo,
                         judge_qemu):
            trial.attempt(function)
        trials.append(trial)
        well.append(trial.end())
    finish(trials, well)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
