/* The threads that check passwords: right answers, bounded over processes, refused early, dropped safely. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../common/clock.h"
#include "../../fcgi/hash_pool.h"

#define WAIT_MS 20000

struct scene {
    char folder[64];
    int done_fd;
    char hash[PASSWORD_HASH_BYTES];
};

static int setup(void **state)
{
    struct scene *s = xcalloc(1, sizeof *s);
    strcpy(s->folder, "/tmp/examhook-pool-XXXXXX");
    assert_non_null(mkdtemp(s->folder));
    s->done_fd = eventfd(0, EFD_NONBLOCK);
    assert_true(password_make("sha512crypt", "right", s->hash));
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", s->folder);
    assert_int_equal(system(command), 0);
    close(s->done_fd);
    free(s);
    return 0;
}

static void wait_ms(int64_t ms)
{
    struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
}

static struct hash_task *task_for(const struct scene *s, const char *password, int64_t budget_ms)
{
    struct hash_task *task = hash_task_new((void *)(uintptr_t)s, clock_monotonic_ms() + budget_ms);
    memcpy(task->job.setting, s->hash, sizeof s->hash);
    buf_adds(&task->job.password, password);
    return task;
}

static bool add(struct hash_pool *pool, struct hash_task *task, bool room)
{
    if (!hash_pool_place(pool, task, room))
        return false;
    hash_pool_start(pool, task);
    return true;
}

static struct hash_task *wait_for_one(const struct scene *s, struct hash_pool *pool)
{
    for (int64_t end = clock_monotonic_ms() + WAIT_MS; clock_monotonic_ms() < end;) {
        struct hash_task *task = hash_pool_take(pool);
        uint64_t count;
        if (task)
            return task;
        struct pollfd p = {.fd = s->done_fd, .events = POLLIN};
        poll(&p, 1, 100);
        assert_true(read(s->done_fd, &count, sizeof count) == sizeof count || !p.revents);
    }
    fail_msg("no check ended");
    return NULL;
}

static struct hash_pool *pool_for(const struct scene *s, int threads, int64_t queue_max)
{
    struct buf why = BUF_INIT;
    struct hash_pool *pool = hash_pool_new(threads, s->folder, queue_max, s->done_fd, &why);
    assert_non_null(pool);
    return pool;
}

static void test_right_and_wrong(void **state)
{
    struct scene *s = *state;
    struct hash_pool *pool = pool_for(s, 2, 100);
    for (int i = 0; i < 20; i++)
        assert_true(add(pool, task_for(s, i % 2 ? "right" : "wrong", WAIT_MS), true));
    int right = 0;
    for (int i = 0; i < 20; i++) {
        struct hash_task *task = wait_for_one(s, pool);
        assert_true(task->job.done);
        right += task->job.match;
        hash_task_free(task);
    }
    assert_int_equal(right, 10);
    hash_pool_free(pool);
}

/* As another process that checks: no thread gets on until it is closed. */
static int hold_the_slot(const struct scene *s)
{
    char path[128];
    snprintf(path, sizeof path, "%s/hash-slot-0", s->folder);
    int slot = open(path, O_RDWR | O_CREAT, 0600);
    assert_int_equal(flock(slot, LOCK_EX), 0);
    return slot;
}

/* A slot that another process holds: nothing runs, and at its deadline a task comes back not done. */
static void test_bounded_over_processes(void **state)
{
    struct scene *s = *state;
    int slot = hold_the_slot(s);

    struct hash_pool *pool = pool_for(s, 1, 100);
    assert_true(add(pool, task_for(s, "right", 200), true));
    struct hash_task *task = wait_for_one(s, pool);
    assert_false(task->job.done);
    assert_false(task->job.match);
    hash_task_free(task);

    assert_true(add(pool, task_for(s, "right", WAIT_MS), true));
    assert_null(hash_pool_take(pool));
    close(slot);
    task = wait_for_one(s, pool);
    assert_true(task->job.match);
    hash_task_free(task);
    hash_pool_free(pool);
}

