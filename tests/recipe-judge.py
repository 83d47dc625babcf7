# SPDX-License-Identifier: LGPL-2.1-or-later

"""Hold what was reported and done against what a recipe expects.

  recipe-judge.py offline|wire RECIPE DIRECTORY

DIRECTORY is where test-recipes.sh, or test-check-nbd-repair.sh, tried it: of each of its steps NAME there
are NAME.out and NAME.status, and NAME.qed where it left an image.

The file 'expect'
of a recipe has these lines:

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

A line that begins with a space continues the one before.
"""

import json
import os
import re
import sys

from imageview import View, digest

LEAKS = ("leak", "free")
# With one of these nobody knows what the other clusters are.
UNKNOWN = ("l1-entry-past-end", "l1-entry-misaligned",
           "l1-entry-reserved-bits", "l1-entry-into-header",
           "table-truncated", "table-overlap", "table-shared")


class Expect:
    def __init__(self, recipe):
        self.values = {}
        with open(os.path.join(recipe, "expect")) as f:
            text = re.sub("\n[ \t]+", " ", f.read())
        for line in text.splitlines():
            key, value = line.split(":", 1)
            if key not in ("found", "exit", "lost", "left", "stays", "end",
                           "qemu", "why"):
                raise SystemExit("%s: what is %s?" % (recipe, key))
            self.values[key] = value.strip()
        self.found = self.codes("found")
        self.left = self.codes("left")
        self.stays = self.codes("stays")
        self.lost = self.ranges("lost")
        self.corruptions = sum(n for code, n in self.found.items()
                               if code not in LEAKS + ("need-check",))
        self.leaks = self.found.get("leak", 0)
        self.exit = int(self.get("exit"))
        self.end = int(self.get("end", "0"))

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


class Trial:
    """What was tried with the image of a recipe, and what came of it."""

    def __init__(self, recipe, directory):
        self.expect = Expect(recipe)
        self.directory = directory
        self.before = View(self.path("disk.qed"))
        self.same = digest(self.path("disk.qed"))

    def path(self, name):
        return os.path.join(self.directory, name)

    def status(self, step):
        with open(self.path(step + ".status")) as f:
            return int(f.read())

    def text(self, step):
        with open(self.path(step + ".out")) as f:
            return f.read()

    def report(self, step):
        return json.loads(self.text(step))

    def verdict(self, step):
        """The short form, ours or qemu-img's."""
        report = self.report(step)
        return {"exit": self.status(step),
                "corruptions": report.get("corruptions", 0),
                "leaks": report.get("leaks", 0)}

    def unchanged(self, name):
        return digest(self.path(name)) == self.same


failures = []


def demand(what, got, wanted):
    if got != wanted:
        failures.append("%s: %s, not %s" % (what, got, wanted))


# ---- The first look ----

