# SPDX-License-Identifier: LGPL-2.1-or-later

"""Make an image with old data where nothing refers to: leaky-image.py IMAGE

Marked clean, clusters of 64 KiB, tables of 4 clusters, 64 MiB.  The file has
200 clusters of bytes 0xee behind the tables; guest clusters 0, 20, 40, ...
180 lie in the 0th, 20th, ... of them and are full of 0x11.  The other 190 are
leaked; and 1000 bytes of one more stand at the end.
"""

import struct
import sys

C = 65536
T = 4 * C                       # bytes of a table

header = struct.pack("<IIIIQQQQQII", 0x00444551, C, 4, 1, 0, 0, 0, C,
                     64 << 20, 0, 0)
l1 = [0] * (T // 8)
l2 = [0] * (T // 8)
l1[0] = C + T
data = C + 2 * T
for i in range(0, 200, 20):
    l2[i] = data + i * C

with open(sys.argv[1], "wb") as f:
    f.write(header)
    f.seek(C)
    f.write(struct.pack("<%dQ" % len(l1), *l1))
    f.write(struct.pack("<%dQ" % len(l2), *l2))
    for i in range(200):
        f.write((b"\xee" if i % 20 else b"\x11") * C)
    f.write(b"\xee" * 1000)
