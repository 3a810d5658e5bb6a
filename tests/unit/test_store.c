/* The SQLite store's files: made, opened and refused; rounds; full disks; purge, backup, check. */
#include <sqlite3.h>

#include "store_scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "../../common/clock.h"

#define NOW INT64_C(1764000000000)
#define NOBODY 65534

/* --- Helpers -----------------------------------------------------------------------------------------------
 */

static const char *path_in(const struct scratch *scratch, const char *name)
{
    static char path[256];
    (void)snprintf(path, sizeof path, "%s/store/%s", scratch->folder, name);
    return path;
}

static mode_t mode_of(const struct scratch *scratch, const char *name)
{
    struct stat there;
    if (stat(path_in(scratch, name), &there) != 0)
        fail_msg("%s is not there", name);
    return there.st_mode & 07777;
}

static void raw_sql(const struct scratch *scratch, const char *name, const char *sql)
{
    sqlite3 *db = NULL;
    char *error = NULL;
    assert_int_equal(sqlite3_open_v2(path_in(scratch, name), &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    sqlite3_busy_timeout(db, 2000);
    if (sqlite3_exec(db, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
    sqlite3_close(db);
}

static int64_t raw_number(const struct scratch *scratch, const char *name, const char *sql)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *statement = NULL;
    assert_int_equal(sqlite3_open_v2(path_in(scratch, name), &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &statement, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(statement), SQLITE_ROW);
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    sqlite3_close(db);
    return number;
}

static enum store_status try_open(const struct scratch *scratch, unsigned write, unsigned read)
{
    struct store *store = NULL;
    struct buf why = BUF_INIT;
    enum store_status status = store_open(scratch->url, write, read, 100, &store, &why);
    if (status != STORE_OK) {
        assert_null(store);
        assert_true(why.len > 0); /* a sentence for people */
    }
    store_free(store);
    buf_release(&why);
    return status;
}

static struct store_event plain(const char *body)
{
    return (struct store_event){.received_at_ms = NOW, .account = "main", .event = "odd", .body = body};
}

/* One event in a round of its own. */
static enum store_status put(struct store *store, const struct store_event *event)
{
    enum store_status status = store_round_begin(store, STORE_EXAMJOINT);
    if (status != STORE_OK)
        return status;
    status = store_step_begin(store);
    if (status == STORE_OK)
        status = store_event_add(store, event, NULL);
    if (status == STORE_OK)
        status = store_step_end(store, true);
    if (status == STORE_OK)
        return store_round_commit(store);
    store_round_abandon(store);
    return status;
}

/* Runs a check in a child, whose exit status is 0 for right, else the number of what went wrong. SQLite's
   connections do not survive a fork: the scratch store is closed first. */
static int in_child(int (*check)(const struct scratch *), struct scratch *scratch)
{
    int status = 0;
    store_free(scratch->store);
    scratch->store = NULL;
    pid_t child = fork();
    if (child == 0)
        _exit(check(scratch));
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

/* --- Made
 * ---------------------------------------------------------------------------------------------------- */

static void migrate_says_what_it_did(void **state)
{
    struct scratch *scratch = *state;
    struct buf said = BUF_INIT;
    char url[128];
    (void)snprintf(url, sizeof url, "sqlite:%s/deep/er", scratch->folder);
    assert_int_equal(store_migrate(url, &said), STORE_OK);
    assert_non_null(strstr(buf_str(&said), "events.db: created"));
    buf_clear(&said);
    assert_int_equal(store_migrate(url, &said), STORE_OK);
    assert_non_null(strstr(buf_str(&said), "events.db: has schema 1 already"));
    assert_null(strstr(buf_str(&said), "created"));
    buf_clear(&said);
    assert_int_not_equal(store_migrate("postgres:x", &said), STORE_OK);
    assert_true(said.len > 0);
    buf_release(&said);
}

static int migrate_with_umask(const struct scratch *scratch, mode_t mask)
{
    struct buf said = BUF_INIT;
    struct store *store = NULL;
    umask(mask);
    char url[128];
    (void)snprintf(url, sizeof url, "sqlite:%s/store", scratch->folder);
    if (nftw(url + 7, scratch_forget, 16, FTW_DEPTH | FTW_PHYS) != 0 || store_migrate(url, &said) != STORE_OK)
        return 1;
    struct store_event event = plain("{}");
    if (store_open(url, STORE_EXAMJOINT, 0, 1000, &store, NULL) != STORE_OK || put(store, &event) != STORE_OK)
        return 2;
    store_free(store);
    buf_release(&said);
    return 0;
}

static int migrate_open_umask(const struct scratch *scratch)
{
    return migrate_with_umask(scratch, 0);
}

static int migrate_closed_umask(const struct scratch *scratch)
{
    return migrate_with_umask(scratch, 0277);
}

static void modes_do_not_depend_on_the_umask(void **state)
{
    struct scratch *scratch = *state;
    int (*const ways[])(const struct scratch *) = {migrate_open_umask, migrate_closed_umask};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(in_child(ways[i], scratch), 0);
        assert_int_equal(mode_of(scratch, ""), 0750);
        assert_int_equal(mode_of(scratch, "examjoint"), 0750);
        assert_int_equal(mode_of(scratch, "examjoint/events.db"), 0640);
        assert_int_equal(mode_of(scratch, "examjoint/events.db-wal"), 0640);
        assert_int_equal(mode_of(scratch, "examjoint/events.db-shm"), 0640);
        assert_int_equal(mode_of(scratch, "examjoint/events.lock"), 0600);
        assert_int_equal(mode_of(scratch, "examjoint/identity.key"), 0600);
        assert_int_equal(mode_of(scratch, "roster/roster.db"), 0640);
        assert_int_equal(mode_of(scratch, "proview/callbacks.db"), 0640);
        assert_int_equal(mode_of(scratch, "ratings"), 0700);
        assert_int_equal(mode_of(scratch, "ratings/ratings.db"), 0600);
    }
}

static void identity_key_is_made_once(void **state)
{
    struct scratch *scratch = *state;
    unsigned char first[STORE_KEY_BYTES], second[STORE_KEY_BYTES];
    struct buf said = BUF_INIT;
    assert_stored(scratch->store, store_identity_key(scratch->store, first));
    assert_int_equal(store_migrate(scratch->url, &said), STORE_OK);
    assert_stored(scratch->store, store_identity_key(scratch->store, second));
    assert_memory_equal(first, second, sizeof first);
    assert_int_equal(truncate(path_in(scratch, "examjoint/identity.key"), 7), 0);
    assert_int_equal(store_identity_key(scratch->store, second), STORE_CORRUPT);
    assert_int_equal(unlink(path_in(scratch, "examjoint/identity.key")), 0);
    assert_int_equal(store_identity_key(scratch->store, second), STORE_MISSING);
    assert_int_equal(store_migrate(scratch->url, &said), STORE_OK);
    assert_stored(scratch->store, store_identity_key(scratch->store, second));
    assert_memory_not_equal(first, second, sizeof first);
    buf_release(&said);
}

/* --- Refused
 * ------------------------------------------------------------------------------------------------- */

static void missing_is_not_created(void **state)
{
    struct scratch *scratch = *state;
    struct stat there;
    assert_int_equal(unlink(path_in(scratch, "proview/callbacks.db")), 0);
    assert_int_equal(try_open(scratch, STORE_PROVIEW, 0), STORE_MISSING);
    assert_int_equal(try_open(scratch, 0, STORE_PROVIEW), STORE_MISSING);
    assert_int_not_equal(stat(path_in(scratch, "proview/callbacks.db"), &there), 0);
    assert_int_equal(unlink(path_in(scratch, "roster/roster.db")), 0);
    assert_int_equal(try_open(scratch, 0, STORE_ROSTER), STORE_MISSING);
    assert_int_equal(try_open(scratch, STORE_EXAMJOINT, 0), STORE_OK);
}

static void schemas_old_and_new(void **state)
{
    struct scratch *scratch = *state;
    static const struct {
        const char *sql;
        enum store_status status;
    } cases[] = {{"PRAGMA user_version=0", STORE_OLD},
                 {"PRAGMA user_version=1", STORE_OK},
                 {"PRAGMA user_version=2", STORE_OK},
                 {"PRAGMA user_version=3", STORE_NEW}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        raw_sql(scratch, "examjoint/events.db", cases[i].sql);
        assert_int_equal(try_open(scratch, STORE_EXAMJOINT, 0), cases[i].status);
        assert_int_equal(try_open(scratch, 0, STORE_EXAMJOINT), cases[i].status);
    }
    struct buf said = BUF_INIT;
    assert_int_equal(store_migrate(scratch->url, &said), STORE_NEW);
    assert_int_equal(raw_number(scratch, "examjoint/events.db", "PRAGMA user_version"), 3);
    raw_sql(scratch, "examjoint/events.db", "PRAGMA user_version=2");
    buf_clear(&said);
    assert_int_equal(store_migrate(scratch->url, &said), STORE_OK);
    assert_non_null(strstr(buf_str(&said), "left as it is"));
    assert_int_equal(raw_number(scratch, "examjoint/events.db", "PRAGMA user_version"), 2);
    buf_release(&said);
}

static void what_is_no_store_is_refused(void **state)
{
    struct scratch *scratch = *state;
    struct buf said = BUF_INIT;
    store_free(scratch->store);
    scratch->store = NULL;
    assert_int_equal(unlink(path_in(scratch, "proview/callbacks.db-wal")), 0);
    assert_int_equal(unlink(path_in(scratch, "proview/callbacks.db-shm")), 0);
    int fd = open(path_in(scratch, "proview/callbacks.db"), O_WRONLY | O_TRUNC);
    assert_true(fd >= 0);
    for (int i = 0; i < 400; i++)
        assert_int_equal(write(fd, "this is no SQLite file, ", 24), 24);
    close(fd);
    assert_int_equal(try_open(scratch, STORE_PROVIEW, 0), STORE_CORRUPT);
    assert_int_equal(store_migrate(scratch->url, &said), STORE_CORRUPT);
    /* A file of somebody else's is not written to. */
    assert_int_equal(truncate(path_in(scratch, "proview/callbacks.db"), 0), 0);
    assert_int_equal(try_open(scratch, STORE_PROVIEW, 0), STORE_MISSING);
    raw_sql(scratch, "proview/callbacks.db", "CREATE TABLE theirs(a)");
    assert_int_equal(store_migrate(scratch->url, &said), STORE_CORRUPT);
    assert_int_equal(raw_number(scratch, "proview/callbacks.db", "SELECT count(*) FROM sqlite_schema"), 1);
    buf_release(&said);
}

static void a_link_is_refused_in_place_of_the_file_only(void **state)
{
    struct scratch *scratch = *state;
    char moved[256];
    (void)snprintf(moved, sizeof moved, "%s/moved", scratch->folder);
    assert_int_equal(rename(path_in(scratch, ""), moved), 0);
    char link_path[256];
    (void)snprintf(link_path, sizeof link_path, "%s/store", scratch->folder);
    assert_int_equal(symlink(moved, link_path), 0);
    assert_int_equal(try_open(scratch, STORE_ALL, 0), STORE_OK);
    char target[256];
    (void)snprintf(target, sizeof target, "%s/elsewhere.db", scratch->folder);
    assert_int_equal(rename(path_in(scratch, "proview/callbacks.db"), target), 0);
    assert_int_equal(symlink(target, path_in(scratch, "proview/callbacks.db")), 0);
    assert_int_not_equal(try_open(scratch, STORE_PROVIEW, 0), STORE_OK);
}

/* Becomes somebody who is in the files' group, or in none. */
static bool become(gid_t group)
{
    return setgroups(0, NULL) == 0 && setgid(group) == 0 && setuid(NOBODY) == 0;
}

static int as_stranger(const struct scratch *scratch)
{
    return !become(NOBODY) ? 1 : try_open(scratch, 0, STORE_EXAMJOINT) != STORE_DENIED ? 2 : 0;
}

/* The files belong to group 0. */
static int as_reader(const struct scratch *scratch)
{
    struct store *store = NULL;
    if (setgroups(0, NULL) != 0 || setgid(0) != 0 || setuid(NOBODY) != 0)
        return 1;
    if (try_open(scratch, STORE_EXAMJOINT, 0) != STORE_DENIED)
        return 2;
    if (store_open(scratch->url, 0, STORE_EXAMJOINT | STORE_PROVIEW, 1000, &store, NULL) != STORE_OK)
        return 3;
    int rows = count_events(store);
    if (store_round_begin(store, STORE_EXAMJOINT) == STORE_OK)
        return 4;
    store_free(store);
    return rows == 1 ? 0 : 5;
}

/* The writer holds its round until the reader's end of a pipe is closed. */
static void hold_a_round(const struct scratch *scratch, int ready, int alive)
{
    struct store *store = NULL;
    char byte;
    bool began = store_open(scratch->url, STORE_EXAMJOINT, 0, 1000, &store, NULL) == STORE_OK &&
                 store_round_begin(store, STORE_EXAMJOINT) == STORE_OK;
    if (began && write(ready, "x", 1) == 1 && read(alive, &byte, 1) == 0)
        _exit(0);
    _exit(1);
}

static int reader_beside_writer(const struct scratch *scratch)
{
    int ready[2], alive[2];
    char byte;
    if (pipe(ready) != 0 || pipe(alive) != 0)
        return 90;
    if (fork() == 0) {
        close(alive[1]);
        hold_a_round(scratch, ready[1], alive[0]);
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 1)
        return 91;
    return as_reader(scratch);
}

static void modes_say_who_may(void **state)
{
    struct scratch *scratch = *state;
    if (geteuid() != 0) {
        print_message("SKIP: only root can become another user\n");
        skip();
    }
    struct store_event event = plain("{}");
    assert_stored(scratch->store, put(scratch->store, &event));
    assert_int_equal(chmod(scratch->folder, 0755), 0);
    assert_int_equal(in_child(as_stranger, scratch), 0);
    assert_int_equal(in_child(as_reader, scratch), 0);
    /* Also while the writer runs: here it is another child's. */
    assert_int_equal(in_child(reader_beside_writer, scratch), 0);
}

/* --- Rounds
 * ---------------------------------------------------------------------------------------------------- */

static void a_round_is_there_or_not(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store *reader = scratch_open(scratch, 0, STORE_EXAMJOINT, 1000);
    struct store_event event = plain("{}");
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_step_begin(store));
    assert_stored(store, store_event_add(store, &event, NULL));
    assert_stored(store, store_step_end(store, true));
    assert_int_equal(count_events(reader), 0);
    assert_stored(store, store_round_commit(store));
    assert_int_equal(count_events(reader), 1);

    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_event_add(store, &event, NULL));
    store_round_abandon(store);
    assert_int_equal(count_events(reader), 1);

    /* Of three steps the middle one is undone. */
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int i = 0; i < 3; i++) {
        assert_stored(store, store_step_begin(store));
        assert_stored(store, store_event_add(store, &event, NULL));
        assert_stored(store, store_step_end(store, i != 1));
    }
    assert_stored(store, store_round_commit(store));
    assert_int_equal(count_events(reader), 3);
    store_free(reader);
}

static void rounds_out_of_place(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event event = plain("{}");
    assert_int_equal(store_step_begin(store), STORE_ERROR);
    assert_int_equal(store_step_end(store, true), STORE_ERROR);
    assert_int_equal(store_round_commit(store), STORE_ERROR);
    assert_int_equal(store_event_add(store, &event, NULL), STORE_ERROR);
    assert_int_equal(store_round_begin(store, STORE_ROSTER), STORE_ERROR);
    store_round_abandon(store);
    assert_stored(store, store_round_begin(store, STORE_PROVIEW));
    assert_int_equal(store_round_begin(store, STORE_EXAMJOINT), STORE_ERROR);
    assert_int_equal(store_event_add(store, &event, NULL), STORE_ERROR);
    assert_stored(store, store_round_commit(store));
    assert_int_equal(count_events(store), 0);
}

static void a_failed_step_leaves_the_others(void **state)
{
    struct store *store = ((struct scratch *)*state)->store;
    struct store_event good = plain("{}"), bad = plain("{}");
    bad.account = NULL;
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    assert_stored(store, store_step_begin(store));
    assert_stored(store, store_event_add(store, &good, NULL));
    assert_stored(store, store_step_end(store, true));
    assert_stored(store, store_step_begin(store));
    assert_int_equal(store_event_add(store, &bad, NULL), STORE_ERROR);
    assert_non_null(strstr(store_message(store), "events.db"));
    assert_stored(store, store_step_end(store, false));
    assert_stored(store, store_round_commit(store));
    assert_int_equal(count_events(store), 1);
}

static void the_lock_is_waited_for_so_long(void **state)
{
    struct scratch *scratch = *state;
    struct store *impatient = scratch_open(scratch, STORE_EXAMJOINT | STORE_PROVIEW, 0, 80);
    assert_stored(scratch->store, store_round_begin(scratch->store, STORE_EXAMJOINT));
    int64_t began_ms = clock_monotonic_ms();
    assert_int_equal(store_round_begin(impatient, STORE_EXAMJOINT), STORE_BUSY);
    int64_t took_ms = clock_monotonic_ms() - began_ms;
    assert_in_range(took_ms, 79, 1000);
    /* Another area is another lock. */
    assert_stored(impatient, store_round_begin(impatient, STORE_PROVIEW));
    assert_stored(impatient, store_round_commit(impatient));
    store_round_abandon(scratch->store);
    assert_stored(impatient, store_round_begin(impatient, STORE_EXAMJOINT));
    store_free(impatient); /* gives the lock back */
    assert_stored(scratch->store, store_round_begin(scratch->store, STORE_EXAMJOINT));
    store_round_abandon(scratch->store);
}

static void a_removed_lock_file_is_noticed(void **state)
{
    struct scratch *scratch = *state;
    struct store *other = scratch_open(scratch, STORE_EXAMJOINT, 0, 50);
    assert_int_equal(unlink(path_in(scratch, "examjoint/events.lock")), 0);
    assert_stored(scratch->store, store_round_begin(scratch->store, STORE_EXAMJOINT));
    assert_int_equal(mode_of(scratch, "examjoint/events.lock"), 0600);
    assert_int_equal(store_round_begin(other, STORE_EXAMJOINT), STORE_BUSY);
    store_round_abandon(scratch->store);
    store_free(other);
}

static void a_foreign_writer_is_busy(void **state)
{
    struct scratch *scratch = *state;
    struct store *impatient = scratch_open(scratch, STORE_EXAMJOINT, 0, 50);
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path_in(scratch, "examjoint/events.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(store_round_begin(impatient, STORE_EXAMJOINT), STORE_BUSY);
    sqlite3_exec(db, "ROLLBACK", NULL, NULL, NULL);
    assert_stored(impatient, store_round_begin(impatient, STORE_EXAMJOINT));
    assert_stored(impatient, store_round_commit(impatient));
    sqlite3_close(db);
    store_free(impatient);
}

static void another_file_in_its_place_is_used(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_event event = plain("{}");
    struct buf said = BUF_INIT;
    assert_stored(store, put(store, &event));
    static const char *const gone[] = {"examjoint/events.db", "examjoint/events.db-wal",
                                       "examjoint/events.db-shm"};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(unlink(path_in(scratch, gone[i])), 0);
    assert_int_equal(put(store, &event), STORE_MISSING);
    assert_int_equal(store_migrate(scratch->url, &said), STORE_OK);
    assert_int_equal(count_events(store), 0);
    assert_stored(store, put(store, &event));
    assert_int_equal(raw_number(scratch, "examjoint/events.db", "SELECT count(*) FROM events"), 1);
    buf_release(&said);
}

/* --- The log
 * --------------------------------------------------------------------------------------------------- */

static off_t wal_bytes(const struct scratch *scratch)
{
    struct stat there;
    return stat(path_in(scratch, "examjoint/events.db-wal"), &there) == 0 ? there.st_size : 0;
}

static void put_bulk(struct store *store, int rounds)
{
    static char body[64 * 1024];
    memset(body, 'x', sizeof body - 1);
    struct store_event event = plain(body);
    for (int i = 0; i < rounds; i++)
        assert_stored(store, put(store, &event));
}

static void the_log_stays_bounded(void **state)
{
    struct scratch *scratch = *state;
    off_t most = 0;
    for (int i = 0; i < 30; i++) {
        put_bulk(scratch->store, 10);
        if (wal_bytes(scratch) > most)
            most = wal_bytes(scratch);
    }
    assert_in_range(most, 1024 * 1024, 6 * 1024 * 1024);
    assert_int_equal(count_events(scratch->store), 300);
}

static void a_program_that_ends_leaves_a_short_log(void **state)
{
    struct scratch *scratch = *state;
    put_bulk(scratch->store, 20);
    assert_true(wal_bytes(scratch) > 1024 * 1024);
    store_free(scratch->store);
    assert_true(wal_bytes(scratch) <= 512 * 1024);
    scratch->store = scratch_open(scratch, STORE_EXAMJOINT, 0, 1000);
    assert_int_equal(count_events(scratch->store), 20);
    /* It does not wait for that: neither for a reader nor for a round. What else the machine does may spoil a
       try or two; one that waits spoils all. */
    int64_t shortest_ms = INT64_MAX;
    for (int i = 1; i <= 3; i++) {
        struct store *other = scratch_open(scratch, STORE_EXAMJOINT, 0, 1000);
        put_bulk(scratch->store, 20);
        assert_stored(other, store_round_begin(other, STORE_EXAMJOINT));
        int64_t began_ms = clock_monotonic_ms();
        store_free(scratch->store);
        int64_t took_ms = clock_monotonic_ms() - began_ms;
        if (took_ms < shortest_ms)
            shortest_ms = took_ms;
        assert_stored(other, store_round_commit(other));
        scratch->store = other;
        assert_int_equal(count_events(other), 20 + 20 * i);
    }
    assert_true(shortest_ms < 500);
}

static void a_reader_holds_nobody_up(void **state)
{
    struct scratch *scratch = *state;
    sqlite3 *db = NULL;
    assert_int_equal(sqlite3_open(path_in(scratch, "examjoint/events.db"), &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, "BEGIN; SELECT count(*) FROM events", NULL, NULL, NULL), SQLITE_OK);
    int64_t began_ms = clock_monotonic_ms();
    put_bulk(scratch->store, 150);
    assert_true(clock_monotonic_ms() - began_ms < 20000);
    assert_true(wal_bytes(scratch) > 6 * 1024 * 1024);
    assert_int_equal(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL), SQLITE_OK);
    /* The reader has gone: the log is moved, then begun anew and cut. */
    put_bulk(scratch->store, 40);
    assert_true(wal_bytes(scratch) <= 6 * 1024 * 1024);
    assert_int_equal(count_events(scratch->store), 190);
    sqlite3_close(db);
}

static void a_rollback_journal_does_too(void **state)
{
    struct scratch *scratch = *state;
    struct buf said = BUF_INIT;
    store_free(scratch->store);
    raw_sql(scratch, "examjoint/events.db", "PRAGMA journal_mode=DELETE");
    scratch->store = scratch_open(scratch, STORE_EXAMJOINT, 0, 1000);
    put_bulk(scratch->store, 3);
    assert_int_equal(count_events(scratch->store), 3);
    assert_int_equal(wal_bytes(scratch), 0);
    assert_int_equal(mode_of(scratch, "examjoint/events.db-journal"), 0640);
    store_free(scratch->store);
    scratch->store = NULL;
    /* What a backup brought back gets its log again. */
    assert_int_equal(store_migrate(scratch->url, &said), STORE_OK);
    scratch->store = scratch_open(scratch, STORE_EXAMJOINT, 0, 1000);
    put_bulk(scratch->store, 1);
    assert_true(wal_bytes(scratch) > 0);
    assert_int_equal(count_events(scratch->store), 4);
    buf_release(&said);
}

static bool write_meanwhile(void *context, const struct store_event_row *row)
{
    struct store_event event = plain("{}");
    struct store *store = context;
    assert_int_equal(row->id[0], 'e');
    assert_stored(store, put(store, &event));
    return true;
}

/* Rows are shown when nothing is read any more. With a rollback journal a reader in the middle of a page
   would keep the writer from its commit, with a log it would let that grow. */
static void who_looks_at_a_listing_holds_nobody_up(void **state)
{
    struct scratch *scratch = *state;
    struct store_filter all = {0};
    struct store_cursor cursor = STORE_CURSOR_START;
    bool more = false;
    put_bulk(scratch->store, 3);
    store_free(scratch->store);
    raw_sql(scratch, "examjoint/events.db", "PRAGMA journal_mode=DELETE");
    scratch->store = scratch_open(scratch, STORE_EXAMJOINT, 0, 200);
    struct store *reader = scratch_open(scratch, 0, STORE_EXAMJOINT, 200);
    assert_stored(reader, store_events(reader, &all, &cursor, 2, write_meanwhile, scratch->store, &more));
    assert_true(more);
    assert_int_equal(count_events(scratch->store), 5);
    store_free(reader);
}

/* A page of long texts is cut short, and the next goes on where it ended. */
static void a_page_is_bounded_in_bytes(void **state)
{
    struct scratch *scratch = *state;
    struct store_filter all = {0};
    struct store_cursor cursor = STORE_CURSOR_START;
    int seen = 0;
    bool more = false;
    put_bulk(scratch->store, 40);
    assert_stored(scratch->store,
                  store_events(scratch->store, &all, &cursor, 1000, scratch_count_row, &seen, &more));
    assert_true(more);
    assert_in_range(seen, 1, 39);
    while (more)
        assert_stored(scratch->store,
                      store_events(scratch->store, &all, &cursor, 1000, scratch_count_row, &seen, &more));
    assert_int_equal(seen, 40);
}

/* --- A full disk
 * ----------------------------------------------------------------------------------------------- */

/* Writes until it does not fit, makes room by `room`, writes on. The number of what went wrong. */
static int fill_up(struct store *store, bool (*room)(const void *), const void *context)
{
    static char body[32 * 1024];
    memset(body, 'f', sizeof body - 1);
    struct store_event event = plain(body);
    int stored = 0;
    enum store_status status = STORE_OK;
    while (stored < 2000 && (status = put(store, &event)) == STORE_OK)
        stored++;
    if (status != STORE_FULL)
        return 10 + (int)status;
    if (stored == 0)
        return 30;
    if (put(store, &event) != STORE_FULL)
        return 31;
    if (!room(context))
        return 32;
    event.body = "{}";
    for (int i = 0; i < 5; i++)
        if (put(store, &event) != STORE_OK)
            return 33;
    return count_events(store) == stored + 5 ? 0 : 34;
}

static bool raise_limit(const void *context)
{
    (void)context;
    struct rlimit limit;
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0)
        return false;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_FSIZE, &limit) == 0;
}

