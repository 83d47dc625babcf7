/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* What exports.c and exports-image.c share. */

#ifndef SERVER_EXPORTS_PRIVATE_H
#define SERVER_EXPORTS_PRIVATE_H

#include <pthread.h>
#include <time.h>

#include "exports.h"

/* Protects the table of exports and what is in them. */
extern pthread_mutex_t exports_lock;

struct export {
  struct export *next;
  char *path;
  struct qed_file_id id;
  enum export_state state;
  unsigned clients;
  unsigned pins;
  struct timespec close_at;     /* if it is open and has no clients */
  struct qed_slot *slot;        /* if it is open or closing */
  struct export_counters counters;
};

/* ---- exports-image.c (without the lock) -------------------------------- */

/* Open the image, without starting it; or get ready to take it.  They return
 * a negative errno if that fails.
 */
int export_make_slot (struct export *export);

/* With dir=, for the first client: the image is started, too. */
int export_open_image (struct export *export);

void export_close_image (struct export *export);

#endif /* SERVER_EXPORTS_PRIVATE_H */
