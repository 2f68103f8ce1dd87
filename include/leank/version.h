/* Version and linkage. SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_VERSION_H
#define LEANK_VERSION_H

#define LEANK_VERSION_MAJOR 0
#define LEANK_VERSION_MINOR 1
#define LEANK_VERSION_PATCH 0
#define LEANK_VERSION_STRING "0.1.0"

#if defined(_WIN32)
#define LEANK_API
#else
#define LEANK_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Version of the library that is running, "major.minor.patch". Static storage. */
LEANK_API const char *leank_version(void);

#ifdef __cplusplus
}
#endif
#endif
