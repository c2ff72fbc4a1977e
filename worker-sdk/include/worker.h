/* The C contract between a launcher worker (the host) and a native plugin.
 *
 * A plugin is a shared library that exports ONE data symbol:
 *
 *     const launcher_plugin_t launcher_plugin = {
 *         .magic = LAUNCHER_MAGIC, .abi = LAUNCHER_ABI, .size = sizeof(launcher_plugin_t),
 *         .kind = LAUNCHER_KIND_HTTP, .name = "mine", .version = "1.0",
 *         .init = init, .handle = handle, .drop = drop };
 *
 * or, to own the listening sockets, .kind = LAUNCHER_KIND_SOCKET and .serve = serve in the place of handle.
 *
 * Flow: the host reads the descriptor from the file without executing anything, loads the library (and never
 * unloads it) and calls init once. Then
 *  - kind http: handle for each request (which polls the plugin's work for the first time), and drop at the end, when
 *    no call and no body is left;
 *  - kind socket: serve once, on a thread of its own (unless its loop turns the worker's: see LAUNCHER_PLUGIN_TURNS_WORKER).
 *    It says ready when it accepts, runs its own loop, and returns when it was told to stop and has finished; then drop. Coming back before it was told is a crash. It is told by a
 *    flag, a descriptor and a waker at once: use whichever your loop can hear.
 * Rules:
 *
 *  - Nothing may unwind or longjmp across the border.
 *  - Each side frees its own memory. Whatever is in an out-parameter when a function returns belongs to the
 *    receiver, whatever the code that was returned; the receiver releases it exactly once, from any thread.
 *  - An argument of type launcher_waker is borrowed for the call; vtable->clone makes an owned one that may be used
 *    on any thread and may outlive the call, the request and the connection.
 *  - poll functions are called by one thread at a time, and never after they returned something else than PENDING
 *    (a body: until END). drop functions may come at any time: that is cancellation.
 *  - Structs that one side allocates for the other begin with size; fields are only ever appended.
 *  - Text is not terminated; a null pointer is allowed where the length is 0.
 *
 * A test compiles this file against the layouts of worker-sdk/src/abi.rs.
 */
#ifndef LAUNCHER_WORKER_H
#define LAUNCHER_WORKER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LAUNCHER_MAGIC { 'L', 'A', 'U', 'N', 'C', 'H', 'E', 'R' }
#define LAUNCHER_ABI 1u

/* kind */
#define LAUNCHER_KIND_HTTP 1u
#define LAUNCHER_KIND_SOCKET 2u

/* flags of the descriptor */
#define LAUNCHER_PLUGIN_PANIC_ABORTS 1u
#define LAUNCHER_PLUGIN_TURNS_WORKER 2u /* its loop turns the worker's, if it is given `turn` */
/* flags of a chunk or a response: the bytes live as long as the process; no copy is needed */
#define LAUNCHER_STATIC 1u

#define LAUNCHER_READY 0     /* done: the out-parameter is filled; from a body: one chunk of bytes */
#define LAUNCHER_PENDING 1   /* not yet: the waker, or a clone of it, will be woken */
#define LAUNCHER_END 2       /* a body has ended */
#define LAUNCHER_TRAILERS 3  /* a body's trailers are in the chunk; only END may follow */
#define LAUNCHER_ERROR (-1)  /* it failed: the host answers 500, or cuts the body off */
#define LAUNCHER_PANIC (-2)  /* it panicked: likewise */

/* why a message is not sent or not taken */
#define LAUNCHER_SEND_TOO_LARGE (-10)  /* more than 64 KiB (8 for an operator) or 16 descriptors */
#define LAUNCHER_SEND_NOBODY (-11)     /* no such service, or no worker of it */
#define LAUNCHER_SEND_GONE (-12)       /* the receiver ended before it took it */
#define LAUNCHER_SEND_NOT_WANTED (-13) /* it receives nothing, or takes no connections */
#define LAUNCHER_SEND_NO_ROOM (-14)    /* too many open descriptors, there or here */
#define LAUNCHER_SEND_BAD (-15)        /* against this contract, or not fit for it */
#define LAUNCHER_SEND_NOT_READY (-16)  /* the worker has not said that it is ready: not in init */

#define LAUNCHER_LETTER_MESSAGE 1u
#define LAUNCHER_LETTER_CONNECTION 2u /* one descriptor: a connection for the HTTP side */
#define LAUNCHER_TO_WORKER 1u         /* worker */
#define LAUNCHER_TO_SLOT 2u           /* service, slot */
#define LAUNCHER_TO_ANY 3u            /* service: one worker, each in its turn; not this one */
#define LAUNCHER_TO_EVERY 4u          /* service: every worker but this one; no descriptors */
#define LAUNCHER_TO_OPERATOR 5u       /* an event of the launcher: JSON, at most 8 KiB; no descriptors */
#define LAUNCHER_FROM_WORKER 1u
#define LAUNCHER_FROM_OPERATOR 2u

