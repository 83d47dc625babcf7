# SPDX-License-Identifier: LGPL-2.1-or-later

"""What the control export promises, byte by byte: mailbox-client.py SOCKET

The server has one image, disk.qed, and control-export=admin.
"""

import errno
import json
import random
import struct
import sys
import time

import nbd

SIZE = 4 << 20
PROGRESS, REQUEST, REPLY = 0x1000, 0x10000, 0x100000
PLACES = (PROGRESS, 4096, REQUEST, 16 + 65536, REPLY, 16 + (2 << 20))
rng = random.Random(1)


def connect():
    h = nbd.NBD()
    h.set_export_name("qed-control")
    h.set_full_info(True)
    h.set_strict_mode(0)
    h.connect_unix(sys.argv[1])
    return h


def message(sequence, text, state=0, length=None):
    return struct.pack(">QII", sequence, state,
                       len(text) if length is None else length) + text


def send(h, sequence, request):
    h.pwrite(message(sequence, json.dumps(request).encode()), REQUEST)


def header(h, place):
    return struct.unpack(">QII", h.pread(16, place))


def wait(h, sequence):
    while True:
        s, state, length = header(h, REPLY)
        assert s == sequence and state in (1, 2)
        if state == 2:
            return json.loads(h.pread(length, REPLY + 16))
        assert length == 0
        time.sleep(0.01)


def ask(h, sequence, request):
    send(h, sequence, request)
    return wait(h, sequence)


def fails(error, function, *args):
    try:
        function(*args)
    except nbd.Error as e:
        assert e.errnum == error, e
        return
    raise AssertionError("it works: %s" % (args,))


# ---- What the export is ----------------------------------------------------

h = connect()
assert h.get_size() == SIZE
assert h.get_export_description() == "nbdkit-qed control"
assert not h.is_read_only() and not h.can_multi_conn()
assert not h.can_flush() and not h.can_trim() and not h.can_fua()
assert not h.can_cache() and not h.can_fast_zero()
identity = b"nbdkit-qed mail\n" + struct.pack(">II6Q", 1, 2, *PLACES)
start = h.pread(8192, 0)
assert start[:72] == identity
assert start[72:] == bytes(8192 - 72)
assert header(h, REPLY) == (0, 0, 0) and header(h, PROGRESS) == (0, 0, 0)
assert h.pread(SIZE, 0) == identity + bytes(SIZE - 72)

# ---- What may be written, and where ----------------------------------------

text = b'{"command":"list"}'
good = message(1, text)
for offset in (0, 16, PROGRESS, REQUEST - 1, REQUEST + 1, REQUEST + 16, REPLY,
               SIZE - len(good)):
    fails(errno.EPERM, h.pwrite, good, offset)
for bad in (good[:-1], good + b" ", good[:15], b"x", bytes(16),
            message(0, text), message(1, text, 1), message(1, text, 2 ** 31),
            message(1, text, length=0), message(1, text, length=2 ** 32 - 1),
            message(1, b" " * 65537), message(1, b"x", length=65537),
            b"x" * (2 << 20)):
    fails(errno.EINVAL, h.pwrite, bad, REQUEST)
for i in range(300):
    bad = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 300)))
    fails(errno.EINVAL, h.pwrite, bad, REQUEST)
for offset in (0, REQUEST, REPLY):
    for count in (1, 16, 4096, SIZE - offset):
        try:
            h.zero(count, offset)
            raise AssertionError("zeroed")
        except nbd.Error:
            pass
assert h.pread(SIZE, 0) == identity + bytes(SIZE - 72), "something changed"

# ---- Requests --------------------------------------------------------------

h.pwrite(good, REQUEST)
assert len(wait(h, 1)["images"]) == 1
fails(errno.EINVAL, h.pwrite, good, REQUEST)    # the same sequence number
assert len(wait(h, 1)["images"]) == 1           # and the reply is still there
assert ask(h, 2 ** 64 - 1, {"command": "list", "id": "a"})["id"] == "a"
assert ask(h, 1, {"command": "list"})["images"][0]["name"] == "disk.qed"
longest = text + b" " * (65536 - len(text))
h.pwrite(message(3, longest), REQUEST)
assert len(wait(h, 3)["images"]) == 1
h.pwrite(message(4, b""), REQUEST)
assert wait(h, 4)["error"]["code"] == "bad-request"
h.pwrite(message(5, bytes(65536)), REQUEST)
assert wait(h, 5)["error"]["code"] == "bad-request"
h.pwrite(message(6, b"[" * 65536), REQUEST)
assert wait(h, 6)["error"]["code"] == "bad-request"
whole = ask(h, 7, {"command": "status"})
n = header(h, REPLY)[2]
body = h.pread(n, REPLY + 16)
# Any window shows the same.
image = h.pread(SIZE, 0)
for i in range(200):
    offset = rng.choice((0, PROGRESS, REQUEST, REPLY)) + rng.randrange(2000)
    count = rng.randrange(1, 3000)
    assert h.pread(count, offset) == image[offset:offset + count]
assert image[REPLY + 16:REPLY + 16 + n] == body
assert image[REPLY + 16 + n:] == bytes(SIZE - REPLY - 16 - n)

# ---- Progress; a request while one is under way; another connection --------

send(h, 8, {"command": "check", "rate": 20000})
while header(h, PROGRESS)[1] == 0:
    assert header(h, REPLY) == (8, 1, 0)
    time.sleep(0.01)
sequence, events, length = header(h, PROGRESS)
assert sequence == 8 and events > 0
event = json.loads(h.pread(length, PROGRESS + 16))
assert event["event"] == "progress" and event["running"]["what"] == "check"
fails(errno.EINVAL, send, h, 9, {"command": "list"})
other = connect()
assert header(other, REPLY) == (0, 0, 0), "not a mailbox of its own"
assert "running-check" in ask(other, 9, {"command": "status"})["images"][0]
assert ask(other, 10, {"command": "check"})["error"]["code"] == \
    "already-running"
cancel = {"command": "check", "action": "cancel"}
assert "running" in ask(other, 11, cancel)
assert wait(h, 8)["error"]["code"] == "canceled"

# A client that goes leaves the check to itself.
send(h, 12, {"command": "check", "rate": 1})
h.shutdown()
del h
while "running-check" not in ask(other, rng.getrandbits(64),
                                 {"command": "status"})["images"][0]:
    time.sleep(0.05)
assert "running" in ask(other, 13, cancel)
while "running-check" in ask(other, rng.getrandbits(64),
                             {"command": "status"})["images"][0]:
    time.sleep(0.05)
image = ask(other, 14, {"command": "status"})["images"][0]
assert image["last-check"]["verdict"] == "canceled", image

# ---- Many ------------------------------------------------------------------

many = [connect() for i in range(15)]
fails(errno.ENOENT, connect)
for i, h in enumerate(many):
    send(h, i + 1, {"command": "metrics", "id": i})
for i, h in enumerate(many):
    assert wait(h, i + 1)["id"] == i
for h in many:
    h.shutdown()
del many, h
h = connect()
assert len(ask(h, 1, {"command": "list"})["images"]) == 1
