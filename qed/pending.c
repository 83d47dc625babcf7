/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The pending log in use (O10).
 *
 * Data is in the kernel's hands when it is acknowledged; an entry that leads
 * to it may be in our memory for seconds.  So each change of entries is noted
 * in memory that outlives us, before any thread can see it.
 *
 *                      begin (mark-dirty)
 *     no log  ----------------------------------> both halves empty
 *       ^                                            |  publish
 *       | end                                        v
 *   both empty <------------------------------  A in use, B empty
 *       ^         written (if nothing came)          |  switch
 *       |                                            v
 *       |           written                     A old,    B in use
 *       +--- B in use, A empty <---------------------+
 *            (as above, with A and B exchanged)
 *
 * switch: a write-back begins.  If the other half is empty it is in use from
 * now on; if not, since the last write-back failed, this one empties that.
 * written: it ended well; the old half is empty: its generation becomes 0.
 *
 * Who publishes: locks the page; puts it on the dirty list; takes a slot of
 * the half in use; fills it, the check word last; stores the entry; unlocks.
 * The write-back: switches; counts the dirty pages; copies so many of those
 * that are longest dirty, each under its lock.
 *
 * Why no entry is ever in neither the log nor the image (P1).  A record that
 * is in the old half took its slot before the switch, so its page was on the
 * list before the dirty pages were counted, and is copied; and its entry was
 * stored before the lock was given to the copy.  So the old half is empty only
 * after all of its entries were written and synced.  Whoever finds an entry by
 * a lookup, without a lock, and writes where it leads, finds one whose record
 * is complete: that was stored before.
 *
 * Records of one entry are in the order of its values, since slots are taken
 * under the page's lock, and halves have generations.  A slot that is not
 * complete belongs to a change that no one has seen.  A record of a change
 * that was not published yet does no harm: its clusters read as zeros, or hold
 * all they should.
 *
 * A log that is full: whoever comes waits for a write-back, in the list of
 * those who want one, with neither gate nor guard nor lock; a change takes one
 * slot, however large it is.  The loop adds a part to both halves before that.
 * If it can't, since there are all or the directory is full, a half that is
 * half full starts a write-back.  An empty log has one part again.
 *
 * Where no log can be had, the image is in write-through: a request that has
 * changed entries, or found some that are not written yet, ends with a
 * write-back, as a FUA write does.
 */

#include <config.h>

#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "image.h"
#include "yield.h"

#define HALF_BIT 63u
#define USED_MASK ((UINT64_C (1) << HALF_BIT) - 1)

/* ---- Sums ---- */

static uint64_t
mix (uint64_t x)
{
  x = (x ^ x >> 32) * UINT64_C (0xd6e8feb86659fd93);
  return x ^ x >> 32;
}

uint64_t
pending_check (const struct pending_record *record, uint64_t generation,
               unsigned slot)
{
  uint64_t sum = mix (mix (mix (mix (record->where + 1) + record->value) +
                           record->count) + generation + slot);

  return generation << PENDING_CHECK_BITS | sum >> (64 - PENDING_CHECK_BITS);
}

uint64_t
pending_checksum (const struct pending_head *head)
{
  uint64_t words[offsetof (struct pending_head, checksum) / 8], sum = 0;
  unsigned i;

  memcpy (words, head, sizeof words);
  for (i = 0; i < sizeof words / sizeof words[0]; i++)
    sum = mix (sum + words[i] + 1);
  return sum;
}

/* ---- Begin and end ---- */

static struct pending_head *
head_of (struct pending_log *pending)
{
  return pending->file.memory;
}

void
pending_init (struct qed_image *image)
{
  struct qed_options *options = &image->options;
  const char *why;

  if (image->storage->ops->submit)      /* a server's: not promised */
    options->pending = QED_PENDING_OFF;
  if (image->overlay || image->read_only || options->pending ==
      QED_PENDING_OFF)
    return;
  why = options->pending == QED_PENDING_WRITE_BACK ? "as was asked for"
    : pending_file_impossible (options, image->storage);
  if (why == NULL)
    return;
  atomic_store (&image->pending.write_through, true);
  log_info (&options->log, "%s: there is no pending log (%s): a request that "
            "changes the tables is answered when they are written", image->path,
            why);
}

