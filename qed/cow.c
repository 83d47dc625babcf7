/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Allocating writes over a backing file: copy on write.
 *
 *   claim the clusters -> read the fill -> enter the gate (O1) -> table ->
 *   reserve -> write fill and data -> publish -> leave the gate -> let go
 *
 * Whole clusters read nothing; a part of one is filled from the backing file,
 * or with zeros where it replaces a zero cluster.  The entry is published
 * after all of the cluster was written, and the write-back syncs that before
 * it writes the entry (O3); so an allocating write needs no flush of its own.
 *
 * Who meets a claim on the same cluster waits for its end; different clusters
 * never wait for each other.  What the write has done so far is kept in its
 * struct cow across waits.  Runs in the request's thread.
 */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "backing.h"
#include "image.h"
#include "yield.h"

struct cow {
  struct cow *next;             /* in image->cows; image->cow_lock */
  uint64_t first, n;            /* guest clusters; n only shrinks */
  enum format_entry class;      /* what they were */
  uint64_t in, bytes;           /* the data, from the first cluster's start */
  unsigned char *fill;          /* a cluster, if the data is not whole ones */
  uint64_t filled;              /* bytes of it that are there */
  struct space_run run;         /* n = 0: not reserved; changed with cow_lock
                                 * held, for checks */
  bool written;
};

/* ---- Claims ---- */

/* With cow_lock held. */
static bool
is_claimed (const struct qed_image *image, uint64_t first, uint64_t n)
{
  const struct cow *cow;

  for (cow = image->cows; cow; cow = cow->next)
    if (first < cow->first + cow->n && cow->first < first + n)
      return true;
  return false;
}

/* Claim the clusters, or wait for who has. */
static int
claim (struct qed_image *image, struct qed_request *request, struct cow *cow)
{
  int r = 0;

  pthread_mutex_lock (&image->cow_lock);
  if (is_claimed (image, cow->first, cow->n)) {
    wait_add (&image->cow_done, request);
    r = QED_WAIT;
  }
  else {
    cow->next = image->cows;
    image->cows = cow;
  }
  pthread_mutex_unlock (&image->cow_lock);
  return r;
}

static void
unclaim (struct qed_image *image, struct cow *cow)
{
  struct cow **p = &image->cows;

  pthread_mutex_lock (&image->cow_lock);
  while (*p != cow)
    p = &(*p)->next;
  *p = cow->next;
  pthread_mutex_unlock (&image->cow_lock);
  wait_wake_all (&image->cow_done);
}

static void
set_run (struct qed_image *image, struct cow *cow,
         const struct space_run *run)
{
  pthread_mutex_lock (&image->cow_lock);
  cow->run = run ? *run : (struct space_run) { .n = 0 };
  if (run && run->n < cow->n) {
    cow->n = run->n;
    cow->bytes = cow->n << image->geometry.cluster_bits;
  }
  pthread_mutex_unlock (&image->cow_lock);
}

static void
free_cow (struct cow *cow)
{
  free (cow->fill);
  free (cow);
}

/* What the write takes: as many whole clusters as there are, or a part of
 * one.  The last cluster of the image is whole where the image ends.
 */
static int
begin (struct qed_image *image, struct qed_request *request, uint64_t at,
       const struct extent *extent)
{
  uint64_t size = image->geometry.cluster_size;
  uint64_t room = PAGE_ENTRIES - image_l2_index (image, at);
  struct cow *cow = calloc (1, sizeof *cow);
  int r;

  if (cow == NULL)
    return -ENOMEM;
  cow->first = image_cluster (image, at);
  cow->class = extent->class;
  cow->in = at & (size - 1);
  cow->n = cow->in == 0 ? extent->bytes / size : 0;
  if (cow->n > room)
    cow->n = room;
  cow->bytes = cow->n * size;
  if (cow->n == 0) {
    cow->n = 1;
    cow->bytes = extent->bytes < size - cow->in ? extent->bytes
      : size - cow->in;
    cow->fill = malloc (size);
  }
  r = cow->bytes < size && cow->fill == NULL ? -ENOMEM
    : claim (image, request, cow);
  if (r == 0)
    request->cow = cow;
  else
    free_cow (cow);
  return r;
}

static void
end (struct qed_image *image, struct qed_request *request)
{
  struct cow *cow = request->cow;

  request->cow = NULL;
  unclaim (image, cow);
  free_cow (cow);
}

/* Clusters that were reserved for nothing are given back to the file system
 * first: nobody else would, and free ones inside the file are to be holes.
 */
void
cow_abort (struct qed_image *image, struct qed_request *request)
{
  struct cow *cow = request->cow;
  unsigned bits = image->geometry.cluster_bits;

  if (cow == NULL)
    return;
  if (cow->run.n > 0) {
    (void) image->storage->ops->punch (image->storage,
                                       cow->run.first << bits,
                                       cow->run.n << bits);
    space_release (&image->space, &cow->run);
  }
  end (image, request);
}

int
cow_add_unnamed (struct qed_image *image, struct bitmap *into)
{
  const struct cow *cow;
  uint64_t i;
  bool was;
  int r = 0;

  pthread_mutex_lock (&image->cow_lock);
  for (cow = image->cows; cow; cow = cow->next)
    for (i = 0; i < cow->run.n && r == 0; i++)
      r = bitmap_set (into, cow->run.first + i, &was);
  pthread_mutex_unlock (&image->cow_lock);
  return r;
}

