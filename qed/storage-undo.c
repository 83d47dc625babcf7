/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The storage driver that saves what is overwritten (undo.h). */

#include <config.h>

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "undo.h"

struct storage_undo {
  struct storage storage;
  struct storage *below;
  struct qed_log log;
  const char *path;             /* of the undo file */
  pthread_mutex_t lock;         /* protects the two that follow */
  struct undo_file file;        /* fd -1 until saving begins */
  unsigned char *buf;           /* UNDO_PIECE_BYTES */
};

static struct storage_undo *
undo_of (struct storage *s)
{
  return (struct storage_undo *) s;
}

/* ---- Saving ---- */

/* With the lock held. */
static int
append (struct storage_undo *undo, uint64_t offset, uint64_t count)
{
  int r = undo->below->ops->pread (undo->below, undo->buf, count, offset);

  return r < 0 ? r : undo_file_add (&undo->file, offset, count, undo->buf);
}

/* What the range holds, holes too: they may be written to.  What lies behind
 * the old end, which is 0 until saving begins, has no old value.
 */
static int
save (struct storage_undo *undo, uint64_t offset, uint64_t count)
{
  uint64_t length = undo->file.length, end, n;
  int r = 0;

  if (offset >= length)
    return 0;
  end = count < length - offset ? offset + count : length;
  pthread_mutex_lock (&undo->lock);
  for (; offset < end && r == 0; offset += n) {
    n = end - offset < UNDO_PIECE_BYTES ? end - offset : UNDO_PIECE_BYTES;
    r = append (undo, offset, n);
  }
  if (r == 0)
    r = undo_file_sync (&undo->file);
  pthread_mutex_unlock (&undo->lock);
  return r;
}

/* The same for what is only made zeros: holes need not be saved. */
static int
save_data (struct storage_undo *undo, uint64_t offset, uint64_t count)
{
  uint64_t limit = offset + count, start, end;
  int r = 0;

  while (offset < limit && r == 0) {
    r = undo->below->ops->next_data (undo->below, offset, &start, &end);
    if (r < 0 || start >= limit)
      break;
    if (start < offset)
      start = offset;
    if (end > limit)
      end = limit;
    r = save (undo, start, end - start);
    offset = end;
  }
  return r;
}

/* ---- The operations ---- */

static int
undo_pread (struct storage *s, void *buf, size_t count, uint64_t offset)
{
  struct storage *below = undo_of (s)->below;

  return below->ops->pread (below, buf, count, offset);
}

static int
undo_pwrite (struct storage *s, const void *buf, size_t count,
             uint64_t offset)
{
  struct storage *below = undo_of (s)->below;
  int r = save (undo_of (s), offset, count);

  return r < 0 ? r : below->ops->pwrite (below, buf, count, offset);
}

static int
undo_pwritev (struct storage *s, const struct iovec *iov, int n,
              uint64_t offset)
{
  struct storage *below = undo_of (s)->below;
  uint64_t count = 0;
  int i, r;

  for (i = 0; i < n; i++)
    count += iov[i].iov_len;
  r = save (undo_of (s), offset, count);
  return r < 0 ? r : below->ops->pwritev (below, iov, n, offset);
}

static int
undo_zero (struct storage *s, uint64_t offset, uint64_t count)
{
  struct storage *below = undo_of (s)->below;
  int r = save_data (undo_of (s), offset, count);

  return r < 0 ? r : below->ops->zero (below, offset, count);
}

static int
undo_punch (struct storage *s, uint64_t offset, uint64_t count)
{
  struct storage *below = undo_of (s)->below;
  int r = save_data (undo_of (s), offset, count);

  return r < 0 ? r : below->ops->punch (below, offset, count);
}

static void
undo_prefetch (struct storage *s, uint64_t offset, uint64_t count)
{
  struct storage *below = undo_of (s)->below;

  below->ops->prefetch (below, offset, count);
}

static int
undo_resize (struct storage *s, uint64_t length)
{
  struct storage_undo *undo = undo_of (s);
  struct storage *below = undo->below;
  int r = 0;

  if (length < undo->file.length)
    r = save_data (undo, length, undo->file.length - length);
  return r < 0 ? r : below->ops->resize (below, length);
}

