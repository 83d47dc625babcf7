# SPDX-License-Identifier: LGPL-2.1-or-later

"""A server that wants to command its client's terminal:
terminal-proxy.py SOCKET SERVER-SOCKET [KEPT...]

Passes on what the server says, with commands to a terminal in all strings but
those of the members KEPT.
"""

import json
import os
import socket
import sys
import threading

EVIL = "\x1b[31m\x1b]0;x\x07\u009b31m\u0090\x7f\r\n\b"
ALWAYS_KEPT = {"id", "event"}
kept = ALWAYS_KEPT | set(sys.argv[3:])


def spoil(value, key=None):
    if isinstance(value, dict):
        return {k: spoil(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [spoil(v, key) for v in value]
    if isinstance(value, str) and key not in kept:
        return EVIL + value + EVIL
    return value


def pass_on(client):
    server = socket.socket(socket.AF_UNIX)
    server.connect(sys.argv[2])
    replies = server.makefile("rb")
    for request in client.makefile("rb"):
        server.sendall(request)
        while True:
            line = replies.readline()
            if not line:
                return
            message = json.loads(line)
            client.sendall(json.dumps(spoil(message)).encode() + b"\n")
            if "event" not in message:
                break
    client.close()


def serve(client):
    try:
        pass_on(client)
    except OSError:
        pass


listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1] + ".new")
listener.listen()
os.rename(sys.argv[1] + ".new", sys.argv[1])
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],),
                     daemon=True).start()
