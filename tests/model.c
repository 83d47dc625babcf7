/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See model.h for what the model promises. */

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "model-private.h"
#include "pattern.h"

/* One check of a read, handed down to the sectors. */
struct check {
  struct model *m;
  uint64_t issued;
  bool crash;
  FILE *report;
  uint64_t wrong;               /* bytes */
  const unsigned char *buf;     /* the whole read, for the report */
  uint64_t offset, count;
};

void *
model_must (void *p)
{
  if (p == NULL) {
    fprintf (stderr, "model: out of memory\n");
    exit (2);
  }
  return p;
}

static unsigned char
record_byte (const struct model *m, uint32_t seq, uint64_t offset)
{
  if (m->records[seq].kind != MODEL_WRITE)
    return 0;
  return pattern_byte (m->key, seq, offset);
}

void
model_initial (const struct model *m, uint64_t offset, uint64_t count,
               unsigned char *buf)
{
  uint64_t there = offset < m->initial_bytes ? m->initial_bytes - offset : 0;

  if (there > count)
    there = count;
  if (there > 0)
    memcpy (buf, m->initial + offset, there);
  memset (buf + there, 0, count - there);
}

void
model_fill (const struct model *m, uint32_t seq, unsigned char *buf)
{
  const struct record *r = &m->records[seq];

  pattern_fill (m->key, seq, r->offset, r->count, buf);
}

/* ---- Chunks and sectors ------------------------------------------------- */

static struct chunk *
find_chunk (const struct model *m, uint64_t index)
{
  struct chunk *c = m->buckets[pattern_mix (index) % BUCKETS];

  while (c != NULL && c->index != index)
    c = c->next;
  return c;
}

struct sector *
model_get_sector (struct model *m, uint64_t offset)
{
  uint64_t index = offset / MODEL_CHUNK;
  struct chunk *c = find_chunk (m, index);

  if (c == NULL) {
    struct chunk **bucket = &m->buckets[pattern_mix (index) % BUCKETS];

    c = model_must (calloc (1, sizeof *c));
    c->index = index;
    c->next = *bucket;
    *bucket = c;
  }
  return &c->sectors[offset % MODEL_CHUNK / SECTOR];
}

const struct sector *
model_find_sector (const struct model *m, uint64_t offset)
{
  const struct chunk *c = find_chunk (m, offset / MODEL_CHUNK);

  return c ? &c->sectors[offset % MODEL_CHUNK / SECTOR] : NULL;
}

static bool
covers (const struct record *r, uint64_t offset)
{
  return offset >= r->offset && offset - r->offset < r->count;
}

bool
model_newest (const struct model *m, const struct sector *s, uint64_t sector,
              unsigned char *buf)
{
  const struct record *r;

  if (s->n == 0) {
    if (s->base != NULL)
      memcpy (buf, s->base, SECTOR);
    else
      model_initial (m, sector, SECTOR, buf);
    return true;
  }
  r = &m->records[s->list[s->n - 1]];
  if (!covers (r, sector) || !covers (r, sector + SECTOR - 1))
    return false;
  if (r->kind == MODEL_WRITE)
    pattern_fill (m->key, s->list[s->n - 1], sector, SECTOR, buf);
  else
    memset (buf, 0, SECTOR);
  return true;
}

void
model_content (const struct model *m, const struct sector *s, uint64_t sector,
               unsigned char *buf)
{
  if (s->settled != NULL)
    memcpy (buf, s->settled, SECTOR);
  else if (!model_newest (m, s, sector, buf)) {
    fprintf (stderr, "model: what is at 0x%" PRIx64 " was not read\n",
             sector);
    exit (2);
  }
}

bool
model_next_touched (const struct model *m, uint64_t offset, uint64_t *start)
{
  uint64_t best = UINT64_MAX;

  for (unsigned b = 0; b < BUCKETS; b++)
    for (const struct chunk *c = m->buckets[b]; c != NULL; c = c->next)
      if (c->index >= offset / MODEL_CHUNK && c->index < best)
        best = c->index;
  *start = best * MODEL_CHUNK;
  return best != UINT64_MAX;
}

