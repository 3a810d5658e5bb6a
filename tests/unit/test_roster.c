/* Who may sit an exam: decided over a real store, as the web program does it. */
#include "store_scratch.h"

#include "../../common/json.h"
#include "../../common/roster.h"

#define NOW INT64_C(1700000000000)
#define HOUR INT64_C(3600000)

/* One roster for all tests here. Of anna's lines the exam's own wins; berta has one line for any exam. */
static const struct candidate_attribute anna_more[] = {{"matriculation", "M-77"}};
static const struct candidate roster[] = {
    {.account = "acc",
     .id = "anna",
     .email = "Anna@Example.org",
     .name = "Anna any",
     .password_hash = "hash any"},
    {.account = "acc",
     .id = "anna",
     .email = "Anna@Example.org",
     .name = "Anna E1",
     .password_hash = "hash E1",
     .exam = "E1",
     .opens_ms = NOW - HOUR,
     .closes_ms = NOW + HOUR,
     .attributes = anna_more,
     .attribute_count = 1},
    {.account = "acc",
     .id = "anna",
     .email = "Anna@Example.org",
     .name = "Anna E2",
     .exam = "E2",
     .opens_ms = NOW + HOUR},
    {.account = "acc", .id = "berta", .email = "berta@example.org"},
    {.account = "acc", .id = "carl", .exam = "E1", .closes_ms = NOW},
    {.account = "acc", .id = "carl", .exam = "E2", .opens_ms = NOW},
    {.account = "acc", .id = "dora", .email = "shared@example.org", .exam = "E1"},
    {.account = "acc", .id = "emil", .email = "shared@example.org", .exam = "E2"},
    {.account = "other", .id = "anna", .name = "Another Anna"},
    {.account = "acc",
     .id = "full",
     .email = "f@example.org",
     .name = "Full \"Quote\" \xC3\xA9",
     .photo = "https://example.org/p.jpg?a=1&b=2",
     .about = "line\nbreak",
     .data = "{ \"a\" : [ 1.50, null ], \"password\" : \"kept as it is\" }",
     .exam = "E1"},
    {.account = "acc", .id = "list", .data = "[ 1, 2 ]"},
    {.account = "acc", .id = "damaged", .name = "Damaged", .data = "{\"a\":"},
    {.account = "acc", .id = "empty", .email = "", .name = "", .about = "", .data = ""},
};

/* More exams than anybody sits: the line for the last of them must be found too. */
#define MANY_EXAMS 300

static void put_many_exams(struct roster_build *build, struct store *store)
{
    for (int i = 0; i < MANY_EXAMS; i++) {
        char exam[16];
        snprintf(exam, sizeof exam, "X%d", i);
        struct candidate line = {.account = "acc", .id = "zealous", .exam = exam};
        assert_stored(store, store_roster_put(build, &line, NULL));
    }
}

static int setup(void **state)
{
    struct scratch *scratch;
    struct roster_build *build = NULL;
    if (scratch_setup(state) != 0)
        return -1;
    scratch = *state;
    assert_stored(scratch->store, store_roster_begin(scratch->store, NULL, true, NULL, &build));
    for (size_t i = 0; i < sizeof roster / sizeof *roster; i++)
        assert_stored(scratch->store, store_roster_put(build, &roster[i], NULL));
    put_many_exams(build, scratch->store);
    assert_stored(scratch->store, store_roster_commit(build));
    return 0;
}

static struct roster_match find(void **state, const char *account, const char *exam, const char *column,
                                const char *value)
{
    struct scratch *scratch = *state;
    struct roster_key key = {column, value, strcmp(column, "email") == 0};
    struct roster_match match = {.found = false};
    assert_stored(scratch->store, roster_find(scratch->store, account, exam, &key, 1, &match));
    return match;
}

