/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image that is described (describe.h), and a pending log that claims to be
 * its own.
 *
 *   u8 how (the bits below), u16 bytes of the log's description, that, u8 steps
 *   of a script (life.h), the script, and the image's description
 *
 * The log's: u8 generations of the halves, four bits each (15: the largest
 * there is), u8 parts, u16 bytes of the file (0: as many as the parts take), u8
 * count of changes of the head, each u16 offset and u8, then u8 count of
 * records, and those (make_record).
 *
 * Sums are right but where it says otherwise, so that what lies behind them is
 * reached.  First the image is opened for writing, which replays the log:
 *
 *   - nothing has changed if it isn't said that changes were written;
 *   - the header keeps all that is not the engine's to change;
 *   - an image that may then be written has no corruption;
 *   - the log and the token are gone.
 *
 * Then comes the script, with logs of the engine's own.
 */

#include <config.h>

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "../crash/random.h"
#include "../crash/sim-pending.h"
#include "check.h"
#include "describe.h"
#include "life.h"
#include "one-thread.h"
#include "pending.h"

#define HOW_BAD_SUM 1u          /* the head's sum is not made right */
#define HOW_OTHER_TOKEN 2u
#define HOW_CLEAN 4u            /* the header says nothing of a log */
#define HOW_OTHER_BOOT 8u
#define HOW_SCRIPT_ONLY 16u     /* the script comes upon the log */

#define STEPS_MAX 8u
#define GENERATION_MAX ((UINT64_C (1) << (64 - PENDING_CHECK_BITS)) - 1)
#define TOKEN (PENDING_IN_USE | UINT64_C (0x5a) << 32)

/* ---- The file that the log lies in ---- */

static size_t log_bytes;        /* of the hostile one; 0: it is not there */

int __real_pending_file_read (const struct qed_options *options,
                              const struct qed_file_id *id, unsigned n,
                              size_t max, void **buf, size_t *size);
int __wrap_pending_file_read (const struct qed_options *options,
                              const struct qed_file_id *id, unsigned n,
                              size_t max, void **buf, size_t *size);
int __real_pending_file_create (const struct qed_options *options,
                                const struct qed_file_id *id, size_t size,
                                size_t max, struct pending_file *file);
int __wrap_pending_file_create (const struct qed_options *options,
                                const struct qed_file_id *id, size_t size,
                                size_t max, struct pending_file *file);

/* As long as it is, and no byte more. */
int
__wrap_pending_file_read (const struct qed_options *options,
                          const struct qed_file_id *id, unsigned n,
                          size_t max, void **buf, size_t *size)
{
  int r = __real_pending_file_read (options, id, n, max, buf, size);

  if (r < 0 || log_bytes == 0)
    return r;
  *size = log_bytes;
  *buf = realloc (*buf, log_bytes);
  if (*buf == NULL)
    abort ();
  return 0;
}

int
__wrap_pending_file_create (const struct qed_options *options,
                            const struct qed_file_id *id, size_t size,
                            size_t max, struct pending_file *file)
{
  log_bytes = 0;
  return __real_pending_file_create (options, id, size, max, file);
}

/* ---- The log ---- */

static union {
  struct pending_head head;
  unsigned char bytes[PENDING_BYTES_MAX];
} hostile;

struct target {
  struct sparse *disk;
  struct format_header header;
  struct format_geometry geometry;
  bool valid;                   /* the header is */
};

static uint64_t
take_generation (unsigned n)
{
  return n == 15 ? GENERATION_MAX : n;
}

static void
make_head (const struct target *target, struct fuzz_input *in)
{
  struct pending_head *head = &hostile.head;
  unsigned generations = (unsigned) fuzz_take (in, 1);

  head->magic = PENDING_MAGIC;
  head->version = PENDING_VERSION;
  head->record_bytes = sizeof (struct pending_record);
  head->records = PENDING_RECORDS;
  head->cluster_size = target->geometry.cluster_size;
  head->table_bytes = target->geometry.table_bytes;
  head->l1_offset = target->geometry.l1_offset;
  head->image_size = target->geometry.image_size;
  head->device = head->inode = 1;
  head->token = TOKEN;
  head->generation[0] = take_generation (generations & 15);
  head->generation[1] = take_generation (generations >> 4);
  head->parts = fuzz_take (in, 1);
  log_bytes = (size_t) fuzz_take (in, 2);
  if (log_bytes == 0)
    log_bytes = PENDING_HEAD_BYTES + head->parts * PENDING_PART_BYTES;
  if (log_bytes > PENDING_BYTES_MAX)
    log_bytes = PENDING_BYTES_MAX;
}

