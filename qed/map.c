/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The map of an image: where in which file of the chain each part of the
 * guest's disk lies.
 *
 * Each file of the chain remembers what it said last (struct piece), so that
 * a long piece of one file over many short ones of the next is looked up
 * once: the whole costs as much as reading each file's tables once, less
 * those that are missing or belong to tables that are.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "fetch.h"
#include "image.h"

_Static_assert (QED_CHAIN_MAX == BACKING_DEPTH_MAX + 1,
                "a chain is an image and its backing files");

/* What one file says about a part of the guest's disk. */
struct piece {
  uint64_t start, end;          /* the guest's; empty before the first one */
  bool allocated;               /* else the next file shows through */
  enum qed_map_kind kind;       /* if it is allocated */
  uint64_t offset;              /* of 'start' in the file */
};

struct layer {
  struct qed_image *image;      /* NULL: a raw file */
  struct backing *backing;      /* that it was opened as; NULL: on top */
  uint64_t size;                /* the guest's bytes */
  struct piece piece;
  uint64_t data_start, data_end; /* of the file: no hole between */
};

struct mapper {
  const struct qed_map_request *map;
  struct layer layers[QED_CHAIN_MAX];
  unsigned count;               /* of the layers */
  struct qed_request request;   /* for lookups */
  struct qed_map_extent extent; /* not passed on yet: may go on */
  int error;                    /* of the first damage */
};

/* ---- The chain ---- */

static bool
next_layer (struct layer *layer)
{
  struct backing *backing = layer->image ? layer->image->backing : NULL;

  if (backing == NULL)
    return false;
  *layer = (struct layer) { .image = backing_image (backing),
    .backing = backing, .size = backing_size (backing) };
  return true;
}

static struct layer
first_layer (struct qed_image *image)
{
  return (struct layer) { .image = image, .size = qed_size (image) };
}

bool
qed_chain_file (struct qed_image *image, unsigned depth,
                struct qed_chain_file *file)
{
  struct layer layer = first_layer (image);

  while (depth-- > 0)
    if (!next_layer (&layer))
      return false;
  file->raw = layer.image == NULL;
  file->size = layer.size;
  if (layer.image) {
    file->path = layer.image->path;
    file->length = atomic_load (&layer.image->space.length_bytes);
    file->id = qed_identify (layer.image);
  }
  else {
    file->path = backing_path (layer.backing);
    file->length = layer.size;
    file->id = backing_identify (layer.backing);
  }
  return true;
}

/* ---- Which tables there are ---- */

/* An L1 entry, its page read if necessary; without a message if it can't
 * be.
 */
static int
get_l1_entry (struct mapper *m, struct qed_image *image, uint64_t index,
              uint64_t *entry)
{
  uint64_t page = index / PAGE_ENTRIES, key = METADATA_KEY_L1 (page);
  int r = 0;

  while (!metadata_get (&image->metadata, key, index % PAGE_ENTRIES, entry)) {
    r = metadata_load (&image->metadata, key,
                       image->geometry.l1_offset + page * PAGE_BYTES,
                       &m->request);
    assert (r != QED_WAIT);     /* no one else uses the image */
    if (r < 0)
      return r;
  }
  return 0;
}

static bool
is_valid_table (struct qed_image *image, uint64_t entry)
{
  return format_classify_l1 (&image->geometry, entry & ~ENTRY_CHECKED,
                             atomic_load (&image->space.length_bytes)) ==
    FORMAT_ALLOCATED;
}

static int
enter_table (struct mapper *m, struct qed_image *image, uint64_t index,
             uint64_t entry)
{
  struct space *space = &image->space;
  unsigned bits = image->geometry.cluster_bits;
  bool shared;
  int r;

  pthread_mutex_lock (&space->lock);
  r = space_enter (space, (entry & ~ENTRY_MARKS) >> bits,
                   image->geometry.table_bytes >> bits, true, &shared);
  pthread_mutex_unlock (&space->lock);
  if (r == 0 && shared) {
    image_damage (image, "the L2 table at offset 0x%" PRIx64 ", named by L1 "
                  "entry %" PRIu64 ", overlaps another",
                  entry & ~ENTRY_MARKS, index);
    m->error = -EIO;
  }
  return r;
}

/* Where the L2 tables are: an entry that leads into one is damaged.  (Else
 * the opening scan does this, on the loop.)  What is wrong with an L1 entry
 * is said when its range is mapped.
 */
