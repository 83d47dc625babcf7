/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "format.h"
#include "metadata.h"
#include "yield.h"

#define WAYS 16u

struct page_set {
  _Atomic uint64_t keys[WAYS];  /* 0: empty; written with seq odd */
  struct page pages[WAYS];
  unsigned hand;                /* of the clock */
};

/* ---- Sets ---- */

int
metadata_init (struct metadata *md, struct storage *storage, uint64_t cache)
{
  unsigned i;

  memset (md, 0, sizeof *md);
  md->storage = storage;
  md->set_count = (size_t) (cache / PAGE_BYTES / WAYS);
  if (md->set_count == 0)
    md->set_count = 1;
  md->page_limit = md->set_count * WAYS;
  md->sets = calloc (md->set_count, sizeof *md->sets);
  if (md->sets == NULL)
    return -ENOMEM;
  for (i = 0; i < METADATA_LOCKS; i++)
    pthread_mutex_init (&md->locks[i], NULL);
  pthread_mutex_init (&md->dirty_lock, NULL);
  for (i = 0; i < 2; i++)
    md->dirty_end[i] = &md->dirty_first[i];
  wait_queue_init (&md->loading, "load-table");
  return 0;
}

void
metadata_destroy (struct metadata *md)
{
  size_t i;
  unsigned way;

  if (md->sets == NULL)
    return;
  for (i = 0; i < md->set_count; i++) {
    for (way = 0; way < WAYS; way++) {
      free (md->sets[i].pages[way].entries);
      free (md->sets[i].pages[way].raw);
    }
  }
  free (md->sets);
  for (i = 0; i < METADATA_LOCKS; i++)
    pthread_mutex_destroy (&md->locks[i]);
  pthread_mutex_destroy (&md->dirty_lock);
  wait_queue_destroy (&md->loading);
}

/* Neighbours fall into different sets, L1 and L2 alike. */
static size_t
set_number (const struct metadata *md, uint64_t key)
{
  return (size_t) ((key & ~(UINT64_C (3) << 62)) % md->set_count);
}

static pthread_mutex_t *
set_lock (struct metadata *md, size_t set)
{
  return &md->locks[set % METADATA_LOCKS];
}

static enum metadata_kind
key_kind (uint64_t key)
{
  return key >> 63 ? METADATA_L1 : METADATA_L2;
}

/* With the set's lock held. */
static struct page *
find_page (struct page_set *set, uint64_t key)
{
  unsigned way;

  for (way = 0; way < WAYS; way++)
    if (set->pages[way].key == key && set->pages[way].state != PAGE_EMPTY)
      return &set->pages[way];
  return NULL;
}

/* ---- Lookup ---- */

/* Read an entry of a way whose key matched a moment ago; false if the page
 * is being replaced or was.
 */
static bool
read_way (struct page_set *set, unsigned way, uint64_t key, unsigned index,
          uint64_t *entry)
{
  struct page *page = &set->pages[way];
  uint32_t seq = atomic_load_explicit (&page->seq, memory_order_acquire);

  if (seq & 1)
    return false;
  if (atomic_load_explicit (&set->keys[way], memory_order_acquire) != key)
    return false;
  *entry = atomic_load_explicit (&page->entries[index],
                                 memory_order_acquire);
  if (atomic_load_explicit (&page->seq, memory_order_relaxed) != seq)
    return false;
  if (!atomic_load_explicit (&page->used, memory_order_relaxed))
    atomic_store_explicit (&page->used, true, memory_order_relaxed);
  return true;
}

bool
metadata_get (struct metadata *md, uint64_t key, unsigned index,
              uint64_t *entry)
{
  struct page_set *set = &md->sets[set_number (md, key)];
  unsigned way;

  for (way = 0; way < WAYS; way++)
    if (atomic_load_explicit (&set->keys[way], memory_order_acquire) == key)
      return read_way (set, way, key, index, entry);
  return false;
}

/* ---- Loading ---- */

/* An entry as it is kept in memory: only bit 0, alone, has a meaning among
 * the reserved ones.
 */
static uint64_t
entry_from_disk (uint64_t value)
{
  if ((value & FORMAT_ENTRY_RESERVED) == 0 || value == FORMAT_ENTRY_ZERO)
    return value;
  return ENTRY_DAMAGED;
}

/* A page that may be given to another key: the clock passes over those used
 * since its last round.
 */
