/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "nbd-kept.h"

/* What one takes beside its data. */
#define OVERHEAD_BYTES (sizeof (struct fetch) + 32)

static uint64_t
memory_of (const struct fetch *fetch)
{
  return OVERHEAD_BYTES + (fetch->op == FETCH_WRITE ? fetch->count : 0);
}

void
nbd_kept_init (struct nbd_kept *kept)
{
  *kept = (struct nbd_kept) { .end = &kept->first };
}

static void
drop_first (struct nbd_kept *kept)
{
  struct fetch *fetch = kept->first;

  kept->first = fetch->kept_next;
  if (kept->first == NULL)
    kept->end = &kept->first;
  kept->bytes -= memory_of (fetch);
  fetch_end (fetch, 0);
}

void
nbd_kept_destroy (struct nbd_kept *kept)
{
  while (kept->first)
    drop_first (kept);
}

/* The copy takes the data over.  A punch counts for the zeros it has made. */
int
nbd_kept_add (struct nbd_kept *kept, struct fetch *change)
{
  struct fetch *copy =
    fetch_new (change->op == FETCH_PUNCH ? FETCH_ZERO : change->op,
               change->offset, change->count);

  if (copy == NULL)
    return -ENOMEM;
  copy->kept = true;
  copy->number = ++kept->number;
  copy->buf = change->buf;
  change->buf = NULL;
  *kept->end = copy;
  kept->end = &copy->kept_next;
  kept->bytes += memory_of (copy);
  return 0;
}

/* Flushes are sent only when all is settled, so that what goes is neither
 * under way nor to be sent.
 */
void
nbd_kept_flushed (struct nbd_kept *kept, uint64_t number)
{
  assert (nbd_kept_is_settled (kept));
  while (kept->first && kept->first->number <= number)
    drop_first (kept);
}

void
nbd_kept_restart (struct nbd_kept *kept)
{
  assert (kept->sent_count == 0);
  kept->next = kept->first;
}

bool
nbd_kept_is_settled (const struct nbd_kept *kept)
{
  return kept->next == NULL && kept->sent_count == 0;
}

static bool
overlaps (const struct fetch *a, const struct fetch *b)
{
  return a->offset < b->offset + b->count && b->offset < a->offset + a->count;
}

struct fetch *
nbd_kept_next (struct nbd_kept *kept)
{
  struct fetch *fetch = kept->next;
  unsigned i;

  if (fetch == NULL || kept->sent_count == NBD_KEPT_SENT_MAX)
    return NULL;
  for (i = 0; i < kept->sent_count; i++)
    if (overlaps (fetch, kept->sent[i]))
      return NULL;
  kept->sent[kept->sent_count++] = fetch;
  kept->next = fetch->kept_next;
  return fetch;
}

void
nbd_kept_ended (struct nbd_kept *kept, struct fetch *fetch)
{
  unsigned i = 0;

  while (kept->sent[i] != fetch)
    i++;
  kept->sent[i] = kept->sent[--kept->sent_count];
  if (fetch->error < 0 && fetch->error != -ENOTCONN &&
      fetch->error != -ESHUTDOWN && kept->error == 0)
    kept->error = fetch->error;
}
