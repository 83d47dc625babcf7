/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The undo file of a repair: what every write overwrites is saved first,
 * durably.
 *
 * The file: a header of UNDO_HEADER bytes (magic, version, length of the image
 * before, the fields of its header that no repair changes), then records:
 * offset, count, a check sum of both and of the data, all little-endian u64,
 * and the data.  A torn record at the end means that
 * the write that it was made for did not happen.  Putting back sets the length
 * and goes from the last record to the first, so that each byte ends with its
 * oldest value.
 */

#ifndef QED_UNDO_H
#define QED_UNDO_H

#include "storage.h"

#define UNDO_HEADER 64u
#define UNDO_PIECE_BYTES (UINT64_C (1) << 20)   /* of a record at most */

struct undo_file {
  int fd;
  uint64_t end;                 /* of the undo file */
  uint64_t length;              /* of the image before */
};

/* Make a new file for an image; -EEXIST.  Any thread, one at a time; negative
 * errnos, no message.
 */
int undo_file_create (struct undo_file *undo, const char *path,
                      struct storage *image);
int undo_file_add (struct undo_file *undo, uint64_t offset, uint64_t count,
                   const unsigned char *data);
int undo_file_sync (struct undo_file *undo);
void undo_file_close (struct undo_file *undo);

/* A storage before another, which becomes its own: every change of it is
 * saved in a new file first.  Fails, and leaves 'below' alone, if the file
 * exists.
 */
int storage_undo_open (struct storage *below, const char *path,
                       const struct qed_log *log, struct storage **storage);

#endif /* QED_UNDO_H */
