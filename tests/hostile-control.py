# SPDX-License-Identifier: LGPL-2.1-or-later

"""Clients of the control socket that misbehave:
hostile-control.py SOCKET PID [sanitized]

Whatever they do, another client is answered within a second, the server
(process PID) doesn't grow, and those who hold a connection for nothing are
disconnected.
"""

import json
import os
import random
import socket
import sys
import time

path, pid = sys.argv[1], int(sys.argv[2])
LIMIT = 65536
CONNECTIONS = 32
rng = random.Random(1)


def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.settimeout(60)
    return s


def receive_line(s):
    line = b""
    while not line.endswith(b"\n"):
        more = s.recv(65536)
        if not more:
            raise EOFError(line)
        line += more
    return line


def ask(s, request):
    s.sendall(request if isinstance(request, bytes)
              else json.dumps(request).encode() + b"\n")
    return json.loads(receive_line(s))


def code(reply):
    return reply["error"]["code"]


def well_served(what):
    """Someone who behaves is served all the same, and soon."""
    start = time.monotonic()
    s = connect()
    reply = ask(s, {"command": "status", "id": "me"})
    assert reply["id"] == "me" and len(reply["images"]) == 1, reply
    took = time.monotonic() - start
    assert took < 1, "%s: it took %.1f seconds" % (what, took)
    s.close()


def ended(s, seconds):
    """The server closes the connection within so many seconds."""
    s.settimeout(seconds)
    try:
        while s.recv(65536):
            pass
    except ConnectionResetError:
        pass


def send_if_open(s, data):
    try:
        s.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        pass


def resident():
    with open("/proc/%d/status" % pid) as f:
        for line in f:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024


def descriptors():
    return len(os.listdir("/proc/%d/fd" % pid))


well_served("at first")
memory, fds = resident(), descriptors()

# ---- Those whose end comes with time; looked at in the end -----------------

half = connect()
half.sendall(b'{"command": "li')
slow = connect()                # a byte now and then doesn't help
slow.sendall(b"{")
idle = connect()
started = time.monotonic()

# ---- Lines that are too long, or no requests -------------------------------

s = connect()
send_if_open(s, b"x" * (8 << 20))
try:
    assert code(json.loads(receive_line(s))) == "request-too-large"
except ConnectionResetError:
    pass
ended(s, 5)

# The longest that is read, and one byte more.
s = connect()
request = b'{"command":"list","id":"' + b"x" * 64 + b'"'
fits = request + b" " * (LIMIT - len(request) - 1) + b"}"
assert len(fits) == LIMIT
assert "images" in ask(s, fits + b"\n")
s.sendall(fits + b" ")
assert code(json.loads(receive_line(s))) == "request-too-large"
ended(s, 5)

s = connect()
for opening in b"[", b"{", b'{"a":', b'{"command":[', b'[{"":':
    text = (opening * LIMIT)[:LIMIT - 1]
    assert code(ask(s, text + b"\n")) == "bad-request", opening
quotes = b'"' + b'\\"[' * 20000 + b'"'
assert code(ask(s, quotes + b"\n")) == "bad-request"
assert "images" in ask(s, {"command": "list"})

for i in range(300):
    text = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 200)))
    text = b"x" + text.replace(b"\n", b"").replace(b"\r", b"")
    assert code(ask(s, text + b"\n")) == "bad-request", text

request = b'{"command":"status","id":1,"image":"disk.qed"}'
for i in range(300):
    text = bytearray(request)
    for _ in range(rng.randrange(1, 4)):
        text[rng.randrange(len(text))] = rng.choice(
            b'\0\t{}[]",:\\0123456789eE+-.xt\x80\xff')
    reply = ask(s, bytes(text) + b"\n")
    assert reply["output_version"] == 1, reply

# Empty lines ask for nothing; a line may come in pieces, or two in one.
s.sendall(b"\n\r\n  \n")
for byte in b'{"command":"list"}\n':
    s.sendall(bytes([byte]))
assert "images" in json.loads(receive_line(s))
both = s.makefile("rb")
s.sendall(b'{"command":"list","id":1}\n{"command":"list","id":2}\n')
assert [json.loads(both.readline())["id"] for i in range(2)] == [1, 2]

# What comes after the last line's end is answered, too.
s.sendall(b'{"command":"list","id":3}')
s.shutdown(socket.SHUT_WR)
assert json.loads(both.readline())["id"] == 3
assert both.readline() == b""
well_served("after rubbish")
send_if_open(slow, b'"')

# ---- Many at once ----------------------------------------------------------

many = [connect() for i in range(100)]
refused = []
for s in many:
    s.settimeout(0.2)
    try:
        refused.append(code(json.loads(receive_line(s))))
    except (socket.timeout, EOFError):
        pass
assert len(refused) >= 100 - CONNECTIONS, len(refused)
assert set(refused) == {"too-many-connections"}
assert descriptors() <= fds + CONNECTIONS, descriptors()
for s in many:
    s.close()
time.sleep(0.5)
well_served("after many")

for i in range(2000):           # come and go
    s = connect()
    if i % 3 == 0:              # refused, if those before are still there
        send_if_open(s, b'{"command":"metrics"}\n')
    s.close()
time.sleep(0.5)
well_served("after those who come and go")

# ---- Those who do not read -------------------------------------------------

deaf = [connect() for i in range(8)]
for s in deaf:
    s.settimeout(0.2)
    try:
        for i in range(20000):
            s.sendall(b'{"command":"metrics"}\n' * 10)
    except (socket.timeout, BrokenPipeError, ConnectionResetError):
        pass
well_served("while some don't read")
grown = resident() - memory
assert "sanitized" in sys.argv or grown < 64 << 20, \
    "the server has grown by %d bytes" % grown

# ---- The end of those who hold on to a connection --------------------------

send_if_open(slow, b"a")
ended(half, max(1, started + 15 - time.monotonic()))
ended(slow, 5)
# The rest of what they were sent, and the end.
time.sleep(12)
for s in deaf:
    ended(s, 20)
ended(idle, max(1, started + 35 - time.monotonic()))
assert time.monotonic() - started >= 29, "an idle client was not left alone"
well_served("in the end")
time.sleep(0.5)
assert descriptors() <= fds, "descriptors: %d, before %d" % (descriptors(),
                                                             fds)
