#include "cores.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "buf.h"

#define CORES_MAX 8192
#define LINE_BYTES 4096

static bool first_line(const char *path, char line[LINE_BYTES])
{
    FILE *file = fopen(path, "re");
    bool got = file && fgets(line, LINE_BYTES, file);
    if (file)
        fclose(file);
    return got;
}

static bool number_of(const char *folder, const char *name, long *number)
{
    struct buf path = BUF_INIT;
    char line[LINE_BYTES];
    buf_addf(&path, "%s/%s", folder, name);
    bool got = first_line(buf_str(&path), line);
    buf_release(&path);
    if (got)
        *number = strtol(line, NULL, 10);
    return got;
}

/* "200000 100000" in cpu.max, or the two in files of their own; "max" and -1 mean no quota. */
static long quota_of_one(const char *folder)
{
    struct buf path = BUF_INIT;
    char line[LINE_BYTES], *end;
    long quota = 0, period = 0;
    buf_addf(&path, "%s/cpu.max", folder);
    if (first_line(buf_str(&path), line)) {
        quota = strtol(line, &end, 10);
        period = strtol(end, NULL, 10);
    } else if (!number_of(folder, "cpu.cfs_quota_us", &quota) ||
               !number_of(folder, "cpu.cfs_period_us", &period)) {
        quota = 0;
    }
    buf_release(&path);
    return quota > 0 && period > 0 ? (long)((double)quota / (double)period * 100) : 0;
}

/* The smallest of the group's own and of those above it. */
static long quota_upwards(const char *root, const char *controller, const char *group)
{
    struct buf folder = BUF_INIT;
    long least = 0;
    size_t top;
    buf_addf(&folder, "%s%s", root, controller);
    top = folder.len;
    buf_adds(&folder, group);
    for (;;) {
        long quota = quota_of_one(buf_str(&folder));
        if (quota > 0 && (least == 0 || quota < least))
            least = quota;
        const char *slash = folder.len > top ? strrchr(buf_str(&folder) + top, '/') : NULL;
        if (!slash)
            break;
        folder.len = (size_t)(slash - buf_str(&folder));
        folder.data[folder.len] = '\0';
    }
    buf_release(&folder);
    return least;
}

/* "0::/a/b", or of the first version "4:cpu,cpuacct:/a/b". */
static bool names_cpu(const char *controllers, size_t len)
{
    for (const char *at = controllers, *end = controllers + len; at <= end;) {
        const char *comma = memchr(at, ',', (size_t)(end - at));
        size_t word = (size_t)((comma ? comma : end) - at);
        if (word == 3 && memcmp(at, "cpu", 3) == 0)
            return true;
        at += word + 1;
    }
    return false;
}

long cores_quota_percent(const char *membership, const char *root)
{
    char line[LINE_BYTES];
    long least = 0;
    FILE *file = fopen(membership, "re");
    while (file && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':');
        char *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        size_t len = (size_t)(group - ++controllers);
        group[1 + strcspn(group + 1, "\n")] = '\0';
        if (len > 0 && !names_cpu(controllers, len))
            continue;
        long quota = quota_upwards(root, len > 0 ? "/cpu" : "", group + 1);
        if (quota > 0 && (least == 0 || quota < least))
            least = quota;
    }
    if (file)
        fclose(file);
    return least;
}

/* A set of a fixed size is too small for the largest machines: then the kernel says so. */
static long allowed_cores(void)
{
    for (int size = CPU_SETSIZE; size <= CORES_MAX; size *= 2) {
        cpu_set_t *set = CPU_ALLOC(size);
        size_t bytes = CPU_ALLOC_SIZE(size);
        bool got = set && sched_getaffinity(0, bytes, set) == 0;
        long count = got ? CPU_COUNT_S(bytes, set) : 0;
        bool larger = !got && set && errno == EINVAL;
        CPU_FREE(set);
        if (got)
            return count;
        if (!larger)
            break;
    }
    return sysconf(_SC_NPROCESSORS_ONLN);
}

int cores_usable(void)
{
    long cores = allowed_cores();
    long quota = cores_quota_percent("/proc/self/cgroup", "/sys/fs/cgroup");
    if (quota > 0 && quota / 100 < cores)
        cores = quota / 100;
    return cores < 1 ? 1 : cores > CORES_MAX ? CORES_MAX : (int)cores;
}
