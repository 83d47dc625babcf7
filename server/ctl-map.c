/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* qedctl map: where an image is allocated, in which file of its chain, and
 * how fragmented it is.
 */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdio_ext.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "ctl-map.h"

/* The tables are read once, in order: more would not be used again. */
#define CACHE_BYTES (UINT64_C (1) << 20)

struct settings {
  bool json, strip;
  const char *svg;              /* or NULL */
  uint64_t start, max_length;
};

/* The listing under way, and what is fed with it. */
struct listing {
  const struct ctl_map_image *image;
  struct ctl_map_totals totals;
  bool json;
  int start_width, mapped_width;        /* of the columns */
  struct qed_map_extent last;
  struct ctl_map_bins *strip;           /* or NULL */
  struct ctl_map_svg *svg;              /* or NULL */
  int error;                            /* errno, if stdout failed */
};

/* ---- Sums -------------------------------------------------------------- */

void
ctl_map_share_to_text (uint64_t part, uint64_t whole,
                       char text[CTL_MAP_SHARE_TEXT])
{
  double percent = whole == 0 ? 0 : 100. * (double) part / (double) whole;

  if (part == 0 || part == whole)
    snprintf (text, CTL_MAP_SHARE_TEXT, "%s %%", part == 0 ? "0" : "100");
  else if (percent < 0.01)
    snprintf (text, CTL_MAP_SHARE_TEXT, "< 0.01 %%");
  else if (percent > 99.99)
    snprintf (text, CTL_MAP_SHARE_TEXT, "> 99.99 %%");
  else
    snprintf (text, CTL_MAP_SHARE_TEXT, "%.2f %%", percent);
}

/* Returns whether it is data that goes on elsewhere than the data before. */
static bool
count (struct ctl_map_totals *totals, const struct qed_map_extent *last,
       const struct qed_map_extent *e)
{
  bool fragment = false;

  switch (e->kind) {
  case QED_MAP_DATA:
    fragment = last->length > 0 && last->kind == QED_MAP_DATA;
    totals->data[e->depth] += e->length;
    totals->all_data += e->length;
    totals->runs++;
    totals->fragments += fragment;
    break;
  case QED_MAP_ZERO:
    totals->zero += e->length;
    break;
  case QED_MAP_BEYOND:
    totals->beyond += e->length;
    break;
  case QED_MAP_DAMAGED:
    if (totals->damaged == 0)
      totals->first_damage = e->start;
    totals->damaged += e->length;
    break;
  default:
    totals->hole += e->length;
  }
  return fragment;
}

static void
print_sum (const char *label, uint64_t bytes, uint64_t whole,
           const char *about)
{
  char size[CTL_SIZE_TEXT], share[CTL_MAP_SHARE_TEXT];

  ctl_size_to_text (bytes, size);
  ctl_map_share_to_text (bytes, whole, share);
  printf ("%-18s %12s  %10s%s%s\n", label, size, share, *about ? "  " : "",
          about);
}

static void
print_summary (const struct listing *l)
{
  const struct ctl_map_totals *t = &l->totals;
  const struct ctl_map_image *image = l->image;
  char label[32], size[CTL_SIZE_TEXT];
  unsigned i;

  print_sum ("Data", t->all_data, image->length, "");
  for (i = 0; i < image->count && image->count > 1; i++) {
    snprintf (label, sizeof label, "  at depth %u", i);
    print_sum (label, t->data[i], image->length, image->names[i]);
  }
  print_sum ("Zero clusters", t->zero, image->length, "");
  print_sum ("Holes", t->hole, image->length, "");
  if (t->beyond > 0)
    print_sum ("Past a file's end", t->beyond, image->length, "");
  if (t->damaged > 0)
    print_sum ("Damaged", t->damaged, image->length, "");
  print_sum ("Mapped", image->length, image->size, "of the disk");

  ctl_size_to_text (t->runs > 0 ? t->all_data / t->runs : 0, size);
  printf ("Fragments          %12" PRIu64 "  where data goes on elsewhere\n"
          "Runs of data       %12" PRIu64 "  of %s on average\n",
          t->fragments, t->runs, size);
}

