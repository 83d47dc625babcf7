# SPDX-License-Identifier: LGPL-2.1-or-later

"""A client that misbehaves: garbage-client.py SOCKET SIZE ORPHANS

It leaves at most ORPHANS requests of a connection under way.

Everything that is sent either is refused by the protocol or changes nothing:
whoever looks at the export afterwards must find it as it was.  Fails if a
request that makes no sense is answered with success.
"""

import random
import socket
import struct
import sys

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
REQUEST_MAGIC = 0x25609513
REPLY_MAGIC = 0x67446698

path, size = sys.argv[1], int(sys.argv[2])
orphans = int(sys.argv[3])
rng = random.Random(1)


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(20)
    s.connect(path)
    return s


def receive(s, n):
    data = b""
    while len(data) < n:
        more = s.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def handshake():
    """Go into transmission, with simple replies."""
    s = connect()
    assert receive(s, 16) == b"NBDMAGICIHAVEOPT"
    receive(s, 2)
    s.sendall(struct.pack(">I", 3))
    # NBD_OPT_EXPORT_NAME of ""
    s.sendall(b"IHAVEOPT" + struct.pack(">II", 1, 0))
    exported, flags = struct.unpack(">QH", receive(s, 10))
    assert exported == size, "the export has %d bytes" % exported
    return s


def request(command, offset, count, flags=0, cookie=7, magic=REQUEST_MAGIC):
    return struct.pack(">IHHQQI", magic, flags, command, cookie,
                       offset % 2**64, count)


def answer(s):
    """The error number of a simple reply, or None for a closed connection."""
    try:
        magic, error, cookie = struct.unpack(">IIQ", receive(s, 16))
    except (EOFError, ConnectionError):
        return None
    assert magic == REPLY_MAGIC, "a reply with magic %#x" % magic
    return error


def drop(s):
    try:
        s.close()
    except OSError:
        pass


def send(s, data):
    """Send what the server may refuse to take."""
    try:
        s.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def garbage():
    for i in range(30):
        s = connect()
        send(s, rng.randbytes(rng.randrange(1, 5000)))
        drop(s)
    for i in range(30):
        s = handshake()
        data = bytearray(rng.randbytes(rng.randrange(1, 5000)))
        data[0] = 0             # surely not the magic of a request
        send(s, bytes(data))
        drop(s)


def half_requests():
    for i in range(60):
        s = handshake()
        whole = request(WRITE, rng.randrange(size - 65536), 65536) \
            + rng.randbytes(65536)
        send(s, whole[:rng.randrange(len(whole))])
        drop(s)


def flood():
    """Many connections at once, each stuck in the middle."""
    crowd = [handshake() for i in range(40)]
    for s in crowd:
        send(s, request(WRITE, 0, 1 << 20) + bytes(100))
    for s in crowd:
        send(s, bytes(1000))
    for s in crowd:
        drop(s)
    # Reads whose answers nobody takes.
    for i in range(10):
        s = handshake()
        send(s, request(READ, 0, 8 << 20) * min(16, orphans))
        drop(s)


def nonsense():
    """Requests that must be refused, one a connection."""
    past = [(READ, size, 1), (READ, size - 1, 2), (READ, -4096, 8192),
            (READ, 2**63, 512), (READ, 2**64 - 1, 1), (FLUSH, 0, 0, 0xff00),
            (99, 0, 0), (READ, 0, 0xffffffff), (TRIM, size, 4096),
            (ZERO, -1, 2**31), (ZERO, size, 1), (STATUS, 0, 4096)]
    for item in past:
        s = handshake()
        send(s, request(*item))
        error = answer(s)
        if error == 0:
            sys.exit("command %d of %#x+%#x was answered with success"
                     % item[:3])
        drop(s)
    for offset in (size, size - 511, -512, 2**63 - 512, 2**64 - 1):
        s = handshake()
        send(s, request(WRITE, offset, 512) + rng.randbytes(512))
        if answer(s) == 0:
            sys.exit("a write at %#x was answered with success" % offset)
        drop(s)
    s = handshake()
    send(s, request(READ, 0, 512, magic=0x12345678))
    answer(s)
    drop(s)


for step in (garbage, half_requests, flood, nonsense):
    step()
s = handshake()
send(s, request(READ, 0, 512))
assert answer(s) == 0, "the server answers nobody any more"
