# SPDX-License-Identifier: LGPL-2.1-or-later

"""Look at a closed QED image with other eyes than the server's and QEMU's:
image-walk.py [--free] IMAGE...

Every cluster of the file must be referenced exactly once: by the header, the
L1 table, an L1 entry or an L2 entry.  With --free a cluster may instead be
free, if it is a hole: how many there are is printed.  Works for all
geometries; holes of the file are skipped, so that tables of a GiB cost
nothing.
"""

import errno
import os
import struct
import sys


def data_ranges(fd, start, end):
    """The stretches of start..end that aren't holes."""
    while start < end:
        try:
            start = os.lseek(fd, start, os.SEEK_DATA)
        except OSError as e:
            if e.errno == errno.ENXIO:
                return
            raise
        if start >= end:
            return
        hole = min(os.lseek(fd, start, os.SEEK_HOLE), end)
        yield start, hole
        start = hole


def entries(fd, table, size):
    """The entries of a table that aren't 0, as (place in the file, value)."""
    for start, end in data_ranges(fd, table, table + size):
        start -= start % 8
        while start < end:
            raw = os.pread(fd, min(1 << 20, end - start), start)
            if not raw:
                return
            raw += bytes(-len(raw) % 8)
            if raw.count(0) < len(raw):
                for i, value in enumerate(struct.unpack("<%dQ"
                                                        % (len(raw) // 8),
                                                        raw)):
                    if value:
                        yield start + i * 8, value
            start += len(raw)


def walk(path):
    fd = os.open(path, os.O_RDONLY)
    length = os.fstat(fd).st_size
    magic, cluster, table, header, features, _, _, l1, size = \
        struct.unpack("<IIIIQQQQQ", os.pread(fd, 56, 0))
    problems = []
    users = {}                  # cluster number -> who refers to it

    if magic != 0x00444551:
        return ["no QED image"]
    if features & 2:
        problems.append("NEED_CHECK is set")

    def refer(offset, clusters, who):
        if offset % cluster or offset + clusters * cluster > length:
            problems.append("%s: 0x%x is misaligned or past the end 0x%x"
                            % (who, offset, length))
            return False
        for i in range(offset // cluster, offset // cluster + clusters):
            if i in users:
                problems.append("%s and %s refer to 0x%x"
                                % (users[i], who, i * cluster))
                return False
            users[i] = who
        return True

    refer(0, header, "the header")
    refer(l1, table, "the header (L1)")
    tables = []
    for place, value in entries(fd, l1, table * cluster):
        if refer(value, table, "the L1 entry at 0x%x" % place):
            tables.append(value)
    for l2 in tables:
        for place, value in entries(fd, l2, table * cluster):
            if value != 1:
                refer(value, 1, "the L2 entry at 0x%x" % place)
    total = -(-length // cluster)
    lost = [i for i in range(total) if i not in users]
    if may_be_free:
        leaked = [i for i in lost if any(data_ranges(fd, i * cluster,
                                                     (i + 1) * cluster))]
        print(len(lost) - len(leaked))
        lost = leaked
    if lost:
        leaked, first = len(lost), lost[0]
        problems.append("%d of %d clusters leaked, the first at 0x%x"
                        % (leaked, total, first * cluster))
    if length % cluster:
        problems.append("the length 0x%x isn't whole clusters" % length)
    os.close(fd)
    return problems


status = 0
names = sys.argv[1:]
may_be_free = names[:1] == ["--free"]
for name in names[may_be_free:]:
    for problem in walk(name)[:20]:
        print("%s: %s" % (name, problem), file=sys.stderr)
        status = 1
sys.exit(status)
