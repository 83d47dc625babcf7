/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The directory whose images are served: see directory.h. */

#include <config.h>

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "directory.h"
#include "message.h"

#define SUFFIX ".qed"

void
name_copy_printable (char *to, size_t size, const char *name)
{
  size_t i;

  for (i = 0; i + 1 < size && name[i] != '\0'; ++i)
    to[i] = name[i] >= 0x20 && name[i] < 0x7f ? name[i] : '?';
  to[i] = '\0';
}

/* A file of the directory itself, not hidden, and fit for a line of the log:
 * also what makes ".." and paths no names at all.
 */
static bool
is_image_name (const char *name)
{
  const size_t len = strlen (name), suffix = strlen (SUFFIX);
  size_t i;

  if (len <= suffix || len > NAME_MAX || name[0] == '.' ||
      strcmp (name + len - suffix, SUFFIX) != 0)
    return false;
  for (i = 0; i < len; ++i)
    if (name[i] == '/' || (unsigned char) name[i] < 0x20 || name[i] == 0x7f)
      return false;
  return true;
}

/* The path of a file in the directory, to be freed, and which file it is.
 * Returns 0 or a negative errno.
 */
static int
identify (const char *directory, const char *name, char **path,
          struct qed_file_id *id)
{
  int r;

  if (asprintf (path, "%s/%s", strcmp (directory, "/") == 0 ? "" : directory,
                name) == -1) {
    *path = NULL;
    return -ENOMEM;
  }
  r = qed_file_identify (*path, directory, id);
  if (r < 0) {
    free (*path);
    *path = NULL;
  }
  return r;
}

char *
directory_find (const char *directory, const char *name,
                struct qed_file_id *id)
{
  char printable[80], *path = NULL;
  int r = -ENOENT;

  name_copy_printable (printable, sizeof printable, name);
  if (!is_image_name (name))
    message_error ("there is no export \"%s\": the exports are the files *.qed "
                   "in %s", printable, directory);
  else if ((r = identify (directory, name, &path, id)) == -EXDEV)
    message_error ("there is no export \"%s\": it is a symlink that leads out "
                   "of %s", printable, directory);
  else if (r == -EINVAL)
    message_error ("there is no export \"%s\": in %s it is neither a regular "
                   "file nor a block device", printable, directory);
  else if (r < 0) {
    errno = -r;
    message_error ("there is no export \"%s\": cannot open it in %s: %m",
                   printable, directory);
  }
  if (r < 0)
    nbdkit_set_error (ENOENT);
  return path;
}

/* ---- Listing ----------------------------------------------------------- */

static int
add_name (struct directory_names *names, const char *name,
          const struct qed_file_id *id)
{
  struct directory_name *bigger, *last;

  bigger = realloc (names->list, (names->count + 1) * sizeof *bigger);
  if (bigger == NULL)
    return -1;
  names->list = bigger;
  last = &names->list[names->count++];
  last->name = strdup (name);
  last->id = *id;
  return last->name != NULL ? 0 : -1;
}

static int
compare_names (const void *a, const void *b)
{
  const struct directory_name *x = a, *y = b;

  return strcmp (x->name, y->name);
}

int
directory_read (const char *directory, size_t most,
                struct directory_names *names)
{
  DIR *dir = opendir (directory);
  struct qed_file_id id;
  struct dirent *entry;
  char *path;
  int r = -1;

  *names = (struct directory_names) { NULL, 0 };
  if (dir == NULL)
    goto out;
  for (;;) {
    errno = 0;
    if (names->count == most || (entry = readdir (dir)) == NULL)
      break;
    if (!is_image_name (entry->d_name) ||
        identify (directory, entry->d_name, &path, &id) < 0)
      continue;
    free (path);
    if (add_name (names, entry->d_name, &id) == -1)
      goto out;
  }
  if (errno == 0)
    r = 0;
  if (names->count > 1)
    qsort (names->list, names->count, sizeof *names->list, compare_names);

 out:
  if (r == -1)
    message_error ("%s: cannot read the directory: %m", directory);
  if (dir != NULL)
    closedir (dir);
  return r;
}

void
directory_names_free (struct directory_names *names)
{
  while (names->count > 0)
    free (names->list[--names->count].name);
  free (names->list);
}
