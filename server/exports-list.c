/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Which exports there are: see exports.h. */

#include <config.h>

#include <stdlib.h>
#include <string.h>

#include "directory.h"
#include "exports.h"
#include "message.h"
#include "plugin.h"

/* nbdkit takes no longer lists. */
#define LIST_MAX 10000

int
exports_list (struct nbdkit_exports *list)
{
  struct directory_names found;
  size_t i;
  int r;

  if (plugin_config.directory == NULL)
    return nbdkit_add_export (list, plugin_config.name, EXPORT_DESCRIPTION);
  r = directory_read (plugin_config.directory, LIST_MAX, &found);
  for (i = 0; r == 0 && i < found.count; ++i)
    r = nbdkit_add_export (list, found.list[i].name, EXPORT_DESCRIPTION);
  directory_names_free (&found);
  return r;
}

char *
exports_default (void)
{
  struct directory_names found;
  char *name = NULL;

  if (plugin_config.directory == NULL)
    return strdup (plugin_config.name);
  if (directory_read (plugin_config.directory, 2, &found) == 0 &&
      found.count == 1)
    name = strdup (found.list[0].name);
  directory_names_free (&found);
  return name;
}

/* ---- For the admin door ------------------------------------------------ */

/* An entry whose other members are set. */
static int
add_entry (struct export_entries *entries, const char *name)
{
  struct export_entry *entry = &entries->list[entries->count];

  entry->name = strdup (name);
  if (entry->name == NULL)
    return -1;
  entries->count++;
  return 0;
}

static int
add_found (struct export_entries *entries, const struct directory_name *found)
{
  struct export_entry *entry = &entries->list[entries->count];

  entry->id = found->id;
  entry->state = export_state (&found->id, &entry->clients);
  return add_entry (entries, found->name);
}

static int
add_file (struct export_entries *entries)
{
  exports_look_at_file (&entries->list[entries->count]);
  return add_entry (entries, plugin_config.name);
}

int
exports_look (struct export_entries *entries)
{
  struct directory_names found = { NULL, 0 };
  size_t i;
  int r = 0;

  *entries = (struct export_entries) { NULL, 0 };
  if (plugin_config.directory != NULL &&
      directory_read (plugin_config.directory, LIST_MAX, &found) == -1)
    r = -1;
  entries->list = calloc (found.count + 1, sizeof *entries->list);
  if (entries->list == NULL)
    r = -1;
  if (r == 0 && plugin_config.directory == NULL)
    r = add_file (entries);
  for (i = 0; r == 0 && i < found.count; i++)
    r = add_found (entries, &found.list[i]);
  directory_names_free (&found);
  return r;
}

void
exports_look_end (struct export_entries *entries)
{
  while (entries->count > 0)
    free (entries->list[--entries->count].name);
  free (entries->list);
}
