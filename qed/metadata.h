/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The page cache of L1 and L2 tables.
 *
 * A page is 4 KiB of a table: 512 entries, little-endian on disk, host order
 * here.  L2 pages are found by the guest's address (so that a hit needs no
 * L1), L1 pages by their number.  Entries are atomics: any thread looks up
 * without a lock (metadata_get).  What it found may be used while the reader
 * guard is held that was entered before.
 *
 * The cache is set-associative: SETS x 16 pages, whose memory is allocated
 * when first used and never freed, so that a lookup can never touch freed
 * memory; a sequence number tells it that the page was replaced beneath it.
 *
 * The invariants:
 *  M1. The table in memory is the truth.  A page that is dirty, or whose copy
 *      is being written, is not evicted.
 *  M2. Eviction never writes: only clean pages go.
 *  M3. An entry is changed with the lock of its set held, on a cached page,
 *      and the page is dirty before the lock is let go.
 *  M4. Write-back clears the dirty mark first and then copies, both under the
 *      set's lock; so what changes afterwards makes the page dirty again.
 *
 * Lock order: set lock -> dirty lock.  No I/O under either.
 */

#ifndef QED_METADATA_H
#define QED_METADATA_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "qed.h"
#include "storage.h"
#include "wait.h"

#define PAGE_BYTES 4096u
#define PAGE_ENTRIES 512u

/* Marks in the low bits of an entry in memory; none reaches the disk.  Bit 0
 * is the format's zero cluster.
 */
#define ENTRY_BUSY UINT64_C (2)         /* being moved: wait */
#define ENTRY_DAMAGED UINT64_C (4)      /* reserved bits were set on disk: the
                                         * value is kept beside the page */
#define ENTRY_CHECKED UINT64_C (8)      /* range-checked against header, L1,
                                         * L2 tables and end of file */
#define ENTRY_MARKS (ENTRY_BUSY | ENTRY_DAMAGED | ENTRY_CHECKED)

enum metadata_kind { METADATA_L1, METADATA_L2 };

/* A page's key. */
#define METADATA_KEY_L1(page) ((UINT64_C (1) << 63) | (page))
#define METADATA_KEY_L2(page) ((UINT64_C (1) << 62) | (page))

/* Of an L2 page that no address of the guest leads to, for repairs: by its
 * place in the file, in pages.
 */
#define METADATA_KEY_PLACE(page) ((UINT64_C (3) << 61) | (page))

enum page_state { PAGE_EMPTY, PAGE_LOADING, PAGE_VALID };

/* All but the atomics is protected by the lock of the set. */
struct page {
  _Atomic uint32_t seq;         /* odd while key and content are replaced */
  _Atomic bool used;            /* since the clock hand passed */
  enum page_state state;
  bool dirty;                   /* differs from the disk and from any copy */
  bool writing;                 /* a copy is on its way to the disk */
  uint64_t key;                 /* as in the set's keys */
  uint64_t offset;              /* where it lies in the file */
  _Atomic uint64_t *entries;    /* set once, before seq first becomes even */
  uint64_t *raw;                /* what ENTRY_DAMAGED entries were, or NULL */
  struct page *dirty_next;      /* dirty lock */
};

struct page_set;

#define METADATA_LOCKS 64u

struct metadata {
  struct storage *storage;
  struct page_set *sets;
  size_t set_count;
  size_t page_limit;            /* pages at most */
  _Atomic size_t page_count;    /* those that have memory */
  _Atomic uint64_t loads;       /* reads for lookups so far */
  pthread_mutex_t locks[METADATA_LOCKS]; /* of the sets, striped */

  /* Called when the first page becomes dirty, with a set's lock held. */
  void (*became_dirty) (void *opaque);
  void *opaque;

  pthread_mutex_t dirty_lock;   /* protects the two lists */
  struct page *dirty_first[2], **dirty_end[2];
  _Atomic size_t dirty[2];      /* their lengths */
  struct wait_queue loading;    /* those who wait for another's load */
};

/* 'cache' is the limit in bytes. */
int metadata_init (struct metadata *md, struct storage *storage,
                   uint64_t cache);
void metadata_destroy (struct metadata *md);

/* ---- Lookup ---- */

/* Look up entry 'index' of a page.  False if it isn't cached.  No lock. */
bool metadata_get (struct metadata *md, uint64_t key, unsigned index,
                   uint64_t *entry);

/* Bring a page into the cache, reading it in this thread.  Returns 0 (look up
 * again), QED_WAIT if another thread is reading it (the request was queued),
 * -ENOBUFS if no page can be evicted now, or the error of the read.
 */
int metadata_load (struct metadata *md, uint64_t key, uint64_t offset,
                   struct qed_request *request);

/* Read one entry past the cache, for lookups that got -ENOBUFS. */
int metadata_read_entry (struct metadata *md, uint64_t offset, unsigned index,
                         uint64_t *entry);

/* Note that an entry was found valid, if it is still the same. */
void metadata_set_checked (struct metadata *md, uint64_t key, unsigned index,
                           uint64_t entry);

/* ---- Change ---- */

/* Lock the set of a page and return the page, or NULL (nothing locked) if it
 * isn't cached.
 */
struct page *metadata_lock_page (struct metadata *md, uint64_t key);
void metadata_unlock_page (struct metadata *md, struct page *page);

/* The first of the pages key .. key + n - 1 that is cached just now, or key +
 * n: of a range that is larger than the cache this takes no longer than it
 * takes to look through that.
 */
uint64_t metadata_next_cached (struct metadata *md, uint64_t key, uint64_t n);

/* With the page locked. */
uint64_t page_get (const struct page *page, unsigned index);
/* All of it, as the disk would have it. */
void page_copy (const struct page *page, unsigned char *buf);
void page_publish (struct metadata *md, struct page *page, unsigned index,
                   uint64_t entry);
/* Have the next write-back write it, changed or not. */
void page_touch (struct metadata *md, struct page *page);

/* Whether what an entry of this page says may be nowhere but in memory. */
bool metadata_is_unwritten (struct metadata *md, uint64_t key);

/* Drop every page, so that all is read anew.  None may be dirty or on its way
 * to the disk (-EBUSY), and no one else may change any; others may look up.  A
 * page that is just being read stays.
 */
int metadata_forget (struct metadata *md);

/* ---- Write-back (loop only) ---- */

/* Copies of dirty pages, in the order of their place in the file. */
struct metadata_batch {
  struct page **pages;
  uint64_t *offsets;
  unsigned char *buf;           /* count x PAGE_BYTES */
  size_t count, max;
};

int metadata_batch_init (struct metadata_batch *batch, size_t max);
void metadata_batch_destroy (struct metadata_batch *batch);

/* Copy up to 'most' dirty pages of a kind, those longest dirty first, into an
 * empty batch (M4).
 */
void metadata_copy_dirty (struct metadata *md, enum metadata_kind kind,
                          size_t most, struct metadata_batch *batch);

/* The batch's pages were written, or (not 'ok') stay dirty; it is empty
 * then.
 */
void metadata_batch_done (struct metadata *md, struct metadata_batch *batch,
                          bool ok);

size_t metadata_dirty (struct metadata *md, enum metadata_kind kind);

/* Whether so much is dirty that changes must wait for a write-back. */
bool metadata_pressed (struct metadata *md);

#endif /* QED_METADATA_H */
