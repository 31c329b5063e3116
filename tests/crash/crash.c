/* Counts what a process changes below one folder, and ends it or fails at one chosen change: a point.

   Loaded with LD_PRELOAD, so that Python, SQLite, Arrow, PyTorch and Rust all come by. A point is a call that makes,
   writes, flushes, renames or removes a file. Of a SQLite database the commits are points: what lies between
   two of them is SQLite's promise. The main thread and all other threads count by themselves. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum mode { OFF, COUNT, KILL, TEAR, FULL, BROKEN };
enum { HALF = -1, FRAME_HEADER = 24, COMMIT_AT = 4 };  /* SQLite file format, 4.1: size of the database, or 0 */

static enum mode mode = OFF;
static int other, list = -1, is_full;
static long number, seen[2], streak[2];
static char root[PATH_MAX], last[2][PATH_MAX];
static time_t clock_shift;

/* Begin: `how` is a mode, the point the `which`-th of the main thread (0) or of the others (1); a line for each
   point met, or for the chosen one, goes to the descriptor `lines`. */
void crash_arm(const char *folder, int how, int thread, long which, int lines)
{
    snprintf(root, sizeof root, "%s/", folder);
    mode = how, other = thread, number = which, list = lines;
    seen[0] = seen[1] = is_full = 0;
    last[0][0] = last[1][0] = 0;
}

void crash_shift_clock(long seconds) { clock_shift = seconds; }

