/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <stdlib.h>
#include <string.h>

#include "fake-blocks.h"

struct storage sock;
unsigned char content[LENGTH], model[LENGTH];
int length_error;

/* ---- Memory ---- */

unsigned allocations = UINT32_MAX;

static bool
fails (void)
{
  return allocations != UINT32_MAX && allocations-- == 0;
}

void *__real_malloc (size_t n);
void *__wrap_malloc (size_t n);
void *
__wrap_malloc (size_t n)
{
  return fails () ? NULL : __real_malloc (n);
}

void *__real_calloc (size_t n, size_t size);
void *__wrap_calloc (size_t n, size_t size);
void *
__wrap_calloc (size_t n, size_t size)
{
  return fails () ? NULL : __real_calloc (n, size);
}

/* ---- Fetches ---- */

/* The next 'times' fetches of this kind fail. */
static struct {
  enum fetch_op op;
  int error;
  unsigned skip, times;
} plan;

unsigned calls[FETCH_FLUSH + 1];

const struct piece *pieces;
uint64_t told_at_most;

static int
sock_length (struct storage *s, uint64_t *length)
{
  (void) s;
  *length = LENGTH;
  return length_error;
}

static int
sock_pread (struct storage *s, void *buf, size_t count, uint64_t offset)
{
  return fetch_pread (s, buf, count, offset);
}

static void
describe (struct fetch *fetch)
{
  const struct piece *piece = pieces;
  uint64_t at = 0, end = fetch->offset + fetch->count, to, from;

  if (fetch->count > told_at_most)
    end = fetch->offset + told_at_most;
  fetch->extents = __real_calloc (100, sizeof *fetch->extents);
  assert_non_null (fetch->extents);
  for (; at < end; at = to, piece += piece->kib > 0) {
    to = piece->kib > 0 ? at + piece->kib * KIB : end;
    from = at > fetch->offset ? at : fetch->offset;
    if (to > end)
      to = end;
    if (to > from)
      fetch->extents[fetch->extent_count++] = (struct fetch_extent) {
        to - from, piece->kib > 0 ? piece->kind : QED_EXTENT_HOLE };
  }
}

static int
carry_out (struct fetch *fetch)
{
  if (fetch->op != FETCH_FLUSH) {
    assert_true (fetch->count > 0);
    assert_true (fetch->offset + fetch->count <= LENGTH);
  }
  if (fetch_changes (fetch->op)) {
    assert_int_equal (fetch->offset % BLOCK, 0);
    assert_true ((fetch->offset + fetch->count) % BLOCK == 0 ||
                 fetch->offset + fetch->count == LENGTH);
  }
  if (plan.times > 0 && fetch->op == plan.op) {
    if (plan.skip > 0)
      plan.skip--;
    else {
      plan.times--;
      return plan.error;
    }
  }
  switch (fetch->op) {
  case FETCH_READ:
    fetch->data = fetch->buf = __real_malloc (fetch->count);
    assert_non_null (fetch->buf);
    memcpy (fetch->data, content + fetch->offset, fetch->count);
    break;
  case FETCH_EXTENTS:
    describe (fetch);
    break;
  case FETCH_WRITE:
    memcpy (content + fetch->offset, fetch->buf, fetch->count);
    break;
  case FETCH_ZERO:
  case FETCH_PUNCH:
    memset (content + fetch->offset, 0, fetch->count);
    break;
  case FETCH_CACHE:
  case FETCH_FLUSH:
    break;
  }
  return 0;
}

static void
sock_submit (struct storage *s, struct fetch *fetch)
{
  (void) s;
  calls[fetch->op]++;
  fetch_end (fetch, carry_out (fetch));
}

static const struct storage_ops sock_ops = {
  .length = sock_length, .pread = sock_pread, .submit = sock_submit,
};

struct fetch_blocks blocks;
struct fetch_window window;

int
blocks_setup (void **state)
{
  static const struct piece nothing[] = { { 0, QED_EXTENT_HOLE } };
  size_t i;

  (void) state;
  sock = (struct storage) { .ops = &sock_ops, .block = BLOCK };
  for (i = 0; i < LENGTH; i++)
    content[i] = (unsigned char) (i * 5 + i / 509 + 1);
  memcpy (model, content, LENGTH);
  memset (calls, 0, sizeof calls);
  memset (&plan, 0, sizeof plan);
  length_error = 0;
  pieces = nothing;
  told_at_most = UINT64_MAX;
  fetch_blocks_init (&blocks);
  fetch_window_init (&window);
  return 0;
}

int
blocks_teardown (void **state)
{
  (void) state;
  fetch_blocks_destroy (&blocks);
  fetch_window_destroy (&window);
  return 0;
}

void
fail_next (enum fetch_op op, int error, unsigned skip)
{
  plan.op = op;
  plan.error = error;
  plan.skip = skip;
  plan.times = 1;
}

void
expect_content (void)
{
  assert_memory_equal (content, model, LENGTH);
}