#define LAUNCHER_LOG_ERROR 1u
#define LAUNCHER_LOG_WARN 2u
#define LAUNCHER_LOG_INFO 3u
#define LAUNCHER_LOG_DEBUG 4u

/* kind of a listener; other numbers may come */
#define LAUNCHER_SOCKET_TCP 1u
#define LAUNCHER_SOCKET_UDP 2u
#define LAUNCHER_SOCKET_UNIX 3u
#define LAUNCHER_SOCKET_UNIX_DATAGRAM 4u
#define LAUNCHER_SOCKET_UNIX_PACKET 5u   /* SOCK_SEQPACKET */

#define LAUNCHER_PEER_UNKNOWN 0u
#define LAUNCHER_PEER_UNIX 1u
#define LAUNCHER_PEER_IPV4 4u
#define LAUNCHER_PEER_IPV6 6u

typedef struct launcher_str {
    const uint8_t *ptr;
    size_t len;
} launcher_str;

/* A launcher_str of a string literal. */
#define LAUNCHER_STR(literal) { (const uint8_t *)(literal), sizeof(literal) - 1 }

typedef struct launcher_header {
    launcher_str name;
    launcher_str value;
} launcher_header;

typedef struct launcher_waker launcher_waker;

typedef struct launcher_waker_vtable {
    launcher_waker (*clone)(const void *data); /* borrowed or owned -> a new owned one */
    void (*wake)(const void *data);            /* wakes and consumes an owned one */
    void (*wake_by_ref)(const void *data);     /* wakes, consuming nothing */
    void (*drop)(const void *data);            /* consumes an owned one without waking */
} launcher_waker_vtable;

struct launcher_waker {
    const void *data;
    const launcher_waker_vtable *vtable;
};

typedef struct launcher_chunk {
    uint32_t size;
    uint32_t flags;                   /* LAUNCHER_STATIC or 0 */
    launcher_str bytes;               /* READY; without release and STATIC valid until the next poll or drop */
    const launcher_header *trailers;  /* TRAILERS */
    size_t trailers_len;
    void *owner;
    void (*release)(void *owner);     /* once, any thread; NULL: nothing to free */
} launcher_chunk;

typedef struct launcher_body {
    void *data;
    int32_t (*poll)(void *data, launcher_waker waker, launcher_chunk *chunk); /* NULL: there is no body */
    void (*drop)(void *data);         /* once, any thread, read to its end or not */
    int64_t len;                      /* bytes that it will yield; -1: unknown */
} launcher_body;

typedef struct launcher_peer {
    uint16_t family;                  /* LAUNCHER_PEER_… */
    uint16_t port;                    /* in the byte order of the machine */
    uint32_t scope;                   /* IPv6 scope id */
    uint8_t address[16];              /* network order; IPv4: the first four */
} launcher_peer;

typedef struct launcher_request {     /* all but body is borrowed until handle returns */
    uint32_t size;
    uint32_t version;                 /* 10, 11, 20 */
    launcher_str method;
    launcher_str target;              /* path and query, *, or the authority of CONNECT */
    const launcher_header *headers;   /* validated, names in lower case */
    size_t headers_len;
    launcher_body body;               /* to take it: copy it and zero this; what is left the host drops */
    launcher_peer peer;
} launcher_request;

typedef struct launcher_response {
    uint32_t size;
    uint32_t flags;                   /* LAUNCHER_STATIC (of bytes) or 0 */
    uint32_t status;
    uint32_t reserved;
    const launcher_header *headers;
    size_t headers_len;
    launcher_str bytes;               /* the whole body, when body.poll is NULL */
    launcher_body body;               /* or a streamed one */
    void *owner;
    void (*release)(void *owner);     /* frees what headers and bytes borrow; once, any thread */
} launcher_response;

typedef struct launcher_call {
    void *data;
    int32_t (*poll)(void *data, launcher_waker waker, launcher_response *response);
    void (*drop)(void *data);         /* once, any thread, finished or not */
} launcher_call;

/* A socket that is the plugin's. It is non-blocking and stays so: other processes accept from the same socket. Never
 * shutdown(2) it, which would stop those too; close(2) lets go of it. */
typedef struct launcher_listener {
    uint32_t size;
    uint32_t kind;                    /* LAUNCHER_SOCKET_… */
    int32_t descriptor;               /* the plugin closes it */
    uint32_t reserved;
    launcher_str name;                /* from the configuration */
    launcher_str address;             /* 127.0.0.1:8080, [::1]:8080, udp://127.0.0.1:53, unix:/path, unix:@name */
} launcher_listener;