static int under_a_file_limit(const struct scratch *scratch)
{
    struct store *store = NULL;
    struct rlimit limit;
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigaction(SIGXFSZ, &ignore, NULL);
    if (store_open(scratch->url, STORE_EXAMJOINT, 0, 1000, &store, NULL) != STORE_OK)
        return 1;
    if (getrlimit(RLIMIT_FSIZE, &limit) != 0)
        return 2;
    limit.rlim_cur = 2 * 1024 * 1024;
    if (setrlimit(RLIMIT_FSIZE, &limit) != 0)
        return 2;
    int wrong = fill_up(store, raise_limit, NULL);
    store_free(store);
    return wrong;
}

static void a_file_at_its_limit_is_full(void **state)
{
    struct scratch *scratch = *state;
    assert_int_equal(in_child(under_a_file_limit, scratch), 0);
    assert_int_equal(raw_number(scratch, "examjoint/events.db",
                                "SELECT count(*) FROM pragma_integrity_check"
                                " WHERE integrity_check = 'ok'"),
                     1);
}

static bool remove_ballast(const void *context)
{
    return unlink(context) == 0;
}

static int on_a_small_disk(const struct scratch *scratch)
{
    char folder[128], ballast[160], url[160];
    struct buf said = BUF_INIT;
    struct store *store = NULL;
    static char block[4096];
    (void)snprintf(folder, sizeof folder, "%s/disk", scratch->folder);
    (void)snprintf(ballast, sizeof ballast, "%s/ballast", folder);
    (void)snprintf(url, sizeof url, "sqlite:%s/store", folder);
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", "", MS_REC | MS_PRIVATE, "") != 0 ||
        mkdir(folder, 0755) != 0 || mount("tmpfs", folder, "tmpfs", 0, "size=4m") != 0)
        return 99;
    if (store_migrate(url, &said) != STORE_OK ||
        store_open(url, STORE_EXAMJOINT, 0, 1000, &store, NULL) != STORE_OK)
        return 1;
    int fd = open(ballast, O_WRONLY | O_CREAT, 0600);
    for (int i = 0; i < 128; i++)
        if (write(fd, block, sizeof block) != (ssize_t)sizeof block)
            return 2;
    close(fd);
    int wrong = fill_up(store, remove_ballast, ballast);
    store_free(store);
    buf_release(&said);
    return wrong;
}

