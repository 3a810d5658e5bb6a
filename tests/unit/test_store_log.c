/* A store's write-ahead log: what lies in it outlives files removed or replaced while they are open, and it
 * is taken for no other file's. */
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <sqlite3.h>

#include "store_scratch.h"

#define NOW INT64_C(1764000000000)
#define EVENTS "examjoint/events.db"
#define WAIT_MS 60000 /* no wait in here is longer, whatever goes wrong */

static const char *path_in(const struct scratch *scratch, const char *name)
{
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/%s", scratch->folder, name);
    return path;
}

static void remove_file(const struct scratch *scratch, const char *name)
{
    assert_int_equal(unlink(path_in(scratch, name)), 0);
}

static void put(struct store *store)
{
    struct store_event event = {.received_at_ms = NOW, .account = "main", .event = "odd", .body = "{}"};
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_step_begin(store));
    assert_stored(store, store_event_add(store, &event, NULL));
    assert_stored(store, store_step_end(store, true));
    assert_stored(store, store_round_commit(store));
}

static int count_anew(struct scratch *scratch)
{
    struct store *store = scratch_open(scratch, 0, STORE_EXAMJOINT, 1000);
    int count = count_events(store);
    store_free(store);
    return count;
}

static void close_store(struct scratch *scratch)
{
    store_free(scratch->store);
    scratch->store = NULL;
}

/* Somebody cleans up, and then starts the program anew. */
static void a_program_that_ends_saves_a_log_that_was_removed(void **state)
{
    struct scratch *scratch = *state;
    put(scratch->store);
    remove_file(scratch, "store/" EVENTS "-wal");
    remove_file(scratch, "store/" EVENTS "-shm");
    close_store(scratch);
    assert_int_equal(count_anew(scratch), 1);
}

/* The programs look at the store between rounds too, before any event comes. */
static void a_look_outside_a_round_saves_the_log(void **state)
{
    struct scratch *scratch = *state;
    put(scratch->store);
    remove_file(scratch, "store/" EVENTS "-wal");
    assert_int_equal(count_events(scratch->store), 1);
    put(scratch->store);
    close_store(scratch);
    assert_int_equal(count_anew(scratch), 2);
}

struct reader {
    pid_t pid;
    int says, told; /* our ends: it says that it reads; it is told to stop when this is closed */
};

/* With the store as it is now in front of it until it is told, or for so long: somebody's shell, not one of
   our listings, which are gone after each page. */
static void read_until_told(const struct scratch *scratch, int says, int told, int ms)
{
    sqlite3 *db = NULL;
    struct pollfd end = {.fd = told, .events = POLLIN};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (sqlite3_open_v2(path_in(scratch, "store/" EVENTS), &db, SQLITE_OPEN_READONLY, NULL) != SQLITE_OK ||
        sqlite3_exec(db, "BEGIN; SELECT count(*) FROM events", NULL, NULL, NULL) != SQLITE_OK ||
        write(says, "r", 1) != 1)
        _exit(2);
    poll(&end, 1, ms);
    _exit(0);
}

/* Another program that reads, and has the events in front of it that are there now. Nothing of the store may
   be open here: SQLite bears no fork. */
static struct reader start_reader(const struct scratch *scratch, int ms)
{
    int says[2], told[2];
    char byte;
    assert_int_equal(pipe(says), 0);
    assert_int_equal(pipe(told), 0);
    struct reader reader = {.pid = fork(), .says = says[0], .told = told[1]};
    assert_true(reader.pid >= 0);
    if (reader.pid == 0) {
        close(says[0]);
        close(told[1]);
        read_until_told(scratch, says[1], told[0], ms);
    }
    close(says[1]);
    close(told[0]);
    struct pollfd said = {.fd = reader.says, .events = POLLIN};
    assert_int_equal(poll(&said, 1, WAIT_MS), 1);
    assert_int_equal(read(reader.says, &byte, 1), 1);
    return reader;
}

