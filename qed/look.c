/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "look.h"
#include "survey.h"

/* Reads in flight: in a file they take threads, on a server they hide its
 * distance.
 */
#define WALKERS_FILE 4u
#define WALKERS_SERVED 2u       /* the loop's other threads are for clients */
#define WALKERS_SOCKET 32u

/* So many problems are kept; the others are only counted, and a repair finds
 * them in its next round.  Wrong values of L2 entries leave room for what is
 * to be mended before them.
 */
#define PROBLEMS_MAX ((size_t) 1 << 18)
#define VALUES_MAX (PROBLEMS_MAX / 8 * 7)

struct looking {
  struct job job;
  struct loop_task start;
  struct look *look;
  struct survey survey;
  const struct bitmap *wanted;  /* only who refers to these */

  pthread_mutex_t lock;         /* protects 'ended' */
  pthread_cond_t cond;
  bool ended;
  _Atomic bool cancelled;
  bool missed;                  /* references that are wanted, perhaps */
};

/* ---- Problems ---- */

static bool
grow_list (void **list, size_t count, size_t *capacity, size_t size)
{
  size_t n = *capacity ? *capacity * 2 : 64;
  void *p;

  if (count < *capacity)
    return true;
  if (count >= PROBLEMS_MAX || (p = realloc (*list, n * size)) == NULL)
    return false;
  *list = p;
  *capacity = n;
  return true;
}

/* Put it into one of the lists, unless that holds 'most' already. */
static void
list_problem (struct look *look, struct qed_problem **list, size_t *count,
              size_t *capacity, size_t most, const struct qed_problem *problem)
{
  void *p = *list;

  if (*count < most && grow_list (&p, *count, capacity, sizeof *problem)) {
    *list = p;
    (*list)[(*count)++] = *problem;
    return;
  }
  look->more = true;
  look->starved |= *count < most;
}

static bool
is_value (enum qed_problem_code code)
{
  return code >= QED_PROBLEM_L2_PAST_END &&
    code <= QED_PROBLEM_ENTRY_INTO_HEADER;
}

void
look_add_problem (struct look *look, const struct qed_problem *problem)
{
  look->counts[problem->code]++;
  list_problem (look, &look->problems, &look->count, &look->capacity,
                is_value (problem->code) ? VALUES_MAX : PROBLEMS_MAX, problem);
}

/* Where tables or L1 are not as they should be, what they named may be in use
 * all the same.
 */
static bool
hides_references (enum qed_problem_code code)
{
  return code >= QED_PROBLEM_L1_PAST_END &&
    code <= QED_PROBLEM_TABLE_UNREADABLE;
}

static void
found (struct survey *survey, const struct qed_problem *problem)
{
  struct looking *looking = (struct looking *)
    ((char *) survey - offsetof (struct looking, survey));

  if (looking->wanted) {        /* the first look has named it */
    looking->missed |= hides_references (problem->code);
    return;
  }
  if (hides_references (problem->code))
    looking->look->leaks_known = false;
  look_add_problem (looking->look, problem);
}

static void
suspect (struct survey *survey, const struct qed_problem *problem)
{
  struct look *look = ((struct looking *) ((char *) survey - offsetof
                                           (struct looking, survey)))->look;

  list_problem (look, &look->suspects, &look->suspect_count,
                &look->suspect_capacity, PROBLEMS_MAX, problem);
}

static int
compare_references (const void *a, const void *b)
{
  const struct look_reference *s = a, *t = b;

  if (s->entry != t->entry)
    return s->entry < t->entry ? -1 : 1;
  return s->cluster < t->cluster ? -1 : s->cluster > t->cluster;
}

/* There are too many: those to the last clusters go, so that what is kept of
 * the others is all there is; but of a single cluster's what came first.
 */
static void
narrow (struct look *look)
{
  struct look_reference *list = look->references;
  size_t n = look->reference_count, i = n / 2;

  look->more = true;
  if (look->reference_limit == list[0].entry + 1)
    return;
  qsort (list, n, sizeof *list, compare_references);
  while (i > 0 && list[i - 1].entry == list[i].entry)
    i--;
  while (i < n && list[i].entry == list[0].entry)
    i++;
  look->reference_limit = i < n ? list[i].entry : list[0].entry + 1;
  look->reference_count = i;
}

