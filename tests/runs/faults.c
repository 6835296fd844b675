/* Preloaded into a Python process, this library makes the n-th file operation of a kind fail, in one directory.

   fault_set(directory, kind, n, action, persist) sets the fault.  kind: open, read, write, stat, list, truncate, fsync,
   close, rename, link or unlink.  action: an errno to fail with; SHORT to read or write only half; KILL to end the
   process with SIGKILL first; SWAP to replace the directory by a link first, see fault_swap().  persist:
   whether later operations of this kind fail too.  fault_fired() returns how many operations the fault has hit. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { SHORT = -1, KILL = -2, SWAP = -3 };

static char directory[4096], kind[16], aside[4096], elsewhere[4096];
static int n, action, persist, count, fired;

void fault_set(const char *new_directory, const char *new_kind, int new_n, int new_action, int new_persist)
{
    snprintf(directory, sizeof directory, "%s", new_directory);
    snprintf(kind, sizeof kind, "%s", new_kind);
    n = new_n, action = new_action, persist = new_persist, count = fired = 0;
}

/* Set what SWAP does: rename the directory to `new_aside`, and put a link to `new_elsewhere` in its place. */
void fault_swap(const char *new_aside, const char *new_elsewhere)
{
    snprintf(aside, sizeof aside, "%s", new_aside);
    snprintf(elsewhere, sizeof elsewhere, "%s", new_elsewhere);
}

int fault_fired(void) { return fired; }

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Whether this operation must fail.  Sets errno if `action` is one.  KILL and SWAP act here. */
static int strike(const char *what, const char *path)
{
    if (!kind[0] || strcmp(what, kind) || strncmp(path, directory, strlen(directory)))
        return 0;
    count++;
    if (count != n && !(persist && count > n))
        return 0;
    fired++;
    if (action == KILL)
        kill(getpid(), SIGKILL);
    if (action == SWAP) {
        if (NEXT(rename)(directory, aside) || symlink(elsewhere, directory))
            _exit(99);
        return 0;
    }
    if (action > 0)
        errno = action;
    return 1;
}

static int strike_fd(const char *what, int fd)
{
    char link[64], path[4096];
    if (!kind[0])
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return strike(what, path);
}

/* strike() for a name relative to the open directory fd, or to the current directory if fd is AT_FDCWD. */
static int strike_at(const char *what, int fd, const char *name)
{
    char link[64], path[8192];
    if (!kind[0])
        return 0;
    if (name[0] == '/')
        return strike(what, name);
    snprintf(link, sizeof link, fd == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 4096);
    if (length < 0)
        return 0;
    snprintf(path + length, sizeof path - length, "%s%s", name[0] ? "/" : "", name);
    return strike(what, path);
}

/* ---- file contents ---- */

ssize_t write(int fd, const void *data, size_t size)
{
    if (strike_fd("write", fd)) {
        if (action != SHORT)
            return -1;
        size = (size + 1) / 2;
    }
    return NEXT(write)(fd, data, size);
}

ssize_t read(int fd, void *data, size_t size)
{
    if (strike_fd("read", fd)) {
        if (action != SHORT)
            return -1;
        size = (size + 1) / 2;
    }
    return NEXT(read)(fd, data, size);
}

ssize_t pread64(int fd, void *data, size_t size, off64_t offset)
{
    return strike_fd("read", fd) ? -1 : NEXT(pread64)(fd, data, size, offset);
}

ssize_t readv(int fd, const struct iovec *parts, int n_parts)
{
    return strike_fd("read", fd) ? -1 : NEXT(readv)(fd, parts, n_parts);
}

void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset)
{
    if (fd >= 0 && strike_fd("read", fd))
        return MAP_FAILED;
    return NEXT(mmap64)(address, size, protection, flags, fd, offset);
}

int ftruncate64(int fd, off64_t size) { return strike_fd("truncate", fd) ? -1 : NEXT(ftruncate64)(fd, size); }

/* Does not sync, because that is slow and the tests do not cut the power. */
int fsync(int fd) { return strike_fd("fsync", fd) ? -1 : 0; }

int close(int fd)
{
    int failed = strike_fd("close", fd), result = NEXT(close)(fd); /* Linux closes fd even if it reports an error */
    if (failed)
        errno = action;
    return failed ? -1 : result;
}

/* ---- status and directory listings ---- */

int stat64(const char *path, struct stat64 *status)
{
    return strike_at("stat", AT_FDCWD, path) ? -1 : NEXT(stat64)(path, status);
}

int lstat64(const char *path, struct stat64 *status)
{
    return strike_at("stat", AT_FDCWD, path) ? -1 : NEXT(lstat64)(path, status);
}

int fstat64(int fd, struct stat64 *status) { return strike_fd("stat", fd) ? -1 : NEXT(fstat64)(fd, status); }

int fstatat64(int fd, const char *path, struct stat64 *status, int flags)
{
    return strike_at("stat", fd, path) ? -1 : NEXT(fstatat64)(fd, path, status, flags);
}

DIR *fdopendir(int fd) { return strike_fd("list", fd) ? NULL : NEXT(fdopendir)(fd); }

DIR *opendir(const char *path) { return strike_at("list", AT_FDCWD, path) ? NULL : NEXT(opendir)(path); }

struct dirent64 *readdir64(DIR *stream) { return strike_fd("list", dirfd(stream)) ? NULL : NEXT(readdir64)(stream); }

/* ---- names ---- */

int rename(const char *from, const char *to) { return strike_at("rename", AT_FDCWD, to) ? -1 : NEXT(rename)(from, to); }

int renameat(int from_fd, const char *from, int to_fd, const char *to)
{
    return strike_at("rename", to_fd, to) ? -1 : NEXT(renameat)(from_fd, from, to_fd, to);
}

int link(const char *from, const char *to) { return strike_at("link", AT_FDCWD, to) ? -1 : NEXT(link)(from, to); }

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    return strike_at("link", to_fd, to) ? -1 : NEXT(linkat)(from_fd, from, to_fd, to, flags);
}

int unlink(const char *path) { return strike_at("unlink", AT_FDCWD, path) ? -1 : NEXT(unlink)(path); }

int unlinkat(int fd, const char *path, int flags)
{
    return strike_at("unlink", fd, path) ? -1 : NEXT(unlinkat)(fd, path, flags);
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        int mode = va_arg(arguments, int);                                                                             \
        va_end(arguments);                                                                                             \
        return strike_at("open", AT_FDCWD, path) ? -1 : NEXT(name)(path, flags, mode);                                 \
    }

#define OPENAT(name)                                                                                                   \
    int name(int fd, const char *path, int flags, ...)                                                                 \
    {                                                                                                                  \
        va_list arguments;                                                                                             \
        va_start(arguments, flags);                                                                                    \
        int mode = va_arg(arguments, int);                                                                             \
        va_end(arguments);                                                                                             \
        return strike_at("open", fd, path) ? -1 : NEXT(name)(fd, path, flags, mode);                                   \
    }

OPEN(open)
OPEN(open64)
OPENAT(openat)
OPENAT(openat64)
