/* A stand-in for libcudart.so.13 that puts the CUDA build of PyTorch on top of the driver double.
 *
 * Every call that needs a driver goes to the double's libcuda.so.1, so that PyTorch's own allocator, memory pools,
 * streams, events and captures run as they are. Kernels are host functions that do nothing: no value that a kernel
 * would compute means anything here, and no time does.
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DEVICES = 8, NOT_READY = 600 };
static __thread int last_error, device_here;
static void *primary[MAX_DEVICES]; /* retained once a process, as the real library does */

static void *entry(const char *name) {
  static void *library;
  if (!library) library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  void *found = library ? dlsym(library, name) : NULL;
  if (!found) {
    fprintf(stderr, "cudart double: the driver double has no %s\n", name);
    abort();
  }
  return found;
}
#define DRIVER(name, ...) ((int (*)(__VA_ARGS__))entry(name))

static int told(int code) {
  if (code && code != NOT_READY) last_error = code;
  return code;
}

static void start(void) {
  static int started;
  if (!started) started = !DRIVER("cuInit", unsigned)(0);
}

static int enter(int device) {
  start();
  int code = primary[device] ? 0 : DRIVER("cuDevicePrimaryCtxRetain", void **, int)(&primary[device], device);
  return code ? code : DRIVER("cuCtxSetCurrent", void *)(primary[device]);
}

/* Work in the context that is current, whoever made it so, else in the primary one of this thread's device. */
static void ready(void) {
  void *context = NULL;
  start();
  DRIVER("cuCtxGetCurrent", void **)(&context);
  if (!context) enter(device_here);
}

static void nothing(void *data) { (void)data; }
static int kernel(void *stream) {
  ready();
  return told(DRIVER("cuLaunchHostFunc", void *, void (*)(void *), void *)(stream, nothing, NULL));
}
static int on_gpu(const void *p) { return (size_t)p >= 0x700000000000ULL && (size_t)p < 0x710000000000ULL; }

/* Devices */
cudaError_t cudaGetDeviceCount(int *count) { start(); return told(DRIVER("cuDeviceGetCount", int *)(count)); }
cudaError_t cudaGetDevice(int *device) {
  void *context = NULL;
  start();
  DRIVER("cuCtxGetCurrent", void **)(&context);
  if (!context) *device = device_here;
  return context ? told(DRIVER("cuCtxGetDevice", int *)(device)) : 0;
}
cudaError_t cudaSetDevice(int device) { device_here = device; return told(enter(device)); }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Runtime Double");
  p->major = 9;
  p->totalGlobalMem = 1UL << 33;
  p->multiProcessorCount = 4;
  p->warpSize = 32;
  p->maxThreadsPerBlock = p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024;
  p->maxThreadsDim[2] = 64;
  p->maxThreadsPerMultiProcessor = 2048;
  p->maxBlocksPerMultiProcessor = 32;
  p->sharedMemPerBlock = 49152;
  p->sharedMemPerBlockOptin = 232448;
  p->sharedMemPerMultiprocessor = 233472;
  p->maxGridSize[0] = 2147483647;
  p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536;
  p->l2CacheSize = 50 << 20;
  p->textureAlignment = 512;
  p->unifiedAddressing = p->canMapHostMemory = 1;
  p->pciBusID = 1 + device;
  return 0;
}
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr kind, int device) {
  return told(DRIVER("cuDeviceGetAttribute", int *, int, int)(value, (int)kind, device));
}
cudaError_t cudaDeviceCanAccessPeer(int *can, int device, int peer) { (void)device, (void)peer; *can = 0; return 0; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = -5;
  return 0;
}
cudaError_t cudaDeviceSynchronize(void) { ready(); return told(DRIVER("cuCtxSynchronize", void)()); }
cudaError_t cudaDriverGetVersion(int *version) { *version = 13000; return 0; }
cudaError_t cudaRuntimeGetVersion(int *version) { *version = 13000; return 0; }
cudaError_t cudaGetLastError(void) { int code = last_error; last_error = 0; return code; }
cudaError_t cudaPeekAtLastError(void) { return last_error; }

/* Memory */
cudaError_t cudaMalloc(void **p, size_t bytes) {
  ready();
  return told(DRIVER("cuMemAlloc_v2", void **, size_t)(p, bytes));
}
cudaError_t cudaFree(void *p) { ready(); return p ? told(DRIVER("cuMemFree_v2", void *)(p)) : 0; }
cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags) {
  ready();
  return told(DRIVER("cuMemHostAlloc", void **, size_t, unsigned)(p, bytes, flags));
}
cudaError_t cudaFreeHost(void *p) { ready(); return told(DRIVER("cuMemFreeHost", void *)(p)); }
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  ready();
  return told(DRIVER("cuMemGetInfo_v2", size_t *, size_t *)(available, total));
}
cudaError_t cudaMemcpyAsync(void *target, const void *source, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
  (void)kind;
  ready();
  const char *call = on_gpu(target) ? on_gpu(source) ? "cuMemcpyDtoDAsync_v2" : "cuMemcpyHtoDAsync_v2" : "cuMemcpyDtoHAsync_v2";
  if (on_gpu(target) || on_gpu(source)) return told(DRIVER(call, void *, const void *, size_t, void *)(target, source, bytes, stream));
  memmove(target, source, bytes);
  return 0;
}
cudaError_t cudaMemcpy(void *target, const void *source, size_t bytes, enum cudaMemcpyKind kind) {
  int code = cudaMemcpyAsync(target, source, bytes, kind, NULL);
  return code ? code : told(DRIVER("cuStreamSynchronize", void *)(NULL));
}
cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
  ready();
  return told(DRIVER("cuMemsetD8Async", void *, unsigned char, size_t, void *)(p, (unsigned char)value, bytes, stream));
}
cudaError_t cudaMemset(void *p, int value, size_t bytes) { return cudaMemsetAsync(p, value, bytes, NULL); }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *found, const void *p) {
  enum { DEVICE_ORDINAL = 9 };
  memset(found, 0, sizeof *found);
  ready();
  int device = 0, code = on_gpu(p) ? DRIVER("cuPointerGetAttribute", void *, int, const void *)(&device, DEVICE_ORDINAL, p) : 1;
  found->type = code ? cudaMemoryTypeUnregistered : cudaMemoryTypeDevice;
  found->device = device;
  found->devicePointer = code ? NULL : (void *)p;
  return 0;
}