static void stop_reader(const struct reader *reader)
{
    int status = 0;
    close(reader->told);
    struct pollfd end = {.fd = reader->says, .events = POLLIN};
    assert_int_equal(poll(&end, 1, WAIT_MS), 1); /* its end of the pipe is closed: it has ended */
    close(reader->says);
    assert_int_equal(waitpid(reader->pid, &status, 0), reader->pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* A reader keeps the log from being moved whole; nothing of it may be let go before that. */
static void a_removed_log_waits_for_a_reader(struct scratch *scratch, int more)
{
    put(scratch->store);
    close_store(scratch);
    struct reader reader = start_reader(scratch, 2 * WAIT_MS);
    scratch->store = scratch_open(scratch, STORE_ALL, 0, 100);
    int accepted = 1;
    for (; accepted < 1 + more; accepted++)
        put(scratch->store);
    remove_file(scratch, "store/" EVENTS "-wal");
    for (int i = 0; i < 3; i++) {
        assert_int_equal(store_round_begin(scratch->store, STORE_EXAMJOINT), STORE_BUSY);
        assert_non_null(strstr(store_message(scratch->store), "reads"));
    }
    stop_reader(&reader);
    put(scratch->store);
    accepted++;
    assert_int_equal(count_events(scratch->store), accepted);
    close_store(scratch);
    assert_int_equal(count_anew(scratch), accepted);
}

static void a_removed_log_waits_for_a_reader_of_an_old_state(void **state)
{
    a_removed_log_waits_for_a_reader(*state, 5);
}

/* Then all of it can be moved, but SQLite would go on behind what is there, in a new log without a beginning,
   which nobody could read. */
static void a_removed_log_waits_for_a_reader_of_the_last_state(void **state)
{
    a_removed_log_waits_for_a_reader(*state, 0);
}

static void a_program_that_ends_waits_for_a_reader(void **state)
{
    struct scratch *scratch = *state;
    put(scratch->store);
    close_store(scratch);
    struct reader reader = start_reader(scratch, 1000);
    scratch->store = scratch_open(scratch, STORE_ALL, 0, WAIT_MS);
    put(scratch->store);
    remove_file(scratch, "store/" EVENTS "-wal");
    close_store(scratch);
    stop_reader(&reader);
    assert_int_equal(count_anew(scratch), 2);
}

static void assert_refused(const struct scratch *scratch)
{
    struct store *store = NULL;
    struct buf why = BUF_INIT;
    char folder[128];
    (void)snprintf(folder, sizeof folder, "%s/second", scratch->folder);
    assert_int_equal(store_open(scratch->url, STORE_EXAMJOINT, 0, 100, &store, &why), STORE_CORRUPT);
    assert_int_equal(store_open(scratch->url, 0, STORE_EXAMJOINT, 100, &store, &why), STORE_CORRUPT);
    assert_int_equal(store_migrate(scratch->url, &why), STORE_CORRUPT);
    assert_int_equal(store_backup(scratch->url, folder, &why), STORE_CORRUPT);
    assert_non_null(strstr(buf_str(&why), "another file's"));
    buf_release(&why);
}

/* A backup of one event, and twenty more after it. */
static void copy_and_go_on(struct scratch *scratch)
{
    struct buf why = BUF_INIT;
    char folder[128];
    put(scratch->store);
    (void)snprintf(folder, sizeof folder, "%s/copy", scratch->folder);
    assert_int_equal(store_backup(scratch->url, folder, &why), STORE_OK);
    for (int i = 0; i < 20; i++)
        put(scratch->store);
    buf_release(&why);
}

/* The file alone, not its folder. */
static void put_copy_back(const struct scratch *scratch)
{
    char from[256], to[256];
    (void)snprintf(from, sizeof from, "%s", path_in(scratch, "copy/" EVENTS));
    (void)snprintf(to, sizeof to, "%s", path_in(scratch, "store/" EVENTS));
    assert_int_equal(rename(from, to), 0);
}

/* Only the file was put back, and the log of the one before still lies there. */
static void a_copy_does_not_take_the_log_of_the_file_before(void **state)
{
    struct scratch *scratch = *state;
    struct buf why = BUF_INIT;
    copy_and_go_on(scratch);
    close_store(scratch);
    put_copy_back(scratch);
    assert_refused(scratch);
    struct stat log;
    assert_int_equal(stat(path_in(scratch, "store/" EVENTS "-wal"), &log), 0);
    assert_true(log.st_size > 0);
    remove_file(scratch, "store/" EVENTS "-wal");
    assert_int_equal(store_migrate(scratch->url, &why), STORE_OK);
    assert_int_equal(count_anew(scratch), 1);
    buf_release(&why);
}

static int count_left(const struct scratch *scratch)
{
    DIR *listing = opendir(path_in(scratch, "store/examjoint"));
    int count = 0;
    assert_non_null(listing);
    for (const struct dirent *entry; (entry = readdir(listing));)
        count += strncmp(entry->d_name, "events.db-wal.left-", 19) == 0;
    closedir(listing);
    return count;
}

/* A copy takes the store's place while a program runs: what came since is kept, but not played into it. */
static void the_log_of_a_file_that_was_replaced_is_put_aside(void **state)
{
    struct scratch *scratch = *state;
    copy_and_go_on(scratch);
    put_copy_back(scratch);
    assert_int_equal(count_left(scratch), 0);
    put(scratch->store);
    assert_int_equal(count_left(scratch), 1);
    close_store(scratch);
    assert_int_equal(count_anew(scratch), 2);
}

/* A round of `count` events with bodies of `bytes`; every tenth one is undone when it was written. */
static void put_many(struct store *store, int count, size_t bytes, int *kept)
{
    char *body = calloc(1, bytes + 1), respondent[32];
    memset(body, 'x', bytes);
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int i = 0; i < count; i++) {
        struct store_event event = {.received_at_ms = NOW,
                                    .account = "main",
                                    .event = "odd",
                                    .respondent_id = respondent,
                                    .body = body};
        (void)snprintf(respondent, sizeof respondent, "r%d", (i * 7919) % 10007);
        assert_stored(store, store_step_begin(store));
        assert_stored(store, store_event_add(store, &event, NULL));
        assert_stored(store, store_step_end(store, i % 10 != 0));
        *kept += i % 10 != 0;
    }
    free(body);
}

static long write_calls(void)
{
    char line[64];
    long calls = -1;
    FILE *io = fopen("/proc/self/io", "r");
    assert_non_null(io);
    while (fgets(line, sizeof line, io))
        (void)sscanf(line, "syscw: %ld", &calls);
    (void)fclose(io);
    assert_true(calls >= 0);
    return calls;
}

/* Each page by itself would be two calls: some twenty. Under valgrind, which writes for each call that may
 * wait, there are some more. */
static void a_commit_writes_its_log_at_once(void **state)
{
    struct scratch *scratch = *state;
    int kept = 0;
    long before = write_calls();
    long most = write_calls() == before ? 3 : 8;
    put(scratch->store);
    put_many(scratch->store, 60, 300, &kept);
    before = write_calls();
    assert_stored(scratch->store, store_round_commit(scratch->store));
    assert_in_range(write_calls() - before, 1, most);
    assert_int_equal(count_anew(scratch), kept + 1);
}

static void assert_whole(const struct scratch *scratch)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open_v2(path_in(scratch, "store/" EVENTS), &db,
                                     SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, NULL),
                     SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, "PRAGMA integrity_check", -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    assert_string_equal((const char *)sqlite3_column_text(statement, 0), "ok");
    sqlite3_finalize(statement);
    sqlite3_close(db);
}