/* ---- The listing for people -------------------------------------------- */

static void
print_head (struct listing *l)
{
  const struct ctl_map_image *image = l->image;
  uint64_t length = 0;
  unsigned i;

  for (i = 0; i < image->count; i++)
    if (length < image->files[i].length)
      length = image->files[i].length;
  l->start_width = snprintf (NULL, 0, "0x%" PRIx64,
                             image->start + image->length);
  if (l->start_width < (int) strlen ("Start"))
    l->start_width = (int) strlen ("Start");
  l->mapped_width = snprintf (NULL, 0, "0x%" PRIx64, length);
  if (l->mapped_width < (int) strlen ("Mapped to"))
    l->mapped_width = (int) strlen ("Mapped to");
  printf ("%-*s  %12s  %-*s  %s\n", l->start_width, "Start", "Length",
          l->mapped_width, "Mapped to", "Depth, file");
}

static void
print_row (struct listing *l, const struct qed_map_extent *e)
{
  static const char *const words[] = {
    [QED_MAP_ZERO] = "zero",
    [QED_MAP_RAW_HOLE] = "hole",
    [QED_MAP_HOLE] = "hole",
    [QED_MAP_BEYOND] = "past end",
    [QED_MAP_DAMAGED] = "damaged",
  };
  unsigned depth = e->depth + (e->kind == QED_MAP_BEYOND);
  char size[CTL_SIZE_TEXT], place[20];
  bool named = e->kind != QED_MAP_HOLE;

  if (e->kind == QED_MAP_DATA)
    snprintf (place, sizeof place, "0x%" PRIx64, e->offset);
  else
    snprintf (place, sizeof place, "%s", words[e->kind]);
  ctl_size_to_text (e->length, size);
  printf ("0x%-*" PRIx64 "  %12s  ", l->start_width - 2, e->start, size);
  if (named)
    printf ("%-*s  %u %s\n", l->mapped_width, place, depth,
            l->image->names[depth]);
  else
    printf ("%s\n", place);
}

/* ---- The listing for programs ------------------------------------------ */

/* As qemu-img map --output=json has it, so that its readers can read this.
 * 'allocated' is ours: some file holds it, as data or as a zero cluster.
 */
static bool
print_json (const struct listing *l, const struct qed_map_extent *e)
{
  bool damaged = e->kind == QED_MAP_DAMAGED;
  bool data = e->kind == QED_MAP_DATA || damaged;
  bool allocated = data || e->kind == QED_MAP_ZERO;
  json_t *object =
    json_pack ("{sI sI si sb sb sb}",
               "start", (json_int_t) e->start,
               "length", (json_int_t) e->length,
               "depth", (int) e->depth,
               "present", allocated || e->kind == QED_MAP_RAW_HOLE,
               "zero", !data,
               "data", data);
  bool ok = object != NULL;

  if (ok && (e->kind == QED_MAP_DATA || e->kind == QED_MAP_RAW_HOLE))
    ok = json_object_set_new (object, "offset", json_integer (e->offset)) == 0;
  ok = ok &&
    json_object_set_new (object, "allocated", json_boolean (allocated)) == 0;
  if (!ok)
    errno = ENOMEM;
  else
    ok = fputs (l->last.length > 0 ? ",\n" : "", stdout) >= 0 &&
      ctl_json_print (object, stdout, 0) == 0;
  json_decref (object);
  return ok;
}

/* ---- Both -------------------------------------------------------------- */

static int
add_extent (void *opaque, const struct qed_map_extent *e)
{
  struct listing *l = opaque;
  bool fragment = count (&l->totals, &l->last, e), ok = true;

  if (l->json)
    ok = print_json (l, e);
  else
    print_row (l, e);
  if (l->strip)
    ctl_map_bins_add (l->strip, e, fragment);
  if (l->svg)
    ctl_map_svg_add (l->svg, e, fragment);
  l->last = *e;
  if (!ok || ferror (stdout)) {
    l->error = errno;
    return -l->error;
  }
  return 0;
}

