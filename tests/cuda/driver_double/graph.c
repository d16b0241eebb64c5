/* Graphs: what a capture wrote down, its executable copy, its launch. */
#include <stdlib.h>
#include <string.h>

#include "double.h"

static Graph *graphs;
static Exec *execs;

size_t graph_graphs(void) { size_t n = 0; for (Graph *g = graphs; g; g = g->next) n++; return n; }
size_t graph_execs(void) { size_t n = 0; for (Exec *e = execs; e; e = e->next) n++; return n; }

size_t graph_of(const Context *context) {
  size_t total = 0;
  for (Exec *e = execs; e; e = e->next) total += e->context == context;
  return total;
}
int graph_records(const Event *event) {
  for (Exec *e = execs; e; e = e->next)
    for (size_t i = 0; i < e->count; i++)
      if (e->ops[i].kind == OP_RECORD && e->ops[i].event == event) return 1;
  return 0;
}

Graph *graph_new(void) {
  Graph *graph = calloc(1, sizeof *graph);
  graph->next = graphs;
  return graphs = graph;
}

void graph_free(Graph *graph) {
  for (Graph **at = &graphs; *at; at = &(*at)->next)
    if (*at == graph) { *at = graph->next; break; }
  free(graph->ops);
  free(graph);
}

CUresult graph_add(Graph *graph, Op op) {
  if (graph->count == graph->room)
    graph->ops = realloc(graph->ops, (graph->room = graph->room ? 2 * graph->room : 16) * sizeof op);
  graph->ops[graph->count++] = op;
  return CUDA_SUCCESS;
}

static Graph *find_graph(void *handle) {
  for (Graph *g = graphs; g; g = g->next)
    if (g == handle) return g;
  return NULL;
}

static Exec *find_exec(void *handle) {
  for (Exec *e = execs; e; e = e->next)
    if (e == handle) return e;
  return NULL;
}

EXPORT CUresult cuGraphGetNodes(void *handle, void **nodes, size_t *count) {
  ENTER("cuGraphGetNodes", 0, "graph=%p", handle);
  Graph *graph = find_graph(handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  for (size_t i = 0; nodes && i < *count; i++) nodes[i] = i < graph->count ? (void *)&graph->ops[i] : NULL;
  *count = graph->count;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphDestroy(void *handle) {
  ENTER("cuGraphDestroy", 0, "graph=%p", handle);
  Graph *graph = find_graph(handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  graph_free(graph);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphInstantiateWithFlags(void **handle, void *graph_handle, unsigned long long flags) {
  ENTER("cuGraphInstantiate", 1, "graph=%p flags=%llu", graph_handle, flags);
  Graph *graph = find_graph(graph_handle);
  if (!graph) return CUDA_ERROR_INVALID_VALUE;
  Exec *exec = calloc(1, sizeof *exec);
  exec->count = graph->count;
  exec->context = context_now();
  exec->ops = calloc(graph->count + 1, sizeof *exec->ops);
  if (graph->count) memcpy(exec->ops, graph->ops, graph->count * sizeof *exec->ops);
  exec->next = execs;
  *handle = execs = exec;
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphExecDestroy(void *handle) {
  ENTER("cuGraphExecDestroy", 0, "exec=%p", handle);
  Exec *exec = find_exec(handle);
  if (!exec) return CUDA_ERROR_INVALID_VALUE;
  queue_drain_all();
  for (Exec **at = &execs; *at; at = &(*at)->next)
    if (*at == exec) { *at = exec->next; break; }
  free(exec->ops);
  free(exec);
  return CUDA_SUCCESS;
}

EXPORT CUresult cuGraphUpload(void *handle, void *stream_handle) {
  ENTER("cuGraphUpload", 1, "exec=%p stream=%p", handle, stream_handle);
  Exec *exec = find_exec(handle);
  Stream *stream = queue_find(stream_handle);
  if (!exec || !stream) return CUDA_ERROR_INVALID_VALUE;
  CUresult code = queue_forbid_on_stream(stream);
  if (!code) exec->uploaded = 1;
  return code;
}

EXPORT CUresult cuGraphLaunch(void *handle, void *stream_handle) {
  ENTER("cuGraphLaunch", 1, "exec=%p stream=%p", handle, stream_handle);
  Exec *exec = find_exec(handle);
  Stream *stream = queue_find(stream_handle);
  if (!exec || !stream) return CUDA_ERROR_INVALID_VALUE;
  if (exec->context != context_now()) double_violation("a graph of another context was launched");
  CUresult code = queue_forbid_on_stream(stream); /* CUDA would nest it; this project never does */
  if (code) return code;
  if (!exec->uploaded) double_violation("a graph was launched that was never uploaded");
  return queue_add(stream, (Op){.kind = OP_LAUNCH, .exec = exec});
}

void graph_sweep(void) {
  while (graphs) graph_free(graphs);
  while (execs) {
    Exec *exec = execs;
    execs = exec->next;
    free(exec->ops);
    free(exec);
  }
}
