/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The check of an image that is being served.
 *
 *   hold what is freed -> look at all tables -> look again at each suspect ->
 *   [read the data] -> leaks -> [repair, and look once more] -> let go
 *
 * Tables are read from memory where they are cached, else from the disk, while
 * requests go on.  As what is freed is not reused meanwhile, a cluster that
 * two entries name is shared for certain; what else looks wrong may have
 * changed since it was read, and is looked up again before it is told.
 *
 * Where damage is found, changes are refused (image_damage).  A repair is made
 * in that state, by the rounds of a closed image's (repair.h):
 *
 *   CHANGES   clients change entries; pages may be dirty
 *      | damage is found: refused from here on
 *   REFUSED   requests that were let in before may be under way
 *      | older guards gone (they hold one from the test to the end)
 *   QUIET     no one changes an entry or writes data; pages may be dirty
 *      | write-back, all of it
 *   SETTLED   memory and disk are the same
 *      | older guards gone -> every page is forgotten -> look
 *   KNOWN     the look is what is so; a table that is linked in two places, or
 *      |      overlaps, is cached nowhere with a value that was changed
 *      | one kind of problem is mended, by amendments through the gate (O1)
 *      +---> SETTLED (O3, O4: content, then L2, then L1)
 *      | nothing is left
 *   CHANGES
 *
 * Of the guards the second wait matters: a lookup that has the old L1 entry
 * may still be reading its table into the cache.  Reads never wait for any of
 * this.  Copies are made beside the gate, as no one changes what is copied.
 * In-place writes are changes here: they are refused with the others, so that
 * it can't be seen whether two cached pages are one on disk.
 *
 * If the repair fails the image stays refused, with whatever was mended.
 *
 * On the caller's thread.
 */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "look.h"
#include "repair.h"

struct online {
  struct look look;
  struct space space;           /* what the look entered */
  const struct qed_check_options *options;
  struct qed_check_result *result;
  struct bitmap candidates;     /* clusters that may leak */
  int error;
};

/* ---- Suspects ---- */

static struct qed_request
quiet_request (void)
{
  struct qed_request request;

  qed_request_init (&request, QED_OP_READ, NULL, 0, 0, 0);
  request.wake = amend_no_wake;
  return request;
}

/* As it is, with its reserved bits, which metadata_read_entry leaves out. */
static int
read_entry (struct storage *s, uint64_t where, uint64_t *value)
{
  unsigned char buf[8];
  int r = s->ops->pread (s, buf, sizeof buf, where);

  if (r == 0)
    *value = format_get64 (buf);
  return r;
}

/* What an entry is now, in memory or else on disk.  A cache without room may
 * stay so: dirty pages of an image that has failed are never written.
 */
static int
entry_now (struct qed_image *image, const struct qed_problem *problem,
           uint64_t *value)
{
  const struct amendment a = amend_problem (image, problem, 0);
  struct qed_request request = quiet_request ();
  unsigned char copy[PAGE_BYTES];
  struct page *page;
  int r;

  while ((page = metadata_lock_page (&image->metadata, a.key)) == NULL) {
    r = metadata_load (&image->metadata, a.key, a.page, &request);
    wait_cancel (&request);
    if (r == -ENOBUFS)
      return read_entry (image->storage, problem->where, value);
    if (r < 0)
      return r;
  }
  page_copy (page, copy);
  metadata_unlock_page (&image->metadata, page);
  *value = format_get64 (copy + (size_t) a.index * 8);
  return 0;
}

/* A clean page that is still clean and the same after the disk was read
 * again.
 */
static bool
page_differs (struct qed_image *image, const struct qed_problem *problem)
{
  struct metadata *md = &image->metadata;
  unsigned char before[PAGE_BYTES], after[PAGE_BYTES], disk[PAGE_BYTES];
  struct storage *s = image->storage;
  struct page *page;
  bool clean = true;
  unsigned i;

  for (i = 0; i < 2 && clean; i++) {
    page = metadata_lock_page (md, problem->value);
    if (page == NULL)
      return false;
    clean = !page->dirty && !page->writing && page->offset == problem->where;
    page_copy (page, i == 0 ? before : after);
    metadata_unlock_page (md, page);
    if (i == 0 && s->ops->pread (s, disk, sizeof disk, problem->where) < 0)
      return false;
  }
  return clean && memcmp (before, after, PAGE_BYTES) == 0 &&
    memcmp (before, disk, PAGE_BYTES) != 0;
}