static void
set_parts (struct pending_log *pending, uint64_t parts)
{
  atomic_store (&head_of (pending)->parts, parts);
  atomic_store (&pending->records, parts * PENDING_RECORDS);
}

/* All zeros before: nothing in it counts until the checksum is right. */
static int
write_head (struct qed_image *image)
{
  const struct format_geometry *g = &image->geometry;
  struct pending_head *head = head_of (&image->pending);
  int r = pending_file_boot_id (head->boot);

  head->magic = PENDING_MAGIC;
  head->version = PENDING_VERSION;
  head->record_bytes = sizeof (struct pending_record);
  head->records = PENDING_RECORDS;
  head->cluster_size = g->cluster_size;
  head->table_bytes = g->table_bytes;
  head->l1_offset = g->l1_offset;
  head->image_size = image->header.image_size;
  head->device = image->device;
  head->inode = image->inode;
  return r;
}

static void
create (struct qed_image *image)
{
  const struct qed_options *options = &image->options;
  struct pending_log *pending = &image->pending;
  struct qed_file_id id = { image->device, image->inode };
  int r = pending_file_create (options, &id, PENDING_BYTES, PENDING_BYTES_MAX,
                               &pending->file);

  if (r == 0) {
    set_parts (pending, 1);
    r = write_head (image);
    if (r == 0)
      return;
    pending_file_close (&pending->file, true);
    log_warning (&options->log, "%s: no pending log: /proc/sys/kernel/random/"
                 "boot_id can't be read: %s", image->path, strerror (-r));
  }
  atomic_store (&pending->write_through, true);
  log_warning (&options->log, "%s: until it is opened again, a request that "
               "changes the tables is answered when they are written, which "
               "is slow: give it a directory on tmpfs (pending-log=DIRECTORY)",
               image->path);
}

/* A token that is in the header stays as long as the log holds anything: a
 * make-clean may have failed halfway.
 */
void
pending_begin (struct qed_image *image)
{
  struct pending_log *pending = &image->pending;
  struct pending_head *head;

  if (image->overlay || image->options.pending != QED_PENDING_LOG ||
      atomic_load (&pending->write_through))
    return;
  if (pending->file.memory == NULL)
    create (image);
  head = head_of (pending);
  if (head == NULL)
    return;
  if (pending_count (pending) == 0) {
    head->token = PENDING_IN_USE | (uint64_t) pending_file_random () << 32;
    head->checksum = pending_checksum (head);
  }
  if (atomic_load (&pending->generation[0]) == 0 &&
      atomic_load (&pending->generation[1]) == 0)
    pending_empty (pending);
  image->header.autoclear_features = head->token;
}

void
pending_end (struct qed_image *image, bool clean)
{
  pending_file_close (&image->pending.file, clean);
}

void
pending_discard (struct qed_image *image)
{
  struct pending_head *head = head_of (&image->pending);
  unsigned i;

  for (i = 0; head && i < 2; i++)
    atomic_store (&head->generation[i], 0);
}

/* ---- Publishing ---- */

/* Take a slot of the half in use, and fill it. */
static bool
append (struct qed_image *image, uint64_t where, uint64_t value,
        uint64_t count)
{
  struct pending_log *pending = &image->pending;
  struct pending_record *record;
  uint64_t active = atomic_load (&pending->active), used, generation;
  unsigned half;

  do {
    half = active >> HALF_BIT;
    used = active & USED_MASK;
    if (used == atomic_load (&pending->records))
      return false;
  } while (!atomic_compare_exchange_weak (&pending->active, &active,
                                          active + 1));
  if (sim_skips ("pending", "append"))
    return true;
  generation = atomic_load (&pending->generation[half]);
  record = pending_slot (pending->file.memory, half, used);
  record->where = where;
  record->value = value;
  record->count = count;
  atomic_store_explicit (&record->check,
                         pending_check (record, generation, (unsigned) used),
                         memory_order_release);
  if ((used + 1) % (PENDING_RECORDS / 2) == 0)
    image_kick (image);
  return true;
}

