/* Initialization, devices and contexts. The primary context is the only one that this double can make. */
#include <stdio.h>
#include <string.h>

#include "double.h"

int initialized;
static int primary; /* its address is the handle of the primary context */
static int retained;
static __thread int depth;

int context_is_current(void) { return depth > 0 && retained > 0; }
int context_retained(void) { return retained; }
int context_depth(void) { return depth; }
void context_sweep(void) { depth = retained = 0; }

EXPORT CUresult cuInit(unsigned int flags) {
  ENTER("cuInit", 0, "flags=%u", flags);
  if (!settings.devices) return CUDA_ERROR_NO_DEVICE;
  initialized = 1;
  return CUDA_SUCCESS;
}

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
  retained++;
  *context = &primary;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  ENTER("cuDevicePrimaryCtxRelease", 0, "device=%d", device);
  if (!retained) return CUDA_ERROR_INVALID_CONTEXT;
  retained--;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned int *flags, int *active) {
  ENTER("cuDevicePrimaryCtxGetState", 0, "device=%d", device);
  *flags = 0;
  *active = retained > 0;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPushCurrent_v2(void *context) {
  ENTER("cuCtxPushCurrent", 0, "context=%p", context);
  if (context != &primary || !retained) return CUDA_ERROR_INVALID_CONTEXT;
  depth++;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxPopCurrent_v2(void **context) {
  ENTER("cuCtxPopCurrent", 0, "");
  if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
  depth--;
  if (context) *context = &primary;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(void **context) {
  ENTER("cuCtxGetCurrent", 0, "");
  *context = depth ? &primary : NULL;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxSetCurrent(void *context) {
  ENTER("cuCtxSetCurrent", 0, "context=%p", context);
  if (context && (context != &primary || !retained)) return CUDA_ERROR_INVALID_CONTEXT;
  depth = context ? (depth ? depth : 1) : (depth ? depth - 1 : 0);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetDevice(CUdevice *device) {
  ENTER("cuCtxGetDevice", 1, "");
  *device = 0;
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
