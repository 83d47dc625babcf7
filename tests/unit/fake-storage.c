/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fake-storage.h"

static struct fake_storage *
fake_of (struct storage *s)
{
  return (struct fake_storage *) s;
}

/* The rule for a call, or NULL.  With the lock held. */
static struct fake_rule *
find_rule (struct fake_storage *fake, enum fake_op op, uint64_t offset,
           uint64_t count)
{
  uint64_t end = offset + (count ? count : 1);
  struct fake_rule *rule;
  unsigned i;

  for (i = 0; i < FAKE_RULES; i++) {
    rule = &fake->rules[i];
    if (rule->times == 0 || (rule->op != op && rule->op != FAKE_ANY) ||
        offset >= rule->to || end <= rule->from || count < rule->at_least)
      continue;
    if (rule->skip == 0)
      return rule;
    rule->skip--;
  }
  return NULL;
}

/* Lock, note the call, and do what the rules say.  Returns with the lock
 * held.
 */
static int
begin (struct fake_storage *fake, enum fake_op op, uint64_t offset,
       uint64_t count)
{
  struct fake_rule *rule;

  pthread_mutex_lock (&fake->lock);
  if (fake->call_count < FAKE_CALLS) {
    fake->calls[fake->call_count].op = op;
    fake->calls[fake->call_count].offset = offset;
    fake->calls[fake->call_count++].count = count;
  }
  rule = find_rule (fake, op, offset, count);
  if (rule && rule->error < 0) {
    rule->times -= rule->times != FAKE_ALWAYS;
    return rule->error;
  }
  if (rule) {
    fake->held++;
    pthread_cond_broadcast (&fake->changed);
    while ((rule = find_rule (fake, op, offset, count)) && rule->error == 0)
      pthread_cond_wait (&fake->changed, &fake->lock);
    fake->held--;
    if (rule) {                 /* what waited fails now */
      rule->times -= rule->times != FAKE_ALWAYS;
      return rule->error;
    }
  }
  return 0;
}

static int
end (struct fake_storage *fake, int r)
{
  pthread_mutex_unlock (&fake->lock);
  return r;
}

static int
fake_pread (struct storage *s, void *buf, size_t count, uint64_t offset)
{
  struct fake_storage *fake = fake_of (s);
  int r = begin (fake, FAKE_READ, offset, count);
  uint64_t inside = offset < fake->length ? fake->length - offset : 0;
  size_t n = count < inside ? count : (size_t) inside;

  if (r == 0) {
    memcpy (buf, fake->data + offset, n);
    memset ((char *) buf + n, 0, count - n);
  }
  return end (fake, r);
}

static int
fake_pwrite (struct storage *s, const void *buf, size_t count,
             uint64_t offset)
{
  struct fake_storage *fake = fake_of (s);
  int r = begin (fake, FAKE_WRITE, offset, count);

  if (r == 0 && offset + count > fake->max)
    r = -ENOSPC;
  if (r == 0) {
    memcpy (fake->data + offset, buf, count);
    if (fake->length < offset + count)
      fake->length = offset + count;
  }
  return end (fake, r);
}

static int
fake_pwritev (struct storage *s, const struct iovec *iov, int n,
              uint64_t offset)
{
  int i, r = 0;

  for (i = 0; i < n && r == 0; i++) {
    r = fake_pwrite (s, iov[i].iov_base, iov[i].iov_len, offset);
    offset += iov[i].iov_len;
  }
  return r;
}

static int
fake_zero (struct storage *s, uint64_t offset, uint64_t count)
{
  struct fake_storage *fake = fake_of (s);
  int r = begin (fake, FAKE_ZERO, offset, count);

  if (r == 0 && offset < fake->length)
    memset (fake->data + offset, 0,
            count < fake->length - offset ? count : fake->length - offset);
  return end (fake, r);
}

static void
fake_prefetch (struct storage *s, uint64_t offset, uint64_t count)
{
  (void) s;
  (void) offset;
  (void) count;
}

static int
fake_resize (struct storage *s, uint64_t length)
{
  struct fake_storage *fake = fake_of (s);
  int r = begin (fake, FAKE_RESIZE, length, 0);

  if (r == 0 && length > fake->max)
    r = -ENOSPC;
  if (r == 0) {
    if (length < fake->length)
      memset (fake->data + length, 0, fake->length - length);
    fake->length = length;
  }
  return end (fake, r);
}

static int
fake_length (struct storage *s, uint64_t *length)
{
  struct fake_storage *fake = fake_of (s);

  pthread_mutex_lock (&fake->lock);
  *length = fake->length;
  return end (fake, 0);
}

static int
fake_sync (struct storage *s)
{
  struct fake_storage *fake = fake_of (s);

  return end (fake, begin (fake, FAKE_SYNC, 0, 0));
}

/* Whether the page of the file at 'at' is data, or all zeros. */
static bool
is_data (struct fake_storage *fake, uint64_t at)
{
  static const unsigned char zeros[FAKE_PAGE];

  return !fake->sparse || memcmp (fake->data + at, zeros, FAKE_PAGE) != 0;
}

