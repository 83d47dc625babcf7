/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The directory whose images are served (dir=): what is in it now.  Nothing
 * is remembered, so that files come and go without a restart.  Any thread.
 */

#ifndef SERVER_DIRECTORY_H
#define SERVER_DIRECTORY_H

#include <stddef.h>

#include "qed.h"

/* Find the image of a name that a client sent.  Returns its path, to be
 * freed, and which file it is; or NULL with the reason logged and nbdkit's
 * error set.
 */
char *directory_find (const char *directory, const char *name,
                      struct qed_file_id *id);

struct directory_name {
  char *name;
  struct qed_file_id id;
};

struct directory_names {
  struct directory_name *list;
  size_t count;
};

/* Read the names of the images, sorted, but no more than 'most'.  To be freed
 * in any case.  Returns 0, or -1 with the reason logged.
 */
int directory_read (const char *directory, size_t most,
                    struct directory_names *names);
void directory_names_free (struct directory_names *names);

/* Copy what fits of a name that a client sent, for a message of one line. */
void name_copy_printable (char *to, size_t size, const char *name);

#endif /* SERVER_DIRECTORY_H */