static int ends(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

/* The path below the root, or NULL: an open descriptor (path NULL), or a path from a folder's descriptor. */
static const char *below(int at, const char *path, char *full)
{
    char link[32], base[PATH_MAX] = "";
    if (path == NULL || path[0] != '/') {
        ssize_t size = 0;
        snprintf(link, sizeof link, at == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", at);
        if ((size = readlink(link, base, sizeof base - 1)) < 0)
            return NULL;
        base[size] = 0;
    }
    snprintf(full, 2 * PATH_MAX, "%s%s%s", base, path && base[0] ? "/" : "", path ? path : "");
    if (strncmp(full, root, strlen(root)) != 0)
        return NULL;
    const char *rest = full + strlen(root);
    int not_ours = strncmp(rest, ".git/", 5) == 0 || strncmp(rest, ".dvc/tmp", 8) == 0;
    return not_ours || strstr(rest, "__pycache__") ? NULL : rest;
}

/* Of many writes to one file in a row, as of a checkpoint, those that are a power of two; of appended ones all. */
static int repeats(int thread, int at, const char *what, const char *name)
{
    int same = strcmp(what, "write") == 0 && strcmp(last[thread], name) == 0 && !(fcntl(at, F_GETFL) & O_APPEND);
    streak[thread] = same ? streak[thread] + 1 : 1;
    snprintf(last[thread], sizeof last[thread], "%s", strcmp(what, "write") == 0 ? name : "");
    return (streak[thread] & (streak[thread] - 1)) != 0;
}

/* Go on (0), fail with this errno, or write only a half (HALF). */
static int point(const char *what, int at, const char *path, const void *data, size_t size)
{
    char full[2 * PATH_MAX];
    const char *name = mode == OFF ? NULL : below(at, path, full);
    if (name == NULL)
        return 0;
    int grows = strcmp(what, "write") == 0 || strcmp(what, "make") == 0;
    if (is_full && grows)
        return ENOSPC;
    if (ends(name, "-wal")) {
        uint32_t pages;
        if (data == NULL || size != FRAME_HEADER)
            return 0;
        memcpy(&pages, (const char *)data + COMMIT_AT, sizeof pages);
        if (pages == 0)
            return 0;
        what = "commit";
    } else if (ends(name, "-shm") || ends(name, "-journal"))
        return 0;
    else if (ends(name, ".db") && strcmp(what, "rename to") != 0 && strcmp(what, "remove") != 0)
        return 0;
    int thread = syscall(SYS_gettid) != getpid();
    if (repeats(thread, at, what, name))
        return 0;
    long now = __atomic_add_fetch(&seen[thread], 1, __ATOMIC_SEQ_CST);
    if (mode != COUNT && (thread != other || now != number))
        return 0;
    dprintf(list, "%d %ld %s %s\n", thread, now, what, name);
    int divisible = data != NULL && size > 1 && strcmp(what, "write") == 0;
    if (mode == KILL || (mode == TEAR && !divisible))
        kill(getpid(), SIGKILL);
    if (mode == TEAR)
        return HALF;
    if (mode == FULL) {
        is_full = 1;
        return divisible ? HALF : grows || strcmp(what, "commit") == 0 ? ENOSPC : 0;
    }
    return mode == BROKEN ? EIO : 0;
}

static ssize_t written(ssize_t done)
{
    if (mode == TEAR)
        kill(getpid(), SIGKILL);
    return done;
}

#define NEXT(name) static __typeof__(name) *next; if (!next) next = dlsym(RTLD_NEXT, #name)
#define REFUSE(answer) do { int fault = answer; if (fault) { errno = fault; return -1; } } while (0)

#define WRITES(name, parameters, data, size, ...)                      \
    ssize_t name parameters                                            \
    {                                                                  \
        NEXT(name);                                                    \
        int answer = point("write", fd, NULL, data, size);             \
        if (answer == HALF) {                                          \
            size /= 2;                                                 \
            return written(next(__VA_ARGS__));                         \
        }                                                              \
        REFUSE(answer);                                                \
        return next(__VA_ARGS__);                                      \
    }
WRITES(write, (int fd, const void *data, size_t size), data, size, fd, data, size)
WRITES(pwrite, (int fd, const void *data, size_t size, off_t at), data, size, fd, data, size, at)
WRITES(pwrite64, (int fd, const void *data, size_t size, off64_t at), data, size, fd, data, size, at)
ssize_t sendfile(int, int, off_t *, size_t);
WRITES(sendfile, (int fd, int from, off_t *at, size_t size), "", size, fd, from, at, size)
ssize_t sendfile64(int, int, off64_t *, size_t);
WRITES(sendfile64, (int fd, int from, off64_t *at, size_t size), "", size, fd, from, at, size)

/* An opening is a point where it makes or empties a file. */
static int opens(int at, const char *path, int flags)
{
    struct stat held;
    int missing = fstatat(at, path, &held, 0) != 0;
    int changes = (flags & O_CREAT && missing) || (flags & O_TRUNC && !missing && held.st_size > 0);
    return changes ? point("make", at, path, NULL, 0) : 0;
}
#define OPENS(name, parameters, at, ...)                               \
    int name parameters                                                \
    {                                                                  \
        NEXT(name);                                                    \
        mode_t rights = 0;                                             \
        if (flags & (O_CREAT | O_TMPFILE)) {                           \
            va_list more;                                              \
            va_start(more, flags);                                     \
            rights = va_arg(more, mode_t);                             \
            va_end(more);                                              \
        }                                                              \
        if (mode != OFF)                                               \
            REFUSE(opens(at, path, flags));                            \
        return next(__VA_ARGS__, rights);                              \
    }
OPENS(open, (const char *path, int flags, ...), AT_FDCWD, path, flags)
OPENS(open64, (const char *path, int flags, ...), AT_FDCWD, path, flags)
OPENS(openat, (int dir, const char *path, int flags, ...), dir, dir, path, flags)
OPENS(openat64, (int dir, const char *path, int flags, ...), dir, dir, path, flags)

/* Making a folder that is there changes nothing; flushing one is what SQLite does. */
static int makes(int at, const char *path)
{
    struct stat held;
    return mode != OFF && fstatat(at, path, &held, 0) != 0 ? point("make", at, path, NULL, 0) : 0;
}
static int flushes(int fd)
{
    struct stat held;
    return mode != OFF && fstat(fd, &held) == 0 && S_ISREG(held.st_mode) ? point("flush", fd, NULL, NULL, 0) : 0;
}

#define CHANGES(name, parameters, answer, ...)                         \
    int name parameters                                                \
    {                                                                  \
        NEXT(name);                                                    \
        REFUSE(answer);                                                \
        return next(__VA_ARGS__);                                      \
    }
CHANGES(mkdir, (const char *path, mode_t rights), makes(AT_FDCWD, path), path, rights)
CHANGES(mkdirat, (int at, const char *path, mode_t rights), makes(at, path), at, path, rights)
CHANGES(symlink, (const char *to, const char *path), makes(AT_FDCWD, path), to, path)
CHANGES(link, (const char *from, const char *path), makes(AT_FDCWD, path), from, path)
CHANGES(rename, (const char *from, const char *path), point("rename to", AT_FDCWD, path, NULL, 0), from, path)
CHANGES(renameat, (int from, const char *old, int at, const char *path), point("rename to", at, path, NULL, 0),
        from, old, at, path)
CHANGES(unlink, (const char *path), point("remove", AT_FDCWD, path, NULL, 0), path)
CHANGES(unlinkat, (int at, const char *path, int flags), point("remove", at, path, NULL, 0), at, path, flags)
CHANGES(rmdir, (const char *path), point("remove", AT_FDCWD, path, NULL, 0), path)
CHANGES(truncate, (const char *path, off_t size), point("cut", AT_FDCWD, path, NULL, 0), path, size)
CHANGES(ftruncate, (int fd, off_t size), point("cut", fd, NULL, NULL, 0), fd, size)
CHANGES(ftruncate64, (int fd, off64_t size), point("cut", fd, NULL, NULL, 0), fd, size)
CHANGES(fsync, (int fd), flushes(fd), fd)
CHANGES(fdatasync, (int fd), flushes(fd), fd)

int clock_gettime(clockid_t which, struct timespec *now)
{
    NEXT(clock_gettime);
    int answer = next(which, now);
    if (which == CLOCK_REALTIME)
        now->tv_sec += clock_shift;
    return answer;
}
