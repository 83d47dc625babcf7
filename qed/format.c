/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The QED on-disk format: see format.h. */

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <endian.h>

#include "format.h"
#include "qed.h"

/* Where the fields lie, in the order of the header. */
#define AT_MAGIC 0
#define AT_CLUSTER_SIZE 4
#define AT_TABLE_SIZE 8
#define AT_HEADER_SIZE 12
#define AT_FEATURES FORMAT_AT_FEATURES
#define AT_COMPAT_FEATURES FORMAT_AT_COMPAT
#define AT_AUTOCLEAR_FEATURES FORMAT_AT_AUTOCLEAR
#define AT_L1_TABLE_OFFSET FORMAT_AT_L1
#define AT_IMAGE_SIZE FORMAT_AT_IMAGE_SIZE
#define AT_BACKING_OFFSET FORMAT_AT_BACKING_OFFSET
#define AT_BACKING_SIZE FORMAT_AT_BACKING_SIZE

/* The longest backing name: a path that can be opened (PATH_MAX - 1). */
#define BACKING_NAME_MAX 4095u

/* No offset or length beyond this can be given to a system call. */
#define IMAGE_SIZE_MAX ((UINT64_C (1) << 63) - FORMAT_SECTOR)

uint32_t
format_get32 (const unsigned char *p)
{
  uint32_t v;

  memcpy (&v, p, sizeof v);
  return le32toh (v);
}

void
format_put32 (unsigned char *p, uint32_t v)
{
  v = htole32 (v);
  memcpy (p, &v, sizeof v);
}

void
format_put64 (unsigned char *p, uint64_t v)
{
  v = htole64 (v);
  memcpy (p, &v, sizeof v);
}

/* Say what is wrong; returns -EINVAL, so that a check is one statement. */
static int __attribute__ ((format (printf, 2, 3)))
invalid (char error[FORMAT_ERROR_SIZE], const char *fmt, ...)
{
  va_list ap;

  va_start (ap, fmt);
  vsnprintf (error, FORMAT_ERROR_SIZE, fmt, ap);
  va_end (ap);
  return -EINVAL;
}

static bool
is_power_of_2 (uint64_t v)
{
  return v != 0 && (v & (v - 1)) == 0;
}

/* log2 of a power of 2. */
static unsigned
bits_of (uint64_t v)
{
  return (unsigned) __builtin_ctzll (v);
}

static bool
valid_cluster_size (uint64_t v)
{
  return is_power_of_2 (v) &&
    v >= FORMAT_CLUSTER_SIZE_MIN && v <= FORMAT_CLUSTER_SIZE_MAX;
}

static bool
valid_table_size (uint64_t v)
{
  return is_power_of_2 (v) && v <= FORMAT_TABLE_SIZE_MAX;
}

uint64_t
format_max_image_size (uint32_t cluster_size, uint32_t table_size)
{
  const unsigned cluster_bits = bits_of (cluster_size);
  const unsigned entries_bits = cluster_bits + bits_of (table_size) - 3;
  const unsigned bits = 2 * entries_bits + cluster_bits;

  /* Up to 2^80: the product itself would overflow. */
  return bits >= 63 ? IMAGE_SIZE_MAX : UINT64_C (1) << bits;
}

int
format_check_geometry (uint64_t cluster_size, uint64_t table_size,
                       uint64_t image_size, char error[FORMAT_ERROR_SIZE])
{
  uint64_t max;

  if (!valid_cluster_size (cluster_size))
    return invalid (error, "cluster size %" PRIu64 " is not possible: choose "
                    "a power of 2 from %u to %u", cluster_size,
                    FORMAT_CLUSTER_SIZE_MIN, FORMAT_CLUSTER_SIZE_MAX);
  if (!valid_table_size (table_size))
    return invalid (error, "table size %" PRIu64 " is not possible: choose "
                    "1, 2, 4, 8 or %u clusters", table_size,
                    FORMAT_TABLE_SIZE_MAX);
  max = format_max_image_size (cluster_size, table_size);
  if (image_size > max)
    return invalid (error, "image size %" PRIu64 " is more than clusters of "
                    "%" PRIu64 " bytes and tables of %" PRIu64 " clusters can "
                    "hold (%" PRIu64 "): choose larger ones", image_size,
                    cluster_size, table_size, max);
  if (image_size % FORMAT_SECTOR != 0)
    return invalid (error, "image size %" PRIu64 " is not a multiple of %u: "
                    "the next one is %" PRIu64, image_size, FORMAT_SECTOR,
                    image_size - image_size % FORMAT_SECTOR + FORMAT_SECTOR);
  return 0;
}

