#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later

"""Make the fuzzers' first inputs: corpus.py DIRECTORY

Each fuzzer has a directory there.  The same inputs are made each time; what a
fuzzer found and is worth keeping stands beside them, under other names.
"""

import os
import struct
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                ".."))
import recipe

# ---- Scripts (life.c) ----

STEPS = """open open-read-only open-always close read write zero trim flush
clean forget cache extents settle check check-data dry-run repair-leaks
repair-all undo check-online repair-online map resize rebase""".split()


def script(text):
    """Steps like "write:0x12345"."""
    out = b""
    for step in text.split():
        name, _, arg = step.partition(":")
        out += struct.pack("<I", STEPS.index(name) |
                           (int(arg, 0) if arg else 0) << 8)
    return out


USE = "open read:0x010008 write:0x080005 flush zero:0x04000d trim:0x0400fd " \
    "write:0x030002 extents:0xfff005 settle close map check"
ADMIN = "check check-data dry-run undo repair-all resize:0x00ff2 " \
    "rebase:1 resize:0x0083"
ONLINE = "open check-online write:0x010005 repair-online read:0x010005 " \
    "write:0x020005 settle clean"
SCRIPTS = {"use": USE, "admin": ADMIN, "online": ONLINE}

# ---- Descriptions (describe.h) ----


def clusters(n):
    return struct.pack("<BH", 0, n)


def octets(n):
    return struct.pack("<BH", 1, n)


def tables(n):
    return struct.pack("<BH", 2, n)


def power(n, more=0):
    return struct.pack("<BBb", 3, n, more)


def exact(n):
    return struct.pack("<BQ", 4, n)


def end(n):
    return struct.pack("<Bh", 5, n)


class Description:
    def __init__(self, size, l1=clusters(1), length=clusters(64), cluster=12,
                 table=0, header=1, features=0, bits=0):
        self.out = struct.pack("<BBBBB", cluster - 12, table, header,
                               features, bits) + size + l1 + length

    def add(self, kind, fmt, *values, tail=b""):
        self.out += struct.pack("<B" + fmt, kind, *values) + tail
        return self

    def l1(self, index, value):
        return self.add(0, "H", index, tail=value)

    def table(self, index, number):
        return self.add(1, "HB", index, number)

    def l2(self, number, index, value):
        return self.add(2, "BH", number, index, tail=value)

    def run(self, number, index, count, value):
        return self.add(3, "BHB", number, index, count, tail=value)

    def data(self, value):
        return self.add(4, "", tail=value)

    def stale(self, where, count):
        return self.add(5, "", tail=where + count)

    def fill(self, where, count, value):
        self.out += b"\x07" + where + struct.pack("<H", count) + value
        return self


def small(**keys):
    """Two tables, and data in each."""
    d = Description(exact(4 << 20), **keys)
    d.table(0, 0).table(1, 1)
    d.run(0, 0, 8, clusters(8)).run(1, 3, 4, clusters(20))
    d.l2(0, 9, exact(1))
    for n in range(8, 24):
        d.data(clusters(n))
    return d


