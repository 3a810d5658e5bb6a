/* Each call of the store, with each single thing it asks of SQLite failing in turn: it says so, leaves
 * everything as it was, and the same store does it right the next time. "Done" is said only of what is there.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "store_scratch.h"

#define NOW ((int64_t)1700000000000)
#define HOUR ((int64_t)3600000)
#define UUID_RATED "11111111-1111-4111-8111-111111111111"
#define UUID_DUE "22222222-2222-4222-8222-222222222222"
#define UUID_NEW "33333333-3333-4333-8333-333333333333"
#define UUID_NOBODY "44444444-4444-4444-8444-444444444444"

#define HASH "$2y$10$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyz01234"

static const unsigned char KEY_THERE[32] = "there", KEY_OTHER[32] = "other", KEY_NEW[32] = "new";

/* --- SQLite, of which one call fails
 * ------------------------------------------------------------------------
 */

/* The call of that number from now fails; 0: none. */
static struct {
    int left;
    bool hit;
    int depth; /* what SQLite asks of itself does not count */
} fault;

static bool fails_now(void)
{
    if (fault.depth > 0 || fault.left == 0 || --fault.left > 0)
        return false;
    fault.hit = true;
    return true;
}

/* The library's own function, of which ours stands in front. */
static void find_real(const char *name, void *function)
{
    void *found = dlsym(RTLD_NEXT, name);
    assert_non_null(found);
    memcpy(function, &found, sizeof found);
}

static int stop(void *context)
{
    (void)context;
    return 1;
}

int sqlite3_step(sqlite3_stmt *statement)
{
    int (*real)(sqlite3_stmt *);
    find_real("sqlite3_step", &real);
    sqlite3 *db = fails_now() ? sqlite3_db_handle(statement) : NULL;
    if (db)
        sqlite3_progress_handler(db, 1, stop, NULL);
    fault.depth++;
    int code = real(statement);
    fault.depth--;
    if (db)
        sqlite3_progress_handler(db, 0, NULL, NULL);
    return code;
}

int sqlite3_exec(sqlite3 *db, const char *sql, int (*row)(void *, int, char **, char **), void *context,
                 char **error)
{
    int (*real)(sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **);
    find_real("sqlite3_exec", &real);
    bool failing = fails_now();
    if (failing)
        sqlite3_progress_handler(db, 1, stop, NULL);
    fault.depth++;
    int code = real(db, sql, row, context, error);
    fault.depth--;
    if (failing)
        sqlite3_progress_handler(db, 0, NULL, NULL);
    return code;
}

int sqlite3_prepare_v2(sqlite3 *db, const char *sql, int bytes, sqlite3_stmt **out, const char **tail)
{
    int (*real)(sqlite3 *, const char *, int, sqlite3_stmt **, const char **);
    find_real("sqlite3_prepare_v2", &real);
    const char *asked = fails_now() ? "no SQL" : sql;
    fault.depth++;
    int code = real(db, asked, asked == sql ? bytes : -1, out, tail);
    fault.depth--;
    return code;
}

int sqlite3_prepare_v3(sqlite3 *db, const char *sql, int bytes, unsigned how, sqlite3_stmt **out,
                       const char **tail)
{
    int (*real)(sqlite3 *, const char *, int, unsigned, sqlite3_stmt **, const char **);
    find_real("sqlite3_prepare_v3", &real);
    const char *asked = fails_now() ? "no SQL" : sql;
    fault.depth++;
    int code = real(db, asked, asked == sql ? bytes : -1, how, out, tail);
    fault.depth--;
    return code;
}

int sqlite3_open_v2(const char *path, sqlite3 **db, int flags, const char *vfs)
{
    int (*real)(const char *, sqlite3 **, int, const char *);
    find_real("sqlite3_open_v2", &real);
    return real(fails_now() ? "/nonexistent/store.db" : path, db, flags, vfs);
}

/* What is durable is not asked here: the disk is left in peace. */
int fsync(int fd)
{
    (void)fd;
    return 0;
}

int fdatasync(int fd)
{
    (void)fd;
    return 0;
}

int sync_file_range(int fd, off64_t offset, off64_t bytes, unsigned flags)
{
    (void)fd;
    (void)offset;
    (void)bytes;
    (void)flags;
    return 0;
}

