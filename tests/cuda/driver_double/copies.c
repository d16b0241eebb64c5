/* Copies, fills and host calls: what a stream can be asked to do. */
#include <stdlib.h>
#include <string.h>

#include "double.h"

#define ADDRESS(a) (unsigned long long)(a)

static CUresult to_device(CUdeviceptr target, void *host, size_t bytes, void *handle) {
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!memory_resolve(target, bytes)) return CUDA_ERROR_INVALID_VALUE;
  Op op = {.kind = OP_TO_DEVICE, .target = target, .host = host, .bytes = bytes, .pinned = memory_is_pinned(host, bytes)};
  if (!op.pinned) { /* CUDA stages pageable memory at once; under capture we refuse it */
    CUresult code = queue_forbid_on_stream(stream);
    if (code) return code;
    op.snapshot = memcpy(malloc(bytes), host, bytes);
  }
  return queue_add(stream, op);
}

static CUresult to_host(void *host, CUdeviceptr source, size_t bytes, void *handle) {
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!memory_resolve(source, bytes)) return CUDA_ERROR_INVALID_VALUE;
  int pinned = memory_is_pinned(host, bytes);
  CUresult code = pinned ? CUDA_SUCCESS : queue_forbid_on_stream(stream);
  if (!code) code = queue_add(stream, (Op){.kind = OP_TO_HOST, .host = host, .source = source, .bytes = bytes, .pinned = pinned});
  if (!code && !pinned) queue_drain(stream); /* CUDA returns from it only when it is done */
  return code ? code : double_outcome();
}

static CUresult on_device(CUdeviceptr target, CUdeviceptr source, size_t bytes, void *handle) {
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!memory_resolve(target, bytes) || !memory_resolve(source, bytes)) return CUDA_ERROR_INVALID_VALUE;
  if (target < source + bytes && source < target + bytes)
    double_violation("a copy of %zu bytes from 0x%llx overlaps its target 0x%llx", bytes, ADDRESS(source), ADDRESS(target));
  return queue_add(stream, (Op){.kind = OP_ON_DEVICE, .target = target, .source = source, .bytes = bytes});
}

static CUresult fill(CUdeviceptr target, unsigned int value, unsigned int width, size_t elements, void *handle) {
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!memory_resolve(target, elements * width)) return CUDA_ERROR_INVALID_VALUE;
  return queue_add(stream, (Op){.kind = OP_FILL, .target = target, .value = value, .width = width,
                                .elements = elements, .bytes = elements * width});
}

static CUresult at_once(CUresult enqueued) {
  if (enqueued) return enqueued;
  CUresult code = queue_forbid_in_capture();
  if (!code) queue_drain(queue_find(NULL));
  return code ? code : double_outcome();
}

typedef struct Copy2D { /* CUDA_MEMCPY2D of cuda.h */
  size_t source_x, source_y;
  int source_kind;
  const void *source_host;
  CUdeviceptr source;
  void *source_array;
  size_t source_pitch, target_x, target_y;
  int target_kind;
  void *target_host;
  CUdeviceptr target;
  void *target_array;
  size_t target_pitch, width, height;
} Copy2D;

static CUresult rows(const Copy2D *c, void *handle) {
  enum { ON_DEVICE = 2 };
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (c->source_kind != ON_DEVICE || c->target_kind != ON_DEVICE || c->source_x || c->source_y || c->target_x || c->target_y)
    return CUDA_ERROR_NOT_SUPPORTED;
  enum { MAX_PITCH = 2147483647, PITCH = 512 }; /* PITCH: what cuMemAllocPitch rounds up to on GPUs of today */
  if (c->source_pitch > MAX_PITCH || c->target_pitch > MAX_PITCH) return CUDA_ERROR_INVALID_VALUE;
  if (!settings.any_pitch && (c->source_pitch % PITCH || c->target_pitch % PITCH)) return CUDA_ERROR_INVALID_VALUE;
  if (!c->height || c->width > c->source_pitch || c->width > c->target_pitch) return CUDA_ERROR_INVALID_VALUE;
  size_t from = (c->height - 1) * c->source_pitch + c->width, to = (c->height - 1) * c->target_pitch + c->width;
  if (!memory_resolve(c->source, from) || !memory_resolve(c->target, to)) return CUDA_ERROR_INVALID_VALUE;
  if (c->target < c->source + from && c->source < c->target + to) double_violation("a copy of rows overlaps its target");
  return queue_add(stream, (Op){.kind = OP_ROWS, .target = c->target, .source = c->source, .bytes = c->width,
                                .target_pitch = c->target_pitch, .source_pitch = c->source_pitch, .height = c->height});
}

