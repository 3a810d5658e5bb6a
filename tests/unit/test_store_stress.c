/*
 * Several processes on one file: some write rounds, some read pages, all are killed at any moment and started
 * again. What was acknowledged is there exactly once, and the file is whole.
 *
 * STRESS_SECONDS (5) says for how long.
 */
#include "store_scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "../../common/clock.h"

#define WRITERS 3
#define READERS 2
#define CHILDREN (WRITERS + READERS)
#define KILL_EVERY_MS 70
#define STEPS_MAX 8
#define LIVES_MAX 20000
#define ACKED_LEAST 100
#define PAGES_LEAST 10
#define SLACK_MS 120000 /* on a busy machine, or under valgrind, until that much was done */
#define WAIT_MS 60000   /* for the lock, which several want on a machine that may be busy */
/* Nobody waits for the lock while so many rounds of others pass: some five seconds of a machine with nothing
 * else to do. */
#define OVERTAKEN_MAX 3500
#define WAL_MAX (32L * 1024 * 1024)
#define NOW INT64_C(1764000000000)

/* One acknowledgement: the events [first, first + count) of that life of a writer. */
struct ack {
    uint32_t life, first, count;
};

/* What the children tell the parent, in memory that they share. */
struct shared {
    int64_t longest_wait_ms, longest_round_ms;
    int64_t pages;
    int64_t rounds, most_overtaken; /* begun; by others while one waited for the lock */
};

struct stress {
    struct scratch *scratch;
    struct shared *shared;
    int ack_read, ack_write;
    pid_t children[CHILDREN];
    uint32_t lives;
    uint32_t *acked; /* for each life how many are acknowledged: they come in order */
    uint32_t *stored;
    int64_t kills, wal_most;
};

static void note_most(int64_t *most, int64_t value)
{
    if (value > __atomic_load_n(most, __ATOMIC_RELAXED))
        __atomic_store_n(most, value, __ATOMIC_RELAXED);
}

/* --- A writer
 * ------------------------------------------------------------------------------------------------ */

static enum store_status add_one(struct store *store, uint32_t life, uint32_t number, const char *padding)
{
    char respondent[32];
    unsigned char key[32] = {0};
    struct buf body = BUF_INIT;
    (void)snprintf(respondent, sizeof respondent, "%u-%u", (unsigned)life, (unsigned)number);
    memcpy(key, &life, sizeof life);
    memcpy(key + sizeof life, &number, sizeof number);
    buf_addf(&body, "{\"padding\":\"%.*s\"}", (int)(number * 37 % 8000), padding);
    struct store_event event = {.received_at_ms = NOW + number,
                                .account = "main",
                                .event = "result_ready",
                                .respondent_id = respondent,
                                .body = buf_str(&body),
                                .key = key};
    enum store_status status = store_step_begin(store);
    if (status == STORE_OK)
        status = store_event_add(store, &event, NULL);
    /* A repeat in the same round, and now and then a step that is undone. */
    if (status == STORE_OK && number % 5 == 0)
        status = store_event_add(store, &event, NULL);
    if (status == STORE_OK)
        status = store_step_end(store, true);
    if (status == STORE_OK && number % 7 == 0) {
        status = store_step_begin(store);
        event.key = NULL;
        event.respondent_id = "undone";
        if (status == STORE_OK)
            status = store_event_add(store, &event, NULL);
        if (status == STORE_OK)
            status = store_step_end(store, false);
    }
    buf_release(&body);
    return status;
}

static int write_rounds(const struct stress *stress, uint32_t life)
{
    static char padding[8192];
    struct store *store = NULL;
    memset(padding, 'p', sizeof padding - 1);
    if (store_open(stress->scratch->url, STORE_EXAMJOINT, 0, WAIT_MS, &store, NULL) != STORE_OK)
        return 2;
    for (uint32_t number = 0;;) {
        struct ack ack = {.life = life, .first = number, .count = 1 + (life + number) % STEPS_MAX};
        int64_t asked_ms = clock_monotonic_ms(),
                before = __atomic_load_n(&stress->shared->rounds, __ATOMIC_RELAXED);
        enum store_status status = store_round_begin(store, STORE_EXAMJOINT);
        int64_t began_ms = clock_monotonic_ms(),
                others = __atomic_fetch_add(&stress->shared->rounds, 1, __ATOMIC_RELAXED) - before;
        for (uint32_t i = 0; status == STORE_OK && i < ack.count; i++)
            status = add_one(store, life, number++, padding);
        if (status == STORE_OK)
            status = store_round_commit(store);
        if (status != STORE_OK) {
            print_error("a writer: %s (%s)\n", store_status_word(status), store_message(store));
            return 3;
        }
        note_most(&stress->shared->longest_wait_ms, began_ms - asked_ms);
        note_most(&stress->shared->most_overtaken, others);
        note_most(&stress->shared->longest_round_ms, clock_monotonic_ms() - began_ms);
        if (write(stress->ack_write, &ack, sizeof ack) != (ssize_t)sizeof ack)
            return 4;
    }
}

