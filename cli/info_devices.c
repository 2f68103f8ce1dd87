#include "info_devices.h"

#include <stdio.h>

#include <leank/device.h>

#include "cli_report.h"

enum { MAX_DEVICES = 64 };

/* The devices, their count; 0: err says why there is none. */
static size_t list(leank_device_info *devices, leank_error *err) {
  size_t n = 0;
  if (leank_cuda_devices(devices, MAX_DEVICES, &n, err) != LEANK_OK) return 0;
  return n < MAX_DEVICES ? n : MAX_DEVICES;
}

void info_devices_print(void) {
  leank_device_info devices[MAX_DEVICES];
  leank_error err;
  const size_t n = list(devices, &err);
  if (n == 0) {
    printf("devices        cpu; ");
    cli_print_text(err.message);
    putchar('\n');
  }
  for (size_t i = 0; i < n; i++) {
    printf("cuda:%-9zu ", i);
    cli_print_text(devices[i].name);
    printf(", compute capability %d.%d, %s bytes", devices[i].major, devices[i].minor,
           cli_grouped(devices[i].total_bytes));
    printf(", %s free\n", cli_grouped(devices[i].free_bytes));
  }
}

void info_devices_json(json_t *o) {
  leank_device_info devices[MAX_DEVICES];
  leank_error err;
  const size_t n = list(devices, &err);
  json_t *all = json_array();
  for (size_t i = 0; i < n; i++) {
    char name[16], capability[32];
    json_t *one = json_object();
    snprintf(name, sizeof name, "cuda:%zu", i);
    snprintf(capability, sizeof capability, "%d.%d", devices[i].major, devices[i].minor);
    json_object_set_new(one, "device", json_string(name));
    json_object_set_new(one, "name", cli_json_text(devices[i].name));
    json_object_set_new(one, "compute_capability", json_string(capability));
    json_object_set_new(one, "total_bytes", cli_json_size(devices[i].total_bytes));
    json_object_set_new(one, "free_bytes", cli_json_size(devices[i].free_bytes));
    json_array_append_new(all, one);
  }
  json_object_set_new(o, "devices", all);
  if (n == 0) json_object_set_new(o, "no_devices", cli_json_text(err.message));
}
