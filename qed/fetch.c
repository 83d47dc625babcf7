/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "fetch.h"
#include "storage.h"

/* ---- Its life ---- */

static struct fetch *
new_fetch (enum fetch_op op, uint64_t offset, uint64_t count,
           unsigned holders)
{
  struct fetch *fetch = calloc (1, sizeof *fetch);

  if (fetch == NULL)
    return NULL;
  fetch->op = op;
  fetch->offset = offset;
  fetch->count = count;
  atomic_init (&fetch->holders, holders);
  atomic_init (&fetch->wanted, true);
  atomic_init (&fetch->ended, false);
  wait_queue_init (&fetch->waiting, "fetch");
  return fetch;
}

struct fetch *
fetch_new (enum fetch_op op, uint64_t offset, uint64_t count)
{
  return new_fetch (op, offset, count, 1);
}

/* With its data, if it is a write. */
static struct fetch *
new_change (enum fetch_op op, uint64_t offset, uint64_t count,
            const struct iovec *data, int n, unsigned holders)
{
  struct fetch *fetch = new_fetch (op, offset, count, holders);
  unsigned char *to;
  int i;

  if (fetch == NULL || op != FETCH_WRITE)
    return fetch;
  to = fetch->buf = malloc (count);
  if (to == NULL) {
    wait_queue_destroy (&fetch->waiting);
    free (fetch);
    return NULL;
  }
  for (i = 0; i < n; to += data[i++].iov_len)
    if (data[i].iov_len > 0)
      memcpy (to, data[i].iov_base, data[i].iov_len);
  return fetch;
}

static void
let_go (struct fetch *fetch)
{
  if (atomic_fetch_sub (&fetch->holders, 1) > 1)
    return;
  wait_queue_destroy (&fetch->waiting);
  free (fetch->buf);
  free (fetch->extents);
  free (fetch);
}

void
fetch_drop (struct qed_request *request)
{
  struct fetch *fetch = request->fetch;

  if (fetch == NULL)
    return;
  request->fetch = NULL;
  atomic_store (&fetch->wanted, false);
  let_go (fetch);
}

void
fetch_end (struct fetch *fetch, int error)
{
  fetch->error = error;
  atomic_store (&fetch->ended, true);
  if (fetch->done)
    fetch->done (fetch);
  else
    wait_wake_all (&fetch->waiting);
  let_go (fetch);
}

/* ---- Waiting for it ---- */

static int
wait_ended (struct fetch *fetch, struct qed_request *request)
{
  if (atomic_load (&fetch->ended))
    return 0;
  wait_add (&fetch->waiting, request);
  return atomic_load (&fetch->ended) ? wait_not_needed (request) : QED_WAIT;
}

/* Have a fetch that ended well and covers 'at': the one there is, or a new one
 * for the range, in which case it has mostly not ended.
 */
static int
obtain (struct storage *s, struct qed_request *request, enum fetch_op op,
        uint64_t at, uint64_t bytes)
{
  struct fetch *fetch = request->fetch;
  int r;

  if (fetch && (fetch->op != op || at < fetch->offset ||
                at - fetch->offset >= fetch->count)) {
    fetch_drop (request);
    fetch = NULL;
  }
  if (fetch == NULL) {
    fetch = request->fetch = new_fetch (op, at, bytes, 2);
    if (fetch == NULL)
      return -ENOMEM;
    s->ops->submit (s, fetch);
  }
  r = wait_ended (fetch, request);
  return r != 0 ? r : fetch->error;
}

/* ---- What requests want ---- */

int
fetch_read (struct storage *s, struct qed_request *request, uint64_t at,
            uint64_t bytes, void *buf, uint64_t *done)
{
  uint64_t want = bytes < FETCH_READ_MAX ? bytes : FETCH_READ_MAX, in;
  struct fetch *fetch;
  int r = obtain (s, request, FETCH_READ, at, want);

  if (r != 0)
    return r;
  fetch = request->fetch;
  in = at - fetch->offset;
  *done = fetch->count - in < bytes ? fetch->count - in : bytes;
  memcpy (buf, fetch->data + in, *done);
  if (in + *done == fetch->count)
    fetch_drop (request);
  return 0;
}