/* --- A reader
 * ------------------------------------------------------------------------------------------------ */

static bool in_order(void *context, const struct store_event_row *row)
{
    long long *last = context, id = strtoll(row->id + 1, NULL, 10);
    if (id <= *last || strcmp(row->respondent_id, "undone") == 0)
        *last = -1;
    else
        *last = id;
    return *last >= 0;
}

static int read_pages(const struct stress *stress)
{
    struct store *store = NULL;
    struct store_filter all = {0};
    if (store_open(stress->scratch->url, 0, STORE_EXAMJOINT, WAIT_MS, &store, NULL) != STORE_OK)
        return 2;
    for (;;) {
        struct store_cursor cursor = STORE_CURSOR_START;
        long long last = 0;
        bool more = true;
        while (more) {
            enum store_status status = store_events(store, &all, &cursor, 50, in_order, &last, &more);
            if (status != STORE_OK || last < 0) {
                print_error("a reader: %s (%s)\n", store_status_word(status), store_message(store));
                return 3;
            }
            __atomic_fetch_add(&stress->shared->pages, 1, __ATOMIC_RELAXED);
        }
    }
}

/* --- The parent
 * ---------------------------------------------------------------------------------------------- */

static void start(struct stress *stress, int slot)
{
    uint32_t life = stress->lives++;
    assert_true(life < LIVES_MAX);
    pid_t child = fork();
    if (child == 0)
        _exit(slot < WRITERS ? write_rounds(stress, life) : read_pages(stress));
    assert_true(child > 0);
    stress->children[slot] = child;
}

/* A child that ended by anything but our signal found something wrong. */
static void end(struct stress *stress, int slot)
{
    int status = 0;
    kill(stress->children[slot], SIGKILL);
    assert_int_equal(waitpid(stress->children[slot], &status, 0), stress->children[slot]);
    if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
        fail_msg("%s ended with status 0x%x", slot < WRITERS ? "a writer" : "a reader", (unsigned)status);
    stress->kills++;
}

/* What was acknowledged until now. */
static void hear(struct stress *stress)
{
    struct ack acks[256];
    ssize_t got;
    while ((got = read(stress->ack_read, acks, sizeof acks)) > 0) {
        assert_int_equal((size_t)got % sizeof acks[0], 0);
        for (size_t i = 0; i < (size_t)got / sizeof acks[0]; i++) {
            assert_int_equal(acks[i].first, stress->acked[acks[i].life]);
            stress->acked[acks[i].life] += acks[i].count;
        }
    }
    assert_true(got == 0 || errno == EAGAIN);
}

static void look_at_the_log(struct stress *stress)
{
    char path[128];
    struct stat there;
    (void)snprintf(path, sizeof path, "%s/store/examjoint/events.db-wal", stress->scratch->folder);
    if (stat(path, &there) == 0 && there.st_size > stress->wal_most)
        stress->wal_most = there.st_size;
}

/* So little that nothing is shown by it. */
static bool is_meagre(const struct stress *stress)
{
    uint64_t acked = 0;
    for (uint32_t life = 0; life < stress->lives; life++)
        acked += stress->acked[life];
    return acked <= ACKED_LEAST || stress->shared->pages <= PAGES_LEAST;
}

static void let_them_fight(struct stress *stress, int64_t seconds)
{
    int64_t end_ms = clock_monotonic_ms() + seconds * 1000, kill_ms = clock_monotonic_ms() + KILL_EVERY_MS;
    int64_t last_ms = end_ms + SLACK_MS;
    unsigned turn = (unsigned)getpid();
    for (int slot = 0; slot < CHILDREN; slot++)
        start(stress, slot);
    while (clock_monotonic_ms() < end_ms || (is_meagre(stress) && clock_monotonic_ms() < last_ms)) {
        struct pollfd ready = {.fd = stress->ack_read, .events = POLLIN};
        (void)poll(&ready, 1, 5);
        hear(stress);
        look_at_the_log(stress);
        if (clock_monotonic_ms() < kill_ms)
            continue;
        turn = turn * 1103515245U + 12345U;
        int slot = (int)((turn >> 16) % CHILDREN);
        end(stress, slot);
        start(stress, slot);
        kill_ms = clock_monotonic_ms() + KILL_EVERY_MS / 2 + (turn >> 8) % KILL_EVERY_MS;
    }
    for (int slot = 0; slot < CHILDREN; slot++)
        end(stress, slot);
    hear(stress);
}