static bool
is_still_so (struct online *online, const struct qed_problem *problem)
{
  uint64_t value = 0;

  switch (problem->code) {
  case QED_PROBLEM_TABLE_UNREADABLE:
  case QED_PROBLEM_DATA_UNREADABLE:
    return true;
  case QED_PROBLEM_PAGE_DIFFERS:
    return page_differs (online->look.image, problem);
  default:
    return entry_now (online->look.image, problem, &value) < 0 ||
      value == problem->value;
  }
}

/* Those that are no problem any more were none. */
static void
look_again (struct online *online)
{
  struct look *look = &online->look;
  size_t i, kept = 0;

  for (i = 0; i < look->count; i++)
    if (is_still_so (online, &look->problems[i]))
      look->problems[kept++] = look->problems[i];
    else
      look->counts[look->problems[i].code]--;
  look->count = kept;
}

/* Corruption that a check finds stops changes, as if a request had found
 * it.
 */
static void
tell_suspects (struct online *online, bool aloud)
{
  const struct look *look = &online->look;
  char text[QED_PROBLEM_TEXT_SIZE];
  size_t i;

  for (i = 0; i < look->count; i++) {
    if (aloud && online->options->found)
      online->options->found (online->options->opaque, &look->problems[i]);
    if (qed_problem_kind (look->problems[i].code)->severity ==
        QED_SEVERITY_NOTE)
      continue;
    qed_problem_to_text (&look->problems[i], text);
    image_damage (look->image, "%s", text);
  }
}

/* ---- Leaks ---- */

/* What is in use though no table says so. */
static int
add_unnamed (struct online *online)
{
  struct qed_image *image = online->look.image;
  struct bitmap *used = &online->space.used;
  int r = space_add_unnamed (&image->space, used);

  return r == 0 ? cow_add_unnamed (image, used) : r;
}

static void
note_candidate (struct look *look, const struct qed_problem *problem)
{
  struct online *online = (struct online *) look;
  unsigned bits = look->image->geometry.cluster_bits;
  uint64_t i;
  bool was;

  for (i = 0; i < problem->bytes >> bits && online->error == 0; i++)
    online->error = bitmap_set (&online->candidates,
                                (problem->where >> bits) + i, &was);
}

/* Someone may have named a candidate since its entry was read. */
static int
clear_named (struct online *online)
{
  struct look *look = &online->look;
  unsigned bits = look->image->geometry.cluster_bits;
  size_t i;
  bool was;
  int r = look_references (look, &online->candidates);

  for (i = 0; i < look->reference_count && r == 0; i++)
    r = bitmap_set (&online->space.used, look->references[i].entry >> bits,
                    &was);
  if (r == 0 && look->reference_limit != UINT64_MAX)
    r = -EFBIG;                 /* some of it was not seen */
  return r == 0 ? add_unnamed (online) : r;
}

static void
tell_leak (struct look *look, const struct qed_problem *problem)
{
  if (look->options->found)
    look->options->found (look->options->opaque, problem);
}

/* The candidates that are left, run by run. */
static void
tell_candidates (struct online *online,
                 void (*leak) (struct look *look,
                               const struct qed_problem *problem))
{
  struct look *look = &online->look;
  struct bitmap *used = &online->space.used;
  unsigned bits = look->image->geometry.cluster_bits;
  uint64_t limit = look_leaks_end (look), at = online->space.base, end;
  struct qed_problem problem = { .code = QED_PROBLEM_LEAK };

  while ((at = bitmap_next_set (&online->candidates, at, limit)) < limit) {
    for (end = at; end < limit && bitmap_test (&online->candidates, end) &&
           !bitmap_test (used, end); end++)
      ;
    problem.where = at << bits;
    problem.bytes = (end - at) << bits;
    look->counts[QED_PROBLEM_LEAK] += end - at;
    if (end > at)
      leak (look, &problem);
    at = end > at ? end : at + 1;
  }
}