static void verdicts(void **state)
{
    static const struct {
        const char *account, *exam, *column, *value;
        enum roster_verdict verdict;
    } cases[] = {
        {"acc", "X299", "id", "zealous", ROSTER_VALID},
        {"acc", "X300", "id", "zealous", ROSTER_OTHER_EXAM},
        {"acc", "E1", "id", "anna", ROSTER_VALID},
        {"acc", "E2", "id", "anna", ROSTER_NOT_OPEN}, /* although the line for any exam has no window */
        {"acc", "E3", "id", "anna", ROSTER_VALID},
        {"acc", "E1", "email", "anna@example.ORG", ROSTER_VALID},
        {"acc", "E1", "matriculation", "M-77", ROSTER_VALID},
        {"acc", "E1", "matriculation", "m-77", ROSTER_UNKNOWN},
        {"acc", "E1", "id", "ANNA", ROSTER_UNKNOWN},
        {"acc", "E1", "id", "berta", ROSTER_VALID},
        {"acc", "e1", "id", "dora", ROSTER_OTHER_EXAM}, /* an exam's id is compared as it is */
        {"acc", "E1", "id", "carl", ROSTER_CLOSED},
        {"acc", "E2", "id", "carl", ROSTER_VALID},
        {"acc", "E3", "id", "carl", ROSTER_OTHER_EXAM},
        {"acc", "E1", "id", "dora", ROSTER_VALID},
        {"acc", "E2", "id", "dora", ROSTER_OTHER_EXAM},
        {"acc", "E1", "email", "shared@example.org", ROSTER_UNKNOWN}, /* two people */
        {"acc", "E1", "id", "nobody", ROSTER_UNKNOWN},
        {"acc", "E1", "id", "", ROSTER_UNKNOWN},
        {"acc", "E1", "email", "", ROSTER_UNKNOWN},
        {"acc", "E1", "nosuchcolumn", "anna", ROSTER_UNKNOWN},
        {"other", "E1", "id", "anna", ROSTER_VALID},
        {"other", "E1", "id", "berta", ROSTER_UNKNOWN},
        {"nosuchaccount", "E1", "id", "anna", ROSTER_UNKNOWN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct roster_match match =
            find(state, cases[i].account, cases[i].exam, cases[i].column, cases[i].value);
        enum roster_verdict verdict = roster_decide(&match, NOW);
        if (verdict != cases[i].verdict)
            print_error("%s %s=%s: %s\n", cases[i].exam, cases[i].column, cases[i].value,
                        roster_verdict_word(verdict));
        assert_int_equal(verdict, cases[i].verdict);
        roster_match_release(&match);
    }
}

static void windows(void **state)
{
    static const struct {
        int64_t opens_ms, closes_ms, now_ms;
        enum roster_verdict verdict;
    } cases[] = {{0, 0, NOW, ROSTER_VALID},
                 {NOW, 0, NOW - 1, ROSTER_NOT_OPEN},
                 {NOW, 0, NOW, ROSTER_VALID},
                 {0, NOW, NOW - 1, ROSTER_VALID},
                 {0, NOW, NOW, ROSTER_CLOSED},
                 {NOW, NOW + 2, NOW + 1, ROSTER_VALID},
                 {NOW, NOW + 2, NOW + 2, ROSTER_CLOSED},
                 {NOW, NOW + 2, NOW - 2, ROSTER_NOT_OPEN}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct roster_match match = {
            .found = true, .this_exam = true, .opens_ms = cases[i].opens_ms, .closes_ms = cases[i].closes_ms};
        assert_int_equal(roster_decide(&match, cases[i].now_ms), cases[i].verdict);
        match.this_exam = false;
        assert_int_equal(roster_decide(&match, cases[i].now_ms), ROSTER_OTHER_EXAM);
        match.found = false;
        assert_int_equal(roster_decide(&match, cases[i].now_ms), ROSTER_UNKNOWN);
    }
}

/* The password that counts, and what is told of a person, are those of the line that won. */
static void the_exams_own_line_wins(void **state)
{
    static const struct {
        const char *exam, *hash, *metadata;
    } cases[] = {
        {"E1", "hash E1", "{\"name\":\"Anna E1\",\"email\":\"Anna@Example.org\"}"},
        {"E2", NULL, "{\"name\":\"Anna E2\",\"email\":\"Anna@Example.org\"}"},
        {"E9", "hash any", "{\"name\":\"Anna any\",\"email\":\"Anna@Example.org\"}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct roster_match match = find(state, "acc", cases[i].exam, "id", "anna");
        assert_true(match.found);
        assert_string_equal(match.id, "anna");
        assert_int_equal(match.password_hash != NULL, cases[i].hash != NULL);
        if (cases[i].hash)
            assert_string_equal(match.password_hash, cases[i].hash);
        assert_string_equal(buf_str(&match.metadata), cases[i].metadata);
        roster_match_release(&match);
        assert_null(match.id);
        assert_false(match.found);
    }
}

static void metadata(void **state)
{
    static const struct {
        const char *id, *metadata;
    } cases[] = {
        {"full", "{\"name\":\"Full \\\"Quote\\\" \xC3\xA9\",\"email\":\"f@example.org\","
                 "\"photo\":\"https://example.org/p.jpg?a=1&b=2\",\"about\":\"line\\nbreak\","
                 "\"data\":{\"a\":[1.50,null],\"password\":\"kept as it is\"}}"},
        {"list", "{\"data\":[1,2]}"},
        {"berta", "{\"email\":\"berta@example.org\"}"},
        {"damaged", "{\"name\":\"Damaged\"}"},
        {"carl", ""},
        {"empty", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct roster_match match = find(state, "acc", "E1", "id", cases[i].id);
        assert_true(match.found);
        assert_string_equal(buf_str(&match.metadata), cases[i].metadata);
        assert_int_equal(match.metadata.len, strlen(cases[i].metadata));
        roster_match_release(&match);
    }
}

/* Every column must be right, and nothing typed anywhere is nobody. */
static void all_columns_count(void **state)
{
    static const struct {
        const char *id, *email;
        bool found;
    } cases[] = {{"anna", "anna@example.org", true},
                 {"anna", "berta@example.org", false},
                 {"berta", "anna@example.org", false},
                 {"dora", "shared@example.org", true},
                 {"emil", "shared@example.org", true},
                 {"", "", false},
                 {"anna", "", false},
                 {"", "anna@example.org", false},
                 {"empty", "", false}};
    struct scratch *scratch = *state;
    struct roster_match match = {.found = false};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct roster_key keys[] = {{"id", cases[i].id, false}, {"email", cases[i].email, true}};
        assert_stored(scratch->store, roster_find(scratch->store, "acc", "E1", keys, 2, &match));
        assert_int_equal(match.found, cases[i].found);
        if (match.found)
            assert_string_equal(match.id, cases[i].id);
        roster_match_release(&match);
    }
    assert_stored(scratch->store, roster_find(scratch->store, "acc", "E1", NULL, 0, &match));
    assert_false(match.found);
    assert_int_equal(roster_decide(&match, NOW), ROSTER_UNKNOWN);
    roster_match_release(&match);
    roster_match_release(NULL);
}

static void words(void **state)
{
    static const char *const expected[] = {"",       "unknown",        "other_exam", "not_open",
                                           "closed", "fields_mapping", "throttled",  "busy"};
    (void)state;
    for (int i = ROSTER_VALID; i <= ROSTER_BUSY; i++)
        assert_string_equal(roster_verdict_word((enum roster_verdict)i), expected[i]);
}

#define WITH_ROSTER(test) cmocka_unit_test_setup_teardown(test, setup, scratch_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_ROSTER(verdicts),     WITH_ROSTER(the_exams_own_line_wins),
        WITH_ROSTER(metadata),     WITH_ROSTER(all_columns_count),
        cmocka_unit_test(windows), cmocka_unit_test(words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
