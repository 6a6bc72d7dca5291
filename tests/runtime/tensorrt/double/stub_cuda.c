/* A test double of the CUDA driver: device memory is the host's, work is done when it is enqueued,
   a captured graph is a list of what was enqueued. It proves the caller's logic, not CUDA's. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct { int kind; void *to; const void *from; size_t n; void (*fn)(void *); void *arg; } Step;
typedef struct { Step *steps; int count; } Graph;
static Graph *capturing = NULL;
static long live = 0;

static int number(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}
int cuInit(unsigned flags) { return number("STUB_CUDA_INIT", 0); }
int cuDriverGetVersion(int *v) { *v = 12060; return 0; }
int cuDeviceGet(int *d, int n) { *d = n; return 0; }
int cuDeviceGetName(char *s, int n, int d) {
    const char *name = getenv("STUB_CUDA_NAME");
    snprintf(s, n, "%s", name ? name : "Stub GPU");
    return 0;
}
int cuDeviceGetAttribute(int *v, int a, int d) {
    *v = a == 75 ? 8 : a == 76 ? 7 : a == 16 ? number("STUB_CUDA_MP", 8) : 0;
    return 0;
}
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)1; return 0; }
int cuDevicePrimaryCtxRelease_v2(int d) {
    const char *path = getenv("STUB_CUDA_REPORT");
    if (path) { FILE *f = fopen(path, "w"); fprintf(f, "%ld", live); fclose(f); }
    return 0;
}
int cuCtxSetCurrent(void *c) { return 0; }
int cuMemGetInfo_v2(size_t *f, size_t *t) {
    *t = (size_t)8 << 30;
    *f = (size_t)number("STUB_CUDA_FREE_MIB", 4096) << 20;
    return 0;
}
int cuMemAlloc_v2(uint64_t *p, size_t n) {
    if (n > ((size_t)number("STUB_CUDA_FREE_MIB", 4096) << 20)) return 2;
    *p = (uint64_t)(uintptr_t)aligned_alloc(256, (n + 255) / 256 * 256);
    live++;
    return 0;
}
int cuMemFree_v2(uint64_t p) { free((void *)(uintptr_t)p); live--; return 0; }
int cuMemAllocHost_v2(void **p, size_t n) { *p = malloc(n); live++; return 0; }
int cuMemFreeHost(void *p) { free(p); live--; return 0; }

static int put(Step step) {
    if (capturing) {
        capturing->steps = realloc(capturing->steps, sizeof(Step) * (capturing->count + 1));
        capturing->steps[capturing->count++] = step;
        return 0;
    }
    if (step.kind) step.fn(step.arg);
    else memcpy(step.to, step.from, step.n);
    return 0;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *s) {
    return put((Step){0, (void *)(uintptr_t)to, from, n, NULL, NULL});
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *s) {
    return put((Step){0, to, (void *)(uintptr_t)from, n, NULL, NULL});
}
int cuLaunchHostFunc(void *s, void (*fn)(void *), void *arg) {
    return put((Step){1, NULL, NULL, 0, fn, arg});
}
int cuStreamCreate(void **s, unsigned f) { *s = malloc(1); return 0; }
int cuStreamSynchronize(void *s) { return 0; }
int cuStreamDestroy_v2(void *s) { free(s); return 0; }
int cuStreamBeginCapture_v2(void *s, int mode) {
    if (getenv("STUB_CUDA_NO_CAPTURE")) return 900;
    capturing = calloc(1, sizeof(Graph));
    return 0;
}
int cuStreamEndCapture(void *s, void **g) { *g = capturing; capturing = NULL; return 0; }
int cuGraphInstantiateWithFlags(void **e, void *g, uint64_t f) {
    Graph *copy = calloc(1, sizeof(Graph)), *from = g;
    copy->count = from->count;
    copy->steps = malloc(sizeof(Step) * (from->count + 1));
    memcpy(copy->steps, from->steps, sizeof(Step) * from->count);
    *e = copy;
    return 0;
}
int cuGraphDestroy(void *g) { free(((Graph *)g)->steps); free(g); return 0; }
int cuGraphExecDestroy(void *e) { free(((Graph *)e)->steps); free(e); return 0; }
int cuGraphLaunch(void *e, void *s) {
    Graph *g = e;
    for (int i = 0; i < g->count; i++) put(g->steps[i]);
    return 0;
}
int cuGetErrorName(int code, const char **name) {
    *name = code == 100 ? "CUDA_ERROR_NO_DEVICE" : code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR";
    return 0;
}
