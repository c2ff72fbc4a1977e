/* A native plugin that tells the operator of every request. */
#include "worker.h"

#include <stdio.h>

static const launcher_host *host;

static int32_t init(const launcher_host *given, void **state, launcher_chunk *error) {
    (void)state; (void)error;
    host = given;
    return LAUNCHER_READY;
}

static int32_t handle(void *state, launcher_request *request, launcher_waker waker, launcher_response *response,
                      launcher_call *call) {
    char text[128];
    int length = snprintf(text, sizeof text, "{\"asked\":\"%.*s\"}", (int)request->target.len, request->target.ptr);
    launcher_letter letter = {
        .size = sizeof letter,
        .kind = LAUNCHER_LETTER_MESSAGE,
        .to = LAUNCHER_TO_OPERATOR,
        .service = LAUNCHER_STR(""),
        .payload = { (const uint8_t *)text, (size_t)length },
    };
    launcher_sending sending = { 0 };
    (void)state; (void)waker; (void)call;
    response->status = 503;
    if (host->send(&letter, &sending) == LAUNCHER_PENDING) {
        sending.drop(sending.data); /* it is sent all the same */
        response->status = 200;
    }
    return LAUNCHER_READY;
}

static void drop(void *state) { (void)state; }

const launcher_plugin_t launcher_plugin = {
    .magic = LAUNCHER_MAGIC,
    .abi = LAUNCHER_ABI,
    .size = sizeof(launcher_plugin_t),
    .kind = LAUNCHER_KIND_HTTP,
    .name = "reporter",
    .version = "1.0",
    .init = init,
    .handle = handle,
    .drop = drop,
};
