/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Run a fuzzer's inputs without libFuzzer, with any compiler:
 *
 *   fuzz-NAME [-runs=N] [-seed=N] FILE|DIRECTORY ...
 *
 * First all of the inputs, then N that are made of them.  One that takes more
 * than SECONDS_MAX, and a process of more than MEMORY_MAX, is a failure; the
 * input that failed is written to fuzz-failed.
 */

#include <config.h>

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>

#include "../crash/random.h"
#include "fuzz.h"

#define SECONDS_MAX 30          /* of processor time */
#define MEMORY_MAX_KIB (1L << 20)
#define INPUT_MAX ((size_t) 1 << 16)

struct input {
  uint8_t *data;
  size_t size;
};

static struct input *inputs;
static size_t input_count;
static struct random seeded;
static const struct input *running;

/* ---- What fails ---- */

static void
keep_input (int signal_number)
{
  int fd = open ("fuzz-failed", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC,
                 0644);
  ssize_t r = -1;

  if (fd != -1 && running)
    r = write (fd, running->data, running->size);
  if (r >= 0)
    r = write (2, "fuzz: the input is in fuzz-failed\n", 34);
  (void) r;
  signal (signal_number, SIG_DFL);
  raise (signal_number);
}

static void
took_too_long (int signal_number)
{
  static const char text[] = "fuzz: broken: it takes too long\n";
  ssize_t r = write (2, text, sizeof text - 1);

  (void) r;
  (void) signal_number;
  abort ();
}

static void
run_one (const struct input *input)
{
  const struct itimerval limit = { .it_value.tv_sec = SECONDS_MAX };
  struct rusage usage;
  uint8_t *copy = malloc (input->size ? input->size : 1);

  if (copy == NULL)
    abort ();
  memcpy (copy, input->data, input->size);      /* of that size exactly */
  running = input;
  setitimer (ITIMER_PROF, &limit, NULL);
  LLVMFuzzerTestOneInput (copy, input->size);
  setitimer (ITIMER_PROF, &(struct itimerval) { .it_value.tv_sec = 0 }, NULL);
  free (copy);
  getrusage (RUSAGE_SELF, &usage);
  if (usage.ru_maxrss > MEMORY_MAX_KIB)
    fuzz_fail ("it takes %ld KiB of memory", usage.ru_maxrss);
  running = NULL;
}

/* ---- Inputs from files ---- */

static void
add_file (const char *path)
{
  struct input input = { malloc (INPUT_MAX), 0 };
  FILE *file = fopen (path, "rb");

  if (file == NULL || input.data == NULL) {
    perror (path);
    exit (1);
  }
  input.size = fread (input.data, 1, INPUT_MAX, file);
  fclose (file);
  inputs = realloc (inputs, (input_count + 1) * sizeof *inputs);
  if (inputs == NULL)
    abort ();
  inputs[input_count++] = input;
}

static void
add (const char *path)
{
  struct dirent **names;
  struct stat st;
  char *below;
  int n, i;

  if (stat (path, &st) == -1 || !S_ISDIR (st.st_mode)) {
    add_file (path);
    return;
  }
  n = scandir (path, &names, NULL, alphasort);
  for (i = 0; i < n; i++) {
    if (names[i]->d_name[0] != '.' &&
        asprintf (&below, "%s/%s", path, names[i]->d_name) > 0) {
      add_file (below);
      free (below);
    }
    free (names[i]);
  }
  if (n >= 0)
    free (names);
}

/* ---- Inputs that are made ---- */

static void
change_byte (uint8_t *data, size_t size)
{
  static const uint8_t values[] = { 0, 1, 0x7f, 0x80, 0xff, '"', '{', '\n' };
  uint8_t *p = &data[random_below (&seeded, size)];

  switch (random_below (&seeded, 3)) {
  case 0:
    *p ^= (uint8_t) (1 << random_below (&seeded, 8));
    break;
  case 1:
    *p = values[random_below (&seeded, sizeof values)];
    break;
  default:
    *p = (uint8_t) random_next (&seeded);
  }
}

static size_t
remove_bytes (uint8_t *data, size_t size)
{
  size_t from = random_below (&seeded, size);
  size_t n = random_between (&seeded, 1, size - from < 16 ? size - from : 16);

  memmove (data + from, data + from + n, size - from - n);
  return size - n;
}

/* Bytes of another input, or of this one. */
static size_t
insert_bytes (uint8_t *data, size_t size, size_t max)
{
  const struct input *other = &inputs[random_below (&seeded, input_count)];
  size_t at = random_below (&seeded, size + 1), from, n;

  if (other->size == 0 || size == max)
    return size;
  from = random_below (&seeded, other->size);
  n = random_between (&seeded, 1, other->size - from < 64
                      ? other->size - from : 64);
  if (n > max - size)
    n = max - size;
  memmove (data + at + n, data + at, size - at);
  memcpy (data + at, other->data + from, n);
  return size + n;
}

size_t
LLVMFuzzerMutate (uint8_t *data, size_t size, size_t max_size)
{
  switch (random_below (&seeded, 4)) {
  case 0:
    return insert_bytes (data, size, max_size);
  case 1:
    return size > 1 ? remove_bytes (data, size) : size;
  default:
    if (size > 0)
      change_byte (data, size);
    return size;
  }
}

static void
run_mutant (void)
{
  const struct input *input = &inputs[random_below (&seeded, input_count)];
  struct input mutant = { malloc (INPUT_MAX), input->size };
  uint64_t changes = random_between (&seeded, 1, 6);

  if (mutant.data == NULL)
    abort ();
  memcpy (mutant.data, input->data, input->size);
  while (changes-- > 0)
    mutant.size = LLVMFuzzerMutate (mutant.data, mutant.size, INPUT_MAX);
  run_one (&mutant);
  free (mutant.data);
}

int
main (int argc, char **argv)
{
  uint64_t runs = 0, i;
  size_t n;
  int a;

  for (a = 1; a < argc; a++)
    if (strncmp (argv[a], "-runs=", 6) == 0)
      runs = strtoull (argv[a] + 6, NULL, 10);
    else if (strncmp (argv[a], "-seed=", 6) == 0)
      seeded.state = strtoull (argv[a] + 6, NULL, 10);
    else
      add (argv[a]);
  if (input_count == 0) {
    fprintf (stderr, "usage: %s [-runs=N] [-seed=N] FILE|DIRECTORY ...\n",
             argv[0]);
    return 1;
  }
  signal (SIGPROF, took_too_long);
  signal (SIGABRT, keep_input);
  signal (SIGSEGV, keep_input);
  signal (SIGBUS, keep_input);
  for (n = 0; n < input_count; n++)
    run_one (&inputs[n]);
  for (i = 0; i < runs; i++)
    run_mutant ();
  fprintf (stderr, "fuzz: %zu inputs and %" PRIu64 " made of them: nothing "
           "was found\n", input_count, runs);
  for (n = 0; n < input_count; n++)
    free (inputs[n].data);
  free (inputs);
  return 0;
}