static int
shared_entry (struct survey *survey, uint64_t where, uint64_t entry,
              uint64_t cluster)
{
  struct look *look = ((struct looking *) ((char *) survey - offsetof
                                           (struct looking, survey)))->look;
  void *list = look->references;

  if (entry >= look->reference_limit)
    return 0;
  if (!grow_list (&list, look->reference_count, &look->reference_capacity,
                  sizeof *look->references)) {
    if (look->reference_count == 0)
      return -ENOMEM;
    narrow (look);
    if (entry >= look->reference_limit ||
        look->reference_count == look->reference_capacity)
      return 0;
    list = look->references;
  }
  look->references = list;
  look->references[look->reference_count++] =
    (struct look_reference) { entry, cluster, where };
  return 0;
}

/* The first of the guest's addresses keeps the cluster. */
static void
report_references (struct looking *looking)
{
  struct look *look = looking->look;
  const struct format_geometry *g = &look->image->geometry;
  const struct look_reference *first = look->references, *ref;
  struct qed_problem problem;
  size_t i;

  if (look->reference_count > 0)
    qsort (look->references, look->reference_count, sizeof *look->references,
           compare_references);
  for (i = 1; i < look->reference_count; i++) {
    ref = &look->references[i];
    if (ref->entry != first->entry) {
      first = ref;
      continue;
    }
    problem = (struct qed_problem) {
      .code = QED_PROBLEM_CLUSTER_SHARED,
      .where = ref->where,
      .value = ref->entry,
    };
    survey_set_guest (g, &problem, 0, first->cluster, 1);
    problem.other = problem.guest;
    survey_set_guest (g, &problem, 0, ref->cluster, 1);
    look_add_problem (look, &problem);
  }
}

static int
compare_problems (const void *a, const void *b)
{
  const struct qed_problem *p = a, *q = b;

  return p->where < q->where ? -1 : p->where > q->where;
}

/* ---- The job (loop) ---- */

static struct looking *
looking_of (struct job *job)
{
  return (struct looking *) job;
}

static int walk_l1 (struct job *job);
static int sort_tables (struct job *job);
static int walk_l2 (struct job *job);
static int walk_doubtful (struct job *job);
static int name_shared (struct job *job);

static const struct job_step look_steps[] = {
  { "walk-l1",          walk_l1 },
  { "sort-tables",      sort_tables },
  { "walk-l2",          walk_l2 },
  { "walk-doubtful",    walk_doubtful },
  { "name-shared",      name_shared },
  { NULL, NULL }
};

static int
walk_l1 (struct job *job)
{
  survey_l1 (&looking_of (job)->survey);
  return JOB_WAIT;
}

static int
sort_tables (struct job *job)
{
  return survey_sort_tables (&looking_of (job)->survey);
}

static int
walk_l2 (struct job *job)
{
  if (looking_of (job)->wanted)
    return JOB_NEXT;
  survey_l2 (&looking_of (job)->survey);
  return JOB_WAIT;
}

static int
walk_doubtful (struct job *job)
{
  if (looking_of (job)->wanted)
    return JOB_NEXT;
  survey_doubtful (&looking_of (job)->survey);
  return JOB_WAIT;
}

static int
name_shared (struct job *job)
{
  struct looking *looking = looking_of (job);

  survey_name (&looking->survey,
               looking->wanted ? looking->wanted : &looking->survey.shared);
  return JOB_WAIT;
}

static void
look_done (struct job *job)
{
  struct looking *looking = looking_of (job);

  pthread_mutex_lock (&looking->lock);
  looking->ended = true;
  pthread_cond_signal (&looking->cond);
  pthread_mutex_unlock (&looking->lock);
}

static void
start (struct loop_task *task)
{
  struct looking *looking = (struct looking *)
    ((char *) task - offsetof (struct looking, start));

  job_start (&looking->job);
}