/* Each event's number in its life is one more than the one before: none twice, none missing between. */
static bool count_stored(void *context, const struct store_event_row *row)
{
    struct stress *stress = context;
    char *dash;
    unsigned long life = strtoul(row->respondent_id, &dash, 10);
    assert_int_equal(*dash, '-');
    unsigned long number = strtoul(dash + 1, NULL, 10);
    assert_true(life < stress->lives);
    assert_int_equal(number, stress->stored[life]);
    assert_int_equal(row->deliveries, number % 5 == 0 ? 2 : 1);
    assert_int_equal(strlen(row->body), 14 + number * 37 % 8000);
    stress->stored[life]++;
    return true;
}

static void note_finding(void *context, const struct store_finding *finding)
{
    bool *whole = context;
    if (!finding->ok)
        print_error("%s: %s\n", finding->area, finding->text);
    *whole = *whole && finding->ok;
}

static void look_at_what_is_there(struct stress *stress)
{
    struct store *store = scratch_open(stress->scratch, STORE_EXAMJOINT, 0, 5000);
    struct store_filter all = {0};
    struct store_cursor cursor = STORE_CURSOR_START;
    uint64_t acked = 0, stored = 0;
    bool more = true, whole = true;
    while (more)
        assert_stored(store, store_events(store, &all, &cursor, 500, count_stored, stress, &more));
    for (uint32_t life = 0; life < stress->lives; life++) {
        /* Killed between the commit and the acknowledgement, a writer leaves one round more. */
        if (stress->stored[life] < stress->acked[life] ||
            stress->stored[life] > stress->acked[life] + STEPS_MAX)
            fail_msg("life %u: %u acknowledged, %u stored", (unsigned)life, (unsigned)stress->acked[life],
                     (unsigned)stress->stored[life]);
        acked += stress->acked[life];
        stored += stress->stored[life];
    }
    store_free(store);
    store_check(stress->scratch->url, STORE_EXAMJOINT, 0, true, note_finding, &whole);
    assert_true(whole);
    print_message(
        "# %llu acknowledged, %llu stored, %lld kills, %lld pages read; longest wait for the lock %lld ms,"
        " at most %lld rounds of others in one, longest round %lld ms, largest log %lld KiB\n",
        (unsigned long long)acked, (unsigned long long)stored, (long long)stress->kills,
        (long long)stress->shared->pages, (long long)stress->shared->longest_wait_ms,
        (long long)stress->shared->most_overtaken, (long long)stress->shared->longest_round_ms,
        (long long)stress->wal_most / 1024);
    assert_true(acked > ACKED_LEAST);
    assert_true(stress->shared->pages > PAGES_LEAST);
    assert_true(stress->wal_most < WAL_MAX);
    assert_true(stress->shared->most_overtaken < OVERTAKEN_MAX);
}

static void acknowledged_means_there(void **state)
{
    struct stress stress = {.scratch = *state};
    const char *seconds = getenv("STRESS_SECONDS");
    int pipes[2];
    store_free(stress.scratch->store);
    stress.scratch->store = NULL;
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    stress.ack_read = pipes[0];
    stress.ack_write = pipes[1];
    assert_int_equal(fcntl(stress.ack_read, F_SETFL, O_NONBLOCK), 0);
    stress.shared =
        mmap(NULL, sizeof *stress.shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(stress.shared != MAP_FAILED);
    stress.acked = calloc(LIVES_MAX, sizeof *stress.acked);
    stress.stored = calloc(LIVES_MAX, sizeof *stress.stored);
    let_them_fight(&stress, seconds ? strtol(seconds, NULL, 10) : 5);
    look_at_what_is_there(&stress);
    free(stress.acked);
    free(stress.stored);
    munmap(stress.shared, sizeof *stress.shared);
    close(stress.ack_read);
    close(stress.ack_write);
}

int main(void)
{
    const struct CMUnitTest tests[] = {scratch_test(acknowledged_means_there)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
