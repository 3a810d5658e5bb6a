/* Who may wait for a password check and when the others are told to come back, in a time that the test makes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../fcgi/turns.h"

#define YESCRYPT "$y$j9T$Nobody.Has.This.Salt0."
#define SECOND 1000000LL
#define BUDGET (20 * SECOND)
#define NOW (1000 * SECOND)
#define MANY 100000

static int setup(void **state)
{
    struct turns *turns = calloc(1, sizeof *turns);
    turns_init(turns, 2);
    *state = turns;
    return 0;
}

static int teardown(void **state)
{
    turns_release(*state);
    free(*state);
    return 0;
}

static void measured_often(struct turns *turns, int kind, int64_t took_us)
{
    for (int i = 0; i < 500; i++)
        turns_measured(turns, kind, took_us);
}

/* 50 ms a check on two threads: 40 a second. */
static int fifty_ms(struct turns *turns)
{
    int kind = turns_kind(turns, YESCRYPT);
    measured_often(turns, kind, 50000);
    return kind;
}

static int fill(struct turns *turns, int kind, int64_t now, uint64_t *who)
{
    int count = 0;
    while (count < MANY && turns_enter(turns, kind, ++*who, now, BUDGET, MANY))
        count++;
    return count;
}

static void test_as_many_as_can_be_done_in_time(void **state)
{
    struct turns *turns = *state;
    uint64_t who = 0;
    int kind = fifty_ms(turns);
    int count = fill(turns, kind, NOW, &who);
    /* Within the budget, with room for checks that become slower, and not much below. */
    assert_in_range(count, 40 * 20 * 75 / 100, 40 * 20 * 95 / 100);
    turns_leave(turns, kind);
    turns_leave(turns, kind);
    assert_true(turns_enter(turns, kind, ++who, NOW, BUDGET, MANY));
    assert_false(turns_enter(turns, kind, ++who, NOW, 0, MANY));
}

/* A few dear ones fill the same time as many cheap ones. */
static void test_kinds_count_what_they_cost(void **state)
{
    struct turns *turns = *state;
    uint64_t who = 0;
    int cheap = fifty_ms(turns), dear = turns_kind(turns, "$2b$12$Nobody.Has.This.Salt0.");
    assert_int_not_equal(cheap, dear);
    assert_int_equal(dear, turns_kind(turns, "$2y$12$OtherOtherOtherOtherO."));
    measured_often(turns, dear, 500000);
    for (int i = 0; i < 60; i++) /* 15 s of both threads */
        assert_true(turns_enter(turns, dear, ++who, NOW, BUDGET, MANY));
    int count = fill(turns, cheap, NOW, &who);
    assert_in_range(count, 40 / 2, 40 * 5);
    /* Before any was measured, what the cost in the hash says: dearer is guessed dearer. */
    int more = turns_kind(turns, "$2b$14$Nobody.Has.This.Salt0."), less = turns_kind(turns, "$6$salt");
    assert_true(turns->kinds[more].us > 100 * turns->kinds[less].us);
    /* What is no hash is checked as the default dummy. */
    assert_int_equal(turns_kind(turns, "nonsense"), cheap);
    /* More kinds than are told apart are no trouble. */
    for (int cost = 4; cost <= 16; cost++) {
        char setting[64];
        snprintf(setting, sizeof setting, "$2b$%02d$Nobody.Has.This.Salt0.", cost);
        assert_in_range(turns_kind(turns, setting), 0, TURNS_KINDS - 1);
    }
}

static void test_a_dear_one_is_checked_where_nobody_is(void **state)
{
    struct turns *turns = *state;
    int kind = fifty_ms(turns);
    measured_often(turns, kind, 2000 * SECOND);
    assert_true(turns_enter(turns, kind, 1, NOW, BUDGET, MANY));
    assert_false(turns_enter(turns, kind, 2, NOW, BUDGET, MANY));
}

