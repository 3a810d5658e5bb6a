/*
 * Does the time of comparing secrets tell where the first wrong byte stands? For timing.py:
 *
 *     timing_compare CALLS     a line "NAME T NS NS" for each way of comparing: Welch's t, the mean times
 *
 * Each call compares what is wrong in its first or in its last byte, by lot, in the same buffer; each is
 * timed by itself. What took longer than 99 of 100 of all calls is left out, for both alike: that is the
 * machine, not the comparison. `bytes` is a comparison that stops at the first difference, to show that this
 * program sees one.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <sodium.h>

#include "../../common/buf.h"
#include "../../common/secret.h"

#define SECRET_LEN 32
#define WARM_UP 1000
#define KEPT_OF_100 99

enum { AT_FIRST, AT_LAST, PLACES };

struct subject {
    struct secret_pair pair;
    char right[SECRET_LEN];
};

struct sum {
    double count, mean, square;
};

typedef bool compare_function(const struct subject *subject, const char *given);

static bool by_check(const struct subject *subject, const char *given)
{
    return secret_check(&subject->pair, given, SECRET_LEN) != SECRET_NO;
}

static bool by_equal(const struct subject *subject, const char *given)
{
    return secret_equal(subject->right, SECRET_LEN, given, SECRET_LEN);
}

static bool by_bytes(const struct subject *subject, const char *given)
{
    const volatile char *right = subject->right;
    for (size_t i = 0; i < SECRET_LEN; i++) {
        if (right[i] != given[i])
            return false;
    }
    return true;
}

static uint32_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint32_t)(t.tv_sec * 1000000000LL + t.tv_nsec); /* only differences count */
}

/* The seconds' wrap does no harm: a difference is below four seconds. */
static uint32_t one_call(compare_function *compare, const struct subject *subject, int place, bool *matched)
{
    char given[SECRET_LEN];
    memcpy(given, subject->right, SECRET_LEN);
    given[place == AT_FIRST ? 0 : SECRET_LEN - 1] ^= (char)(1 + randombytes_uniform(255));
    uint32_t begun = now_ns();
    *matched |= compare(subject, given);
    return now_ns() - begun;
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint32_t longest_kept(const uint32_t *took, size_t calls)
{
    uint32_t *sorted = xcalloc(calls, sizeof *sorted);
    memcpy(sorted, took, calls * sizeof *sorted);
    qsort(sorted, calls, sizeof *sorted, by_size);
    uint32_t limit = sorted[calls * KEPT_OF_100 / 100];
    free(sorted);
    return limit;
}

static void add(struct sum *sum, double value)
{
    double off = value - sum->mean;
    sum->count++;
    sum->mean += off / sum->count;
    sum->square += off * (value - sum->mean);
}

static double welch(const struct sum *a, const struct sum *b)
{
    double spread = a->square / (a->count - 1) / a->count + b->square / (b->count - 1) / b->count;
    return spread > 0 ? (a->mean - b->mean) / sqrt(spread) : a->mean == b->mean ? 0 : HUGE_VAL;
}

/* False where a wrong secret was taken for the right one. */
static bool measure(const char *name, compare_function *compare, const struct subject *subject, size_t calls)
{
    uint32_t *took = xcalloc(calls, sizeof *took);
    unsigned char *place = xcalloc(calls, 1);
    struct sum sums[PLACES] = {{0}};
    bool matched = false;
    randombytes_buf(place, calls);
    for (size_t i = 0; i < WARM_UP; i++)
        one_call(compare, subject, AT_FIRST, &matched);
    for (size_t i = 0; i < calls; i++)
        took[i] = one_call(compare, subject, place[i] % PLACES, &matched);
    uint32_t limit = longest_kept(took, calls);
    for (size_t i = 0; i < calls; i++) {
        if (took[i] <= limit)
            add(&sums[place[i] % PLACES], took[i]);
    }
    printf("%s %.2f %.1f %.1f\n", name, welch(&sums[AT_FIRST], &sums[AT_LAST]), sums[AT_FIRST].mean,
           sums[AT_LAST].mean);
    free(took);
    free(place);
    return !matched;
}

int main(int argc, char **argv)
{
    size_t calls = argc == 2 ? strtoul(argv[1], NULL, 10) : 0;
    struct subject subject;
    if (calls < 1000 || sodium_init() < 0) {
        fprintf(stderr, "usage: timing_compare CALLS (1000 or more)\n");
        return 2;
    }
    randombytes_buf(subject.right, sizeof subject.right);
    secret_set(&subject.pair.current, subject.right, sizeof subject.right);
    subject.pair.previous = subject.pair.current;
    bool good = measure("secret_check", by_check, &subject, calls);
    good &= measure("secret_equal", by_equal, &subject, calls);
    good &= measure("bytes", by_bytes, &subject, calls);
    return good ? 0 : 1;
}
