/*
 * What the files of the SQLite store share with each other; nobody else includes this.
 *
 *   store_sqlite.c            files, connections, locks, rounds, opening
 *   store_sqlite_migrate.c    the schemas of ExamJoint's and Proview's areas, and what makes them
 *   store_sqlite_events.c     ExamJoint's events and verifications
 *   store_sqlite_attempts.c   guessing is counted
 *   store_sqlite_callbacks.c  Proview's callbacks
 *   store_sqlite_list.c       events and callbacks read page by page
 *   store_sqlite_care.c       backup, check
 *   store_sqlite_purge.c      what is old goes, and nothing of it remains in the file
 *   store_sqlite_erase.c      one person's rows lose what names the person
 *   store_sqlite_account.c    all that one account has goes
 *   store_sqlite_ratings.c    sessions and their ratings: what came of a look, listing, retry
 *   store_sqlite_queue.c      callbacks taken in, due sessions leased
 *   store_sqlite_logins.c     tokens
 *   store_sqlite_roster.c     the roster is read
 *   store_sqlite_roster_build.c  a new roster is built aside and put in place
 */
#ifndef EXAMHOOK_STORE_SQLITE_H
#define EXAMHOOK_STORE_SQLITE_H

#include <sqlite3.h>
#include <sys/stat.h>

#include "store.h"

/* The version of this program's schema, kept as user_version in every file. Changes are additive: a program
   bears a store one version newer than its own (STORE_NEW beyond that), and asks for a migration of an older
   one (STORE_OLD). */
#define STORE_SCHEMA 1

/* Prepared statements are made when first used and kept; each file numbers its own within its area, from 0.
   Those from STORE_STATEMENTS_ROUND on belong to the rounds of every area, the others named here to the files
   that share ExamJoint's and Proview's areas. */
#define STORE_STATEMENTS 64
#define STORE_STATEMENTS_ROUND 56
#define STORE_STATEMENTS_ATTEMPTS 10
#define STORE_STATEMENTS_LIST 30
#define STORE_STATEMENTS_CARE 44

/* SQL: whether a row of that account is to be seen, by store_filter's `account`. */
#define STORE_ACCOUNT_WANTED(column, parameter) \
    column " IS coalesce(" parameter ", nullif(" column ", '" STORE_REHEARSAL "'))"

/*
 * SQL: what the indexes of events begin with, so that what comes together lies together in them. A key, a
 * respondent's or a candidate's id is as good as random: by itself each new row would change another page of
 * its index, and the more rows there are, the more of them no cache holds. Keys come with their exam. Ids
 * come by blocks of rows that follow each other, of which some 40 pages of an index are changed at a time,
 * however many events a day brings and however many there are. A lookup by an id asks each block, one step in
 * the index for each: some 250 for a million events. So it is done by and by (STORE_EVENT_BLOCKS).
 */
#define STORE_EVENT_EXAM(exam_id) "ifnull(substr(" exam_id ", -8), '')"
/* Within an exam by time, as admissions come, and by the end of the id, which is where one that is counted up
 * differs from the one before. */
#define STORE_EVENT_TIME(admitted_on) "ifnull(" admitted_on ", 0)"
#define STORE_EVENT_PERSON(respondent_id) "ifnull(substr(" respondent_id ", -8), '')"
#define STORE_EVENT_BLOCK "id >> 12"
#define STORE_EVENT_BLOCK_END(block) (((block) << 12) | 4095) /* the last id in it */
/* From ?7 to ?8. A block of which a purge or repeats left nothing costs a step in an index; to look which
 * have rows would cost more, as it reads the table. */
#define STORE_EVENT_BLOCKS \
    "blocks(block) AS (SELECT ?7 UNION ALL SELECT block + 1 FROM blocks WHERE block < ?8)"
/* 1: that index is there, and by blocks. */
#define STORE_EVENT_BY_BLOCK(index) \
    "(SELECT instr(sql, '" STORE_EVENT_BLOCK "') > 0 FROM sqlite_schema WHERE name = '" index "')"
/* Stores that were made before have ids by the day, until they are migrated: each day is asked then. None
 * where both indexes are by blocks. */
#define STORE_EVENT_DAY "received_at / 86400000"
#define STORE_EVENT_DAYS                                                                           \
    "days(day) AS (SELECT (SELECT min(received_at) / 86400000 FROM events) WHERE (SELECT count(*)" \
    " FROM sqlite_schema WHERE name IN ('events_respondent', 'events_identity')"                   \
    " AND instr(sql, '" STORE_EVENT_BLOCK "') > 0) < 2 UNION ALL"                                  \
    " SELECT (SELECT received_at / 86400000 FROM events WHERE received_at >= (day + 1) * 86400000" \
    " ORDER BY received_at LIMIT 1) FROM days WHERE day IS NOT NULL)"

/* The group of an area's folder is who may read it; the ratings hold Talview's token, which is the worker's
 * alone. */