/* ---- Fill ---- */

/* Read what the data leaves of the cluster; 'filled' skips the data, but from
 * a server one read of all is better than two round trips.
 */
static int
read_fill (struct qed_image *image, struct qed_request *request,
           struct cow *cow)
{
  uint64_t size = image->geometry.cluster_size, end, n;
  uint64_t start = cow->first << image->geometry.cluster_bits;
  bool split = !backing_is_remote (image->backing);
  int r;

  while (cow->fill && cow->filled < size) {
    if (cow->filled == cow->in) {
      cow->filled += cow->bytes;
      continue;
    }
    end = split && cow->filled < cow->in ? cow->in : size;
    n = end - cow->filled;
    if (cow->class == FORMAT_ZERO)
      memset (cow->fill + cow->filled, 0, n);
    else {
      r = backing_read (image->backing, request, start + cow->filled, n,
                        cow->fill + cow->filled, &n);
      if (r < 0)
        image_report (image, "reading the backing file at offset",
                      start + cow->filled, r);
      if (r != 0)
        return r;
    }
    cow->filled += n;
  }
  return 0;
}

/* ---- Write and publish ---- */

/* Data and fill in one call.  'data' NULL: zeros. */
static int
write_clusters (struct qed_image *image, struct cow *cow, const void *data)
{
  struct storage *s = image->storage;
  uint64_t size = image->geometry.cluster_size, after;
  uint64_t offset = cow->run.first << image->geometry.cluster_bits;
  struct iovec iov[3];
  int r;

  if (cow->fill == NULL)
    r = s->ops->pwrite (s, data, cow->bytes, offset);
  else {
    after = cow->in + cow->bytes;
    iov[0] = (struct iovec) { cow->fill, cow->in };
    iov[1] = (struct iovec) { (void *) data, cow->bytes };
    iov[2] = (struct iovec) { cow->fill + after, size - after };
    if (data == NULL)
      iov[1].iov_base = memset (cow->fill + cow->in, 0, cow->bytes);
    r = s->ops->pwritev (s, iov, 3, offset);
  }
  if (r == 0)
    cow->written = true;
  else {
    image_report (image, "writing data at file offset", offset, r);
    if (!allocate_may_reuse (r))
      set_run (image, cow, NULL);       /* stays out of use */
  }
  return r;
}

/* Reserve clusters and write them; perhaps fewer than were claimed. */
static int
place (struct qed_image *image, struct qed_request *request, struct cow *cow,
       const void *data)
{
  struct space_run run;
  int r;

  if (cow->run.n == 0) {
    r = allocate_reserve (image, request, cow->n, &run);
    if (r != 0)
      return r;
    set_run (image, cow, &run);
  }
  if (cow->written)
    return 0;
  request_step (request, "write-data");
  return write_clusters (image, cow, data);
}

/* The entries are as they were when the fill was read. */
static bool
unchanged (const struct page *page, unsigned index, const struct cow *cow)
{
  const uint64_t was = cow->class == FORMAT_ZERO ? FORMAT_ENTRY_ZERO : 0;
  unsigned i;

  for (i = 0; i < cow->n; i++)
    if (page_get (page, index + i) != was)
      return false;
  return true;
}

/* With the gate held. */
static int
publish_in_gate (struct qed_image *image, struct qed_request *request,
                 struct cow *cow, uint64_t at)
{
  unsigned index = image_l2_index (image, at);
  struct page *page;
  int r = 0;

  yield_point ("publish");
  page = metadata_lock_page (&image->metadata, image_l2_key (image, at));
  if (page == NULL)
    return change_load (image, request, at);
  if (unchanged (page, index, cow)) {
    r = allocate_publish (image, page, index, &cow->run);
    if (r == 0)
      set_run (image, cow, NULL);       /* it's the image's now */
  }
  else
    r = COW_LOST;
  metadata_unlock_page (&image->metadata, page);
  return r == -ENOBUFS
    ? request_wait_job (image, &image->want_flush, request) : r;
}

static int
write_in_gate (struct qed_image *image, struct qed_request *request,
               uint64_t at, const void *data)
{
  struct cow *cow = request->cow;
  int r = allocate_table (image, request, at);

  if (r == 0)
    r = place (image, request, cow, data);
  if (r == 0)
    r = publish_in_gate (image, request, cow, at);
  return r;
}

int
cow_extent (struct qed_image *image, struct qed_request *request,
            uint64_t at, const struct extent *extent, const void *data,
            uint64_t *done)
{
  int r = request->cow ? 0 : begin (image, request, at, extent);

  if (r == 0)
    r = read_fill (image, request, request->cow);
  if (r == 0)
    r = change_begin (image, request);
  if (r != 0)
    return r;
  r = write_in_gate (image, request, at, data);
  /* While the gate is held no one cuts the file to what is in use. */
  if (r < 0 || r == COW_LOST)
    cow_abort (image, request);
  change_end (image);
  if (r == 0) {
    *done = request->cow->bytes;
    end (image, request);
  }
  return r == COW_LOST ? REQUEST_AGAIN : r;
}
