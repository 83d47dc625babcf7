/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* An image's first bytes, as they are: behind a script of STEPS steps
 * (life.h), and eight bytes of length of the file; 0 stands for as long as
 * the rest is.
 */

#include <config.h>

#include <string.h>

#include "life.h"
#include "one-thread.h"

#define STEPS 4u

int
LLVMFuzzerTestOneInput (const uint8_t *data, size_t size)
{
  struct fuzz_input in = { data, data + size }, script;
  struct sparse disk;
  uint64_t length;

  if (size < STEPS * LIFE_STEP)
    return -1;
  script = (struct fuzz_input) { data, data + STEPS * LIFE_STEP };
  in.at = script.end;
  length = fuzz_take (&in, 8) & INT64_MAX;
  one_thread_reset (size);
  sparse_init (&disk, length > 0 ? length : fuzz_left (&in));
  sparse_write (&disk, in.at, fuzz_left (&in), 0);
  life_run (&disk, script, QED_PENDING_OFF);
  sparse_destroy (&disk);
  return 0;
}
