/* The ExamJoint route: every refusal in its order, every event, every outcome of a verification. */
#include "route_harness.h"

#include "../../common/clock.h"
#include "../../common/json.h"
#include "../../common/language.h"

#define PATH "/webhooks/examjoint"
#define PAUSE_S 4 /* so long that a busy machine or disk is done with the refusals within it */
#define ONE                                                      \
    {                                                            \
        "HTTP_X_CLIENT_ID=id-1", "HTTP_X_CLIENT_SECRET=secret-1" \
    }
#define TWO                                                      \
    {                                                            \
        "HTTP_X_CLIENT_ID=id-2", "HTTP_X_CLIENT_SECRET=secret-2" \
    }
#define VERIFY(exam, fields) \
    "{\"event\":\"verify_respondent\",\"exam_id\":\"" exam "\",\"fields\":[" fields "]}"
#define FIELD(position, value) "{\"position\":" position ",\"value\":\"" value "\"}"
#define LOGIN(id, password) FIELD("0", id) "," FIELD("1", password)

static const char conf[] = "[server]\nbody_limit = 4K\n"
                           "[verify]\nlanguages = /nowhere/at/all\n"
                           "[throttle]\nfailures = 3\npause = 4s\nspike = 1\n"
                           "[examjoint one]\nclient_id = id-1\nclient_secret = secret-1\n"
                           "client_secret_previous = older-1\n"
                           "[examjoint two]\nclient_id = id-2\nclient_secret = secret-2\n"
                           "[fields exam]\n0 = id\n1 = password\n"
                           "[fields mail]\n0 = email\n1 = password\n"
                           "[fields both]\n0 = id\n1 = password\n2 = email\n"
                           "[fields open]\n0 = id\n"
                           "[fields other]\n0 = id\n1 = password\n"
                           "[fields strict]\n0 = id\n1 = password\n";

static void put(struct roster_build *build, const char *account, const char *id, const char *hash,
                const char *exam, int64_t opens_ms, int64_t closes_ms)
{
    struct candidate candidate = {.account = account,
                                  .id = id,
                                  .password_hash = hash,
                                  .exam = exam,
                                  .opens_ms = opens_ms,
                                  .closes_ms = closes_ms};
    if (strcmp(id, "ann") == 0) {
        candidate.email = "Ann@Example.org";
        candidate.name = strcmp(account, "one") == 0 ? "Ann" : "The other Ann";
    }
    assert_int_equal(store_roster_put(build, &candidate, NULL), STORE_OK);
}

static void import_roster(struct harness *h)
{
    struct store *store;
    struct roster_build *build;
    struct buf why = BUF_INIT;
    char right[PASSWORD_HASH_BYTES], other[PASSWORD_HASH_BYTES];
    int64_t now = clock_now_ms();
    assert_true(password_make("sha512crypt", "CANARY right", right));
    assert_true(password_make("sha512crypt", "CANARY other", other));
    assert_int_equal(store_open(h->url, STORE_ROSTER, 0, 1000, &store, &why), STORE_OK);
    assert_int_equal(store_roster_begin(store, NULL, true, NULL, &build), STORE_OK);
    put(build, "one", "ann", right, NULL, 0, 0);
    put(build, "two", "ann", other, NULL, 0, 0);
    put(build, "one", "bob", right, "exam", 0, 0);
    put(build, "one", "early", right, NULL, now + 3600000, 0);
    put(build, "one", "late", right, NULL, 0, now - 3600000);
    put(build, "one", "nohash", NULL, NULL, 0, 0);
    assert_int_equal(store_roster_commit(build), STORE_OK);
    store_free(store);
    buf_release(&why);
}

static int setup(void **state)
{
    struct harness *h = harness_new();
    import_roster(h);
    harness_open(h, &examjoint_route, conf);
    *state = h;
    return 0;
}

static int teardown(void **state)
{
    harness_close(*state);
    return 0;
}

/* {"errorMessage": ...} as the language module has it. */
static const char *refusal(enum roster_verdict verdict, int64_t wait_s, struct buf *out)
{
    struct languages *languages;
    struct buf text = BUF_INIT, why = BUF_INIT;
    assert_true(languages_load("/nowhere/at/all", "en", &languages, &why));
    language_text(languages, NULL, verdict, wait_s, &text);
    assert_true(text.len > 0);
    buf_clear(out);
    buf_addc(out, '{');
    json_add_member(out, "errorMessage", buf_str(&text));
    buf_addc(out, '}');
    languages_free(languages);
    buf_release(&text);
    buf_release(&why);
    return buf_str(out);
}