def judge_numbers(report, view, expect):
    """What the summary says, and that it says it as qemu-img does: nothing
    of what is 0.
    """
    demand("format", report["format"], "qed")
    demand("complete", report["complete"], True)
    demand("check-errors", report["check-errors"], 0)
    demand("free", report["free"], expect.found.get("free", 0))
    demand("need-check", report["need-check"], bool(view.features & 2))
    for key, number in (("corruptions", expect.corruptions),
                        ("leaks", expect.leaks),
                        ("total-clusters", -(-view.size // view.C))):
        demand(key, report.get(key), number or None)


def judge_problems(report, view, expect):
    """Each problem, one by one, where there is something to compare it
    with.
    """
    bad, by_code, leaked = {}, {}, []
    for p in report["problems"]:
        code = p["code"]
        by_code[code] = by_code.get(code, 0) + 1
        if code == "leak":
            demand("leak at a cluster", p["where"] % view.C, 0)
            first = p["where"] // view.C
            leaked += range(first, first + -(-p["bytes"] // view.C))
        elif re.match("l[12]-entry|entry-into", code):
            bad[p["where"]] = (code, int(p["value"], 0), p.get("guest"))
    for code, n in expect.found.items():
        if code not in LEAKS:
            demand("problems " + code, by_code.get(code), n)
    for place, what in view.bad.items():
        if what[2] >= view.size:        # how far off doesn't matter
            what = what[:2]
        demand("entry at 0x%x" % place, bad.get(place, ())[:len(what)], what)
    if not set(UNKNOWN) & set(expect.found):
        demand("leaked", sorted(leaked), view.leaked)
        demand("free clusters", len(view.free), expect.found.get("free", 0))


def lost_of(report):
    return [[r["start"], r["start"] + r["bytes"]] for r in report["lost"]]


def judge_report(report, view, expect):
    """A check's report, wherever it came from."""
    demand("counts", report["counts"], expect.found)
    demand("lost", lost_of(report), expect.lost)
    judge_numbers(report, view, expect)
    judge_problems(report, view, expect)


def judge_text(text, expect):
    for code in expect.found:
        if code == "free":
            continue            # a number in the summary
        demand("text with " + code, re.search("^%s: " % code, text, re.M)
               is not None, True)
    for start, end in expect.lost[:100]:
        line = "  0x%x+0x%x (" % (start, end - start)
        demand("text with" + line, line in text, True)


def judge_first(trial):
    expect = trial.expect
    demand("lost, as computed", trial.before.lost, expect.lost)
    judge_report(trial.report("first"), trial.before, expect)
    judge_text(trial.text("text"), expect)
    dry = trial.report("dry")
    demand("dry run: counts", dry["counts"], expect.found)
    demand("dry run: lost", lost_of(dry), expect.lost)
    for step in ("first", "text", "dry"):
        demand(step + ": exit", trial.status(step), expect.exit)
    demand("a check writes nothing", trial.unchanged("checked.qed"), True)


# ---- Repairs ----

def judge_header(before, after):
    demand("header", after.header[64:], before.header[64:])
    demand("features", after.features & ~2, before.features & ~2)
    demand("compat features", after.compat, before.compat)
    demand("autoclear features", after.autoclear in (0, before.autoclear),
           True)
    demand("image size", after.size, before.size)


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
            failures.append("guest offset 0x%x reads otherwise than before"
                            % start)


def judge_leaks(trial):
    """--repair=leaks: damage, and what may belong to it, stays as it is."""
    expect, before = trial.expect, trial.before
    report, after = trial.report("leaks"), View(trial.path("leaks.qed"))

    if set(UNKNOWN) & set(expect.found):
        demand("unchanged", trial.unchanged("leaks.qed"), True)
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
    report, after = trial.report("all"), View(trial.path("all.qed"))

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
    if set(UNKNOWN) & set(expect.found):
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
    final = View(trial.path("final.qed"))
    demand("leaked in the end", final.leaked, [])
    judge_content(trial.before, final, expect.lost)


def judge_undo(trial):
    for step in ("leaks", "all"):
        demand(step + "-undone: exit", trial.status(step + "-undone"), 0)
        demand("as it was", trial.unchanged(step + "-undone.qed"), True)


# ---- qemu-img ----

def judge_qemu(trial):
    """That qemu-img check says what the recipe says that it does, that an
    expectation that isn't ours is explained, and that in the end it finds
    nothing.
    """
    expect = trial.expect
    ours = "exit %d, corruptions %d, leaks %d" % (
        expect.exit, expect.corruptions, expect.leaks)
    if expect.get("qemu") != ours and expect.get("why") == "none":
        failures.append("'%s' is not '%s', and nothing says why"
                        % (expect.get("qemu"), ours))
    if expect.get("qemu") == "cannot open":
        demand("exit", trial.status("qemu"), 1)
        return
    demand("verdict", "exit %(exit)d, corruptions %(corruptions)d, "
           "leaks %(leaks)d" % trial.verdict("qemu"), expect.get("qemu"))
    free = expect.stays.get("free", 0)
    demand("verdict in the end", trial.verdict("qemu-last"),
           {"exit": 3 if free else 0, "corruptions": 0, "leaks": free})
    if expect.corruptions == 0:
        for key in ("allocated-clusters", "fragmented-clusters",
                    "total-clusters"):
            demand(key, trial.report("first").get(key),
                   trial.report("qemu").get(key))


# ---- Over the wire ----

def judge_wire(trial):
    """The same comes of it, but that the length stays: gaps and the tail are
    holes until a repair of the file cuts them.  If the image had to be made
    longer the second run gives the leaks back, too.
    """
    expect, before = trial.expect, trial.before
    report, after = trial.report("all"), View(trial.path("all.qed"))
    twice = os.path.exists(trial.path("2.undo"))
    # The end of the file can't become a hole, where there is less than a block.
    odd = os.path.getsize(trial.path("disk.qed")) % 4096 > 0
    end = 3 if odd and trial.status("all") == 3 else expect.end

    demand("dry run: exit", trial.status("dry"), expect.exit)
    demand("dry run: lost", lost_of(trial.report("dry")), expect.lost)
    if not twice or trial.status("all") != 0:
        demand("exit", trial.status("all"), end)
    if trial.status("all") == 0:
        demand("leaked", after.leaked, [])
    if not twice:
        if end == expect.end:
            demand("leaked", len(after.leaked), expect.left.get("leak", 0))
        demand("lost, as reported", lost_of(report), expect.lost)
        demand("corruptions-fixed", report.get("corruptions-fixed", 0),
               expect.corruptions)
        demand("length", os.path.getsize(trial.path("all.qed")),
               os.path.getsize(trial.path("disk.qed")))
    demand("corruptions", report.get("corruptions"), None)
    demand("NEED_CHECK", after.features & 2, 0)
    demand("invalid entries", after.bad, {})
    demand("shared", after.shared, [])
    judge_header(before, after)
    judge_content(before, after, expect.lost, twice)
    demand("undone: exit", trial.status("undone"), 0)
    demand("as it was", trial.unchanged("undone.qed"), True)


def judge_wire_after(trial):
    expect, final = trial.expect, View(trial.path("final.qed"))
    twice = os.path.exists(trial.path("2.undo"))

    demand("last repair: exit", trial.status("final"), 0)
    demand("last run: exit", trial.status("last"), 0)
    demand("leaked in the end", final.leaked, [])
    judge_content(trial.before, final, expect.lost, twice)
    if expect.get("qemu") != "cannot open":
        free = expect.stays.get("free", 0)
        demand("verdict in the end", trial.verdict("qemu-last"),
               {"exit": 3 if free else 0, "corruptions": 0, "leaks": free})


MODES = {
    "wire": (judge_wire, judge_wire_after),
    "offline": (judge_first, judge_leaks, judge_all, judge_after, judge_undo,
                judge_qemu),
}


def main(mode, recipe, directory):
    trial = Trial(recipe, directory)
    status = 0
    for judge in MODES[mode]:
        failures.clear()
        try:
            judge(trial)
        except (KeyError, ValueError) as e:
            failures.append("%s: %r" % (type(e).__name__, e))
        for line in failures[:10]:
            print("%s: %s: %s" % (os.path.basename(recipe), judge.__name__,
                                  line), file=sys.stderr)
            status = 1
    sys.exit(status)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