/* Streams and events */
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
  (void)priority;
  ready();
  return told(DRIVER("cuStreamCreate", void **, unsigned)((void **)stream, flags));
}
cudaError_t cudaStreamCreate(cudaStream_t *stream) { return cudaStreamCreateWithPriority(stream, 0, 0); }
cudaError_t cudaStreamGetPriority(cudaStream_t stream, int *priority) { (void)stream; *priority = 0; return 0; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
  int found = 0;
  ready();
  int code = told(DRIVER("cuStreamIsCapturing", void *, int *)(stream, &found));
  *status = found;
  return code;
}
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, enum cudaStreamCaptureStatus *status, unsigned long long *id,
                                     cudaGraph_t *graph, const cudaGraphNode_t **nodes, const cudaGraphEdgeData **edges,
                                     size_t *count) {
  if (id) *id = (size_t)stream;
  if (graph) *graph = NULL;
  if (nodes) *nodes = NULL;
  if (edges) *edges = NULL;
  if (count) *count = 0;
  return cudaStreamIsCapturing(stream, status);
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode *mode) {
  return told(DRIVER("cuThreadExchangeStreamCaptureMode", int *)((int *)mode));
}
#define FORWARD(name, driver, thing) \
  cudaError_t name(thing handle) { ready(); return told(DRIVER(driver, void *)(handle)); }
FORWARD(cudaStreamDestroy, "cuStreamDestroy_v2", cudaStream_t)
FORWARD(cudaStreamQuery, "cuStreamQuery", cudaStream_t)
FORWARD(cudaStreamSynchronize, "cuStreamSynchronize", cudaStream_t)
FORWARD(cudaEventDestroy, "cuEventDestroy_v2", cudaEvent_t)
FORWARD(cudaEventQuery, "cuEventQuery", cudaEvent_t)
FORWARD(cudaEventSynchronize, "cuEventSynchronize", cudaEvent_t)
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  ready();
  return told(DRIVER("cuStreamWaitEvent", void *, void *, unsigned)(stream, event, flags));
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
  ready();
  return told(DRIVER("cuEventCreate", void **, unsigned)((void **)event, flags));
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags) {
  ready();
  return told(DRIVER("cuEventRecordWithFlags", void *, void *, unsigned)(event, stream, flags));
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) { return cudaEventRecordWithFlags(event, stream, 0); }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t first, cudaEvent_t last) {
  ready();
  return told(DRIVER("cuEventElapsedTime_v2", float *, void *, void *)(ms, first, last));
}

/* Kernels */
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **found, unsigned version, unsigned long long flags,
                                             enum cudaDriverEntryPointQueryResult *result) {
  (void)version, (void)flags;
  *found = NULL;
  DRIVER("cuGetProcAddress_v2", const char *, void **, int, unsigned long long, int *)(name, found, 13000, 0, NULL);
  if (!*found) *found = (void *)nothing; /* PyTorch asks for many at its start and calls few */
  if (result) *result = cudaDriverEntryPointSuccess;
  return 0;
}
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *found, const void *function) {
  (void)function;
  memset(found, 0, sizeof *found);
  found->maxThreadsPerBlock = 1024;
  found->numRegs = 32;
  found->ptxVersion = found->binaryVersion = 90;
  return 0;
}
cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute kind, int value) {
  (void)function, (void)kind, (void)value;
  return 0;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, const void *function, int threads,
                                                                   size_t shared, unsigned flags) {
  (void)function, (void)threads, (void)shared, (void)flags;
  *blocks = 2;
  return 0;
}
cudaError_t __cudaGetKernel(cudaKernel_t *kernel_handle, const void *function) { *kernel_handle = (cudaKernel_t)function; return 0; }
cudaError_t __cudaLaunchKernel(cudaKernel_t function, dim3 grid, dim3 block, void **arguments, size_t shared, cudaStream_t stream) {
  (void)function, (void)grid, (void)block, (void)arguments, (void)shared;
  return kernel(stream);
}
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *config, const void *function, void **arguments) {
  (void)function, (void)arguments;
  return kernel(config->stream);
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data) {
  ready();
  return told(DRIVER("cuLaunchHostFunc", void *, void (*)(void *), void *)(stream, function, data));
}
