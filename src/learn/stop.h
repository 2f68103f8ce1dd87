/* Whether long work shall stop: asked between its steps. */
#ifndef LK_LEARN_STOP_H
#define LK_LEARN_STOP_H

#include <stdbool.h>

typedef struct lk_stop {
  bool (*asked)(void *user); /* NULL: never */
  void *user;
} lk_stop;

static inline bool lk_stopped(lk_stop stop) { return stop.asked && stop.asked(stop.user); }

#endif
