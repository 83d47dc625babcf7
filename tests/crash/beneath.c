/* SPDX-License-Identifier: LGPL-2.1-or-later */

#include <config.h>

#include <string.h>

#include "beneath.h"
#include "format.h"
#include "sim-storage.h"
#include "stamp.h"

/* The image that is being made; it ends at 'end'. */
struct draft {
  struct disk *disk;
  uint64_t cluster_size, table_bytes, l1_offset, end;
};

static uint64_t
append (struct draft *draft, uint64_t bytes)
{
  uint64_t at = draft->end;

  draft->end += bytes;
  disk_poke_length (draft->disk, draft->end);
  return at;
}

/* What a table says, after it was told, if it said nothing. */
static uint64_t
set_entry (struct draft *draft, uint64_t table, uint64_t index,
           uint64_t bytes)
{
  uint64_t at = table + index * 8, value;
  const unsigned char *old = disk_sector (draft->disk, at / SECTOR);
  unsigned char buf[SECTOR] = { 0 };

  if (old)
    memcpy (buf, old, SECTOR);
  value = format_get64 (buf + at % SECTOR);
  if (value != 0)
    return value;
  value = append (draft, bytes);
  format_put64 (buf + at % SECTOR, value);
  disk_poke (draft->disk, at / SECTOR, buf);
  return value;
}

static void
put_block (struct draft *draft, uint64_t block)
{
  uint64_t entries = draft->table_bytes / 8, s;
  uint64_t cluster = block * BLOCK / draft->cluster_size, table, data;
  const unsigned char *content;

  table = set_entry (draft, draft->l1_offset, cluster / entries,
                     draft->table_bytes);
  data = set_entry (draft, table, cluster % entries, draft->cluster_size);
  data += block * BLOCK % draft->cluster_size;
  for (s = 0; s < BLOCK_SECTORS; s++) {
    content = stamp_file_data (STAMP_FIRST_FILE, block * BLOCK_SECTORS + s);
    if (content)
      disk_poke (draft->disk, data / SECTOR + s, content);
  }
}

void
beneath_make (const struct shape *shape)
{
  struct format_header header = {
    .cluster_size = (uint32_t) shape->cluster_size,
    .table_size = (uint32_t) shape->table_size, .header_size = 1,
    .l1_table_offset = shape->cluster_size,
    .image_size = stamp_backing.sectors * SECTOR,
  };
  struct draft draft = {
    .cluster_size = shape->cluster_size,
    .table_bytes = shape->table_size * shape->cluster_size,
    .l1_offset = shape->cluster_size,
  };
  unsigned char buf[SECTOR] = { 0 };
  uint64_t limit = (stamp_backing.sectors + BLOCK_SECTORS - 1) / BLOCK_SECTORS;
  uint64_t b;

  b = draft.table_bytes / 8;
  if (limit == 0 || (header.image_size - 1) / draft.cluster_size / b >= b)
    return;
  draft.disk = disk_create (false, 0, UINT64_MAX);
  append (&draft, draft.l1_offset + draft.table_bytes);
  format_encode_header (&header, buf);
  disk_poke (draft.disk, 0, buf);
  for (b = stamp_next_block (STAMP_FIRST_FILE, 0); b < limit;
       b = stamp_next_block (STAMP_FIRST_FILE, b + 1))
    put_block (&draft, b);
  sim_storage_below_disk = draft.disk;
  stamp_backing.is_qed = true;
}

void
beneath_drop (void)
{
  if (sim_storage_below_disk)
    disk_destroy (sim_storage_below_disk);
  sim_storage_below_disk = NULL;
  stamp_backing.is_qed = false;
}
