# SPDX-License-Identifier: LGPL-2.1-or-later

"""A strict reader of Prometheus's text format (0.0.4): prometheus.py [FILE]

Fails with one line if the text breaks a rule of the format or of the naming
of metrics; else prints a JSON object of all samples, "name{label=value,...}"
with the labels sorted by name, as numbers.
"""

import json
import math
import re
import sys

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"'
SAMPLE = re.compile(
    r"(%s)(?:\{(%s(?:,%s)*)\})? (\S+)" % (NAME, LABEL, LABEL))
TYPES = "counter gauge histogram summary untyped".split()
# What is not a base unit; numbers of things have none.
UNITS = re.compile(r"_(ms|milliseconds|us|microseconds|ns|nanoseconds|minutes|"
                   r"kb|mb|gb|kib|mib|gib|kilobytes|megabytes|percent)(_|$)")


class Broken(Exception):
    pass


def check(condition, line, what):
    if not condition:
        raise Broken("%s: %s" % (what, line))


def number(text, line):
    check(re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|\+Inf|-Inf|"
                       r"NaN", text), line, "no number")
    return float(text.replace("Inf", "inf"))


def parse(text):
    """The families in order: name -> (type, [(name, labels, value)])."""
    check(text == "" or text.endswith("\n"), text[-80:], "no newline at end")
    families, current, helped = {}, None, None
    for line in text.split("\n")[:-1]:
        check(line != "" and line == line.strip(), line, "blank")
        if line.startswith("#"):
            m = re.fullmatch(r"# (HELP|TYPE) (%s) (.+)" % NAME, line)
            check(m, line, "neither HELP nor TYPE")
            kind, name, rest = m.groups()
            if kind == "HELP":
                check(name not in families, line, "told twice")
                helped = name
            else:
                check(helped == name, line, "TYPE without HELP before it")
                check(rest in TYPES, line, "unknown type")
                families[name] = (rest, [])
                current = name
            continue
        m = SAMPLE.fullmatch(line)
        check(m, line, "not a sample")
        name, labels = m.group(1), m.group(2)
        pairs = re.findall(LABEL, labels or "")
        check(len(dict(pairs)) == len(pairs), line, "a label twice")
        check(current, line, "a sample before any TYPE")
        kind, samples = families[current]
        allowed = [current + s for s in ("_bucket", "_sum", "_count")] \
            if kind == "histogram" else [current]
        check(name in allowed, line, "not of the family " + current)
        samples.append((name, dict(pairs), number(m.group(m.lastindex), line)))
    return families


def judge_names(families):
    for name, (kind, samples) in families.items():
        check(samples, name, "no samples")
        check(re.fullmatch(r"[a-z0-9_]+", name), name, "not snake_case")
        check(not UNITS.search(name), name, "not a base unit")
        check((kind == "counter") == name.endswith("_total"), name,
              "_total is of counters, of all of them")
        check(kind != "histogram" or name.endswith(("_seconds", "_bytes")),
              name, "a histogram without unit")
        seen = set()
        for n, labels, value in samples:
            key = (n, tuple(sorted(labels.items())))
            check(key not in seen, key, "told twice")
            seen.add(key)
            check(set(labels) <= {"image", "request", "le", "use"}, key,
                  "unexpected label")
            check(kind == "gauge" or value >= 0, key, "negative")


def judge_histogram(name, samples):
    rows = {}
    for n, labels, value in samples:
        rest = tuple(sorted(i for i in labels.items() if i[0] != "le"))
        row = rows.setdefault(rest, {"buckets": []})
        if n.endswith("_bucket"):
            row["buckets"].append((number(labels["le"], n), value))
        else:
            check("le" not in labels, n, "le on a sum")
            row[n[len(name):]] = value
    for key, row in rows.items():
        buckets = row["buckets"]
        for (low, a), (high, b) in zip(buckets, buckets[1:]):
            check(low < high and a <= b, key, "not cumulative")
        check(buckets and buckets[-1][0] == math.inf, key, "no +Inf")
        check(buckets[-1][1] == row["_count"], key, "+Inf is not _count")
        check("_sum" in row, key, "no _sum")
        # Each request took as long as its bucket says, at least and at most.
        least = most = below = bound = 0
        for high, n in buckets:
            least += (n - below) * bound
            most += (n - below) * high if n > below else 0
            below, bound = n, high
        check(least <= row["_sum"] <= most, key, "_sum fits no bucket")


def main():
    text = (open(sys.argv[1]) if len(sys.argv) > 1 else sys.stdin).read()
    try:
        families = parse(text)
        judge_names(families)
        for name, (kind, samples) in families.items():
            if kind == "histogram":
                judge_histogram(name, samples)
    except Broken as e:
        sys.exit("prometheus.py: %s" % e)
    flat = {}
    for kind, samples in families.values():
        for name, labels, value in samples:
            text = ",".join("%s=%s" % i for i in sorted(labels.items()))
            flat[name + ("{%s}" % text if text else "")] = value
    json.dump(flat, sys.stdout)


main()