static void a_full_disk_passes(void **state)
{
    struct scratch *scratch = *state;
    int wrong = in_child(on_a_small_disk, scratch);
    if (wrong == 99) {
        print_message("SKIP: a small disk cannot be mounted here\n");
        skip();
    }
    assert_int_equal(wrong, 0);
}

/* --- Purge
 * ------------------------------------------------------------------------------------------------------ */

static void fill_for_purge(struct store *store)
{
    static const unsigned char key[32] = {1};
    struct store_event event = plain("{\"n\":1}");
    struct store_callback callback = {.account = "p", .session_uuid = "u", .body = "{}"};
    assert_stored(store, store_round_begin(store, STORE_EXAMJOINT));
    for (int i = 0; i < 1000; i++) {
        event.received_at_ms = NOW + i;
        assert_stored(store, store_event_add(store, &event, NULL));
    }
    event.received_at_ms = NOW;
    event.key = key;
    assert_stored(store, store_event_add(store, &event, NULL));
    event.received_at_ms = NOW + 5000; /* an old one that came again lately */
    event.body = "{\"n\":2}";
    assert_stored(store, store_event_add(store, &event, NULL));
    assert_stored(store, store_round_commit(store));
    assert_stored(store, store_round_begin(store, STORE_PROVIEW));
    for (int i = 0; i < 3; i++) {
        char uuid[8];
        (void)snprintf(uuid, sizeof uuid, "u%d", i);
        callback.session_uuid = uuid;
        callback.received_at_ms = NOW + i;
        assert_stored(store, store_callback_add(store, &callback, NULL, NULL));
    }
    assert_stored(store, store_round_commit(store));
}

