/* Loaded before everything else into the launcher and its workers (LD_PRELOAD, ld.so(8)): what they learn of the world is
 * not what it is. A page that the harness writes says how.
 *
 *   offset   seconds by which the wall clock is wrong: CLOCK_REALTIME of clock_gettime(2), gettimeofday(2), time(2). The
 *            monotonic clocks, the machine's own and the times of files stay as they are.
 *   stops    the process that stops itself before abort(3), so that the harness can see which connections go with it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    _Atomic int64_t offset;
    _Atomic int64_t stops;
} page;

static page *told;
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    *(void **)&real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("FAULTS_TAMPER");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, sizeof(page), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) told = map;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    /* Whoever asks before the constructor has run pays for a system call. */
    int done = real_clock_gettime ? real_clock_gettime(clock, time) : (int)syscall(SYS_clock_gettime, clock, time);
    if (!done && told && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        time->tv_sec += atomic_load_explicit(&told->offset, memory_order_relaxed);
    return done;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}

_Noreturn void abort(void) {
    if (told && atomic_load(&told->stops) == getpid()) kill(getpid(), SIGSTOP);
    void (*real)(void);
    *(void **)&real = dlsym(RTLD_NEXT, "abort");
    if (real) real();
    raise(SIGABRT);
    _exit(134);
}

/* Where the C library has no memory for a thread's destructor it ends the process by an abort of its own, which nobody can
 * stand before. So it is asked for here. */
int __cxa_thread_atexit_impl(void (*destructor)(void *), void *object, void *library) {
    static int (*real)(void (*)(void *), void *, void *);
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, "__cxa_thread_atexit_impl");
    void *room = malloc(256);
    if (!room || !real) abort();
    free(room);
    return real(destructor, object, library);
}
