/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "reduce.h"

#define THINGS_MAX 65536u       /* of a kind, in a life */
#define SCHEDULES 4u            /* that are tried, at most, for each request */
#define PART_BITS 21u           /* of each of the three numbers */
#define PART_MAX ((UINT64_C (1) << PART_BITS) - 1)

static const char letters[REDUCE_KINDS] = { 'r', 'c', 'w' };

/* Names, in order. */
struct things {
  size_t count;
  uint64_t names[THINGS_MAX];
};

static struct {
  bool restricted[REDUCE_KINDS];
  struct things kept[REDUCE_KINDS];
  struct things *met;           /* by the last child; shared with it */
  void (*run) (void *arg);
  void *arg;
  time_t deadline;
} reduction;

uint64_t reduce_schedule;

/* ---- Things ---- */

static uint64_t
name_of (uint64_t a, uint64_t b, uint64_t c)
{
  return (a << PART_BITS | b) << PART_BITS | c;
}

static int
compare (const void *a, const void *b)
{
  uint64_t s = *(const uint64_t *) a, t = *(const uint64_t *) b;

  return s < t ? -1 : s > t;
}

static bool
contains (const struct things *things, uint64_t name)
{
  return bsearch (&name, things->names, things->count, sizeof name, compare);
}

static void
sort (struct things *things)
{
  size_t i, n = 0;

  qsort (things->names, things->count, sizeof things->names[0], compare);
  for (i = 0; i < things->count; i++)
    if (i == 0 || things->names[i] != things->names[n - 1])
      things->names[n++] = things->names[i];
  things->count = n;
}

static bool
add (struct things *things, uint64_t name)
{
  if (things->count == THINGS_MAX)
    return false;
  things->names[things->count++] = name;
  return true;
}

bool
reduce_has (enum reduce_kind kind, uint64_t a, uint64_t b, uint64_t c)
{
  uint64_t name = name_of (a, b, c);
  bool has = !reduction.restricted[kind] ||
    contains (&reduction.kept[kind], name);

  if (has && reduction.met)
    add (&reduction.met[kind], name);
  return has;
}

/* ---- As text ---- */

static void
print_name (FILE *out, char letter, uint64_t name)
{
  fprintf (out, "%c%" PRIu64 ".%" PRIu64 ".%" PRIu64, letter,
           name >> 2 * PART_BITS, name >> PART_BITS & PART_MAX,
           name & PART_MAX);
}

static void
print_kind (FILE *out, char letter, const struct things *things)
{
  size_t i, last;

  if (things->count == 0)
    fprintf (out, "%c-", letter);
  for (i = 0; i < things->count; i = last + 1) {
    for (last = i; last + 1 < things->count &&
         things->names[last + 1] == things->names[last] + 1; last++)
      ;
    if (i > 0)
      fputc (',', out);
    print_name (out, letter, things->names[i]);
    if (last > i)
      fprintf (out, "-%" PRIu64, things->names[last] & PART_MAX);
  }
}

void
reduce_print (FILE *out)
{
  const char *before = " --only ";
  unsigned i;

  if (reduce_schedule != 0)
    fprintf (out, " --schedule %" PRIu64, reduce_schedule);
  for (i = 0; i < REDUCE_KINDS; i++)
    if (reduction.restricted[i]) {
      fputs (before, out);
      print_kind (out, letters[i], &reduction.kept[i]);
      before = ",";
    }
}

static bool
parse_part (const char **s, char before, uint64_t *part)
{
  char *end;

  if (**s != before)
    return false;
  *part = strtoull (*s + 1, &end, 10);
  if (end == *s + 1 || *part > PART_MAX)
    return false;
  *s = end;
  return true;
}

