# SPDX-License-Identifier: LGPL-2.1-or-later

# Write a tree of files whose content follows from a seed alone, in the guest
# and, to know what to expect, on the host:
#   awk -v seed=SEED -v mebibytes=N -v directory=DIRECTORY -f generate.awk
# makes DIRECTORY/big of N MiB and 200 files in DIRECTORY/small, which must
# exist.
#
# Every block of 4096 bytes begins with the seed, the file's name, the block's
# number and a random one, so that no block is like another, and one in the
# wrong place shows where it belongs.  Blocks are that large, and written by a
# single printf, since the guest's processor is slow.

# The "minimal standard" generator: its products are exact in awk's doubles.
function random()
{
  state = (state * 16807) % 2147483647
  return state
}

function write_file(name, size,    path, block, rest)
{
  path = directory "/" name
  rest = size % 4096
  for (block = 0; block < (size - rest) / 4096; block++)
    printf "%10d %-12s %8d %10d %s\n", seed, name, block, random(),
           filler > path
  if (rest > 0)
    printf "%s", substr(sprintf("%10d %-12s %8d %10d %s\n", seed, name, block,
                                random(), filler), 1, rest) > path
  close(path)
}

BEGIN {
  state = seed * 7919 + 1
  # A block without its four numbers, the blanks after them and the newline.
  while (length(filler) < 4096)
    filler = filler "abcdefghijklmnopqrstuvwxyz0123456789+-"
  filler = substr(filler, 1, 4096 - 45)
  write_file("big", mebibytes * 1024 * 1024)
  for (i = 0; i < 200; i++)
    write_file("small/" i, 1 + random() % 20000)
}