/* --- What is stored
 * -----------------------------------------------------------------------------------------
 */

static void dump_table(sqlite3 *db, const char *table, struct buf *out)
{
    struct buf sql = BUF_INIT;
    sqlite3_stmt *rows = NULL;
    buf_addf(&sql, "SELECT * FROM \"%s\"", table);
    assert_int_equal(sqlite3_prepare_v2(db, buf_str(&sql), -1, &rows, NULL), SQLITE_OK);
    while (sqlite3_step(rows) == SQLITE_ROW) {
        buf_adds(out, table);
        for (int i = 0; i < sqlite3_column_count(rows); i++) {
            const unsigned char *text = sqlite3_column_text(rows, i);
            buf_addf(out, "|%s", text ? (const char *)text : "NULL");
        }
        buf_addc(out, '\n');
    }
    sqlite3_finalize(rows);
    buf_release(&sql);
}

/* Every row of every table of the four files. */
static char *dump(const struct scratch *scratch)
{
    static const char *const files[] = {"roster/roster.db", "examjoint/events.db", "proview/callbacks.db",
                                        "ratings/ratings.db"};
    struct buf out = BUF_INIT;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct buf path = BUF_INIT;
        sqlite3 *db = NULL;
        sqlite3_stmt *tables = NULL;
        buf_addf(&path, "%s/store/%s", scratch->folder, files[i]);
        assert_int_equal(sqlite3_open_v2(buf_str(&path), &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
        assert_int_equal(sqlite3_prepare_v2(db,
                                            "SELECT name FROM sqlite_master WHERE type='table' ORDER BY name",
                                            -1, &tables, NULL),
                         SQLITE_OK);
        while (sqlite3_step(tables) == SQLITE_ROW)
            dump_table(db, (const char *)sqlite3_column_text(tables, 0), &out);
        sqlite3_finalize(tables);
        sqlite3_close(db);
        buf_release(&path);
    }
    char *text = xstrdup(buf_str(&out));
    buf_release(&out);
    return text;
}

static void copy_file(const char *from, const char *to)
{
    struct buf data = BUF_INIT;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(in >= 0 && out >= 0 && buf_read(&data, in, 64 * 1024 * 1024));
    assert_int_equal(write(out, data.data, data.len), data.len);
    close(in);
    close(out);
    buf_release(&data);
}

/* The store as it was made once, from `folder`/first. */
static void put_back(struct scratch *scratch)
{
    static const char *const parts[] = {
        "",
        "roster",
        "examjoint",
        "proview",
        "ratings",
        "roster/roster.db",
        "examjoint/events.db",
        "examjoint/events.db-wal",
        "examjoint/identity.key",
        "proview/callbacks.db",
        "proview/callbacks.db-wal",
        "ratings/ratings.db",
        "ratings/ratings.db-wal",
    };
    char store[128], from[256], to[256];
    store_free(scratch->store);
    scratch->store = NULL;
    (void)snprintf(store, sizeof store, "%s/store", scratch->folder);
    (void)nftw(store, scratch_forget, 16, FTW_DEPTH | FTW_PHYS);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        struct stat st;
        (void)snprintf(from, sizeof from, "%s/first/%s", scratch->folder, parts[i]);
        (void)snprintf(to, sizeof to, "%s/store/%s", scratch->folder, parts[i]);
        if (stat(from, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode))
            assert_int_equal(mkdir(to, 0700), 0);
        else
            copy_file(from, to);
    }
    scratch->store = scratch_open(scratch, STORE_ALL, 0, 200);
}

/* --- The calls
 * ----------------------------------------------------------------------------------------------
 */

/* Ends the step and the round: kept only when all of it went well. */
static enum store_status finish(struct store *store, enum store_status status)
{
    if (status == STORE_OK)
        status = store_step_end(store, true);
    if (status == STORE_OK)
        return store_round_commit(store);
    store_round_abandon(store);
    return status;
}

static enum store_status begin(struct store *store, enum store_area area)
{
    enum store_status status = store_round_begin(store, area);
    if (status != STORE_OK)
        return status;
    status = store_step_begin(store);
    if (status != STORE_OK)
        store_round_abandon(store);
    return status;
}

