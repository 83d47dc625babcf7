/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The file that a pending log lies in (pending.h): memory that outlives the
 * process, and no more than that.  It can grow in place.
 *
 *   DIRECTORY/DEV-INO      mode 0600, device and inode of the image in decimal
 *
 * in the first of the options' directories that can be had: it is ours alone
 * (mode 0700), or is made so, and lies on tmpfs or ramfs, so that nothing of
 * it is ever written to a disk, nor outlives the running kernel.  Root uses
 * other users' directories as well: a server may give up that power between
 * two of its lives.  Plain calls, which don't wait for any disk.
 */

#ifndef QED_PENDING_FILE_H
#define QED_PENDING_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qed.h"
#include "storage.h"

#define PENDING_BOOT_BYTES 16u

struct pending_file {
  void *memory;                 /* shared, or NULL: there is none */
  size_t size, max;             /* of the file; of what is mapped */
  int fd;
  char *path;
};

/* Whether there can be a log for what an image lies on: NULL, or why not.  It
 * takes a name that nobody else's file can have meanwhile, and a lock, without
 * which two servers could take it for theirs.
 */
const char *pending_file_impossible (const struct qed_options *options,
                                     const struct storage *storage);

/* Make one of 'size' bytes, all zeros, in place of whatever has its name; its
 * space is reserved.  A negative errno, after a message, if none can be had.
 */
int pending_file_create (const struct qed_options *options,
                         const struct qed_file_id *id, size_t size,
                         size_t max, struct pending_file *file);

/* Change its size, to 'max' at most; the space that it grows by is reserved,
 * and reads as zeros.  A negative errno: it is as it was.
 */
int pending_file_resize (struct pending_file *file, size_t size);

/* Let go of it; 'remove': it is not needed any more. */
void pending_file_close (struct pending_file *file, bool remove);

/* Read the one in the n-th directory, which must have 'max' bytes at most:
 * -EINVAL else.  The caller frees *buf, if it isn't NULL.  -ENOENT: there is
 * none; -ERANGE: nor so many directories.
 */
int pending_file_read (const struct qed_options *options,
                       const struct qed_file_id *id, unsigned n, size_t max,
                       void **buf, size_t *size);

/* Remove all that are there. */
void pending_file_remove (const struct qed_options *options,
                          const struct qed_file_id *id);

/* What tells this run of the machine from every other. */
int pending_file_boot_id (unsigned char id[PENDING_BOOT_BYTES]);

/* Bits that nobody can guess, nor are likely to come again. */
uint32_t pending_file_random (void);

#endif /* QED_PENDING_FILE_H */