static void take_callbacks_in(struct store *store, size_t most)
{
    size_t taken = 0;
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    assert_stored(store, store_sessions_intake(store, NOW, 6, most, &taken));
    assert_stored(store, store_round_commit(store));
    assert_int_equal(taken, most);
}

/* Where the worker stood still for long, a callback is all that tells of its session. */
static void purge_leaves_callbacks_not_taken_in(void **state)
{
    struct scratch *scratch = *state;
    struct store_purged purged = {0};
    fill_for_purge(scratch->store);
    take_callbacks_in(scratch->store, 1);
    assert_stored(scratch->store, store_purge(scratch->store, NOW + 6000, &purged));
    assert_int_equal(purged.callbacks, 1);
    take_callbacks_in(scratch->store, 2);
    assert_stored(scratch->store, store_purge(scratch->store, NOW + 6000, &purged));
    assert_int_equal(purged.callbacks, 2);
}

static void purge_takes_what_is_old(void **state)
{
    struct scratch *scratch = *state;
    struct store_purged purged = {0};
    fill_for_purge(scratch->store);
    take_callbacks_in(scratch->store, 3);
    assert_stored(scratch->store, store_purge(scratch->store, NOW + 700, &purged));
    assert_int_equal(purged.events, 700);
    assert_int_equal(purged.callbacks, 3);
    assert_int_equal(purged.sessions, 0);
    assert_int_equal(count_events(scratch->store), 301);
    assert_int_equal(raw_number(scratch, "examjoint/events.db", "SELECT count(*) FROM deliveries"), 1);
    assert_stored(scratch->store, store_purge(scratch->store, NOW + 6000, &purged));
    assert_int_equal(purged.events, 301);
    assert_int_equal(raw_number(scratch, "examjoint/events.db", "SELECT count(*) FROM deliveries"), 0);
    assert_int_equal(count_events(scratch->store), 0);
}