static void test_refused_early(void **state)
{
    struct scene *s = *state;
    int slot = hold_the_slot(s);
    struct hash_pool *pool = pool_for(s, 1, 3);

    int taken = 0;
    struct hash_task *refused = NULL;
    for (int i = 0; i < 10 && !refused; i++) {
        struct hash_task *task = task_for(s, "right", WAIT_MS);
        if (add(pool, task, true))
            taken++;
        else
            refused = task;
    }
    assert_non_null(refused); /* the queue is bounded */
    assert_in_range(taken, 3, 4);
    assert_in_range(refused->job.wait_s, 1, 60);
    hash_task_free(refused);

    struct hash_task *hopeless = task_for(s, "right", 0); /* its time is over before its turn */
    assert_false(add(pool, hopeless, true));
    assert_in_range(hopeless->job.wait_s, 1, 60);
    hash_task_free(hopeless);
    struct hash_task *outside = task_for(s, "right", WAIT_MS); /* the caller has no room for it */
    assert_false(add(pool, outside, false));
    assert_in_range(outside->job.wait_s, 1, 60);
    hash_task_free(outside);
    close(slot);
    hash_pool_free(pool);
}

/* Dropped while queued, while it runs and when done: nobody sees it again and nothing is freed twice (ASan).
 */
static void test_drop(void **state)
{
    struct scene *s = *state;
    struct hash_pool *pool = pool_for(s, 1, 100);
    struct hash_task *tasks[8];
    for (int i = 0; i < 8; i++) {
        tasks[i] = task_for(s, "right", WAIT_MS);
        assert_true(add(pool, tasks[i], true));
    }
    for (int i = 0; i < 7; i++)
        hash_pool_drop(pool, tasks[i]);
    struct hash_task *last = wait_for_one(s, pool);
    assert_ptr_equal(last, tasks[7]);
    assert_true(last->job.match);
    hash_task_free(last);
    assert_null(hash_pool_take(pool));
    /* One that is done and was not taken yet. */
    struct hash_task *done = task_for(s, "right", WAIT_MS);
    uint64_t count;
    assert_true(read(s->done_fd, &count, sizeof count) < 0 || count > 0);
    assert_true(add(pool, done, true));
    struct pollfd p = {.fd = s->done_fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, WAIT_MS), 1);
    hash_pool_drop(pool, done);
    assert_null(hash_pool_take(pool));
    hash_pool_set_queue(pool, 1);
    hash_pool_free(pool);
}

/* First come, first served, also where dear hashes stand among cheap ones. */
static void test_in_order(void **state)
{
    struct scene *s = *state;
    struct hash_pool *pool = pool_for(s, 1, 100);
    struct hash_task *tasks[12];
    for (int i = 0; i < 12; i++) {
        tasks[i] = task_for(s, "right", WAIT_MS);
        if (i % 3 == 0)
            strcpy(tasks[i]->job.setting, "$2b$07$Nobody.Has.This.Salt0.");
        assert_true(add(pool, tasks[i], true));
    }
    for (int i = 0; i < 12; i++) {
        struct hash_task *task = wait_for_one(s, pool);
        assert_ptr_equal(task, tasks[i]);
        hash_task_free(task);
    }
    hash_pool_free(pool);
}

/* Checks became slow after places were given: whoever cannot be done in time, the latest first, is told so
 * at once and not at the deadline; those before keep their place. */
static void test_given_in_vain(void **state)
{
    struct scene *s = *state;
    int slot = hold_the_slot(s);
    int64_t budget_ms = 6000, count = budget_ms * 1000 * 7 / 10 / password_cost_guess_us(s->hash);
    struct hash_pool *pool = pool_for(s, 1, 2 * count);
    struct hash_task *first = task_for(s, "right", WAIT_MS), *second = task_for(s, "right", WAIT_MS);
    assert_true(add(pool, first, true));
    assert_true(add(pool, second, true));
    for (int64_t i = 0; i < count; i++)
        assert_true(add(pool, task_for(s, "right", budget_ms), true));
    wait_ms(500);
    close(slot); /* the first check is seen to take half a second */
    int64_t done = 0, early = 0;
    for (int64_t i = 0; i < count + 2; i++) {
        struct hash_task *task = wait_for_one(s, pool);
        assert_true((task != first && task != second) || task->job.done);
        if (task->job.done) {
            done++;
        } else {
            early += done < 2; /* before the next check ended, whatever time that took */
            assert_in_range(task->job.wait_s, 1, 600);
        }
        hash_task_free(task);
    }
    assert_true(early > count / 3);
    assert_true(done >= 2);
    hash_pool_free(pool);
}

