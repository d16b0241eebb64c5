/* Device memory, pinned host memory, and which addresses are whose. */
#include <stdlib.h>
#include <string.h>

#include "double.h"

typedef struct Block {
  CUdeviceptr address; /* what the API calls a device address: no host code can follow it */
  unsigned char *memory;
  size_t bytes;
  int host, mapped;
  Context *context;
  struct Block *next;
} Block;

static Block *blocks;
static CUdeviceptr next_address = 0x700000000000ULL; /* addresses are never used twice */

static size_t count(int host) {
  size_t total = 0;
  for (Block *b = blocks; b; b = b->next) total += b->host == host;
  return total;
}
size_t memory_blocks(void) { return count(0); }
size_t memory_host_blocks(void) { return count(1); }
size_t memory_bytes(int device) { /* of one GPU, or of all when it is negative */
  size_t total = 0;
  for (Block *b = blocks; b; b = b->next) total += b->host || (device >= 0 && b->context->device != device) ? 0 : b->bytes;
  return total;
}
size_t memory_of(const Context *context) {
  size_t total = 0;
  for (Block *b = blocks; b; b = b->next) total += b->context == context;
  return total;
}

static Block *make(size_t bytes, int host, int mapped) {
  Block *block = calloc(1, sizeof *block);
  if (posix_memalign((void **)&block->memory, 4096, bytes)) abort();
  memset(block->memory, 0xA5, bytes); /* fresh memory holds rubbish, as on a GPU */
  CUdeviceptr address = host && settings.unified ? (CUdeviceptr)block->memory : next_address;
  *block = (Block){address, block->memory, bytes, host, mapped, context_now(), blocks};
  next_address += (bytes + 0x1FFF) & ~0xFFFULL; /* at least a page of nobody's between two blocks */
  return blocks = block;
}

static CUresult drop(Block *wanted) {
  for (Block **at = &blocks; *at; at = &(*at)->next)
    if (*at == wanted) {
      *at = wanted->next;
      free(wanted->memory);
      free(wanted);
      return CUDA_SUCCESS;
    }
  return CUDA_ERROR_INVALID_VALUE;
}

void memory_sweep(void) {
  while (blocks) drop(blocks);
}

void *memory_resolve(CUdeviceptr address, size_t bytes) {
  for (Block *b = blocks; b; b = b->next)
    if (address >= b->address && address + bytes <= b->address + b->bytes && (!b->host || b->mapped)) {
      if (context_now() && context_now()->device != b->context->device)
        double_violation("memory of GPU %d is used from GPU %d", b->context->device, context_now()->device);
      return b->memory + (address - b->address);
    }
  return NULL;
}

static Block *host_block(const void *host, size_t bytes) {
  const unsigned char *first = host;
  for (Block *b = blocks; b; b = b->next)
    if (b->host && first >= b->memory && first + bytes <= b->memory + b->bytes) return b;
  return NULL;
}
int memory_is_pinned(const void *host, size_t bytes) { return host_block(host, bytes) != NULL; }

EXPORT CUresult cuMemGetInfo_v2(size_t *available, size_t *total) {
  ENTER("cuMemGetInfo", 1, "");
  *total = (size_t)settings.total_memory;
  size_t granule = 2 << 20, taken = memory_bytes(context_now()->device); /* a driver hands out whole pages of 2 MiB */
  *available = (*total > taken ? *total - taken : 0) / granule * granule;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
  ENTER("cuMemAlloc", 1, "bytes=%zu", bytes);
  CUresult code = queue_forbid_in_capture();
  if (code) return code;
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  if (memory_bytes(context_now()->device) + bytes > (size_t)settings.total_memory) return CUDA_ERROR_OUT_OF_MEMORY;
  *address = make(bytes, 0, 1)->address;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr address) {
  ENTER("cuMemFree", 1, "address=0x%llx", (unsigned long long)address);
  CUresult code = queue_forbid_in_capture();
  if (code) return code;
  queue_drain_all();
  for (Block *b = blocks; b; b = b->next)
    if (b->address == address && !b->host) return drop(b);
  double_violation("cuMemFree of 0x%llx, which is no live block", (unsigned long long)address);
  return CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuMemHostAlloc(void **host, size_t bytes, unsigned int flags) {
  ENTER("cuMemHostAlloc", 1, "bytes=%zu flags=%u", bytes, flags);
  CUresult code = queue_forbid_in_capture();
  if (code) return code;
  if (!bytes) return CUDA_ERROR_INVALID_VALUE;
  *host = make(bytes, 1, (flags & HOSTALLOC_DEVICEMAP) != 0)->memory;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFreeHost(void *host) {
  ENTER("cuMemFreeHost", 1, "host=%p", host);
  CUresult code = queue_forbid_in_capture();
  if (code) return code;
  queue_drain_all();
  Block *block = host_block(host, 1);
  if (block && block->memory == host) return drop(block);
  double_violation("cuMemFreeHost of %p, which is no live block", host);
  return CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *address, void *host, unsigned int flags) {
  ENTER("cuMemHostGetDevicePointer", 1, "host=%p flags=%u", host, flags);
  Block *block = host_block(host, 1);
  if (!block || !block->mapped) return CUDA_ERROR_INVALID_VALUE;
  *address = block->address + (CUdeviceptr)((unsigned char *)host - block->memory);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuMemHostGetFlags(unsigned int *flags, void *host) {
  ENTER("cuMemHostGetFlags", 1, "host=%p", host);
  Block *block = host_block(host, 1);
  if (!block) return CUDA_ERROR_INVALID_VALUE;
  *flags = block->mapped ? HOSTALLOC_DEVICEMAP : 0;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuPointerGetAttribute(void *found, int attribute, CUdeviceptr address) {
  ENTER("cuPointerGetAttribute", 1, "attribute=%d address=0x%llx", attribute, (unsigned long long)address);
  enum { DEVICE_ORDINAL = 9 };
  for (Block *b = blocks; b; b = b->next)
    if (address >= b->address && address < b->address + b->bytes && attribute == DEVICE_ORDINAL) {
      *(int *)found = b->context->device;
      return CUDA_SUCCESS;
    }
  return CUDA_ERROR_INVALID_VALUE;
}