static int
fake_next_data (struct storage *s, uint64_t offset, uint64_t *start,
                uint64_t *data_end)
{
  struct fake_storage *fake = fake_of (s);
  uint64_t at = offset;

  pthread_mutex_lock (&fake->lock);
  while (at < fake->length && !is_data (fake, at & -FAKE_PAGE))
    at = (at & -FAKE_PAGE) + FAKE_PAGE;
  *start = at < fake->length ? at : UINT64_MAX;
  while (at < fake->length && is_data (fake, at & -FAKE_PAGE))
    at = (at & -FAKE_PAGE) + FAKE_PAGE;
  *data_end = at < fake->length ? at : fake->length;
  return end (fake, 0);
}

static int
fake_downgrade (struct storage *s)
{
  s->read_only = true;
  s->can_grow = false;
  return 0;
}

static void
fake_close (struct storage *s)
{
  struct fake_storage *fake = fake_of (s);

  pthread_mutex_lock (&fake->lock);
  fake->closed = true;
  end (fake, 0);
}

static const struct storage_ops fake_ops = {
  .pread = fake_pread,
  .pwrite = fake_pwrite,
  .pwritev = fake_pwritev,
  .zero = fake_zero,
  .punch = fake_zero,
  .prefetch = fake_prefetch,
  .resize = fake_resize,
  .length = fake_length,
  .sync = fake_sync,
  .next_data = fake_next_data,
  .downgrade = fake_downgrade,
  .close = fake_close,
};

/* ---- What the tests call ---- */

struct fake_storage *
fake_new (uint64_t length, uint64_t max)
{
  struct fake_storage *fake = calloc (1, sizeof *fake);

  if (fake == NULL)
    abort ();
  fake->data = mmap (NULL, max, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (fake->data == MAP_FAILED)
    abort ();
  fake->storage.ops = &fake_ops;
  fake->storage.can_grow = true;
  fake->max = max;
  fake->length = length;
  pthread_mutex_init (&fake->lock, NULL);
  pthread_cond_init (&fake->changed, NULL);
  return fake;
}

void
fake_free (struct fake_storage *fake)
{
  munmap (fake->data, fake->max);
  pthread_mutex_destroy (&fake->lock);
  pthread_cond_destroy (&fake->changed);
  free (fake);
}

void
fake_format (struct fake_storage *fake, const struct format_header *header)
{
  unsigned char buf[FORMAT_HEADER_BYTES];
  uint64_t l1_end = header->l1_table_offset +
    (uint64_t) header->table_size * header->cluster_size;

  format_encode_header (header, buf);
  if (fake->length < l1_end)
    fake->length = l1_end;
  fake_poke (fake, buf, sizeof buf, 0);
}

void
fake_rule_add_full (struct fake_storage *fake, struct fake_rule rule)
{
  unsigned i;

  pthread_mutex_lock (&fake->lock);
  for (i = 0; i < FAKE_RULES && fake->rules[i].times > 0; i++)
    ;
  if (i == FAKE_RULES)
    abort ();
  fake->rules[i] = rule;
  pthread_mutex_unlock (&fake->lock);
}

void
fake_rule_add (struct fake_storage *fake, enum fake_op op, uint64_t from,
               uint64_t to, int error, unsigned times)
{
  fake_rule_add_full (fake, (struct fake_rule) {
      .op = op, .from = from, .to = to, .error = error, .times = times });
}

static void
drop_rules (struct fake_storage *fake, bool all)
{
  unsigned i;

  pthread_mutex_lock (&fake->lock);
  for (i = 0; i < FAKE_RULES; i++)
    if (all || fake->rules[i].error == 0)
      fake->rules[i].times = 0;
  pthread_cond_broadcast (&fake->changed);
  pthread_mutex_unlock (&fake->lock);
}

void
fake_let_go (struct fake_storage *fake)
{
  drop_rules (fake, false);
}

void
fake_drop_rules (struct fake_storage *fake)
{
  drop_rules (fake, true);
}

void
fake_wait_held (struct fake_storage *fake, unsigned n)
{
  pthread_mutex_lock (&fake->lock);
  while (fake->held < n)
    pthread_cond_wait (&fake->changed, &fake->lock);
  pthread_mutex_unlock (&fake->lock);
}

void
fake_peek (struct fake_storage *fake, void *buf, size_t count,
           uint64_t offset)
{
  pthread_mutex_lock (&fake->lock);
  memcpy (buf, fake->data + offset, count);
  pthread_mutex_unlock (&fake->lock);
}

void
fake_poke (struct fake_storage *fake, const void *buf, size_t count,
           uint64_t offset)
{
  pthread_mutex_lock (&fake->lock);
  memcpy (fake->data + offset, buf, count);
  pthread_mutex_unlock (&fake->lock);
}

uint64_t
fake_peek64 (struct fake_storage *fake, uint64_t offset)
{
  unsigned char buf[8];

  fake_peek (fake, buf, sizeof buf, offset);
  return format_get64 (buf);
}

void
fake_poke64 (struct fake_storage *fake, uint64_t offset, uint64_t value)
{
  unsigned char buf[8];

  format_put64 (buf, value);
  fake_poke (fake, buf, sizeof buf, offset);
}

void
fake_forget (struct fake_storage *fake)
{
  pthread_mutex_lock (&fake->lock);
  fake->call_count = 0;
  pthread_mutex_unlock (&fake->lock);
}

size_t
fake_calls (struct fake_storage *fake, enum fake_op op)
{
  size_t n = 0, i;

  pthread_mutex_lock (&fake->lock);
  for (i = 0; i < fake->call_count; i++)
    n += fake->calls[i].op == op;
  pthread_mutex_unlock (&fake->lock);
  return n;
}
