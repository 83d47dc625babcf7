/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The backing chain: what unallocated clusters read as, and the policy about
 * which files may be opened for it.
 *
 * A backing file is raw or QED, only read (but see target.h), and locked as a
 * reader.  Its name stands in a file that a stranger may have made, so by
 * default it must lie inside the image's own directory; symlinks and ".."
 * don't lead out of it.  It may also be the URI of an NBD server's export,
 * which is always raw, has no locks, and is allowed only where any file is.
 * Offsets and sizes are the guest's bytes.
 */

#ifndef QED_BACKING_H
#define QED_BACKING_H

#include <stdbool.h>
#include <stdint.h>

#include "qed.h"

/* So many files below an image at most. */
#define BACKING_DEPTH_MAX 32u

struct backing;
struct loop;
struct storage;

/* Open what the image's header names, with plain calls; the message says what
 * is wrong and which parameter would allow it.
 */
int backing_open (struct qed_image *image, struct backing **backing);
void backing_close (struct backing *backing);

/* A server's export is read with the help of a loop, from start, after any
 * fork, to stop, on the loop: as in struct storage_ops.
 */
int backing_start (struct backing *backing, struct loop *loop,
                   void (*stopped) (void *opaque), void *opaque);
bool backing_stop (struct backing *backing);

/* Whether reading a part of it may take a round trip to a server. */
bool backing_is_remote (const struct backing *backing);

/* Open what is to become the image's backing file, before the image is
 * started: a name that its user vouches for, so it may lie anywhere; what is
 * beneath it is opened by the image's policy, where "beside" counts from there.
 * 'raw': not probed for a format.  It must not contain the image itself.
 */
int backing_open_name (struct qed_image *image, const char *name, bool raw,
                       struct backing **backing);

/* Warn where a name that is to be stored leads to what a server would not
 * open; -ELOOP, with a message, if it is the image itself.
 */
int backing_check_name (const struct qed_image *image, const char *name);

/* For who opens the backing file by himself, to write to it: the local file
 * that the header names.  *path is the caller's, *beneath (or NULL) the
 * image's; opened beneath that, the path can't leave what the policy allows.
 */
int backing_find (struct qed_image *image, char **path, const char **beneath);

/* Whether that file is a QED image, or raw; what is neither is refused. */
int backing_recognise (const struct qed_image *image, struct storage *storage,
                       const char *path, bool *is_qed);

uint64_t backing_size (const struct backing *backing);
const char *backing_path (const struct backing *backing); /* or its URI */
struct qed_file_id backing_identify (const struct backing *backing);

/* The image of a QED backing file, or NULL. */
struct qed_image *backing_image (const struct backing *backing);

/* Read; beyond the backing file's end are zeros.  *done says how much of the
 * range was read.  0, REQUEST_AGAIN, QED_WAIT or an error.
 */
int backing_read (struct backing *backing, struct qed_request *request,
                  uint64_t at, uint64_t bytes, void *buf, uint64_t *done);

/* What the first *done bytes of the range are; likewise. */
int backing_extent (struct backing *backing, struct qed_request *request,
                    uint64_t at, uint64_t bytes, enum qed_extent *kind,
                    uint64_t *done);

/* Say that a range will be read soon; likewise. */
int backing_prefetch (struct backing *backing, struct qed_request *request,
                      uint64_t at, uint64_t bytes, uint64_t *done);

#endif /* QED_BACKING_H */