/* What is free and is taken and written to meanwhile looks like a leak, at
 * first.
 */
static int
find_leaks (struct online *online,
            void (*leak) (struct look *look,
                          const struct qed_problem *problem))
{
  struct look *look = &online->look;
  int r = add_unnamed (online);

  bitmap_init (&online->candidates);
  online->error = 0;
  look->counts[QED_PROBLEM_LEAK] = look->counts[QED_PROBLEM_FREE] = 0;
  if (r == 0)
    r = look_leaks (look, note_candidate);
  if (r == 0)
    r = online->error;
  if (r == 0 && online->candidates.count > 0)
    r = clear_named (online);
  look->counts[QED_PROBLEM_LEAK] = 0;
  if (r == 0 && online->candidates.count > 0)
    tell_candidates (online, leak);
  bitmap_destroy (&online->candidates);
  return r;
}

/* ---- Repair ---- */

/* Clusters that are free are punched, those that were lost become free. */
static void
free_leak (struct look *look, const struct qed_problem *problem)
{
  const struct online *online = (const struct online *) look;
  struct qed_image *image = look->image;
  unsigned bits = image->geometry.cluster_bits;
  struct storage *s = image->storage;
  struct space_run run = { .n = 1 };
  uint64_t length = atomic_load (&image->space.length_bytes);
  uint64_t i, end = space_end (&image->space);
  bool given = false;

  if (problem->where >> bits >= online->space.end)
    atomic_store (&image->cut_wanted, true);
  for (i = 0; i < problem->bytes >> bits; i++) {
    run.first = (problem->where >> bits) + i;
    if (run.first << bits >= length) {  /* cut off meanwhile */
      look->counts[QED_PROBLEM_LEAK]--;
      continue;
    }
    if (!space_borrow (&image->space, run.first))
      continue;
    if (s->ops->punch (s, run.first << bits, UINT64_C (1) << bits) == 0)
      look->counts[QED_PROBLEM_LEAK]--;
    space_release (&image->space, &run);
    given = true;
  }
  space_lower_end (&image->space, end);
  repair_tell (look, problem, given
               ? "given back: it is used for what is written next"
               : "is gone: it was cut off or used meanwhile");
}

/* The tables as they are when no client changes them any more.  What is lost is
 * told by this look, which knows where a table is linked twice.
 */
static int
mend_all (struct online *online)
{
  struct look *look = &online->look;
  uint64_t unreadable = look->counts[QED_PROBLEM_DATA_UNREADABLE];
  int r = repair_settle (look);

  if (r == 0)
    repair_tell_losses (look, online->result);
  if (r == 0)
    r = repair_mend (look, online->result);
  look->counts[QED_PROBLEM_DATA_UNREADABLE] = unreadable;
  return r;
}

static void
leave_leak (struct look *look, const struct qed_problem *problem)
{
  (void) look;
  (void) problem;
}

/* Another program writes to the file, or the storage or the memory is faulty:
 * forgetting what memory has would decide which of the two is right.
 */
static bool
is_beyond_us (const struct look *look)
{
  if (look->counts[QED_PROBLEM_PAGE_DIFFERS] == 0)
    return false;
  log_error (&look->image->options.log, "%s: nothing is repaired while the "
             "image is served: pages of tables differ between memory and "
             "disk, and which of them is right can't be known here: find the "
             "cause, then stop the server and check the closed image",
             look->image->path);
  return true;
}

/* Whether the tables are as they should be. */
static bool
is_sound (const struct look *look)
{
  size_t i;

  for (i = 0; i < look->count; i++)
    if (look->problems[i].code != QED_PROBLEM_DATA_UNREADABLE)
      return false;
  return !look->more;
}

