/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Changes of the header of an open image.
 *
 * O9: all that a changed field makes visible is durable before, and the field
 * changes in one sector write.  A change reads the first sector, sets the
 * bytes of its fields alone and writes the sector as a whole: what others keep
 * in the header clusters stays, and so does NEED_CHECK as it is.
 *
 * A backing file's name goes to bytes that hold nothing (zeros), and is
 * durable before the fields lead to it; then the old name is wiped.  So at
 * each moment the fields lead to a whole name, the old one or the new one.
 */

#ifndef QED_HEADER_H
#define QED_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format.h"
#include "job.h"

struct qed_image;

/* The sectors that the longest name can touch. */
#define HEADER_NAME_BYTES (9 * FORMAT_SECTOR)

/* What is to be changed. */
struct header_change {
  enum { HEADER_IMAGE_SIZE, HEADER_BACKING } what;

  uint64_t image_size;          /* HEADER_IMAGE_SIZE: the new one, bytes */

  const char *name;             /* HEADER_BACKING: the new name, or NULL for
                                 * no backing file */
  bool raw;                     /* it is never probed for a format */
  uint32_t length;              /* of the name; header_find_place sets this */
  uint32_t offset;              /* and where it goes */

  /* The job's. */
  uint32_t old_offset, old_length;      /* the name that goes; 0: none */
  bool made;                    /* the new fields are durable */
  unsigned char sectors[HEADER_NAME_BYTES];     /* those around a name */
};

/* Find a place for change->name.  Any thread, in plain calls, before any work
 * is done that would be in vain: -ENOTSUP where the header has compat
 * features that we don't know, so that its name may not be rewritten, -ENOSPC
 * if there is no room, -EINVAL for an impossible name; with a message.
 */
int header_find_place (struct qed_image *image, struct header_change *change);

/* Make the change, in a plain call, once all that this thread has done is to
 * become visible with it: everything is written back first.  One at a time;
 * no request that changes anything may be under way.  On success the header in
 * memory says the same (the geometry, by which requests go, does not).
 */
int header_make_change (struct qed_image *image,
                        struct header_change *change);

/* ---- For the loop ---- */

/* Start the job that makes image->header_change. */
void header_start (struct qed_image *image);

/* Steps of image->job: read the first sector into image->sector; sync. */
int header_read (struct job *job);
int header_sync (struct job *job);

/* Write it again, with other features, and with the autoclear features that
 * the header in memory has of the pending log.
 */
int header_write_features (struct job *job, uint64_t set, uint64_t clear);

#endif /* QED_HEADER_H */
