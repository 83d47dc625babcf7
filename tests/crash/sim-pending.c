/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pending.h"
#include "sim-pending.h"

void *sim_pending;
unsigned char sim_pending_boot;
static uint32_t tokens;

void *
sim_pending_copy (void)
{
  void *copy = sim_pending ? malloc (PENDING_BYTES_MAX) : NULL;

  if (sim_pending && copy == NULL)
    abort ();
  return copy ? memcpy (copy, sim_pending, PENDING_BYTES_MAX) : NULL;
}

void
sim_pending_set (const void *log)
{
  free (sim_pending);
  sim_pending = log ? malloc (PENDING_BYTES_MAX) : NULL;
  if (log && sim_pending == NULL)
    abort ();
  if (log)
    memcpy (sim_pending, log, PENDING_BYTES_MAX);
}

void
sim_pending_reset (void)
{
  sim_pending_set (NULL);
  sim_pending_boot = 0;
  tokens = 0;
}

/* ---- What the engine looks for in pending-file.c ---- */

const char *
pending_file_impossible (const struct qed_options *options,
                         const struct storage *storage)
{
  (void) options;
  (void) storage;
  return NULL;
}

int
pending_file_create (const struct qed_options *options,
                     const struct qed_file_id *id, size_t size, size_t max,
                     struct pending_file *file)
{
  (void) options;
  (void) id;
  free (sim_pending);
  sim_pending = calloc (1, max);
  if (sim_pending == NULL)
    abort ();
  *file = (struct pending_file) {
    .memory = sim_pending, .size = size, .max = max
  };
  return 0;
}

/* What is behind the end is there, and zeros. */
int
pending_file_resize (struct pending_file *file, size_t size)
{
  if (size < file->size)
    memset ((char *) file->memory + size, 0, file->size - size);
  file->size = size;
  return 0;
}

void
pending_file_close (struct pending_file *file, bool remove)
{
  if (file->memory && remove)
    sim_pending_set (NULL);
  memset (file, 0, sizeof *file);
}

int
pending_file_read (const struct qed_options *options,
                   const struct qed_file_id *id, unsigned n, size_t max,
                   void **buf, size_t *size)
{
  (void) options;
  (void) id;
  *buf = NULL;
  if (n > 0)
    return -ERANGE;
  if (sim_pending == NULL)
    return -ENOENT;
  *buf = sim_pending_copy ();
  *size = max;
  return 0;
}

void
pending_file_remove (const struct qed_options *options,
                     const struct qed_file_id *id)
{
  (void) options;
  (void) id;
  sim_pending_set (NULL);
}

int
pending_file_boot_id (unsigned char id[PENDING_BOOT_BYTES])
{
  memset (id, sim_pending_boot, PENDING_BOOT_BYTES);
  return 0;
}

uint32_t
pending_file_random (void)
{
  return tokens++;
}