/* One event that came a hundred times, each time with another long body: it goes whole, and so do its
 * neighbours. */
static void purge_takes_a_heavy_event(void **state)
{
    static const unsigned char key[32] = {7};
    static char body[60000];
    struct scratch *scratch = *state;
    struct store_purged purged = {0};
    struct store_event event = plain("{}");
    assert_stored(scratch->store, put(scratch->store, &event));
    memset(body, 'x', sizeof body - 1);
    event.key = key;
    event.body = body;
    for (int i = 0; i < 60; i++) {
        (void)snprintf(body, 8, "%07d", i);
        body[7] = 'x';
        assert_stored(scratch->store, put(scratch->store, &event));
    }
    event.key = NULL;
    event.body = "{}";
    assert_stored(scratch->store, put(scratch->store, &event));
    assert_int_equal(raw_number(scratch, "examjoint/events.db", "SELECT count(*) FROM deliveries"), 59);
    assert_stored(scratch->store, store_purge(scratch->store, NOW, &purged));
    assert_int_equal(purged.events, 0);
    assert_int_equal(raw_number(scratch, "examjoint/events.db", "SELECT count(*) FROM deliveries"), 59);
    assert_stored(scratch->store, store_purge(scratch->store, NOW + 1, &purged));
    assert_int_equal(purged.events, 3);
    assert_int_equal(count_events(scratch->store), 0);
    assert_int_equal(raw_number(scratch, "examjoint/events.db", "SELECT count(*) FROM deliveries"), 0);
}

