/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "disk.h"
#include "format.h"
#include "stamp.h"

#define WORDS (SECTOR / 8)
#define MAGIC UINT64_C (0x5354414d50000000)

static uint64_t
word (uint64_t sector, uint32_t write, unsigned i)
{
  switch (i) {
  case 0:
    return MAGIC ^ write;
  case 1:
    return sector;
  default:
    return (sector + 1) * UINT64_C (0x9e3779b97f4a7c15) +
      write * UINT64_C (0xd1342543de82ef95) + i;
  }
}

void
stamp_fill (unsigned char *buf, uint64_t sector, uint32_t write)
{
  unsigned i;

  for (i = 0; i < WORDS; i++)
    format_put64 (buf + i * 8, word (sector, write, i));
}

struct stamp_backing stamp_backing;

static bool
in_ranges (uint64_t sector)
{
  unsigned i;

  for (i = 0; i < stamp_backing.range_count; i++)
    if (sector >= stamp_backing.ranges[i].from &&
        sector < stamp_backing.ranges[i].to)
      return true;
  return false;
}

uint32_t
stamp_below (uint64_t sector)
{
  return sector < stamp_backing.sectors && in_ranges (sector) &&
    random_mix (sector / BLOCK_SECTORS) % stamp_backing.one_in == 0
    ? STAMP_BACKING : STAMP_ZEROS;
}

/* Of four blocks two are as in the first file, one is zeros, one its own. */
static uint32_t
second_file (uint64_t sector)
{
  uint64_t kind = random_mix (sector / BLOCK_SECTORS + (UINT64_C (1) << 62))
    % 4;

  if (sector >= stamp_backing.second_sectors || !in_ranges (sector) ||
      kind == 2)
    return STAMP_ZEROS;
  return kind == 3 ? STAMP_SECOND : stamp_below (sector);
}

static uint32_t
file_content (enum stamp_file file, uint64_t sector)
{
  return file == STAMP_NO_FILE ? STAMP_ZEROS
    : file == STAMP_FIRST_FILE ? stamp_below (sector) : second_file (sector);
}

const unsigned char *
stamp_file_data (enum stamp_file file, uint64_t sector)
{
  static unsigned char data[SECTOR];
  uint32_t content = file_content (file, sector);

  if (content == STAMP_ZEROS)
    return NULL;
  stamp_fill (data, sector, content);
  return data;
}

uint64_t
stamp_next_block (enum stamp_file file, uint64_t from)
{
  uint64_t next = UINT64_MAX, b;
  unsigned i;

  for (i = 0; i < stamp_backing.range_count; i++) {
    b = stamp_backing.ranges[i].from / BLOCK_SECTORS;
    for (b = b > from ? b : from;
         b < next && b < stamp_backing.ranges[i].to / BLOCK_SECTORS; b++)
      if (file_content (file, b * BLOCK_SECTORS) != STAMP_ZEROS)
        next = b;
  }
  return next;
}

static bool
is_zero (const unsigned char *data)
{
  static const unsigned char zeros[SECTOR];

  return data == NULL || memcmp (data, zeros, SECTOR) == 0;
}

/* The sector and the write that a whole stamp names. */
static bool
decode (const unsigned char *data, uint64_t *sector, uint32_t *write)
{
  uint64_t first = format_get64 (data) ^ MAGIC;
  unsigned i;

  *sector = format_get64 (data + 8);
  *write = (uint32_t) first;
  if (first > UINT32_MAX)
    return false;
  for (i = 2; i < WORDS; i++)
    if (format_get64 (data + i * 8) != word (*sector, *write, i))
      return false;
  return true;
}

uint32_t
stamp_read (const unsigned char *data, uint64_t sector)
{
  uint64_t found;
  uint32_t write;

  if (is_zero (data))
    return STAMP_ZEROS;
  if (!decode (data, &found, &write) || found != sector)
    return STAMP_ALIEN;
  return write;
}

bool
stamp_is_one (const unsigned char *data)
{
  uint64_t sector;
  uint32_t write;

  return decode (data, &sector, &write);
}

const char *
stamp_to_text (const unsigned char *data)
{
  static char text[128];
  uint64_t sector;
  uint32_t write;

  if (is_zero (data))
    return "zeros";
  if (decode (data, &sector, &write) && write == STAMP_ALIEN)
    snprintf (text, sizeof text, "what the space held before (%" PRIx64 ")",
              sector);
  else if (decode (data, &sector, &write) && write == STAMP_BACKING)
    snprintf (text, sizeof text, "sector 0x%" PRIx64 " of the backing file",
              sector);
  else if (decode (data, &sector, &write) && write == STAMP_SECOND)
    snprintf (text, sizeof text, "sector 0x%" PRIx64 " of the second backing "
              "file", sector);
  else if (decode (data, &sector, &write))
    snprintf (text, sizeof text, "guest sector 0x%" PRIx64 " as write %" PRIu32
              " left it", sector, write);
  else
    snprintf (text, sizeof text, "bytes that no write wrote (0x%" PRIx64
              " ...)", format_get64 (data));
  return text;
}

void
stamp_garbage (unsigned char *buf, struct random *random,
               uint32_t cluster_size)
{
  unsigned i, kind = (unsigned) random_below (random, 3);

  if (kind == 0) {              /* data of somewhere else */
    stamp_fill (buf, random_below (random, 1u << 20), STAMP_ALIEN);
    return;
  }
  for (i = 0; i < WORDS; i++)   /* noise, or what looks like a table */
    format_put64 (buf + i * 8, kind == 1 ? random_next (random)
                  : random_below (random, 64) * cluster_size);
}