/* A machine that stands still for a moment while the first is checked sends nobody away. */
static void test_one_slow_check_is_not_believed(void **state)
{
    struct turns *turns = *state;
    uint64_t who = 0;
    int kind = turns_kind(turns, YESCRYPT);
    for (int i = 0; i < 60; i++)
        assert_true(turns_enter(turns, kind, ++who, NOW, BUDGET, MANY));
    turns_measured(turns, kind, 2 * SECOND);
    assert_false(turns_too_late(turns, kind, BUDGET - 2 * SECOND));
    assert_true(turns_enter(turns, kind, ++who, NOW, BUDGET, MANY));
    /* Where all are slow, that is found out before half of those who wait are checked. */
    for (int i = 0; i < 20; i++)
        turns_measured(turns, kind, 2 * SECOND);
    assert_true(turns_too_late(turns, kind, BUDGET / 2));
    /* A guess that was too high is given up at once. */
    int dear = turns_kind(turns, "$2b$12$Nobody.Has.This.Salt0.");
    turns_measured(turns, dear, 1000);
    assert_in_range(turns->kinds[dear].us, 1000, 1000);
}

/* Those who are sent away all at once come back as fast as they can be checked. */
static void test_returns_are_spread(void **state)
{
    struct turns *turns = *state;
    uint64_t who = 0;
    int in_second[200] = {0};
    int kind = fifty_ms(turns);
    fill(turns, kind, NOW, &who);
    for (int i = 0; i < 2000; i++) {
        int64_t s = turns_return(turns, kind, ++who, NOW);
        assert_in_range(s, 5, 65);
        in_second[s]++;
    }
    for (int s = 0; s < 200; s++)
        assert_in_range(in_second[s], 0, 41);
    assert_in_range(in_second[20], 39, 41);
}

static void test_asking_again_changes_nothing(void **state)
{
    struct turns *turns = *state;
    uint64_t who = 0;
    int kind = fifty_ms(turns);
    fill(turns, kind, NOW, &who);
    int64_t first = turns_return(turns, kind, 77, NOW);
    for (int i = 1; i <= 1000; i++)
        assert_int_equal(turns_return(turns, kind, 77, NOW + i), first);
    assert_int_equal(turns_return(turns, kind, 77, NOW + 3 * SECOND), first - 3);
    assert_in_range(turns_return(turns, kind, 78, NOW), first, first + 1);
    /* Nobody is sent away for ever, however many ask. */
    for (int i = 0; i < MANY; i++)
        assert_in_range(turns_return(turns, kind, 0, NOW), 1, 601);
}

/*
 * A start of three times what can be checked, and more newcomers all the time: whoever comes back when told
 * gets a place, and newcomers get none before them.
 */
static void test_who_comes_back_goes_first(void **state)
{
    struct turns *turns = *state;
    static int64_t back_at[MANY];
    uint64_t who = 0;
    int kind = fifty_ms(turns), in = 0, again = 0, newcomers = 0;
    for (int i = 0; i < 2400; i++) {
        if (turns_enter(turns, kind, ++who, NOW, BUDGET, MANY))
            in++;
        else
            back_at[who] = NOW + turns_return(turns, kind, who, NOW) * SECOND;
    }
    uint64_t told = who;
    for (int64_t t = 0; t < 70 * 40; t++) { /* 25 ms each: one check done, a newcomer and whoever is due */
        int64_t now = NOW + t * 25000;
        if (turns->here > 0)
            turns_leave(turns, kind);
        if (turns_enter(turns, kind, ++who, now, BUDGET, MANY))
            newcomers++;
        for (uint64_t w = 1; w <= told; w++) {
            if (back_at[w] == 0 || back_at[w] > now)
                continue;
            back_at[w] = 0;
            if (turns_enter(turns, kind, w, now, BUDGET, MANY))
                again++;
        }
        assert_true(turns->here > 0); /* the threads never stand idle meanwhile */
    }
    assert_int_equal(in + again, 2400);
    assert_true(newcomers < 70 * 40 / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_as_many_as_can_be_done_in_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_kinds_count_what_they_cost, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_dear_one_is_checked_where_nobody_is, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_slow_check_is_not_believed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_returns_are_spread, setup, teardown),
        cmocka_unit_test_setup_teardown(test_asking_again_changes_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_comes_back_goes_first, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