static int
may_go_on (struct survey *survey)
{
  struct looking *looking = (struct looking *)
    ((char *) survey - offsetof (struct looking, survey));

  return atomic_load (&looking->cancelled) ? -ECANCELED : 0;
}

/* ---- The call ---- */

/* What is referenced is entered anew. */
static int
reset_space (struct look *look)
{
  struct qed_image *image = look->image;
  struct storage *s = image->storage;
  uint64_t length;
  int r = s->ops->length (s, &length);

  if (r < 0)
    return r;
  look->length = length < atomic_load (&image->space.frozen_bytes)
    ? length : space_reach (&image->space);
  return space_reset (look->space, &image->geometry, s, length);
}

/* Ten times a second, tell how far it is.  With the lock held. */
static void
wait_slice (struct looking *looking)
{
  struct survey *survey = &looking->survey;
  uint64_t known = atomic_load (&survey->tables_known);
  struct timespec until;

  if (looking->wanted == NULL &&
      qed_progress_tell (&looking->look->options->progress,
                         atomic_load (&survey->tables_read), known) < 0) {
    atomic_store (&looking->cancelled, true);
    storage_give_up (looking->look->image->storage);
  }
  clock_gettime (CLOCK_REALTIME, &until);
  until.tv_nsec += 100000000;
  if (until.tv_nsec >= 1000000000) {
    until.tv_nsec -= 1000000000;
    until.tv_sec++;
  }
  pthread_cond_timedwait (&looking->cond, &looking->lock, &until);
}

static void
run_job (struct looking *looking)
{
  loop_post (looking->look->image->loop, &looking->start);
  pthread_mutex_lock (&looking->lock);
  while (!looking->ended)
    wait_slice (looking);
  pthread_mutex_unlock (&looking->lock);
}

static int
compare_twins (const void *a, const void *b)
{
  const struct look_twin *s = a, *t = b;

  return s->offset < t->offset ? -1 : s->offset > t->offset;
}

static int
find_twins (struct look *look)
{
  uint64_t l1 = look->image->geometry.l1_offset;
  const struct qed_problem *problem;
  size_t i;

  if (look->counts[QED_PROBLEM_TABLE_SHARED] == 0)
    return 0;
  look->twins = calloc (look->count, sizeof *look->twins);
  if (look->twins == NULL)
    return -ENOMEM;
  for (i = 0; i < look->count; i++) {
    problem = &look->problems[i];
    if (problem->code == QED_PROBLEM_TABLE_SHARED)
      look->twins[look->twin_count++] =
        (struct look_twin) { problem->value, (problem->where - l1) / 8 };
  }
  qsort (look->twins, look->twin_count, sizeof *look->twins, compare_twins);
  return 0;
}

static int
compare_l1_index (const void *a, const void *b)
{
  const struct walk_table *s = a, *t = b;

  return s->l1_index < t->l1_index ? -1 : s->l1_index > t->l1_index;
}

/* What lies in a table that was set apart and in a cluster of data, too. */
static void
mark_data (struct looking *looking)
{
  struct look *look = looking->look;
  unsigned bits = look->image->geometry.cluster_bits;
  size_t i;

  for (i = 0; i < look->suspect_count; i++)
    if (bitmap_test (&looking->survey.shared, look->suspects[i].where >> bits))
      look->suspects[i].other = UINT64_MAX;
}

static int
conclude (struct looking *looking)
{
  struct look *look = looking->look;
  struct survey *survey = &looking->survey;

  report_references (looking);
  mark_data (looking);
  if (look->more && look->counts[QED_PROBLEM_CLUSTER_SHARED] < survey->clashes)
    look->counts[QED_PROBLEM_CLUSTER_SHARED] = survey->clashes;
  if (look->count > 0)
    qsort (look->problems, look->count, sizeof *look->problems,
           compare_problems);
  look->sound = survey->whole;
  look->allocated = survey->allocated;
  look->fragmented = survey->fragmented;
  look->tables = survey->tables.list;
  look->table_count = survey->tables.count;
  survey->tables.list = NULL;
  look->doubtful = survey->doubtful.list;
  look->doubtful_count = survey->doubtful.count;
  survey->doubtful.list = NULL;
  if (look->doubtful_count > 0)
    qsort (look->doubtful, look->doubtful_count, sizeof *look->doubtful,
           compare_l1_index);
  return find_twins (look);
}