def descriptions():
    yield "empty", Description(exact(1 << 30))
    yield "size-0", Description(exact(0), length=clusters(2))
    yield "small", small()
    yield "dirty", small(features=2)
    yield "autoclear", small(bits=2)
    yield "device", small(bits=4)
    yield "backing-raw", small(features=5)
    yield "backing-qed", small(features=1, bits=8)
    yield "dirty-backing", small(features=7).l2(0, 30, end(3))
    yield "table-16", small(table=4, length=clusters(99))
    yield "64k", small(cluster=16, table=2)
    yield "64m", small(cluster=26, table=4)
    yield "leaks", small().stale(clusters(30), clusters(20))
    yield "past-end", small(features=2).l2(0, 40, end(2)).l1(5, end(9))
    yield "misaligned", small().l2(0, 40, exact(0x8200)).l1(5, exact(0x2200))
    yield "reserved", small().l2(1, 40, exact(2)).l1(5, exact(0x8003))
    yield "into-header", small().l2(0, 40, clusters(0)).l2(1, 41, clusters(1))
    yield "into-l1", small().l1(3, clusters(1)).l1(4, exact(0))
    yield "into-table", small().l2(0, 40, tables(1)).l2(1, 50, tables(0))
    yield "shared", small().l2(0, 40, clusters(8)).run(1, 60, 9, clusters(7))
    yield "table-shared", small().table(2, 0).table(3, 0).table(9, 1)
    yield "table-overlap", small(table=2, length=clusters(99)) \
        .l1(2, clusters(4))
    yield "truncated", small(table=2, length=octets(0x5200))
    yield "odd-length", small(length=exact(24 * 4096 + 512))
    yield "garbage-table", small().stale(tables(0), clusters(1))
    yield "size-max", small(cluster=26, table=4, length=power(62))
    yield "8e-sparse", Description(power(62), cluster=26, table=4,
                                   length=exact(2**63 - 1)) \
        .l1(0, power(61)).l1(1, power(60)).l1(7, exact(2**63 - (1 << 30)))
    yield "8e-entries", Description(power(62), cluster=26, table=4,
                                    length=exact(2**63 - 1)) \
        .table(0, 1).run(1, 0, 20, power(50)).l2(1, 511, power(62)) \
        .stale(power(55), power(40))
    yield "l1-full", Description(power(62), cluster=26, table=4,
                                 length=power(62)) \
        .fill(clusters(1), 300, power(40))
    yield "l1-many", small(length=clusters(600)).fill(
        clusters(1), 40, tables(0)).fill(tables(0), 100, clusters(8))
    yield "l1-behind", small(l1=clusters(40))
    yield "l1-overflow", small(l1=exact(2**64 - 4096))
    yield "header-255", small(header=255, length=clusters(999),
                              l1=clusters(255))
    yield "cluster-odd", Description(exact(1 << 20), cluster=12 + 0xf5)


