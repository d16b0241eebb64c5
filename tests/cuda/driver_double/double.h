/* A stand-in for libcuda.so.1 that needs no GPU: host memory, ordered queues, capture and replay.
 *
 * It runs the order, the addresses, the capture rules and the errors of the driver API. It runs no
 * kernel and says nothing about speed. Where CUDA allows what this project must not do (pageable
 * memory in an asynchronous copy under capture, overlapping device copies), it is stricter.
 */
#ifndef EDGETALKER_DRIVER_DOUBLE_H
#define EDGETALKER_DRIVER_DOUBLE_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

typedef int CUresult;
typedef int CUdevice;
typedef uint64_t CUdeviceptr;

enum {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_ILLEGAL_STATE = 401,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_NOT_READY = 600,
  CUDA_ERROR_ILLEGAL_ADDRESS = 700,
  CUDA_ERROR_NOT_PERMITTED = 800,
  CUDA_ERROR_NOT_SUPPORTED = 801,
  CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
  CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
  CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903,
  CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904,
  CUDA_ERROR_STREAM_CAPTURE_ISOLATION = 905,
  CUDA_ERROR_STREAM_CAPTURE_IMPLICIT = 906,
  CUDA_ERROR_CAPTURED_EVENT = 907,
  CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908
};

enum { CAPTURE_GLOBAL = 0, CAPTURE_THREAD_LOCAL = 1, CAPTURE_RELAXED = 2 };
enum { STREAM_NON_BLOCKING = 1, EVENT_DISABLE_TIMING = 2, RECORD_EXTERNAL = 1, WAIT_EXTERNAL = 1, HOSTALLOC_DEVICEMAP = 2 };

#define EXPORT __attribute__((visibility("default")))

/* control.c: log, failures, lock. Every entry of the API begins with ENTER. */
extern pthread_mutex_t double_lock;
extern __thread int double_in_call; /* a host function runs on this thread: it may call nothing of CUDA */
CUresult double_enter(const char *entry, int needs_context, const char *format, ...);
CUresult double_injected(const char *entry);
void double_violation(const char *format, ...);
void double_stick(CUresult code);   /* every call from now on fails so, as after an illegal address */
CUresult double_outcome(void);      /* what a call that waited reports */
static inline void double_unlock(int *unused) { (void)unused; pthread_mutex_unlock(&double_lock); }
#define ENTER(entry, needs_context, ...)                                    \
  pthread_mutex_lock(&double_lock);                                         \
  __attribute__((cleanup(double_unlock))) int locked_ = 1;                  \
  (void)locked_;                                                            \
  do {                                                                      \
    CUresult code_ = double_enter(entry, needs_context, __VA_ARGS__);       \
    if (code_ != CUDA_SUCCESS) return code_;                                \
  } while (0)

/* Settings that tests change by name (control.c, double_set). at_once: work runs when it is enqueued, the other
 * extreme of an order that CUDA leaves open; else when somebody waits for it. unified: the GPU sees mapped memory at
 * the host's own address. any_pitch: rows may lie at any distance, not only at one that cuMemAllocPitch chose.
 * by_version: an entry is looked up by its version, as CUDA's manual says; else by its name alone. */
typedef struct Settings {
  int64_t total_memory, integrated, devices, ops_per_query, op_cost_ns, real_clock, log, driver_version, at_once, unified,
      any_pitch, by_version;
} Settings;
extern Settings settings;

/* context.c */
extern int initialized;
enum { MAX_DEVICES = 8 };
typedef struct Context {
  int device, retained, alive; /* retained: of a primary context; one that cuCtxCreate made is only alive */
  struct Context *next;
} Context;
Context *context_now(void); /* the one on top of this thread's stack, NULL when there is none or it was destroyed */
int context_retained(void);
int context_depth(void);
int context_forked(void);

/* memory.c */
void *memory_resolve(CUdeviceptr address, size_t bytes); /* NULL when any byte lies outside a live block */
int memory_is_pinned(const void *host, size_t bytes);
size_t memory_blocks(void), memory_bytes(int device), memory_host_blocks(void), memory_of(const Context *context);

/* queue.c */
typedef struct Stream Stream;
typedef struct Event Event;
typedef struct Exec Exec;
enum { OP_TO_DEVICE, OP_TO_HOST, OP_ON_DEVICE, OP_FILL, OP_ROWS, OP_RECORD, OP_WAIT, OP_CALL, OP_LAUNCH };
typedef struct Op {
  int kind;
  CUdeviceptr target, source;
  void *host;              /* the host side of a copy, or the data of a call */
  unsigned char *snapshot; /* pageable source, taken when the copy was enqueued */
  size_t bytes, elements, target_pitch, source_pitch, height; /* of rows, `bytes` is the width */
  unsigned int value, width;
  int pinned;              /* the host side was page-locked when the copy was enqueued */
  void (*call)(void *);
  Event *event;
  Stream *by;              /* of a wait: who recorded the event, and how many records must be done */
  int64_t until;
  Exec *exec;
  struct Op *next;
} Op;
CUresult queue_add(Stream *stream, Op op);
Stream *queue_find(void *handle);
void queue_drain(Stream *stream);
void queue_drain_all(void);
int64_t queue_now(void);
CUresult queue_forbid_in_capture(void); /* for calls that CUDA calls potentially unsafe under capture */
CUresult queue_forbid_on_stream(Stream *stream);
size_t queue_streams(void), queue_events(void), queue_captures(void), queue_of(const Context *context);

/* graph.c: a capture writes into a Graph; an Exec is a frozen copy. */
typedef struct Graph {
  Op *ops;
  size_t count, room;
  struct Graph *next;
} Graph;
struct Exec {
  Op *ops;
  size_t count;
  int uploaded;
  Context *context;
  struct Exec *next;
};
Graph *graph_new(void);
void graph_free(Graph *graph);
CUresult graph_add(Graph *graph, Op op);
size_t graph_graphs(void), graph_execs(void), graph_of(const Context *context);
int graph_records(const Event *event);

/* queue.c, used by a launch */
struct Event {
  unsigned int flags;
  int recorded;
  Graph *captured;  /* the capture in which it is an edge, and the stream that recorded it there */
  Stream *by;               /* or in whose queue its newest record is */
  int64_t issued, done, at_ns; /* records that were asked for, and that ran */
  Context *context;
  struct Event *next;
};

/* For the tests: forget everything that lives. */
void context_sweep(void), memory_sweep(void), queue_sweep(void), graph_sweep(void);

#endif
