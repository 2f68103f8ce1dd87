/* What leank info --devices says. */
#ifndef LEANK_CLI_INFO_DEVICES_H
#define LEANK_CLI_INFO_DEVICES_H

#include <jansson.h>

/* NVIDIA devices, or why there is none, as text or as members of a JSON object. */
void info_devices_print(void);
void info_devices_json(json_t *o);

#endif
