/* Initialization, devices and contexts: one primary context a GPU, a stack of contexts a thread. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "double.h"

enum { DEEPEST = 64 };
int initialized;
static int forked;
static Context primaries[MAX_DEVICES]; /* their addresses are their handles */
static Context *made;                  /* by cuCtxCreate */
static __thread Context *stack[DEEPEST];
static __thread int depth;

static Context *find(void *handle) {
  for (int i = 0; i < MAX_DEVICES; i++)
    if (handle == &primaries[i]) return primaries[i].retained ? &primaries[i] : NULL;
  for (Context *c = made; c; c = c->next)
    if (c == handle) return c;
  return NULL;
}

Context *context_now(void) { return depth ? find(stack[depth - 1]) : NULL; }
int context_depth(void) { return depth; }
int context_retained(void) {
  int total = 0;
  for (int i = 0; i < MAX_DEVICES; i++) total += primaries[i].retained;
  for (Context *c = made; c; c = c->next) total++;
  return total;
}
void context_sweep(void) {
  depth = 0;
  memset(primaries, 0, sizeof primaries);
  while (made) { Context *c = made; made = c->next; free(c); }
}

static void in_the_child(void) { forked = 1; }

EXPORT CUresult cuInit(unsigned int flags) {
  static int watches;
  ENTER("cuInit", 0, "flags=%u", flags);
  if (forked) return CUDA_ERROR_NOT_INITIALIZED; /* CUDA does not survive a fork */
  if (!settings.devices) return CUDA_ERROR_NO_DEVICE;
  if (!watches) watches = !pthread_atfork(NULL, NULL, in_the_child);
  initialized = 1;
  return CUDA_SUCCESS;
}

int context_forked(void) { return forked; }

