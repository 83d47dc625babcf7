# SPDX-License-Identifier: LGPL-2.1-or-later

"""Try what a recipe of tests/recipes describes, and hold what was reported and
done against what it expects.  The parts that all modes have in common.

The file 'expect' of a recipe has these lines:

  found:  the codes of the first look, each with a number: problems of that
          code, clusters for leak and free
  exit:   the status of that check
  lost:   START+BYTES of the disk, joined, that no repair can keep
  left:   what --repair=all leaves, like found: if L1 or a table was wrong,
          what nothing refers to stays until --repair=leaks
  stays:  what that leaves, too; most often nothing
  end:    the exit status of --repair=all, if that isn't 0
  qemu:   exit, corruptions, leaks of qemu-img check; or "cannot open"
  why:    why it judges otherwise than we do, if so
  data:   what a check with --data finds, like found, if that is more
  online: what is found while it is served, like found, if that is another
  serve:  "cannot open", if no server can open it
  because: why it is otherwise online, or can't be served

A line that begins with a space continues the one before.
"""

import json
import os
import re
import subprocess
import sys

from imageview import View, copy, digest
from recipe import make

LEAKS = ("leak", "free")
ERRORS = ("table-unreadable", "data-unreadable")
# With one of these nobody knows what the other clusters are.
UNKNOWN = ("l1-entry-past-end", "l1-entry-misaligned",
           "l1-entry-reserved-bits", "l1-entry-into-header",
           "table-truncated", "table-overlap", "table-shared",
           "table-unreadable")
KEYS = ("found", "exit", "lost", "left", "stays", "end", "qemu", "why", "data",
        "online", "serve", "because")
TOLD = 100                      # a server tells so many of a code


class Expect:
    def __init__(self, recipe):
        self.values = {}
        with open(os.path.join(recipe, "expect")) as f:
            text = re.sub("\n[ \t]+", " ", f.read())
        for line in text.splitlines():
            key, value = line.split(":", 1)
            if key not in KEYS:
                raise SystemExit("%s: what is %s?" % (recipe, key))
            self.values[key] = value.strip()
        self.found = self.codes("found")
        self.left = self.codes("left")
        self.stays = self.codes("stays")
        self.lost = self.ranges("lost")
        self.exit = int(self.get("exit"))
        self.end = int(self.get("end", "0"))
        self.corruptions = corruptions(self.found)
        self.leaks = self.found.get("leak", 0)
        self.unknown = not set(UNKNOWN).isdisjoint(self.found)
        self.served = self.get("serve") != "cannot open"
        if ("online" in self.values or not self.served) and \
           "because" not in self.values:
            raise SystemExit("%s: because of what?" % recipe)

    def get(self, key, default="none"):
        return self.values.get(key, default)

    def codes(self, key):
        """{code: number}"""
        if self.get(key) == "none":
            return {}
        return {code: int(n) for code, n in
                (part.split() for part in self.get(key).split(","))}

    def ranges(self, key):
        """As [start, end)."""
        if self.get(key) == "none":
            return []
        pairs = [part.strip().split("+") for part in self.get(key).split(",")]
        return [[int(start, 0), int(start, 0) + int(count, 0)]
                for start, count in pairs]


def corruptions(found):
    return sum(n for code, n in found.items()
               if code not in LEAKS + ERRORS + ("need-check",))