/* Because damage was found, or not all tables could be read at open: then the
 * space knows only a part of what is in use.
 */
static bool
is_refused (struct qed_image *image)
{
  return atomic_load (&image->damaged) ||
    atomic_load (&image->refuse) == EROFS;
}

/* ---- The whole ---- */

/* What was freed has been used again while its old entry may have been seen:
 * two things would seem to be in one place.
 */
static int
refuse_broken (const struct look *look)
{
  struct qed_image *image = look->image;

  if (!space_hold_broken (&image->space))
    return 0;
  log_error (&image->options.log, "%s: the check was given up: the storage is "
             "full, and what it kept from being used again was needed: make "
             "room, then check again", image->path);
  return -ENOSPC;
}

static int
look_online (struct online *online, bool aloud)
{
  struct look *look = &online->look;
  size_t tables;
  int r = look_run (look);

  if (r == 0)
    r = refuse_broken (look);
  if (r < 0)
    return r;
  look_again (online);
  tell_suspects (online, aloud);
  tables = look->count;
  if (aloud && online->options->data) {
    r = look_data (look);
    for (; tables < look->count && online->options->found; tables++)
      online->options->found (online->options->opaque,
                              &look->problems[tables]);
  }
  return r;
}

/* As of a closed image: where L1 or a table was wrong, what nothing refers to
 * stays until someone asks for that alone.
 */
static int
repair_online (struct online *online)
{
  struct look *look = &online->look;
  struct qed_image *image = look->image;
  struct qed_check_result first = *online->result;
  bool all = online->options->repair == QED_REPAIR_ALL, known;
  bool mend = is_refused (image) && (all || is_sound (look));
  int r = 0;

  if (is_beyond_us (look))
    return 0;
  if (mend)
    r = mend_all (online);
  known = look->leaks_known && !look->orphans;
  if (r == 0)
    r = find_leaks (online, known ? free_leak : leave_leak);
  check_fill_result (look, online->result);
  if (r < 0)
    return r;
  check_count_fixed (&first, online->result);
  if (is_sound (look) && known)
    space_complete (&image->space);
  if (mend && is_sound (look)) {
    guard_wait (&image->guards);        /* who saw what was wrong has told it */
    image_mended (image);
  }
  return atomic_load (&image->cut_wanted)
    ? qed_request_sync (image, QED_OP_CLEAN, NULL, 0, 0, 0) : 0;
}

static int
check (struct online *online)
{
  struct look *look = &online->look;
  int r = look_online (online, true);

  if (r == 0 && online->options->repair == QED_REPAIR_NONE)
    repair_tell_losses (look, online->result);
  if (r == 0)
    r = find_leaks (online, tell_leak);
  memcpy (online->result->counts, look->counts, sizeof look->counts);
  check_fill_result (look, online->result);
  if (r == 0 && online->options->repair != QED_REPAIR_NONE)
    r = repair_online (online);
  return r;
}

int
qed_check_online (struct qed_image *image,
                  const struct qed_check_options *options,
                  struct qed_check_result *result)
{
  struct online online = {
    .look = { .image = image, .options = options, .online = true },
    .options = options,
    .result = result,
  };
  int r;

  memset (result, 0, sizeof *result);
  if (options->repair != QED_REPAIR_NONE && image->read_only)
    return -EROFS;
  qed_request_sync (image, QED_OP_READY, NULL, 0, 0, 0);
  qed_wait_scanned (image);     /* both would say what is in use */
  r = space_init (&online.space, &image->geometry, image->storage,
                  atomic_load (&image->space.length_bytes));
  if (r < 0)
    return r;
  online.look.space = &online.space;
  r = space_hold (&image->space);
  if (r == 0) {
    guard_wait (&image->guards);        /* what was reserved is named now */
    r = check (&online);
    space_release_hold (&image->space);
    image_kick (image);
  }
  result->need_check = atomic_load (&image->need_check);
  look_free (&online.look);
  space_destroy (&online.space);
  return r;
}
