/* One person's rows lose what names the person, and go on counting. */
#include "store_sqlite.h"

#include <sodium.h>
#include <string.h>

#include "throttle.h"

#define KEY_BYTES 32

/* An erasure is rare: its statements are not kept. Texts are ?1 to ?4, numbers ?5 and ?6. */
struct arguments {
    const char *text[4];
    int64_t number[2];
};

static sqlite3_stmt *prepared(struct store *store, struct store_file *file, const char *sql,
                              const struct arguments *arguments, enum store_status *status)
{
    sqlite3_stmt *statement = NULL;
    *status = store_in_round(store, file);
    if (*status != STORE_OK)
        return NULL;
    if (sqlite3_prepare_v2(file->db, sql, -1, &statement, NULL) != SQLITE_OK) {
        *status = store_fail(store, file, "erasing");
        return NULL;
    }
    int count = sqlite3_bind_parameter_count(statement);
    for (int i = 1; i <= 4 && i <= count; i++)
        store_bind_text(statement, i, arguments->text[i - 1]);
    for (int i = 5; i <= 6 && i <= count; i++)
        sqlite3_bind_int64(statement, i, arguments->number[i - 5]);
    return statement;
}

static enum store_status run(struct store *store, struct store_file *file, const char *sql,
                             const struct arguments *arguments, int64_t *changed)
{
    enum store_status status;
    sqlite3_stmt *statement = prepared(store, file, sql, arguments, &status);
    if (!statement)
        return status;
    status = store_run(store, file, statement, "erasing");
    if (status == STORE_OK && changed)
        *changed = sqlite3_changes64(file->db);
    sqlite3_finalize(statement);
    return status;
}

void store_erased_uuid(const char *session_uuid, char text[STORE_ERASED_BYTES])
{
    static const char prefix[] = STORE_ERASED;
    unsigned char digest[crypto_hash_sha256_BYTES];
    _Static_assert(sizeof prefix + 2 * sizeof digest <= STORE_ERASED_BYTES, "the text must fit");
    crypto_hash_sha256(digest, (const unsigned char *)session_uuid, strlen(session_uuid));
    memcpy(text, prefix, sizeof prefix - 1);
    sodium_bin2hex(text + sizeof prefix - 1, 2 * sizeof digest + 1, digest, sizeof digest);
}

/* --- Events ------------------------------------------------------------------------------------------------
 */

/* The key that the row has and the one that it gets; *has: it has one. STORE_ABSENT: nothing to erase. */
static enum store_status new_key(struct store *store, struct store_file *file,
                                 const struct arguments *arguments, const unsigned char *secret,
                                 unsigned char key[KEY_BYTES], bool *has)
{
    enum store_status status;
    sqlite3_stmt *statement = prepared(
        store, file, "SELECT key FROM events WHERE id = ?5 AND identity IS NOT ?1", arguments, &status);
    if (!statement)
        return status;
    int code = sqlite3_step(statement);
    if (code == SQLITE_ROW) {
        const unsigned char *old = sqlite3_column_blob(statement, 0);
        *has = old && sqlite3_column_bytes(statement, 0) == KEY_BYTES;
        if (*has)
            throttle_erased_key(secret, old, key);
    } else {
        status = code == SQLITE_DONE ? STORE_ABSENT : store_fail(store, file, "erasing");
    }
    sqlite3_finalize(statement);
    return status;
}

static enum store_status put_key(struct store *store, struct store_file *file,
                                 const struct arguments *arguments, const unsigned char key[KEY_BYTES])
{
    enum store_status status;
    sqlite3_stmt *statement =
        prepared(store, file, "UPDATE OR REPLACE events SET key = ?6 WHERE id = ?5", arguments, &status);
    if (!statement)
        return status;
    sqlite3_bind_blob(statement, 6, key, KEY_BYTES, SQLITE_STATIC);
    status = store_run(store, file, statement, "erasing");
    sqlite3_finalize(statement);
    return status;
}

/* Of an event that we do not know even the name is the sender's free text. */
enum store_status store_event_erase(struct store *store, const char *id,
                                    const unsigned char secret[STORE_KEY_BYTES])
{
    struct store_file *file = &store->examjoint;
    struct arguments arguments = {.text = {STORE_ERASED}};
    unsigned char key[KEY_BYTES];
    bool has_key = false;
    if (!store_id_read(id, 'e', &arguments.number[0]))
        return store_say(store, STORE_ABSENT, "\"%s\" is no event's id", id);
    enum store_status status = new_key(store, file, &arguments, secret, key, &has_key);
    if (status == STORE_OK)
        status =
            run(store, file,
                "UPDATE events SET identity = ?1, respondent_id = NULL, admitted_on = NULL,"
                " positions = NULL, body = NULL, quarantined = 0,"
                " event = CASE WHEN event IN ('verify_respondent', 'admitted_respondent', 'result_ready',"
                " 'investigation_complete') THEN event END WHERE id = ?5",
                &arguments, NULL);
    if (status == STORE_OK)
        status = run(store, file, "DELETE FROM deliveries WHERE event_id = ?5", &arguments, NULL);
    if (status == STORE_OK && has_key)
        status = put_key(store, file, &arguments, key);
    file->erased_known = false;
    store->erased_fresh = false;
    return status;
}