static int
undo_length (struct storage *s, uint64_t *length)
{
  struct storage *below = undo_of (s)->below;

  return below->ops->length (below, length);
}

static int
undo_sync (struct storage *s)
{
  struct storage *below = undo_of (s)->below;

  return below->ops->sync (below);
}

static int
undo_next_data (struct storage *s, uint64_t offset, uint64_t *start,
                uint64_t *end)
{
  struct storage *below = undo_of (s)->below;

  return below->ops->next_data (below, offset, start, end);
}

static int
undo_downgrade (struct storage *s)
{
  struct storage *below = undo_of (s)->below;
  int r = below->ops->downgrade (below);

  s->read_only = below->read_only;
  return r;
}

/* ---- Over a socket: reads go straight there ---- */

static int
undo_start (struct storage *s, struct loop *loop,
            void (*stopped) (void *opaque), void *opaque)
{
  return s->below->ops->start (s->below, loop, stopped, opaque);
}

static bool
undo_stop (struct storage *s)
{
  return s->below->ops->stop (s->below);
}

/* Changes never come here: storage_submit sees to that. */
static void
undo_submit (struct storage *s, struct fetch *fetch)
{
  s->below->ops->submit (s->below, fetch);
}

/* A socket connects once more for that. */
static void
finish (struct storage_undo *undo)
{
  int r = undo_file_finish (&undo->file, undo->below);

  if (r < 0)
    log_warning (&undo->log, "%s: cannot note what the repair has left: %s: "
                 "qedctl undo will not see whether the image was used since: "
                 "don't use it before it is clear whether the repair stays",
                 undo->path, strerror (-r));
}

static void
undo_close (struct storage *s)
{
  struct storage_undo *undo = undo_of (s);

  if (undo->file.fd != -1)
    finish (undo);
  undo->below->ops->close (undo->below);
  undo_file_close (&undo->file);
  pthread_mutex_destroy (&undo->lock);
  free (undo->buf);
  free (undo);
}

static const struct storage_ops undo_ops = {
  .pread = undo_pread,
  .pwrite = undo_pwrite,
  .pwritev = undo_pwritev,
  .zero = undo_zero,
  .punch = undo_punch,
  .prefetch = undo_prefetch,
  .resize = undo_resize,
  .length = undo_length,
  .sync = undo_sync,
  .next_data = undo_next_data,
  .downgrade = undo_downgrade,
  .close = undo_close,
};

static const struct storage_ops undo_socket_ops = {
  .pread = undo_pread,
  .pwrite = undo_pwrite,
  .pwritev = undo_pwritev,
  .zero = undo_zero,
  .punch = undo_punch,
  .prefetch = undo_prefetch,
  .resize = undo_resize,
  .length = undo_length,
  .sync = undo_sync,
  .next_data = undo_next_data,
  .downgrade = undo_downgrade,
  .close = undo_close,
  .start = undo_start,
  .stop = undo_stop,
  .submit = undo_submit,
};

/* ---- Making one ---- */

int
storage_undo_open (struct storage *below, const struct qed_log *log,
                   struct storage **storage)
{
  struct storage_undo *undo = calloc (1, sizeof *undo);

  if (undo)
    undo->buf = malloc (UNDO_PIECE_BYTES);
  if (undo == NULL || undo->buf == NULL) {
    log_error (log, "no memory to save what the repair overwrites");
    free (undo);
    return -ENOMEM;
  }
  pthread_mutex_init (&undo->lock, NULL);
  undo->file.fd = -1;
  undo->log = *log;
  undo->below = below;
  undo->storage = *below;
  undo->storage.ops = below->ops->submit ? &undo_socket_ops : &undo_ops;
  undo->storage.below = below;
  *storage = &undo->storage;
  return 0;
}

int
storage_undo_begin (struct storage *storage, const char *path)
{
  struct storage_undo *undo = undo_of (storage);
  int r = undo_file_create (&undo->file, path, undo->below, 0);

  if (r < 0)
    log_error (&undo->log, "%s: cannot make the undo file: %s%s", path,
               strerror (-r), r == -EEXIST ? ": give another name, it may be "
               "needed still" : "");
  undo->path = path;
  return r;
}