static struct store_event event_of(const unsigned char *key, const char *body)
{
    return (struct store_event){.received_at_ms = NOW,
                                .account = "main",
                                .event = "statusChanged",
                                .exam_id = "e",
                                .respondent_id = "r",
                                .body = body,
                                .key = key};
}

static enum store_status add_event(struct store *store, const struct store_event *event)
{
    enum store_status status = begin(store, STORE_EXAMJOINT);
    return status == STORE_OK ? finish(store, store_event_add(store, event, NULL)) : status;
}

static enum store_status event_new(struct scratch *scratch)
{
    struct store_event event = event_of(KEY_NEW, "{\"new\":1}");
    return add_event(scratch->store, &event);
}

static enum store_status event_repeat(struct scratch *scratch)
{
    struct store_event event = event_of(KEY_THERE, "{\"later\":1}");
    return add_event(scratch->store, &event);
}

static enum store_status release_as(struct scratch *scratch, const unsigned char *key)
{
    struct store_event event = event_of(key, "{\"read\":\"anew\"}");
    enum store_status status = begin(scratch->store, STORE_EXAMJOINT);
    return status == STORE_OK ? finish(scratch->store, store_event_release(scratch->store, "e2", &event))
                              : status;
}

static enum store_status release_alone(struct scratch *scratch)
{
    return release_as(scratch, KEY_NEW);
}

static enum store_status release_as_delivery(struct scratch *scratch)
{
    return release_as(scratch, KEY_THERE);
}

static const struct store_throttle RULE = {3, HOUR, HOUR, 3};

static enum store_status attempt(struct scratch *scratch, const unsigned char *key)
{
    int64_t wait_ms = 0;
    bool newly = false;
    enum store_status status = begin(scratch->store, STORE_EXAMJOINT);
    if (status != STORE_OK)
        return status;
    return finish(scratch->store,
                  store_attempt_count(scratch->store, key, "main", "e", NOW, &RULE, &wait_ms, &newly));
}

static enum store_status attempt_again(struct scratch *scratch)
{
    return attempt(scratch, KEY_THERE);
}

static enum store_status attempt_new(struct scratch *scratch)
{
    return attempt(scratch, KEY_NEW); /* the table is full: the oldest goes */
}

static enum store_status attempt_taken_back(struct scratch *scratch)
{
    enum store_status status = begin(scratch->store, STORE_EXAMJOINT);
    if (status != STORE_OK)
        return status;
    return finish(scratch->store, store_attempt_take_back(scratch->store, KEY_THERE, NOW));
}

static enum store_status forget(struct scratch *scratch, const unsigned char *key, const char *exam)
{
    int64_t removed = 0;
    enum store_status status = begin(scratch->store, STORE_EXAMJOINT);
    if (status != STORE_OK)
        return status;
    return finish(scratch->store, store_attempts_forget(scratch->store, key, exam, &removed));
}

static enum store_status forget_one(struct scratch *scratch)
{
    return forget(scratch, KEY_THERE, NULL);
}

static enum store_status forget_exam(struct scratch *scratch)
{
    return forget(scratch, NULL, "e");
}

static enum store_status count_throttled(struct scratch *scratch)
{
    int64_t count = 0;
    enum store_status status = store_throttled(scratch->store, NOW, &RULE, 10, &count);
    if (status == STORE_OK)
        assert_int_equal(count, 1);
    return status;
}

static enum store_status add_callback(struct store *store, const char *uuid, bool open)
{
    const struct store_callback callback = {.received_at_ms = NOW,
                                            .account = open ? "open" : "acme",
                                            .session_uuid = uuid,
                                            .message = "terminated",
                                            .sender = "192.0.2.1",
                                            .body = "{}",
                                            .open = open};
    const struct store_open_limit limit = {100, 100000};
    enum store_status status = begin(store, STORE_PROVIEW);
    return status == STORE_OK ? finish(store, store_callback_add(store, &callback, &limit, NULL)) : status;
}

static enum store_status callback_new(struct scratch *scratch)
{
    return add_callback(scratch->store, UUID_NEW, true);
}

