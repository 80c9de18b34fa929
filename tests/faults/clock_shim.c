/* Shifts the wall clock of one process by an offset that a file holds, and leaves its other clocks alone.
 *
 * CLOCK_SHIM names a file of one double, in seconds; it is mapped, so a change counts from the next look at the clock
 * on. Waits until an absolute moment on the wall clock are waits on the shifted clock: they look again every 100 ms,
 * as the kernel does for its own clock when that is set.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SLICE_NS 100000000LL
#define SECOND_NS 1000000000LL
#define LEAST_WALL_SECONDS 1000000000L /* a moment before 2001 is one of a clock that counts from the boot on */

static const volatile double *offset;
static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_cond_timedwait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_sem_timedwait)(sem_t *, const struct timespec *);

static void *next(const char *name, const char *version)
{
    void *found = version ? dlvsym(RTLD_NEXT, name, version) : NULL;
    return found ? found : dlsym(RTLD_NEXT, name);
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("CLOCK_SHIM");
    real_clock_gettime = next("clock_gettime", NULL);
    real_cond_timedwait = next("pthread_cond_timedwait", "GLIBC_2.3.2"); /* not the first version of that name */
    real_sem_timedwait = next("sem_timedwait", NULL);
    if (path != NULL) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof(double), PROT_READ, MAP_SHARED, fd, 0);
        if (fd >= 0)
            close(fd);
        if (map != MAP_FAILED)
            offset = map;
    }
    if (offset == NULL) {
        static const char words[] = "clock shim: CLOCK_SHIM names no file that can be mapped\n";
        (void)!write(2, words, sizeof words - 1);
        abort();
    }
}

static long long shift_ns(void) { return offset ? llround(*offset * 1e9) : 0; }

static long long ns_of(const struct timespec *at) { return at->tv_sec * SECOND_NS + at->tv_nsec; }

static struct timespec from_ns(long long ns)
{
    struct timespec at = {.tv_sec = ns / SECOND_NS, .tv_nsec = ns % SECOND_NS};
    return at;
}

static long long true_ns(void)
{
    struct timespec now;
    if (real_clock_gettime == NULL) /* somebody asks before our constructor had its turn */
        real_clock_gettime = next("clock_gettime", NULL);
    real_clock_gettime(CLOCK_REALTIME, &now);
    return ns_of(&now);
}

static long long shifted_ns(void) { return true_ns() + shift_ns(); }

int clock_gettime(clockid_t clock, struct timespec *now)
{
    if (real_clock_gettime == NULL)
        real_clock_gettime = next("clock_gettime", NULL);
    int result = real_clock_gettime(clock, now);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *now = from_ns(ns_of(now) + shift_ns());
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    (void)zone;
    long long ns = shifted_ns();
    now->tv_sec = ns / SECOND_NS;
    now->tv_usec = ns % SECOND_NS / 1000;
    return 0;
}

time_t time(time_t *now)
{
    time_t seconds = shifted_ns() / SECOND_NS;
    if (now != NULL)
        *now = seconds;
    return seconds;
}

int timespec_get(struct timespec *now, int base)
{
    *now = from_ns(shifted_ns());
    return base;
}

/* The moment on the kernel's clock until which to wait now; whether the whole wait would then be over. */
static int slice(const struct timespec *until, struct timespec *now)
{
    long long end = ns_of(until) - shift_ns(), longest = true_ns() + SLICE_NS;
    *now = from_ns(end < longest ? (end > 0 ? end : 0) : longest);
    return end <= longest;
}

int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
{
    struct timespec now;
    int result, last;
    if (until->tv_sec < LEAST_WALL_SECONDS)
        return real_cond_timedwait(cond, mutex, until);
    do {
        last = slice(until, &now);
        result = real_cond_timedwait(cond, mutex, &now);
    } while (result == ETIMEDOUT && !last);
    return result;
}

int sem_timedwait(sem_t *sem, const struct timespec *until)
{
    struct timespec now;
    int result, last;
    do {
        last = slice(until, &now);
        result = real_sem_timedwait(sem, &now);
    } while (result != 0 && errno == ETIMEDOUT && !last);
    return result;
}
