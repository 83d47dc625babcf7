# SPDX-License-Identifier: LGPL-2.1-or-later

# For the tests of qedctl map: images whose maps are known.  To be sourced
# after functions.sh and serve.sh.

# has FILE PATTERN
has ()
{
  grep -q -e "$2" "$1" || { cat "$1"; fail "$1 lacks '$2'"; }
}

# fails MESSAGE COMMAND...: exit 1 and one line.
fails ()
{
  local r=0

  "${@:2}" >out 2>err || r=$?
  if [ $r -ne 1 ] || [ "$(wc -l <err)" -ne 1 ] || ! grep -q -e "$1" err; then
    cat err
    fail "${*:2}: exit $r; expected 1 and one line with '$1'"
  fi
}

# poke FILE OFFSET HEX...: overwrite bytes.
poke ()
{
  local escaped
  escaped=$(printf '\\x%s' "${@:3}")
  printf "$escaped" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

# order.qed: ten clusters in order, ten the other way round, and two that are
# no neighbours.
make_order ()
{
  qedctl create order.qed 64M
  serve order.qed
  client <<'END'
C = 65536
for i in range(10):
    h.pwrite(b"x" * C, i * C)
for i in reversed(range(10)):
    h.pwrite(b"x" * C, (100 + i) * C)
h.pwrite(b"x" * C, 300 * C)
h.pwrite(b"x" * C, 302 * C)
END
  serve_stop
}

# reverse.qed: as fragmented as can be, 200,000 clusters in reverse.
make_reverse ()
{
  "$PYTHON" - reverse.qed <<'END'
import struct, sys
C, T, N = 4096, 16, 200000
entries = T * C // 8
tables = (N + entries - 1) // entries
first = 1 + T + tables * T
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<4sIIIQQQQQII", b"QED\0", C, T, 1, 0, 0, 0, C,
                        N * C, 0, 0))
    f.seek(C)
    f.write(struct.pack("<%dQ" % tables,
                        *[(1 + T + i * T) * C for i in range(tables)]))
    f.seek((1 + T) * C)
    f.write(struct.pack("<%dQ" % N,
                        *[(first + N - 1 - i) * C for i in range(N)]))
    f.truncate((first + N) * C)
END
}

# sparse.qed and over.qed: 10 TiB, one over the other, 100 clusters each.
make_sparse ()
{
  local image

  qedctl create sparse.qed 10T
  qedctl create over.qed 10T --backing sparse.qed
  for image in sparse.qed over.qed; do
    serve $image
    client <<'END'
for i in range(100):
    h.pwrite(b"\5" * 512, i * 107374182400)
END
    serve_stop
  done
}

# tables.qed: 10 TiB, all of whose L2 tables are there, and nearly empty: what
# a file system leaves that writes something everywhere.
make_tables ()
{
  "$PYTHON" - tables.qed <<'END'
import struct, sys
C, T, N = 65536, 4, 5120
entries = T * C // 8
with open(sys.argv[1], "wb") as f:
    f.write(struct.pack("<4sIIIQQQQQII", b"QED\0", C, T, 1, 0, 0, 0, C,
                        N * entries * C, 0, 0))
    f.seek(C)
    f.write(struct.pack("<%dQ" % N, *[(1 + T + i * T) * C for i in range(N)]))
    for i in range(0, N, 10):           # two clusters each, far apart
        for n in 3, 0x7abc:
            f.seek((1 + T + i * T) * C + n * 8)
            f.write(struct.pack("<Q", (1 + T + N * T + 2 * i + (n > 3)) * C))
    f.truncate((1 + T + N * T + 2 * N) * C)
END
}
