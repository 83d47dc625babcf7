/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "image.h"
#include "serve-on.h"
#include "sim-storage.h"
#include "sim.h"
#include "stamp.h"
#include "workload.h"

#define FIRST_NUMBER 0x40000000u        /* of the writes: no one else's */

struct session {
  struct disk *disk;
  const struct shape *shape;
  struct random *random;
  struct served *served;
  struct qed_image *image;
};

uint32_t
served_find (const struct served *served, uint64_t sector)
{
  unsigned i;

  for (i = 0; i < served->count; i++)
    if (served->writes[i].sector == sector)
      return served->writes[i].number;
  return 0;
}

static void
write_one (struct session *session, uint64_t sector)
{
  struct served *served = session->served;
  bool may_fill = !disk_can_grow (session->disk) ||
    disk_limit (session->disk) != UINT64_MAX;
  unsigned char buf[SECTOR];
  struct qed_request request;
  int r;

  stamp_fill (buf, sector, FIRST_NUMBER + served->count);
  qed_request_init (&request, QED_OP_WRITE, buf, SECTOR, sector * SECTOR, 0);
  r = workload_request (session->image, &request, 0);
  if (r == 0) {
    served->writes[served->count].sector = sector;
    served->writes[served->count].number = FIRST_NUMBER + served->count;
    served->count++;
  }
  else if (!(r == -ENOSPC && may_fill))
    sim_violation ("served on: a write to sector 0x%" PRIx64 ": %s", sector,
                   strerror (-r));
}

static void
session_fiber (void *arg)
{
  struct session *session = arg;
  struct qed_options options;
  const struct window *w;
  uint64_t sector;
  unsigned i;
  int r;

  qed_options_init (&options);
  options.path = "image.qed";
  options.metadata_cache = QED_METADATA_CACHE_MIN;
  r = image_open_storage (&options, sim_storage_open (session->disk,
                                                      session->random),
                          &session->image);
  if (r == 0)
    r = qed_start (session->image);
  if (r < 0)
    sim_violation ("served on: it can't be opened: %s", strerror (-r));
  for (i = 0; i < SERVED_MAX; i++) {
    w = &session->shape->windows[random_below (session->random,
                                               session->shape->window_count)];
    sector = w->sector + random_below (session->random, w->count);
    if (sector * SECTOR < qed_size (session->image) &&
        served_find (session->served, sector) == 0)
      write_one (session, sector);
  }
  r = qed_close (session->image);
  if (r < 0)
    sim_violation ("served on: closing it fails: %s", strerror (-r));
}

void
serve_on (struct disk *disk, const struct shape *shape, struct random *random,
          struct served *served)
{
  struct random schedule = random_fork (random);
  struct session session = {
    .disk = disk, .shape = shape, .random = random, .served = served,
  };

  served->count = 0;
  sim_run (&schedule, session_fiber, &session);
}
