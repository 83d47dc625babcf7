/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The undo file of a repair: what every write overwrites is saved first,
 * durably.
 *
 * The file: a header of UNDO_HEADER bytes, then records: offset, count, a check
 * sum of both and of the data, a sum of what the repair left there, and the
 * data.  All numbers are u64, little-endian.  The header: magic; version;
 * length of the image before; 32 bytes of the image's header that no repair
 * changes; a sum of L1 as it was; where the records end, or 0 until the repair
 * has ended; flags; the length that the repair left, and a sum of the rest that
 * it left (the first sector, all tables, and all behind the old length); a sum
 * of all of these places when everything was back.
 *
 * A torn record at the end of a file whose repair has not ended means that the
 * write that it was made for did not happen.  Putting back sets the length and
 * goes from the last record to the first, so that each byte ends with its
 * oldest value.  That of L1 is reckoned before anything is written: if it is
 * not the L1 that the file was made for, it is another image.
 *
 * What the repair left must be there still, or what it was when all was back:
 * else the image was used since, and what was written then would be lost.  From
 * the first write of putting back to its end a flag stands for that, so that
 * what was interrupted, or left out what could not be read, can be done again.
 */

#ifndef QED_UNDO_H
#define QED_UNDO_H

#include "storage.h"

#define UNDO_HEADER 104u
#define UNDO_AT_VERSION 8
#define UNDO_AT_LENGTH 16
#define UNDO_AT_IDENTITY 24
#define UNDO_AT_L1_SUM 56
#define UNDO_AT_END 64          /* from here on: struct undo_end */
#define UNDO_AT_FLAGS 72
#define UNDO_AT_LEFT_LENGTH 80
#define UNDO_AT_LEFT_SUM 88
#define UNDO_AT_BACK_SUM 96
#define UNDO_VERSION 3u
#define UNDO_F_ENTRIES 1u       /* of the repair at open: see undo-entries.c;
                                 * there is no sum of L1 */
#define UNDO_F_LEFT 2u          /* it is known what the repair left */
#define UNDO_F_BACK 4u          /* and what it was when all was back */
#define UNDO_F_BEGUN 8u         /* it is neither: putting back has begun */
#define UNDO_IDENTITY_BYTES 32u
#define UNDO_RECORD_BYTES 32u   /* before its data */
#define UNDO_AT_LEFT 24         /* in a record */
#define UNDO_PIECE_BYTES (UINT64_C (1) << 20)   /* of a record at most */

extern const unsigned char undo_magic[8];

struct undo_file {
  int fd;
  uint64_t end;                 /* of the undo file */
  uint64_t length;              /* of the image before */
  uint64_t flags;
};

/* That part of the header which is written at the end. */
struct undo_end {
  uint64_t end, flags, left_length, left_sum, back_sum;
};

/* Make a new file for an image; -EEXIST.  Any thread, one at a time; negative
 * errnos, no message.
 */
int undo_file_create (struct undo_file *undo, const char *path,
                      struct storage *image, uint64_t flags);
int undo_file_add (struct undo_file *undo, uint64_t offset, uint64_t count,
                   const unsigned char *data);
/* All of L1 that is not zeros. */
int undo_file_add_l1 (struct undo_file *undo, struct storage *image);
int undo_file_sync (struct undo_file *undo);
/* The repair has ended: all records are there.  What it has left of the image
 * is noted, unless that is NULL; if this can't be, the end is noted all the
 * same.
 */
int undo_file_finish (struct undo_file *undo, struct storage *image);
void undo_file_close (struct undo_file *undo);

/* Durably, behind all that was written before. */
int undo_write_end (int fd, const struct undo_end *end);

/* By what an image is known again: fields of its header; and the sum of an L1
 * table, where 'overlay' (or NULL) puts what is to be taken instead of what
 * the image has at 'at'.
 */
int undo_read_identity (struct storage *image, unsigned char *identity);
int undo_sum_l1 (struct storage *image,
                 int (*overlay) (void *opaque, uint64_t at, unsigned char *buf,
                                 uint64_t n),
                 void *opaque, uint64_t *sum);
uint64_t undo_check_sum (uint64_t offset, uint64_t count,
                         const unsigned char *data);

/* Where L1 lies. */
int undo_find_l1 (struct storage *image, uint64_t *offset, uint64_t *bytes);
/* From *done on in a range, to its end or the next data; a multiple of 8. */
int undo_skip_hole (struct storage *image, uint64_t offset, uint64_t bytes,
                    uint64_t *done);
bool undo_is_zero (const unsigned char *buf, uint64_t n);

#define UNDO_SUM_PRIME UINT64_C (0x100000001b3)

/* What the image holds in a range; and in its first sector and its tables, one
 * of which every new cluster is named in, and from..to-1, where it ends.  The
 * same whether zeros are holes or not.  'buf' has UNDO_PIECE_BYTES.
 */
int undo_sum_range (struct storage *image, uint64_t offset, uint64_t count,
                    unsigned char *buf, uint64_t *sum);
int undo_sum_rest (struct storage *image, uint64_t from, uint64_t to,
                   unsigned char *buf, uint64_t *sum);

/* A storage before another, which becomes its own, or is left alone on
 * failure.  From 'begin' on, which is called once, every change is saved in a
 * new file first; -EEXIST.  The path is the caller's until the storage is
 * closed.
 */
int storage_undo_open (struct storage *below, const struct qed_log *log,
                       struct storage **storage);
int storage_undo_begin (struct storage *storage, const char *path);

#endif /* QED_UNDO_H */
