# SPDX-License-Identifier: LGPL-2.1-or-later

"""Random work on an export, against a flat model of the disk:
backing-work.py URI SEED OPERATIONS MODEL

MODEL is a file with the disk's content (bytes that it lacks are zeros), and is
brought up to date.  Several requests are in flight, on three connections, but
none overlaps another.
"""

import os
import random
import sys

import nbd

uri, seed, operations, path = sys.argv[1:]
rng = random.Random(int(seed))
handles = []
for i in range(3):
    handles.append(nbd.NBD())
    handles[i].connect_uri(uri)
size = handles[0].get_size()
model = bytearray(size)
if os.path.exists(path):
    with open(path, "rb") as f:
        data = f.read()[:size]
    model[:len(data)] = data


def choose():
    """An operation, aimed at the boundaries of clusters."""
    n = rng.choice([1, 512, 4096, 8192, 65536, 131072, 200000,
                    rng.randrange(1, 300000)])
    at = rng.randrange(size)
    if rng.random() < .5:
        at -= at % rng.choice([4096, 65536])
    if rng.random() < .05:
        at = max(size - n, 0)
    n = min(n, size - at)
    op = rng.choice(["write"] * 4 + ["read"] * 3 + ["zero", "zero", "trim"])
    return op, at, n


def start(h, op, at, n, number):
    fua = nbd.CMD_FLAG_FUA if rng.random() < .02 else 0
    if op == "write":
        data = bytearray(bytes([number % 255 + 1]) * n)
        buf = nbd.Buffer.from_bytearray(data)
        return h.aio_pwrite(buf, at, flags=fua), data
    if op == "zero":
        if rng.random() < .2:
            fua |= nbd.CMD_FLAG_NO_HOLE
        return h.aio_zero(n, at, flags=fua), bytes(n)
    if op == "trim":
        return h.aio_trim(n, at, flags=fua), None
    buf = nbd.Buffer(n)
    return h.aio_pread(buf, at), buf


def finish(h, cookie, op, at, n, what):
    while not h.aio_command_completed(cookie):
        h.poll(1000)
    if op == "read":
        got = what.to_bytearray()
        assert got == model[at:at + n], "read of %d at %d" % (n, at)
    elif op == "trim":
        # Each byte is as before, or zero.
        got = handles[0].pread(n, at)
        was = model[at:at + n]
        if got != was and got.count(0) < n:
            assert all(g in (0, w) for g, w in zip(got, was)), \
                "after a trim of %d at %d" % (n, at)
        model[at:at + n] = got
    else:
        model[at:at + n] = what


done = 0
while done < int(operations):
    flight = []
    for i in range(8):
        op, at, n = choose()
        if all(at + n <= a or a + m <= at for _, _, _, a, m, _ in flight):
            h = rng.choice(handles)
            cookie, what = start(h, op, at, n, done + i)
            flight.append((h, cookie, op, at, n, what))
    for request in flight:
        finish(*request)
    done += len(flight)

for at in range(0, size, 1 << 20):
    n = min(1 << 20, size - at)
    got = handles[1].pread(n, at)
    assert got == model[at:at + n], "in the end, in the MiB at %d" % at
with open(path, "wb") as f:
    f.write(model)