int
format_check_backing_name (const char *name, size_t len,
                           char error[FORMAT_ERROR_SIZE])
{
  size_t i;

  if (len == 0)
    return invalid (error, "the backing file name is empty");
  if (len > BACKING_NAME_MAX)
    return invalid (error, "the backing file name is %zu bytes long: at most "
                    "%u are possible", len, BACKING_NAME_MAX);
  for (i = 0; i < len; ++i) {
    const unsigned char c = name[i];

    if (c < 0x20 || c == 0x7f)
      return invalid (error, "the backing file name has a control character "
                      "(0x%02x) at byte %zu", c, i);
  }
  return 0;
}

static bool
starts_with (const char *text, const char *prefix)
{
  return strncmp (text, prefix, strlen (prefix)) == 0;
}

enum format_backing
format_backing_kind (const char *name)
{
  static const char *const nbd[] = {
    "nbd://", "nbds://", "nbd+unix://", "nbds+unix://",
  };
  size_t i, n;

  for (i = 0; i < sizeof nbd / sizeof nbd[0]; ++i)
    if (starts_with (name, nbd[i]))
      return FORMAT_BACKING_NBD;
  n = strspn (name, "abcdefghijklmnopqrstuvwxyz"
              "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+.-");
  return n > 0 && name[n] == ':' ? FORMAT_BACKING_OTHER
    : FORMAT_BACKING_FILE;
}

/* The parameter of an NBD URI that is a relative path, or NULL.  The value
 * may be percent-encoded.
 */
static const char *
relative_parameter (const char *uri)
{
  static const char *const paths[] = {
    "socket=", "tls-certificates=", "tls-psk-file=",
  };
  const char *at = strchr (uri, '?'), *value;
  size_t i;

  for (; at; at = strpbrk (at + 1, "&;"))
    for (i = 0; i < sizeof paths / sizeof paths[0]; ++i) {
      value = at + 1 + strlen (paths[i]);
      if (starts_with (at + 1, paths[i]) && value[0] != '/' &&
          strncasecmp (value, "%2f", 3) != 0)
        return paths[i];
    }
  return NULL;
}

int
format_check_backing_kind (const char *name, char error[FORMAT_ERROR_SIZE])
{
  const char *relative;

  switch (format_backing_kind (name)) {
  case FORMAT_BACKING_OTHER:
    invalid (error, "it is neither a file nor an NBD URI (nbd://, nbds://, "
             "nbd+unix://, nbds+unix://), and nothing else is supported; a "
             "file with a colon in its name is written ./NAME");
    return -ENOTSUP;
  case FORMAT_BACKING_NBD:
    relative = relative_parameter (name);
    if (relative)
      return invalid (error, "%s needs an absolute path (it begins with /)",
                      relative);
    break;
  case FORMAT_BACKING_FILE:
    break;
  }
  return 0;
}

static void
decode_fields (const unsigned char *buf, struct format_header *header)
{
  header->cluster_size = format_get32 (buf + AT_CLUSTER_SIZE);
  header->table_size = format_get32 (buf + AT_TABLE_SIZE);
  header->header_size = format_get32 (buf + AT_HEADER_SIZE);
  header->features = format_get64 (buf + AT_FEATURES);
  header->compat_features = format_get64 (buf + AT_COMPAT_FEATURES);
  header->autoclear_features = format_get64 (buf + AT_AUTOCLEAR_FEATURES);
  header->l1_table_offset = format_get64 (buf + AT_L1_TABLE_OFFSET);
  header->image_size = format_get64 (buf + AT_IMAGE_SIZE);
  header->backing_filename_offset = format_get32 (buf + AT_BACKING_OFFSET);
  header->backing_filename_size = format_get32 (buf + AT_BACKING_SIZE);
}

void
format_encode_header (const struct format_header *header, unsigned char *buf)
{
  format_put32 (buf + AT_MAGIC, FORMAT_MAGIC);
  format_put32 (buf + AT_CLUSTER_SIZE, header->cluster_size);
  format_put32 (buf + AT_TABLE_SIZE, header->table_size);
  format_put32 (buf + AT_HEADER_SIZE, header->header_size);
  format_put64 (buf + AT_FEATURES, header->features);
  format_put64 (buf + AT_COMPAT_FEATURES, header->compat_features);
  format_put64 (buf + AT_AUTOCLEAR_FEATURES, header->autoclear_features);
  format_put64 (buf + AT_L1_TABLE_OFFSET, header->l1_table_offset);
  format_put64 (buf + AT_IMAGE_SIZE, header->image_size);
  format_put32 (buf + AT_BACKING_OFFSET, header->backing_filename_offset);
  format_put32 (buf + AT_BACKING_SIZE, header->backing_filename_size);
}

