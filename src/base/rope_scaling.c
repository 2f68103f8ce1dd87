#include <leank/model.h>

const char *leank_rope_scaling_name(leank_rope_scaling scaling) {
  switch (scaling) {
  case LEANK_ROPE_PLAIN: return "plain";
  case LEANK_ROPE_LINEAR: return "linear";
  case LEANK_ROPE_LLAMA3: return "llama3";
  case LEANK_ROPE_YARN: return "yarn";
  }
  return "unknown";
}
