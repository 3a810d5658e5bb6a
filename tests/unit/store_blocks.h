/* A store whose events' ids go through many blocks, as that of many more events. */
#ifndef EXAMHOOK_TESTS_STORE_BLOCKS_H
#define EXAMHOOK_TESTS_STORE_BLOCKS_H

#include "store_scratch.h"

#include "../../common/store_sqlite.h"

static inline void run_sql(struct store *store, const char *sql)
{
    char *error = NULL;
    if (sqlite3_exec(store->examjoint.db, sql, NULL, NULL, &error) != SQLITE_OK)
        fail_msg("%s: %s", sql, error);
}

/* Blocks with an event of somebody else at their beginning, received at `at_ms` and the block's number. */
static inline void fill_blocks(struct store *store, int blocks, int64_t at_ms)
{
    char sql[512];
    (void)snprintf(sql, sizeof sql,
                   "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < %d)"
                   " INSERT INTO events(id, received_at, account, respondent_id, last_received_at)"
                   " SELECT n * 4096 + 1, %lld + n, 'main', 'another', %lld + n FROM n",
                   blocks - 1, (long long)at_ms, (long long)at_ms);
    run_sql(store, sql);
}

#endif
