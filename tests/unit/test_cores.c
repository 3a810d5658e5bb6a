/* How many cores there are for us, from the quotas of control groups as the kernel shows them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../common/buf.h"
#include "../../common/cores.h"

static int make_folder(void **state)
{
    char path[] = "/tmp/examhook-cores-XXXXXX";
    *state = mkdtemp(path) ? xstrdup(path) : NULL;
    return *state ? 0 : -1;
}

static int remove_folder(void **state)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", (char *)*state);
    int failed = system(command);
    free(*state);
    return failed;
}

static void put(const char *folder, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (char *at = path + strlen(folder) + 1; (at = strchr(at, '/')); at++) {
        *at = '\0';
        mkdir(path, 0700);
        *at = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static long quota(const char *folder)
{
    char membership[256];
    snprintf(membership, sizeof membership, "%s/self", folder);
    return cores_quota_percent(membership, folder);
}

static void test_second_version(void **state)
{
    const char *folder = *state;
    assert_int_equal(quota(folder), 0); /* no such file */
    put(folder, "self", "0::/system.slice/exam.service\n");
    assert_int_equal(quota(folder), 0);
    put(folder, "system.slice/exam.service/cpu.max", "max 100000\n");
    assert_int_equal(quota(folder), 0);
    put(folder, "system.slice/exam.service/cpu.max", "150000 100000\n");
    assert_int_equal(quota(folder), 150);
    put(folder, "system.slice/cpu.max", "50000 100000\n"); /* the smallest on the way up counts */
    assert_int_equal(quota(folder), 50);
    put(folder, "self", "0::/\n");
    assert_int_equal(quota(folder), 0);
    put(folder, "cpu.max", "400000 200000\n"); /* a container sees its own group as the root */
    assert_int_equal(quota(folder), 200);
    put(folder, "cpu.max", "nonsense\n");
    assert_int_equal(quota(folder), 0);
}

static void test_first_version(void **state)
{
    const char *folder = *state;
    put(folder, "self",
        "nonsense\n5:memory:/m\n4:cpuacct,cpu:/box\n3:cpuset:/other\n1:name=systemd:/\n0::/\n");
    put(folder, "cpu/box/cpu.cfs_quota_us", "-1\n");
    put(folder, "cpu/box/cpu.cfs_period_us", "100000\n");
    assert_int_equal(quota(folder), 0);
    put(folder, "cpu/box/cpu.cfs_quota_us", "250000\n");
    assert_int_equal(quota(folder), 250);
    put(folder, "self", "4:cpuacct:/box\n3:cpuset:/box\n");
    assert_int_equal(quota(folder), 0);
}

static void test_affinity(void **state)
{
    cpu_set_t one;
    (void)state;
    assert_true(cores_usable() >= 1);
    int first = sched_getcpu();
    assert_true(first >= 0);
    CPU_ZERO(&one);
    CPU_SET((size_t)first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(cores_usable(), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_second_version, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_first_version, make_folder, remove_folder),
        cmocka_unit_test(test_affinity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
