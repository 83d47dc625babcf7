/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A backing file that is open: of backing.c, which opens it, and
 * backing-read.c alone.
 */

#ifndef QED_BACKING_FILE_H
#define QED_BACKING_FILE_H

#include <stdbool.h>
#include <stdint.h>

struct qed_image;
struct storage;

struct backing {
  struct storage *raw;          /* one of the two */
  struct qed_image *qed;
  bool remote;                  /* raw is a socket: see fetch.h */
  uint64_t size;
  char *path;
};

#endif /* QED_BACKING_FILE_H */
