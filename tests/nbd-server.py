# SPDX-License-Identifier: LGPL-2.1-or-later

"""A server that misbehaves: nbd-server.py SOCKET SIZE MODE [MODE...]

Each connection has the next MODE, later ones the last.  The byte at OFFSET is
OFFSET / 512 % 251.  Modes:

  good        as it should be
  mute        accepts, and never says a word
  silent      greets, and answers nothing
  cut         closes in the middle of the first answer
  half        closes after some answers
  error       every read fails with EIO;  perm, inval: likewise
  shutdown    every read fails with ESHUTDOWN
  garbage     answers with nonsense
  cookie      answers what was not asked
  zero        extents of length 0
  none        no extents at all
  past        extents that go on behind what was asked
  many        thousands of extents
  wrong       extents of another context
  refuse      no such export
  SIZE        that size
"""

import errno
import random
import socket
import struct
import sys
import threading

READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZERO, STATUS = range(8)
GO, STRUCTURED, SET_META = 7, 8, 10
ACK, INFO, META = 1, 3, 4
ERRORS = {"error": errno.EIO, "perm": errno.EPERM, "inval": errno.EINVAL,
          "shutdown": errno.ESHUTDOWN}

path, size, modes = sys.argv[1], sys.argv[2], sys.argv[3:]
size = int(size[:-1]) << 20 if size[-1] == "M" else int(size)
PATTERN = b"".join(bytes([i]) * 512 for i in range(251)) * 2


def content(offset, count):
    data = bytearray()
    while count > 0:
        at = offset % (251 * 512)
        piece = PATTERN[at:at + min(count, 251 * 512)]
        data += piece
        offset += len(piece)
        count -= len(piece)
    return data


class Client:
    def __init__(self, sock, mode):
        self.sock, self.mode = sock, mode
        self.size = int(mode) if mode.isdigit() else size
        self.answers = 0

    def receive(self, fmt):
        data = b""
        while len(data) < struct.calcsize(fmt):
            more = self.sock.recv(struct.calcsize(fmt) - len(data))
            if not more:
                raise EOFError
            data += more
        return struct.unpack(fmt, data)

    def option_reply(self, option, kind, data=b""):
        self.sock.sendall(struct.pack(">QIII", 0x3e889045565a9, option, kind,
                                      len(data)) + data)

    def greet(self):
        self.sock.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self.receive(">I")
        while True:
            _, option, length = self.receive(">QII")
            self.receive("%ds" % length)
            if option == STRUCTURED:
                self.option_reply(option, ACK)
            elif option == SET_META:
                self.option_reply(option, META, struct.pack(">I", 1) +
                                  b"base:allocation")
                self.option_reply(option, ACK)
            elif option == GO and self.mode == "refuse":
                self.option_reply(option, 0x80000006, b"not today")
            elif option == GO:
                self.option_reply(option, INFO, struct.pack(
                    ">HQH", 0, self.size, 1 | 2 | 1 << 10))
                self.option_reply(option, ACK)
                return
            else:
                self.option_reply(option, 0x80000001)

    def chunk(self, cookie, kind, data, flags=1):
        self.sock.sendall(struct.pack(">IHHQI", 0x668e33ef, flags, kind,
                                      cookie, len(data)) + data)

    def fail(self, cookie, error):
        self.chunk(cookie, 0x8001, struct.pack(">IH", error, 0))

    def read(self, cookie, offset, count):
        if self.mode in ERRORS:
            self.fail(cookie, ERRORS[self.mode])
        elif self.mode == "garbage":
            self.sock.sendall(random.Random(count).randbytes(100))
        elif self.mode == "cut":
            self.sock.sendall(struct.pack(
                ">IHHQIQ", 0x668e33ef, 1, 1, cookie, count + 8, offset) +
                content(offset, count // 2))
            raise EOFError
        else:
            self.chunk(cookie + 77 if self.mode == "cookie" else cookie, 1,
                       struct.pack(">Q", offset) + content(offset, count))

    def status(self, cookie, count):
        extents = {
            "zero": [(0, 0)] * 5,
            "none": [],
            "past": [(512, 0), (2**32 - 512, 3)],
            "many": [(512, i % 2 * 3) for i in range(count // 512)],
        }.get(self.mode, [(count // 2, 3), (count - count // 2, 0)])
        data = b"".join(struct.pack(">II", *e) for e in extents)
        if self.mode == "none":
            self.chunk(cookie, 0, b"")
        else:
            self.chunk(cookie, 5, struct.pack(
                ">I", 9 if self.mode == "wrong" else 1) + data)

    def serve(self):
        if self.mode == "mute":
            self.receive("1s")
            self.receive("1s")
        self.greet()
        while True:
            _, _, kind, cookie, offset, count = self.receive(">IHHQQI")
            if kind == DISC:
                return
            self.answers += 1
            if self.mode == "silent":
                continue
            if self.mode == "half" and self.answers > 5:
                return
            if kind == READ:
                self.read(cookie, offset, count)
            elif kind == STATUS:
                self.status(cookie, count)
            else:
                self.chunk(cookie, 0, b"")

    def run(self):
        try:
            self.serve()
        except (EOFError, OSError):
            pass
        self.sock.close()


listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(20)
while True:
    accepted, _ = listener.accept()
    threading.Thread(target=Client(accepted, modes[0]).run,
                     daemon=True).start()
    if len(modes) > 1:
        del modes[0]