static void test_refusals_in_order(void **state)
{
    struct harness *h = *state;
    static const struct {
        struct call call;
        int status;
        const char *body, *header;
    } cases[] = {
        /* Each case is wrong in all that would be looked at later, too. */
        {{.method = "GET", .path = PATH "/x"}, 404, "{\"error\":\"not_found\"}", ""},
        {{.method = "GET", .path = PATH, .length = "x"},
         405,
         "{\"error\":\"method_not_allowed\"}",
         "Allow: POST"},
        {{.method = "post", .path = PATH}, 405, "{\"error\":\"method_not_allowed\"}", "Allow: POST"},
        {{.path = PATH, .length = "12x"}, 400, "{\"error\":\"invalid_length\"}", ""},
        {{.path = PATH, .length = "-1"}, 400, "{\"error\":\"invalid_length\"}", ""},
        {{.path = PATH, .length = "4097"}, 413, "{\"error\":\"body_too_large\"}", ""},
        {{.path = PATH, .body = "x"}, 401, "{\"error\":\"unauthorized\"}", ""},
        {{.path = PATH, .body = "x", .params = {"HTTP_X_CLIENT_ID=id-1"}},
         401,
         "{\"error\":\"unauthorized\"}",
         ""},
        {{.path = PATH, .body = "x", .params = {"HTTP_X_CLIENT_SECRET=secret-1"}},
         401,
         "{\"error\":\"unauthorized\"}",
         ""},
        {{.path = PATH, .body = "x", .params = {"HTTP_X_CLIENT_ID=id-1", "HTTP_X_CLIENT_SECRET=secret-2"}},
         401,
         "{\"error\":\"unauthorized\"}",
         ""},
        {{.path = PATH,
          .body = "x",
          .params = {"HTTP_X_CLIENT_ID=id-1", "HTTP_X_CLIENT_SECRET=secret-1",
                     "HTTP_X_CLIENT_SECRET=secret-1"}},
         401,
         "{\"error\":\"repeated_header\"}",
         ""},
        {{.path = PATH,
          .body = "x",
          .params = {"HTTP_X_CLIENT_ID=id-1, id-1", "HTTP_X_CLIENT_SECRET=secret-1"}},
         401,
         "{\"error\":\"repeated_header\"}",
         ""},
        {{.path = PATH, .body = "x", .cut = true, .params = ONE}, 400, "{\"error\":\"incomplete_body\"}", ""},
        {{.path = PATH, .body = "", .params = ONE}, 400, "{\"error\":\"empty_body\"}", ""},
        {{.path = PATH, .body = "{", .params = ONE}, 400, "{\"error\":\"invalid_json\"}", ""},
        {{.path = PATH, .body = "{} {}", .params = ONE}, 400, "{\"error\":\"invalid_json\"}", ""},
        {{.path = PATH, .body = "[]", .params = ONE}, 400, "{\"error\":\"not_an_object\"}", ""},
        {{.path = PATH, .body = "{\"a\":1,\"a\":1}", .params = ONE},
         400,
         "{\"error\":\"duplicate_key\"}",
         ""},
        {{.path = PATH, .body = "{\"a\":\"\xc0\x80\"}", .params = ONE},
         400,
         "{\"error\":\"invalid_utf8\"}",
         ""},
        {{.path = PATH, .body = "{\"a\":\"\\u0000\"}", .params = ONE},
         400,
         "{\"error\":\"nul_in_json\"}",
         ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        harness_expect(h, &cases[i].call, cases[i].status, cases[i].body);
        struct answer answer = harness_call(h, &cases[i].call);
        assert_string_equal(answer.header, cases[i].header);
        free(answer.body);
    }
    struct store_cursor cursor = STORE_CURSOR_START;
    harness_expect_rows(h, &cursor, "");
}

static void test_long_chunked_body(void **state)
{
    struct harness *h = *state;
    struct buf body = BUF_INIT;
    buf_adds(&body, "{\"event\":\"x\",\"pad\":\"");
    while (body.len < 5000) {
        buf_adds(&body, "0123456789");
    }
    buf_adds(&body, "\"}");
    const struct call call = {.path = PATH, .params = ONE, .body = buf_str(&body), .length = ""};
    harness_expect(h, &call, 413, "{\"error\":\"body_too_large\"}");
    buf_release(&body);
}

static void test_paths(void **state)
{
    struct harness *h = *state;
    static const char *const paths[] = {"", "/", PATH, "/app" PATH, PATH "?x=1"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        const struct call call = {.path = paths[i], .params = ONE, .body = "{\"event\":\"hello\"}"};
        harness_expect(h, &call, 200, "{}");
    }
}

static void test_events(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    static const struct {
        const char *body, *row;
    } cases[] = {
        {"{\"event\":\"admitted_respondent\",\"respondent_id\":\"r\",\"exam_id\":\"e\",\"admittedOn\":"
         "1719221380326}",
         "one admitted_respondent e r on=1719221380326 x1 "},
        {"{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"e\",\"more\":[null,true]}",
         "one result_ready e r x1 "},
        {"{\"event\":\"investigation_complete\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}",
         "one investigation_complete e r x1 "},
        {"{\"event\":\"proctoring_started\",\"respondent_id\":\"r\",\"exam_id\":9,\"admittedOn\":5}",
         "one proctoring_started - r on=5 x1 "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct call call = {.path = PATH, .params = ONE, .body = cases[i].body};
        struct buf wanted = BUF_INIT;
        buf_addf(&wanted, "%s%s\n", cases[i].row, cases[i].body);
        harness_expect(h, &call, 200, "{}");
        harness_expect_rows(h, &cursor, buf_str(&wanted));
        buf_release(&wanted);
    }
}

static void test_repeats(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    const struct call first = {.path = PATH,
                               .params = ONE,
                               .body =
                                   "{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}"};
    const struct call regrade = {
        .path = PATH,
        .params = ONE,
        .body = "{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"e\",\"again\":1}"};
    const struct call other_account = {
        .path = PATH,
        .params = TWO,
        .body = "{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}"};
    const struct call unknown = {.path = PATH, .params = ONE, .body = "{\"event\":\"new\",\"n\":1}"};
    const struct call unknown_differs = {.path = PATH, .params = ONE, .body = "{\"event\":\"new\",\"n\":2}"};
    const struct call quarantined = {.path = PATH, .params = ONE, .body = "{\"event\":7}"};
    harness_expect(h, &first, 200, "{}");
    harness_expect(h, &first, 200, "{}");
    harness_expect(h, &regrade, 200, "{}");
    harness_expect(h, &other_account, 200, "{}");
    harness_expect(h, &unknown, 200, "{}");
    harness_expect(h, &unknown, 200, "{}");
    harness_expect(h, &unknown_differs, 200, "{}");
    harness_expect(h, &quarantined, 422, "{\"error\":\"invalid_member\",\"member\":\"event\"}");
    harness_expect(h, &quarantined, 422, "{\"error\":\"invalid_member\",\"member\":\"event\"}");
    harness_expect_rows(
        h, &cursor,
        "one result_ready e r x3 {\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}\n"
        "two result_ready e r x1 {\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}\n"
        "one new - - x2 {\"event\":\"new\",\"n\":1}\n"
        "one new - - x1 {\"event\":\"new\",\"n\":2}\n"
        "one - - - quarantined/invalid_member:event x2 {\"event\":7}\n");
}

static void test_quarantine(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    static const struct {
        const char *body, *word, *member, *row, *kept;
    } cases[] = {
        {"{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":42}", "invalid_member", "exam_id",
         "one result_ready - r", "{\"event\":\"result_ready\",\"respondent_id\":\"r\",\"exam_id\":42}"},
        {"{\"event\":\"admitted_respondent\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}", "missing_member",
         "admittedOn", "one admitted_respondent e r",
         "{\"event\":\"admitted_respondent\",\"respondent_id\":\"r\",\"exam_id\":\"e\"}"},
        {"{}", "missing_member", "event", "one - - -", "{}"},
        {"{\"event\":\"verify_respondent\",\"exam_id\":\"exam\",\"fields\":{\"0\":\"CANARY\",\"CANARY\":[1]}"
         "}",
         "invalid_member", "fields", "one verify_respondent exam -", NULL},
        {VERIFY("exam", FIELD("0", "CANARY") "," FIELD("0", "CANARY")), "invalid_member", "fields",
         "one verify_respondent exam -", NULL},
        {"{\"event\":\"verify_respondent\",\"exam_id\":3,\"fields\":[" LOGIN("ann", "CANARY") "]}",
         "invalid_member", "exam_id", "one verify_respondent - -", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct call call = {.path = PATH, .params = ONE, .body = cases[i].body};
        struct buf reply = BUF_INIT, rows = BUF_INIT, wanted = BUF_INIT;
        buf_addf(&reply, "{\"error\":\"%s\",\"member\":\"%s\"}", cases[i].word, cases[i].member);
        harness_expect(h, &call, 422, buf_str(&reply));
        harness_rows(h, &cursor, &rows);
        buf_addf(&wanted, "%s quarantined/%s:%s x1 ", cases[i].row, cases[i].word, cases[i].member);
        assert_memory_equal(buf_str(&rows), buf_str(&wanted), wanted.len);
        assert_null(strstr(buf_str(&rows), "CANARY"));
        if (cases[i].kept) {
            assert_non_null(strstr(buf_str(&rows), cases[i].kept));
        }
        buf_release(&reply);
        buf_release(&rows);
        buf_release(&wanted);
    }
    assert_int_equal(h->hashes, 0);
}

static void verify(struct harness *h, const char *body, const char *wanted)
{
    const struct call call = {.path = PATH, .params = ONE, .body = body};
    harness_expect(h, &call, 200, wanted);
}

/* The pause ends somewhere in between: it begins with the failure that is one too many, within that call. */
struct pause_end {
    int64_t first_ms, last_ms;
};

static struct pause_end fail_three_times(struct harness *h, const char *body)
{
    struct buf wanted = BUF_INIT;
    int64_t asked_ms = 0;
    for (int i = 0; i < 3; i++) {
        asked_ms = clock_now_ms();
        verify(h, body, refusal(ROSTER_UNKNOWN, 0, &wanted));
    }
    buf_release(&wanted);
    return (struct pause_end){asked_ms + PAUSE_S * 1000, clock_now_ms() + PAUSE_S * 1000};
}

/* Whole seconds, and no less than is left. */
static int64_t seconds_of(int64_t ms)
{
    return ms > 1 ? (ms + 999) / 1000 : 1;
}

/* Within the pause, and told what is left of it: neither more nor less than the machine left of it. */
static void told_to_wait(struct harness *h, const char *body, const struct pause_end *end)
{
    const struct call call = {.path = PATH, .params = ONE, .body = body};
    int64_t asked_ms = clock_now_ms();
    struct answer answer = harness_call(h, &call);
    int64_t answered_ms = clock_now_ms();
    struct buf wanted = BUF_INIT;
    bool told = false;
    for (int64_t left_s = seconds_of(end->first_ms - answered_ms);
         left_s <= seconds_of(end->last_ms - asked_ms); left_s++)
        told = told || strcmp(answer.body, refusal(ROSTER_THROTTLED, left_s, &wanted)) == 0;
    if (answer.status != 200 || !told)
        fail_msg("%d %s", answer.status, answer.body);
    buf_release(&wanted);
    free(answer.body);
}

static void test_verified(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    static const struct {
        const char *body, *wanted, *row;
    } cases[] = {
        {VERIFY("exam", LOGIN("ann", "CANARY right")),
         "{\"metadata\":{\"name\":\"Ann\",\"email\":\"Ann@Example.org\"}}",
         "one verify_respondent exam - valid/ by=ann at=0,1 x1 -\n"},
        /* By position, not by place; unmapped positions are ignored; white space round an identity too. */
        {VERIFY("exam", FIELD("7", "CANARY") "," FIELD("1", "CANARY right") "," FIELD("0", "\\t ann ")),
         "{\"metadata\":{\"name\":\"Ann\",\"email\":\"Ann@Example.org\"}}",
         "one verify_respondent exam - valid/ by=ann at=7,1,0 x1 -\n"},
        {VERIFY("mail", LOGIN("ann@EXAMPLE.org", "CANARY right")),
         "{\"metadata\":{\"name\":\"Ann\",\"email\":\"Ann@Example.org\"}}",
         "one verify_respondent mail - valid/ by=ann at=0,1 x1 -\n"},
        {VERIFY("both", LOGIN("ann", "CANARY right") "," FIELD("2", "ann@example.org")),
         "{\"metadata\":{\"name\":\"Ann\",\"email\":\"Ann@Example.org\"}}",
         "one verify_respondent both - valid/ by=ann at=0,1,2 x1 -\n"},
        {VERIFY("exam", LOGIN("bob", "CANARY right")), "{}",
         "one verify_respondent exam - valid/ by=bob at=0,1 x1 -\n"},
    };
    int hashes = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        verify(h, cases[i].body, cases[i].wanted);
        harness_expect_rows(h, &cursor, cases[i].row);
        assert_int_equal(h->hashes, ++hashes);
    }
}

static void test_identity_alone(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    struct buf wanted = BUF_INIT;
    verify(h, VERIFY("open", LOGIN("ann", "CANARY")),
           "{\"metadata\":{\"name\":\"Ann\",\"email\":\"Ann@Example.org\"}}");
    verify(h, VERIFY("open", FIELD("0", "nobody")), refusal(ROSTER_UNKNOWN, 0, &wanted));
    verify(h, VERIFY("open", FIELD("0", "bob")), refusal(ROSTER_OTHER_EXAM, 0, &wanted));
    verify(h, VERIFY("open", FIELD("0", "nohash")), "{}");
    assert_int_equal(h->hashes, 0);
    harness_expect_rows(h, &cursor,
                        "one verify_respondent open - valid/ by=ann at=0,1 x1 -\n"
                        "one verify_respondent open - invalid/unknown by=unknown at=0 x1 -\n"
                        "one verify_respondent open - invalid/other_exam by=bob at=0 x1 -\n"
                        "one verify_respondent open - valid/ by=nohash at=0 x1 -\n");
    buf_release(&wanted);
}

static void test_refused(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    static const struct {
        const char *body;
        enum roster_verdict verdict;
        const char *row;
        int hashes;
    } cases[] = {
        {VERIFY("exam", LOGIN("nobody", "CANARY right")), ROSTER_UNKNOWN,
         "one verify_respondent exam - invalid/unknown by=unknown at=0,1 x1 -\n", 1},
        {VERIFY("exam", LOGIN("ann", "CANARY wrong")), ROSTER_UNKNOWN,
         "one verify_respondent exam - invalid/unknown by=ann at=0,1 x1 -\n", 1},
        /* A password is never trimmed, an identity with case is another. */
        {VERIFY("exam", LOGIN("ann", "CANARY right ")), ROSTER_UNKNOWN,
         "one verify_respondent exam - invalid/unknown by=ann at=0,1 x1 -\n", 1},
        {VERIFY("exam", LOGIN("ANN", "CANARY right")), ROSTER_UNKNOWN,
         "one verify_respondent exam - invalid/unknown by=unknown at=0,1 x1 -\n", 1},
        /* Typed into the wrong boxes. */
        {VERIFY("exam", LOGIN("CANARY right", "ann")), ROSTER_UNKNOWN,
         "one verify_respondent exam - invalid/unknown by=unknown at=0,1 x1 -\n", 1},
        {VERIFY("exam", LOGIN(" ", "CANARY right")), ROSTER_UNKNOWN,
         "one verify_respondent exam - invalid/unknown by=unknown at=0,1 x1 -\n", 1},
        {VERIFY("exam", LOGIN("bob", "")), ROSTER_UNKNOWN,
         "one verify_respondent exam - invalid/unknown by=bob at=0,1 x1 -\n", 1},
        {VERIFY("exam", LOGIN("nohash", "CANARY")), ROSTER_UNKNOWN,
         "one verify_respondent exam - invalid/unknown by=nohash at=0,1 x1 -\n", 1},
        {VERIFY("both", LOGIN("ann", "CANARY right") "," FIELD("2", "bob@example.org")), ROSTER_UNKNOWN,
         "one verify_respondent both - invalid/unknown by=unknown at=0,1,2 x1 -\n", 1},
        {VERIFY("other", LOGIN("bob", "CANARY right")), ROSTER_OTHER_EXAM,
         "one verify_respondent other - invalid/other_exam by=bob at=0,1 x1 -\n", 1},
        {VERIFY("other", LOGIN("bob", "CANARY wrong")), ROSTER_UNKNOWN,
         "one verify_respondent other - invalid/unknown by=bob at=0,1 x1 -\n", 1},
        {VERIFY("exam", LOGIN("early", "CANARY right")), ROSTER_NOT_OPEN,
         "one verify_respondent exam - invalid/not_open by=early at=0,1 x1 -\n", 1},
        {VERIFY("exam", LOGIN("late", "CANARY right")), ROSTER_CLOSED,
         "one verify_respondent exam - invalid/closed by=late at=0,1 x1 -\n", 1},
        {VERIFY("exam", FIELD("0", "ann")), ROSTER_FIELDS_MAPPING,
         "one verify_respondent exam - invalid/fields_mapping at=0 x1 -\n", 0},
        {VERIFY("exam", ""), ROSTER_FIELDS_MAPPING,
         "one verify_respondent exam - invalid/fields_mapping at= x1 -\n", 0},
        {VERIFY("unmapped", LOGIN("ann", "CANARY right")), ROSTER_FIELDS_MAPPING,
         "one verify_respondent unmapped - invalid/fields_mapping at=0,1 x1 -\n", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf wanted = BUF_INIT;
        int before = h->hashes;
        verify(h, cases[i].body, refusal(cases[i].verdict, 0, &wanted));
        harness_expect_rows(h, &cursor, cases[i].row);
        assert_int_equal(h->hashes - before, cases[i].hashes);
        buf_release(&wanted);
    }
}

static void test_unknown_costs_the_same(void **state)
{
    struct harness *h = *state;
    char known[32], unknown[32];
    struct buf wanted = BUF_INIT;
    refusal(ROSTER_UNKNOWN, 0, &wanted);
    verify(h, VERIFY("exam", LOGIN("ann", "CANARY wrong")), buf_str(&wanted));
    assert_true(password_cost_class(h->setting, known));
    verify(h, VERIFY("exam", LOGIN("nobody", "CANARY wrong")), buf_str(&wanted));
    assert_true(password_cost_class(h->setting, unknown));
    assert_string_equal(known, unknown);
    buf_release(&wanted);
}

static void test_accounts_are_apart(void **state)
{
    struct harness *h = *state;
    struct buf wanted = BUF_INIT;
    const struct call theirs = {
        .path = PATH, .params = TWO, .body = VERIFY("exam", LOGIN("ann", "CANARY other"))};
    const struct call not_theirs = {
        .path = PATH, .params = TWO, .body = VERIFY("exam", LOGIN("ann", "CANARY right"))};
    harness_expect(h, &theirs, 200,
                   "{\"metadata\":{\"name\":\"The other Ann\",\"email\":\"Ann@Example.org\"}}");
    harness_expect(h, &not_theirs, 200, refusal(ROSTER_UNKNOWN, 0, &wanted));
    buf_release(&wanted);
}

static void test_busy(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    struct buf wanted = BUF_INIT, rows = BUF_INIT;
    h->too_busy = true;
    for (int i = 0; i < 5;
         i++) { /* more than the throttle lets through: a busy machine is not the candidate's fault */
        verify(h, VERIFY("exam", LOGIN("bob", "CANARY right")), refusal(ROSTER_BUSY, 0, &wanted));
    }
    harness_rows(h, &cursor, &rows);
    assert_int_equal(harness_count(&rows, "one verify_respondent exam - invalid/busy by=bob at=0,1 x1 -\n"),
                     5);
    h->too_busy = false;
    verify(h, VERIFY("exam", LOGIN("bob", "CANARY right")), "{}");
    buf_release(&rows);
    buf_release(&wanted);
}

/* `right` is what answers once the pause is over. */
static void check_throttled(struct harness *h, const char *wrong, const char *right, const char *right_reply)
{
    struct store_cursor cursor = STORE_CURSOR_START;
    struct buf wanted = BUF_INIT, rows = BUF_INIT;
    struct pause_end end = fail_three_times(h, wrong);
    int hashes = h->hashes;
    assert_non_null(strchr(refusal(ROSTER_THROTTLED, 1, &wanted), '1'));
    for (int i = 0; i < 20; i++)
        told_to_wait(h, i % 2 ? wrong : right, &end);
    assert_int_equal(h->hashes, hashes);
    harness_rows(h, &cursor, &rows);
    assert_int_equal(harness_count(&rows, "invalid/unknown"), 3);
    const char *throttled = strstr(buf_str(&rows), "invalid/throttled");
    assert_int_equal(harness_count(&rows, "invalid/throttled"), 1);
    assert_memory_equal(strstr(throttled, " x"), " x1 -\n",
                        6); /* nor are the others counted: no write at all */
    while (clock_now_ms() < end.last_ms + 100)
        usleep(10 * 1000);
    verify(h, right, right_reply);
    buf_release(&rows);
    buf_release(&wanted);
}

static void test_throttled(void **state)
{
    check_throttled(*state, VERIFY("exam", LOGIN("bob", "CANARY wrong")),
                    VERIFY("exam", LOGIN("bob", "CANARY right")), "{}");
}

static void test_throttled_unknown(void **state)
{
    struct buf wanted = BUF_INIT;
    check_throttled(*state, VERIFY("exam", LOGIN("nobody", "CANARY a")),
                    VERIFY("exam", LOGIN(" nobody", "CANARY b")), refusal(ROSTER_UNKNOWN, 0, &wanted));
    buf_release(&wanted);
}

static void test_success_is_not_counted(void **state)
{
    struct harness *h = *state;
    struct buf wanted = BUF_INIT;
    for (int i = 0; i < 6; i++) {
        verify(h, VERIFY("exam", LOGIN("bob", "CANARY right")), "{}");
    }
    for (int i = 0; i < 6; i++) { /* the password was right: no guess either */
        verify(h, VERIFY("exam", LOGIN("early", "CANARY right")), refusal(ROSTER_NOT_OPEN, 0, &wanted));
    }
    for (int i = 0; i < 6; i++) {
        verify(h, VERIFY("open", FIELD("0", "nohash")), "{}");
    }
    buf_release(&wanted);
}

static void test_throttle_is_of_account_and_exam(void **state)
{
    struct harness *h = *state;
    struct pause_end end = fail_three_times(h, VERIFY("exam", LOGIN("ann", "CANARY wrong")));
    told_to_wait(h, VERIFY("exam", LOGIN("ann", "CANARY right")), &end);
    verify(h, VERIFY("exam", LOGIN("bob", "CANARY right")), "{}");
    verify(h, VERIFY("other", LOGIN("ann", "CANARY right")),
           "{\"metadata\":{\"name\":\"Ann\",\"email\":\"Ann@Example.org\"}}");
    /* Whatever identifies her, it is the same candidate. */
    told_to_wait(h, VERIFY("exam", LOGIN(" ann ", "CANARY right")), &end);
    const struct call theirs = {
        .path = PATH, .params = TWO, .body = VERIFY("exam", LOGIN("ann", "CANARY other"))};
    harness_expect(h, &theirs, 200,
                   "{\"metadata\":{\"name\":\"The other Ann\",\"email\":\"Ann@Example.org\"}}");
}

static void test_spike(void **state)
{
    struct harness *h = *state;
    struct buf wanted = BUF_INIT, log = BUF_INIT;
    static const char *const bodies[] = {VERIFY("exam", LOGIN("u1", "x")), VERIFY("exam", LOGIN("u2", "x")),
                                         VERIFY("exam", LOGIN("u3", "x"))};
    refusal(ROSTER_UNKNOWN, 0, &wanted);
    for (size_t i = 0; i < 3; i++) {
        for (int n = 0; n < 3; n++) {
            verify(h, bodies[i], buf_str(&wanted));
        }
    }
    harness_log(h, &log);
    assert_int_equal(harness_count(&log, "somebody may be guessing"), 1);
    buf_release(&log);
    buf_release(&wanted);
}

static void test_language(void **state)
{
    struct harness *h = *state;
    struct buf wanted = BUF_INIT;
    /* No texts but the built-in English: whatever is asked for, there is an answer. */
    static const char *const languages[] = {"\"ru\"", "\"xx\"", "\"\"", "\"../../etc/passwd\"",
                                            "7",      "null",   "[]"};
    for (size_t i = 0; i < sizeof languages / sizeof *languages; i++) {
        struct buf body = BUF_INIT;
        buf_addf(&body,
                 "{\"event\":\"verify_respondent\",\"exam_id\":\"exam\",\"choosenLang\":%s,\"fields\":[]}",
                 languages[i]);
        verify(h, buf_str(&body), refusal(ROSTER_FIELDS_MAPPING, 0, &wanted));
        buf_release(&body);
    }
    buf_release(&wanted);
}

static void test_unknown_event_with_fields(void **state)
{
    struct harness *h = *state;
    struct store_cursor cursor = STORE_CURSOR_START;
    struct buf wanted = BUF_INIT, rows = BUF_INIT;
    /* Misspelt: a bare {} would let the candidate in. */
    static const char *const bodies[] = {
        "{\"event\":\"verify_respondant\",\"exam_id\":\"exam\",\"fields\":[" LOGIN("ann", "CANARY") "]}",
        "{\"event\":\"verify\",\"exam_id\":\"exam\",\"Fields\":[\"CANARY\"]}",
    };
    for (size_t i = 0; i < 2; i++) {
        verify(h, bodies[i], refusal(ROSTER_FIELDS_MAPPING, 0, &wanted));
    }
    harness_rows(h, &cursor, &rows);
    assert_int_equal(harness_count(&rows, "\n"), 2);
    assert_int_equal(harness_count(&rows, "CANARY"), 0);
    assert_int_equal(h->hashes, 0);
    buf_release(&rows);
    buf_release(&wanted);
}

static void test_rotation(void **state)
{
    struct harness *h = *state;
    struct buf log = BUF_INIT;
    const struct call call = {.path = PATH,
                              .params = {"HTTP_X_CLIENT_ID=id-1", "HTTP_X_CLIENT_SECRET=older-1"},
                              .body = "{\"event\":\"hello\"}"};
    for (int i = 0; i < 3; i++) {
        harness_expect(h, &call, 200, "{}");
    }
    harness_log(h, &log);
    assert_int_equal(harness_count(&log, "a previous secret is still in use"), 1);
    assert_non_null(strstr(buf_str(&log), "account=one"));
    assert_int_equal(harness_count(&log, "older-1"), 0);
    buf_release(&log);
}

/* --- No password reaches the disk ----------------------------------------------------------------------- */

static int search(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)ftw;
    if (flag != FTW_F || st->st_size == 0) {
        return 0;
    }
    FILE *file = fopen(path, "r");
    char *content = xcalloc(1, (size_t)st->st_size);
    size_t len = file ? fread(content, 1, (size_t)st->st_size, file) : 0;
    bool found = memmem(content, len, "CANARY", 6) != NULL;
    if (found) {
        print_error("%s holds a password\n", path);
    }
    free(content);
    if (file) {
        fclose(file);
    }
    return found;
}

static void test_no_password_is_written(void **state)
{
    struct harness *h = *state;
    static const char *const bodies[] = {
        VERIFY("exam", LOGIN("ann", "CANARY right")),
        VERIFY("exam", LOGIN("ann", "CANARY wrong")),
        VERIFY("exam", LOGIN("CANARY right", "ann")),
        VERIFY("exam", LOGIN("ann", "CANARY right") "," FIELD("5", "CANARY")),
        VERIFY("exam", FIELD("0", "CANARY")),
        VERIFY("unmapped", LOGIN("ann", "CANARY")),
        VERIFY("exam", LOGIN("ann", "CANARY") "," LOGIN("ann", "CANARY")),
        "{\"event\":\"verify_respondent\",\"exam_id\":\"exam\",\"fields\":[\"CANARY\"]}",
        "{\"event\":\"verify_respondent\",\"exam_id\":\"exam\",\"fields\":\"CANARY\"}",
        "{\"event\":\"verify_respondent\",\"exam_id\":1,\"fields\":[" LOGIN("ann", "CANARY") "]}",
        "{\"event\":\"Verify_Respondent\",\"exam_id\":\"exam\",\"fields\":[" LOGIN("ann", "CANARY") "]}",
        "{\"fields\":[" LOGIN("ann", "CANARY") "]}",
        "{\"event\":\"verify_respondent\",\"exam_id\":\"exam\",\"fields\":[" LOGIN("ann", "CANARY"),
        "{\"event\":\"verify_respondent\",\"exam_id\":\"exam\",\"fields\":[" LOGIN("ann", "CANARY") "]} x",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        const struct call whole = {.path = PATH, .params = ONE, .body = bodies[i]};
        const struct call cut = {.path = PATH, .params = ONE, .body = bodies[i], .cut = true};
        const struct call nobody = {.path = PATH, .body = bodies[i]};
        const struct call *calls[] = {&whole, &cut, &nobody};
        for (size_t n = 0; n < 3; n++) {
            struct answer answer = harness_call(h, calls[n]);
            assert_null(strstr(answer.body, "CANARY"));
            free(answer.body);
        }
    }
    assert_int_equal(nftw(h->folder, search, 16, FTW_PHYS), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_refusals_in_order),
        TEST(test_long_chunked_body),
        TEST(test_paths),
        TEST(test_events),
        TEST(test_repeats),
        TEST(test_quarantine),
        TEST(test_verified),
        TEST(test_identity_alone),
        TEST(test_refused),
        TEST(test_unknown_costs_the_same),
        TEST(test_accounts_are_apart),
        TEST(test_busy),
        TEST(test_throttled),
        TEST(test_throttled_unknown),
        TEST(test_success_is_not_counted),
        TEST(test_throttle_is_of_account_and_exam),
        TEST(test_spike),
        TEST(test_language),
        TEST(test_unknown_event_with_fields),
        TEST(test_rotation),
        TEST(test_no_password_is_written),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
