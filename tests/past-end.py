# SPDX-License-Identifier: LGPL-2.1-or-later

"""Make an image that is marked clean and names offsets past its end:
past-end.py IMAGE data|table|short-table

Clusters of 64 KiB, tables of 4 clusters, 6 GiB.  Guest cluster 0 holds bytes
0x11, guest cluster 2 holds 0x22, all others are unallocated, but
  data         guest cluster 1 lies 100 clusters past the end, guest cluster 3
               exactly at the end
  table        what covers the second 2 GiB lies past the end
  short-table  that table begins inside the file, and ends behind it
"""

import struct
import sys

C = 65536
T = 4 * C                       # bytes of a table
path, kind = sys.argv[1:]

header = struct.pack("<IIIIQQQQQII", 0x00444551, C, 4, 1, 0, 0, 0, C,
                     6 << 30, 0, 0)
l1 = [0] * (T // 8)
l2 = [0] * (T // 8)
l2_offset = C + T
data = l2_offset + T
end = data + 2 * C
l1[0] = l2_offset
l2[0] = data
l2[2] = data + C
if kind == "data":
    l2[1] = end + 100 * C
    l2[3] = end
elif kind == "table":
    l1[1] = end + 50 * C
elif kind == "short-table":
    l1[1] = end
    end += 2 * C                # room for half of it
else:
    sys.exit(__doc__)

with open(path, "wb") as f:
    f.write(header)
    f.seek(C)
    f.write(struct.pack("<%dQ" % len(l1), *l1))
    f.write(struct.pack("<%dQ" % len(l2), *l2))
    f.write(b"\x11" * C + b"\x22" * C)
    f.truncate(end)