class Step:
    """A program that was run."""

    def __init__(self, command, directory):
        self.command = command
        ran = subprocess.run(command, cwd=directory, timeout=120,
                             stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.status = ran.returncode
        self.out, self.err = ran.stdout.decode(), ran.stderr.decode()


class Trial:
    """What is tried with the image of a recipe, and what comes of it."""

    def __init__(self, recipe, directory):
        self.name = os.path.basename(recipe)
        self.directory = directory
        self.image = self.path("qed")
        self.planted = make(recipe, self.image)
        self.expect = Expect(recipe)
        self.before = View(self.image)
        self.same = digest(self.image)
        self.steps = {}
        self.failures = []

    def path(self, name):
        return os.path.join(self.directory, self.name + "." + name)

    def copy(self, name, source="qed"):
        copy(self.path(source), self.path(name))
        return self.path(name)

    def run(self, step, *command):
        """Run it and keep what it says.  A status of 4 and more, or a signal,
        is a crash.
        """
        self.steps[step] = Step(command, self.directory)
        demand(step + ": a status from 0 to 3",
               self.status(step) in range(4), True)

    def status(self, step):
        return self.steps[step].status

    def report(self, step):
        return json.loads(self.steps[step].out)

    def unchanged(self, name):
        return digest(self.path(name)) == self.same

    def attempt(self, function, *arguments):
        """Call it; what it isn't content with is kept."""
        found_wrong.clear()
        try:
            function(self, *arguments)
        except Exception as e:
            found_wrong.append("%s: %s" % (type(e).__name__, e))
        self.failures += ["%s: %s: %s" % (self.name, function.__name__, line)
                          for line in found_wrong[:10]]

    def end(self):
        """Whether all was well; else everything about it is printed.  Its
        files go.
        """
        for line in self.failures:
            print(line, file=sys.stderr)
        for name, step in self.steps.items():
            if self.failures:
                print("%s: %s: %s: status %d\n%s" %
                      (self.name, name, " ".join(step.command), step.status,
                       step.err), file=sys.stderr)
        for name in os.listdir(self.directory):
            if name.startswith(self.name + "."):
                os.unlink(os.path.join(self.directory, name))
        return not self.failures


found_wrong = []


def demand(what, got, wanted):
    if got != wanted:
        found_wrong.append("%s: %s, not %s" % (what, got, wanted))


def each_recipe(recipes, trial):
    """trial (recipe) of those whose storage doesn't fail: recipe-failing.py
    has these.
    """
    for recipe in recipes:
        t = trial(recipe)
        if not t.planted.unreadable:
            yield t


def finish(trials, well):
    """The status of the test.  'well' has one for each that was all right."""
    print("%d recipes were tried" % len(trials))
    bad = [t.name for t, good in zip(trials, well) if not good]
    if bad:
        sys.exit("it is not as it should be: " + " ".join(bad))


# ---- A look ----

def judge_numbers(report, view, found):
    """What the summary says, and that it says it as qemu-img does: nothing
    of what is 0.
    """
    demand("format", report["format"], "qed")
    demand("complete", report["complete"], True)
    demand("check-errors", report["check-errors"],
           sum(found.get(code, 0) for code in ERRORS))
    demand("free", report["free"], found.get("free", 0))
    demand("need-check", report["need-check"], bool(view.features & 2))
    for key, number in (("corruptions", corruptions(found)),
                        ("leaks", found.get("leak")),
                        ("total-clusters", -(-view.size // view.C))):
        demand(key, report.get(key), number or None)


def judge_problems(report, view, found):
    """Each problem, one by one, where there is something to compare it
    with.
    """
    bad, by_code = {}, {}
    for p in report["problems"]:
        code = p["code"]
        by_code[code] = by_code.get(code, 0) + 1
        if re.match("l[12]-entry|entry-into", code):
            bad[p["where"]] = (code, int(p["value"], 0), p.get("guest"))
    told = TOLD if report.get("served") else sys.maxsize
    for code, n in found.items():
        if code not in LEAKS:
            demand("problems " + code, by_code.get(code), min(n, told))
    for place, what in view.bad.items():
        if found.get(what[0], 0) > told:
            continue
        if what[2] >= view.size:        # how far off doesn't matter
            what = what[:2]
        demand("entry at 0x%x" % place, bad.get(place, ())[:len(what)], what)


def judge_leaks_told(report, view, found, end):
    """Leaked clusters, one by one; those that are free below 'end'."""
    leaked = []
    for p in report["problems"]:
        if p["code"] == "leak":
            demand("leak at a cluster", p["where"] % view.C, 0)
            first = p["where"] // view.C
            leaked += range(first, first + -(-p["bytes"] // view.C))
    demand("leaked", sorted(leaked), view.leaked)
    demand("free clusters", len([c for c in view.free if c < end]),
           found.get("free", 0))


def lost_of(report):
    return [[r["start"], r["start"] + r["bytes"]] for r in report["lost"]]


def judge_report(report, view, found, lost, end=sys.maxsize):
    """A check's report, wherever it came from."""
    demand("counts", report["counts"], found)
    demand("lost", lost_of(report), lost)
    judge_numbers(report, view, found)
    judge_problems(report, view, found)
    if set(UNKNOWN).isdisjoint(found):
        judge_leaks_told(report, view, found, end)


def judge_text(text, expect):
    for code in expect.found:
        if code == "free":
            continue            # a number in the summary
        demand("text with " + code, re.search("^%s: " % code, text, re.M)
               is not None, True)
    for start, end in expect.lost[:100]:
        line = "  0x%x+0x%x (" % (start, end - start)
        demand("text with" + line, line in text, True)


# ---- Repairs ----

def judge_header(before, after):
    demand("header", after.header[64:], before.header[64:])
    demand("features", after.features & ~2, before.features & ~2)
    demand("compat features", after.compat, before.compat)
    demand("autoclear features", after.autoclear in (0, before.autoclear),
           True)
    demand("image size", after.size, before.size)


def put_autoclear(before, path):
    """Bits of that kind go when an image is opened for writing, whatever
    becomes of it then.
    """
    if before.autoclear and View(path).autoclear == 0:
        with open(path, "r+b") as f:
            f.seek(32)
            f.write(before.header[32:40])


def judge_content(before, after, lost, longer=False):
    """Nothing else changes for the guest.  If the file was made longer, an
    entry that it had ended within may be whole again.
    """
    for cluster in sorted(set(before.guest) | set(after.guest)):
        start = cluster * before.C
        dropped = any(s <= start < e for s, e in lost)
        if dropped and longer:
            continue
        want = None if dropped else before.content(cluster)
        if after.content(cluster) != want:
            found_wrong.append("guest offset 0x%x reads otherwise than before"
                            % start)