static void
change_head (struct fuzz_input *in)
{
  unsigned n = (unsigned) fuzz_take (in, 1);
  size_t at;

  while (n-- > 0 && fuzz_left (in) > 0) {
    at = (size_t) fuzz_take (in, 2);
    hostile.bytes[at % sizeof hostile.head] = (unsigned char)
      fuzz_take (in, 1);
  }
}

/* u8 how, then two bytes or eight: 0 clusters, 1 clusters from the end of the
 * file on, 2 tables behind the L1 table, 3 as it is, 4 eight bytes.
 */
static uint64_t
take_value (const struct target *target, struct fuzz_input *in)
{
  const struct format_geometry *g = &target->geometry;
  unsigned how = (unsigned) fuzz_take (in, 1) % 5;
  uint64_t n = fuzz_take (in, how == 4 ? 8 : 2);

  switch (how) {
  case 0:
    return n * g->cluster_size;
  case 1:
    return target->disk->length +
      (uint64_t) (int64_t) (int16_t) (uint16_t) n * g->cluster_size;
  case 2:
    return g->l1_offset + (n + 1) * g->table_bytes;
  default:
    return n;
  }
}

/* u8 how, then two bytes or eight: 0 the guest's cluster, 1 clusters before the
 * image's end, 2 the index in L1, 3 entries before its end, 4 eight bytes.
 */
static uint64_t
take_where (const struct target *target, struct fuzz_input *in)
{
  const struct format_geometry *g = &target->geometry;
  unsigned how = (unsigned) fuzz_take (in, 1) % 5;
  uint64_t n = fuzz_take (in, how == 4 ? 8 : 2);

  switch (how) {
  case 1:
    return (g->image_size >> g->cluster_bits) - n;
  case 2:
    return PENDING_L1 | n;
  case 3:
    return PENDING_L1 | (g->entries - n);
  default:
    return n;
  }
}

/* u8 slot, from 128 on of the second half; where and value; u8 count (255:
 * eight bytes follow), u8: 0 the sum is right, 1 it is of the generation
 * before, 2 of the next, else it is wrong.
 */
static void
make_record (const struct target *target, struct fuzz_input *in)
{
  unsigned slot = (unsigned) fuzz_take (in, 1), half = slot >> 7, sum;
  uint64_t generation = hostile.head.generation[half];
  struct pending_record *record;

  slot = (slot & 127) % (PENDING_PARTS * PENDING_RECORDS);
  record = pending_slot (hostile.bytes, half, slot);
  record->where = take_where (target, in);
  record->value = take_value (target, in);
  record->count = fuzz_take (in, 1);
  if (record->count == 255)
    record->count = fuzz_take (in, 8);
  sum = (unsigned) fuzz_take (in, 1);
  generation += sum == 1 ? UINT64_MAX : sum == 2;
  record->check = pending_check (record, generation, slot);
  if (sum > 2)
    record->check ^= sum;
}

static void
make_log (const struct target *target, unsigned how, struct fuzz_input *in)
{
  unsigned n;

  memset (&hostile, 0, sizeof hostile);
  make_head (target, in);
  change_head (in);
  n = (unsigned) fuzz_take (in, 1);
  while (n-- > 0 && fuzz_left (in) > 0)
    make_record (target, in);
  if (how & HOW_OTHER_TOKEN)
    hostile.head.token ^= UINT64_C (1) << 40;
  if (!(how & HOW_BAD_SUM))
    hostile.head.checksum = pending_checksum (&hostile.head);
  if (log_bytes > 0)
    sim_pending_set (&hostile);
  if (how & HOW_OTHER_BOOT)
    sim_pending_boot = 1;
}

/* ---- The image ---- */

static void
read_header (struct target *target)
{
  unsigned char buf[FORMAT_HEADER_BYTES];
  char error[FORMAT_ERROR_SIZE];

  sparse_read (target->disk, buf, sizeof buf, 0);
  target->valid = format_decode_header (buf, target->disk->length,
                                        &target->header, error) == 0;
  if (target->valid)
    format_geometry_init (&target->geometry, &target->header);
}

static void
put_field (struct sparse *disk, uint64_t offset, uint64_t value)
{
  unsigned char buf[8];

  format_put64 (buf, value);
  sparse_write (disk, buf, sizeof buf, offset);
}

static void
mark (struct target *target)
{
  target->header.features |= QED_F_NEED_CHECK;
  target->header.autoclear_features = TOKEN;
  put_field (target->disk, FORMAT_AT_FEATURES, target->header.features);
  put_field (target->disk, FORMAT_AT_AUTOCLEAR, TOKEN);
}