EXPORT CUresult cuDriverGetVersion(int *version) {
  ENTER("cuDriverGetVersion", 0, "");
  *version = (int)settings.driver_version;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count) {
  ENTER("cuDeviceGetCount", 0, "");
  *count = (int)settings.devices;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(CUdevice *device, int ordinal) {
  ENTER("cuDeviceGet", 0, "ordinal=%d", ordinal);
  if (ordinal < 0 || ordinal >= settings.devices) return CUDA_ERROR_INVALID_DEVICE;
  *device = ordinal;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char *name, int length, CUdevice device) {
  ENTER("cuDeviceGetName", 0, "device=%d", device);
  snprintf(name, (size_t)length, "Driver Double %d", device);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetPCIBusId(char *name, int length, CUdevice device) {
  ENTER("cuDeviceGetPCIBusId", 0, "device=%d", device);
  snprintf(name, (size_t)length, "0000:%02x:00.0", device + 1);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device) {
  ENTER("cuDeviceTotalMem", 0, "device=%d", device);
  *bytes = (size_t)settings.total_memory;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
  ENTER("cuDeviceComputeCapability", 0, "device=%d", device);
  *major = 9;
  *minor = 0;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice device) {
  ENTER("cuDeviceGetAttribute", 0, "attribute=%d device=%d", attribute, device);
  switch (attribute) {
    case 1: case 2: *value = 1024; break;                /* MAX_THREADS_PER_BLOCK, MAX_BLOCK_DIM_X */
    case 11: *value = 2147483647; break;                 /* MAX_PITCH */
    case 5: *value = 65535; break;                       /* MAX_GRID_DIM_X */
    case 8: *value = 49152; break;                       /* MAX_SHARED_MEMORY_PER_BLOCK */
    case 10: *value = 32; break;                         /* WARP_SIZE */
    case 39: *value = 2048; break;                       /* MAX_THREADS_PER_MULTIPROCESSOR */
    case 16: *value = 4; break;                          /* MULTIPROCESSOR_COUNT */
    case 18: *value = (int)settings.integrated; break;   /* INTEGRATED */
    case 19: *value = 1; break;                          /* CAN_MAP_HOST_MEMORY */
    case 41: *value = 1; break;                          /* UNIFIED_ADDRESSING */
    case 75: *value = 9; break;                          /* COMPUTE_CAPABILITY_MAJOR */
    case 76: *value = 0; break;                          /* COMPUTE_CAPABILITY_MINOR */
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRetain(void **context, CUdevice device) {
  ENTER("cuDevicePrimaryCtxRetain", 0, "device=%d", device);
  if (device < 0 || device >= settings.devices) return CUDA_ERROR_INVALID_DEVICE;
  primaries[device].device = device;
  primaries[device].retained++;
  *context = &primaries[device];
  return CUDA_SUCCESS;
}

static void report_what_lives(const Context *context, const char *what) {
  size_t lives = memory_of(context) + queue_of(context) + graph_of(context);
  if (lives) double_violation("%s of GPU %d was destroyed with %zu things alive in it", what, context->device, lives);
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  ENTER("cuDevicePrimaryCtxRelease", 0, "device=%d", device);
  if (device < 0 || device >= settings.devices || !primaries[device].retained) return CUDA_ERROR_INVALID_CONTEXT;
  if (!--primaries[device].retained) report_what_lives(&primaries[device], "the primary context");
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active) {
  ENTER("cuDevicePrimaryCtxGetState", 0, "device=%d", device);
  if (device < 0 || device >= settings.devices) return CUDA_ERROR_INVALID_DEVICE;
  *flags = 0;
  *active = primaries[device].retained > 0;
  return CUDA_SUCCESS;
}

static CUresult create(void **context, CUdevice device) {
  if (device < 0 || device >= settings.devices) return CUDA_ERROR_INVALID_DEVICE;
  Context *own = calloc(1, sizeof *own);
  *own = (Context){device, 0, 1, made};
  *context = made = own;
  stack[depth++] = own;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxCreate_v2(void **context, unsigned int flags, CUdevice device) {
  ENTER("cuCtxCreate", 0, "flags=%u device=%d", flags, device);
  return create(context, device);
}
EXPORT CUresult cuCtxCreate_v4(void **context, void *parameters, unsigned int flags, CUdevice device) {
  (void)parameters;
  ENTER("cuCtxCreate", 0, "flags=%u device=%d", flags, device);
  return create(context, device);
}

static CUresult destroy(void *handle) {
  Context *context = find(handle);
  if (!context || !context->alive) return CUDA_ERROR_INVALID_CONTEXT;
  report_what_lives(context, "a context");
  if (depth && stack[depth - 1] == context) depth--;
  for (Context **at = &made; *at; at = &(*at)->next)
    if (*at == context) { *at = context->next; break; }
  free(context);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxDestroy_v2(void *context) {
  ENTER("cuCtxDestroy", 0, "context=%p", context);
  return destroy(context);
}
EXPORT CUresult cuCtxDetach(void *context) {
  ENTER("cuCtxDetach", 0, "context=%p", context);
  return destroy(context);
}

EXPORT CUresult cuCtxPushCurrent_v2(void *context) {
  ENTER("cuCtxPushCurrent", 0, "context=%p", context);
  if (!find(context) || depth == DEEPEST) return CUDA_ERROR_INVALID_CONTEXT;
  stack[depth++] = context;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent_v2(void **context) {
  ENTER("cuCtxPopCurrent", 0, "");
  if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
  depth--;
  if (context) *context = stack[depth];
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(void **context) {
  ENTER("cuCtxGetCurrent", 0, "");
  *context = depth ? stack[depth - 1] : NULL;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(void *context) {
  ENTER("cuCtxSetCurrent", 0, "context=%p", context);
  if (context && !find(context)) return CUDA_ERROR_INVALID_CONTEXT;
  if (depth) depth--;
  if (context) stack[depth++] = context;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetDevice(CUdevice *device) {
  ENTER("cuCtxGetDevice", 1, "");
  *device = context_now()->device;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetApiVersion(void *context, unsigned int *version) {
  (void)context;
  ENTER("cuCtxGetApiVersion", 0, "");
  *version = 3020;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSynchronize(void) {
  ENTER("cuCtxSynchronize", 1, "");
  CUresult code = queue_forbid_in_capture();
  if (code) return code;
  queue_drain_all();
  return double_outcome();
}
