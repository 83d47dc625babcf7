# SPDX-License-Identifier: LGPL-2.1-or-later

"""What the guest of an image can read, damaged as the image may be.

Written from the format's description alone: the tests hold it against what
the programs under test say and do.  An entry is *invalid* if it has reserved
bits, is misaligned, or names a place in the header, in a table, or past the
end.  A table that lies where something else lies too, and in which no entry
is valid, is *dead*: it can only be dropped.  What invalid entries, dead tables
and the missing part of tables describe is *lost*; all else can be kept.

Holes of the file are skipped, so that tables of a GiB cost nothing.
"""

import errno
import hashlib
import os
import struct

BLOCK = 4096
ZEROS = bytes(BLOCK)


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


def blocks(fd, start, end):
    """The blocks of start..end that aren't all zeros: (place, content)."""
    for at, stop in data_ranges(fd, start, end):
        at -= (at - start) % BLOCK
        while at < stop:
            content = os.pread(fd, min(BLOCK, end - at), at)
            if content != ZEROS:
                content = content.rstrip(b"\0")    # as if the file went on
                if content:
                    yield at, content
            at += BLOCK


def digest(path):
    """The same for two files exactly if they have the same bytes."""
    fd = os.open(path, os.O_RDONLY)
    length = os.fstat(fd).st_size
    h = hashlib.sha256(b"%d" % length)
    for at, content in blocks(fd, 0, length):
        h.update(b"%d:" % at + content)
    os.close(fd)
    return h.hexdigest()


def copy(source, target):
    """Blocks of zeros become holes."""
    a = os.open(source, os.O_RDONLY)
    b = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    length = os.fstat(a).st_size
    os.ftruncate(b, length)
    for at, content in blocks(a, 0, length):
        os.pwrite(b, content, at)
    os.close(a)
    os.close(b)


def join(ranges):
    """Sorted ranges, as [start, end), joined where they touch."""
    joined = []
    for start, end in sorted(ranges):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        elif end > start:
            joined.append([start, end])
    return joined


class Table:
    def __init__(self, index, at, end):
        self.index = index      # in L1
        self.at = at
        self.end = end          # in the file
        self.dead = False
        self.apart = False      # it is cut, or overlaps others
        self.entries = {}       # index -> value


