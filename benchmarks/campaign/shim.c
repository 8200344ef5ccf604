/* Loaded with LD_PRELOAD. Counts the calls that write to files below one folder, and disturbs the n-th of them.

   Disarmed, every call goes straight on. shim.py arms it in a forked child. A signal or a full disk comes from inside
   the process, at a chosen write, so the same number always hits the same place. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum mode { OFF, COUNT, KILL, SIGNAL, FULL };
enum moment { BEFORE, HALF, AFTER };

/* shared: memory that the campaign reads, so that it sees the count of a process that is dead. */
struct shared { atomic_long calls; atomic_long bytes; atomic_long hit; };

static struct shared own;
static struct shared *state = &own;
static char root[PATH_MAX];
static size_t root_length;
static enum mode mode = OFF;
static enum moment moment = BEFORE;
static long wanted;
static int signal_number;
static pid_t armed_in;

void campaign_arm(const char *folder, int how, int when, long at, int number, struct shared *seen) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    moment = when, wanted = at, signal_number = number, state = seen, armed_in = getpid();
    mode = how;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int below(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

/* Children that a fork of Python or of a library makes are not the armed process. */
static int watched(void) { return mode != OFF && getpid() == armed_in; }

static int watched_file(int fd) {
    if (!watched()) return 0;
    int before = errno;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    errno = before;
    if (n <= 0) return 0;
    path[n] = 0;
    return below(path);
}

static int watched_path(const char *path) {
    if (!watched()) return 0;
    if (path[0] == '/') return below(path);
    char full[PATH_MAX], here[PATH_MAX];
    if (!getcwd(here, sizeof here)) return 0;
    if (snprintf(full, sizeof full, "%s/%s", here, path) >= (int)sizeof full) return 0;
    return below(full);
}

/* What happens to this call: -1 it fails, 0 it goes on, 1 it does half of its work, 2 it goes on, then disturb() again. */
static int decide(int divisible) {
    long number = atomic_fetch_add(&state->calls, 1) + 1;
    if (mode == COUNT || number < wanted) return 0;
    if (mode == FULL) {
        atomic_store(&state->hit, number);
        if (number == wanted && divisible) return 1;
        return -1;
    }
    if (number > wanted) return 0;
    atomic_store(&state->hit, number);
    if (moment == HALF && divisible) return 1;
    if (moment == BEFORE || (moment == HALF && !divisible)) {
        if (mode == KILL) kill(getpid(), SIGKILL);
        kill(getpid(), signal_number);
        return 0;
    }
    return 2;
}

static void disturb(void) {
    if (mode == KILL) kill(getpid(), SIGKILL);
    if (mode == SIGNAL) kill(getpid(), signal_number);
}

#define WATCHED_WRITE(call, half) do { \
    int what = decide(length > 1); \
    if (what < 0) { errno = ENOSPC; return -1; } \
    ssize_t done = what == 1 ? (half) : (call); \
    if (done > 0) atomic_fetch_add(&state->bytes, done); \
    if (what > 0 && mode != FULL) disturb(); \
    return done; \
} while (0)

ssize_t write(int fd, const void *data, size_t length) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (!watched_file(fd)) return real(fd, data, length);
    WATCHED_WRITE(real(fd, data, length), real(fd, data, length / 2));
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t at) {
    REAL(ssize_t, pwrite, int, const void *, size_t, off_t);
    if (!watched_file(fd)) return real(fd, data, length, at);
    WATCHED_WRITE(real(fd, data, length, at), real(fd, data, length / 2, at));
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at) {
    REAL(ssize_t, pwrite64, int, const void *, size_t, off64_t);
    if (!watched_file(fd)) return real(fd, data, length, at);
    WATCHED_WRITE(real(fd, data, length, at), real(fd, data, length / 2, at));
}

/* Half of a vector is its first half of pieces; one piece counts as whole or not at all. */
ssize_t writev(int fd, const struct iovec *pieces, int length) {
    REAL(ssize_t, writev, int, const struct iovec *, int);
    if (!watched_file(fd)) return real(fd, pieces, length);
    WATCHED_WRITE(real(fd, pieces, length), real(fd, pieces, length / 2));
}

ssize_t sendfile(int out, int in, off_t *at, size_t length) {
    REAL(ssize_t, sendfile, int, int, off_t *, size_t);
    if (!watched_file(out)) return real(out, in, at, length);
    WATCHED_WRITE(real(out, in, at, length), real(out, in, at, 1));
}

ssize_t sendfile64(int out, int in, off64_t *at, size_t length) {
    REAL(ssize_t, sendfile64, int, int, off64_t *, size_t);
    if (!watched_file(out)) return real(out, in, at, length);
    WATCHED_WRITE(real(out, in, at, length), real(out, in, at, 1));
}

ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t length, unsigned flags) {
    REAL(ssize_t, copy_file_range, int, off64_t *, int, off64_t *, size_t, unsigned);
    if (!watched_file(out)) return real(in, from, out, to, length, flags);
    WATCHED_WRITE(real(in, from, out, to, length, flags), real(in, from, out, to, 1, flags));
}

#define WATCHED_CALL(is_watched, call) do { \
    if (!(is_watched)) return (call); \
    int what = decide(0); \
    if (what < 0) { errno = ENOSPC; return -1; } \
    int done = (call); \
    if (what == 2) disturb(); \
    return done; \
} while (0)

int fsync(int fd) {
    REAL(int, fsync, int);
    WATCHED_CALL(watched_file(fd), real(fd));
}

int fdatasync(int fd) {
    REAL(int, fdatasync, int);
    WATCHED_CALL(watched_file(fd), real(fd));
}

/* A full disk can still make a file shorter. */
static int grows(int fd, off64_t length) {
    struct stat64 now;
    return mode != FULL || (fstat64(fd, &now) == 0 && length > now.st_size);
}

int ftruncate(int fd, off_t length) {
    REAL(int, ftruncate, int, off_t);
    WATCHED_CALL(watched_file(fd) && grows(fd, length), real(fd, length));
}

int ftruncate64(int fd, off64_t length) {
    REAL(int, ftruncate64, int, off64_t);
    WATCHED_CALL(watched_file(fd) && grows(fd, length), real(fd, length));
}

/* A rename within a folder takes no space. */
#define WATCHED_RENAME(call) WATCHED_CALL(mode != FULL && watched_path(to), call)

int rename(const char *from, const char *to) {
    REAL(int, rename, const char *, const char *);
    WATCHED_RENAME(real(from, to));
}

int renameat(int at, const char *from, int into, const char *to) {
    REAL(int, renameat, int, const char *, int, const char *);
    WATCHED_RENAME(real(at, from, into, to));
}

int renameat2(int at, const char *from, int into, const char *to, unsigned flags) {
    REAL(int, renameat2, int, const char *, int, const char *, unsigned);
    WATCHED_RENAME(real(at, from, into, to, flags));
}