/* "r1.0.3", "r1.0.3-7" or "r-" */
static bool
parse_one (const char **s)
{
  const char *letter = memchr (letters, **s, sizeof letters);
  uint64_t a, b, c, last;
  enum reduce_kind kind;

  if (letter == NULL)
    return false;
  kind = (enum reduce_kind) (letter - letters);
  reduction.restricted[kind] = true;
  if ((*s)[1] == '-' && ((*s)[2] == ',' || (*s)[2] == '\0')) {
    *s += 2;
    return true;
  }
  if (!parse_part (s, *letter, &a) || !parse_part (s, '.', &b) ||
      !parse_part (s, '.', &c))
    return false;
  last = c;
  if (**s == '-' && !parse_part (s, '-', &last))
    return false;
  for (; c <= last; c++)
    if (!add (&reduction.kept[kind], name_of (a, b, c)))
      return false;
  return true;
}

bool
reduce_parse (const char *list)
{
  unsigned i;

  for (; parse_one (&list) && *list == ','; list++)
    ;
  for (i = 0; i < REDUCE_KINDS; i++)
    sort (&reduction.kept[i]);
  return *list == '\0';
}

/* ---- Children ---- */

static void
be_quiet (void)
{
  int null = open ("/dev/null", O_WRONLY);

  dup2 (null, STDOUT_FILENO);
  dup2 (null, STDERR_FILENO);
}

bool
reduce_in_child (void (*run) (void *arg), void *arg, bool quiet)
{
  int status;
  pid_t pid;

  fflush (NULL);
  pid = fork ();
  if (pid == 0) {
    if (quiet)
      be_quiet ();
    run (arg);
    fflush (NULL);
    _exit (0);
  }
  if (pid < 0 || waitpid (pid, &status, 0) < 0)
    abort ();
  return WIFEXITED (status) && WEXITSTATUS (status) == 0;
}

/* ---- Leaving out ---- */

static bool
fails (void)
{
  unsigned i;

  for (i = 0; i < REDUCE_KINDS; i++)
    reduction.met[i].count = 0;
  return !reduce_in_child (reduction.run, reduction.arg, true);
}

static bool
fails_somehow (enum reduce_kind kind)
{
  uint64_t was = reduce_schedule, i;

  for (i = 0; i < (kind == REDUCE_REQUEST ? SCHEDULES : 1); i++) {
    reduce_schedule = (was + i) % (SCHEDULES * 2);
    if (fails ())
      return true;
  }
  reduce_schedule = was;
  return false;
}

/* Without those, if it fails still; what wasn't met goes too. */
static bool
try_without (enum reduce_kind kind, size_t from, size_t n)
{
  struct things *kept = &reduction.kept[kind];
  struct things *was = malloc (sizeof *was);
  bool good;

  if (was == NULL)
    abort ();
  *was = *kept;
  kept->count -= n;
  memmove (kept->names + from, kept->names + from + n,
           (kept->count - from) * sizeof kept->names[0]);
  good = fails_somehow (kind);
  if (good) {
    *kept = reduction.met[kind];
    sort (kept);
  }
  else
    *kept = *was;
  free (was);
  return good;
}

static bool
in_time (void)
{
  return time (NULL) < reduction.deadline;
}

static void
reduce_things (enum reduce_kind kind)
{
  struct things *kept = &reduction.kept[kind];
  size_t chunk, from;

  *kept = reduction.met[kind];
  sort (kept);
  reduction.restricted[kind] = true;
  for (chunk = kept->count; chunk > 0; chunk /= 2)
    for (from = 0; from < kept->count && in_time (); )
      if (!try_without (kind, from, chunk < kept->count - from
                        ? chunk : kept->count - from))
        from += chunk;
}

void
reduce (void (*run) (void *arg), void *arg, unsigned seconds)
{
  unsigned i;

  reduction.run = run;
  reduction.arg = arg;
  reduction.met = mmap (NULL, REDUCE_KINDS * sizeof *reduction.met,
                        PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                        -1, 0);
  if (reduction.met == MAP_FAILED)
    abort ();
  for (i = 0; i < REDUCE_KINDS; i++) {
    reduction.deadline = time (NULL) + seconds / REDUCE_KINDS + 1;
    if (!fails ())
      break;                    /* it depends on more than the seed */
    reduce_things ((enum reduce_kind) i);
  }
  munmap (reduction.met, REDUCE_KINDS * sizeof *reduction.met);
  reduction.met = NULL;
}
