# SPDX-License-Identifier: LGPL-2.1-or-later

"""What becomes of damaged images when a server opens them:
recipe-open.py DIRECTORY RECIPE...

DIRECTORY is where it works.  Each image is tried twice: with NEED_CHECK, so
that the server may repair what is certain, and without, so that it may not.

Certain is one thing only: entries beyond the end of the file are a crash's
debris if NEED_CHECK is set, nothing else is wrong, and no backing file
describes that range of the disk.
"""

import os
import sys

import nbd

from imageview import View, copy, digest
from recipe import BACKING, BACKING_BYTES, NEED_CHECK, make, words
from recipetrial import (TOLD, Trial, demand, each_recipe, finish,
                         judge_content, judge_header, put_autoclear)
from recipeserver import Client, DiskServer, judge_reads, judge_refusal

NEW = b"\xd1"
PIECES = 1 << 21                # bytes that are written anew
DEBRIS = ("l1-entry-past-end", "l2-entry-past-end")


class Opened(Trial):
    """An image with or without NEED_CHECK, and the copy that is served."""

    def __init__(self, recipe, directory, served, need_check):
        super().__init__(recipe, directory)
        os.unlink(self.image)
        self.name += "-dirty" if need_check else "-clear"
        self.need_check = need_check
        self.image = self.path("qed")
        self.written = []       # guest clusters
        make(recipe, self.image, need_check)
        self.before = View(self.image)
        self.same = digest(self.image)
        self.export = self.name + ".qed"
        self.served = os.path.join(served, self.export)
        copy(self.image, self.served)
        self.found = [code for code in self.expect.found
                      if code not in ("need-check", "leak", "free")]

    def repaired(self):
        """Whether entries are dropped: all that is wrong is debris."""
        return self.need_check and len(self.found) > 0 and \
            set(self.found) <= set(DEBRIS) and \
            all(not self.before.features & BACKING or guest >= BACKING_BYTES
                for _, _, guest in self.before.bad.values())

    def damaged(self):
        """Whether there is damage that stays."""
        return len(self.found) > 0 and not self.repaired()


# ---- While it is served ----

def look(trial, server, *accesses):
    """Read and try to write; the server says one of these."""
    try:
        with Client(server, trial.export) as client:
            demand("a server opens it", True, trial.expect.served)
            status = client.scanned()
            demand("access", status["access"] in accesses, True)
            if trial.need_check or "read-only" in accesses:
                demand("read-only", client.h.is_read_only(),
                       "writable" not in accesses)
            judge_reads(client, trial.before, trial.before.lost,
                        None if "writable" in accesses else "EIO")
            if "writable" not in accesses:
                judge_refusal(client, trial.before, trial.before.lost)
    except nbd.Error as e:
        demand("a server opens it: %s" % e, False, trial.expect.served)


def look_read_only(trial, server):
    look(trial, server, "read-only")


def look_never(trial, server):
    """Of a damaged one it says the one or the other: not all was read."""
    look(trial, server, "need-check", *["damaged"] if trial.found else [])


def look_auto(trial, server):
    look(trial, server, "damaged" if trial.damaged() else "writable")
    if trial.repaired() and trial.before.lost:
        write_where_lost(trial, server)