static enum store_status callback_repeat(struct scratch *scratch)
{
    return add_callback(scratch->store, UUID_RATED, false);
}

static bool count_event(void *context, const struct store_event_row *row)
{
    (void)row;
    ++*(int *)context;
    return true;
}

/* From a cursor, one page after the other: as many rows as there are, or an error. */
static enum store_status read_events(struct scratch *scratch)
{
    const struct store_filter filter = {0};
    struct store_cursor cursor = STORE_CURSOR_START;
    enum store_status status = STORE_OK;
    bool more = true;
    int count = 0;
    while (status == STORE_OK && more)
        status = store_events(scratch->store, &filter, &cursor, 2, count_event, &count, &more);
    if (status == STORE_OK)
        assert_int_equal(count, 5);
    return status;
}

static enum store_status read_one_event(struct scratch *scratch)
{
    const struct store_filter filter = {.id = "e2"};
    struct store_cursor cursor = STORE_CURSOR_START;
    bool more = true;
    int count = 0;
    enum store_status status = store_events(scratch->store, &filter, &cursor, 2, count_event, &count, &more);
    if (status == STORE_OK)
        assert_int_equal(count, 1);
    return status;
}

static bool count_delivery(void *context, const struct store_delivery_row *row)
{
    (void)row;
    ++*(int *)context;
    return true;
}

static enum store_status read_deliveries(struct scratch *scratch)
{
    int count = 0;
    enum store_status status = store_deliveries(scratch->store, "e2", count_delivery, &count);
    if (status == STORE_OK)
        assert_int_equal(count, 2);
    return status;
}

static bool count_session(void *context, const struct store_session_row *row)
{
    *(size_t *)context += 10 + row->history_count;
    return true;
}

static enum store_status read_sessions(struct scratch *scratch)
{
    const struct store_filter filter = {0};
    struct store_cursor cursor = STORE_CURSOR_START;
    enum store_status status = STORE_OK;
    bool more = true;
    size_t count = 0;
    while (status == STORE_OK && more)
        status = store_sessions(scratch->store, &filter, &cursor, 1, count_session, &count, &more);
    if (status == STORE_OK)
        assert_int_equal(count, 21); /* two, one of them with a rating */
    return status;
}

/* --- The worker's */

static enum store_status round_of(struct store *store, enum store_status status)
{
    if (status == STORE_OK)
        return store_round_commit(store);
    store_round_abandon(store);
    return status;
}

static enum store_status take_in(struct scratch *scratch)
{
    size_t taken = 0;
    enum store_status status = store_round_begin(scratch->store, STORE_RATINGS);
    if (status != STORE_OK)
        return status;
    return round_of(scratch->store, store_sessions_intake(scratch->store, NOW, 6, 100, &taken));
}

static void count_lease(void *context, const struct store_lease *lease)
{
    (void)lease;
    ++*(int *)context;
}

/* As many as there are to be taken. */
static enum store_status lease_of(struct store *store, const char *owner, int64_t now_ms, size_t most)
{
    size_t taken = 0;
    int seen = 0;
    enum store_status status = store_round_begin(store, STORE_RATINGS);
    if (status != STORE_OK)
        return status;
    status = round_of(store, store_sessions_lease(store, now_ms, owner, 60000, 24 * HOUR, NULL, most,
                                                  count_lease, &seen, &taken));
    if (status == STORE_OK)
        assert_int_equal(taken, 1);
    return status;
}

static enum store_status take_lease(struct scratch *scratch)
{
    return lease_of(scratch->store, "w1", NOW + HOUR, 10);
}

static enum store_status end_lease(struct scratch *scratch)
{
    const struct store_session_result result = {.account = "open",
                                                .session_uuid = UUID_DUE,
                                                .owner = "w0",
                                                .at_ms = NOW + 2,
                                                .state = "rated",
                                                .usable = true,
                                                .external_id = "x",
                                                .rating = "low",
                                                .rating_raw = "low",
                                                .reply = "{}",
                                                .counts = true};
    enum store_status status = store_round_begin(scratch->store, STORE_RATINGS);
    if (status != STORE_OK)
        return status;
    return round_of(scratch->store, store_session_done(scratch->store, &result));
}