static bool
durable (const struct model *m, const struct record *r)
{
  return r->completed > 0 && (r->fua || r->completed < m->flushed);
}

/* Whether 'w' surely overwrote what 'v' did, where both cover a byte, in the
 * eyes of one who looks at time 'issued' or after a crash.
 */
static bool
supersedes (const struct model *m, const struct record *w,
            const struct record *v, uint64_t issued, bool crash)
{
  if (w->completed == 0 || w->failed || w->kind == MODEL_TRIM)
    return false;
  if (crash ? !durable (m, w) : w->completed >= issued)
    return false;
  return v == NULL || (v->completed > 0 && v->completed < w->issued);
}

/* Drop from a sector's list what no read, not even one after a crash, can
 * return any more.
 */
static void
prune (const struct model *m, struct sector *s, uint64_t sector)
{
  uint32_t kept = 0;

  for (uint32_t i = 0; i < s->n; i++) {
    const struct record *v = &m->records[s->list[i]];
    uint64_t from = v->offset > sector ? v->offset : sector;
    uint64_t to = v->offset + v->count - 1;
    bool drop = false;

    if (to > sector + SECTOR - 1)
      to = sector + SECTOR - 1;
    for (uint32_t j = i + 1; j < s->n && !drop; j++) {
      const struct record *w = &m->records[s->list[j]];

      drop = covers (w, from) && covers (w, to)
        && w->completed < m->horizon
        && supersedes (m, w, v, m->horizon, true);
    }
    if (!drop)
      s->list[kept++] = s->list[i];
  }
  s->n = kept;
}

static void
add_to_sector (struct model *m, uint64_t sector, uint32_t seq)
{
  struct sector *s = model_get_sector (m, sector);

  prune (m, s, sector);
  s->list = model_must (realloc (s->list, (s->n + 1) * sizeof *s->list));
  s->list[s->n++] = seq;
  free (s->settled);
  s->settled = NULL;
}

/* ---- Changes ------------------------------------------------------------ */

struct model *
model_new (uint64_t size, uint64_t key)
{
  struct model *m = model_must (calloc (1, sizeof *m));

  m->size = size;
  m->key = key;
  m->now = 1;
  m->allocated = 1024;
  m->records = model_must (calloc (m->allocated, sizeof *m->records));
  m->n = 1;
  m->horizon = 1;
  return m;
}

void
model_free (struct model *m)
{
  for (unsigned b = 0; b < BUCKETS; b++)
    while (m->buckets[b] != NULL) {
      struct chunk *c = m->buckets[b];

      m->buckets[b] = c->next;
      for (unsigned i = 0; i < SECTORS; i++) {
        free (c->sectors[i].list);
        free (c->sectors[i].settled);
        free (c->sectors[i].base);
      }
      free (c);
    }
  if (m->initial != NULL)
    munmap ((void *) m->initial, m->initial_bytes);
  free (m->records);
  free (m);
}

uint64_t
model_size (const struct model *m)
{
  return m->size;
}

uint64_t
model_key (const struct model *m)
{
  return m->key;
}

uint32_t
model_records (const struct model *m)
{
  return m->n - 1;
}

uint64_t
model_tick (struct model *m)
{
  return ++m->now;
}

uint32_t
model_issue (struct model *m, enum model_kind kind, uint64_t offset,
             uint64_t count)
{
  uint32_t seq = m->n++;

  if (seq == m->allocated) {
    m->allocated *= 2;
    m->records = model_must (realloc (m->records,
                                      m->allocated * sizeof *m->records));
  }
  m->records[seq] = (struct record) {
    .offset = offset, .count = count, .issued = model_tick (m), .kind = kind,
  };
  for (uint64_t s = offset - offset % SECTOR; s < offset + count; s += SECTOR)
    add_to_sector (m, s, seq);
  return seq;
}

void
model_complete (struct model *m, uint32_t seq, bool ok, bool fua)
{
  struct record *r = &m->records[seq];

  r->completed = model_tick (m);
  r->failed = !ok;
  r->fua = ok && fua;
}

