# SPDX-License-Identifier: LGPL-2.1-or-later

"""A client of the control socket: control-client.py SOCKET REQUEST...

Sends the requests, one after another, and prints each reply (not the events)
in a line.  Exit status 1 if the server hangs up.
"""

import socket
import sys

s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect(sys.argv[1])
lines = s.makefile("rb")
for request in sys.argv[2:]:
    try:
        s.sendall(request.encode() + b"\n")
    except BrokenPipeError:
        pass                    # there may be a last word
    line = lines.readline()
    while b'"event"' in line:
        line = lines.readline()
    if not line.endswith(b"\n"):
        sys.exit(1)
    print(line.decode(), end="", flush=True)