static enum store_status next_session(struct scratch *scratch)
{
    int64_t at_ms = 0;
    enum store_status status = store_sessions_next(scratch->store, NOW, 60000, 24 * HOUR, &at_ms);
    if (status == STORE_OK)
        assert_true(at_ms > 0);
    return status;
}

static enum store_status retry(struct scratch *scratch, const char *uuid)
{
    int64_t count = 0;
    enum store_status status = store_round_begin(scratch->store, STORE_RATINGS);
    if (status != STORE_OK)
        return status;
    status = round_of(scratch->store, store_sessions_retry(scratch->store, uuid, NOW + 5, &count));
    if (status == STORE_OK)
        assert_int_equal(count, 1);
    return status;
}

static enum store_status retry_one(struct scratch *scratch)
{
    return retry(scratch, UUID_RATED);
}

static enum store_status retry_parked(struct scratch *scratch)
{
    return retry(scratch, NULL);
}

static enum store_status get_login(struct scratch *scratch)
{
    struct store_login login = {0};
    enum store_status status = store_login_get(scratch->store, "acme", &login);
    if (status == STORE_OK) {
        assert_non_null(login.token);
        assert_string_equal(login.token, "CANARY-token");
        store_login_release(&login);
    }
    return status;
}

static enum store_status lease_login(struct scratch *scratch)
{
    enum store_status status = store_round_begin(scratch->store, STORE_RATINGS);
    if (status != STORE_OK)
        return status;
    return round_of(scratch->store, store_login_lease(scratch->store, "acme", "w2", NOW, 60000));
}

static enum store_status put_login(struct scratch *scratch)
{
    char token[] = "CANARY-token";
    const struct store_login login = {.token = token, .obtained_at_ms = NOW, .expires_at_ms = NOW + HOUR};
    enum store_status status = store_round_begin(scratch->store, STORE_RATINGS);
    if (status != STORE_OK)
        return status;
    return round_of(scratch->store, store_login_put(scratch->store, "acme", &login));
}

/* --- The roster's, and care */

static enum store_status import(struct scratch *scratch)
{
    const struct candidate_attribute seat = {"seat", "7"};
    const struct candidate lines[] = {{.account = "main",
                                       .id = "1",
                                       .email = "a@example.org",
                                       .password_hash = HASH,
                                       .data = "{}",
                                       .exam = "e",
                                       .attributes = &seat,
                                       .attribute_count = 1},
                                      {.account = "main", .id = "2", .data = "{}"},
                                      {.account = "main", .id = "3", .data = "{}"}};
    struct roster_build *build = NULL;
    int64_t removed = 0;
    enum store_status status = store_roster_begin(scratch->store, "main", false, NULL, &build);
    if (status != STORE_OK)
        return status;
    for (size_t i = 0; i < sizeof lines / sizeof *lines && status == STORE_OK; i++)
        status = store_roster_put(build, &lines[i], NULL);
    if (status == STORE_OK)
        status = store_roster_remove(build, "main", "3", &removed);
    if (status == STORE_OK)
        return store_roster_commit(build);
    store_roster_abandon(build);
    return status;
}

static bool count_candidate(void *context, const struct candidate *candidate)
{
    *(size_t *)context += 10 + candidate->attribute_count;
    return true;
}

static enum store_status find_candidate(struct scratch *scratch)
{
    const struct roster_key keys[] = {{"seat", "7", false}, {"email", "A@example.org", true}};
    size_t count = 0;
    enum store_status status = store_candidates(scratch->store, "main", keys, 2, count_candidate, &count);
    if (status == STORE_OK)
        assert_int_equal(count, 11);
    return status;
}

static enum store_status list_candidates(struct scratch *scratch)
{
    const struct roster_filter filter = {.account = "main"};
    size_t count = 0;
    enum store_status status = store_roster_list(scratch->store, &filter, count_candidate, &count);
    if (status == STORE_OK)
        assert_int_equal(count, 21);
    return status;
}

static enum store_status dummy(struct scratch *scratch)
{
    char setting[128];
    return store_roster_dummy(scratch->store, "main", setting, sizeof setting);
}

static enum store_status purge(struct scratch *scratch)
{
    struct store_purged purged = {0};
    return store_purge(scratch->store, NOW + 48 * HOUR, &purged);
}