void
model_server_died (struct model *m)
{
  for (uint32_t seq = 1; seq < m->n; seq++)
    if (m->records[seq].completed == 0)
      model_complete (m, seq, false, false);
}

/* A change that the crash undid must not supersede one that it did not, once a
 * later flush seems to cover both: the records are given up.
 */
void
model_crash_seen (struct model *m)
{
  unsigned char buf[SECTOR];

  for (unsigned b = 0; b < BUCKETS; b++)
    for (struct chunk *c = m->buckets[b]; c != NULL; c = c->next)
      for (unsigned i = 0; i < SECTORS; i++) {
        struct sector *s = &c->sectors[i];

        if (s->n == 0)
          continue;
        model_content (m, s, c->index * MODEL_CHUNK + i * SECTOR, buf);
        if (s->base == NULL)
          s->base = model_must (malloc (SECTOR));
        memcpy (s->base, buf, SECTOR);
        free (s->settled);
        s->settled = NULL;
        s->n = 0;
      }
}

void
model_flushed (struct model *m, uint64_t issued)
{
  if (issued > m->flushed)
    m->flushed = issued;
}

void
model_set_horizon (struct model *m, uint64_t oldest)
{
  m->horizon = oldest;
}

/* ---- Checking ----------------------------------------------------------- */

/* Whether some record that may be seen at 'offset' has this value there. */
static bool
acceptable (const struct check *c, const struct sector *s, uint64_t offset,
            unsigned char got)
{
  const struct model *m = c->m;
  unsigned char initial;

  if (s->base != NULL)
    initial = s->base[offset % SECTOR];
  else
    model_initial (m, offset, 1, &initial);
  for (uint32_t i = 0; i <= s->n; i++) {
    /* i == s->n stands for what was there before all of them. */
    const struct record *v = i < s->n ? &m->records[s->list[i]] : NULL;
    bool gone = false;

    if (v != NULL && !covers (v, offset))
      continue;
    if ((v ? record_byte (m, s->list[i], offset) : initial) != got)
      continue;
    for (uint32_t j = 0; j < s->n && !gone; j++) {
      const struct record *w = &m->records[s->list[j]];

      gone = covers (w, offset)
        && supersedes (m, w, v, c->issued, c->crash);
    }
    if (!gone)
      return true;
  }
  return false;
}

/* Say which record's data this is, if it is any's. */
static void
report_origin (const struct check *c, uint64_t offset)
{
  const struct model *m = c->m;
  uint64_t at = (offset + 7) & ~UINT64_C (7), origin;
  const unsigned char *word;
  unsigned char initial[8];
  const struct record *r;
  uint32_t seq;

  if (at + 8 > c->offset + c->count)
    at = offset & ~UINT64_C (7);
  if (at < c->offset || at + 8 > c->offset + c->count) {
    fprintf (c->report, "  found: too short a read to tell whose data\n");
    return;
  }
  word = c->buf + (at - c->offset);
  model_initial (m, at, 8, initial);
  if (memcmp (word, "\0\0\0\0\0\0\0", 8) == 0) {
    fprintf (c->report, "  found: zeros at 0x%" PRIx64 "\n", at);
    return;
  }
  if (memcmp (word, initial, 8) == 0) {
    fprintf (c->report, "  found: what was there at first, at 0x%" PRIx64
             "\n", at);
    return;
  }
  pattern_decode (m->key, word, &seq, &origin);
  r = &m->records[seq < m->n ? seq : 0];
  if (origin + 7 < r->offset % PATTERN_SPAN
      || origin >= r->offset % PATTERN_SPAN + r->count)
    fprintf (c->report, "  found: no data of ours at 0x%" PRIx64 "\n", at);
  else
    fprintf (c->report, "  found: at 0x%" PRIx64 " what write #%" PRIu32
             " put at 0x%" PRIx64 " (%s)\n", at, seq, origin,
             origin == at % PATTERN_SPAN ? "another version"
                                         : "foreign data");
}