static int
enter_tables (struct mapper *m, struct qed_image *image)
{
  uint64_t n = qed_size (image) == 0 ? 0
    : image_l1_index (image, qed_size (image) - 1) + 1;
  uint64_t index, entry;
  int r = 0;

  if (image->space.tables.count > 0)
    return 0;                   /* it was mapped before */
  for (index = 0; index < n && r == 0; index++) {
    if (get_l1_entry (m, image, index, &entry) < 0)
      index |= PAGE_ENTRIES - 1;
    else if (entry != 0 && is_valid_table (image, entry))
      r = enter_table (m, image, index, entry);
  }
  if (r < 0)
    log_error (&image->options.log, "%s: cannot find out where all L2 tables "
               "are: %s", image->path, r == -EFBIG
               ? "they are scattered too widely" : strerror (-r));
  return r;
}

/* ---- What one file says ---- */

/* Behind what stays unknown after a lookup failed: a cluster, or what a page
 * or table that is missing describes.
 */
static uint64_t
unknown_end (struct qed_image *image, uint64_t at)
{
  const struct format_geometry *g = &image->geometry;
  uint64_t index = image_l1_index (image, at), entry, span;

  if (!metadata_get (&image->metadata, METADATA_KEY_L1 (index / PAGE_ENTRIES),
                     index % PAGE_ENTRIES, &entry))
    span = (uint64_t) PAGE_ENTRIES << (g->entries_bits + g->cluster_bits);
  else if (entry != 0 && !is_valid_table (image, entry))
    span = UINT64_C (1) << (g->entries_bits + g->cluster_bits);
  else if (!metadata_get (&image->metadata, image_l2_key (image, at),
                          image_l2_index (image, at), &entry))
    span = (uint64_t) PAGE_ENTRIES << g->cluster_bits;
  else
    span = g->cluster_size;
  return (at & -span) + span;
}

/* Whether the page of the table for 'at' lies in a hole of the file, as most
 * of a table does that has few entries; all in the hole is one piece.
 */
static bool
look_hole (struct mapper *m, struct layer *layer, uint64_t at)
{
  struct qed_image *image = layer->image;
  const struct format_geometry *g = &image->geometry;
  uint64_t index = image_l1_index (image, at), table, where, start, end;

  if (get_l1_entry (m, image, index, &table) < 0 ||
      !is_valid_table (image, table))
    return false;
  table &= ~ENTRY_MARKS;
  where = table + (image_cluster (image, at) & (g->entries - 1) &
                   -(uint64_t) PAGE_ENTRIES) * 8;
  if (where >= layer->data_start && where < layer->data_end)
    return false;
  if (image->storage->ops->next_data (image->storage, where, &start,
                                      &end) < 0)
    return false;
  if (start < where + PAGE_BYTES) {
    layer->data_start = where;
    layer->data_end = end;
    return false;
  }
  end = start < table + g->table_bytes ? start & -(uint64_t) PAGE_BYTES
    : table + g->table_bytes;
  end = ((index << g->entries_bits) + (end - table) / 8) << g->cluster_bits;
  layer->piece.end = end < layer->size ? end : layer->size;
  layer->piece.allocated = false;
  return true;
}

static int
lookup (struct mapper *m, struct qed_image *image, uint64_t at,
        uint64_t bytes, struct extent *extent)
{
  unsigned guard = guard_enter (&image->guards);
  int r;

  do
    r = request_lookup (image, &m->request, at, bytes, extent);
  while (r == REQUEST_AGAIN);
  guard_leave (&image->guards, guard);
  assert (r != QED_WAIT);       /* no one else uses the image */
  return r;
}

static void
look_qed (struct mapper *m, struct layer *layer, uint64_t at)
{
  struct piece *piece = &layer->piece;
  struct extent extent;
  uint64_t end;
  int r;

  if (look_hole (m, layer, at))
    return;
  r = lookup (m, layer->image, at, layer->size - at, &extent);
  if (r == 0) {
    piece->end = at + extent.bytes;
    piece->allocated = extent.class != FORMAT_UNALLOCATED;
    piece->kind = extent.class == FORMAT_ZERO ? QED_MAP_ZERO : QED_MAP_DATA;
    piece->offset = extent.offset;
    return;
  }
  end = unknown_end (layer->image, at);
  piece->end = end < layer->size ? end : layer->size;
  piece->allocated = true;
  piece->kind = QED_MAP_DAMAGED;
}