static void ids_are_not_given_twice(void **state)
{
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    struct store_purged purged;
    struct store_filter all = {0};
    struct store_cursor cursor = STORE_CURSOR_START;
    struct store_event event = plain("{}");
    int seen = 0;
    bool more;
    assert_stored(store, put(store, &event));
    assert_stored(store, put(store, &event));
    assert_stored(store, store_events(store, &all, &cursor, 10, scratch_count_row, &seen, &more));
    assert_stored(store, store_purge(store, NOW + 1, &purged));
    assert_int_equal(purged.events, 2);
    assert_stored(store, put(store, &event));
    assert_stored(store, store_events(store, &all, &cursor, 10, scratch_count_row, &seen, &more));
    assert_int_equal(seen, 3);
}

/* --- Backup
 * ------------------------------------------------------------------------------------------------------ */

static void a_backup_can_be_put_back(void **state)
{
    struct scratch *scratch = *state;
    struct buf why = BUF_INIT;
    struct stat there;
    char folder[80], path[256];
    fill_for_purge(scratch->store);
    (void)snprintf(folder, sizeof folder, "%s/copy", scratch->folder);
    mode_t mask = umask(0);
    assert_int_equal(store_backup(scratch->url, folder, &why), STORE_OK);
    umask(mask);
    struct scratch copy = {0};
    (void)snprintf(copy.url, sizeof copy.url, "sqlite:%s", folder);
    copy.store = scratch_open(&copy, 0, STORE_ALL & ~STORE_ROSTER, 1000);
    assert_int_equal(count_events(copy.store), 1004);
    store_free(copy.store);
    (void)snprintf(path, sizeof path, "%s/examjoint/events.db", folder);
    assert_int_equal(stat(path, &there), 0);
    assert_int_equal(there.st_mode & 07777, 0640);
    (void)snprintf(path, sizeof path, "%s/roster/roster.db", folder);
    assert_int_equal(stat(path, &there), 0);
    (void)snprintf(path, sizeof path, "%s/examjoint/identity.key", folder);
    assert_int_not_equal(stat(path, &there), 0);
    (void)snprintf(path, sizeof path, "%s/examjoint/events.db.new", folder);
    assert_int_not_equal(stat(path, &there), 0);
    /* The ratings' copy may know of no callback that the callbacks' copy lacks. */
    struct stat ratings;
    (void)snprintf(path, sizeof path, "%s/ratings/ratings.db", folder);
    assert_int_equal(stat(path, &ratings), 0);
    (void)snprintf(path, sizeof path, "%s/proview/callbacks.db", folder);
    assert_int_equal(stat(path, &there), 0);
    assert_true(
        ratings.st_mtim.tv_sec < there.st_mtim.tv_sec ||
        (ratings.st_mtim.tv_sec == there.st_mtim.tv_sec && ratings.st_mtim.tv_nsec <= there.st_mtim.tv_nsec));
    /* It is a store once it was migrated. */
    assert_int_equal(store_migrate(copy.url, &why), STORE_OK);
    copy.store = scratch_open(&copy, STORE_ALL, 0, 1000);
    struct store_event event = plain("{}");
    assert_stored(copy.store, put(copy.store, &event));
    store_free(copy.store);
    /* Never over what is there. */
    buf_clear(&why);
    assert_int_not_equal(store_backup(scratch->url, folder, &why), STORE_OK);
    assert_non_null(strstr(buf_str(&why), "not an empty folder"));
    buf_release(&why);
}

/* The ratings stay as they are, and know of more callbacks than the copy. */
static void callbacks_put_back_alone_lose_none_that_come(void **state)
{
    struct scratch *scratch = *state;
    struct buf why = BUF_INIT;
    char folder[80], from[128], to[256], log[264];
    (void)snprintf(folder, sizeof folder, "%s/copy", scratch->folder);
    assert_int_equal(store_backup(scratch->url, folder, &why), STORE_OK);
    fill_for_purge(scratch->store);
    take_callbacks_in(scratch->store, 3);
    store_free(scratch->store);
    (void)snprintf(from, sizeof from, "%s/proview/callbacks.db", folder);
    (void)snprintf(to, sizeof to, "%s", path_in(scratch, "proview/callbacks.db"));
    (void)snprintf(log, sizeof log, "%s-wal", to);
    assert_int_equal(unlink(log), 0);
    (void)snprintf(log, sizeof log, "%s-shm", to);
    assert_int_equal(unlink(log), 0);
    assert_int_equal(rename(from, to), 0);
    assert_int_equal(store_migrate(scratch->url, &why), STORE_OK);
    scratch->store = scratch_open(scratch, STORE_ALL, 0, 1000);
    fill_for_purge(scratch->store);
    take_callbacks_in(scratch->store, 3);
    buf_release(&why);
}