EXPORT CUresult cuMemcpy2DAsync_v2(const Copy2D *copy, void *stream) {
  ENTER("cuMemcpy2DAsync", 1, "target=0x%llx source=0x%llx width=%zu height=%zu stream=%p", ADDRESS(copy->target),
        ADDRESS(copy->source), copy->width, copy->height, stream);
  return rows(copy, stream);
}
EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr target, const void *host, size_t bytes, void *stream) {
  ENTER("cuMemcpyHtoDAsync", 1, "target=0x%llx host=%p bytes=%zu stream=%p", ADDRESS(target), host, bytes, stream);
  return to_device(target, (void *)host, bytes, stream);
}
EXPORT CUresult cuMemcpyDtoHAsync_v2(void *host, CUdeviceptr source, size_t bytes, void *stream) {
  ENTER("cuMemcpyDtoHAsync", 1, "host=%p source=0x%llx bytes=%zu stream=%p", host, ADDRESS(source), bytes, stream);
  return to_host(host, source, bytes, stream);
}
EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr target, CUdeviceptr source, size_t bytes, void *stream) {
  ENTER("cuMemcpyDtoDAsync", 1, "target=0x%llx source=0x%llx bytes=%zu stream=%p", ADDRESS(target), ADDRESS(source),
        bytes, stream);
  return on_device(target, source, bytes, stream);
}
EXPORT CUresult cuMemsetD8Async(CUdeviceptr target, unsigned char value, size_t count, void *stream) {
  ENTER("cuMemsetD8Async", 1, "target=0x%llx value=%u count=%zu stream=%p", ADDRESS(target), value, count, stream);
  return fill(target, value, 1, count, stream);
}
EXPORT CUresult cuMemsetD32Async(CUdeviceptr target, unsigned int value, size_t count, void *stream) {
  ENTER("cuMemsetD32Async", 1, "target=0x%llx value=%u count=%zu stream=%p", ADDRESS(target), value, count, stream);
  return fill(target, value, 4, count, stream);
}
EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr target, const void *host, size_t bytes) {
  ENTER("cuMemcpyHtoD", 1, "target=0x%llx host=%p bytes=%zu", ADDRESS(target), host, bytes);
  return at_once(to_device(target, (void *)host, bytes, NULL));
}
EXPORT CUresult cuMemcpyDtoH_v2(void *host, CUdeviceptr source, size_t bytes) {
  ENTER("cuMemcpyDtoH", 1, "host=%p source=0x%llx bytes=%zu", host, ADDRESS(source), bytes);
  return at_once(to_host(host, source, bytes, NULL));
}
EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr target, CUdeviceptr source, size_t bytes) {
  ENTER("cuMemcpyDtoD", 1, "target=0x%llx source=0x%llx bytes=%zu", ADDRESS(target), ADDRESS(source), bytes);
  return at_once(on_device(target, source, bytes, NULL));
}
EXPORT CUresult cuLaunchHostFunc(void *handle, void (*call)(void *), void *data) {
  ENTER("cuLaunchHostFunc", 1, "stream=%p data=%p", handle, data);
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  return queue_add(stream, (Op){.kind = OP_CALL, .call = call, .host = data});
}
