/* A native plugin that says which process answers, and dies on request in a way that can be accounted for.
 *
 *   GET  /              version and pid
 *   GET  /slow/MS       the same, MS milliseconds later
 *   GET  /large/BYTES   that many bytes; byte n is n % 251
 *   GET  /time          the wall clock, in seconds, as this process has it
 *   POST /upload        how many bytes came, and their sum
 *   GET  /die/HOW       stops its process, and when that goes on: segv, abort, exit, memory
 *
 * Before it dies it stops itself by SIGSTOP. Whoever watches reads its table of descriptors then: exactly these
 * connections are lost, for this is the thread that serves, and between the stop and the end it does nothing else. What
 * dies by itself is killed while it stands.
 *
 * Its version, and after how many milliseconds it dies by itself (0: never), are text in the built library, which the
 * harness overwrites: a version costs no compiler.
 */
#include "worker.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Volatile, or the compiler would use the digits that it sees here. */
static const volatile char BUILD[] = "witness:version=0000000000,dies=0000000000;";

static unsigned long number_after(const char *key) {
    char text[sizeof BUILD];
    for (size_t at = 0; at < sizeof BUILD; at++) text[at] = BUILD[at];
    char *found = strstr(text, key);
    return found ? strtoul(found + strlen(key), NULL, 10) : 0;
}

static const launcher_header TEXT = { LAUNCHER_STR("content-type"), LAUNCHER_STR("text/plain; charset=utf-8") };

/* What `/` says: the same for the whole life of the process. */
static char identity[64];

static int after(launcher_str text, const char *start) {
    return text.len >= strlen(start) && memcmp(text.ptr, start, strlen(start)) == 0;
}

static unsigned long number_at(launcher_str text, size_t from) {
    unsigned long number = 0;
    for (size_t at = from; at < text.len && text.ptr[at] >= '0' && text.ptr[at] <= '9'; at++)
        number = number * 10 + (unsigned long)(text.ptr[at] - '0');
    return number;
}

static int32_t answer(launcher_response *response, uint32_t status, const char *text) {
    response->status = status;
    response->flags = LAUNCHER_STATIC;
    response->headers = &TEXT;
    response->headers_len = 1;
    response->bytes = (launcher_str){ (const uint8_t *)text, strlen(text) };
    return LAUNCHER_READY;
}

/* ---- The ends */

static void die(const char *how, size_t length) {
    kill(getpid(), SIGSTOP);
    if (!strncmp(how, "exit", length)) _exit(3);
    if (!strncmp(how, "memory", length)) {
        /* The harness has lowered the limit of the address space meanwhile. */
        for (size_t size = (size_t)1 << 40; size; size /= 2) {
            volatile char *block = malloc(size);
            if (block) block[0] = 1;
        }
        abort();
    }
    if (!strncmp(how, "segv", length)) {
        volatile int *volatile nowhere = (volatile int *)16;
        *nowhere = 1;
    }
    abort();
}

static void *die_later(void *argument) {
    usleep((useconds_t)((size_t)argument * 1000));
    die("segv", 4);
    return NULL;
}

/* ---- /slow: the call and the thread share it; whoever leaves last frees it. */

typedef struct {
    pthread_mutex_t mutex;
    int holders, done;
    unsigned long milliseconds;
    launcher_waker waker; /* an owned clone, while vtable is not NULL */
} slow;

static void slow_leave(slow *work) {
    pthread_mutex_lock(&work->mutex);
    int left = --work->holders;
    pthread_mutex_unlock(&work->mutex);
    if (left) return;
    if (work->waker.vtable) work->waker.vtable->drop(work->waker.data);
    pthread_mutex_destroy(&work->mutex);
    free(work);
}

static void *slow_run(void *argument) {
    slow *work = argument;
    usleep((useconds_t)(work->milliseconds * 1000));
    pthread_mutex_lock(&work->mutex);
    work->done = 1;
    launcher_waker waker = work->waker;
    work->waker.vtable = NULL;
    pthread_mutex_unlock(&work->mutex);
    if (waker.vtable) waker.vtable->wake(waker.data);
    slow_leave(work);
    return NULL;
}

static int32_t slow_poll(void *data, launcher_waker waker, launcher_response *response) {
    slow *work = data;
    pthread_mutex_lock(&work->mutex);
    int done = work->done;
    launcher_waker old = work->waker;
    work->waker.vtable = NULL;
    if (!done) work->waker = waker.vtable->clone(waker.data);
    pthread_mutex_unlock(&work->mutex);
    if (old.vtable) old.vtable->drop(old.data);
    return done ? answer(response, 200, identity) : LAUNCHER_PENDING;
}

static void slow_drop(void *data) { slow_leave(data); }

static int32_t slow_begin(unsigned long milliseconds, launcher_waker waker, launcher_response *response,
                          launcher_call *call) {
    slow *work = calloc(1, sizeof *work);
    if (!work) return LAUNCHER_ERROR;
    pthread_mutex_init(&work->mutex, NULL);
    work->holders = 2;
    work->milliseconds = milliseconds;
    pthread_t thread;
    if (pthread_create(&thread, NULL, slow_run, work)) {
        work->holders = 1;
        slow_leave(work);
        return LAUNCHER_ERROR;
    }
    pthread_detach(thread);
    int32_t code = slow_poll(work, waker, response);
    if (code == LAUNCHER_PENDING)
        *call = (launcher_call){ work, slow_poll, slow_drop };
    else
        slow_leave(work);
    return code;
}