static bool file_holds(const char *path, const char *text)
{
    char *bytes = calloc(1, 1 << 20);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t len = fread(bytes, 1, 1 << 20, file);
    assert_in_range(len, 4096, (1 << 20) - 1);
    bool found = memmem(bytes, len, text, strlen(text)) != NULL;
    assert_int_equal(fclose(file), 0);
    free(bytes);
    return found;
}

static void a_backup_holds_no_token(void **state)
{
    struct scratch *scratch = *state;
    struct buf why = BUF_INIT;
    char token[] = "CANARY-token", error[] = "a-trace-of-the-login";
    char folder[80], path[256];
    struct store_login login = {.token = token, .error = error, .expires_at_ms = NOW, .blocked_until_ms = 7};
    assert_stored(scratch->store, store_round_begin(scratch->store, STORE_RATINGS));
    assert_stored(scratch->store, store_login_put(scratch->store, "acme", &login));
    assert_stored(scratch->store, store_round_commit(scratch->store));
    (void)snprintf(folder, sizeof folder, "%s/copy", scratch->folder);
    assert_int_equal(store_backup(scratch->url, folder, &why), STORE_OK);
    (void)snprintf(path, sizeof path, "%s/ratings/ratings.db", folder);
    assert_true(file_holds(path, error));
    assert_false(file_holds(path, token));
    /* Ours is still there. */
    struct store_login kept = {0};
    assert_stored(scratch->store, store_login_get(scratch->store, "acme", &kept));
    assert_string_equal(kept.token, token);
    store_login_release(&kept);
    buf_release(&why);
}

__attribute__((format(printf, 2, 3))) static int64_t number_in(sqlite3 *db, const char *format, ...)
{
    char sql[512];
    sqlite3_stmt *statement = NULL;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(sql, sizeof sql, format, args);
    va_end(args);
    if (sqlite3_prepare_v2(db, sql, -1, &statement, NULL) != SQLITE_OK ||
        sqlite3_step(statement) != SQLITE_ROW)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    int64_t number = sqlite3_column_int64(statement, 0);
    sqlite3_finalize(statement);
    return number;
}

/* What there is of tables, indexes and triggers, and each table's rows. `filled`: a table without rows would
   show nothing, so the test must have put some into each. */
