/* Fails or kills the n-th system call on a folder. Preloaded (LD_PRELOAD) into a Python that then
 * forks one child a try: faults_arm() in the child starts the count.
 *
 * Counted are the calls that change the folder or open a file in it: open, openat, mkdir, rmdir,
 * unlink, unlinkat, rename, write, pwrite, fsync, fdatasync, ftruncate. A call belongs to the folder
 * when its path begins with it, or its descriptor was opened there. With FAIL_READ the calls of read
 * and pread are counted instead.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { NOTHING, KILL_BEFORE, KILL_AFTER, KILL_HALF, FAIL, FAIL_READ };

static char folder[4096];
static size_t folder_length;
static long seen, at = -1;
static int action, failure;
static char watched[65536];  /* descriptors opened in the folder */

/* Starts counting calls on `path`. The n-th (from 0) is killed before, after or half-way, or fails
 * with `error`; with `what` 0 calls are only counted. */
void faults_arm(const char *path, long n, int what, int error) {
    strncpy(folder, path, sizeof folder - 1);
    folder_length = strlen(folder);
    seen = 0;
    at = n;
    action = what;
    failure = error;
}

long faults_seen(void) { return seen; }

static int in_folder(const char *path) {
    return folder_length && path && strncmp(path, folder, folder_length) == 0;
}

static int in_folder_fd(int fd) {
    return folder_length && fd >= 0 && fd < (int)sizeof watched && watched[fd];
}

static int in_folder_at(int dir, const char *path) {
    return in_folder(path) || (path && path[0] != '/' && in_folder_fd(dir));
}

/* What to do with the call at hand; counts it. */
static int due(void) {
    if (action == FAIL_READ) return NOTHING;
    long mine = __sync_fetch_and_add(&seen, 1);
    return mine == at ? action : NOTHING;
}

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* The function that the library stands before. */
#define REAL(name, type) static type *real; if (!real) real = (type *)dlsym(RTLD_NEXT, name)

/* Runs `call`, with the fault that is due around it. */
#define FAULTY(type, mine, call)                      \
    int what = (mine) ? due() : NOTHING;              \
    if (what == KILL_BEFORE || what == KILL_HALF) die(); \
    if (what == FAIL) { errno = failure; return -1; } \
    type result = (call);                             \
    if (what == KILL_AFTER) die();                    \
    return result

static int opened(int fd, int mine) {
    if (fd >= 0 && fd < (int)sizeof watched) watched[fd] = (char)mine;
    return fd;
}

#define OPEN(name, type, params, args, belongs)                            \
    int name params {                                                   \
        REAL(#name, type);                                              \
        mode_t mode = 0;                                                \
        if (flags & (O_CREAT | O_TMPFILE)) {                            \
            va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); \
        }                                                               \
        int mine = belongs;                                             \
        FAULTY(int, mine, opened(real args, mine));                     \
    }
typedef int mkdir_t(const char *, mode_t);
typedef int unlink_t(const char *);
typedef int rename_t(const char *, const char *);
typedef int fd_t(int);
typedef int size_t_(int, off_t);
typedef int size64_t_(int, off64_t);
typedef int unlinkat_t(int, const char *, int);
typedef ssize_t read_t(int, void *, size_t);
typedef ssize_t pread_t(int, void *, size_t, off_t);
typedef ssize_t pwrite_t(int, const void *, size_t, off_t);
typedef ssize_t write_t(int, const void *, size_t);
typedef int open_t(const char *, int, ...);
typedef int openat_t(int, const char *, int, ...);
OPEN(open, open_t, (const char *path, int flags, ...), (path, flags, mode), in_folder(path))
OPEN(open64, open_t, (const char *path, int flags, ...), (path, flags, mode), in_folder(path))
OPEN(openat, openat_t, (int dir, const char *path, int flags, ...), (dir, path, flags, mode),
     in_folder_at(dir, path))
OPEN(openat64, openat_t, (int dir, const char *path, int flags, ...), (dir, path, flags, mode),
     in_folder_at(dir, path))

int mkdir(const char *path, mode_t mode) {
    REAL("mkdir", mkdir_t);
    FAULTY(int, in_folder(path), real(path, mode));
}
int unlink(const char *path) {
    REAL("unlink", unlink_t);
    FAULTY(int, in_folder(path), real(path));
}
int rmdir(const char *path) {
    REAL("rmdir", unlink_t);
    FAULTY(int, in_folder(path), real(path));
}
int unlinkat(int dir, const char *path, int flags) {
    REAL("unlinkat", unlinkat_t);
    FAULTY(int, in_folder_at(dir, path), real(dir, path, flags));
}
int rename(const char *from, const char *to) {
    REAL("rename", rename_t);
    FAULTY(int, in_folder(from), real(from, to));
}
int fsync(int fd) {
    REAL("fsync", fd_t);
    FAULTY(int, in_folder_fd(fd), real(fd));
}
int fdatasync(int fd) {
    REAL("fdatasync", fd_t);
    FAULTY(int, in_folder_fd(fd), real(fd));
}
int ftruncate(int fd, off_t size) {
    REAL("ftruncate", size_t_);
    FAULTY(int, in_folder_fd(fd), real(fd, size));
}
int ftruncate64(int fd, off64_t size) {
    REAL("ftruncate64", size64_t_);
    FAULTY(int, in_folder_fd(fd), real(fd, size));
}
int close(int fd) {
    REAL("close", fd_t);
    if (fd >= 0 && fd < (int)sizeof watched) watched[fd] = 0;
    return real(fd);
}
ssize_t write(int fd, const void *data, size_t size) {
    REAL("write", write_t);
    int what = in_folder_fd(fd) ? due() : NOTHING;
    if (what == KILL_BEFORE) die();
    if (what == KILL_HALF) { real(fd, data, size / 2); die(); }
    if (what == FAIL) { errno = failure; return -1; }
    ssize_t result = real(fd, data, size);
    if (what == KILL_AFTER) die();
    return result;
}
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    REAL("pwrite", pwrite_t);
    FAULTY(ssize_t, in_folder_fd(fd), real(fd, data, size, offset));
}

/* Whether the read at hand is the one that fails. */
static int unreadable(int fd) {
    if (action != FAIL_READ || !in_folder_fd(fd)) return 0;
    return __sync_fetch_and_add(&seen, 1) == at;
}
ssize_t read(int fd, void *data, size_t size) {
    REAL("read", read_t);
    if (unreadable(fd)) { errno = failure; return -1; }
    return real(fd, data, size);
}
ssize_t pread(int fd, void *data, size_t size, off_t offset) {
    REAL("pread", pread_t);
    if (unreadable(fd)) { errno = failure; return -1; }
    return real(fd, data, size, offset);
}
