# SPDX-License-Identifier: LGPL-2.1-or-later

"""Make the damaged image that a recipe describes: recipe.py RECIPE DIRECTORY

RECIPE is a directory of tests/recipes; DIRECTORY gets disk.qed, and base.raw
or base.qed if there is a backing file: they are the same for all.  A recipe is
a fragment of Python that calls the methods of class Image below, in the order
in which things lie in the file, and then plants what is wrong.  Nothing of the
programs under test is used, and the same recipe gives the same bytes.

Sizes are numbers, or strings like "64K".  Guest clusters are counted from 0.
Whatever is written to a guest's cluster is unlike all that is written
elsewhere, and as a table entry each of its words would have reserved bits.
"""

import os
import struct
import sys

MAGIC = 0x00444551
BLOCK = 4096                    # what is written of content at a time
NEED_CHECK = 2
NO_PROBE = 4
BACKING = 1
BACKING_BYTES = 1 << 20


def size(text):
    """A number, or a string like "64K"."""
    if isinstance(text, int):
        return text
    shift = 10 * ("KMGTPE".find(text[-1]) + 1)
    return int(text[:-1] if shift else text) << shift


def words(*values):
    return struct.pack("<%dQ" % len(values), *values)


def pattern(cluster, block):
    """A block of what the guest wrote to a cluster."""
    return words(cluster << 26 | block << 12 | 0xe5d) * (BLOCK // 8)


def stale(cluster):
    """A block of what nothing refers to any more, by the place in the file."""
    return words(0xdead << 48 | cluster << 12 | 0xbad) * (BLOCK // 8)


class Image:
    def __init__(self, path, need_check=None):
        self.path = path
        self.need_check = need_check    # None: as the recipe has it
        self.unreadable = []    # (place, bytes), see below
        self.changes = []       # (place, data), see below
        self.tables = {}        # L1 index -> place in the file
        self.clusters = {}      # guest cluster -> place in the file

    # ---- The image as it should be ----

    def image(self, bytes, cluster="64K", table=4, header=1, l1="first",
              need_check=False, backing=None, compat=0, autoclear=0):
        """Begin an image.  backing: raw, qed, or missing (a raw one that
        isn't there).  l1="later": the recipe says where, by place_l1.
        """
        if self.need_check is not None:
            need_check = self.need_check
        self.C = size(cluster)
        self.T = self.C * table
        self.N = self.T // 8
        self.size = size(bytes)
        self.header_bytes = header * self.C
        self.end = self.header_bytes
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

        features = NEED_CHECK if need_check else 0
        name = b""
        if backing:
            name = {"qed": b"base.qed", "raw": b"base.raw",
                    "missing": b"gone.raw"}[backing]
            features |= BACKING | (0 if backing == "qed" else NO_PROBE)
            make_backing(os.path.dirname(self.path), backing)
        # What others may keep in the header clusters isn't ours to change.
        for at in range(0, header):
            self.write(at * self.C, b"\xa5" * BLOCK)
        self.write(0, struct.pack("<IIIIQQQQQII", MAGIC, self.C, table, header,
                                  features, compat, autoclear, 0, self.size,
                                  100 if name else 0, len(name)))
        self.write(100, name)
        if l1 == "first":
            self.place_l1()

    def grow(self, bytes):
        at = self.end
        self.end += bytes
        os.ftruncate(self.fd, self.end)
        return at

    def write(self, at, data):
        os.pwrite(self.fd, data, at)

    def place_l1(self):
        self.L1 = self.grow(self.T)
        self.write(40, words(self.L1))

    def table(self, index):
        """The L2 table of an L1 entry, an empty one at the end if there is
        none yet.
        """
        if index not in self.tables:
            self.tables[index] = self.grow(self.T)
            self.l1(index, self.tables[index])
        return self.tables[index]

    def data(self, first, count=1):
        """Guest clusters with content."""
        for cluster in range(first, first + count):
            self.table(cluster // self.N)
            self.content(cluster, self.grow(self.C))

    def content(self, cluster, at):
        self.clusters[cluster] = at
        self.l2(cluster, at)
        if self.C <= 65536:
            blocks = range(self.C // BLOCK)
        else:                   # the rest is a hole
            blocks = (0, self.C // BLOCK - 1)
        for block in blocks:
            self.write(at + block * BLOCK, pattern(cluster, block))

    def zero(self, first, count=1):
        for cluster in range(first, first + count):
            self.table(cluster // self.N)
            self.l2(cluster, 1)

    def leak(self, count=1):
        """Clusters with old content that nothing refers to."""
        at = self.end
        for i in range(count):
            n = self.grow(self.C)
            self.write(n, stale(n // self.C) * min(16, self.C // BLOCK))
        return at

    def hole(self, count=1):
        """Clusters that nothing refers to, and that take no space."""
        return self.grow(count * self.C)

    # ---- What is wrong with it ----

    def l1(self, index, value):
        """Set an L1 entry."""
        self.write(self.L1 + index * 8, words(value & 0xffffffffffffffff))

    def l2(self, cluster, value):
        """Set the L2 entry of a guest cluster."""
        self.write(self.entry_at(cluster), words(value & 0xffffffffffffffff))

    def entry_at(self, cluster):
        """Where in the file that entry is."""
        return self.table(cluster // self.N) + cluster % self.N * 8

    def at(self, cluster):
        """Where the content of a guest cluster lies, as long as all is
        well.
        """
        return self.clusters[cluster]

    def cut(self, length):
        """Give the file another length, without changing any entry."""
        self.end = length
        os.ftruncate(self.fd, length)

    def tail(self, bytes):
        """The file goes on for so many bytes of old content."""
        self.write(self.grow(bytes), b"\xee" * bytes)

    def fails(self, at, bytes):
        """The storage can't read this range of the file."""
        self.unreadable.append((at, bytes))

    def changed_beneath(self, at, data):
        """Another program writes this to the file while it is served."""
        self.changes.append((at, data))


def make_backing(directory, kind):
    """A file beneath, with content of its own."""
    path = os.path.join(directory, "base." + kind)
    if kind == "missing" or os.path.exists(path):
        return
    if kind == "qed":
        base = Image(path)
        base.image(BACKING_BYTES, cluster="4K", table=2)
        for cluster in range(0, BACKING_BYTES // 4096, 3):
            base.data(cluster)
        os.close(base.fd)
        return
    with open(path, "wb") as f:
        for block in range(BACKING_BYTES // BLOCK):
            f.write(stale(block))


def make(recipe, path, need_check=None):
    image = Image(path, need_check)
    names = {name: getattr(image, name) for name in dir(Image)
             if not name.startswith("_")}
    names["q"] = image
    names.update(words=words, stale=stale)
    path = os.path.join(recipe, "recipe")
    with open(path) as f:
        exec(compile(f.read(), path, "exec"), names)
    os.close(image.fd)
    return image


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    make(sys.argv[1], os.path.join(sys.argv[2], "disk.qed"))
