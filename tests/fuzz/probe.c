/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* See probe.h.  It finds the clusters by itself, by the format alone. */

#include <config.h>

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "image.h"
#include "probe.h"

#define PROBES_MAX 128u
#define LOST_MAX 4096u
#define PROBE_BYTES 512u

struct probe {
  uint64_t offset;              /* the guest's */
  int result;                   /* of the read before */
  unsigned char data[PROBE_BYTES];
};

static struct probe probes[PROBES_MAX];
static unsigned probe_count;

static struct sparse_range lost[LOST_MAX];
static unsigned lost_count;

void
probe_reset (void)
{
  probe_count = lost_count = 0;
}

/* ---- What a check tells ---- */

void
probe_found (void *opaque, const struct qed_problem *problem)
{
  char text[QED_PROBLEM_TEXT_SIZE];

  (void) opaque;
  qed_problem_to_text (problem, text);
  if (text[0] == '\0')
    fuzz_fail ("a problem without words");
}

void
probe_fixed (void *opaque, const struct qed_problem *problem,
             const char *action)
{
  probe_found (opaque, problem);
  if (action[0] == '\0')
    fuzz_fail ("an action without words");
}

void
probe_lost (void *opaque, uint64_t guest, uint64_t bytes)
{
  (void) opaque;
  if (lost_count < LOST_MAX)
    lost[lost_count++] = (struct sparse_range) {
      guest, bytes < UINT64_MAX - guest ? guest + bytes : UINT64_MAX };
}

static bool
is_lost (uint64_t offset)
{
  unsigned i;

  for (i = 0; i < lost_count; i++)
    if (offset + PROBE_BYTES > lost[i].start && offset < lost[i].end)
      return true;
  return lost_count == LOST_MAX;
}

/* ---- Which clusters there are ---- */

static void
add_probe (const struct format_geometry *g, uint64_t offset)
{
  if (probe_count < PROBES_MAX && offset < g->image_size &&
      g->image_size - offset >= PROBE_BYTES)
    probes[probe_count++].offset = offset;
}

static void
add_cluster (const struct format_geometry *g, uint64_t cluster)
{
  if (cluster > UINT64_MAX >> g->cluster_bits)
    return;
  add_probe (g, cluster << g->cluster_bits);
  add_probe (g, (cluster << g->cluster_bits) + g->cluster_size - PROBE_BYTES);
}

/* Call 'found' for the entries of a table that are not 0; index, entry. */
static void
walk (const struct sparse *disk, const struct format_geometry *g,
      uint64_t table, uint64_t l1_index,
      void (*found) (const struct sparse *disk,
                     const struct format_geometry *g, uint64_t index,
                     uint64_t entry))
{
  uint64_t number = table / SPARSE_PAGE, end = table + g->table_bytes, at;
  const struct sparse_page *page;
  uint64_t index, entry;

  if (table > INT64_MAX - g->table_bytes)
    return;
  for (; probe_count < PROBES_MAX &&
         (page = sparse_next_page (disk, number)) != NULL &&
         page->number * SPARSE_PAGE < end; number = page->number + 1)
    for (at = 0; at < SPARSE_PAGE; at += 8) {
      entry = format_get64 (page->data + at);
      index = (page->number * SPARSE_PAGE + at - table) / 8;
      if (entry != 0)
        found (disk, g, (l1_index << g->entries_bits) + index, entry);
    }
}

static void
found_l2 (const struct sparse *disk, const struct format_geometry *g,
          uint64_t index, uint64_t entry)
{
  (void) disk;
  (void) entry;
  add_cluster (g, index);
}

/* Tables of what lies beyond the disk would take their time for nothing. */
static void
found_l1 (const struct sparse *disk, const struct format_geometry *g,
          uint64_t index, uint64_t entry)
{
  if (index <= (g->image_size >> g->cluster_bits) >> g->entries_bits &&
      entry % g->cluster_size == 0 && entry < disk->length)
    walk (disk, g, entry, index, found_l2);
}

/* ---- Reading them ---- */

static struct qed_image *
open_to_read (const struct qed_options *options)
{
  struct qed_options reader = *options;
  struct qed_image *image;

  reader.read_only = true;
  reader.check = QED_CHECK_NEVER;
  if (qed_open (&reader, &image) < 0)
    return NULL;
  if (qed_start (image) < 0 ||
      image->header.features & QED_F_BACKING_FILE) {
    qed_close (image);          /* the one beneath may be the same file */
    return NULL;
  }
  return image;
}

void
probe_before (const struct sparse *disk, const struct qed_options *options)
{
  struct qed_image *image = open_to_read (options);
  struct probe *probe;

  probe_reset ();
  if (image == NULL)
    return;
  walk (disk, &image->geometry, image->geometry.l1_offset, 0, found_l1);
  for (probe = probes; probe < probes + probe_count; probe++)
    probe->result = qed_request_sync (image, QED_OP_READ, probe->data,
                                      PROBE_BYTES, probe->offset, 0);
  qed_close (image);
}

void
probe_after (const struct sparse *disk, const struct qed_options *options)
{
  struct qed_image *image = open_to_read (options);
  unsigned char data[PROBE_BYTES];
  const struct probe *probe;
  int r;

  if (image == NULL && probe_count > 0)
    fuzz_fail ("what was repaired can't be opened");
  for (probe = probes; probe < probes + probe_count; probe++) {
    r = qed_request_sync (image, QED_OP_READ, data, PROBE_BYTES,
                          probe->offset, 0);
    if (r < 0)
      fuzz_fail ("0x%" PRIx64 " can't be read after the repair: %d",
                 probe->offset, r);
    if (probe->result == 0 && !disk->full && !is_lost (probe->offset) &&
        memcmp (data, probe->data, PROBE_BYTES) != 0)
      fuzz_fail ("0x%" PRIx64 " is not what it was before the repair, which "
                 "did not say that it is lost", probe->offset);
  }
  if (image)
    qed_close (image);
}

void
probe_written (struct qed_image *image, const unsigned char *data,
               uint64_t offset, size_t count)
{
  unsigned char *back = malloc (count + 1);
  int r;

  if (back == NULL)
    abort ();
  r = qed_request_sync (image, QED_OP_READ, back, count, offset, 0);
  if (r < 0 || memcmp (back, data, count) != 0)
    fuzz_fail ("0x%" PRIx64 " is not what was written there (%d)", offset, r);
  free (back);
}
