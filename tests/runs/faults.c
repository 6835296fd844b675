/* Preloaded into a Python process, it lets the n-th file operation of a kind fail, for files in one directory.

   fault_set(directory, kind, n, action, persist) arms it; fault_fired() says how often it struck.  kind: one of open,
   write, fsync, close, rename, link, unlink.  action: an errno; or SHORT, write half; or KILL, die of SIGKILL first. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

enum { SHORT = -1, KILL = -2 };

static char directory[4096], kind[16];
static int n, action, persist, count, fired;

void fault_set(const char *new_directory, const char *new_kind, int new_n, int new_action, int new_persist)
{
    snprintf(directory, sizeof directory, "%s", new_directory);
    snprintf(kind, sizeof kind, "%s", new_kind);
    n = new_n, action = new_action, persist = new_persist, count = fired = 0;
}

int fault_fired(void) { return fired; }

/* Whether to strike now; with an errno, it is set. */
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

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size)
{
    if (strike_fd("write", fd)) {
        if (action != SHORT)
            return -1;
        size = (size + 1) / 2;
    }
    return NEXT(write)(fd, data, size);
}

int fsync(int fd) { return strike_fd("fsync", fd) ? -1 : NEXT(fsync)(fd); }

int close(int fd)
{
    int failed = strike_fd("close", fd), result = NEXT(close)(fd); /* Linux closes it even when it reports an error */
    if (failed)
        errno = action;
    return failed ? -1 : result;
}

int rename(const char *from, const char *to) { return strike("rename", to) ? -1 : NEXT(rename)(from, to); }

int link(const char *from, const char *to) { return strike("link", to) ? -1 : NEXT(link)(from, to); }

int linkat(int from_fd, const char *from, int to_fd, const char *to, int flags)
{
    return strike("link", to) ? -1 : NEXT(linkat)(from_fd, from, to_fd, to, flags);
}

int unlink(const char *path) { return strike("unlink", path) ? -1 : NEXT(unlink)(path); }

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int mode = va_arg(arguments, int);
    va_end(arguments);
    return strike("open", path) ? -1 : NEXT(open)(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    int mode = va_arg(arguments, int);
    va_end(arguments);
    return strike("open", path) ? -1 : NEXT(open64)(path, flags, mode);
}
