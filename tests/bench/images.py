# SPDX-License-Identifier: LGPL-2.1-or-later

"""Images for the benchmark, written directly: a raw file and a QED file with
the same content, so that no server under test has made what it is measured
on.
"""

import array
import os
import random
import struct
import sys

# What lies in the clusters of an image.
EMPTY = "empty"         # nothing is allocated
DATA = "data"           # everything is allocated and written
HOLES = "holes"         # everything is allocated, and the file has holes
                        # there: many tables, hardly any storage
SHUFFLED = "shuffled"   # as HOLES; where in the file a cluster lies has
                        # nothing to do with where it lies on the disk
SPARSE = "sparse"       # as HOLES, but most of it is unallocated: every
                        # eighth table is there, and names eight clusters
HALF = "half"           # as HOLES, but every other cluster is unallocated

HEADER = struct.Struct("<4sIIIQQQQQII")
BACKING_FILE = 1
NEED_CHECK = 2
BACKING_RAW = 4
CHUNK = 1 << 20


class Image:
    """How an image is laid out; sizes in bytes, table_size in clusters."""

    def __init__(self, place, size, cluster_size, table_size, content,
                 backing=None, backing_raw=False):
        self.place = place              # "memory" or "disk"
        self.size = size
        self.cluster_size = cluster_size
        self.table_size = table_size
        self.content = content
        self.backing = backing          # another image's name, or None
        self.backing_raw = backing_raw  # of that, its raw file
        self.table_bytes = table_size * cluster_size
        self.table_entries = self.table_bytes // 8
        self.table_span = self.table_entries * cluster_size

    def backing_file(self):
        """The name of the file below; it lies in the same directory."""
        return self.backing + (".raw" if self.backing_raw else ".qed")


def write_raw(path, image):
    """Make the raw file."""
    with open(path, "wb") as f:
        f.truncate(image.size)
        if image.content == DATA:
            write_data(f, image.size)
        os.fsync(f.fileno())


def write_qed(path, image):
    """Make the QED file: header, L1 table, then each L2 table with its
    clusters behind it, as a sequential fill would lay them out.
    """
    l1_offset = image.cluster_size
    end = l1_offset + image.table_bytes
    l1 = []
    features, name = 0, b""
    if image.backing:
        features = BACKING_FILE | (BACKING_RAW if image.backing_raw else 0)
        name = image.backing_file().encode()
    with open(path, "wb") as f:
        f.write(HEADER.pack(b"QED\0", image.cluster_size, image.table_size,
                            1, features, 0, 0, l1_offset, image.size,
                            HEADER.size if name else 0, len(name)))
        f.write(name)
        if image.content == SHUFFLED:
            l1, end = write_shuffled(f, image, end)
        elif image.content != EMPTY:
            for start in range(0, image.size, image.table_span):
                if image.content == SPARSE and start // image.table_span % 8:
                    l1.append(0)
                    continue
                length = min(image.table_span, image.size - start)
                l1.append(end)
                end = write_table(f, image, end, length)
        f.seek(l1_offset)
        f.write(entries(l1))
        f.truncate(end)
        os.fsync(f.fileno())


def write_table(f, image, offset, length):
    """Write an L2 table at offset and its data after it; return the end."""
    data = offset + image.table_bytes
    count = length // image.cluster_size
    if image.content == SPARSE:
        count = min(count, 8)
    elif image.content == HALF:
        count //= 2
    end = data + count * image.cluster_size
    named = range(data, end, image.cluster_size)
    if image.content == HALF:
        named = [n for offset in named for n in (offset, 0)]
    f.seek(offset)
    f.write(entries(named))
    if image.content == DATA:
        f.seek(data)
        write_data(f, length)
    return end


def write_shuffled(f, image, start):
    """Write tables and clusters from start on, as if a guest had written all
    of its disk in random order; return the tables' offsets and the end.

    All tables use one permutation of a table's entries.  The data of an entry
    lies behind another table: each entry has its own distance to that, so
    that no two entries name the same place.
    """
    count = image.size // image.table_span      # whole tables
    stride = image.table_bytes + image.table_span
    l1 = [start + i * stride for i in range(count)]
    rng = random.Random(1)
    slots = list(range(image.table_entries))
    rng.shuffle(slots)
    slots = [image.table_bytes + s * image.cluster_size for s in slots]
    distances = rng.choices(range(count), k=image.table_entries)
    pairs = list(zip(distances, slots))
    for table, offset in enumerate(l1):
        homes = l1[table:] + l1[:table]
        f.seek(offset)
        f.write(entries([homes[d] + slot for d, slot in pairs]))
    return l1, start + count * stride


def write_data(f, length):
    """Write that many bytes that are not zeros, always the same ones."""
    chunk = random.Random(1).randbytes(CHUNK)
    while length > 0:
        f.write(chunk[:length])
        length -= CHUNK


def entries(offsets):
    """Table entries as bytes."""
    table = array.array("Q", offsets)
    if sys.byteorder == "big":
        table.byteswap()
    return table.tobytes()


def mark_dirty(path):
    """Set NEED_CHECK, as a server that was killed leaves it."""
    with open(path, "r+b") as f:
        header = list(HEADER.unpack(f.read(HEADER.size)))
        header[4] |= NEED_CHECK
        f.seek(0)
        f.write(HEADER.pack(*header))
        os.fsync(f.fileno())


def state(path):
    """What a workload that only writes in place must leave as it was: the
    feature bits of a QED file, and the length.
    """
    with open(path, "rb") as f:
        header = f.read(HEADER.size)
    length = os.stat(path).st_size
    if header[:4] != b"QED\0":
        return (None, length)
    return (HEADER.unpack(header)[4], length)