/* As the programs do it: the step that failed is tried again, once. */
static enum store_status retention(struct scratch *scratch)
{
    /* By then the clock is one that was set. */
    const struct store_sweep_rule rule = {.retention_ms = HOUR, .now_ms = NOW + 5 * 365 * 24 * HOUR};
    struct store_sweep *sweep = store_sweep_new(scratch->store, &rule);
    enum store_status status = STORE_OK;
    bool tried = false;
    for (bool more = true; more && status == STORE_OK;) {
        status = store_sweep_step(sweep, &more);
        if (status != STORE_OK && !tried) {
            tried = more = true;
            status = STORE_OK;
        }
    }
    store_sweep_free(sweep);
    return status;
}

static enum store_status erase_event(struct scratch *scratch)
{
    unsigned char secret[STORE_KEY_BYTES];
    enum store_status status = store_identity_key(scratch->store, secret);
    if (status == STORE_OK)
        status = store_round_begin(scratch->store, STORE_EXAMJOINT);
    if (status != STORE_OK)
        return status;
    return round_of(scratch->store, store_event_erase(scratch->store, "e2", secret));
}

static enum store_status erase_session(struct scratch *scratch)
{
    int64_t count = 0;
    enum store_status status = store_round_begin(scratch->store, STORE_RATINGS);
    if (status != STORE_OK)
        return status;
    status = store_session_hold(scratch->store, "acme", UUID_RATED, "somebody");
    if (status == STORE_OK)
        status = store_session_erase(scratch->store, "acme", UUID_RATED, NOW, &count);
    if (status == STORE_OK)
        assert_int_equal(count, 1);
    return round_of(scratch->store, status);
}

static enum store_status erase_callbacks(struct scratch *scratch)
{
    int64_t count = 0;
    enum store_status status = store_round_begin(scratch->store, STORE_PROVIEW);
    if (status != STORE_OK)
        return status;
    status = store_callbacks_erase(scratch->store, "acme", UUID_RATED, NOW, &count);
    if (status == STORE_OK)
        status = store_callbacks_erase(scratch->store, "acme", UUID_NOBODY, NOW, &count);
    return round_of(scratch->store, status);
}

/* The callbacks' account, and the events'. */
static enum store_status remove_accounts(struct scratch *scratch)
{
    struct store_removed removed = {0};
    enum store_status status = store_account_remove(scratch->store, "acme", NULL, NULL, NULL, &removed);
    return status == STORE_OK ? store_account_remove(scratch->store, "main", NULL, NULL, NULL, &removed)
                              : status;
}

static enum store_status count_rated(struct scratch *scratch)
{
    int64_t place = 0, rated = 0;
    enum store_status status = store_sessions_last(scratch->store, &place);
    if (status == STORE_OK)
        status = store_account_rated(scratch->store, "acme", 0, &rated);
    return status;
}

static enum store_status backup(struct scratch *scratch)
{
    char folder[128];
    struct buf why = BUF_INIT;
    (void)snprintf(folder, sizeof folder, "%s/copy", scratch->folder);
    enum store_status status = store_backup(scratch->url, folder, &why);
    assert_int_equal(status == STORE_OK, why.len == 0);
    buf_release(&why);
    return status;
}

/* Opened anew; a token that could not be read is not taken for none. */
static enum store_status open_anew(struct scratch *scratch)
{
    struct store *store = NULL;
    struct buf why = BUF_INIT;
    enum store_status status = store_open(scratch->url, STORE_ALL, 0, 200, &store, &why);
    assert_int_equal(status == STORE_OK, store != NULL);
    assert_int_equal(status == STORE_OK, why.len == 0);
    store_free(store);
    buf_release(&why);
    return status;
}

static enum store_status migrate(struct scratch *scratch)
{
    struct buf said = BUF_INIT;
    enum store_status status = store_migrate(scratch->url, &said);
    buf_release(&said);
    return status;
}