/* The sizes: everything after this may compute with them. */
static int
check_sizes (const struct format_header *header, uint64_t file_size,
             char error[FORMAT_ERROR_SIZE])
{
  uint64_t header_bytes, max;

  if (!valid_cluster_size (header->cluster_size))
    return invalid (error, "header field cluster_size (offset 0x%x) is "
                    "%" PRIu32 ": must be a power of 2 from %u to %u",
                    AT_CLUSTER_SIZE, header->cluster_size,
                    FORMAT_CLUSTER_SIZE_MIN, FORMAT_CLUSTER_SIZE_MAX);
  if (!valid_table_size (header->table_size))
    return invalid (error, "header field table_size (offset 0x%x) is "
                    "%" PRIu32 ": must be 1, 2, 4, 8 or %u", AT_TABLE_SIZE,
                    header->table_size, FORMAT_TABLE_SIZE_MAX);

  /* Less than 2^32 x 2^26: cannot overflow. */
  header_bytes = (uint64_t) header->header_size * header->cluster_size;
  if (header->header_size == 0 || header_bytes > file_size)
    return invalid (error, "header field header_size (offset 0x%x) is "
                    "%" PRIu32 " clusters: must be at least 1 and within the "
                    "file (%" PRIu64 " bytes)", AT_HEADER_SIZE,
                    header->header_size, file_size);

  max = format_max_image_size (header->cluster_size, header->table_size);
  if (header->image_size % FORMAT_SECTOR != 0 || header->image_size > max)
    return invalid (error, "header field image_size (offset 0x%x) is "
                    "%" PRIu64 ": must be a multiple of %u, at most "
                    "%" PRIu64, AT_IMAGE_SIZE, header->image_size,
                    FORMAT_SECTOR, max);
  return 0;
}

static int
check_l1 (const struct format_header *header, uint64_t file_size,
          char error[FORMAT_ERROR_SIZE])
{
  const uint64_t offset = header->l1_table_offset;
  const uint64_t header_bytes =
    (uint64_t) header->header_size * header->cluster_size;
  const uint64_t table_bytes =
    (uint64_t) header->table_size * header->cluster_size;

  if (offset % header->cluster_size != 0)
    return invalid (error, "header field l1_table_offset (offset 0x%x) is "
                    "0x%" PRIx64 ": must be a multiple of the cluster size, "
                    "0x%" PRIx32, AT_L1_TABLE_OFFSET, offset,
                    header->cluster_size);
  if (offset < header_bytes)
    return invalid (error, "header field l1_table_offset (offset 0x%x) is "
                    "0x%" PRIx64 ": must be behind the header clusters, which "
                    "end at 0x%" PRIx64, AT_L1_TABLE_OFFSET, offset,
                    header_bytes);
  /* Not offset + table_bytes, which may be near 2^64. */
  if (table_bytes > file_size || offset > file_size - table_bytes)
    return invalid (error, "header field l1_table_offset (offset 0x%x) is "
                    "0x%" PRIx64 ": the table of 0x%" PRIx64 " bytes must lie "
                    "within the file, which ends at 0x%" PRIx64
                    "; is the file cut?", AT_L1_TABLE_OFFSET, offset,
                    table_bytes, file_size);
  return 0;
}

static int
check_backing (const struct format_header *header,
               char error[FORMAT_ERROR_SIZE])
{
  const uint64_t offset = header->backing_filename_offset;
  const uint64_t size = header->backing_filename_size;
  const uint64_t header_bytes =
    (uint64_t) header->header_size * header->cluster_size;

  if (!(header->features & QED_F_BACKING_FILE))
    return 0;                   /* the format says: ignored */

  if (size == 0 || size > BACKING_NAME_MAX)
    return invalid (error, "header field backing_filename_size (offset 0x%x) "
                    "is %" PRIu64 ": must be 1 to %u", AT_BACKING_SIZE, size,
                    BACKING_NAME_MAX);
  if (offset < FORMAT_HEADER_BYTES || offset + size > header_bytes)
    return invalid (error, "header field backing_filename_offset (offset "
                    "0x%x) is 0x%" PRIx64 ": the name's %" PRIu64 " bytes "
                    "must lie between 0x%x and the end of the header clusters "
                    "at 0x%" PRIx64, AT_BACKING_OFFSET, offset, size,
                    FORMAT_HEADER_BYTES, header_bytes);
  return 0;
}

