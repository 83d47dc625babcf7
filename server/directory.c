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
    nbdkit_error ("there is no export \"%s\": the exports are the files *.qed "
                  "in %s", printable, directory);
  else if ((r = identify (directory, name, &path, id)) == -EXDEV)
    nbdkit_error ("there is no export \"%s\": it is a symlink that leads out "
                  "of %s", printable, directory);
  else if (r == -EINVAL)
    nbdkit_error ("there is no export \"%s\": in %s it is neither a regular "
                  "file nor a block device", printable, directory);
  else if (r < 0) {
    errno = -r;
    nbdkit_error ("there is no export \"%s\": cannot open it in %s: %m",
                  printable, directory);
  }
  if (r < 0)
    nbdkit_set_error (ENOENT);
  return path;
}

/* ---- Listing ----------------------------------------------------------- */

static int
add_name (struct directory_names *list, const char *name)
{
  char **bigger;

  bigger = realloc (list->names, (list->count + 1) * sizeof *bigger);
  if (bigger == NULL)
    return -1;
  list->names = bigger;
  list->names[list->count] = strdup (name);
  return list->names[list->count++] != NULL ? 0 : -1;
}

static int
compare_names (const void *a, const void *b)
{
  return strcmp (*(char *const *) a, *(char *const *) b);
}

int
directory_read (const char *directory, size_t most,
                struct directory_names *list)
{
  DIR *dir = opendir (directory);
  struct qed_file_id id;
  struct dirent *entry;
  char *path;
  int r = -1;

  *list = (struct directory_names) { NULL, 0 };
  if (dir == NULL)
    goto out;
  for (;;) {
    errno = 0;
    if (list->count == most || (entry = readdir (dir)) == NULL)
      break;
    if (!is_image_name (entry->d_name) ||
        identify (directory, entry->d_name, &path, &id) < 0)
      continue;
    free (path);
    if (add_name (list, entry->d_name) == -1)
      goto out;
  }
  if (errno == 0)
    r = 0;
  if (list->count > 1)
    qsort (list->names, list->count, sizeof *list->names, compare_names);

 out:
  if (r == -1)
    nbdkit_error ("%s: cannot read the directory: %m", directory);
  if (dir != NULL)
    closedir (dir);
  return r;
}

void
directory_names_free (struct directory_names *list)
{
  while (list->count > 0)
    free (list->names[--list->count]);
  free (list->names);
}
