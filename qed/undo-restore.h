/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The parts of qed_undo (undo.h).  One thread; what fails has been told. */

#ifndef QED_UNDO_RESTORE_H
#define QED_UNDO_RESTORE_H

#include <stddef.h>
#include <stdint.h>

#include "check.h"
#include "undo.h"

struct undo_record {
  uint64_t at;                  /* of its data, in the undo file */
  uint64_t offset, count;       /* in the image */
  uint64_t left;                /* the sum of what was left there */
};

struct undo_restore {
  const char *path;             /* of the undo file */
  const struct qed_options *options;
  struct storage *storage;      /* the image */
  struct qed_image *image;      /* NULL, or it owns the storage */
  int fd;
  uint64_t size;                /* of the undo file */
  struct undo_end end;          /* end.end is 0: not known */
  uint64_t length;              /* of the image before */
  uint64_t l1_sum;
  unsigned char identity[UNDO_IDENTITY_BYTES];
  unsigned char *buf;

  struct undo_record *records;
  size_t count, capacity;
  size_t damaged;               /* that can't be put back */
  uint64_t damaged_at;          /* the first of them, in the undo file */
};

/* ---- undo-restore.c ---- */

/* What to say of an image that it can't be; of one of which it can't be told;
 * of a call that failed half-way.  They return what qed_undo does.
 */
int undo_other_image (const struct undo_restore *restore, const char *what);
int undo_cannot_tell (const struct undo_restore *restore, int error);
int undo_half_done (const struct undo_restore *restore, int error);

/* n records, from 'at' in the undo file on, can't be put back. */
void undo_note_damage (struct undo_restore *restore, uint64_t at, size_t n);

/* ---- undo-left.c ---- */

/* Whether the image is as it was left, as far as that is known. */
int undo_check_left (struct undo_restore *restore);

/* Note that it isn't from here on; or that all is back. */
int undo_note_begin (struct undo_restore *restore);
int undo_note_back (struct undo_restore *restore);

/* ---- undo-entries.c ---- */

/* With UNDO_F_ENTRIES: -ESTALE if some entries are not put back. */
int undo_entries (struct undo_restore *restore,
                  const struct qed_progress *progress);

#endif /* QED_UNDO_RESTORE_H */