/* Where a page's entry is, in the terms of a record.  Pages that no address of
 * the guest leads to hold nothing that was acknowledged.
 */
static bool
locate (const struct page *page, unsigned index, uint64_t *where)
{
  uint64_t number = page->key & ~(UINT64_C (7) << 61);

  *where = number * PAGE_ENTRIES + index;
  if (page->key >> 63)
    *where |= PENDING_L1;
  return (page->key & METADATA_KEY_PLACE (0)) != METADATA_KEY_PLACE (0);
}

int
pending_publish (struct qed_image *image, struct page *page, unsigned index,
                 uint64_t value, uint64_t step, unsigned n, uint64_t marks)
{
  uint64_t where;
  unsigned i;

  if (image->pending.file.memory && locate (page, index, &where)) {
    page_touch (&image->metadata, page);
    if (!append (image, where, value, n))
      return -ENOBUFS;
  }
  for (i = 0; i < n; i++)
    page_publish (&image->metadata, page, index + i,
                  (value + i * step) | marks);
  return 0;
}

bool
pending_full (struct pending_log *pending)
{
  uint64_t records = atomic_load (&pending->records);

  return records > 0 &&
    (atomic_load (&pending->active) & USED_MASK) == records;
}

void
pending_grow (struct pending_log *pending)
{
  uint64_t used = atomic_load (&pending->active) & USED_MASK,
    records = atomic_load (&pending->records);

  if (pending->file.memory == NULL || used + PENDING_RECORDS / 2 < records)
    return;
  if (records == PENDING_PARTS * PENDING_RECORDS ||
      pending_file_resize (&pending->file, PENDING_BYTES +
                           records / PENDING_RECORDS * PENDING_PART_BYTES) < 0)
    pending->no_more = true;
  else
    set_parts (pending, records / PENDING_RECORDS + 1);
}

bool
pending_pressed (struct pending_log *pending)
{
  uint64_t active = atomic_load (&pending->active);

  return pending->no_more &&
    (active & USED_MASK) >= atomic_load (&pending->records) / 2 &&
    atomic_load (&pending->generation[!(active >> HALF_BIT)]) == 0;
}

/* While no one publishes, and both halves are empty. */
static void
shrink (struct pending_log *pending)
{
  pending->no_more = false;
  set_parts (pending, 1);
  if (pending->file.size > PENDING_BYTES)
    pending_file_resize (&pending->file, PENDING_BYTES);
}

uint64_t
pending_count (struct pending_log *pending)
{
  uint64_t active = atomic_load (&pending->active);

  return (active & USED_MASK) +
    (atomic_load (&pending->generation[!(active >> HALF_BIT)]) == 0 ? 0
     : atomic_load (&pending->old));
}

/* ---- The halves ---- */

static void
set_generation (struct pending_log *pending, unsigned half, uint64_t generation)
{
  atomic_store (&pending->generation[half], generation);
  atomic_store (&head_of (pending)->generation[half], generation);
}

void
pending_switch (struct pending_log *pending)
{
  uint64_t active = atomic_load (&pending->active);
  unsigned half = active >> HALF_BIT;

  if (pending->file.memory == NULL || (active & USED_MASK) == 0 ||
      atomic_load (&pending->generation[!half]) != 0)
    return;
  atomic_store (&pending->old, active & USED_MASK);
  set_generation (pending, !half, ++pending->last);
  atomic_store (&pending->active, (uint64_t) !half << HALF_BIT);
}

void
pending_written (struct pending_log *pending)
{
  unsigned half = atomic_load (&pending->active) >> HALF_BIT;

  if (pending->file.memory == NULL)
    return;
  set_generation (pending, !half, 0);
  if (sim_skips ("pending", "keep-younger"))
    atomic_store (&head_of (pending)->generation[half], 0);
}

void
pending_empty (struct pending_log *pending)
{
  unsigned half = atomic_load (&pending->active) >> HALF_BIT;

  if (pending->file.memory == NULL)
    return;
  set_generation (pending, !half, 0);
  set_generation (pending, half, ++pending->last);
  atomic_store (&pending->active, (uint64_t) half << HALF_BIT);
  shrink (pending);
}
