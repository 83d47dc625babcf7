/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See describe.h. */

#include <config.h>

#include <string.h>

#include "describe.h"

#define BITS_COMPAT 1u
#define BITS_AUTOCLEAR 2u
#define BITS_DEVICE 4u
#define BITS_BACKING_QED 8u

/* All of it is read as often as a check wants to. */
#define DEVICE_MAX (UINT64_C (64) << 20)

#define NAME_AT 64u

struct described {
  struct sparse *disk;
  struct format_header header;
  uint64_t table_bytes;
};

static uint64_t
take_value (struct described *d, struct fuzz_input *in)
{
  unsigned how = (unsigned) fuzz_take (in, 1);
  uint64_t n = how % 8 == 4 ? fuzz_take (in, 8) : fuzz_take (in, 2);
  uint64_t cluster = d->header.cluster_size;

  switch (how % 8) {
  case 0:
    return n * cluster;
  case 2:
    return d->header.l1_table_offset + (n + 1) * d->table_bytes;
  case 3:
    return (UINT64_C (1) << n % 64) +
      (uint64_t) (int64_t) (int8_t) (n >> 8) * cluster;
  case 5:
    return d->disk->length +
      (uint64_t) (int64_t) (int16_t) (uint16_t) n * cluster;
  case 6:
    return n * FORMAT_SECTOR;
  default:
    return n;
  }
}

/* Where a table lies that is told by its number. */
static uint64_t
place_of (const struct described *d, uint64_t number)
{
  return d->header.l1_table_offset + (number + 1) * d->table_bytes;
}

static void
put64 (struct described *d, uint64_t offset, uint64_t value)
{
  unsigned char buf[8];

  format_put64 (buf, value);
  if (offset <= INT64_MAX - sizeof buf)
    sparse_write (d->disk, buf, sizeof buf, offset);
}

/* A page's worth at a time: there are runs of many thousand. */
static void
put_run (struct described *d, uint64_t at, uint64_t count, uint64_t value,
         uint64_t step)
{
  unsigned char buf[SPARSE_PAGE];
  uint64_t n, i;

  for (; count > 0 && at <= INT64_MAX - sizeof buf; count -= n) {
    n = count < sizeof buf / 8 ? count : sizeof buf / 8;
    for (i = 0; i < n; i++, value += step)
      format_put64 (buf + 8 * i, value);
    sparse_write (d->disk, buf, 8 * n, at);
    at += 8 * n;
  }
}

static void
put_bytes (struct described *d, struct fuzz_input *in, uint64_t offset)
{
  size_t n = (size_t) fuzz_take (in, 1);

  if (n > fuzz_left (in))
    n = fuzz_left (in);
  if (offset <= INT64_MAX - n)
    sparse_write (d->disk, in->at, n, offset);
  in->at += n;
}

static void
put_data (struct described *d, uint64_t offset)
{
  uint64_t i;

  offset &= -SPARSE_PAGE;
  for (i = 0; i < SPARSE_PAGE; i += 8)
    put64 (d, offset + i, offset + (i << 40) + 0xe5d);
}

static void
put_record (struct described *d, struct fuzz_input *in)
{
  unsigned kind = (unsigned) fuzz_take (in, 1) % DESCRIBE_RECORDS;
  uint64_t l1 = d->header.l1_table_offset, at, n;

  switch ((enum describe_record) kind) {
  case DESCRIBE_L1:
    at = l1 + 8 * fuzz_take (in, 2);
    put64 (d, at, take_value (d, in));
    break;
  case DESCRIBE_TABLE:
    at = l1 + 8 * fuzz_take (in, 2);
    put64 (d, at, place_of (d, fuzz_take (in, 1)));
    break;
  case DESCRIBE_L2:
    at = place_of (d, fuzz_take (in, 1));
    at += 8 * fuzz_take (in, 2);
    put64 (d, at, take_value (d, in));
    break;
  case DESCRIBE_RUN:
    at = place_of (d, fuzz_take (in, 1));
    at += 8 * fuzz_take (in, 2);
    n = fuzz_take (in, 1);
    put_run (d, at, n, take_value (d, in), d->header.cluster_size);
    break;
  case DESCRIBE_DATA:
    put_data (d, take_value (d, in));
    break;
  case DESCRIBE_STALE:
    at = take_value (d, in);
    sparse_add_stale (d->disk, at, take_value (d, in));
    break;
  case DESCRIBE_BYTES:
    put_bytes (d, in, take_value (d, in));
    break;
  case DESCRIBE_FILL:
    at = take_value (d, in);
    n = fuzz_take (in, 2);
    put_run (d, at, n, take_value (d, in), 0);
    break;
  }
}

/* A shift that leaves what is no power of 2 possible, though seldom. */
static uint32_t
take_power (struct fuzz_input *in, unsigned first, unsigned count)
{
  uint32_t n = (uint32_t) fuzz_take (in, 1);

  return n < 0xf0 ? UINT32_C (1) << (first + n % count) : n * 0x1111111u;
}

static void
put_header (struct described *d, struct fuzz_input *in)
{
  struct format_header *h = &d->header;
  unsigned char buf[FORMAT_HEADER_BYTES];
  const char *name = "base.raw";
  unsigned bits;

  h->cluster_size = take_power (in, 12, 15);
  h->table_size = take_power (in, 0, 5);
  h->header_size = (uint32_t) fuzz_take (in, 1);
  d->table_bytes = (uint64_t) h->cluster_size * h->table_size;
  h->features = fuzz_take (in, 1);
  bits = (unsigned) fuzz_take (in, 1);
  h->compat_features = bits & BITS_COMPAT;
  h->autoclear_features = bits & BITS_AUTOCLEAR;
  h->image_size = take_value (d, in);
  h->l1_table_offset = take_value (d, in);
  d->disk->length = take_value (d, in) & INT64_MAX;
  d->disk->device = bits & BITS_DEVICE && d->disk->length <= DEVICE_MAX;
  if (h->features & QED_F_BACKING_FILE) {
    if (bits & BITS_BACKING_QED)
      name = "base.qed";
    h->backing_filename_offset = NAME_AT;
    h->backing_filename_size = (uint32_t) strlen (name);
    sparse_write (d->disk, name, strlen (name), NAME_AT);
  }
  format_encode_header (h, buf);
  sparse_write (d->disk, buf, sizeof buf, 0);
}

void
describe (struct sparse *disk, struct fuzz_input *in)
{
  struct described d = { .disk = disk };

  put_header (&d, in);
  while (fuzz_left (in) > 0)
    put_record (&d, in);
}
