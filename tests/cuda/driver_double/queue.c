/* Streams, events, and the work between them. Work waits in its queue until somebody waits for it. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "double.h"

struct Stream {
  Op *first, **last;
  Graph *capture;
  int mode, invalidated;
  int unjoined;    /* it joined the capture of `origin` and holds work that `origin` does not wait for yet */
  Stream *origin;
  unsigned int flags;
  pthread_t captor;
  Context *context;
  struct Stream *next;
};

static Graph finished; /* stands for a capture that has ended, in the events that were its edges */
static Stream *streams;
static Stream *legacies; /* stream 0 of each context */
static Event *events;
static Event *buried; /* destroyed while a graph records them: the graph writes there still */
static int64_t clock_ns;
static __thread int thread_mode = CAPTURE_GLOBAL;

size_t queue_streams(void) { size_t n = 0; for (Stream *s = streams; s; s = s->next) n++; return n; }
size_t queue_events(void) { size_t n = 0; for (Event *e = events; e; e = e->next) n++; return n; }
size_t queue_captures(void) { size_t n = 0; for (Stream *s = streams; s; s = s->next) n += s->capture != NULL; return n; }

int64_t queue_now(void) {
  if (!settings.real_clock) return clock_ns;
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

size_t queue_of(const Context *context) {
  size_t total = 0;
  for (Stream *s = streams; s; s = s->next) total += s->context == context;
  for (Event *e = events; e; e = e->next) total += e->context == context;
  return total;
}

static Stream *new_stream(unsigned int flags, Stream **list) {
  Stream *stream = calloc(1, sizeof *stream);
  stream->last = &stream->first;
  stream->flags = flags;
  stream->context = context_now();
  stream->next = *list;
  return *list = stream;
}

static Stream *legacy(void) {
  for (Stream *s = legacies; s; s = s->next)
    if (s->context == context_now()) return s;
  return new_stream(0, &legacies);
}

/* A handle of another context is as good as none. */
Stream *queue_find(void *handle) {
  if (!handle) return legacy();
  for (Stream *s = streams; s; s = s->next)
    if (s == handle) return s->context == context_now() ? s : NULL;
  return NULL;
}

static Event *find_event(void *handle) {
  for (Event *e = events; e; e = e->next)
    if (e == handle) return e;
  return NULL;
}

static Stream *head(Stream *stream) { return stream->origin ? stream->origin : stream; } /* of its capture */

CUresult queue_forbid_in_capture(void) {
  if (thread_mode == CAPTURE_RELAXED) return CUDA_SUCCESS;
  for (Stream *s = streams; s; s = s->next) {
    if (!s->capture || s->mode == CAPTURE_RELAXED) continue;
    if (s->mode == CAPTURE_THREAD_LOCAL && !pthread_equal(s->captor, pthread_self())) continue;
    head(s)->invalidated = 1;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return CUDA_SUCCESS;
}

CUresult queue_forbid_on_stream(Stream *stream) {
  if (!stream->capture) return CUDA_SUCCESS;
  head(stream)->invalidated = 1;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

static void fill(unsigned char *at, const Op *op) {
  for (size_t i = 0; i < op->elements; i++) memcpy(at + i * op->width, &op->value, op->width);
}

static void fault_at(CUresult code, const char *what) {
  double_violation("%s of memory that is no longer there", what);
  double_stick(code);
}

static void copy_rows(const Op *op) {
  for (size_t i = 0; i < op->height; i++) {
    void *target = memory_resolve(op->target + i * op->target_pitch, op->bytes);
    void *source = memory_resolve(op->source + i * op->source_pitch, op->bytes);
    if (!target || !source) { fault_at(CUDA_ERROR_ILLEGAL_ADDRESS, "a copy of rows"); return; }
    memmove(target, source, op->bytes);
  }
}

static int step(Stream *stream);
static int pending(const Event *event) { return event->done < event->issued; }

static void execute(Op *op) {
  CUresult injected = double_injected("execute");
  if (injected) { double_stick(injected); return; }
  clock_ns += settings.op_cost_ns + (int64_t)(op->bytes / 100);
  void *target = op->kind == OP_TO_DEVICE || op->kind == OP_ON_DEVICE || op->kind == OP_FILL
                     ? memory_resolve(op->target, op->bytes) : op->host;
  void *source = op->kind == OP_TO_HOST || op->kind == OP_ON_DEVICE ? memory_resolve(op->source, op->bytes)
                 : op->snapshot ? op->snapshot : op->host;
  if (op->pinned && !memory_is_pinned(op->host, op->bytes)) {
    fault_at(CUDA_ERROR_ILLEGAL_ADDRESS, "a copy through page-locked memory, to or from");
    return;
  }
  switch (op->kind) {
    case OP_TO_DEVICE: case OP_TO_HOST: case OP_ON_DEVICE:
      if (target && source) memmove(target, source, op->bytes);
      else fault_at(CUDA_ERROR_ILLEGAL_ADDRESS, "a copy");
      break;
    case OP_FILL:
      if (target) fill(target, op);
      else fault_at(CUDA_ERROR_ILLEGAL_ADDRESS, "a fill");
      break;
    case OP_ROWS: copy_rows(op); break;
    case OP_RECORD: op->event->at_ns = queue_now(); op->event->done++; op->event->recorded = 1; break;
    case OP_WAIT: while (op->event->done < op->until && step(op->by)) {} break;
    case OP_CALL: double_in_call++; op->call(op->host); double_in_call--; break;
    case OP_LAUNCH: for (size_t i = 0; i < op->exec->count; i++) execute(&op->exec->ops[i]); break;
  }
}

static int step(Stream *stream) {
  Op *op = stream->first;
  if (!op) return 0;
  if (!(stream->first = op->next)) stream->last = &stream->first;
  execute(op);
  free(op->snapshot);
  free(op);
  return 1;
}

void queue_drain(Stream *stream) { while (step(stream)) {} }
void queue_drain_all(void) {
  for (Stream *s = legacies; s; s = s->next) queue_drain(s);
  for (Stream *s = streams; s; s = s->next) queue_drain(s);
}

static void expect_event(Stream *stream, const Op *op) {
  if (op->kind == OP_RECORD) { op->event->issued++; op->event->by = stream; }
  if (op->kind == OP_LAUNCH)
    for (size_t i = 0; i < op->exec->count; i++) expect_event(stream, &op->exec->ops[i]);
}

CUresult queue_add(Stream *stream, Op op) {
  if (stream->capture) {
    if (head(stream)->invalidated) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    if (stream->origin) stream->unjoined = 1;
    return graph_add(stream->capture, op);
  }
  for (Stream *s = streams; s && stream == legacy(); s = s->next) /* work on stream 0 waits for blocking streams */
    if (s->capture && s->context == stream->context && !(s->flags & STREAM_NON_BLOCKING)) {
      s->invalidated = 1;
      return CUDA_ERROR_STREAM_CAPTURE_IMPLICIT;
    }
  Op *copy = malloc(sizeof *copy);
  *copy = op;
  copy->next = NULL;
  *stream->last = copy;
  stream->last = &copy->next;
  expect_event(stream, copy);
  if (settings.at_once) queue_drain(stream);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamCreate(void **handle, unsigned int flags) {
  ENTER("cuStreamCreate", 1, "flags=%u", flags);
  *handle = new_stream(flags, &streams);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamGetCtx(void *handle, void **context) {
  ENTER("cuStreamGetCtx", 1, "stream=%p", handle);
  for (Stream *s = streams; s; s = s->next)
    if (s == handle) { *context = s->context; return CUDA_SUCCESS; }
  if (!handle) *context = context_now();
  return handle ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

EXPORT CUresult cuStreamDestroy_v2(void *handle) {
  ENTER("cuStreamDestroy", 1, "stream=%p", handle);
  Stream *stream = handle ? queue_find(handle) : NULL;
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  queue_drain(stream);
  if (stream->capture && !stream->origin) graph_free(stream->capture);
  for (Stream **at = &streams; *at; at = &(*at)->next)
    if (*at == stream) { *at = stream->next; break; }
  free(stream);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(void *handle) {
  ENTER("cuStreamSynchronize", 1, "stream=%p", handle);
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  CUresult code = queue_forbid_on_stream(stream);
  if (code) return code;
  queue_drain(stream);
  return double_outcome();
}

EXPORT CUresult cuStreamQuery(void *handle) {
  ENTER("cuStreamQuery", 1, "stream=%p", handle);
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  CUresult code = queue_forbid_on_stream(stream);
  if (code) return code;
  for (int64_t i = 0; i < settings.ops_per_query && stream->first; i++) step(stream);
  if ((code = double_outcome())) return code;
  return stream->first ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}

/* Waiting for an event that a capture recorded draws a stream into it; it must be waited for before the capture ends. */
EXPORT CUresult cuStreamWaitEvent(void *handle, void *event_handle, unsigned int flags) {
  ENTER("cuStreamWaitEvent", 1, "stream=%p event=%p flags=%u", handle, event_handle, flags);
  Stream *stream = queue_find(handle);
  Event *event = find_event(event_handle);
  if (!stream || !event) return CUDA_ERROR_INVALID_HANDLE;
  if (event->captured == &finished) return CUDA_ERROR_CAPTURED_EVENT;
  if (!event->captured && stream->capture && !(flags & WAIT_EXTERNAL)) {
    head(stream)->invalidated = 1;
    return CUDA_ERROR_STREAM_CAPTURE_ISOLATION;
  }
  if (event->captured && !stream->capture) {
    stream->capture = event->captured;
    stream->origin = head(event->by);
    stream->mode = stream->origin->mode;
    stream->captor = stream->origin->captor;
    stream->unjoined = 1;
  } else if (event->captured && event->by->origin == stream) {
    event->by->unjoined = 0;
  } else if (!stream->capture && pending(event)) {
    /* Nothing but the records up to here is waited for: what another stream does beside them stays undone. */
    return queue_add(stream, (Op){.kind = OP_WAIT, .event = event, .by = event->by, .until = event->issued});
  }
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamIsCapturing(void *handle, int *status) {
  ENTER("cuStreamIsCapturing", 1, "stream=%p", handle);
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  *status = !stream->capture ? 0 : head(stream)->invalidated ? 2 : 1;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamBeginCapture_v2(void *handle, int mode) {
  ENTER("cuStreamBeginCapture", 1, "stream=%p mode=%d", handle, mode);
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!handle) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; /* the legacy stream cannot be captured */
  if (stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = graph_new();
  stream->mode = mode;
  stream->invalidated = 0;
  stream->captor = pthread_self();
  return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamEndCapture(void *handle, void **graph) {
  ENTER("cuStreamEndCapture", 1, "stream=%p", handle);
  Stream *stream = queue_find(handle);
  if (!stream) return CUDA_ERROR_INVALID_HANDLE;
  if (!stream->capture) return CUDA_ERROR_ILLEGAL_STATE;
  if (stream->mode != CAPTURE_RELAXED && !pthread_equal(stream->captor, pthread_self()))
    return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  if (stream->origin) return CUDA_ERROR_STREAM_CAPTURE_UNMATCHED;
  Graph *captured = stream->capture;
  int unjoined = 0;
  for (Stream *s = streams; s; s = s->next)
    if (s->capture == captured) {
      unjoined |= s->unjoined;
      s->capture = NULL;
      s->origin = NULL;
      s->unjoined = 0;
    }
  for (Event *e = events; e; e = e->next)
    if (e->captured == captured) { e->by = NULL; e->captured = &finished; }
  *graph = captured;
  if (!stream->invalidated && !unjoined) return CUDA_SUCCESS;
  graph_free(captured);
  *graph = NULL;
  return stream->invalidated ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
}

EXPORT CUresult cuThreadExchangeStreamCaptureMode(int *mode) {
  ENTER("cuThreadExchangeStreamCaptureMode", 0, "mode=%d", *mode);
  int before = thread_mode;
  thread_mode = *mode;
  *mode = before;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuEventCreate(void **handle, unsigned int flags) {
  ENTER("cuEventCreate", 1, "flags=%u", flags);
  Event *event = calloc(1, sizeof *event);
  event->flags = flags;
  event->context = context_now();
  event->next = events;
  *handle = events = event;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuEventDestroy_v2(void *handle) {
  ENTER("cuEventDestroy", 1, "event=%p", handle);
  Event *event = find_event(handle);
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  queue_drain_all();
  for (Event **at = &events; *at; at = &(*at)->next)
    if (*at == event) { *at = event->next; break; }
  if (graph_records(event)) {
    double_violation("an event was destroyed that a live graph records");
    event->next = buried;
    buried = event;
  } else {
    free(event);
  }
  return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecordWithFlags(void *handle, void *stream_handle, unsigned int flags) {
  ENTER("cuEventRecordWithFlags", 1, "event=%p stream=%p flags=%u", handle, stream_handle, flags);
  Event *event = find_event(handle);
  Stream *stream = queue_find(stream_handle);
  if (!event || !stream || event->context != stream->context) return CUDA_ERROR_INVALID_HANDLE;
  if (flags & RECORD_EXTERNAL ? !stream->capture : 0) return CUDA_ERROR_INVALID_VALUE; /* invalid outside capture */
  event->captured = flags & RECORD_EXTERNAL ? NULL : stream->capture;
  event->by = stream;
  if (event->captured) return CUDA_SUCCESS; /* only an edge of the graph: nobody can time it */
  return queue_add(stream, (Op){.kind = OP_RECORD, .event = event});
}

EXPORT CUresult cuEventRecord(void *handle, void *stream) { return cuEventRecordWithFlags(handle, stream, 0); }

EXPORT CUresult cuEventQuery(void *handle) {
  ENTER("cuEventQuery", 1, "event=%p", handle);
  CUresult unsafe = queue_forbid_in_capture();
  if (unsafe) return unsafe;
  Event *event = find_event(handle);
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  if (event->captured) return CUDA_ERROR_CAPTURED_EVENT;
  for (Stream *s = streams; s; s = s->next)
    for (int64_t i = 0; i < settings.ops_per_query && !s->capture; i++) step(s);
  return pending(event) ? CUDA_ERROR_NOT_READY : double_outcome();
}

EXPORT CUresult cuEventSynchronize(void *handle) {
  ENTER("cuEventSynchronize", 1, "event=%p", handle);
  CUresult unsafe = queue_forbid_in_capture();
  if (unsafe) return unsafe;
  Event *event = find_event(handle);
  if (!event) return CUDA_ERROR_INVALID_HANDLE;
  if (event->captured) return CUDA_ERROR_CAPTURED_EVENT;
  while (pending(event) && step(event->by)) {} /* other streams' work stays undone: only this was waited for */
  return double_outcome();
}

EXPORT CUresult cuEventElapsedTime_v2(float *milliseconds, void *first, void *last) {
  ENTER("cuEventElapsedTime", 1, "first=%p last=%p", first, last);
  Event *a = find_event(first), *b = find_event(last);
  if (!a || !b || a->flags & EVENT_DISABLE_TIMING || b->flags & EVENT_DISABLE_TIMING) return CUDA_ERROR_INVALID_HANDLE;
  if (a->captured || b->captured) return CUDA_ERROR_CAPTURED_EVENT;
  if (pending(a) || pending(b)) return CUDA_ERROR_NOT_READY;
  if (!a->recorded || !b->recorded) return CUDA_ERROR_INVALID_HANDLE;
  *milliseconds = (float)((double)(b->at_ns - a->at_ns) / 1e6);
  return CUDA_SUCCESS;
}
EXPORT CUresult cuEventElapsedTime(float *ms, void *first, void *last) { return cuEventElapsedTime_v2(ms, first, last); }

void queue_sweep(void) {
  thread_mode = CAPTURE_GLOBAL;
  while (streams || legacies) {
    Stream **list = streams ? &streams : &legacies, *stream = *list;
    *list = stream->next;
    while (stream->first) {
      Op *op = stream->first;
      stream->first = op->next;
      free(op->snapshot);
      free(op);
    }
    free(stream);
  }
  while (events || buried) {
    Event **list = events ? &events : &buried, *event = *list;
    *list = event->next;
    free(event);
  }
}
