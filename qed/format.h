/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The QED on-disk format: the header and the geometry that follows from it.
 *
 * Pure functions, no I/O, any thread.  Every byte that comes from a file is
 * validated here before anything else looks at it; byte order is converted
 * here and nowhere else.  All offsets and sizes are bytes unless a name says
 * clusters.  Source: the format's specification (docs/interop/qed_spec.txt
 * of QEMU).
 *
 * A table is an array of little-endian u64 offsets; L1 -> L2 tables -> data
 * clusters.  In an L2 table 0 is unallocated, 1 a zero cluster; in L1 0 is
 * "no table".
 */

#ifndef QED_FORMAT_H
#define QED_FORMAT_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define FORMAT_MAGIC 0x00444551u        /* "QED\0" read as little-endian */
#define FORMAT_SECTOR 512u              /* what a disk writes as a whole */
#define FORMAT_HEADER_BYTES 64u         /* the fields of the header */

#define FORMAT_CLUSTER_SIZE_MIN (1u << 12)
#define FORMAT_CLUSTER_SIZE_MAX (1u << 26)
#define FORMAT_TABLE_SIZE_MAX 16u

#define FORMAT_KNOWN_FEATURES 7u        /* QED_F_* of qed.h */

/* The low bits of an entry that the format reserves. */
#define FORMAT_ENTRY_RESERVED UINT64_C (0xfff)
#define FORMAT_ENTRY_ZERO UINT64_C (1)  /* L2: a cluster of zeros */

/* Where a header field lies: for writers that change one field. */
#define FORMAT_AT_FEATURES 16
#define FORMAT_AT_COMPAT 24
#define FORMAT_AT_AUTOCLEAR 32
#define FORMAT_AT_L1 40
#define FORMAT_AT_IMAGE_SIZE 48
#define FORMAT_AT_BACKING_OFFSET 56
#define FORMAT_AT_BACKING_SIZE 60

struct format_header {
  uint32_t cluster_size;        /* bytes */
  uint32_t table_size;          /* clusters */
  uint32_t header_size;         /* clusters */
  uint64_t features;
  uint64_t compat_features;
  uint64_t autoclear_features;
  uint64_t l1_table_offset;
  uint64_t image_size;
  uint32_t backing_filename_offset;
  uint32_t backing_filename_size;
};

/* What follows from the header. */
struct format_geometry {
  uint32_t cluster_size;
  unsigned cluster_bits;        /* log2 of cluster_size */
  uint64_t table_bytes;         /* table_size x cluster_size */
  uint64_t entries;             /* N, per table; a multiple of 512 */
  unsigned entries_bits;        /* log2 of N */
  uint64_t header_bytes;        /* header_size x cluster_size */
  uint64_t l1_offset;
  uint64_t image_size;
};

#define FORMAT_ERROR_SIZE 256

/* Decode a header from its first FORMAT_HEADER_BYTES bytes and validate it,
 * field by field.  'file_size' is the length of the file, for the checks
 * that need it: the header clusters and the whole L1 table lie inside.
 * Returns 0; -EINVAL with 'error' saying which field is wrong, at which
 * offset and what is allowed; -ENOTSUP for unknown feature bits.
 * The backing name's place is checked here (within the header clusters,
 * behind the fields), its text by format_check_backing_name.
 */
int format_decode_header (const unsigned char *buf, uint64_t file_size,
                          struct format_header *header,
                          char error[FORMAT_ERROR_SIZE]);

/* Encode the fields into FORMAT_HEADER_BYTES bytes; the rest of the header
 * clusters is not ours to touch.
 */
void format_encode_header (const struct format_header *header,
                           unsigned char *buf);

/* Check that cluster and table size are possible and that an image of
 * image_size fits.  For create, before a file is touched.
 */
int format_check_geometry (uint64_t cluster_size, uint64_t table_size,
                           uint64_t image_size,
                           char error[FORMAT_ERROR_SIZE]);

/* Check a backing name: not empty, no NUL, no control character. */
int format_check_backing_name (const char *name, size_t len,
                               char error[FORMAT_ERROR_SIZE]);

/* What a backing name means. */
enum format_backing {
  FORMAT_BACKING_FILE,          /* a path */
  FORMAT_BACKING_NBD,           /* an NBD URI over TCP or a Unix socket */
  FORMAT_BACKING_OTHER,         /* any other scheme before a colon, as the
                                 * "json:" and "fat:" of QEMU */
};

enum format_backing format_backing_kind (const char *name);

/* Check what of a backing name is known without opening it: -ENOTSUP if it is
 * neither a path nor an NBD URI, -EINVAL for a URI that names a local file by
 * a relative path, which means another one wherever a server runs.
 */
int format_check_backing_kind (const char *name,
                               char error[FORMAT_ERROR_SIZE]);

/* The largest image of a geometry: min (N^2 x cluster_size, 2^63 - 512). */
uint64_t format_max_image_size (uint32_t cluster_size, uint32_t table_size);

/* The geometry of a valid header. */
void format_geometry_init (struct format_geometry *geometry,
                           const struct format_header *header);

/* Little-endian access at any address. */
uint32_t format_get32 (const unsigned char *p);
static inline uint64_t
format_get64 (const unsigned char *p)
{
  uint64_t v;

  memcpy (&v, p, sizeof v);
  return le64toh (v);
}
void format_put32 (unsigned char *p, uint32_t v);
void format_put64 (unsigned char *p, uint64_t v);

/* What an entry says that was read from a table, without looking at any
 * other entry: 'length' is the length of the file.
 */
enum format_entry {
  FORMAT_UNALLOCATED,           /* 0 */
  FORMAT_ZERO,                  /* 1, in L2 only */
  FORMAT_ALLOCATED,             /* a plausible offset */
  FORMAT_RESERVED_BITS,         /* one of the low 12 bits is set */
  FORMAT_MISALIGNED,            /* not a multiple of the cluster size */
  FORMAT_INTO_HEADER,           /* within the header clusters */
  FORMAT_INTO_L1,               /* overlaps the L1 table */
  FORMAT_PAST_END,              /* beyond the file, or no room for a table */
};

enum format_entry format_classify_l1 (const struct format_geometry *geometry,
                                      uint64_t entry, uint64_t length);
enum format_entry format_classify_l2 (const struct format_geometry *geometry,
                                      uint64_t entry, uint64_t length);

/* The entry's class in words, for messages: "misaligned", ... */
const char *format_entry_to_text (enum format_entry class);

#endif /* QED_FORMAT_H */