static void assert_same_tables(const struct scratch *scratch, const char *folder, const char *name,
                               bool filled)
{
    static const char all[] = "SELECT type, name, tbl_name, sql FROM";
    sqlite3 *db = NULL;
    sqlite3_stmt *list = NULL;
    char attach[256];
    int tables = 0;
    (void)snprintf(attach, sizeof attach, "ATTACH '%s/%s' AS copy", folder, name);
    assert_int_equal(sqlite3_open_v2(path_in(scratch, name), &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, attach, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(
        number_in(db, "SELECT count(*) FROM (%s main.sqlite_schema EXCEPT %s copy.sqlite_schema)", all, all),
        0);
    assert_int_equal(number_in(db, "SELECT count(*) FROM main.sqlite_schema"),
                     number_in(db, "SELECT count(*) FROM copy.sqlite_schema"));
    assert_int_equal(
        sqlite3_prepare_v2(db, "SELECT name FROM main.sqlite_schema WHERE type = 'table'", -1, &list, NULL),
        SQLITE_OK);
    for (; sqlite3_step(list) == SQLITE_ROW; tables++) {
        const char *table = (const char *)sqlite3_column_text(list, 0);
        int64_t rows = number_in(db, "SELECT count(*) FROM main.\"%s\"", table);
        int64_t copied = number_in(db, "SELECT count(*) FROM copy.\"%s\"", table);
        if (rows != copied || (filled && rows == 0))
            fail_msg("%s, %s: %lld rows, of which %lld are in the copy", name, table, (long long)rows,
                     (long long)copied);
    }
    sqlite3_finalize(list);
    sqlite3_close(db);
    assert_in_range(tables, 2, 50);
}

/* The ratings are copied by our own hands, table by table: so with rows in every one of them, and with a
   trigger, which must not act on what is copied. */
static void a_backup_has_every_table_with_its_rows(void **state)
{
    struct scratch *scratch = *state;
    struct buf why = BUF_INIT;
    struct store_login login = {.expires_at_ms = NOW};
    char folder[80];
    fill_for_purge(scratch->store);
    take_callbacks_in(scratch->store, 3);
    assert_stored(scratch->store, store_round_begin(scratch->store, STORE_RATINGS));
    assert_stored(scratch->store, store_login_put(scratch->store, "acme", &login));
    assert_stored(scratch->store, store_round_commit(scratch->store));
    store_free(scratch->store);
    scratch->store = NULL;
    raw_sql(scratch, "ratings/ratings.db",
            "INSERT INTO history(session, number, at, rating) VALUES(1, 1, 5, 'HIGH'), (1, 2, 6, 'LOW');"
            "INSERT OR IGNORE INTO turn VALUES(1, 0, 'p', '');"
            "CREATE TABLE later(a); INSERT INTO later VALUES(1);"
            "CREATE TRIGGER acts AFTER INSERT ON history BEGIN INSERT INTO later VALUES(new.at); END");
    (void)snprintf(folder, sizeof folder, "%s/copy", scratch->folder);
    if (store_backup(scratch->url, folder, &why) != STORE_OK)
        fail_msg("%s", buf_str(&why));
    assert_same_tables(scratch, folder, "ratings/ratings.db", true);
    assert_same_tables(scratch, folder, "examjoint/events.db", false);
    assert_same_tables(scratch, folder, "proview/callbacks.db", false);
    assert_same_tables(scratch, folder, "roster/roster.db", false);
    buf_release(&why);
}

static void a_damaged_store_gives_no_backup(void **state)
{
    struct scratch *scratch = *state;
    struct buf why = BUF_INIT;
    struct stat there;
    char folder[128], path[256];
    put_bulk(scratch->store, 100); /* enough that the file itself holds some */
    store_free(scratch->store);
    scratch->store = NULL;
    raw_sql(scratch, "examjoint/events.db", "PRAGMA wal_checkpoint(TRUNCATE)");
    static const char noise[4096] = "noise";
    int fd = open(path_in(scratch, "examjoint/events.db"), O_WRONLY);
    for (int page = 1; page < 14; page++)
        assert_int_equal(pwrite(fd, noise, sizeof noise, page * 4096L), sizeof noise);
    close(fd);
    (void)snprintf(folder, sizeof folder, "%s/copy", scratch->folder);
    assert_int_equal(store_backup(scratch->url, folder, &why), STORE_CORRUPT);
    /* Nothing of it is left, not even the roster that was copied before: the folder can be used for another
     * try. */
    (void)snprintf(path, sizeof path, "%s/examjoint", folder);
    assert_int_not_equal(stat(path, &there), 0);
    (void)snprintf(path, sizeof path, "%s/roster", folder);
    assert_int_not_equal(stat(path, &there), 0);
    assert_int_equal(rmdir(folder), 0);
    buf_release(&why);
}

/* --- Check
 * -------------------------------------------------------------------------------------------------------- */

struct findings {
    int ok, bad;
    struct buf text;
};

static void note_finding(void *context, const struct store_finding *finding)
{
    struct findings *findings = context;
    assert_non_null(finding->text);
    if (finding->ok) {
        findings->ok++;
        assert_null(finding->advice);
    } else {
        findings->bad++;
        assert_non_null(finding->advice);
    }
    buf_addf(&findings->text, "%s: %s: %s\n", finding->area, finding->ok ? "ok" : "bad", finding->text);
}

/* How many things are not right, and a word that what is said must hold. */
static void assert_check(const struct scratch *scratch, bool full, bool sound, const char *word)
{
    struct findings findings = {0};
    store_check(scratch->url, STORE_ALL, 0, full, note_finding, &findings);
    if (sound != (findings.bad == 0) || (word && !strstr(buf_str(&findings.text), word)))
        fail_msg("expected %s and \"%s\":\n%s", sound ? "sound" : "a finding", word ? word : "",
                 buf_str(&findings.text));
    assert_true(findings.ok > 0);
    buf_release(&findings.text);
}

static void check_finds_what_is_wrong(void **state)
{
    struct scratch *scratch = *state;
    assert_check(scratch, false, true, "examjoint: ok: writable");
    assert_check(scratch, true, true, "integrity_check: ok");
    assert_int_equal(chmod(path_in(scratch, "proview/callbacks.db"), 0644), 0);
    assert_check(scratch, false, false, "proview: bad");
    assert_int_equal(chmod(path_in(scratch, "proview/callbacks.db"), 0640), 0);
    assert_int_equal(chmod(path_in(scratch, "examjoint/identity.key"), 0640), 0);
    assert_check(scratch, false, false, "identity.key has mode 0640");
    assert_int_equal(chmod(path_in(scratch, "examjoint/identity.key"), 0600), 0);
    assert_int_equal(chmod(path_in(scratch, "ratings/ratings.db"), 0640), 0);
    assert_check(scratch, false, false, "ratings.db has mode 0640"); /* Talview's token is in it */
    assert_int_equal(chmod(path_in(scratch, "ratings/ratings.db"), 0600), 0);
    raw_sql(scratch, "ratings/ratings.db", "PRAGMA user_version=9");
    assert_check(scratch, false, false, "ratings: bad");
    raw_sql(scratch, "ratings/ratings.db", "PRAGMA user_version=1");
    store_free(scratch->store);
    scratch->store = NULL;
    raw_sql(scratch, "proview/callbacks.db", "PRAGMA journal_mode=DELETE");
    assert_check(scratch, false, false, "rollback journal");
    assert_int_equal(unlink(path_in(scratch, "proview/callbacks.db")), 0);
    assert_check(scratch, false, false, "proview: bad");
}

static void check_sees_damage_only_when_full(void **state)
{
    struct scratch *scratch = *state;
    put_bulk(scratch->store, 100);
    store_free(scratch->store);
    scratch->store = NULL;
    raw_sql(scratch, "examjoint/events.db", "PRAGMA wal_checkpoint(TRUNCATE)");
    raw_sql(scratch, "examjoint/events.db",
            "PRAGMA writable_schema=ON; UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM"
            " sqlite_schema WHERE name = 'events_received') WHERE name = 'attempts_exam'");
    assert_check(scratch, false, true, NULL);
    assert_check(scratch, true, false, "examjoint: bad");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(migrate_says_what_it_did),
        scratch_test(modes_do_not_depend_on_the_umask),
        scratch_test(identity_key_is_made_once),
        scratch_test(missing_is_not_created),
        scratch_test(schemas_old_and_new),
        scratch_test(what_is_no_store_is_refused),
        scratch_test(a_link_is_refused_in_place_of_the_file_only),
        scratch_test(modes_say_who_may),
        scratch_test(a_round_is_there_or_not),
        scratch_test(rounds_out_of_place),
        scratch_test(a_failed_step_leaves_the_others),
        scratch_test(the_lock_is_waited_for_so_long),
        scratch_test(a_removed_lock_file_is_noticed),
        scratch_test(a_foreign_writer_is_busy),
        scratch_test(another_file_in_its_place_is_used),
        scratch_test(the_log_stays_bounded),
        scratch_test(a_program_that_ends_leaves_a_short_log),
        scratch_test(a_reader_holds_nobody_up),
        scratch_test(a_rollback_journal_does_too),
        scratch_test(who_looks_at_a_listing_holds_nobody_up),
        scratch_test(a_page_is_bounded_in_bytes),
        scratch_test(a_file_at_its_limit_is_full),
        scratch_test(a_full_disk_passes),
        scratch_test(purge_takes_what_is_old),
        scratch_test(purge_takes_a_heavy_event),
        scratch_test(purge_leaves_callbacks_not_taken_in),
        scratch_test(ids_are_not_given_twice),
        scratch_test(a_backup_can_be_put_back),
        scratch_test(a_backup_holds_no_token),
        scratch_test(a_backup_has_every_table_with_its_rows),
        scratch_test(callbacks_put_back_alone_lose_none_that_come),
        scratch_test(a_damaged_store_gives_no_backup),
        scratch_test(check_finds_what_is_wrong),
        scratch_test(check_sees_damage_only_when_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
