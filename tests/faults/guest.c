/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <stddef.h>
#include <string.h>

#include "guest.h"

/* A set of bytes. */
struct bytes {
  uint64_t bits[4];
};

static struct sector {
  struct bytes now, disk;
} sectors[GUEST_BYTES / GUEST_SECTOR];

#define SECTORS (GUEST_BYTES / GUEST_SECTOR)

static void
add (struct bytes *set, unsigned char byte)
{
  set->bits[byte / 64] |= UINT64_C (1) << byte % 64;
}

static bool
has (const struct bytes *set, unsigned char byte)
{
  return set->bits[byte / 64] >> byte % 64 & 1;
}

static void
set_to (struct bytes *set, unsigned char byte)
{
  memset (set, 0, sizeof *set);
  add (set, byte);
}

void
guest_reset (void)
{
  size_t i;

  memset (sectors, 0, sizeof sectors);
  for (i = 0; i < SECTORS; i++) {
    add (&sectors[i].now, 0);
    add (&sectors[i].disk, 0);
  }
}

void
guest_wrote (uint64_t at, uint64_t count, unsigned char byte, int r,
             bool durable)
{
  size_t i;

  for (i = at / GUEST_SECTOR; i < (at + count) / GUEST_SECTOR; i++) {
    if (r == 0)
      set_to (&sectors[i].now, byte);
    else
      add (&sectors[i].now, byte);
    if (r == 0 && durable)
      set_to (&sectors[i].disk, byte);
    else
      add (&sectors[i].disk, byte);
  }
}

void
guest_flushed (void)
{
  size_t i;

  for (i = 0; i < SECTORS; i++)
    sectors[i].disk = sectors[i].now;
}

void
guest_reopened (void)
{
  size_t i;

  for (i = 0; i < SECTORS; i++)
    sectors[i].now = sectors[i].disk;
}

/* How many bytes are the same from the first one on; n if all are. */
static uint64_t
run_length (const unsigned char *buf, uint64_t n)
{
  uint64_t i = 1;

  if (memcmp (buf, buf + 1, n - 1) == 0)        /* quicker, and as a rule */
    return n;
  while (buf[i] == buf[0])
    i++;
  return i;
}

bool
guest_allows (const unsigned char *buf, uint64_t at, uint64_t count,
              uint64_t *wrong)
{
  uint64_t i, n;

  for (i = 0; i < count; i += GUEST_SECTOR) {
    n = has (&sectors[(at + i) / GUEST_SECTOR].now, buf[i])
      ? run_length (buf + i, GUEST_SECTOR) : 0;
    if (n < GUEST_SECTOR) {
      *wrong = at + i + n;
      return false;
    }
  }
  return true;
}