static int
run_looking (struct look *look, const struct bitmap *wanted)
{
  struct qed_image *image = look->image;
  struct looking looking = {
    .look = look,
    .start.run = start,
    .wanted = wanted,
    .job = {
      .name = "look", .steps = look_steps, .done = look_done,
      .log = &image->options.log, .about = image->path,
    },
    .survey = {
      .image = image, .space = look->space, .job = &looking.job,
      .online = look->online,
      .width = image->storage->ops->submit ? WALKERS_SOCKET
        : look->online ? WALKERS_SERVED : WALKERS_FILE,
      .control = look->options->control, .found = found,
      .suspect = suspect,
      .shared_entry = shared_entry, .may_go_on = may_go_on,
    },
  };
  int r = survey_init (&looking.survey);

  if (r < 0)
    return r;
  look->reference_count = 0;
  look->reference_limit = UINT64_MAX;
  pthread_mutex_init (&looking.lock, NULL);
  pthread_cond_init (&looking.cond, NULL);
  run_job (&looking);
  r = looking.job.error;
  if (r == 0 && looking.missed)
    r = -EIO;
  if (r == 0 && wanted == NULL)
    r = conclude (&looking);
  pthread_cond_destroy (&looking.cond);
  pthread_mutex_destroy (&looking.lock);
  survey_destroy (&looking.survey);
  return r;
}

static void
free_tables (struct look *look)
{
  free (look->tables);
  free (look->doubtful);
  free (look->twins);
  look->tables = look->doubtful = NULL;
  look->twins = NULL;
  look->table_count = look->doubtful_count = look->twin_count = 0;
}

static void
keep_floor (struct look *look)
{
  struct space *space = look->space;

  if (space->end < look->floor)
    space->end = look->floor;
}

/* Behind the last data of a file that can't grow there is nothing to keep. */
static uint64_t
end_of_data (const struct look *look)
{
  struct storage *s = look->image->storage;
  uint64_t at = look->space->end << look->image->geometry.cluster_bits;
  uint64_t end = at, start;
  int r = 0;

  while (at < look->length) {
    r = s->ops->next_data (s, at, &start, &at);
    if (r < 0)
      return look->length;
    if (start < look->length)
      end = at;
  }
  return end < look->length ? end : look->length;
}

void
look_keep_tail (struct look *look)
{
  const struct storage *s = look->image->storage;
  uint64_t size = look->image->geometry.cluster_size, end;

  look->orphans = true;
  if (!s->fixed) {
    end = s->can_grow ? look->length : end_of_data (look);
    look->floor = end / size + (end % size > 0);
  }
  keep_floor (look);
}

int
look_run (struct look *look)
{
  int r = reset_space (look);

  free_tables (look);
  look->count = look->suspect_count = 0;
  look->more = look->starved = false;
  look->leaks_known = true;
  memset (look->counts, 0, sizeof look->counts);
  if (r == 0)
    r = run_looking (look, NULL);
  if (r == 0)
    keep_floor (look);
  return r;
}

int
look_references (struct look *look, const struct bitmap *wanted)
{
  return run_looking (look, wanted);
}

void
look_free (struct look *look)
{
  free_tables (look);
  free (look->problems);
  free (look->suspects);
  free (look->references);
  look->problems = look->suspects = NULL;
  look->references = NULL;
}

const struct walk_table *
look_table_at (const struct look *look, uint64_t place)
{
  return survey_find_table (&look->image->geometry, look->tables,
                            look->table_count, place);
}

void
look_table_range (const struct look *look, uint64_t l1_index, uint64_t first,
                  uint64_t *guest, uint64_t *bytes)
{
  const struct format_geometry *g = &look->image->geometry;
  struct qed_problem problem;

  survey_set_guest (g, &problem, l1_index, first, g->entries - first);
  *guest = problem.guest;
  *bytes = problem.guest_bytes;
}