/* More than the page cache holds: pages go into the log and come back from it before anything is committed,
 * and go there again. */
static void a_round_may_be_larger_than_memory(void **state)
{
    struct scratch *scratch = *state;
    int kept = 0, given_up = 0;
    put_many(scratch->store, 6000, 1500, &kept);
    assert_stored(scratch->store, store_round_commit(scratch->store));
    assert_int_equal(count_anew(scratch), kept);
    put_many(scratch->store, 6000, 1500, &given_up);
    store_round_abandon(scratch->store);
    put_many(scratch->store, 50, 3000, &kept);
    assert_stored(scratch->store, store_round_commit(scratch->store));
    assert_int_equal(count_anew(scratch), kept);
    close_store(scratch);
    assert_int_equal(count_anew(scratch), kept);
    assert_whole(scratch);
}

/* Another writer has its turn after a large round was given up: nothing of that may come over what the other
 * one was told is stored. Where in the log it would come depends on how many there were. */
static void a_round_given_up_writes_nothing_later(void **state)
{
    struct scratch *scratch = *state;
    struct store *other = scratch_open(scratch, STORE_EXAMJOINT, 0, 5000);
    int kept = 0, given_up = 0;
    for (int count = 700; count < 1100; count += 20) {
        put_many(scratch->store, count, 3000, &given_up);
        store_round_abandon(scratch->store);
        for (int round = 0; round < 40; round++) {
            put_many(other, 15, 300, &kept);
            assert_stored(other, store_round_commit(other));
        }
        put(scratch->store);
        kept++;
        assert_whole(scratch);
        assert_int_equal(count_anew(scratch), kept);
    }
    put_many(scratch->store, 900, 3000, &given_up);
    store_round_abandon(scratch->store);
    for (int round = 0; round < 40; round++) {
        put_many(other, 15, 300, &kept);
        assert_stored(other, store_round_commit(other));
    }
    close_store(scratch);
    assert_whole(scratch);
    assert_int_equal(count_anew(scratch), kept);
    store_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(a_program_that_ends_saves_a_log_that_was_removed),
        scratch_test(a_look_outside_a_round_saves_the_log),
        scratch_test(a_removed_log_waits_for_a_reader_of_an_old_state),
        scratch_test(a_removed_log_waits_for_a_reader_of_the_last_state),
        scratch_test(a_program_that_ends_waits_for_a_reader),
        scratch_test(the_log_of_a_file_that_was_replaced_is_put_aside),
        scratch_test(a_copy_does_not_take_the_log_of_the_file_before),
        scratch_test(a_commit_writes_its_log_at_once),
        scratch_test(a_round_may_be_larger_than_memory),
        scratch_test(a_round_given_up_writes_nothing_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