static void
print_end (const struct listing *l)
{
  if (l->json) {
    puts ("]");
    return;
  }
  putchar ('\n');
  if (l->strip) {
    ctl_map_strip_print (l->strip, l->image);
    putchar ('\n');
  }
  print_summary (l);
}

/* All of it, to stdout.  True if nothing is missing; *damaged is set if the
 * image doesn't tell all.
 */
static bool
print_map (struct qed_image *qed, struct listing *l, bool *damaged)
{
  struct ctl_progress progress;
  struct qed_map_request request = {
    .start = l->image->start, .length = l->image->length,
    .extent = add_extent, .opaque = l, .progress = &progress.progress,
  };
  bool stopped;

  ctl_progress_start (&progress, "map");
  if (isatty (STDOUT_FILENO) == 1)
    progress.terminal = false;  /* the listing shows how far it is */
  if (l->json)
    putchar ('[');
  else
    print_head (l);
  *damaged = qed_map (qed, &request) < 0;
  stopped = ctl_progress_end (&progress);
  if (stopped) {
    __fpurge (stdout);          /* whose reader may be gone to sleep */
    return false;
  }
  if (l->error == 0)
    print_end (l);
  errno = l->error;
  if (fflush (stdout) != 0 || ferror (stdout) || l->error != 0) {
    ctl_error ("cannot write to the standard output: %m");
    return false;
  }
  return true;
}

static void
tell_damage (const struct listing *l)
{
  char size[CTL_SIZE_TEXT];

  if (l->totals.damaged == 0)   /* what there is was named */
    return;
  ctl_size_to_text (l->totals.damaged, size);
  ctl_error ("%s: %s of the disk can't be mapped, the first at guest offset "
             "0x%" PRIx64 ": the image is damaged, check it",
             l->image->files[0].path, size, l->totals.first_damage);
}

/* ---- The command ------------------------------------------------------- */

/* Fill in what is asked for and what there is. */
static bool
describe (struct qed_image *qed, const struct settings *settings,
          struct ctl_map_image *image)
{
  char size[CTL_SIZE_TEXT];

  image->size = qed_size (qed);
  image->cluster_size = qed_cluster_size (qed);
  while (image->count < QED_CHAIN_MAX &&
         qed_chain_file (qed, image->count, &image->files[image->count])) {
    image->names[image->count] = ctl_escape (image->files[image->count].path);
    if (image->names[image->count++] == NULL) {
      ctl_error ("out of memory");
      return false;
    }
  }
  if (settings->start > image->size) {
    ctl_size_to_text (image->size, size);
    ctl_error ("%s: the start, %" PRIu64 ", lies behind the disk's end, %"
               PRIu64 " (%s)", image->files[0].path, settings->start,
               image->size, size);
    return false;
  }
  image->start = settings->start;
  image->length = image->size - image->start;
  if (image->length > settings->max_length)
    image->length = settings->max_length;
  return true;
}

/* A picture in the place of a file of the chain would be the end of it. */
static bool
may_write (const char *path, const struct ctl_map_image *image)
{
  struct qed_file_id id;
  unsigned i;

  if (qed_file_identify (path, NULL, &id) < 0)
    return true;                /* not a file, or ctl_file_begin will tell */
  for (i = 0; i < image->count; i++)
    if (image->files[i].id.device == id.device &&
        image->files[i].id.inode == id.inode) {
      ctl_error ("%s is a file of the chain that is to be mapped: choose "
                 "another name for the picture", path);
      return false;
    }
  return true;
}

static bool
map_image (struct qed_image *qed, const struct settings *settings,
           struct ctl_map_image *image)
{
  struct listing l = { .image = image, .json = settings->json };
  struct ctl_map_bins strip = { .bins = NULL };
  bool ok, damaged = false;

