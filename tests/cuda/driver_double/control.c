/* The tests' side: settings, the log of calls, failures on demand, counts of what lives. */
#define _GNU_SOURCE
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "double.h"

pthread_mutex_t double_lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
Settings settings = {.total_memory = 1LL << 30, .devices = 1, .ops_per_query = 1, .op_cost_ns = 1000,
                     .log = 1, .driver_version = 13000, .any_pitch = 1};
__thread int double_in_call;

static char **lines;
static size_t line_count, line_room, violation_count;
static char last_violation[256];
static CUresult sticky;
static struct { char entry[64]; int64_t nth; CUresult code; int sticks; } fault;

static void append(const char *entry, const char *format, va_list rest) {
  char text[320];
  int used = snprintf(text, sizeof text, "%s", entry);
  if (*format) {
    text[used++] = ' ';
    vsnprintf(text + used, sizeof text - (size_t)used, format, rest);
  }
  if (line_count == line_room) lines = realloc(lines, (line_room = line_room ? 2 * line_room : 1024) * sizeof *lines);
  lines[line_count++] = strdup(text);
}

CUresult double_injected(const char *entry) {
  if (fault.nth <= 0 || (strcmp(fault.entry, entry) && strcmp(fault.entry, "*"))) return CUDA_SUCCESS;
  if (--fault.nth > 0) return CUDA_SUCCESS;
  if (fault.sticks) sticky = fault.code;
  return fault.code;
}

CUresult double_enter(const char *entry, int needs_context, const char *format, ...) {
  if (settings.log) {
    va_list rest;
    va_start(rest, format);
    append(entry, format, rest);
    va_end(rest);
  }
  if (sticky) return sticky;
  if (double_in_call) return CUDA_ERROR_NOT_PERMITTED;
  CUresult code = double_injected(entry);
  if (code) return code;
  if (context_forked() && strcmp(entry, "cuDriverGetVersion")) return CUDA_ERROR_NOT_INITIALIZED;
  if (!initialized && strcmp(entry, "cuInit") && strcmp(entry, "cuDriverGetVersion")) return CUDA_ERROR_NOT_INITIALIZED;
  if (needs_context && !context_now()) return CUDA_ERROR_INVALID_CONTEXT;
  return CUDA_SUCCESS;
}

void double_violation(const char *format, ...) {
  va_list rest;
  va_start(rest, format);
  vsnprintf(last_violation, sizeof last_violation, format, rest);
  va_end(rest);
  violation_count++;
}

void double_stick(CUresult code) { sticky = code; }
CUresult double_outcome(void) { return sticky; }

/* The nth call of `entry` from now on fails with `code`; "*" is any entry. `sticks`: all later calls fail too. */
EXPORT void double_fail(const char *entry, int64_t nth, int code, int sticks) {
  snprintf(fault.entry, sizeof fault.entry, "%s", entry);
  fault.nth = nth;
  fault.code = code;
  fault.sticks = sticks;
}

EXPORT int double_fault_pending(void) { return fault.nth > 0; }

EXPORT int double_set(const char *name, int64_t value) {
  static const struct { const char *name; size_t offset; } known[] = {
      {"total_memory", offsetof(Settings, total_memory)}, {"integrated", offsetof(Settings, integrated)},
      {"devices", offsetof(Settings, devices)}, {"ops_per_query", offsetof(Settings, ops_per_query)},
      {"op_cost_ns", offsetof(Settings, op_cost_ns)}, {"real_clock", offsetof(Settings, real_clock)},
      {"log", offsetof(Settings, log)}, {"driver_version", offsetof(Settings, driver_version)},
      {"at_once", offsetof(Settings, at_once)}, {"unified", offsetof(Settings, unified)},
      {"any_pitch", offsetof(Settings, any_pitch)}, {"by_version", offsetof(Settings, by_version)}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++)
    if (!strcmp(known[i].name, name)) {
      *(int64_t *)((char *)&settings + known[i].offset) = value;
      return 0;
    }
  return -1;
}

EXPORT int64_t double_live(const char *kind) {
  if (!strcmp(kind, "blocks")) return (int64_t)memory_blocks();
  if (!strcmp(kind, "bytes")) return (int64_t)memory_bytes(-1);
  if (!strcmp(kind, "host_blocks")) return (int64_t)memory_host_blocks();
  if (!strcmp(kind, "streams")) return (int64_t)queue_streams();
  if (!strcmp(kind, "events")) return (int64_t)queue_events();
  if (!strcmp(kind, "captures")) return (int64_t)queue_captures();
  if (!strcmp(kind, "graphs")) return (int64_t)graph_graphs();
  if (!strcmp(kind, "execs")) return (int64_t)graph_execs();
  if (!strcmp(kind, "contexts")) return context_retained();
  if (!strcmp(kind, "context_depth")) return context_depth();
  return -1;
}

EXPORT int64_t double_log_count(void) { return (int64_t)line_count; }
EXPORT const char *double_log_line(int64_t i) { return i >= 0 && (size_t)i < line_count ? lines[i] : NULL; }
EXPORT void double_log_clear(void) {
  while (line_count) free(lines[--line_count]);
}
EXPORT int64_t double_violations(void) { return (int64_t)violation_count; }
EXPORT const char *double_last_violation(void) { return last_violation; }

/* Clears faults, stickiness and violations; what lives goes on living. */
EXPORT void double_recover(void) {
  sticky = CUDA_SUCCESS;
  fault.nth = 0;
  violation_count = 0;
  last_violation[0] = 0;
}

/* Gives back everything that lives: what a failed call had to leave, so that the next test begins clean. */
EXPORT void double_sweep(void) {
  queue_sweep();
  graph_sweep();
  memory_sweep();
  context_sweep();
}

/* Host address of device memory, so that a test's host function can compute on it. */
EXPORT void *double_host_address(CUdeviceptr address, size_t bytes) { return memory_resolve(address, bytes); }
