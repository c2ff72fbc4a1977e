/* {{name}}: a native plugin in C. worker.h is the whole contract. */
#include "worker.h"

#include <string.h>

static const launcher_header HTML = { LAUNCHER_STR("content-type"), LAUNCHER_STR("text/html; charset=utf-8") };
static const launcher_header TEXT = { LAUNCHER_STR("content-type"), LAUNCHER_STR("text/plain; charset=utf-8") };

static int is(launcher_str text, const char *word) {
    return text.len == strlen(word) && memcmp(text.ptr, word, text.len) == 0;
}

/* An answer of constants: nothing to release, nothing to copy. */
static int32_t answer(launcher_response *response, uint32_t status, const launcher_header *type, launcher_str bytes) {
    response->status = status;
    response->flags = LAUNCHER_STATIC;
    response->headers = type;
    response->headers_len = 1;
    response->bytes = bytes;
    return LAUNCHER_READY;
}

static int32_t handle(void *state, launcher_request *request, launcher_waker waker, launcher_response *response,
                      launcher_call *call) {
    (void)state, (void)waker, (void)call;
    if (is(request->target, "/"))
        return answer(response, 200, &HTML, (launcher_str)LAUNCHER_STR("<!doctype html>\n<h1>Hello from C!</h1>\n"));
    return answer(response, 404, &TEXT, (launcher_str)LAUNCHER_STR("no such page\n"));
}

static int32_t init(const launcher_host *host, void **state, launcher_chunk *error) {
    (void)state;
    if (host->abi == LAUNCHER_ABI) return LAUNCHER_READY;
    error->bytes = (launcher_str)LAUNCHER_STR("built for another version of worker.h");
    return LAUNCHER_ERROR;
}

static void drop(void *state) { (void)state; }

const launcher_plugin_t launcher_plugin = {
    .magic = LAUNCHER_MAGIC,
    .abi = LAUNCHER_ABI,
    .size = sizeof(launcher_plugin_t),
    .kind = LAUNCHER_KIND_HTTP,
    .name = "{{name}}",
    .version = "0.1.0",
    .init = init,
    .handle = handle,
    .drop = drop,
};
