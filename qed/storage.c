/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include "fetch-change.h"
#include "fetch-io.h"
#include "storage.h"

static struct storage_io *
io_of (struct loop_work *work)
{
  return (struct storage_io *)
    ((char *) work - offsetof (struct storage_io, work));
}

/* Start at a page of the table, so that entries are read whole. */
#define DATA_ALIGN UINT64_C (4096)

static int
read_data (struct storage *s, struct storage_io *io)
{
  uint64_t start, end, from;
  int r = s->ops->next_data (s, io->offset, &start, &end);

  if (r < 0)
    return r;
  if (start >= io->limit) {
    io->count = 0;
    return 0;
  }
  from = start & ~(DATA_ALIGN - 1);
  if (io->offset < from)
    io->offset = from;
  if (io->count > io->limit - io->offset)
    io->count = (size_t) (io->limit - io->offset);
  /* Nothing read would be taken for a hole up to the limit. */
  if (end > io->offset && io->count > end - io->offset)
    io->count = (size_t) ((end - io->offset + DATA_ALIGN - 1) &
                          ~(DATA_ALIGN - 1));
  return s->ops->pread (s, io->buf, io->count, io->offset);
}

static void
run_call (struct storage *s, struct storage_io *io)
{
  switch (io->op) {
  case STORAGE_READ:
    io->error = s->ops->pread (s, io->buf, io->count, io->offset);
    break;
  case STORAGE_READ_DATA:
    io->error = read_data (s, io);
    break;
  case STORAGE_WRITE:
    io->error = s->ops->pwrite (s, io->buf, io->count, io->offset);
    break;
  case STORAGE_PUNCH:
    io->error = s->ops->punch (s, io->offset, io->limit);
    break;
  case STORAGE_ZERO:
    io->error = s->ops->zero (s, io->offset, io->limit);
    break;
  case STORAGE_SYNC:
    io->error = s->ops->sync (s);
    break;
  case STORAGE_RESIZE:
    io->error = s->ops->resize (s, io->offset);
    break;
  }
}

static void
run_io (struct loop_work *work)
{
  struct storage_io *io = io_of (work);

  do
    run_call (io->storage, io);
  while (io->error == 0 && io->more && io->more (io));
}

static void
io_done (struct loop_work *work)
{
  struct storage_io *io = io_of (work);

  io->done (io);
}

/* Changes of a socket that another storage wraps are its plain calls, on a
 * worker that waits for the loop.
 */
void
storage_submit (struct loop *loop, struct storage *s, struct storage_io *io)
{
  bool socket = s->ops->submit != NULL;

  if (socket && (io->op == STORAGE_READ || io->op == STORAGE_READ_DATA)) {
    fetch_io_start (s, io);
    return;
  }
  if (socket && s->below == NULL) {
    fetch_change_start (s, io);
    return;
  }
  io->storage = s;
  io->error = 0;
  io->work.run = run_io;
  io->work.done = io_done;
  io->work.slow = socket || io->op == STORAGE_SYNC;
  loop_submit (loop, &io->work);
}

void
storage_give_up (struct storage *s)
{
  for (; s; s = s->below)
    atomic_store (&s->given_up, true);
}