/* The extent that holds the byte 'in' bytes behind the fetch's start.  A
 * request goes forward, so that there is never far to look.
 */
static bool
find_extent (struct fetch *fetch, uint64_t in, enum qed_extent *kind,
             uint64_t *bytes)
{
  const struct fetch_extent *extent;

  for (; fetch->extent_at < fetch->extent_count; fetch->extent_at++) {
    extent = &fetch->extents[fetch->extent_at];
    if (in - fetch->extent_start < extent->bytes) {
      *kind = extent->kind;
      *bytes = extent->bytes - (in - fetch->extent_start);
      return true;
    }
    fetch->extent_start += extent->bytes;
  }
  return false;
}

int
fetch_extent (struct storage *s, struct qed_request *request, uint64_t at,
              uint64_t bytes, uint64_t ahead, enum qed_extent *kind,
              uint64_t *done)
{
  uint64_t want = ahead > bytes ? ahead : bytes;
  struct fetch *fetch;
  int r;

  while ((r = obtain (s, request, FETCH_EXTENTS, at, want)) == 0) {
    fetch = request->fetch;
    if (find_extent (fetch, at - fetch->offset, kind, done)) {
      if (*done > bytes)
        *done = bytes;
      break;
    }
    fetch_drop (request);       /* its extents end before 'at' */
  }
  return r;
}

void
fetch_prefetch (struct storage *s, uint64_t at, uint64_t bytes)
{
  struct fetch *fetch = new_fetch (FETCH_CACHE, at, bytes, 1);

  if (fetch)
    s->ops->submit (s, fetch);
}

int
fetch_change (struct storage *s, struct qed_request *request,
              enum fetch_op op, uint64_t at, uint64_t bytes,
              const struct iovec *data, int n)
{
  struct fetch *fetch = request->fetch;
  int r;

  if (fetch == NULL) {
    fetch = request->fetch = new_change (op, at, bytes, data, n, 2);
    if (fetch == NULL)
      return -ENOMEM;
    s->ops->submit (s, fetch);
  }
  r = wait_ended (fetch, request);
  return r != 0 ? r : fetch->error;
}

/* ---- What the loop wants ---- */

static int
start (struct storage *s, struct fetch *fetch,
       void (*done) (struct fetch *fetch), void *opaque)
{
  if (fetch == NULL)
    return -ENOMEM;
  fetch->done = done;
  fetch->opaque = opaque;
  s->ops->submit (s, fetch);
  return 0;
}

int
fetch_start (struct storage *s, enum fetch_op op, uint64_t at, uint64_t bytes,
             void (*done) (struct fetch *fetch), void *opaque)
{
  return start (s, new_fetch (op, at, bytes, 1), done, opaque);
}

int
fetch_start_change (struct storage *s, enum fetch_op op, uint64_t at,
                    uint64_t bytes, const void *data,
                    void (*done) (struct fetch *fetch), void *opaque)
{
  const struct iovec iov = { (void *) data, bytes };

  return start (s, new_change (op, at, bytes, &iov, 1, 1), done, opaque);
}

/* ---- Lists ---- */

void
fetch_list_init (struct fetch_list *list)
{
  list->first = NULL;
  list->end = &list->first;
}

void
fetch_list_append (struct fetch_list *list, struct fetch *fetch)
{
  fetch->next = NULL;
  *list->end = fetch;
  list->end = &fetch->next;
}

void
fetch_list_prepend (struct fetch_list *list, struct fetch *fetch)
{
  fetch->next = list->first;
  if (list->first == NULL)
    list->end = &fetch->next;
  list->first = fetch;
}

struct fetch *
fetch_list_take_first (struct fetch_list *list)
{
  struct fetch *fetch = list->first;

  if (fetch) {
    list->first = fetch->next;
    if (list->first == NULL)
      list->end = &list->first;
  }
  return fetch;
}

void
fetch_list_prepend_all (struct fetch_list *to, struct fetch_list *list)
{
  if (list->first == NULL)
    return;
  *list->end = to->first;
  if (to->first == NULL)
    to->end = list->end;
  to->first = list->first;
  fetch_list_init (list);
}