static struct page *
choose_victim (struct page_set *set)
{
  unsigned step, way;
  struct page *page, *clean = NULL;

  for (way = 0; way < WAYS; way++)
    if (set->pages[way].state == PAGE_EMPTY)
      return &set->pages[way];
  for (step = 0; step < 2 * WAYS; step++) {
    page = &set->pages[set->hand];
    set->hand = (set->hand + 1) % WAYS;
    if (page->state != PAGE_VALID || page->dirty || page->writing)
      continue;
    if (!atomic_exchange_explicit (&page->used, false, memory_order_relaxed))
      return page;
    clean = page;
  }
  return clean;
}

/* With the set's lock held: from here on lookups miss. */
static int
claim_page (struct metadata *md, struct page_set *set, struct page *page,
            uint64_t key, uint64_t offset)
{
  if (page->entries == NULL) {
    page->entries = calloc (PAGE_ENTRIES, sizeof *page->entries);
    if (page->entries == NULL)
      return -ENOMEM;
    atomic_fetch_add_explicit (&md->page_count, 1, memory_order_relaxed);
  }
  if (page->state == PAGE_VALID)
    atomic_fetch_add_explicit (&page->seq, 1, memory_order_acq_rel);
  else
    atomic_store_explicit (&page->seq, page->seq | 1, memory_order_release);
  free (page->raw);
  page->raw = NULL;
  page->state = PAGE_LOADING;
  page->key = key;
  page->offset = offset;
  atomic_store_explicit (&set->keys[page - set->pages], key,
                         memory_order_release);
  return 0;
}

/* With the set's lock held: the content is there. */
static int
fill_page (struct page *page, const unsigned char *buf)
{
  unsigned i;
  uint64_t value, entry;

  for (i = 0; i < PAGE_ENTRIES; i++) {
    value = format_get64 (buf + i * 8);
    entry = entry_from_disk (value);
    if (entry == ENTRY_DAMAGED && page->raw == NULL) {
      page->raw = calloc (PAGE_ENTRIES, sizeof *page->raw);
      if (page->raw == NULL)
        return -ENOMEM;
    }
    if (entry == ENTRY_DAMAGED)
      page->raw[i] = value;
    atomic_store_explicit (&page->entries[i], entry, memory_order_release);
  }
  page->state = PAGE_VALID;
  atomic_store_explicit (&page->used, true, memory_order_relaxed);
  atomic_fetch_add_explicit (&page->seq, 1, memory_order_release);
  return 0;
}

static void
drop_page (struct page_set *set, struct page *page)
{
  page->state = PAGE_EMPTY;
  page->key = 0;
  atomic_store_explicit (&set->keys[page - set->pages], 0,
                         memory_order_release);
}

/* Wait until another's load of this page has ended. */
static int
wait_for_load (struct metadata *md, uint64_t key, struct qed_request *request)
{
  size_t n = set_number (md, key);
  struct page *page;
  bool loading;

  wait_add (&md->loading, request);
  pthread_mutex_lock (set_lock (md, n));
  page = find_page (&md->sets[n], key);
  loading = page && page->state == PAGE_LOADING;
  pthread_mutex_unlock (set_lock (md, n));
  return loading ? QED_WAIT : wait_not_needed (request);
}

static void
count_load (struct metadata *md)
{
  atomic_fetch_add_explicit (&md->loads, 1, memory_order_relaxed);
}

int
metadata_load (struct metadata *md, uint64_t key, uint64_t offset,
               struct qed_request *request)
{
  size_t n = set_number (md, key);
  struct page_set *set = &md->sets[n];
  unsigned char buf[PAGE_BYTES];
  struct page *page;
  int r;

  pthread_mutex_lock (set_lock (md, n));
  page = find_page (set, key);
  if (page) {
    r = page->state == PAGE_LOADING;
    pthread_mutex_unlock (set_lock (md, n));
    return r ? wait_for_load (md, key, request) : 0;
  }
  page = choose_victim (set);
  r = page ? claim_page (md, set, page, key, offset) : -ENOBUFS;
  pthread_mutex_unlock (set_lock (md, n));
  if (r < 0)
    return r;

  request_step (request, "load-table");
  count_load (md);
  r = md->storage->ops->pread (md->storage, buf, sizeof buf, offset);

  pthread_mutex_lock (set_lock (md, n));
  if (r == 0)
    r = fill_page (page, buf);
  if (r < 0)
    drop_page (set, page);
  pthread_mutex_unlock (set_lock (md, n));
  wait_wake_all (&md->loading);
  return r;
}

