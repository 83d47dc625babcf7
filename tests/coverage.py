#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later

"""What the tests reach of qed/: lines and branches, from gcov's data.

  coverage.py BUILD SOURCE [--minimum PERCENT] [--output DIRECTORY]

BUILD is a build directory whose programs were compiled with --coverage and
have run; SOURCE holds qed/ and tests/coverage-exceptions.  Prints a table and
what is not accounted for; writes 'summary' and 'uncovered' into DIRECTORY
(BUILD).  Exit status 1: below the minimum, or a branch is neither taken nor
accounted for, or the list of exceptions holds what is not true any more.

What counts:
 - Branches as gcov sees them with -O0: each way out of a condition, also of
   each part of one with && or ||.
 - Not those of assertions, whose other way is a bug by definition.
 - The engine as it is shipped, libqed.  What the crash tests' build of the
   same sources took is added where both have the same branches; what is only
   in that build does not count.
"""

import argparse
import collections
import concurrent.futures
import glob
import json
import os
import re
import subprocess
import sys

Place = collections.namedtuple("Place", "file function line")
Missing = collections.namedtuple("Missing", "place ways of text reason")


def gcov(build, note):
    """The functions of one object: {Place: (count, [count of a branch])}."""
    data = note[:-len(".gcno")] + ".gcda"
    done = subprocess.run(
        ["gcov", "-b", "--json-format", "--stdout",
         data if os.path.exists(data) else note],
        cwd=build, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{done.stderr.strip()}: run 'make coverage' anew")
    out = done.stdout
    found = {}
    for text in out.splitlines():
        if not text.strip():
            continue
        unit = json.loads(text)
        top = unit.get("current_working_directory", build)
        for source in unit["files"]:
            name = os.path.realpath(os.path.join(top, source["file"]))
            if os.path.basename(os.path.dirname(name)) != "qed":
                continue
            name = "qed/" + os.path.basename(name)
            for line in source["lines"]:
                place = Place(name, line.get("function_name", ""),
                              line["line_number"])
                found[place] = (line["count"],
                                [b["count"] for b in line["branches"]])
    return found


def add(total, found, new):
    """Sum up; without 'new' only what is known and of the same shape."""
    for place, (count, branches) in found.items():
        if place not in total:
            if new:
                total[place] = (count, branches)
            continue
        old_count, old = total[place]
        if len(old) == len(branches):
            old = [a + b for a, b in zip(old, branches)]
        total[place] = (old_count + count, old)


def collect(build):
    total = {}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for prefix, new in ("libqed_la-", True), ("libqed_sim_la-", False):
            notes = sorted(glob.glob(
                os.path.join(build, "qed", ".libs", prefix + "*.gcno")))
            for found in pool.map(lambda note: gcov(build, note), notes):
                add(total, found, new)
    return total


class Sources:
    def __init__(self, top):
        self.top = top
        self.texts = {}
        self.asserted = {}

    def lines(self, name):
        if name not in self.texts:
            with open(os.path.join(self.top, name)) as f:
                self.texts[name] = [""] + f.read().split("\n")
            self.asserted[name] = self.find_asserts(self.texts[name])
        return self.texts[name]

    @staticmethod
    def find_asserts(lines):
        """The numbers of lines that belong to an assertion."""
        found = set()
        depth = 0
        for number, text in enumerate(lines):
            if depth == 0 and not re.match(r"\s*assert \(", text):
                continue
            found.add(number)
            depth += text.count("(") - text.count(")")
        return found

    def is_assert(self, place):
        self.lines(place.file)
        return place.line in self.asserted[place.file]

    def text(self, place):
        return self.lines(place.file)[place.line].strip()


class Exceptions:
    """tests/coverage-exceptions, which says itself what it looks like."""

    def __init__(self, name):
        # [file, function, text, reason, used, there]
        self.entries = []
        reason = None
        with open(name) as f:
            for number, text in enumerate(f, 1):
                if text.startswith("#") or not text.strip():
                    continue
                if not text.startswith(" "):
                    reason = text.strip()
                    continue
                words = text.split(None, 2)
                if len(words) != 3 or reason is None:
                    sys.exit(f"{name}:{number}: wants a reason before it, "
                             "and FILE FUNCTION TEXT")
                self.entries.append([f"qed/{words[0]}", words[1],
                                     words[2].strip(), reason, 0, 0])

    def find(self, place, text, missing):
        for entry in self.entries:
            name, function, pattern, reason = entry[:4]
            if place.file == name and function in (place.function, "*") and \
               (pattern == "*" or pattern == text):
                entry[4] += missing
                entry[5] += 1
                return reason
        return None

    def stale(self):
        """What a race takes in one run and not in the next has to be there."""
        return [e for e in self.entries
                if not e[5] or not e[4] and not e[3].startswith("At times: ")]


def examine(total, sources, exceptions):
    """Per file [lines, taken, branches, taken], and what is missing."""
    files = collections.defaultdict(lambda: [0, 0, 0, 0])
    missing = []
    for place in sorted(total, key=lambda p: (p.file, p.line, p.function)):
        count, branches = total[place]
        row = files[place.file]
        row[0] += 1
        row[1] += count > 0
        if not branches or sources.is_assert(place):
            continue
        ways = sum(1 for b in branches if b == 0)
        row[2] += len(branches)
        row[3] += len(branches) - ways
        text = sources.text(place)
        reason = exceptions.find(place, text, ways > 0)
        if ways:
            missing.append(Missing(place, ways, len(branches), text, reason))
    return files, missing


def percent(part, whole):
    return f"{100 * part / whole:6.2f} %" if whole else "     - "


def table(files, missing):
    open_ways = collections.Counter()
    for m in missing:
        if m.reason is None:
            open_ways[m.place.file] += m.ways
    yield (f"{'file':24} {'lines':>6} {'taken':>9} {'branches':>9} "
           f"{'taken':>9} {'not':>5} {'open':>5}")
    total = [0, 0, 0, 0]
    rows = sorted(files.items())
    for name, row in rows:
        total = [a + b for a, b in zip(total, row)]
    for name, row in rows + [("qed/", total)]:
        left = sum(open_ways.values()) if name == "qed/" else open_ways[name]
        yield (f"{name:24} {row[0]:6} {percent(row[1], row[0]):>9} "
               f"{row[2]:9} {percent(row[3], row[2]):>9} "
               f"{row[2] - row[3]:5} {left:5}")


def describe(m):
    return (f"{m.place.file}:{m.place.line}: {m.place.function}: "
            f"{m.ways} of {m.of}: {m.text}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build")
    parser.add_argument("source")
    parser.add_argument("--minimum", type=float, default=0)
    parser.add_argument("--output")
    options = parser.parse_args()
    build = os.path.abspath(options.build)

    try:
        total = collect(build)
    except RuntimeError as error:
        sys.exit(str(error))
    if not total:
        sys.exit(f"{build} has no data of gcov: was it built with --coverage?")
    exceptions = Exceptions(os.path.join(options.source, "tests",
                                         "coverage-exceptions"))
    files, missing = examine(total, Sources(options.source), exceptions)
    unaccounted = [m for m in missing if m.reason is None]
    stale = exceptions.stale()

    output = options.output or build
    summary = "\n".join(table(files, missing))
    with open(os.path.join(output, "summary"), "w") as f:
        print(summary, file=f)
    with open(os.path.join(output, "uncovered"), "w") as f:
        for m in missing:
            print(describe(m), file=f)
            print(f"    {m.reason or 'NOT ACCOUNTED FOR'}", file=f)

    print(summary)
    for m in unaccounted:
        print(f"not accounted for: {describe(m)}")
    for name, function, text, *_ in stale:
        print(f"stale exception: {name} {function} {text}")
    branches = sum(row[2] for row in files.values())
    taken = sum(row[3] for row in files.values())
    reached = 100 * taken / branches
    print(f"{taken} of {branches} branches are taken: {reached:.2f} %; "
          f"{sum(m.ways for m in unaccounted)} of the others are not "
          f"accounted for; {len(stale)} exceptions are stale")
    if reached < options.minimum:
        print(f"the minimum is {options.minimum} %")
    return 1 if reached < options.minimum or unaccounted or stale else 0


if __name__ == "__main__":
    sys.exit(main())