class View:
    """All fields are read-only.  Guest offsets and places in bytes."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)
        self.length = os.fstat(self.fd).st_size
        self.header = os.pread(self.fd, 4096, 0)
        (_, self.C, table, header, self.features, self.compat,
         self.autoclear, self.L1, self.size) = \
            struct.unpack("<IIIIQQQQQ", self.header[:56])
        self.T = table * self.C
        self.N = self.T // 8
        self.header_bytes = header * self.C
        self.bad = {}           # place of an entry -> (code, value, guest)
        self.lost = []
        self.tables = []
        self.table_of = {}      # L1 index -> table
        self.guest = {}         # guest cluster -> place, or 1 (zeros)
        self.digests = {}
        self.read_l1()
        self.find_dead_tables()
        for t in self.tables:
            if not t.dead:
                self.read_l2(t)
        self.lost = join(self.lost)
        self.count_references()

    def __del__(self):
        os.close(self.fd)

    def entries(self, start, end):
        for at, content in blocks(self.fd, start, end):
            content += bytes(-len(content) % 8)
            if at + len(content) > self.length:     # the last one is cut
                content = content[:-8]
            for i, value in enumerate(struct.unpack("<%dQ" %
                                                    (len(content) // 8),
                                                    content)):
                if value:
                    yield (at - start) // 8 + i, value

    def wrong(self, value):
        """Why nothing can lie there; None if it can."""
        if value & 0xfff:
            return "reserved-bits"
        if value % self.C:
            return "misaligned"
        if value < self.header_bytes:
            return "into-header"
        if value >= self.length:
            return "past-end"
        return None

    def lose(self, index, first, count):
        """Entries of the table of an L1 entry, as far as the disk goes."""
        start = (index * self.N + first) * self.C
        end = min(start + count * self.C, self.size)
        if start < end:
            self.lost.append((start, end))

    # ---- Tables ----

    def read_l1(self):
        for index, value in self.entries(self.L1, self.L1 + self.T):
            why = self.wrong(value)
            if why:
                self.bad[self.L1 + index * 8] = ("l1-entry-" + why, value,
                                                 index * self.N * self.C)
                self.lose(index, 0, self.N)
                continue
            t = Table(index, value, min(value + self.T, self.length))
            t.entries = dict(self.entries(t.at, t.end))
            self.tables.append(t)
            self.table_of[index] = t
            there = (t.end - t.at) // 8
            self.lose(index, there, self.N - there)

    def spans(self, dead=True):
        """Where tables lie: (start, end, whose)."""
        yield self.L1, self.L1 + self.T, None
        for t in self.tables:
            if dead or not t.dead:
                yield t.at, t.end, t

    def table_clusters(self, dead=True):
        used = {}               # cluster -> number of tables
        for start, end, _ in self.spans(dead):
            for c in range(start // self.C, -(-end // self.C)):
                used[c] = used.get(c, 0) + 1
        return used

    def find_dead_tables(self):
        used = self.named_tables = self.table_clusters()
        named = {value // self.C for t in self.tables
                 for value in t.entries.values() if not self.wrong(value)}
        for t in self.tables:
            mine = range(t.at // self.C, -(-t.end // self.C))
            doubtful = any(used[c] > 1 or c in named for c in mine)
            valid = any(v == 1 or
                        (not self.wrong(v) and v // self.C not in used)
                        for v in t.entries.values())
            t.apart = t.end < t.at + self.T or any(
                s < t.end and t.at < e and (o is None or o.at < t.at)
                for s, e, o in self.spans())
            t.dead = doubtful and len(t.entries) > 0 and not valid
            if t.dead:
                self.lose(t.index, 0, self.N)
        self.used = self.table_clusters(dead=False)

    def read_l2(self, t):
        for i, value in t.entries.items():
            cluster = t.index * self.N + i
            if value == 1:
                self.guest[cluster] = 1
                continue
            why = self.wrong(value)
            if not why and value // self.C in self.used:
                why = "into-table"
            if why:
                prefix = "entry-" if why.startswith("into") else "l2-entry-"
                if not t.apart:
                    self.bad.setdefault(t.at + i * 8, (prefix + why, value,
                                                       cluster * self.C))
                self.lose(t.index, i, 1)
            else:
                self.guest[cluster] = value

    # ---- References ----

    def count_references(self):
        """How many refer to each cluster of the file, and which has none."""
        refs = dict(self.used)
        for c in range(self.header_bytes // self.C):
            refs[c] = refs.get(c, 0) + 1
        for value in self.guest.values():
            if value != 1:
                refs[value // self.C] = refs.get(value // self.C, 0) + 1
        self.shared = sorted(c for c in refs if refs[c] > 1)
        for t in self.tables:
            for c in range(t.at // self.C, -(-t.end // self.C)):
                refs.setdefault(c, 0)           # of a dead one: no leak yet
        self.end_of_use = max(c for c in refs if refs[c]) + 1
        self.leaked, self.free = [], []
        for c in range(-(-self.length // self.C)):
            if c in refs:
                continue
            end = min((c + 1) * self.C, self.length)
            hole = not any(data_ranges(self.fd, c * self.C, end))
            (self.free if hole else self.leaked).append(c)

    # ---- Content ----

    def place(self, at):
        """What a cluster of the file holds."""
        if at not in self.digests:
            h = hashlib.sha256()
            for place, content in blocks(self.fd, at, at + self.C):
                h.update(b"%d:" % (place - at) + content)
            self.digests[at] = h.hexdigest()
        return self.digests[at]

    def content(self, cluster):
        """What a guest cluster holds: None if it isn't allocated."""
        at = self.guest.get(cluster)
        return at if at is None or at == 1 else self.place(at)

    def read(self, cluster, start, count):
        """Bytes of a guest cluster."""
        at = self.guest[cluster]
        data = b"" if at == 1 else os.pread(self.fd, count, at + start)
        return data + bytes(count - len(data))

    def is_doubtful(self, cluster):
        """Whether something else claims the place of its content, or its
        table is cut or overlaps another.
        """
        table = self.table_of[cluster // self.N]
        return table.apart or \
            self.guest[cluster] // self.C in self.named_tables