/* Read until two reads agree: someone may load the page meanwhile and write
 * it back, and half of the entry be old.
 */
int
metadata_read_entry (struct metadata *md, uint64_t offset, unsigned index,
                     uint64_t *entry)
{
  unsigned char buf[8], again[8];
  struct storage *s = md->storage;
  int r;

  count_load (md);
  offset += index * sizeof buf;
  do {
    r = s->ops->pread (s, buf, sizeof buf, offset);
    if (r == 0)
      r = s->ops->pread (s, again, sizeof again, offset);
  } while (r == 0 && memcmp (buf, again, sizeof buf) != 0);
  if (r == 0)
    *entry = entry_from_disk (format_get64 (buf));
  return r;
}

void
metadata_set_checked (struct metadata *md, uint64_t key, unsigned index,
                      uint64_t entry)
{
  struct page *page = metadata_lock_page (md, key);

  if (page == NULL)
    return;
  if (page_get (page, index) == entry)
    atomic_store_explicit (&page->entries[index], entry | ENTRY_CHECKED,
                           memory_order_release);
  metadata_unlock_page (md, page);
}

/* ---- Change ---- */

struct page *
metadata_lock_page (struct metadata *md, uint64_t key)
{
  size_t n = set_number (md, key);
  struct page *page;

  pthread_mutex_lock (set_lock (md, n));
  page = find_page (&md->sets[n], key);
  if (page && page->state == PAGE_VALID) {
    atomic_store_explicit (&page->used, true, memory_order_relaxed);
    return page;
  }
  pthread_mutex_unlock (set_lock (md, n));
  return NULL;
}

static bool
has_key (struct page_set *set, uint64_t key)
{
  unsigned way;

  for (way = 0; way < WAYS; way++)
    if (atomic_load_explicit (&set->keys[way], memory_order_acquire) == key)
      return true;
  return false;
}

/* The least of a set's keys that are not below 'from', if it is below 'end'. */
static uint64_t
least_key (struct page_set *set, uint64_t from, uint64_t end)
{
  uint64_t key;
  unsigned way;

  for (way = 0; way < WAYS; way++) {
    key = atomic_load_explicit (&set->keys[way], memory_order_acquire);
    if (key >= from && key < end)
      end = key;
  }
  return end;
}

uint64_t
metadata_next_cached (struct metadata *md, uint64_t key, uint64_t n)
{
  uint64_t end = key + n;
  size_t i;

  if (n <= md->set_count)
    while (key < end && !has_key (&md->sets[set_number (md, key)], key))
      key++;
  else {
    for (i = 0; i < md->set_count; i++)
      end = least_key (&md->sets[i], key, end);
    key = end;
  }
  return key;
}

void
metadata_unlock_page (struct metadata *md, struct page *page)
{
  pthread_mutex_unlock (set_lock (md, set_number (md, page->key)));
}

uint64_t
page_get (const struct page *page, unsigned index)
{
  return atomic_load_explicit (&page->entries[index], memory_order_relaxed);
}

void
page_copy (const struct page *page, unsigned char *buf)
{
  unsigned i;
  uint64_t entry;

  for (i = 0; i < PAGE_ENTRIES; i++) {
    entry = page_get (page, i);
    if (entry & ENTRY_DAMAGED)
      entry = page->raw[i];
    else
      entry &= ~ENTRY_MARKS;
    format_put64 (buf + i * 8, entry);
  }
}

void
page_touch (struct metadata *md, struct page *page)
{
  enum metadata_kind kind = key_kind (page->key);
  bool first;

  if (page->dirty)
    return;
  page->dirty = true;
  page->dirty_next = NULL;
  pthread_mutex_lock (&md->dirty_lock);
  *md->dirty_end[kind] = page;
  md->dirty_end[kind] = &page->dirty_next;
  first = md->dirty[METADATA_L1] + md->dirty[METADATA_L2] == 0;
  md->dirty[kind]++;
  pthread_mutex_unlock (&md->dirty_lock);
  if (first && md->became_dirty)
    md->became_dirty (md->opaque);
}

void
page_publish (struct metadata *md, struct page *page, unsigned index,
              uint64_t entry)
{
  atomic_store_explicit (&page->entries[index], entry, memory_order_release);
  page_touch (md, page);
}

