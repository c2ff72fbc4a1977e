/* A plugin that breaks the contract in every way that a host can notice; the target says how.
 * It counts what it hands out and what comes back, so that a release too few or too many shows. */
#include "worker.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_int alive; /* owners handed out and not yet released */

static void *own(void) {
    atomic_fetch_add(&alive, 1);
    return malloc(1); /* so that memcheck sees a second release */
}

static void release(void *owner) {
    free(owner);
    atomic_fetch_sub(&alive, 1);
}

static int is(launcher_str text, const char *word) {
    return text.len == strlen(word) && memcmp(text.ptr, word, text.len) == 0;
}

static int32_t body_poll_long(void *data, launcher_waker waker, launcher_chunk *chunk) {
    (void)data; (void)waker;
    chunk->bytes = (launcher_str)LAUNCHER_STR("0123456789");
    chunk->owner = own();
    chunk->release = release;
    return LAUNCHER_READY;
}

static int32_t body_poll_end_with_chunk(void *data, launcher_waker waker, launcher_chunk *chunk) {
    body_poll_long(data, waker, chunk);
    return LAUNCHER_END; /* the chunk still has an owner */
}

static int32_t body_poll_null(void *data, launcher_waker waker, launcher_chunk *chunk) {
    (void)data; (void)waker;
    chunk->bytes.len = 5;
    chunk->owner = own();
    chunk->release = release;
    return LAUNCHER_READY;
}

static int32_t body_poll_trailer(void *data, launcher_waker waker, launcher_chunk *chunk) {
    static const launcher_header bad = { LAUNCHER_STR("bad name"), LAUNCHER_STR("x") };
    body_poll_long(data, waker, chunk);
    chunk->trailers = &bad;
    chunk->trailers_len = 1;
    return LAUNCHER_TRAILERS;
}

static int32_t body_poll_code(void *data, launcher_waker waker, launcher_chunk *chunk) {
    body_poll_long(data, waker, chunk);
    return 77;
}

static int32_t call_poll(void *data, launcher_waker waker, launcher_response *response) {
    (void)data; (void)response;
    waker.vtable->wake_by_ref(waker.data);
    return LAUNCHER_PENDING;
}

static int32_t init(const launcher_host *host, void **state, launcher_chunk *error) {
    if (host->config.len > 2) { /* not {}: refuse with the configuration as the reason */
        error->bytes = host->config;
        error->owner = own();
        error->release = release;
        return LAUNCHER_ERROR;
    }
    *state = &alive;
    return LAUNCHER_READY;
}

static char alive_text[16];

static int32_t handle(void *state, launcher_request *request, launcher_waker waker, launcher_response *response,
                      launcher_call *call) {
    static const launcher_header split = { LAUNCHER_STR("x"), LAUNCHER_STR("a\r\nset-cookie: evil") };
    static const launcher_header bad_name = { LAUNCHER_STR("no spaces allowed"), LAUNCHER_STR("x") };
    static const launcher_header null_value = { LAUNCHER_STR("x"), { NULL, 9 } };
    static const launcher_header length = { LAUNCHER_STR("content-length"), LAUNCHER_STR("5") };
    static const launcher_header framing = { LAUNCHER_STR("transfer-encoding"), LAUNCHER_STR("chunked") };
    (void)waker;
    launcher_str how = request->target;
    if (is(how, "/alive")) {
        response->status = 200;
        int len = snprintf(alive_text, sizeof alive_text, "%d", atomic_load((atomic_int *)state));
        response->bytes = (launcher_str){ (const uint8_t *)alive_text, (size_t)len };
        return LAUNCHER_READY;
    }
    /* Everything below hands out an owner, however wrong the rest is. */
    response->status = 200;
    response->owner = own();
    response->release = release;
    response->bytes = (launcher_str)LAUNCHER_STR("0123456789");
    launcher_body body = { own(), body_poll_long, release, -1 };
    int streamed = 1;
    if (is(how, "/status-0")) response->status = 0;
    else if (is(how, "/status-100")) response->status = 100;
    else if (is(how, "/status-70000")) response->status = 70000;
    else if (is(how, "/split")) { response->headers = &split; response->headers_len = 1; }
    else if (is(how, "/bad-name")) { response->headers = &bad_name; response->headers_len = 1; }
    else if (is(how, "/null-value")) { response->headers = &null_value; response->headers_len = 1; }
    else if (is(how, "/null-headers")) response->headers_len = 3;
    else if (is(how, "/many-headers")) { response->headers = &bad_name; response->headers_len = (size_t)-1; }
    else if (is(how, "/framing")) { response->headers = &framing; response->headers_len = 1; streamed = 0; }
    else if (is(how, "/null-bytes")) { response->bytes.ptr = NULL; streamed = 0; }
    else if (is(how, "/huge-bytes")) { response->bytes.len = (size_t)-1; streamed = 0; }
    else if (is(how, "/length")) { response->headers = &length; response->headers_len = 1; streamed = 0; }
    else if (is(how, "/too-long")) body.len = 25;
    else if (is(how, "/too-short")) { body.len = 25; body.poll = body_poll_end_with_chunk; }
    else if (is(how, "/null-chunk")) body.poll = body_poll_null;
    else if (is(how, "/bad-trailer")) body.poll = body_poll_trailer;
    else if (is(how, "/body-code")) body.poll = body_poll_code;
    else if (is(how, "/error")) { response->body = body; return LAUNCHER_ERROR; }
    else if (is(how, "/panic")) { response->body = body; return LAUNCHER_PANIC; }
    else if (is(how, "/code")) { response->body = body; return 4711; }
    else if (is(how, "/no-call")) { response->body = body; return LAUNCHER_PENDING; }
    else if (is(how, "/ready-with-call")) { *call = (launcher_call){ own(), call_poll, release }; }
    else if (is(how, "/error-with-call")) { *call = (launcher_call){ own(), call_poll, release }; response->body = body; return LAUNCHER_ERROR; }
    else if (is(how, "/never")) { *call = (launcher_call){ own(), call_poll, release }; response->body = body; return LAUNCHER_PENDING; }
    if (streamed) response->body = body;
    else release(body.data);
    return LAUNCHER_READY;
}

static void drop(void *state) { (void)state; }

const launcher_plugin_t launcher_plugin = {
    .magic = LAUNCHER_MAGIC, .abi = LAUNCHER_ABI, .size = sizeof(launcher_plugin_t), .kind = LAUNCHER_KIND_HTTP,
    .name = "hostile", .version = "0", .init = init, .handle = handle, .drop = drop,
};