typedef struct launcher_sockets {     /* it and all that it points to live as long as the process */
    uint32_t size;
    int32_t stop_descriptor;          /* readable (POLLIN) from the moment the plugin is told to stop, and for ever
                                         then; do not read, do not close */
    const uint32_t *stop_flag;        /* not 0 from that moment on; read it atomically */
    uint64_t drain_timeout_ms;        /* from then to the death of the worker */
    const launcher_listener *const *listeners; /* in the order of the configuration */
    size_t listeners_len;
    void *host;                       /* first argument of these; any thread, any number of times, until serve returns: */
    void (*ready)(void *host);        /* it accepts; without this no generation is promoted */
    void (*not_accepting)(void *host); /* told to stop, it has closed its listeners; returning says so too */
    int32_t (*poll_stop)(void *host, launcher_waker waker); /* READY: it was told; PENDING: a clone of the waker is
                                                               woken when it is */
    /* Younger than the rest: only there if size says so. For a loop that wants to be watched; one thread: */
    void (*at_work)(void *host, uint32_t yes); /* 1: it has something to do; 0: it is about to wait. Who is at work and
                                                  says nothing for limits.stuck_timeout is replaced, with a backtrace of
                                                  this thread in the log. Cheap enough for every turn of the loop */
    int32_t (*poll_alive)(void *host, launcher_waker waker); /* A sign of life of a loop that may be at work for long
                                                  without a wait; PENDING: a clone of the waker is woken when the next one
                                                  is wanted, once a second while it is at work */
    /* Younger still, and only for a plugin with LAUNCHER_PLUGIN_TURNS_WORKER, whose serve runs on the worker's own thread
     * then: cheaper for the kernel than two threads that share their descriptors. */
    int32_t worker_descriptor;        /* readable (POLLIN) when the worker has something to do; or -1 */
    uint32_t reserved;
    int32_t (*turn)(void *host);      /* does it, without waiting. PENDING: that was all, until the descriptor is readable;
                                         READY: there is more, and it is readable; ERROR: not on this thread. Messages come, and the plugin
                                         is told to stop, in such calls only */
} launcher_sockets;

typedef struct launcher_letter {      /* a message to be sent; borrowed for the call, descriptors are duplicated */
    uint32_t size;                    /* sizeof(launcher_letter) */
    uint32_t kind;                    /* LAUNCHER_LETTER_... */
    uint32_t to;                      /* LAUNCHER_TO_... */
    uint32_t slot;
    uint64_t worker;
    launcher_str service;
    launcher_str payload;             /* JSON by custom, or what was read of a connection; at most 64 KiB */
    const int32_t *descriptors;       /* at most 16 */
    size_t descriptors_len;
} launcher_letter;

typedef struct launcher_sending {     /* a message that was sent and not yet taken */
    void *data;
    int32_t (*poll)(void *data, launcher_waker waker); /* READY: taken; PENDING; LAUNCHER_SEND_... */
    void (*drop)(void *data);         /* once; changes nothing about the message */
} launcher_sending;

typedef struct launcher_arrival {     /* a message that came; the descriptors are yours from the start */
    uint32_t size;                    /* sizeof(launcher_arrival), set by you */
    uint32_t from;                    /* LAUNCHER_FROM_... */
    uint64_t worker;
    uint32_t slot;
    uint32_t reserved;
    launcher_str service;
    launcher_str payload;
    const int32_t *descriptors;
    size_t descriptors_len;
    void *owner;
    void (*release)(void *owner);     /* frees what the texts borrow */
} launcher_arrival;

typedef struct launcher_host {        /* it and all that it points to live as long as the process */
    uint32_t abi;
    uint32_t size;
    launcher_str config;              /* the service's config: as JSON */
    launcher_str service;
    uint64_t worker;
    uint64_t generation;
    uint32_t slot;
    uint32_t reserved;
    const launcher_waker_vtable *wakers; /* the table of every waker that the host passes */
    void (*log)(uint32_t level, launcher_str message, const launcher_header *fields, size_t fields_len);
    /* Younger than the rest: only there if size says so. */
    int32_t (*send)(const launcher_letter *letter, launcher_sending *sending); /* PENDING, or LAUNCHER_SEND_... */
    int32_t (*receive)(launcher_waker waker, launcher_arrival *arrival);       /* READY, PENDING, END: never any */
} launcher_host;

typedef struct launcher_plugin_t {
    uint8_t magic[8];
    uint32_t abi;
    uint32_t size;
    uint32_t kind;
    uint32_t flags;
    uint8_t name[64];                 /* UTF-8, padded with zeros */
    uint8_t version[32];              /* UTF-8, padded with zeros */
    int32_t (*init)(const launcher_host *host, void **state, launcher_chunk *error);
    int32_t (*handle)(void *state, launcher_request *request, launcher_waker waker,
                      launcher_response *response, launcher_call *call);
    void (*drop)(void *state);
    /* READY when it was told to stop and has finished; ERROR with the reason as the bytes of error. Younger than the
       first version of this struct: size says whether it is there. */
    int32_t (*serve)(void *state, const launcher_sockets *sockets, launcher_chunk *error);
} launcher_plugin_t;

extern
#ifdef __GNUC__
__attribute__((visibility("default")))
#endif
const launcher_plugin_t launcher_plugin;

#ifdef __cplusplus
}
#endif
#endif