/* ---- /large */

typedef struct {
    uint64_t at, end;
    uint8_t chunk[251 * 256];
} large;

static int32_t large_poll(void *data, launcher_waker waker, launcher_chunk *chunk) {
    (void)waker;
    large *self = data;
    if (self->at == self->end) return LAUNCHER_END;
    /* A chunk is a multiple of 251 bytes, so that each begins with byte 0. */
    uint64_t length = self->end - self->at < sizeof self->chunk ? self->end - self->at : sizeof self->chunk;
    chunk->bytes = (launcher_str){ self->chunk, (size_t)length };
    self->at += length;
    return LAUNCHER_READY;
}

static int32_t large_begin(uint64_t bytes, launcher_response *response) {
    large *self = malloc(sizeof *self);
    if (!self) return LAUNCHER_ERROR;
    self->at = 0;
    self->end = bytes;
    for (size_t at = 0; at < sizeof self->chunk; at++) self->chunk[at] = (uint8_t)(at % 251);
    response->status = 200;
    response->headers = &TEXT;
    response->headers_len = 1;
    response->body = (launcher_body){ self, large_poll, free, (int64_t)bytes };
    return LAUNCHER_READY;
}

/* ---- /upload */

typedef struct {
    launcher_body source;
    uint64_t bytes, sum;
    char text[64];
} upload;

static int32_t upload_poll(void *data, launcher_waker waker, launcher_response *response) {
    upload *self = data;
    for (;;) {
        launcher_chunk chunk = { .size = sizeof chunk };
        int32_t code = self->source.poll ? self->source.poll(self->source.data, waker, &chunk) : LAUNCHER_END;
        if (code == LAUNCHER_READY) {
            self->bytes += chunk.bytes.len;
            for (size_t at = 0; at < chunk.bytes.len; at++) self->sum += chunk.bytes.ptr[at];
        }
        if (chunk.release) chunk.release(chunk.owner);
        if (code == LAUNCHER_PENDING || code < 0) return code;
        if (code == LAUNCHER_END) break;
    }
    char *text = malloc(sizeof self->text);
    if (!text) return LAUNCHER_ERROR;
    snprintf(text, sizeof self->text, "%llu bytes, sum %llu\n", (unsigned long long)self->bytes,
             (unsigned long long)self->sum);
    answer(response, 200, text);
    response->flags = 0;
    response->owner = text;
    response->release = free;
    return LAUNCHER_READY;
}

static int32_t time_answer(launcher_response *response) {
    char *text = malloc(32);
    if (!text) return LAUNCHER_ERROR;
    snprintf(text, 32, "%lld\n", (long long)time(NULL));
    answer(response, 200, text);
    response->flags = 0;
    response->owner = text;
    response->release = free;
    return LAUNCHER_READY;
}

static void upload_drop(void *data) {
    upload *self = data;
    if (self->source.drop) self->source.drop(self->source.data);
    free(self);
}

static int32_t upload_begin(launcher_request *request, launcher_waker waker, launcher_response *response,
                            launcher_call *call) {
    upload *self = calloc(1, sizeof *self);
    if (!self) return LAUNCHER_ERROR;
    self->source = request->body;
    request->body = (launcher_body){ 0 };
    int32_t code = upload_poll(self, waker, response);
    if (code == LAUNCHER_PENDING)
        *call = (launcher_call){ self, upload_poll, upload_drop };
    else
        upload_drop(self);
    return code;
}

/* ---- The plugin */

static int32_t init(const launcher_host *host, void **state, launcher_chunk *error) {
    (void)state;
    if (host->abi != LAUNCHER_ABI) {
        error->bytes = (launcher_str)LAUNCHER_STR("built for another version of worker.h");
        return LAUNCHER_ERROR;
    }
    snprintf(identity, sizeof identity, "version %lu pid %ld\n", number_after("version="), (long)getpid());
    unsigned long dies = number_after("dies=");
    pthread_t thread;
    if (dies && !pthread_create(&thread, NULL, die_later, (void *)dies)) pthread_detach(thread);
    return LAUNCHER_READY;
}

static int32_t handle(void *state, launcher_request *request, launcher_waker waker, launcher_response *response,
                      launcher_call *call) {
    (void)state;
    launcher_str target = request->target;
    if (target.len == 1) return answer(response, 200, identity);
    if (after(target, "/slow/")) return slow_begin(number_at(target, 6), waker, response, call);
    if (after(target, "/large/")) return large_begin(number_at(target, 7), response);
    if (after(target, "/time")) return time_answer(response);
    if (after(target, "/upload")) return upload_begin(request, waker, response, call);
    if (after(target, "/die/")) die((const char *)target.ptr + 5, target.len - 5);
    return answer(response, 404, "no such page\n");
}

static void drop(void *state) { (void)state; }

const launcher_plugin_t launcher_plugin = {
    .magic = LAUNCHER_MAGIC,
    .abi = LAUNCHER_ABI,
    .size = sizeof(launcher_plugin_t),
    .kind = LAUNCHER_KIND_HTTP,
    .name = "witness",
    .version = "1.0",
    .init = init,
    .handle = handle,
    .drop = drop,
};