static void
report_wrong (const struct check *c, const struct sector *s, uint64_t offset,
              unsigned char got)
{
  static const char *const names[] = { "write", "zero", "trim" };
  const struct model *m = c->m;

  fprintf (c->report, "WRONG DATA at offset 0x%" PRIx64 ": got 0x%02x"
           " (read of 0x%" PRIx64 "+0x%" PRIx64 " issued at %" PRIu64 "%s)\n",
           offset, got, c->offset, c->count, c->issued,
           c->crash ? ", after a crash" : "");
  if (s->settled != NULL && !c->crash)
    fprintf (c->report, "  expected: 0x%02x, as an earlier read found\n",
             s->settled[offset % SECTOR]);
  for (uint32_t i = 0; i < s->n; i++) {
    const struct record *r = &m->records[s->list[i]];

    if (covers (r, offset))
      fprintf (c->report, "  candidate: 0x%02x by %s #%" PRIu32 " of 0x%"
               PRIx64 "+0x%" PRIx64 ", issued %" PRIu64 ", completed %"
               PRIu64 "%s%s\n", record_byte (m, s->list[i], offset),
               names[r->kind], s->list[i], r->offset, r->count, r->issued,
               r->completed, r->failed ? ", failed" : "",
               durable (m, r) ? ", durable" : "");
  }
  report_origin (c, offset);
}

/* A quiet sector was read: it must stay so. */
static void
settle (struct model *m, uint64_t sector, const unsigned char *got)
{
  struct sector *s = model_get_sector (m, sector);

  if (s->settled == NULL)
    s->settled = model_must (malloc (SECTOR));
  memcpy (s->settled, got, SECTOR);
}

/* The common case: a whole sector holds what came last.  That may always be
 * so, since nothing was issued later that could supersede it.
 */
static bool
newest_is_here (const struct model *m, const struct sector *s,
                uint64_t sector, const unsigned char *got)
{
  unsigned char expected[SECTOR];

  return model_newest (m, s, sector, expected)
    && memcmp (got, expected, SECTOR) == 0;
}

/* Check the bytes from..to (exclusive) of one sector. */
static void
check_sector (struct check *c, uint64_t from, uint64_t to,
              const unsigned char *got)
{
  static const struct sector untouched;
  uint64_t sector = from - from % SECTOR;
  const struct sector *s = model_find_sector (c->m, sector);
  bool whole = to - from == SECTOR;
  bool quiet = true;            /* nothing was changing it meanwhile */
  bool newest, settled;

  if (s == NULL)
    s = &untouched;
  newest = whole && newest_is_here (c->m, s, sector, got);
  if (newest && s->n <= 1 && s->settled == NULL)
    return;
  for (uint32_t i = 0; i < s->n; i++) {
    uint64_t completed = c->m->records[s->list[i]].completed;

    quiet &= completed > 0 && completed < c->issued;
  }
  settled = quiet && s->settled != NULL && !c->crash;
  if (settled && memcmp (s->settled + from % SECTOR, got, to - from) == 0)
    return;
  for (uint64_t o = from; o < to && (settled || !newest); o++)
    if (settled ? s->settled[o % SECTOR] != got[o - from]
        : !acceptable (c, s, o, got[o - from]))
      if (c->wrong++ == 0)
        report_wrong (c, s, o, got[o - from]);
  if (quiet && whole && s->n > 0)
    settle (c->m, sector, got);
}

bool
model_check (struct model *m, uint64_t offset, uint64_t count,
             const unsigned char *buf, uint64_t issued, bool crash,
             FILE *report)
{
  struct check c = {
    .m = m, .issued = issued, .crash = crash, .report = report,
    .buf = buf, .offset = offset, .count = count,
  };
  uint64_t o = offset, end = offset + count;

  while (o < end) {
    uint64_t to = o - o % SECTOR + SECTOR;

    if (to > end)
      to = end;
    check_sector (&c, o, to, buf + (o - offset));
    o = to;
  }
  if (c.wrong > 0)
    fprintf (report, "  %" PRIu64 " of %" PRIu64 " bytes are wrong\n",
             c.wrong, count);
  return c.wrong == 0;
}