#define STORE_FILE_MODE(area) ((mode_t)((area) == STORE_RATINGS ? 0600 : 0640))
#define STORE_FOLDER_MODE(area) ((mode_t)((area) == STORE_RATINGS ? 0700 : 0750))
#define STORE_LOCK_MODE 0600 /* nobody but the writer has a reason to hold it */
#define STORE_BACKUP_FOLDER_MODE 0750

/* One SQLite file. */
struct store_file {
    enum store_area area;
    char *folder, *path, *lock_path; /* NULL: this area was not asked for */
    sqlite3 *db;                     /* NULL: not open */
    bool writable;
    bool suspect;   /* an I/O error was seen: the connection is made anew before it is used again */
    bool wal;       /* else a rollback journal */
    bool locked;    /* we hold the flock */
    int lock_fd;    /* -1: not open; flocked while a round runs */
    int wal_frames; /* in the log after the last commit of ours */
    int wal_tried;  /* the frames there were when a checkpoint was last tried in vain */
    int page_bytes;
    sqlite3_stmt *statements[STORE_STATEMENTS];
    /* Events: what was found when the data were of that version, which tells when another has written. */
    bool erased_known, erased_some;
    int64_t erased_version;
    /* The files that are open, to notice that one was removed, cut or replaced: the store, and (st_ino 0: not
       seen) its write-ahead log with its index, of which SQLite never looks again whether they are there. */
    struct stat seen, seen_log, seen_index;
};

struct store {
    struct store_file roster, examjoint, proview, ratings;
    char *url;
    int64_t lock_wait_ms;
    int64_t log_bytes_max; /* a commit that finds a longer log moves it into the file; 0: the usual length */
    struct store_file *round;       /* whose round runs, NULL: none */
    bool erased_fresh;              /* no other can write in this round: it was asked already */
    bool step_event, step_wrote;    /* a step of one event; its row is written, and cannot be undone alone */
    enum store_status round_failed; /* SQLite gave the round up: nothing more is written in it */
    struct buf message;
};

/* --- Files and connections -------------------------------------------------------------------------------
 */

/* Paths below the folder of the url: roster/roster.db, examjoint/events.db, proview/callbacks.db,
   ratings/ratings.db, each with NAME.lock beside it. Nothing is opened. False: not a "sqlite:" url. */
bool store_file_name(const char *url, enum store_area area, struct store_file *file);
/* Closes everything and frees the names. Takes one that was only zeroed and given lock_fd = -1. */
void store_file_release(struct store_file *file);
struct store_file *store_file_of(struct store *store, enum store_area area);
/* "events.db" */
const char *store_file_label(enum store_area area);

/* `from` is open; `to` is there and empty, and closed again. Not synced; when it fails, what lies there is no
 * copy. */
enum store_status store_copy_without_tokens(struct store *store, struct store_file *from,
                                            struct store_file *to, int64_t version);

/* Opens file->path with every setting this store wants, and looks at its schema version. Never creates. */
enum store_status store_file_connect(struct store *store, struct store_file *file, bool writable);
/* The same for a file of any schema version, which it gives: 0 for one that is empty. */
enum store_status store_file_connect_any(struct store *store, struct store_file *file, bool writable,
                                         int64_t *version);
/* STORE_CORRUPT where the file is gone or empty but its write-ahead log is there: that holds what was stored
 * last, and SQLite would delete it. */
enum store_status store_file_orphaned_log(struct store *store, const struct store_file *file);
/* The one number that this SQL gives. */
enum store_status store_number(struct store *store, struct store_file *file, const char *sql,
                               int64_t *number);
/* Finalizes the statements and closes the connection; the lock stays as it is. */
void store_file_disconnect(struct store_file *file);
/* Before a read outside a round: connects where need be (first use, after an I/O error, a file removed, cut
   or put in its place). */
enum store_status store_file_ready(struct store *store, struct store_file *file);
/* The flock beside the file; waits for store->lock_wait_ms at most. */
enum store_status store_file_lock(struct store *store, struct store_file *file);
void store_file_unlock(struct store_file *file);
/* The log is moved into the file and cut to nothing, so that it holds no older state of a page. STORE_BUSY:
   somebody reads, or another holds the lock. */
enum store_status store_log_cut(struct store *store, struct store_file *file);

/* store_sqlite_log.c: the VFS to open a file by, NULL where there is none. And whether from now on a commit's
   part of the log is written at once, just before it is synced; what was not synced is forgotten. Only under
   the lock, for a connection with synchronous=FULL, and to be ended before the lock is. */
const char *store_log_vfs(void);
void store_log_gather(const struct store_file *file, bool gather);
/* The same for who holds the lock, outside a round. */
enum store_status store_log_cut_locked(struct store *store, struct store_file *file);
/* Creates an empty file with this mode whatever the umask is, given to the owner of its folder where we are
   root. False: errno says why. */
