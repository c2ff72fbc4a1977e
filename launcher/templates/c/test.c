/* cc -std=c11 -g -Wall -Wextra test.c -o build/test && build/test */
#include "plugin.c"

#include <stdio.h>

static int failures;

static void expect(const char *target, uint32_t status, const char *text) {
    launcher_request request = { .size = sizeof request, .version = 11, .method = LAUNCHER_STR("GET") };
    request.target = (launcher_str){ (const uint8_t *)target, strlen(target) };
    launcher_response response = { .size = sizeof response };
    launcher_call call = { 0 };
    launcher_waker waker = { 0 };
    int32_t code = launcher_plugin.handle(NULL, &request, waker, &response, &call);
    if (code == LAUNCHER_READY && response.status == status && response.bytes.len >= strlen(text) &&
        memcmp(response.bytes.ptr, text, strlen(text)) == 0)
        return;
    fprintf(stderr, "%s: code %d, status %u, %.*s\n", target, code, response.status, (int)response.bytes.len,
            (const char *)response.bytes.ptr);
    failures++;
}

int main(void) {
    expect("/", 200, "<!doctype html>");
    expect("/nowhere", 404, "no such page");
    puts(failures ? "failed" : "ok");
    return failures != 0;
}