/* If the file can't tell, it is not asked again. */
static void
look_raw (struct mapper *m, struct layer *layer, uint64_t at)
{
  struct piece *piece = &layer->piece;
  enum qed_extent kind;
  uint64_t bytes;
  int r = backing_extent (layer->backing, &m->request, at, layer->size - at,
                          &kind, &bytes);

  if (r == 0 && bytes == 0)
    r = -EIO;
  piece->allocated = true;
  piece->offset = at;
  if (r == 0) {
    piece->end = at + bytes;
    piece->kind = kind == QED_EXTENT_DATA ? QED_MAP_DATA : QED_MAP_RAW_HOLE;
    return;
  }
  piece->end = layer->size;
  piece->kind = QED_MAP_DAMAGED;
  log_error (&m->layers[0].image->options.log, "%s: cannot tell data from "
             "holes from offset 0x%" PRIx64 " on: %s",
             backing_path (layer->backing), at, strerror (-r));
}

/* ---- What the chain says ---- */

static const struct piece *
look (struct mapper *m, struct layer *layer, uint64_t at)
{
  struct piece *piece = &layer->piece;

  if (at < piece->start || at >= piece->end) {
    *piece = (struct piece) { .start = at };
    if (layer->image)
      look_qed (m, layer, at);
    else
      look_raw (m, layer, at);
  }
  return piece;
}

/* The extent that starts at 'at' and is no longer than 'bytes'. */
static struct qed_map_extent
find_extent (struct mapper *m, uint64_t at, uint64_t bytes)
{
  struct qed_map_extent e = { .start = at, .length = bytes };
  const struct piece *piece;

  for (;; e.depth++) {
    piece = look (m, &m->layers[e.depth], at);
    if (e.length > piece->end - at)
      e.length = piece->end - at;
    if (piece->allocated) {
      e.kind = piece->kind;
      if (e.kind == QED_MAP_DATA || e.kind == QED_MAP_RAW_HOLE)
        e.offset = piece->offset + (at - piece->start);
      return e;
    }
    e.kind = QED_MAP_HOLE;
    if (e.depth + 1 == m->count)
      return e;
    e.kind = QED_MAP_BEYOND;
    if (at >= m->layers[e.depth + 1].size)
      return e;
    if (e.length > m->layers[e.depth + 1].size - at)
      e.length = m->layers[e.depth + 1].size - at;
  }
}

/* ---- Passing on ---- */

static int
pass (struct mapper *m)
{
  int r = 0;

  if (m->extent.length > 0)
    r = m->map->extent (m->map->opaque, &m->extent);
  m->extent.length = 0;
  return r;
}

static bool
continues (const struct qed_map_extent *a, const struct qed_map_extent *b)
{
  bool placed = b->kind == QED_MAP_DATA || b->kind == QED_MAP_RAW_HOLE;

  return a->length > 0 && a->kind == b->kind && a->depth == b->depth &&
    (!placed || a->offset + a->length == b->offset);
}

static int
add (struct mapper *m, const struct qed_map_extent *e)
{
  int r = 0;

  if (e->kind == QED_MAP_DAMAGED)
    m->error = -EIO;
  if (continues (&m->extent, e))
    m->extent.length += e->length;
  else {
    r = pass (m);
    m->extent = *e;
  }
  return r;
}

static int
map_range (struct mapper *m)
{
  uint64_t start = m->map->start, length = m->map->length, done = 0;
  struct qed_map_extent e;
  int r = 0;

  while (done < length && r == 0) {
    e = find_extent (m, start + done, length - done);
    r = add (m, &e);
    done += e.length;
    if (r == 0)
      r = qed_progress_tell (m->map->progress, done, length);
  }
  return r == 0 ? pass (m) : r;
}

int
qed_map (struct qed_image *image, const struct qed_map_request *map)
{
  struct mapper m = { .map = map };
  struct layer layer = first_layer (image);
  int r;

  if (map->length > qed_size (image) ||
      map->start > qed_size (image) - map->length)
    return -EINVAL;
  do {
    m.layers[m.count++] = layer;
    r = layer.image ? enter_tables (&m, layer.image) : 0;
    if (r < 0)
      m.error = r;
  } while (m.count < QED_CHAIN_MAX && next_layer (&layer));
  r = map_range (&m);
  fetch_drop (&m.request);
  return r < 0 ? r : m.error;
}
