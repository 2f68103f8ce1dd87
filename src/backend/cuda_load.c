/* Finding the CUDA library when it is first asked for, and what devices there are. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <leank/device.h>

#include "backend/cuda.h"

#define LIBRARY "libleank_cuda.so"

enum { PATH_BYTES = 4096 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const lk_cuda_api *found, *replaced;

/* `to` = the folder of `path`, `below` and the library's name; false where there is none. */
static bool beside(const char *path, const char *below, char *to) {
  const char *slash = strrchr(path, '/');
  if (!slash) return false;
  const int n = snprintf(to, PATH_BYTES, "%.*s%s%s", (int)(slash + 1 - path), path, below, LIBRARY);
  return n > 0 && n < PATH_BYTES && access(to, F_OK) == 0;
}

/* Beside this library or program, in the lib/ next to the program's folder, and where the system
 * looks; why: one line. */
static void *open_library(char *why, size_t n_why) {
  char own[PATH_BYTES] = "", path[PATH_BYTES];
  Dl_info here;
  const ssize_t n = readlink("/proc/self/exe", own, sizeof own - 1);
  own[n > 0 ? n : 0] = '\0';
  const bool is_there =
      (dladdr((const void *)&lock, &here) && here.dli_fname && beside(here.dli_fname, "", path)) ||
      beside(own, "", path) || beside(own, "../lib/", path);
  void *handle = dlopen(is_there ? path : LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (handle) return handle;
  const char *text = dlerror();
  if (is_there || (text && !strstr(text, LIBRARY ": cannot open")))
    snprintf(why, n_why, "%s", text ? text : LIBRARY " cannot be loaded");
  else
    snprintf(why, n_why,
             LIBRARY " not found, neither beside the program nor among the system's libraries "
                     "(a build with -DLEANK_CUDA=ON makes it)");
  return NULL;
}

/* The handle stays open: the table is the library's. */
static const lk_cuda_api *load(char *why, size_t n_why) {
  const lk_cuda_api *(*get)(int);
  void *handle = open_library(why, n_why);
  if (!handle) return NULL;
  *(void **)&get = dlsym(handle, "lk_cuda_api_get");
  const lk_cuda_api *api = get ? get(LK_CUDA_API_VERSION) : NULL;
  if (api) return api;
  snprintf(why, n_why, LIBRARY " is of another version than this library");
  dlclose(handle);
  return NULL;
}

/* The library's table, found once. */
static leank_status find_table(const lk_cuda_api **out, leank_error *err) {
  char why[400] = "";
  pthread_mutex_lock(&lock);
  if (!replaced && !found) found = load(why, sizeof why);
  *out = replaced ? replaced : found;
  pthread_mutex_unlock(&lock);
  if (*out) return LEANK_OK;
  return lk_fail(err, LEANK_E_UNSUPPORTED, -1, "no CUDA here: %s", why);
}

void lk_cuda_library_replace(const lk_cuda_api *api) {
  pthread_mutex_lock(&lock);
  replaced = api;
  pthread_mutex_unlock(&lock);
}

/* The library and how many devices it can use, at least one. */
static leank_status find_devices(const lk_cuda_api **api, int *n, leank_error *err) {
  char why[256] = "";
  const leank_status status = find_table(api, err);
  if (status != LEANK_OK) return status;
  *n = (*api)->n_devices(why, sizeof why);
  if (*n > 0) return LEANK_OK;
  return lk_fail(err, LEANK_E_UNSUPPORTED, -1, "no CUDA here: %s", why);
}

leank_status lk_backend_open_cuda(const lk_backend_options *options, int device, lk_backend **out,
                                  leank_error *err) {
  const lk_cuda_api *api = NULL;
  int n = 0;
  const leank_status status = find_devices(&api, &n, err);
  if (status != LEANK_OK) return status;
  if (device < 0 || device >= n)
    return lk_fail(err, LEANK_E_UNSUPPORTED, -1, "no CUDA device %d: there %s %d, from 0 on",
                   device, n == 1 ? "is" : "are", n);
  return lk_cuda_backend_open(api, options, device, out, err);
}

leank_status leank_cuda_devices(leank_device_info *devices, size_t max, size_t *n,
                                leank_error *err) {
  const lk_cuda_api *api = NULL;
  int count = 0;
  leank_status status = find_devices(&api, &count, err);
  if (status != LEANK_OK) return status;
  for (size_t i = 0; i < (size_t)count && i < max; i++) {
    lk_cuda_device *dev = NULL;
    lk_cuda_info info;
    status = api->open((int)i, &dev, err);
    if (status != LEANK_OK) return status;
    api->info(dev, &info);
    status = api->check(dev, err);
    api->close(dev);
    if (status != LEANK_OK) return status;
    devices[i] = (leank_device_info){.major = info.major,
                                     .minor = info.minor,
                                     .total_bytes = info.total_bytes,
                                     .free_bytes = info.free_bytes};
    memcpy(devices[i].name, info.name, sizeof devices[i].name);
  }
  *n = (size_t)count;
  return LEANK_OK;
}