int
format_decode_header (const unsigned char *buf, uint64_t file_size,
                      struct format_header *header,
                      char error[FORMAT_ERROR_SIZE])
{
  uint64_t unknown;
  int r;

  if (file_size < FORMAT_HEADER_BYTES)
    return invalid (error, "not a QED image: the file has %" PRIu64 " bytes, "
                    "a header has %u", file_size, FORMAT_HEADER_BYTES);
  if (format_get32 (buf + AT_MAGIC) != FORMAT_MAGIC)
    return invalid (error, "not a QED image: the magic at offset 0x%x is "
                    "0x%08" PRIx32 ", must be 0x%08x", AT_MAGIC,
                    format_get32 (buf + AT_MAGIC), FORMAT_MAGIC);
  decode_fields (buf, header);

  /* Before the other fields: an unknown feature may change their meaning. */
  unknown = header->features & ~(uint64_t) FORMAT_KNOWN_FEATURES;
  if (unknown != 0) {
    invalid (error, "header field features (offset 0x%x) has unknown bits "
             "0x%" PRIx64 ": the image needs a newer version", AT_FEATURES,
             unknown);
    return -ENOTSUP;
  }

  if ((r = check_sizes (header, file_size, error)) < 0 ||
      (r = check_l1 (header, file_size, error)) < 0 ||
      (r = check_backing (header, error)) < 0)
    return r;
  return 0;
}

void
format_geometry_init (struct format_geometry *geometry,
                      const struct format_header *header)
{
  const uint64_t cluster_size = header->cluster_size;

  geometry->cluster_size = header->cluster_size;
  geometry->cluster_bits = bits_of (cluster_size);
  geometry->table_bytes = header->table_size * cluster_size;
  geometry->entries = geometry->table_bytes / sizeof (uint64_t);
  geometry->entries_bits = bits_of (geometry->entries);
  geometry->header_bytes = header->header_size * cluster_size;
  geometry->l1_offset = header->l1_table_offset;
  geometry->image_size = header->image_size;
}

/* What is wrong for L1 and L2 alike; FORMAT_ALLOCATED if nothing is. */
static enum format_entry
classify_offset (const struct format_geometry *geometry, uint64_t entry)
{
  if (entry & FORMAT_ENTRY_RESERVED)
    return FORMAT_RESERVED_BITS;
  if (entry & (geometry->cluster_size - 1))
    return FORMAT_MISALIGNED;
  if (entry < geometry->header_bytes)
    return FORMAT_INTO_HEADER;
  if (entry >= geometry->l1_offset &&
      entry - geometry->l1_offset < geometry->table_bytes)
    return FORMAT_INTO_L1;
  return FORMAT_ALLOCATED;
}

enum format_entry
format_classify_l1 (const struct format_geometry *geometry, uint64_t entry,
                    uint64_t length)
{
  const uint64_t table_bytes = geometry->table_bytes;
  enum format_entry class;

  if (entry == 0)
    return FORMAT_UNALLOCATED;
  class = classify_offset (geometry, entry);
  if (class != FORMAT_ALLOCATED)
    return class;
  /* A table that starts before L1 may reach into it. */
  if (entry < geometry->l1_offset && geometry->l1_offset - entry < table_bytes)
    return FORMAT_INTO_L1;
  if (table_bytes > length || entry > length - table_bytes)
    return FORMAT_PAST_END;
  return FORMAT_ALLOCATED;
}

enum format_entry
format_classify_l2 (const struct format_geometry *geometry, uint64_t entry,
                    uint64_t length)
{
  enum format_entry class;

  if (entry == 0)
    return FORMAT_UNALLOCATED;
  if (entry == FORMAT_ENTRY_ZERO)
    return FORMAT_ZERO;
  class = classify_offset (geometry, entry);
  if (class == FORMAT_ALLOCATED && entry >= length)
    return FORMAT_PAST_END;
  return class;
}

const char *
format_entry_to_text (enum format_entry class)
{
  switch (class) {
  case FORMAT_UNALLOCATED:   return "unallocated";
  case FORMAT_ZERO:          return "a zero cluster";
  case FORMAT_ALLOCATED:     return "allocated";
  case FORMAT_RESERVED_BITS: return "reserved bits are set";
  case FORMAT_MISALIGNED:    return "misaligned";
  case FORMAT_INTO_HEADER:   return "within the header";
  case FORMAT_INTO_L1:       return "overlaps the L1 table";
  case FORMAT_PAST_END:      return "beyond the end of the file";
  }
  return "unknown";
}
