# SPDX-License-Identifier: LGPL-2.1-or-later

"""A service manager's ear: write what a server tells it, a line each.

  notify-socket.py SOCKET

Ends when it is killed.
"""

import os
import socket
import sys

s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
while True:
    for line in s.recv(65536).decode().splitlines():
        print(line, flush=True)