bool store_file_create(const char *path, mode_t mode);
/* fsync of a large file, its data piece by piece before it: an event's commit on the same disk waits for one
   piece at the most. False: errno says why. */
bool store_sync_gently(int fd);
/* Brings what was written from *at on, up to `end`, to the disk piece by piece, and moves *at behind it. It
   makes nothing last by itself. False: errno says why. */
bool store_write_out(int fd, int64_t *at, int64_t end);
/* fsync of a folder, so that a name made or replaced in it lasts. */
enum store_status store_sync_folder(const char *folder);
/* NFS and its like, where a write-ahead log does not work. */
bool store_network_folder(const char *folder);

/* --- What went wrong ---------------------------------------------------------------------------------------
 */

/* Keeps a message of ours and returns `status`. */
enum store_status store_say(struct store *store, enum store_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* The same for a system call that failed: "doing: strerror", errno mapped to a status. */
enum store_status store_say_errno(struct store *store, const char *doing);
/* Maps SQLite's last result on this file to a status and keeps the message ("doing: what SQLite said"). */
enum store_status store_fail(struct store *store, struct store_file *file, const char *doing);

/* From here on what the step writes can be undone, where it began as a step of one event. */
enum store_status store_step_savepoint(struct store *store);
/* A number that is another one after somebody else has written. In a round. */
enum store_status store_data_version(struct store *store, struct store_file *file, int64_t *version);

/* What writes within a round needs one, in its own area: STORE_ERROR otherwise. */
enum store_status store_in_round(struct store *store, const struct store_file *file);

/* --- Statements --------------------------------------------------------------------------------------------
 */

/* The statement of that slot, prepared with this SQL when first used; reset and with no bindings. NULL:
 * store_fail() was called, *status is set. */
sqlite3_stmt *store_statement(struct store *store, struct store_file *file, int slot, const char *sql,
                              enum store_status *status);
/* Steps a statement that returns no row, resets it. */
enum store_status store_run(struct store *store, struct store_file *file, sqlite3_stmt *statement,
                            const char *doing);
/* Runs a DELETE with two numbers, ?1 and ?2. *removed: the rows that went. */
enum store_status store_delete_by(struct store *store, struct store_file *file, int slot, const char *sql,
                                  int64_t first, int64_t second, int64_t *removed);
/* NULL binds NULL. Texts are bound SQLITE_STATIC: they live until the statement is reset. */
void store_bind_text(sqlite3_stmt *statement, int index, const char *text);
/* The column's text, NULL for NULL. Dies with the next step. */
const char *store_column_text(sqlite3_stmt *statement, int column);
/* The number in "e12" or "c7". False: not an id of that letter. */
bool store_id_read(const char *id, char letter, int64_t *number);

/* --- One person's events -----------------------------------------------------------------------------------
 */

/* The blocks in which they are looked for from that place on. STORE_ABSENT: in all in one go, as the indexes
   are those of an older store. */
enum store_status store_events_blocks(struct store *store, const struct store_cursor *cursor, int64_t *first,
                                      int64_t *last);
/* Looks for them from the block `first` to `last`, for nothing but the pages that this reads. */
enum store_status store_events_touch(struct store *store, const char *person, int64_t first, int64_t last);

/* --- The areas
 * ---------------------------------------------------------------------------------------------- */

/*
 * The schema of an area's file: SQL for a new one, run by store_migrate() in one transaction.
 *
 * What the worker reads of Proview's area:
 *   callbacks(id, seq, received_at, account, session_uuid, message, external_id, sender, flags, open,
 *             deliveries, last_received_at, body)
 * `seq` grows with every callback and is renewed by each repeat; there is an index on it.
 */
extern const char store_schema_examjoint[];
extern const char store_schema_proview[];
extern const char store_schema_ratings[];
extern const char store_schema_roster[];

/* The other files' part of a sweep, called within a round of the ratings area: deletes at most `most`
 * sessions; *removed 0 ends it. */
enum store_status store_purge_sessions(struct store *store, int64_t before_ms, size_t most, int64_t *removed);
/* Overwrites what deleting has left in the unused parts of pages, of a file that nobody else has open. */
enum store_status store_scrub_file(struct store *store, struct store_file *file);
/* `seq` of the last callback that the worker has taken in; 0 for none. */
enum store_status store_intake_mark(struct store *store, int64_t *mark);
/* Names in the ratings' `meta`, with the account behind: since when its logins fail, and for how long. */
#define LOGIN_FAILING_FROM "logins_fail_from "
#define LOGIN_FAILING_FOR "logins_fail_for "
/* What stands in place of a session's UUID once it is erased. */
#define STORE_ERASED_BYTES 80
void store_erased_uuid(const char *session_uuid, char text[STORE_ERASED_BYTES]);
/* The roster is opened read-only when first used, and again when another file was put in its place. */
enum store_status store_roster_reopen(struct store *store);

#endif
