#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later

"""Compare what qedctl map and qemu-img map say of an image.

map-compare.py OURS.json THEIRS.json [RAW-SIZE RAW-DEPTH]

Neighbours that go on are joined in QEMU's map, which splits them at its own
limits; in ours they must be.  Where the meanings differ:

 - QEMU counts a raw backing file in sectors: what is missing in its last one
   is a hole of that file.  We say that it ends there (RAW-SIZE, and the depth
   that the raw file has).
 - 'allocated' is ours alone.
"""

import json
import sys

FIELDS = ("start", "length", "depth", "present", "zero", "data", "offset")


def goes_on(a, b):
    if any(a[f] != b[f] for f in ("depth", "present", "zero", "data")):
        return False
    if ("offset" in a) != ("offset" in b):
        return False
    return "offset" not in a or a["offset"] + a["length"] == b["offset"]


def join(extents):
    joined = []
    for e in extents:
        if joined and goes_on(joined[-1], e):
            joined[-1]["length"] += e["length"]
        else:
            joined.append(dict(e))
    return joined


def cut_at_end(extents, size, depth):
    """QEMU's map with the raw file's real end."""
    result = []
    for e in extents:
        end = e["start"] + e["length"]
        if (e["depth"] != depth or not e["zero"] or e["start"] > size or
                end <= size):
            result.append(e)
            continue
        beyond = dict(e, start=size, length=end - size, depth=depth - 1,
                      present=False)
        beyond.pop("offset")
        if e["start"] < size:
            result.append(dict(e, length=size - e["start"]))
        result.append(beyond)
    return result


def check_ours(extents):
    at = None
    for e in extents:
        assert set(e) - {"offset"} == set(FIELDS) - {"offset"} | \
            {"allocated"}, e
        assert at is None or e["start"] == at, ("a gap", at, e)
        at = e["start"] + e["length"]
        assert e["zero"] != e["data"], e
        assert e["present"] or not e["allocated"], e
        assert e["allocated"] or "offset" not in e or e["present"], e
        assert ("offset" in e) == (e["data"] or
                                   (e["present"] and not e["allocated"])), e
    for e in extents:
        e.pop("allocated")
    assert join(extents) == extents, "neighbours that go on are not joined"


def main(argv):
    with open(argv[1]) as f:
        ours = json.load(f)
    with open(argv[2]) as f:
        theirs = json.load(f)
    check_ours(ours)
    theirs = [{k: e[k] for k in FIELDS if k in e} for e in theirs]
    if len(argv) > 3:
        theirs = cut_at_end(theirs, int(argv[3]), int(argv[4]))
    theirs = join(theirs)
    for a, b in zip(ours, theirs):
        if a != b:
            sys.exit("ours:   %s\ntheirs: %s" % (a, b))
    if len(ours) != len(theirs):
        sys.exit("%d extents and %d" % (len(ours), len(theirs)))
    print("%d extents" % len(ours))


main(sys.argv)
