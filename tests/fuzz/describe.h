/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image in few bytes: its header, then what is in the file.
 *
 * Values are a byte that says how, then two bytes or eight:
 *
 *   0  clusters                      4  eight bytes, as they are
 *   1  bytes                         5  the end of the file, and clusters
 *   2  tables behind the L1 table    6  sectors
 *   3  2^(n % 64), and clusters (the upper byte, signed)
 *
 * corpus.py writes such descriptions.
 */

#ifndef FUZZ_DESCRIBE_H
#define FUZZ_DESCRIBE_H

#include "format.h"
#include "fuzz.h"
#include "sparse.h"

enum describe_record {
  DESCRIBE_L1,                  /* u16 index, value */
  DESCRIBE_TABLE,               /* u16 index, u8 number: the L1 entry names
                                 * that table, by number */
  DESCRIBE_L2,                  /* u8 number, u16 index, value */
  DESCRIBE_RUN,                 /* u8 number, u16 index, u8 count, value: so
                                 * many entries, clusters in a row */
  DESCRIBE_DATA,                /* value: a page of content there */
  DESCRIBE_STALE,               /* value, value: where, and how much */
  DESCRIBE_BYTES,               /* value, u8 count, bytes: as they are */
  DESCRIBE_FILL,                /* value, u16 count, value: the same entry
                                 * again and again */
};
#define DESCRIBE_RECORDS 8u

/* The header:  u8 log2 of the cluster size (4 bits over 12; what is more is
 * taken as it is), u8 log2 of the table size, u8 header size, u8 features,
 * u8 other bits (1: compat, 2: autoclear, 4: a device, 8: name of the backing
 * file base.qed, not base.raw), three values: image size, L1's offset, length
 * of the file.
 */
void describe (struct sparse *disk, struct fuzz_input *in);

#endif /* FUZZ_DESCRIBE_H */