/* --- Sessions and their callbacks --------------------------------------------------------------------------
 */

enum store_status store_session_hold(struct store *store, const char *account, const char *session_uuid,
                                     const char *person)
{
    const struct arguments arguments = {.text = {session_uuid, account, person}};
    return run(store, &store->ratings,
               "UPDATE sessions SET claimed_external_id = ?3, next_attempt_at = NULL, renewed_due_at = NULL,"
               " lease_owner = NULL, lease_until = NULL WHERE session_uuid = ?1 AND account = ?2",
               &arguments, NULL);
}

enum store_status store_session_erase(struct store *store, const char *account, const char *session_uuid,
                                      int64_t now_ms, int64_t *count)
{
    char erased[STORE_ERASED_BYTES];
    store_erased_uuid(session_uuid, erased);
    const struct arguments arguments = {.text = {session_uuid, account, erased, STORE_ERASED_STATE},
                                        .number = {now_ms}};
    enum store_status status =
        run(store, &store->ratings,
            "DELETE FROM history WHERE session IN (SELECT session FROM sessions WHERE session_uuid = ?1"
            " AND account = ?2)",
            &arguments, NULL);
    if (status != STORE_OK)
        return status;
    return run(
        store, &store->ratings,
        "UPDATE OR REPLACE sessions SET session_uuid = ?3, state = ?4, external_id = NULL,"
        " claimed_external_id = NULL, rating_raw = NULL, status = NULL, type = NULL, last_error = NULL,"
        " reply = NULL, sender = '', unknown = 0, next_attempt_at = NULL, renewed_due_at = NULL,"
        " lease_owner = NULL, lease_until = NULL, looked_at = coalesce(looked_at, ?5)"
        " WHERE session_uuid = ?1 AND account = ?2",
        &arguments, count);
}

static enum store_status first_callback(struct store *store, struct store_file *file,
                                        const struct arguments *arguments, int64_t *id, int64_t *count)
{
    enum store_status status;
    sqlite3_stmt *statement = prepared(
        store, file, "SELECT count(*), min(id) FROM callbacks WHERE session_uuid = ?1 AND account = ?2",
        arguments, &status);
    if (!statement)
        return status;
    if (sqlite3_step(statement) == SQLITE_ROW) {
        *count = sqlite3_column_int64(statement, 0);
        *id = sqlite3_column_int64(statement, 1);
    } else {
        status = store_fail(store, file, "erasing");
    }
    sqlite3_finalize(statement);
    return status;
}

/* A session whose callbacks were purged gets a row that says no more than that later ones are not to count.
   One that an erasure left which was cut short stays, with what it counts. */
static enum store_status add_erased_callback(struct store *store, struct store_file *file,
                                             const struct arguments *arguments)
{
    enum store_status status =
        run(store, file, "UPDATE counters SET value = value + 1 WHERE name = 'seq'", arguments, NULL);
    if (status != STORE_OK)
        return status;
    return run(store, file,
               "INSERT OR IGNORE INTO callbacks(seq, received_at, last_received_at, account, session_uuid,"
               " flags, deliveries) SELECT value, ?5, ?5, ?2, ?3, ?4, 0 FROM counters WHERE name = 'seq'",
               arguments, NULL);
}

enum store_status store_callbacks_erase(struct store *store, const char *account, const char *session_uuid,
                                        int64_t now_ms, int64_t *count)
{
    struct store_file *file = &store->proview;
    char erased[STORE_ERASED_BYTES];
    store_erased_uuid(session_uuid, erased);
    struct arguments arguments = {.text = {session_uuid, account, erased, STORE_ERASED_STATE},
                                  .number = {now_ms}};
    enum store_status status = first_callback(store, file, &arguments, &arguments.number[1], count);
    if (status != STORE_OK || *count == 0)
        return status == STORE_OK ? add_erased_callback(store, file, &arguments) : status;
    status =
        run(store, file,
            "UPDATE callbacks SET (deliveries, last_received_at) = (SELECT sum(deliveries),"
            " max(last_received_at) FROM callbacks WHERE session_uuid = ?1 AND account = ?2) WHERE id = ?6",
            &arguments, NULL);
    if (status == STORE_OK)
        status =
            run(store, file, "DELETE FROM callbacks WHERE session_uuid = ?1 AND account = ?2 AND id <> ?6",
                &arguments, NULL);
    if (status == STORE_OK)
        status = run(store, file,
                     "UPDATE OR REPLACE callbacks SET session_uuid = ?3, flags = ?4, message = NULL,"
                     " external_id = NULL, sender = NULL, body = NULL WHERE id = ?6",
                     &arguments, NULL);
    return status;
}