/* Of all that is in the file, and where, but for the token. */
static uint64_t
digest (const struct sparse *disk)
{
  const struct sparse_page *page;
  uint64_t sum = random_mix (disk->length), number = 0;
  size_t i;

  for (; (page = sparse_next_page (disk, number)) != NULL;
       number = page->number + 1) {
    sum = random_mix (sum + page->number);
    for (i = 0; i < SPARSE_PAGE; i += 8)
      if (page->number > 0 || i != FORMAT_AT_AUTOCLEAR)
        sum = random_mix (sum ^ format_get64 (page->data + i));
  }
  return sum;
}

/* ---- Opened for writing ---- */

static struct {
  bool written;                 /* changes, it was said */
  const struct sparse *disk;
  qed_log_fn pass_on;
} watched;

static void
watch (void *opaque, enum qed_log_level level, const char *message)
{
  if (strstr (message, "log, and are written"))
    watched.written = true;
  if (strstr (message, "can't be written to the image") &&
      !watched.disk->full)
    fuzz_fail ("a replay fails on a sound disk: %s", message);
  watched.pass_on (opaque, level, message);
}

static void
expect_header (const struct sparse *disk, const unsigned char *before)
{
  unsigned char after[FORMAT_SECTOR];

  sparse_read (disk, after, sizeof after, 0);
  memcpy (after + FORMAT_AT_FEATURES, before + FORMAT_AT_FEATURES, 8);
  memcpy (after + FORMAT_AT_AUTOCLEAR, before + FORMAT_AT_AUTOCLEAR, 8);
  if (memcmp (before, after, sizeof after) != 0)
    fuzz_fail ("a replay changes the header");
}

/* What was served for writing. */
static void
expect_sound (const struct qed_options *options, const struct sparse *disk)
{
  struct qed_check_options check;
  struct qed_check_result result;
  int r;

  qed_check_options_init (&check);
  r = qed_check (options, &check, &result);
  if (!disk->full && (r < 0 || result.corruptions > 0 || result.errors > 0))
    fuzz_fail ("an image that may be written has %" PRIu64 " corruptions "
               "(%d)", r < 0 ? 0 : result.corruptions, r);
}

static void
open_and_judge (struct target *target)
{
  const struct sparse *disk = target->disk;
  unsigned char before[FORMAT_SECTOR];
  struct qed_options options;
  struct qed_image *image;
  uint64_t sum = digest (disk);
  bool writable;

  life_options (target->disk, &options);
  watched.disk = disk;
  watched.written = false;
  watched.pass_on = options.log.fn;
  options.log.fn = watch;
  options.pending = QED_PENDING_LOG;
  sparse_read (disk, before, sizeof before, 0);
  if (qed_open (&options, &image) < 0)
    return;
  if (!watched.written && digest (disk) != sum)
    fuzz_fail ("the log is not used, but something was changed");
  if (sim_pending)
    fuzz_fail ("a log is left after an image was opened for writing");
  writable = qed_start (image) == 0;
  if (writable) {
    qed_wait_scanned (image);
    writable = qed_writable (image);
  }
  qed_close (image);
  expect_header (disk, before);
  if (writable && target->header.features & QED_F_NEED_CHECK)
    expect_sound (&options, disk);
}

/* A part of the input. */
static struct fuzz_input
take_part (struct fuzz_input *in, size_t n)
{
  struct fuzz_input part;

  if (n > fuzz_left (in))
    n = fuzz_left (in);
  part = (struct fuzz_input) { in->at, in->at + n };
  in->at += n;
  return part;
}

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct fuzz_input in = { data, data + size }, log, script;
  struct sparse disk;
  struct target target = { .disk = &disk };
  unsigned how = (unsigned) fuzz_take (&in, 1);

  log = take_part (&in, (size_t) fuzz_take (&in, 2));
  script = take_part (&in, LIFE_STEP * (fuzz_take (&in, 1) %
                                        (STEPS_MAX + 1)));
  one_thread_reset (size);
  sim_pending_reset ();
  log_bytes = 0;
  sparse_init (&disk, 0);
  describe (&disk, &in);
  read_header (&target);
  if (target.valid) {
    if (!(how & HOW_CLEAN))
      mark (&target);
    make_log (&target, how, &log);
    if (!(how & HOW_SCRIPT_ONLY))
      open_and_judge (&target);
  }
  life_run (&disk, script, QED_PENDING_LOG);
  sparse_destroy (&disk);
  sim_pending_reset ();
  return 0;
}