def write_where_lost(trial, server):
    """The guest writes there; what nothing refers to may belong to a table
    that was dropped, and must not be used for that.
    """
    C = trial.before.C
    start, end = trial.before.lost[0]
    clusters = min(16, (end - start) // C, PIECES // C)
    with Client(server, trial.export) as client:
        for cluster in range(start // C, start // C + clusters):
            client.h.pwrite(NEW * C, cluster * C)
            trial.written.append(cluster)
        client.h.flush()


# ---- When it is not served any more ----

def judge_untouched(trial, server):
    put_autoclear(trial.before, trial.served)
    demand("not a byte changed", digest(trial.served), trial.same)
    demand("an undo file", os.path.exists(trial.served + ".undo"), False)


def judge_words(trial, server):
    """It says what is wrong, and what to do."""
    said = "\n".join(server.said(trial.export))
    for code in trial.found:
        if sum(trial.expect.found.values()) <= TOLD:
            demand("the log says " + code,
                   "%s: damaged: %s: " % (trial.export, code) in said, True)
    demand("the log says what to do", "qedctl check" in said, True)


def judge_auto(trial, server):
    """Damage stays as it is, and so does a clean image."""
    if trial.damaged():
        judge_untouched(trial, server)
        judge_words(trial, server)
    elif not trial.expect.served:
        judge_untouched(trial, server)
    elif trial.need_check:
        judge_mended(trial, server)
    else:
        judge_untouched(trial, server)


def judge_mended(trial, server):
    """The mark has gone and the debris with it; what the guest has, is as it
    was.
    """
    before, after = trial.before, View(trial.served)
    demand("NEED_CHECK", after.features & NEED_CHECK, 0)
    demand("invalid entries", after.bad, {})
    demand("lost", after.lost, [])
    demand("shared", after.shared, [])
    demand("new leaks", [c for c in after.leaked
                         if c < before.length // before.C and
                         c not in before.leaked + before.free], [])
    judge_header(before, after)
    for cluster in trial.written:
        demand("what was written at cluster %d" % cluster,
               after.read(cluster, 0, after.C), NEW * after.C)
        del after.guest[cluster]
    judge_content(before, after, before.lost)
    if trial.expect.unknown:
        for c in before.leaked:
            demand("what may belong to what was lost, at 0x%x" % (c * after.C),
                   after.place(c * after.C), before.place(c * after.C))
    demand("an undo file", os.path.exists(trial.served + ".undo"),
           trial.repaired())
    trial.run("check", "qedctl", "check", "--json", trial.served)
    demand("check: exit", trial.status("check") in (0, 3), True)
    demand("check: corruptions", trial.report("check").get("corruptions"),
           None)
    if trial.found or trial.expect.get("qemu").startswith(("exit 0", "exit 3")):
        judge_qemu(trial, server)
    if trial.repaired():
        judge_undo(trial, server)


def judge_qemu(trial, server):
    if trial.expect.get("qemu") == "cannot open":
        return
    trial.run("qemu", "qemu-img", "check", "-f", "qed", trial.served)
    demand("qemu-img check: exit", trial.status("qemu") in (0, 3), True)


def judge_undo(trial, server):
    """The entries are there again, but for those that were written since, and
    those of places that the file has by now.
    """
    for code in trial.found:
        demand("the log says " + code, any(
            "debris of a crash is dropped: %s: " % code in line
            for line in server.said(trial.export)), True)
    stay, back = 0, []
    length, same = os.path.getsize(trial.served), digest(trial.served)
    with open(trial.served, "r+b", buffering=0) as f:
        for place, (_, value, _) in trial.before.bad.items():
            had = entry(f, place)
            if had == words(0) and value >= length:
                back.append((place, value))
            elif had != words(value):   # the same place may be taken anew
                stay += 1
        trial.run("undo", "qedctl", "undo", trial.served + ".undo",
                  trial.served)
        demand("undo: exit", trial.status("undo"), 1 if stay else 0)
        demand("undo says how many stay", trial.steps["undo"].err.count(
            " %d of %d entries " % (stay, len(trial.before.bad))),
            1 if stay else 0)
        for place, value in back:
            demand("undo: the entry at 0x%x" % place, entry(f, place),
                   words(value))
            f.seek(place)
            f.write(words(0))
    demand("undo: all else", digest(trial.served), same)


def entry(f, place):
    f.seek(place)
    return f.read(8)


def main(directory, recipes):
    served = os.path.join(directory, "served")
    os.mkdir(served)
    trials = [t for need_check in (False, True) for t in each_recipe(
        recipes, lambda r: Opened(r, directory, served, need_check))]
    for base in ("base.raw", "base.qed"):
        if os.path.exists(os.path.join(directory, base)):
            copy(os.path.join(directory, base), os.path.join(served, base))
    dirty = [t for t in trials if t.need_check]
    serve(trials, DiskServer(served, read_only=True), look_read_only,
          judge_untouched)
    serve(dirty, DiskServer(served, "check=never"), look_never,
          judge_untouched)
    serve(trials, DiskServer(served), look_auto, judge_auto)
    finish(trials, [t.end() for t in trials])


def serve(trials, server, look, judge):
    with server:
        for t in trials:
            t.attempt(look, server)
    for t in trials:
        t.attempt(judge, server)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2:])
