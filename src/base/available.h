/* How much memory there is to be had. */
#ifndef LK_BASE_AVAILABLE_H
#define LK_BASE_AVAILABLE_H

#include <stddef.h>

/* Bytes that can be allocated without swapping, as the system estimates them (what it can take back
 * from its file cache included), within the control group's limit; SIZE_MAX where nobody tells. */
size_t lk_mem_available(void);

#endif
