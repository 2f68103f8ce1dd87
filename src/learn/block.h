/* The memory of contexts that were read (prefill.h): blocks, files of them, and the way back. */
#ifndef LK_LEARN_BLOCK_H
#define LK_LEARN_BLOCK_H

#include "learn/prefill.h"

/* Memory for the block and the numbers of a context that has neither; answers point into it.
 * LEANK_E_MEMORY. */
leank_status lk_block_open(lk_prefill *prefill, lk_read_context *context, leank_error *err);
/* The same, and what the context's file in prefill->folder holds; nothing where there is none. On
 * the processor the file is used where it is mapped. */
leank_status lk_block_read(lk_prefill *prefill, lk_read_context *context, leank_error *err);
/* Writes the file; memory that it stands for is given back on the processor. LEANK_E_IO, _MEMORY.
 */
leank_status lk_block_write(lk_prefill *prefill, lk_read_context *context, leank_error *err);

#endif
