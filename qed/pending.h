/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The pending log: what was acknowledged survives the death of the process
 * (O10).  pending.c has the state machine and the argument.
 *
 * P1. An entry that any thread can look up is in the log, or on its way to the
 *     image in a write-back that ended, or was there at open.
 * P2. What the log holds is replayed only on the state that it belongs to: the
 *     header carries the log's token, which any other program that opens the
 *     image for writing clears, and the machine has not been started anew.
 * P3. A log that is not whole in every respect is not replayed at all.
 *
 * The log is there, and the token in the header, from mark-dirty to make-clean;
 * the file is kept until the image is closed.
 */

#ifndef QED_PENDING_H
#define QED_PENDING_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"
#include "pending-file.h"

struct page;
struct qed_image;

/* The autoclear features that are the log's: one says that there is a log, the
 * others which one.
 */
#define PENDING_MAGIC UINT64_C (0x676f6c2d64657170)     /* "pqed-log" */
#define PENDING_VERSION 1u
#define PENDING_TOKEN QED_AUTOCLEAR_PENDING
#define PENDING_IN_USE (UINT64_C (1) << 63)

/* The log has one part at first, and more while they are needed, each with so
 * many records of either half: as many as it takes that a write-back for want
 * of room is rare beside those of time (O2).
 */
#ifndef QED_SIM
#define PENDING_RECORDS 16384u
#define PENDING_PARTS 32u
#else
#define PENDING_RECORDS 4u
#define PENDING_PARTS 3u
#endif

/* ---- What lies in memory ---- */

/* A run of entries of one page that were changed: entry i gets 'value' plus
 * i clusters, or, if that names no cluster, 'value'.  All native-endian: no
 * other machine reads it.
 */
struct pending_record {
  uint64_t where;               /* the guest's cluster; or PENDING_L1 and the
                                 * index in the L1 table */
  uint64_t value;               /* as on disk */
  uint64_t count;               /* in an L1 table 1 */
  _Atomic uint64_t check;       /* stored last: generation and checksum */
};

#define PENDING_L1 (UINT64_C (1) << 63)
#define PENDING_CHECK_BITS 24u  /* of the checksum; the rest is generation,
                                 * enough for years */

struct pending_head {
  uint64_t magic;
  uint32_t version, record_bytes;
  uint32_t records;             /* of a half in a part */
  uint32_t cluster_size;        /* from here on: of the image */
  uint64_t table_bytes;
  uint64_t l1_offset, image_size;
  uint64_t device, inode;
  uint64_t token;               /* as in the header's autoclear features */
  unsigned char boot[PENDING_BOOT_BYTES];
  uint64_t checksum;            /* of all that is before it */

  _Atomic uint64_t generation[2]; /* of each half; 0: it is empty; the larger
                                   * one is the younger */
  _Atomic uint64_t parts;         /* the file has as many, or more */
};

#define PENDING_HEAD_BYTES 4096u
#define PENDING_PART_BYTES \
  (2 * PENDING_RECORDS * sizeof (struct pending_record))
#define PENDING_BYTES (PENDING_HEAD_BYTES + PENDING_PART_BYTES)
#define PENDING_BYTES_MAX \
  (PENDING_HEAD_BYTES + PENDING_PARTS * PENDING_PART_BYTES)

/* A slot of a half.  A part has slots of the first, then of the second. */
static inline struct pending_record *
pending_slot (void *memory, unsigned half, uint64_t slot)
{
  return (struct pending_record *) ((char *) memory + PENDING_HEAD_BYTES) +
    (slot / PENDING_RECORDS * 2 + half) * PENDING_RECORDS +
    slot % PENDING_RECORDS;
}

uint64_t pending_checksum (const struct pending_head *head);
uint64_t pending_check (const struct pending_record *record,
                        uint64_t generation, unsigned slot);

/* ---- The log in use (pending.c) ---- */

struct pending_log {
  struct pending_file file;     /* of the loop, and of who is in the gate */
  _Atomic uint64_t active;      /* the half in use (bit 63), and how many slots
                                 * of it are taken; 0 if there is no log */
  _Atomic uint64_t records;     /* slots of a half, in all parts; the loop
                                 * adds some any time, and takes them away
                                 * while the gate is closed */
  bool no_more;                 /* of them can be had now; loop only */
  _Atomic uint64_t generation[2]; /* as in the head, which others could write
                                   * to */
  _Atomic uint64_t old;         /* slots that the old half had taken, or
                                 * some less */
  uint64_t last;                /* the youngest generation; loop only */

  /* There is no log, and what is changed is written back before it is
   * answered.
   */
  _Atomic bool write_through;
};

/* An image was opened: decide how it keeps O10. */
void pending_init (struct qed_image *image);

/* Loop only, before NEED_CHECK is set: have a log, if there is to be one.
 * What the header has to say is then image->header.autoclear_features.
 */
void pending_begin (struct qed_image *image);

/* The image is closed; 'clean': nothing is left that was not written. */
void pending_end (struct qed_image *image, bool clean);

/* A sync failed: data may be lost whose entries the log has.  Any thread. */
void pending_discard (struct qed_image *image);

/* The one way to change entries, of a locked page, within the gate: n of them
 * from 'index' on become 'value', each 'step' more than the one before, in
 * memory with 'marks'.  -ENOBUFS, and nothing has changed: the log is full, a
 * write-back has to come first.
 */
int pending_publish (struct qed_image *image, struct page *page,
                     unsigned index, uint64_t value, uint64_t step,
                     unsigned n, uint64_t marks);

/* Whether a change should rather wait for a write-back. */
bool pending_full (struct pending_log *pending);

/* So that this never comes: add a part if there soon is no room; whether a
 * write-back should start, since no part can be added.  Loop only.
 */
void pending_grow (struct pending_log *pending);
bool pending_pressed (struct pending_log *pending);

/* A write-back begins, before it counts what is dirty; it ended well: what had
 * been logged before it began is in the image.  Loop only.
 */
void pending_switch (struct pending_log *pending);
void pending_written (struct pending_log *pending);

/* Everything is in the image, and the gate is closed. */
void pending_empty (struct pending_log *pending);

/* Records in use, for status. */
uint64_t pending_count (struct pending_log *pending);

/* ---- At open (pending-replay.c) ---- */

/* The header was read: if it speaks of a log, look for it and carry out what
 * it says, durably.  A log that can't be used is named in the log.  Returns 0,
 * or the error of the image's file.  Of an image that is only read nothing is
 * changed.  The token has to be cleared afterwards, then pending_forget.
 */
int pending_replay (struct qed_image *image);
void pending_forget (struct qed_image *image);

/* How many records wait in a log that would be replayed. */
uint64_t pending_waiting (const struct qed_options *options,
                          const struct qed_file_id *id,
                          const struct format_header *header);

#endif /* QED_PENDING_H */
