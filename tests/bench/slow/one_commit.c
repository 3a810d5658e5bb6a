/*
 * For parts/slow_disk.py: the intake with one commit for each request, as small as it can be in C: libfcgi,
 * SQLite, one request at a time. `one_commit SOCKET`, with the environment that the peers get.
 */
#include <fcgiapp.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BACKLOG = 511, BODY_MOST = 65536 };

static bool is_right(const FCGX_Request *request, const char *header, const char *variable)
{
    const char *given = FCGX_GetParam(header, request->envp), *wanted = getenv(variable);
    return given && wanted && strcmp(given, wanted) == 0;
}

/* What went wrong: a status; 200: it is committed. */
static int keep(sqlite3_stmt *insert, const char *body, int len)
{
    int code;

    sqlite3_bind_text(insert, 1, body, len, SQLITE_STATIC);
    code = sqlite3_step(insert);
    sqlite3_reset(insert);
    if (code == SQLITE_DONE)
        return 200;
    /* json_extract() finds no JSON, or a member is NULL. */
    return code == SQLITE_CONSTRAINT || code == SQLITE_ERROR ? 400 : 503;
}

static void serve(FCGX_Request *request, sqlite3_stmt *insert)
{
    static char body[BODY_MOST];
    int len = FCGX_GetStr(body, sizeof body, request->in);
    bool allowed = is_right(request, "HTTP_X_CLIENT_ID", "BENCH_ID") &&
                   is_right(request, "HTTP_X_CLIENT_SECRET", "BENCH_SECRET");

    FCGX_FPrintF(request->out, "Status: %d\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
                 allowed ? keep(insert, body, len) : 401);
}

int main(int argc, char **argv)
{
    static const char sql[] =
        "INSERT INTO events(received_at, event, respondent_id, exam_id, admitted_on, body)"
        " VALUES(strftime('%s', 'now'), json_extract(?1, '$.event'), json_extract(?1, '$.respondent_id'),"
        " json_extract(?1, '$.exam_id'), json_extract(?1, '$.admittedOn'), ?1)"
        " ON CONFLICT(event, respondent_id, exam_id, admitted_on) DO NOTHING";
    const char *database = getenv("BENCH_DB");
    sqlite3 *store;
    sqlite3_stmt *insert;
    FCGX_Request request;

    if (argc != 2 || !database || FCGX_Init() != 0 || sqlite3_open(database, &store) != SQLITE_OK ||
        sqlite3_exec(store, "PRAGMA synchronous = FULL", NULL, NULL, NULL) != SQLITE_OK ||
        sqlite3_prepare_v2(store, sql, -1, &insert, NULL) != SQLITE_OK)
        return 2;
    umask(0117);
    int listener = FCGX_OpenSocket(argv[1], BACKLOG);
    if (listener < 0 || FCGX_InitRequest(&request, listener, 0) != 0)
        return 1;
    while (FCGX_Accept_r(&request) == 0) {
        serve(&request, insert);
        FCGX_Finish_r(&request);
    }
    return 1;
}
