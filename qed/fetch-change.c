/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "fetch-change.h"
#include "fetch-io.h"
#include "image.h"

/* What one fetch makes zeros at most. */
#define ZERO_BYTES (UINT64_C (1) << 30)

static const unsigned char zeros[STORAGE_BLOCK_MAX];

static uint64_t
smaller (uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

static uint64_t
block_down (const struct storage *s, uint64_t offset)
{
  return offset & ~(uint64_t) (s->block - 1);
}

static uint64_t
block_up (const struct storage *s, uint64_t offset)
{
  return block_down (s, offset + s->block - 1);
}

/* What ends with the storage ends a block, too. */
static bool
is_aligned (const struct storage *s, uint64_t offset, uint64_t count,
            uint64_t length)
{
  uint64_t end = offset + count;

  return offset == block_down (s, offset) &&
    (end == block_down (s, end) || end == length);
}

/* The blocks that a range touches. */
static void
whole_blocks (const struct storage *s, uint64_t length, uint64_t *offset,
              uint64_t *count)
{
  uint64_t end = smaller (block_up (s, *offset + *count), length);

  *offset = block_down (s, *offset);
  *count = end - *offset;
}

/* As much of a range as lies inside. */
static uint64_t
inside (uint64_t offset, uint64_t count, uint64_t length)
{
  return offset < length ? smaller (count, length - offset) : 0;
}

/* ---- The loop's -------------------------------------------------------- */

static void
finish (struct storage_io *io, int error)
{
  io->error = error;
  if (error == 0 && io->more && io->more (io))
    fetch_change_start (io->storage, io);
  else
    io->done (io);
}

static void
start_change (struct storage_io *io, enum fetch_op op, uint64_t offset,
              uint64_t count, const void *data,
              void (*done) (struct fetch *fetch))
{
  int r = fetch_start_change (io->storage, op, offset, count, data, done, io);

  if (r < 0)
    finish (io, r);
}

static void
change_ended (struct fetch *fetch)
{
  finish (fetch->opaque, fetch->error);
}

/* The blocks are there: fill in what is to be written. */
static void
blocks_read (struct fetch *fetch)
{
  struct storage_io *io = fetch->opaque;

  if (fetch->error < 0) {
    finish (io, fetch->error);
    return;
  }
  memcpy (fetch->data + (io->offset - fetch->offset), io->buf, io->count);
  start_change (io, FETCH_WRITE, fetch->offset, fetch->count, fetch->data,
                change_ended);
}

static void
write_range (struct storage_io *io, uint64_t length)
{
  struct storage *s = io->storage;
  uint64_t offset = io->offset, count = io->count;
  int r;

  if (inside (offset, count, length) < count)
    finish (io, -ENOSPC);
  else if (is_aligned (s, offset, count, length))
    start_change (io, FETCH_WRITE, offset, count, io->buf, change_ended);
  else {
    whole_blocks (s, length, &offset, &count);
    r = fetch_start (s, FETCH_READ, offset, count, blocks_read, io);
    if (r < 0)
      finish (io, r);
  }
}

static void zero_next (struct storage_io *io);

static void
piece_ended (struct fetch *fetch)
{
  struct storage_io *io = fetch->opaque;

  if (fetch->error < 0) {
    finish (io, fetch->error);
    return;
  }
  io->offset += fetch->count;
  io->limit -= fetch->count;
  zero_next (io);
}

static void
zero_next (struct storage_io *io)
{
  if (io->limit == 0)
    finish (io, 0);
  else
    start_change (io, io->op == STORAGE_ZERO ? FETCH_ZERO : FETCH_PUNCH,
                  io->offset, smaller (io->limit, ZERO_BYTES), NULL,
                  piece_ended);
}

/* The loop makes whole clusters zeros. */
static void
zero_range (struct storage_io *io, uint64_t length)
{
  io->limit = inside (io->offset, io->limit, length);
  if (is_aligned (io->storage, io->offset, io->limit, length))
    zero_next (io);
  else
    finish (io, -EINVAL);
}

void
fetch_change_start (struct storage *s, struct storage_io *io)
{
  uint64_t length;
  int r = s->ops->length (s, &length);

  io->storage = s;
  io->error = 0;
  if (s->read_only)
    r = -EROFS;
  if (r < 0)
    finish (io, r);
  else if (io->op == STORAGE_WRITE)
    write_range (io, length);
  else if (io->op == STORAGE_SYNC)
    start_change (io, FETCH_FLUSH, 0, 0, NULL, change_ended);
  else if (io->op == STORAGE_ZERO || io->op == STORAGE_PUNCH)
    zero_range (io, length);
  else
    finish (io, -EOPNOTSUPP);
}

/* ---- Plain calls ------------------------------------------------------- */

struct call {
  struct storage *storage;
  enum fetch_op op;
  uint64_t offset, count;
  const struct iovec *iov;
  int n;
};

static int
run_change (struct qed_request *request, void *opaque)
{
  struct call *call = opaque;

  return fetch_change (call->storage, request, call->op, call->offset,
                       call->count, call->iov, call->n);
}

static int
change (struct storage *s, enum fetch_op op, uint64_t offset, uint64_t count,
        const struct iovec *iov, int n)
{
  struct call call = { s, op, offset, count, iov, n };

  return s->read_only ? -EROFS : sync_run (run_change, &call);
}

void
fetch_blocks_init (struct fetch_blocks *blocks)
{
  pthread_rwlock_init (&blocks->lock, NULL);
}

void
fetch_blocks_destroy (struct fetch_blocks *blocks)
{
  pthread_rwlock_destroy (&blocks->lock);
}

/* With the lock held, by us alone. */
static int
write_parts (struct storage *s, const struct iovec *iov, int n,
             uint64_t offset, uint64_t count, uint64_t length)
{
  uint64_t from = offset, bytes = count;
  struct iovec whole;
  unsigned char *to;
  int i, r;

  whole_blocks (s, length, &from, &bytes);
  whole = (struct iovec) { malloc (bytes), bytes };
  if (whole.iov_base == NULL)
    return -ENOMEM;
  r = s->ops->pread (s, whole.iov_base, bytes, from);
  to = (unsigned char *) whole.iov_base + (offset - from);
  for (i = 0; i < n; to += iov[i++].iov_len)
    if (iov[i].iov_len > 0)
      memcpy (to, iov[i].iov_base, iov[i].iov_len);
  if (r == 0)
    r = change (s, FETCH_WRITE, from, bytes, &whole, 1);
  free (whole.iov_base);
  return r;
}

int
fetch_pwritev (struct storage *s, struct fetch_blocks *blocks,
               const struct iovec *iov, int n, uint64_t offset)
{
  uint64_t count = 0, length;
  int i, r = s->ops->length (s, &length);

  for (i = 0; i < n; i++)
    count += iov[i].iov_len;
  if (r < 0 || count == 0)
    return r;
  if (inside (offset, count, length) < count)
    return -ENOSPC;
  if (is_aligned (s, offset, count, length)) {
    pthread_rwlock_rdlock (&blocks->lock);
    r = change (s, FETCH_WRITE, offset, count, iov, n);
  }
  else {
    pthread_rwlock_wrlock (&blocks->lock);
    r = write_parts (s, iov, n, offset, count, length);
  }
  pthread_rwlock_unlock (&blocks->lock);
  return r;
}

/* Less than a block. */
static int
zero_part (struct storage *s, struct fetch_blocks *blocks, uint64_t offset,
           uint64_t count)
{
  struct iovec iov = { (void *) zeros, count };

  return count > 0 ? fetch_pwritev (s, blocks, &iov, 1, offset) : 0;
}

static int
zero_blocks (struct storage *s, enum fetch_op op, uint64_t offset,
             uint64_t end)
{
  uint64_t n;
  int r = 0;

  for (; offset < end && r == 0; offset += n) {
    n = smaller (end - offset, ZERO_BYTES);
    r = change (s, op, offset, n, NULL, 0);
  }
  return r;
}

int
fetch_zero (struct storage *s, struct fetch_blocks *blocks, uint64_t offset,
            uint64_t count)
{
  uint64_t length, end, from, to;
  int r = s->ops->length (s, &length);

  if (r < 0)
    return r;
  end = offset + inside (offset, count, length);
  from = smaller (block_up (s, offset), end);
  to = end == length ? end : block_down (s, end);
  if (to < from)
    to = from;
  r = zero_part (s, blocks, offset, from - offset);
  if (r == 0) {
    pthread_rwlock_rdlock (&blocks->lock);
    r = zero_blocks (s, FETCH_ZERO, from, to);
    pthread_rwlock_unlock (&blocks->lock);
  }
  return r < 0 ? r : zero_part (s, blocks, to, end - to);
}

int
fetch_punch (struct storage *s, struct fetch_blocks *blocks, uint64_t offset,
             uint64_t count)
{
  uint64_t length;
  int r = s->ops->length (s, &length);

  if (r < 0)
    return r;
  count = inside (offset, count, length);
  if (!is_aligned (s, offset, count, length))
    return -EOPNOTSUPP;
  pthread_rwlock_rdlock (&blocks->lock);
  r = zero_blocks (s, FETCH_PUNCH, offset, offset + count);
  pthread_rwlock_unlock (&blocks->lock);
  return r;
}

int
fetch_sync (struct storage *s)
{
  return change (s, FETCH_FLUSH, 0, 0, NULL, 0);
}
