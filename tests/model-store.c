/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The model's files: see model.h. */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "model-private.h"

#define SAVE_MAGIC UINT64_C (0x316c65646f6d6471)

/* ---- Files -------------------------------------------------------------- */

static void
give_up (const char *path)
{
  fprintf (stderr, "model: %s: %s\n", path, strerror (errno));
  exit (2);
}

static void
put (FILE *f, const void *p, size_t n, const char *path)
{
  if (n > 0 && fwrite (p, n, 1, f) != 1)
    give_up (path);
}

static void
get (FILE *f, void *p, size_t n, const char *path)
{
  if (n > 0 && fread (p, n, 1, f) != 1) {
    fprintf (stderr, "model: %s: not a saved model, or cut short\n", path);
    exit (2);
  }
}

static FILE *
must_open (const char *path, const char *mode)
{
  FILE *f = fopen (path, mode);

  if (f == NULL)
    give_up (path);
  return f;
}

/* The file: magic, size, key, now, flushed, count of records, records, then
 * (offset, list length, which bytes there are, list, bytes) of each touched
 * sector, and UINT64_MAX.
 */
enum { HAS_SETTLED = 1, HAS_BASE = 2 };

void
model_save (const struct model *m, const char *path)
{
  FILE *f = must_open (path, "w");
  uint64_t head[6] = { SAVE_MAGIC, m->size, m->key, m->now, m->flushed, m->n };
  uint64_t end[3] = { UINT64_MAX, 0, 0 };

  put (f, head, sizeof head, path);
  put (f, m->records, m->n * sizeof *m->records, path);
  for (unsigned b = 0; b < BUCKETS; b++)
    for (const struct chunk *c = m->buckets[b]; c != NULL; c = c->next)
      for (unsigned i = 0; i < SECTORS; i++) {
        const struct sector *s = &c->sectors[i];
        uint64_t item[3] = { c->index * MODEL_CHUNK + i * SECTOR, s->n,
                             (s->settled ? HAS_SETTLED : 0) |
                             (s->base ? HAS_BASE : 0) };

        if (s->n == 0 && s->base == NULL)
          continue;
        put (f, item, sizeof item, path);
        put (f, s->list, s->n * sizeof *s->list, path);
        put (f, s->settled, s->settled ? SECTOR : 0, path);
        put (f, s->base, s->base ? SECTOR : 0, path);
      }
  put (f, end, sizeof end, path);
  if (fclose (f) != 0)
    give_up (path);
}

struct model *
model_load (const char *path)
{
  FILE *f = must_open (path, "r");
  struct model *m;
  uint64_t head[6], item[3];

  get (f, head, sizeof head, path);
  if (head[0] != SAVE_MAGIC) {
    fprintf (stderr, "model: %s: not a saved model\n", path);
    exit (2);
  }
  m = model_new (head[1], head[2]);
  m->now = head[3];
  m->flushed = head[4];
  m->n = m->allocated = head[5];
  free (m->records);
  m->records = model_must (calloc (m->allocated, sizeof *m->records));
  get (f, m->records, m->n * sizeof *m->records, path);
  for (;;) {
    struct sector *s;

    get (f, item, sizeof item, path);
    if (item[0] == UINT64_MAX)
      break;
    s = model_get_sector (m, item[0]);
    s->n = item[1];
    s->list = model_must (calloc (s->n + 1, sizeof *s->list));
    get (f, s->list, s->n * sizeof *s->list, path);
    if (item[2] & HAS_SETTLED)
      get (f, s->settled = model_must (malloc (SECTOR)), SECTOR, path);
    if (item[2] & HAS_BASE)
      get (f, s->base = model_must (malloc (SECTOR)), SECTOR, path);
  }
  fclose (f);
  return m;
}

void
model_set_initial (struct model *m, const char *path)
{
  int fd = open (path, O_RDONLY | O_CLOEXEC);
  struct stat statbuf;
  void *p;

  if (fd == -1 || fstat (fd, &statbuf) == -1)
    give_up (path);
  m->initial_bytes = statbuf.st_size;
  if (m->initial_bytes > 0) {
    p = mmap (NULL, m->initial_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
      give_up (path);
    m->initial = p;
  }
  close (fd);
}

/* Write a sector, or leave a hole where there are zeros. */
static void
dump_sector (const struct model *m, uint64_t sector, FILE *f,
             const char *path)
{
  static const unsigned char zeros[SECTOR];
  const struct sector *s = model_find_sector (m, sector);
  unsigned char buf[SECTOR];

  if (s != NULL)
    model_content (m, s, sector, buf);
  else
    model_initial (m, sector, SECTOR, buf);
  if (memcmp (buf, zeros, SECTOR) == 0)
    return;
  if (fseeko (f, sector, SEEK_SET) == -1)
    give_up (path);
  put (f, buf, m->size - sector < SECTOR ? m->size - sector : SECTOR, path);
}

void
model_dump (const struct model *m, const char *path)
{
  FILE *f = must_open (path, "w");

  for (uint64_t o = 0; o < m->size; o += SECTOR)
    dump_sector (m, o, f, path);
  if (fflush (f) != 0 || ftruncate (fileno (f), m->size) == -1
      || fclose (f) != 0)
    give_up (path);
}