static enum store_status migrate_from_nothing(struct scratch *scratch)
{
    char store[128], url[160];
    struct buf said = BUF_INIT;
    (void)snprintf(store, sizeof store, "%s/fresh", scratch->folder);
    (void)snprintf(url, sizeof url, "sqlite:%s", store);
    enum store_status status = store_migrate(url, &said);
    if (status == STORE_OK) {
        fault.left = 0; /* what follows is a look at what was made */
        struct store *fresh = NULL;
        assert_int_equal(store_open(url, STORE_ALL, 0, 200, &fresh, NULL), STORE_OK);
        store_free(fresh);
        (void)nftw(store, scratch_forget, 16, FTW_DEPTH | FTW_PHYS);
    }
    buf_release(&said);
    return status;
}

static void count_findings(void *context, const struct store_finding *finding)
{
    *(int *)context += !finding->ok;
    assert_true(finding->ok || finding->advice != NULL);
}

/* What went wrong is among the findings. */
static enum store_status check(struct scratch *scratch)
{
    int bad = 0;
    store_check(scratch->url, STORE_ALL, 0, true, count_findings, &bad);
    return bad == 0 ? STORE_OK : STORE_ERROR;
}

/* --- Each of them
 * ------------------------------------------------------------------------------------------- */

/* A store with something of everything, kept in `folder`/first. */
static int make_first(void **state)
{
    if (scratch_setup(state) != 0)
        return -1;
    struct scratch *scratch = *state;
    struct store *store = scratch->store;
    char token[] = "CANARY-token", first[128], from[128];
    const struct store_login login = {.token = token, .obtained_at_ms = NOW, .expires_at_ms = NOW + HOUR};
    const unsigned char *const tried[] = {KEY_OTHER, KEY_OTHER, KEY_OTHER, KEY_THERE,
                                          (const unsigned char *)UUID_NEW};
    struct store_event there = event_of(KEY_THERE, "{}"), odd = event_of(KEY_OTHER, "{\"odd\":1}");
    odd.quarantined = true;
    odd.outcome = "quarantined";
    assert_stored(store, add_event(store, &there));
    assert_stored(store, add_event(store, &odd));
    odd.body = "{\"odd\":2}";
    assert_stored(store, add_event(store, &odd));
    odd.body = "{\"odd\":1}";
    assert_stored(store, add_event(store, &odd));
    for (size_t i = 0; i < sizeof tried / sizeof *tried; i++)
        assert_stored(store, attempt(scratch, tried[i]));
    assert_stored(store, add_callback(store, UUID_RATED, false));
    assert_stored(store, take_in(scratch));
    assert_stored(store, import(scratch));
    assert_stored(store, lease_of(store, "w0", NOW, 1));
    assert_stored(store, store_round_begin(store, STORE_RATINGS));
    const struct store_session_result result = {.account = "acme",
                                                .session_uuid = UUID_RATED,
                                                .owner = "w0",
                                                .at_ms = NOW + 1,
                                                .state = "parked",
                                                .usable = true,
                                                .rating = "high",
                                                .rating_raw = "high",
                                                .reply = "{}",
                                                .counts = true};
    assert_stored(store, store_session_done(store, &result));
    assert_stored(store, store_login_put(store, "acme", &login));
    assert_stored(store, store_round_commit(store));
    assert_stored(store, add_callback(store, UUID_DUE, true));
    assert_stored(store, take_in(scratch));
    assert_stored(store, lease_of(store, "w0", NOW, 1));
    assert_stored(store, add_callback(store, UUID_NEW, false));
    store_free(store);
    scratch->store = NULL;
    (void)snprintf(from, sizeof from, "%s/store", scratch->folder);
    (void)snprintf(first, sizeof first, "%s/first", scratch->folder);
    return rename(from, first);
}

struct call {
    const char *name;
    enum store_status (*run)(struct scratch *scratch);
    bool in_parts; /* in several rounds: what was done before the fault stays done */
};