/* Those whose round is being committed stand behind all who wait, and push none of them out. */
static void test_newcomers_push_nobody_out(void **state)
{
    struct scene *s = *state;
    enum { WAIT = 5 };
    int64_t newcomers = 6000000 / password_cost_guess_us(s->hash);
    struct hash_task **placed = calloc((size_t)newcomers, sizeof(struct hash_task *));
    int slot = hold_the_slot(s);
    struct hash_pool *pool = pool_for(s, 1, 2 * newcomers);
    for (int i = 0; i < WAIT; i++)
        assert_true(add(pool, task_for(s, "right", 5000), true));
    for (int64_t i = 0; i < newcomers; i++) {
        placed[i] = task_for(s, "right", WAIT_MS);
        assert_true(hash_pool_place(pool, placed[i], true));
    }
    close(slot);
    for (int i = 0; i < WAIT; i++) {
        struct hash_task *task = wait_for_one(s, pool);
        assert_true(task->job.done);
        hash_task_free(task);
    }
    for (int64_t i = 0; i < newcomers; i++)
        hash_pool_drop(pool, placed[i]);
    assert_int_equal(hash_pool_backlog_us(pool), 0);
    free(placed);
    hash_pool_free(pool);
}

/* A place that was given and is not used, as its round was not committed, is the next one's. */
static void test_a_place_is_given_back(void **state)
{
    struct scene *s = *state;
    struct hash_pool *pool = pool_for(s, 1, 0);
    struct hash_task *first = task_for(s, "right", WAIT_MS), *second = task_for(s, "right", WAIT_MS);
    assert_int_equal(hash_pool_backlog_us(pool), 0);
    assert_true(hash_pool_place(pool, first, true));
    assert_true(hash_pool_backlog_us(pool) > 0);
    assert_false(hash_pool_place(pool, second, true));
    assert_null(hash_pool_take(pool));
    hash_pool_drop(pool, first);
    assert_int_equal(hash_pool_backlog_us(pool), 0);
    assert_true(hash_pool_place(pool, second, true));
    hash_pool_start(pool, second);
    second = wait_for_one(s, pool);
    assert_true(second->job.done && second->job.match);
    hash_task_free(second);
    hash_pool_free(pool);
}

/* Its time is over: the one who gives up gets another task in its place, with when to come back. */
static void test_give_up(void **state)
{
    struct scene *s = *state;
    int slot = hold_the_slot(s);
    struct hash_pool *pool = pool_for(s, 1, 100);
    struct hash_task *running = task_for(s, "right", WAIT_MS), *queued = task_for(s, "right", WAIT_MS);
    assert_true(add(pool, running, true));
    assert_true(add(pool, queued, true));
    wait_ms(200); /* until the thread has the first one, which waits for its slot */
    queued = hash_pool_give_up(pool, queued);
    running = hash_pool_give_up(pool, running);
    assert_ptr_equal(queued->owner, s);
    assert_false(queued->job.done || running->job.done);
    assert_in_range(queued->job.wait_s, 1, 60);
    assert_in_range(running->job.wait_s, 1, 60);
    hash_task_free(queued);
    hash_task_free(running);
    close(slot);
    struct hash_task *last = task_for(s, "right", WAIT_MS);
    assert_true(add(pool, last, true));
    assert_ptr_equal(wait_for_one(s, pool), last);
    hash_task_free(last);
    hash_pool_free(pool);
}

static void test_in_place(void **state)
{
    struct scene *s = *state;
    struct hash_task *task = task_for(s, "right", WAIT_MS);
    hash_run_here(&task->job, 2, s->folder, task->deadline_ms);
    assert_true(task->job.done);
    assert_true(task->job.match);
    hash_task_free(task);
    /* No slot in time: when to come back is spread, since nobody knows how many wait. */
    bool differ = false;
    int64_t told = 0;
    int slot = hold_the_slot(s);
    for (int i = 0; i < 20; i++) {
        task = task_for(s, "right", 0);
        hash_run_here(&task->job, 1, s->folder, task->deadline_ms);
        assert_false(task->job.done);
        assert_in_range(task->job.wait_s, 5, 25);
        differ = differ || (told && told != task->job.wait_s);
        told = task->job.wait_s;
        hash_task_free(task);
    }
    assert_true(differ);
    close(slot);
    /* A folder that is not there must not keep a candidate out. */
    task = task_for(s, "right", WAIT_MS);
    hash_run_here(&task->job, 2, "/nonexistent", task->deadline_ms);
    assert_true(task->job.match);
    hash_task_free(task);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_right_and_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bounded_over_processes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused_early, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drop, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_given_in_vain, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_place_is_given_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_newcomers_push_nobody_out, setup, teardown),
        cmocka_unit_test_setup_teardown(test_give_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_in_place, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