  if (!describe (qed, settings, image))
    return false;
  if (settings->svg != NULL) {
    l.svg = may_write (settings->svg, image)
      ? ctl_map_svg_new (settings->svg, image) : NULL;
    if (l.svg == NULL)
      return false;
  }
  if (settings->strip && image->length > 0) {
    l.strip = &strip;
    ok = ctl_map_bins_init (&strip, ctl_map_strip_width (), image->start,
                            image->length);
    if (!ok)
      ctl_error ("out of memory");
  }
  else
    ok = true;
  ok = ok && print_map (qed, &l, &damaged);
  ctl_map_bins_destroy (&strip);
  if (l.svg != NULL)
    ok = ctl_map_svg_end (l.svg, &l.totals, ok) && ok;
  if (ok && damaged)
    tell_damage (&l);
  return ok && !damaged;
}

static int
open_and_map (const char *path, const struct settings *settings)
{
  struct ctl_map_image image = { .count = 0 };
  struct qed_options options;
  struct qed_image *qed;
  bool ok;

  qed_options_init (&options);
  options.path = path;
  options.read_only = true;
  options.backing = QED_BACKING_ANY;
  options.metadata_cache = CACHE_BYTES;
  ctl_log_init (&options.log);
  if (qed_open (&options, &qed) < 0)
    return CTL_FAILED;
  ok = map_image (qed, settings, &image);
  qed_close (qed);
  while (image.count > 0)
    free (image.names[--image.count]);
  return ok ? CTL_OK : CTL_FAILED;
}

enum {
  OPT_JSON = CTL_OPT_FIRST,
  OPT_SVG,
  OPT_START,
  OPT_MAX_LENGTH,
  OPT_STRIP,
};

static const struct option longopts[] = {
  { "help", no_argument, NULL, 'h' },
  { "json", no_argument, NULL, OPT_JSON },
  { "svg", required_argument, NULL, OPT_SVG },
  { "start", required_argument, NULL, OPT_START },
  { "max-length", required_argument, NULL, OPT_MAX_LENGTH },
  { "strip", no_argument, NULL, OPT_STRIP },
  { NULL, 0, NULL, 0 },
};

static bool
set_option (int c, struct settings *settings)
{
  switch (c) {
  case OPT_JSON:
    settings->json = true;
    return true;
  case OPT_SVG:
    settings->svg = optarg;
    return true;
  case OPT_START:
    return ctl_parse_size ("start", optarg, &settings->start);
  case OPT_MAX_LENGTH:
    return ctl_parse_size ("length", optarg, &settings->max_length);
  default:
    settings->strip = true;
    return true;
  }
}

static int
run (const struct ctl_command *command, int argc, char **argv)
{
  struct ctl_options options = {
    .command = command, .longopts = longopts, .shortopts = ":h",
  };
  struct settings settings = { .max_length = UINT64_MAX };
  int c, status;

  while ((c = ctl_options_next (&options, argc, argv, &status)) !=
         CTL_OPTIONS_END) {
    if (c == CTL_OPTIONS_EXIT)
      return status;
    if (!set_option (c, &settings))
      return CTL_FAILED;
  }
  if (!ctl_arguments (command, argc, 1))
    return CTL_FAILED;
  if (settings.json && settings.strip) {
    ctl_error ("--json and --strip exclude each other");
    return CTL_FAILED;
  }
  if (!settings.json && isatty (STDOUT_FILENO) == 1)
    settings.strip = true;
  return open_and_map (argv[optind], &settings);
}

const struct ctl_command ctl_map_command = {
  .name = "map",
  .arguments = "IMAGE",
  .summary = "Show where an image is allocated, and how fragmented it is",
  .help =
  "The whole backing chain is mapped, wherever its files are.  A fragment is\n"
  "a place where data goes on elsewhere: the guest's next byte is data too,\n"
  "but not the file's next byte.\n\n"
  "  --json                      print a JSON array, with the fields of\n"
  "                              qemu-img map --output=json, and 'allocated':\n"
  "                              held by a file, as data or a zero cluster\n"
  "  --svg FILE                  draw a picture of it as well\n"
  "  --start OFFSET              map from this offset of the disk on\n"
  "  --max-length N              map so many bytes at most\n"
  "  --strip                     draw the disk in two lines of characters,\n"
  "                              as is done on a terminal\n",
  .run = run,
};