/* One fault. False: the call did not ask so much of SQLite. */
static bool one_fault(struct scratch *scratch, const struct call *call, int number, const char *before,
                      const char *after)
{
    put_back(scratch);
    fault.left = number;
    fault.hit = false;
    enum store_status status = call->run(scratch);
    fault.left = 0;
    if (!fault.hit)
        return false;
    char *now = dump(scratch);
    if (status == STORE_OK && strcmp(now, after) != 0)
        fail_msg("%s, fault %d: said to be done, and is not: %s", call->name, number, now);
    if (status != STORE_OK && !call->in_parts && strcmp(now, before) != 0)
        fail_msg("%s, fault %d (%s): something was left behind:\n%s\nbefore:\n%s", call->name, number,
                 store_status_word(status), now, before);
    free(now);
    if (status != STORE_OK) {
        status = call->run(scratch);
        if (status != STORE_OK)
            fail_msg("%s, after fault %d: %s (%s)", call->name, number, store_status_word(status),
                     store_message(scratch->store));
        now = dump(scratch);
        assert_string_equal(now, after);
        free(now);
    }
    char copy[128];
    (void)snprintf(copy, sizeof copy, "%s/copy", scratch->folder);
    (void)nftw(copy, scratch_forget, 16, FTW_DEPTH | FTW_PHYS);
    return true;
}

static void try_calls(struct scratch *scratch, const struct call *calls, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char copy[128];
        put_back(scratch);
        char *before = dump(scratch);
        enum store_status status = calls[i].run(scratch);
        if (status != STORE_OK)
            fail_msg("%s: %s (%s)", calls[i].name, store_status_word(status), store_message(scratch->store));
        char *after = dump(scratch);
        (void)snprintf(copy, sizeof copy, "%s/copy", scratch->folder);
        (void)nftw(copy, scratch_forget, 16, FTW_DEPTH | FTW_PHYS);
        int number = 1;
        while (one_fault(scratch, &calls[i], number, before, after))
            number++;
        assert_true(number > 1); /* the faults did reach it */
        free(before);
        free(after);
    }
}

#define TRY(...)                                                \
    do {                                                        \
        const struct call calls[] = {__VA_ARGS__};              \
        try_calls(*state, calls, sizeof calls / sizeof *calls); \
    } while (0)

static void events_of_examjoint(void **state)
{
    TRY({"a new event", event_new, false}, {"a repeat", event_repeat, false},
        {"a release", release_alone, false}, {"a release that is a delivery", release_as_delivery, false});
}

static void guessing(void **state)
{
    TRY({"an attempt", attempt_again, false}, {"an attempt of one more", attempt_new, false},
        {"taken back", attempt_taken_back, false}, {"one forgotten", forget_one, false},
        {"an exam's forgotten", forget_exam, false}, {"the throttled", count_throttled, false});
}

static void callbacks_of_proview(void **state)
{
    TRY({"a new callback", callback_new, false}, {"a repeat", callback_repeat, false});
}

static void reading(void **state)
{
    TRY({"events", read_events, false}, {"one event", read_one_event, false},
        {"deliveries", read_deliveries, false}, {"sessions", read_sessions, false});
}

static void the_workers_calls(void **state)
{
    TRY({"intake", take_in, false}, {"a lease", take_lease, false}, {"its end", end_lease, false},
        {"the next", next_session, false}, {"one retried", retry_one, false},
        {"the parked retried", retry_parked, false}, {"a login read", get_login, false},
        {"a login's lease", lease_login, false}, {"a login kept", put_login, false});
}

static void rosters(void **state)
{
    TRY({"an import", import, false}, {"a candidate", find_candidate, false},
        {"a list", list_candidates, false}, {"a dummy", dummy, false});
}

static void care(void **state)
{
    TRY({"purge", purge, true}, {"retention", retention, true}, {"backup", backup, false},
        {"opening", open_anew, false}, {"migrate", migrate, false},
        {"migrate from nothing", migrate_from_nothing, false}, {"check", check, false},
        {"accounts removed", remove_accounts, true}, {"the rated", count_rated, false});
}

static void erasing(void **state)
{
    TRY({"an event", erase_event, false}, {"a session", erase_session, false},
        {"callbacks", erase_callbacks, false});
}

int main(void)
{
#define with_first(test) cmocka_unit_test_setup_teardown(test, make_first, scratch_teardown)
    const struct CMUnitTest tests[] = {
        with_first(events_of_examjoint),
        with_first(guessing),
        with_first(callbacks_of_proview),
        with_first(reading),
        with_first(the_workers_calls),
        with_first(rosters),
        with_first(care),
        with_first(erasing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