def image_inputs():
    for name, d in descriptions():
        for use, text in SCRIPTS.items():
            steps = script(text)
            yield "%s-%s" % (name, use), \
                struct.pack("<B", len(steps) // 4) + steps + d.out
        yield name, b"\0" + d.out


# ---- Pending logs (fuzz-pending.c) ----

BAD_SUM, OTHER_TOKEN, CLEAN, OTHER_BOOT, SCRIPT_ONLY = 1, 2, 4, 8, 16


def guest(n):
    return struct.pack("<BH", 0, n)


def guest_end(n):
    return struct.pack("<BH", 1, n)


def in_l1(n):
    return struct.pack("<BH", 2, n)


def l1_end(n):
    return struct.pack("<BH", 3, n)


def place(n):
    return struct.pack("<BH", 0, n)


def file_end(n):
    return struct.pack("<Bh", 1, n)


def table_place(n):
    return struct.pack("<BH", 2, n)


def number(n):
    return struct.pack("<BQ", 4, n)


class Log:
    def __init__(self, generations=(1, 0), parts=1, length=0, head=()):
        self.head = struct.pack("<BBHB", generations[0] | generations[1] << 4,
                                parts, length, len(head)) + \
            b"".join(struct.pack("<HB", *change) for change in head)
        self.records = []

    def add(self, slot, where, value, count=1, sum=0):
        many = struct.pack("<BQ", 255, count) if count > 254 else bytes([count])
        self.records.append(bytes([slot]) + where + value + many + bytes([sum]))
        return self

    def out(self):
        return self.head + bytes([len(self.records)]) + b"".join(self.records)


def logs():
    """For the image of small(), where clusters from 40 on are free."""
    yield "empty", Log((0, 0)), 0
    yield "good", Log().add(0, guest(9), place(40)) \
        .add(1, guest(20), place(41), 8), 0
    yield "both-halves", Log((2, 1)).add(0, guest(9), place(41)) \
        .add(128, guest(9), place(40)).add(129, guest(0), number(0), 4), 0
    yield "new-table", Log().add(0, in_l1(1), place(40)) \
        .add(1, guest(600), place(44)), 0
    yield "three-parts", Log((1, 2), 3).add(11, guest(9), place(40)) \
        .add(139, guest(512), place(41)).add(4, guest(30), number(1), 16), 0
    yield "zeros", Log().add(0, guest(0), number(1), 64) \
        .add(1, guest(512), number(0), 255), 0
    yield "table-gone", Log().add(0, in_l1(0), number(0)) \
        .add(1, guest(3), place(40)), 0
    yield "into-header", Log().add(0, guest(9), place(0)), 0
    yield "into-l1", Log().add(0, guest(9), place(1)), 0
    yield "into-table", Log().add(0, guest(9), table_place(0)), 0
    yield "table-into-data", Log().add(0, in_l1(1), place(8)) \
        .add(1, guest(600), place(40)), 0
    yield "table-twice", Log().add(0, in_l1(1), table_place(0)) \
        .add(1, guest(600), place(40)), 0
    yield "table-into-l1", Log().add(0, in_l1(2), place(1)), 0
    yield "shared", Log().add(0, guest(30), place(8), 8), 0
    yield "twice", Log().add(0, guest(30), place(40)) \
        .add(1, guest(31), place(40)), 0
    yield "last-cluster", Log().add(0, guest_end(1), file_end(-1)) \
        .add(1, in_l1(1), table_place(1)), 0
    yield "past-end", Log().add(0, guest(9), file_end(0)), 0
    yield "run-past-end", Log().add(0, guest(9), file_end(-2), 3), 0
    yield "table-past-end", Log().add(0, in_l1(2), file_end(0)), 0
    yield "misaligned", Log().add(0, guest(9), number(0x8200)), 0
    yield "reserved", Log().add(0, guest(9), number(2)), 0
    yield "wraps", Log().add(0, guest(9), number(2**64 - 8192), 4), 0
    yield "count-0", Log().add(0, guest(9), place(40), 0), 0
    yield "count-huge", Log().add(0, guest(9), number(0), 2**64 - 1), 0
    yield "two-pages", Log().add(0, guest(500), place(40), 20), 0
    yield "where-end", Log().add(0, guest_end(0), place(40)), 0
    yield "where-huge", Log().add(0, number(2**63 - 1), place(40)), 0
    yield "l1-end", Log().add(0, l1_end(1), number(0)), 0
    yield "l1-behind", Log().add(0, l1_end(0), number(0)), 0
    yield "l1-huge", Log().add(0, number(2**64 - 1), place(40)), 0
    yield "bad-record", Log().add(0, guest(9), place(40), 1, 9), 0
    yield "older-record", Log((3, 0)).add(0, guest(9), place(40), 1, 1), 0
    yield "newer-record", Log((3, 0)).add(0, guest(9), place(40), 1, 2), 0
    yield "same-generations", Log((3, 3)).add(0, guest(9), place(40)), 0
    yield "largest-generation", Log((15, 14)).add(0, guest(9), place(40)), 0
    yield "generation-huge", Log(head=((111, 255),)), 0
    yield "no-parts", Log(parts=0, length=4352), 0
    yield "too-many-parts", Log(parts=4, length=4864), 0
    yield "cut", Log(parts=2, length=4352).add(0, guest(9), place(40)), 0
    yield "short", Log(length=100), 0
    yield "no-head", Log(length=4095), 0
    for at in (0, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72):
        yield "head-%02d" % at, Log(head=((at, 7),)) \
            .add(0, guest(9), place(40)), 0
    good = Log().add(0, guest(9), place(40))
    for name, how in (("bad-sum", BAD_SUM), ("other-token", OTHER_TOKEN),
                      ("clean", CLEAN), ("other-boot", OTHER_BOOT),
                      ("script", SCRIPT_ONLY)):
        yield name, good, how


def pending_input(log, how, steps, description):
    out, steps = log.out(), script(steps)
    return struct.pack("<BH", how, len(out)) + out + \
        bytes([len(steps) // 4]) + steps + description.out


def pending_inputs():
    use = "open write:0x010005 trim:0x0400fd read:0x010008 flush write:0x03f005"
    for name, log, how in logs():
        yield name, pending_input(log, how, use, small())
    good = Log().add(0, guest(9), place(40)).add(1, guest(513), place(41), 3)
    for name, d in descriptions():
        if name in ("backing-raw", "backing-qed", "table-16", "64k", "64m",
                    "leaks", "shared", "past-end", "table-overlap", "truncated",
                    "device", "8e-entries", "l1-many"):
            yield "image-" + name, pending_input(good, 0, use, d)
    half = Log().add(0, guest(9), place(40)).add(1, guest(600), place(41))
    yield "image-table-misaligned", pending_input(
        half, 0, use, small().l1(1, exact(0x2200)))
    for name, steps in (("read-only", "open-read-only check map open"),
                        ("repair", "check dry-run repair-all"),
                        ("resize", "resize:0x00ff2 rebase:1"),
                        ("always", "open-always:3 check-online close undo")):
        yield "script-" + name, pending_input(good, SCRIPT_ONLY, steps, small())


# ---- Raw images ----

RAW = ("clean-4k-table-1", "everything", "garbage-l1-mixed", "shared-and-leaks",
       "overlap-chain", "truncated-within-entry", "need-check-debris",
       "l1-into-header-last", "clean-backing-qed", "clean-header-4")
RAW_BYTES = 12288               # the header and tables of small images


def raw_inputs(scratch):
    here = os.path.dirname(os.path.abspath(__file__))
    path = os.path.join(scratch, "disk.qed")
    for name in RAW:
        recipe.make(os.path.join(here, "..", "recipes", name), path)
        with open(path, "rb") as f:
            head = f.read(RAW_BYTES).rstrip(b"\0")
            length = os.fstat(f.fileno()).st_size
        os.unlink(path)
        steps = script("write:0x010005 read:0x010008 check-online resize:0xff2")
        yield name, steps + struct.pack("<Q", length) + head
    header = struct.pack("<IIIIQQQQQII", recipe.MAGIC, 4096, 1, 1, 0, 0, 0,
                         4096, 1 << 20, 0, 0)
    for name, at, value in (("cluster-0", 4, 0), ("cluster-huge", 4, 1 << 31),
                            ("table-17", 8, 17), ("header-huge", 12, 1 << 31),
                            ("features-unknown", 16, 8),
                            ("name-outside", 56, 4096)):
        bad = bytearray(header)
        struct.pack_into("<I", bad, at, value)
        yield name, script("check read write map") + \
            struct.pack("<Q", 1 << 20) + bytes(bad)
    yield "short", script("check open map undo") + struct.pack("<Q", 63) + \
        header


# ---- The admin door (fuzz-control.c) ----

REQUESTS = (
    '{"command":"list"}', '{"command":"list","after":"a","file":"/x"}',
    '{"command":"status","counters":true}', '{"command":"metrics"}',
    '{"command":"check","id":1}', '{"command":"check","data":true,"rate":1}',
    '{"command":"check","action":"pause"}',
    '{"command":"check","action":"continue"}',
    '{"command":"check","image":"../disk.qed"}',
    '{"command":"repair","what":"all","id":"me"}',
    '{"command":"repair","what":"leaks","rate":9223372036854775807}',
    '{"command":"flush"}', '{"command":"release"}', '{"command":"activate"}',
    '{"command":"no\\u0000thing","id":-1e400}', '{"command":["list"]}',
    '{"command":"list","command":"list"}', '{"id":99999999999999999999}',
    '[' * 200, '{"a":' * 9 + '1' + '}' * 9, '{"command":"li', '"\\ud800"',
    '', ' ', 'null', '\0', '{"command":"list","id":"' + 'x' * 65 + '"}',
)


def control_inputs():
    for i, text in enumerate(REQUESTS):
        text = text.encode("latin-1")
        yield "socket-%02d" % i, b"\1" + text + b"\n"
        yield "mailbox-%02d" % i, b"\0\0" + struct.pack("<H", len(text)) + \
            text
    yield "socket-all", b"\1" + "\n".join(REQUESTS).encode("latin-1")
    head = struct.pack(">QII", 7, 0, 18) + b'{"command":"list"}'
    yield "mailbox-write", b"\0\1\2\0" + bytes([len(head)]) + head + \
        b"\2\3\0\xff" + b"\2\0\0\xff" + b"\3" + b"\2\x0f\0\0\0\xff\xff\x0f"
    yield "mailbox-bad", b"\0" + b"\1\2\0\4abcd" + b"\1\0\0\xffabc" + \
        b"\1\2\0\x10" + struct.pack(">QII", 8, 0, 1 << 31)


# ---- Names (fuzz-names.c) ----

WORDS = ("../", "/", "out/secret.raw", "secret.qed", "base.raw", "base.qed",
         "link-out", "link-dir/", "link-in", "fifo", 'json:{"file":"', "nbd://",
         "nbd+unix:///?socket=/", "file:", "disk.qed", "/proc/self/root/",
         "<in>", "<out>", "<x>", "--backing=", "--backing-format=",
         "--cluster-size=", "--table-size=", "--allow-backing=", "--unsafe",
         "--force", "--json")

NAMES = (
    "base.raw", "base.qed", "link-in", "link-out", "link-dir/secret.qed",
    "../out/secret.raw", "<out>/secret.raw", "<in>/base.raw", "fifo",
    "link-dir/fifo", "<in>/../out/secret.qed", "./base.raw", "disk.qed",
    'json:{"file":"../out/secret.raw"}', "file:base.raw", "nbd://localhost/",
    "nbd+unix:///?socket=/x", "nbd+unix:///?socket=x", "base.raw\0", "a\nb",
    "\x7f", "", "/", ".", "..", "<x>" * 30, "/proc/self/root/<out>/secret.raw",
    "/proc/self/fd/3", "link-in/../../out/secret.raw", "//base.raw",
    "base.raw/", "<in>/link-out", "fat:.", "link-dir/../in/base.raw",
)


def coded(name):
    for i, word in enumerate(WORDS):
        name = name.replace(word, chr(0x80 + i))
    return name.encode("latin-1")


def name_inputs():
    for i, name in enumerate(NAMES):
        text = coded(name)
        for bits in (0, 1, 4, 8, 12, 16):
            yield "open-%02d-%d" % (i, bits), bytes([0, bits]) + text
        yield "create-%02d" % i, b"\1\x06" + struct.pack(
            "<QII", 1 << 20, 12, 0) + text
        yield "rebase-%02d" % i, b"\2\0" + text
        yield "unsafe-%02d" % i, b"\2\4" + text
        yield "command-%02d" % i, b"\3\0" + b"1M\0--backing=" + text
    for i, size in enumerate(("1G", "+512", "-1k", "8E", "8EiB", "16E", "1.5G",
                              "0x10", "18446744073709551616", "", " 1", "1 K")):
        yield "size-%02d" % i, b"\3\2" + size.encode()
        yield "new-size-%02d" % i, b"\3\0" + size.encode()
    yield "options", b"\3\0" + b"1M\0" + b"\0".join(
        coded(o) for o in ("--cluster-size=4K", "--table-size=16", "--force",
                           "--backing=base.raw", "--backing-format=raw",
                           "--json"))
    yield "rebase-options", b"\3\1\0" + b"\0".join(
        coded(o) for o in ("--unsafe", "--backing=base.qed",
                           "--allow-backing=<in>"))


def write(directory, name, content):
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, name), "wb") as f:
        f.write(content)


def main(directory):
    for fuzzer, inputs in (("control", control_inputs()),
                           ("image", image_inputs()),
                           ("names", name_inputs()),
                           ("pending", pending_inputs())):
        for name, content in inputs:
            write(os.path.join(directory, fuzzer), name, content)
    with tempfile.TemporaryDirectory() as scratch:
        for name, content in raw_inputs(scratch):
            write(os.path.join(directory, "raw"), name, content)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
