/* A native plugin in C: everything that the contract needs, and nothing else.
 *
 *   cc -shared -fPIC -O2 -I worker-sdk/include plugins/hello-c/hello.c -o hello-c.so -lpthread
 *
 *   GET  /        answers at once
 *   GET  /later   answers when another thread has finished, 20 ms later, without holding up anybody
 *   POST /echo    sends the body back, chunk by chunk, with a trailer at the end
 *   GET  /count   streams ten lines
 */
#include "worker.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const launcher_header TEXT = { LAUNCHER_STR("content-type"), LAUNCHER_STR("text/plain; charset=utf-8") };

static int is(launcher_str text, const char *word) {
    return text.len == strlen(word) && memcmp(text.ptr, word, text.len) == 0;
}

/* An answer of constants: nothing to release, nothing to copy. */
static int32_t answer(launcher_response *response, uint32_t status, launcher_str bytes) {
    response->status = status;
    response->flags = LAUNCHER_STATIC;
    response->headers = &TEXT;
    response->headers_len = 1;
    response->bytes = bytes;
    return LAUNCHER_READY;
}

/* /later: the work is held by the call and by the thread; whoever leaves last frees it. */

typedef struct {
    atomic_int holders;
    pthread_mutex_t mutex;
    int done;
    launcher_waker waker; /* an owned clone, while vtable is not NULL */
} later;

static void later_leave(later *work) {
    if (atomic_fetch_sub(&work->holders, 1) != 1) return;
    if (work->waker.vtable) work->waker.vtable->drop(work->waker.data);
    pthread_mutex_destroy(&work->mutex);
    free(work);
}

static void *later_run(void *argument) {
    later *work = argument;
    usleep(20000);
    pthread_mutex_lock(&work->mutex);
    work->done = 1;
    launcher_waker waker = work->waker;
    work->waker.vtable = NULL;
    pthread_mutex_unlock(&work->mutex);
    if (waker.vtable) waker.vtable->wake(waker.data); /* consumes it; outside of the lock */
    later_leave(work);
    return NULL;
}

static int32_t later_poll(void *data, launcher_waker waker, launcher_response *response) {
    later *work = data;
    pthread_mutex_lock(&work->mutex);
    int done = work->done;
    launcher_waker old = work->waker;
    work->waker.vtable = NULL;
    if (!done) work->waker = waker.vtable->clone(waker.data); /* the latest waker counts */
    pthread_mutex_unlock(&work->mutex);
    if (old.vtable) old.vtable->drop(old.data);
    if (!done) return LAUNCHER_PENDING;
    return answer(response, 200, (launcher_str)LAUNCHER_STR("It took a while.\n"));
}

static void later_drop(void *data) { later_leave(data); }

static int32_t later_begin(launcher_waker waker, launcher_response *response, launcher_call *call) {
    later *work = calloc(1, sizeof *work);
    if (!work) return LAUNCHER_ERROR;
    atomic_init(&work->holders, 2);
    pthread_mutex_init(&work->mutex, NULL);
    pthread_t thread;
    if (pthread_create(&thread, NULL, later_run, work)) {
        pthread_mutex_destroy(&work->mutex);
        free(work);
        return LAUNCHER_ERROR;
    }
    pthread_detach(thread);
    int32_t code = later_poll(work, waker, response);
    if (code == LAUNCHER_PENDING)
        *call = (launcher_call){ work, later_poll, later_drop };
    else
        later_leave(work);
    return code;
}

/* /echo: the request's body, pulled when the client takes the response's. */

typedef struct {
    launcher_body source;
    int over;
} echo;

static const launcher_header TRAILER = { LAUNCHER_STR("x-echo"), LAUNCHER_STR("complete") };

static int32_t echo_poll(void *data, launcher_waker waker, launcher_chunk *chunk) {
    echo *self = data;
    if (self->over) return LAUNCHER_END;
    int32_t code = self->source.poll ? self->source.poll(self->source.data, waker, chunk) : LAUNCHER_END;
    if (code == LAUNCHER_TRAILERS) { /* the client's own trailers are not ours to send */
        if (chunk->release) chunk->release(chunk->owner);
        chunk->owner = NULL;
        chunk->release = NULL;
        code = LAUNCHER_END;
    }
    if (code != LAUNCHER_END) return code; /* a chunk passes through with its owner */
    self->over = 1;
    chunk->trailers = &TRAILER;
    chunk->trailers_len = 1;
    return LAUNCHER_TRAILERS;
}

static void echo_drop(void *data) {
    echo *self = data;
    if (self->source.drop) self->source.drop(self->source.data);
    free(self);
}

static int32_t echo_begin(launcher_request *request, launcher_response *response) {
    echo *self = calloc(1, sizeof *self);
    if (!self) return LAUNCHER_ERROR;
    self->source = request->body; /* taken: … */
    request->body = (launcher_body){ 0 }; /* … so it is no longer the host's to drop */
    response->status = 200;
    response->body = (launcher_body){ self, echo_poll, echo_drop, -1 };
    return LAUNCHER_READY;
}

/* /count: lines from a buffer of the stream's own, valid until the next poll. */

typedef struct {
    int next;
    char line[32];
} count;

static int32_t count_poll(void *data, launcher_waker waker, launcher_chunk *chunk) {
    (void)waker;
    count *self = data;
    if (self->next == 10) return LAUNCHER_END;
    int len = snprintf(self->line, sizeof self->line, "line %d\n", self->next++);
    chunk->bytes = (launcher_str){ (const uint8_t *)self->line, (size_t)len };
    return LAUNCHER_READY;
}

static int32_t count_begin(launcher_response *response) {
    count *self = calloc(1, sizeof *self);
    if (!self) return LAUNCHER_ERROR;
    response->status = 200;
    response->headers = &TEXT;
    response->headers_len = 1;
    response->body = (launcher_body){ self, count_poll, free, 70 };
    return LAUNCHER_READY;
}

static int32_t init(const launcher_host *host, void **state, launcher_chunk *error) {
    (void)state;
    if (host->abi != LAUNCHER_ABI) {
        error->bytes = (launcher_str)LAUNCHER_STR("built for another version of worker.h");
        return LAUNCHER_ERROR;
    }
    launcher_header service = { LAUNCHER_STR("service"), host->service };
    host->log(LAUNCHER_LOG_INFO, (launcher_str)LAUNCHER_STR("the plugin in C starts"), &service, 1);
    return LAUNCHER_READY;
}

static int32_t handle(void *state, launcher_request *request, launcher_waker waker, launcher_response *response,
                      launcher_call *call) {
    (void)state;
    if (is(request->target, "/later")) return later_begin(waker, response, call);
    if (is(request->target, "/echo")) return echo_begin(request, response);
    if (is(request->target, "/count")) return count_begin(response);
    if (is(request->target, "/")) return answer(response, 200, (launcher_str)LAUNCHER_STR("Hello from C!\n"));
    return answer(response, 404, (launcher_str)LAUNCHER_STR("no such page\n"));
}

static void drop(void *state) { (void)state; }

const launcher_plugin_t launcher_plugin = {
    .magic = LAUNCHER_MAGIC,
    .abi = LAUNCHER_ABI,
    .size = sizeof(launcher_plugin_t),
    .kind = LAUNCHER_KIND_HTTP,
    .name = "hello-c",
    .version = "1.0",
    .init = init,
    .handle = handle,
    .drop = drop,
};