bool
metadata_is_unwritten (struct metadata *md, uint64_t key)
{
  struct page *page = metadata_lock_page (md, key);
  bool unwritten;

  if (page == NULL)
    return false;               /* M1 */
  unwritten = page->dirty || page->writing;
  metadata_unlock_page (md, page);
  return unwritten;
}

int
metadata_forget (struct metadata *md)
{
  struct page_set *set;
  struct page *page;
  unsigned way;
  size_t i;
  int r = 0;

  if (metadata_dirty (md, METADATA_L1) + metadata_dirty (md, METADATA_L2) > 0)
    return -EBUSY;
  for (i = 0; i < md->set_count; i++) {
    set = &md->sets[i];
    pthread_mutex_lock (set_lock (md, i));
    for (way = 0; way < WAYS; way++) {
      page = &set->pages[way];
      if (page->dirty || page->writing)
        r = -EBUSY;
      else if (page->state == PAGE_VALID) {
        atomic_fetch_add_explicit (&page->seq, 1, memory_order_acq_rel);
        drop_page (set, page);
      }
    }
    pthread_mutex_unlock (set_lock (md, i));
  }
  return r;
}

/* ---- Write-back ---- */

int
metadata_batch_init (struct metadata_batch *batch, size_t max)
{
  memset (batch, 0, sizeof *batch);
  batch->max = max;
  batch->pages = calloc (max, sizeof *batch->pages);
  batch->offsets = calloc (max, sizeof *batch->offsets);
  batch->buf = malloc (max * PAGE_BYTES);
  if (batch->pages && batch->offsets && batch->buf)
    return 0;
  metadata_batch_destroy (batch);
  return -ENOMEM;
}

void
metadata_batch_destroy (struct metadata_batch *batch)
{
  free (batch->pages);
  free (batch->offsets);
  free (batch->buf);
  memset (batch, 0, sizeof *batch);
}

static int
compare_offsets (const void *a, const void *b)
{
  const struct page *p = *(struct page *const *) a;
  const struct page *q = *(struct page *const *) b;

  return p->offset < q->offset ? -1 : p->offset > q->offset;
}

/* Take pages off the dirty list; they still count as dirty, so that no one
 * puts them there again.
 */
static void
take_dirty (struct metadata *md, enum metadata_kind kind, size_t most,
            struct metadata_batch *batch)
{
  struct page *page;

  pthread_mutex_lock (&md->dirty_lock);
  while (batch->count < most && (page = md->dirty_first[kind]) != NULL) {
    batch->pages[batch->count++] = page;
    md->dirty_first[kind] = page->dirty_next;
  }
  if (md->dirty_first[kind] == NULL)
    md->dirty_end[kind] = &md->dirty_first[kind];
  md->dirty[kind] -= batch->count;
  pthread_mutex_unlock (&md->dirty_lock);
}

/* M4: the mark goes first, then the copy is made. */
static void
copy_page (struct metadata *md, struct page *page, unsigned char *buf)
{
  pthread_mutex_t *lock = set_lock (md, set_number (md, page->key));

  pthread_mutex_lock (lock);
  page->dirty = false;
  page->writing = true;
  page_copy (page, buf);
  pthread_mutex_unlock (lock);
}

void
metadata_copy_dirty (struct metadata *md, enum metadata_kind kind,
                     size_t most, struct metadata_batch *batch)
{
  size_t i;

  assert (batch->count == 0);
  take_dirty (md, kind, most < batch->max ? most : batch->max, batch);
  qsort (batch->pages, batch->count, sizeof *batch->pages, compare_offsets);
  for (i = 0; i < batch->count; i++) {
    batch->offsets[i] = batch->pages[i]->offset;
    copy_page (md, batch->pages[i], batch->buf + i * PAGE_BYTES);
  }
}

void
metadata_batch_done (struct metadata *md, struct metadata_batch *batch,
                     bool ok)
{
  pthread_mutex_t *lock;
  size_t i;

  for (i = 0; i < batch->count; i++) {
    lock = set_lock (md, set_number (md, batch->pages[i]->key));
    pthread_mutex_lock (lock);
    batch->pages[i]->writing = false;
    if (!ok)
      page_touch (md, batch->pages[i]);
    pthread_mutex_unlock (lock);
  }
  batch->count = 0;
}

size_t
metadata_dirty (struct metadata *md, enum metadata_kind kind)
{
  return md->dirty[kind];
}

bool
metadata_pressed (struct metadata *md)
{
  return (md->dirty[METADATA_L1] + md->dirty[METADATA_L2]) * 2 >
    md->page_limit;
}
