/* A TCP server of lines in C, with poll(2) and one thread: the whole contract of a plugin that owns its sockets.
 *
 *     cc -std=c11 -O2 -shared -fPIC -I../../../worker-sdk/include -o libpoll.so poll.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "worker.h"

#define MOST 1024   /* clients at once; more wait in the kernel */
#define LINGER 1000 /* ms that a client may say nothing once the worker was told to stop */

static const launcher_host *host;

static int32_t init(const launcher_host *given, void **state, launcher_chunk *error)
{
    (void)state;
    (void)error;
    host = given;
    return LAUNCHER_READY;
}

static void say(uint32_t level, const char *text)
{
    launcher_str message = { (const uint8_t *)text, strlen(text) };
    host->log(level, message, NULL, 0);
}

static int32_t fail(launcher_chunk *error, const char *reason)
{
    /* A constant: the host need not copy it, and nobody frees it. */
    error->bytes = (launcher_str){ (const uint8_t *)reason, strlen(reason) };
    error->flags = LAUNCHER_STATIC;
    return LAUNCHER_ERROR;
}

/* Says when this loop works and when it waits: the worker is replaced if it works for longer than limits.stuck_timeout
 * without a word. A launcher that is older than this function has none. */
static void at_work(const launcher_sockets *sockets, uint32_t yes)
{
    if (sockets->size > offsetof(launcher_sockets, at_work) && sockets->at_work != NULL)
        sockets->at_work(sockets->host, yes);
}

/* What was read goes back. 0: the client is gone. A client that does not read is not waited for. */
static int echo(int client)
{
    char bytes[4096];
    ssize_t got = recv(client, bytes, sizeof bytes, MSG_DONTWAIT);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    return got > 0 && send(client, bytes, (size_t)got, MSG_DONTWAIT | MSG_NOSIGNAL) == got;
}

static int32_t serve(void *state, const launcher_sockets *sockets, launcher_chunk *error)
{
    /* Two that are always there, then the clients. */
    static struct pollfd polled[2 + MOST];
    struct pollfd *listener = &polled[0], *stop = &polled[1], *clients = &polled[2];
    nfds_t count = 0;
    int stopping = 0;

    (void)state;
    if (sockets->listeners_len != 1 || sockets->listeners[0]->kind != LAUNCHER_SOCKET_TCP)
        return fail(error, "one TCP socket is wanted under `listen:`");
    *listener = (struct pollfd){ .fd = sockets->listeners[0]->descriptor, .events = POLLIN };
    *stop = (struct pollfd){ .fd = sockets->stop_descriptor, .events = POLLIN };
    sockets->ready(sockets->host);

    while (!stopping || count > 0) {
        /* poll ignores what is negative: the listener while there is no room. */
        int accepting = listener->fd;
        if (count == MOST)
            listener->fd = -1;
        at_work(sockets, 0);
        int ready = poll(polled, 2 + count, stopping ? LINGER : -1);
        at_work(sockets, 1);
        listener->fd = accepting;
        if (ready < 0 && errno != EINTR)
            return fail(error, "poll failed");
        if (ready < 0)
            continue;
        if (stopping && ready == 0)
            break; /* nobody said anything for so long */
        for (nfds_t i = 0; i < count;) {
            if (clients[i].revents != 0 && !echo(clients[i].fd)) {
                close(clients[i].fd);
                clients[i] = clients[--count];
            } else {
                i++;
            }
        }
        if (!stopping && (stop->revents & POLLIN)) {
            stopping = 1;
            /* Never shutdown(2): other workers accept from the same socket. */
            close(listener->fd);
            listener->fd = stop->fd = -1;
            sockets->not_accepting(sockets->host);
            continue;
        }
        if (!stopping && count < MOST && (listener->revents & POLLIN)) {
            int client = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC);
            if (client >= 0) {
                clients[count++] = (struct pollfd){ .fd = client, .events = POLLIN };
            } else if (errno == EMFILE || errno == ENFILE) {
                /* The connection stays in the queue; without a pause this would spin. */
                say(LAUNCHER_LOG_WARN, "out of descriptors");
                poll(stop, 1, 50);
            } /* else: another worker was faster, or the client left */
        }
    }
    while (count > 0)
        close(clients[--count].fd);
    return LAUNCHER_READY;
}

const launcher_plugin_t launcher_plugin = {
    .magic = LAUNCHER_MAGIC,
    .abi = LAUNCHER_ABI,
    .size = sizeof(launcher_plugin_t),
    .kind = LAUNCHER_KIND_SOCKET,
    .name = "poll",
    .version = "1.0",
    .init = init,
    .serve = serve,
};
