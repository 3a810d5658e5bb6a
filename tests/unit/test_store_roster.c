/* The roster in the store: found by what identifies a candidate, built aside, put in place at once. */
#include <dirent.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "store_scratch.h"

#include "../../common/clock.h"
#include "../../common/password.h"

/* Of the right shape; nobody's. */
#define COSTLY "$2b$12$abcdefghijklmnopqrstuu5jBpXOCa1BKg0GBwFBfSQZ8uDeRcyCu"
#define CHEAP "$2b$10$abcdefghijklmnopqrstuu5jBpXOCa1BKg0GBwFBfSQZ8uDeRcyCu"

/* What a lookup or a listing gave: "account/id/exam" with a space between. */
struct seen {
    char text[4096];
    size_t count, stop_after;
};

static bool see(void *context, const struct candidate *candidate)
{
    struct seen *seen = context;
    size_t len = strlen(seen->text);
    (void)snprintf(seen->text + len, sizeof seen->text - len, "%s%s/%s/%s", len > 0 ? " " : "",
                   candidate->account, candidate->id, candidate->exam != NULL ? candidate->exam : "*");
    seen->count++;
    return seen->stop_after == 0 || seen->count < seen->stop_after;
}

static struct roster_build *begin(struct scratch *scratch, const char *account, bool replace,
                                  const char *exam)
{
    struct roster_build *build = NULL;
    assert_stored(scratch->store, store_roster_begin(scratch->store, account, replace, exam, &build));
    return build;
}

/* One import of these lines. */
static void import(struct scratch *scratch, const char *account, bool replace, const char *exam,
                   const struct candidate *lines, size_t count)
{
    struct roster_build *build = begin(scratch, account, replace, exam);
    for (size_t i = 0; i < count; i++)
        assert_stored(scratch->store, store_roster_put(build, &lines[i], NULL));
    assert_stored(scratch->store, store_roster_commit(build));
}

static const char *listed(struct store *store, const struct roster_filter *filter, struct seen *seen)
{
    static const struct roster_filter all = {NULL, NULL, NULL};
    *seen = (struct seen){.count = 0};
    assert_stored(store, store_roster_list(store, filter != NULL ? filter : &all, see, seen));
    return seen->text;
}

static const char *found(struct store *store, const char *account, const struct roster_key *keys,
                         size_t count, struct seen *seen)
{
    *seen = (struct seen){.count = 0};
    assert_stored(store, store_candidates(store, account, keys, count, see, seen));
    return seen->text;
}

static const struct candidate_attribute berlin[] = {{"site", "Berlin"}, {"matriculation", "  M-0042 "}};
static const struct candidate_attribute paris[] = {{"site", "Paris"}, {"matriculation", "M-0043"}};
static const struct candidate sample[] = {
    {.account = "uni",
     .id = "1001",
     .email = "Ada@Example.org",
     .name = "Ada L",
     .exam = "E1",
     .attributes = berlin,
     .attribute_count = 2},
    {.account = "uni",
     .id = "1001",
     .email = "Ada@Example.org",
     .name = "Ada L",
     .exam = "E2",
     .attributes = berlin,
     .attribute_count = 2},
    {.account = "uni",
     .id = "1002",
     .email = "bob@example.org",
     .name = "Ada L",
     .exam = NULL,
     .attributes = paris,
     .attribute_count = 2},
    {.account = "uni", .id = "1003", .name = "Zoë Ünal", .exam = "E1"},
    {.account = "lab", .id = "1001", .email = "carl@example.org", .name = "Carl", .exam = "E1"},
};
#define SAMPLE_COUNT (sizeof sample / sizeof sample[0])

static void test_lookups(void **state)
{
    struct scratch *scratch = *state;
    static const struct {
        const char *what, *account;
        struct roster_key keys[3];
        size_t key_count;
        const char *found;
    } cases[] = {
        {"by id, every line", "uni", {{"id", "1001", false}}, 1, "uni/1001/E1 uni/1001/E2"},
        {"the same id in another account", "lab", {{"id", "1001", false}}, 1, "lab/1001/E1"},
        {"an account that is not there", "none", {{"id", "1001", false}}, 1, ""},
        {"by e-mail, case ignored",
         "uni",
         {{"email", "ADA@example.ORG", true}},
         1,
         "uni/1001/E1 uni/1001/E2"},
        {"by e-mail, case counts", "uni", {{"email", "ADA@example.ORG", false}}, 1, ""},
        {"by e-mail, exactly", "uni", {{"email", "Ada@Example.org", false}}, 1, "uni/1001/E1 uni/1001/E2"},
        {"space around what is asked", "uni", {{"id", " \t1002\r\n", false}}, 1, "uni/1002/*"},
        {"space around what is kept",
         "uni",
         {{"matriculation", "m-0042", true}},
         1,
         "uni/1001/E1 uni/1001/E2"},
        {"space inside counts", "uni", {{"name", "AdaL", true}}, 1, ""},
        {"one name, two people", "uni", {{"name", "Ada L", false}}, 1, "uni/1001/E1 uni/1001/E2 uni/1002/*"},
        {"name and site", "uni", {{"name", "Ada L", false}, {"site", "Paris", false}}, 2, "uni/1002/*"},
        {"id and another's e-mail",
         "uni",
         {{"email", "bob@example.org", true}, {"id", "1001", false}},
         2,
         ""},
        {"id, e-mail and site",
         "uni",
         {{"site", "berlin", true}, {"email", "ada@example.org", true}, {"id", "1001", false}},
         3,
         "uni/1001/E1 uni/1001/E2"},
        {"one column asked twice alike",
         "uni",
         {{"id", "1002", false}, {"id", "1002 ", false}},
         2,
         "uni/1002/*"},
        {"one column asked twice otherwise", "uni", {{"id", "1002", false}, {"id", "1001", false}}, 2, ""},
        {"only ASCII case is ignored", "uni", {{"name", "zoë ünal", true}}, 1, ""},
        {"the ASCII of other letters", "uni", {{"name", "ZOë ÜNAL", true}}, 1, "uni/1003/E1"},
        {"nothing typed is nobody without", "uni", {{"email", "", true}}, 1, ""},
        {"white space is nothing", "uni", {{"email", "  ", true}}, 1, ""},
        {"nothing beside an id", "uni", {{"id", "1003", false}, {"email", "", true}}, 2, ""},
        {"no key at all", "uni", {{NULL, NULL, false}}, 0, ""},
        {"an unknown column", "uni", {{"shoe", "1001", false}}, 1, ""},
        {"no wildcards", "uni", {{"id", "100%", false}}, 1, ""},
        {"no SQL", "uni", {{"id", "' OR 1=1 --", false}}, 1, ""},
    };
    import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct seen seen;
        const char *got = found(scratch->store, cases[i].account, cases[i].keys, cases[i].key_count, &seen);
        if (strcmp(got, cases[i].found) != 0)
            fail_msg("%s: found \"%s\", not \"%s\"", cases[i].what, got, cases[i].found);
    }
}

static void test_many_keys(void **state)
{
    struct scratch *scratch = *state;
    struct candidate_attribute attributes[12];
    struct roster_key keys[12];
    char names[12][8];
    for (int i = 0; i < 12; i++) {
        (void)snprintf(names[i], sizeof names[i], "a%d", i);
        attributes[i] = (struct candidate_attribute){names[i], "same"};
        keys[i] = (struct roster_key){names[i], "Same", true};
    }
    struct candidate line = {.account = "uni", .id = "1", .attributes = attributes, .attribute_count = 12};
    struct candidate other = {.account = "uni", .id = "2", .attributes = attributes, .attribute_count = 11};
    struct roster_build *build = begin(scratch, NULL, true, NULL);
    assert_stored(scratch->store, store_roster_put(build, &line, NULL));
    assert_stored(scratch->store, store_roster_put(build, &other, NULL));
    assert_stored(scratch->store, store_roster_commit(build));
    struct seen seen;
    assert_string_equal(found(scratch->store, "uni", keys, 12, &seen), "uni/1/*");
}

static void test_at_most_10000_lines(void **state)
{
    struct scratch *scratch = *state;
    struct roster_build *build = begin(scratch, NULL, true, NULL);
    for (int i = 0; i < 10001; i++) {
        char exam[16];
        (void)snprintf(exam, sizeof exam, "E%d", i);
        struct candidate line = {.account = "uni", .id = "1", .exam = exam};
        assert_stored(scratch->store, store_roster_put(build, &line, NULL));
    }
    assert_stored(scratch->store, store_roster_commit(build));
    struct roster_key key = {"id", "1", false};
    struct seen seen;
    (void)found(scratch->store, "uni", &key, 1, &seen);
    assert_int_equal(seen.count, 10000);
    seen = (struct seen){.stop_after = 2};
    assert_stored(scratch->store, store_candidates(scratch->store, "uni", &key, 1, see, &seen));
    assert_int_equal(seen.count, 2);
}

static bool check_whole(void *context, const struct candidate *candidate)
{
    *(bool *)context = true;
    assert_string_equal(candidate->password_hash, COSTLY);
    assert_string_equal(candidate->photo, "https://example.org/p.jpg");
    assert_string_equal(candidate->about, "tall");
    assert_string_equal(candidate->data, "{\"seat\":[1,2]}");
    assert_int_equal(candidate->opens_ms, INT64_C(1700000000123));
    assert_int_equal(candidate->closes_ms, INT64_C(1800000000456));
    assert_int_equal(candidate->attribute_count, 2);
    assert_string_equal(candidate->attributes[0].column, "site");
    assert_string_equal(candidate->attributes[1].value, "  M-0042 ");
    assert_null(candidate->email);
    return true;
}

static void test_everything_of_a_line_comes_back(void **state)
{
    struct scratch *scratch = *state;
    struct candidate line = {.account = "uni",
                             .id = "7",
                             .password_hash = COSTLY,
                             .photo = "https://example.org/p.jpg",
                             .about = "tall",
                             .data = "{\"seat\":[1,2]}",
                             .opens_ms = INT64_C(1700000000123),
                             .closes_ms = INT64_C(1800000000456),
                             .attributes = berlin,
                             .attribute_count = 2};
    import(scratch, NULL, false, NULL, &line, 1);
    struct roster_key key = {"id", "7", false};
    bool seen = false;
    assert_stored(scratch->store, store_candidates(scratch->store, "uni", &key, 1, check_whole, &seen));
    assert_true(seen);
}

static void test_what_replace_takes_away(void **state)
{
    struct scratch *scratch = *state;
    static const struct candidate fresh[] = {{.account = "uni", .id = "2000", .exam = "E1"}};
    static const struct {
        const char *what, *account;
        bool replace;
        const char *exam, *left;
    } cases[] = {
        {"nothing", NULL, false, NULL,
         "lab/1001/E1 uni/1001/E1 uni/1001/E2 uni/1002/* uni/1003/E1 uni/2000/E1"},
        {"all", NULL, true, NULL, "uni/2000/E1"},
        {"an account", "uni", true, NULL, "lab/1001/E1 uni/2000/E1"},
        {"an exam of an account", "uni", true, "E1", "lab/1001/E1 uni/1001/E2 uni/1002/* uni/2000/E1"},
        {"an exam of all accounts", NULL, true, "E1", "uni/1001/E2 uni/1002/* uni/2000/E1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct seen seen;
        import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
        import(scratch, cases[i].account, cases[i].replace, cases[i].exam, fresh, 1);
        const char *left = listed(scratch->store, NULL, &seen);
        if (strcmp(left, cases[i].left) != 0)
            fail_msg("replacing %s left \"%s\"", cases[i].what, left);
        /* What is gone is not found either, and what stays is. */
        struct roster_key carl = {"email", "carl@example.org", true},
                          ada = {"email", "ada@example.org", true};
        assert_int_equal(*found(scratch->store, "lab", &carl, 1, &seen) != '\0',
                         strstr(cases[i].left, "lab/") != NULL);
        assert_int_equal(*found(scratch->store, "uni", &ada, 1, &seen) != '\0',
                         strstr(cases[i].left, "uni/1001") != NULL);
    }
}

static void test_a_line_takes_the_place_of_its_like(void **state)
{
    struct scratch *scratch = *state;
    import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
    struct candidate line = {.account = "uni", .id = " 1001 ", .email = "new@example.org", .exam = "E1"};
    struct candidate another = {.account = "uni", .id = "1001", .email = "new@example.org", .exam = "E9"};
    struct roster_build *build = begin(scratch, "uni", false, NULL);
    bool replaced = false;
    assert_stored(scratch->store, store_roster_put(build, &line, &replaced));
    assert_true(replaced);
    assert_stored(scratch->store, store_roster_put(build, &another, &replaced));
    assert_false(replaced);
    assert_stored(scratch->store, store_roster_commit(build));
    struct seen seen;
    struct roster_key old = {"email", "ada@example.org", true}, new = {"email", "new@example.org", true};
    assert_string_equal(found(scratch->store, "uni", &old, 1, &seen), "uni/1001/E2");
    assert_string_equal(found(scratch->store, "uni", &new, 1, &seen), "uni/1001/E1 uni/1001/E9");
    struct roster_key site[] = {{"id", "1001", false}, {"site", "Berlin", false}};
    assert_string_equal(found(scratch->store, "uni", site, 2, &seen), "uni/1001/E2");
}

static void test_remove(void **state)
{
    struct scratch *scratch = *state;
    import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
    struct roster_build *build = begin(scratch, "uni", false, NULL);
    int64_t removed = -1;
    assert_stored(scratch->store, store_roster_remove(build, "uni", "1001", &removed));
    assert_int_equal(removed, 2);
    assert_stored(scratch->store, store_roster_remove(build, "uni", "nobody", &removed));
    assert_int_equal(removed, 0);
    assert_stored(scratch->store, store_roster_commit(build));
    struct seen seen;
    assert_string_equal(listed(scratch->store, NULL, &seen), "lab/1001/E1 uni/1002/* uni/1003/E1");
    struct roster_key ada = {"email", "ada@example.org", true};
    assert_string_equal(found(scratch->store, "uni", &ada, 1, &seen), "");
}

static void test_list(void **state)
{
    struct scratch *scratch = *state;
    static const struct {
        struct roster_filter filter;
        const char *listed;
    } cases[] = {
        {{"uni", NULL, NULL}, "uni/1001/E1 uni/1001/E2 uni/1002/* uni/1003/E1"},
        {{NULL, "E1", NULL}, "lab/1001/E1 uni/1001/E1 uni/1003/E1"},
        {{NULL, NULL, " 1001"}, "lab/1001/E1 uni/1001/E1 uni/1001/E2"},
        {{"uni", "E2", "1001"}, "uni/1001/E2"},
        {{"uni", "", NULL}, "uni/1002/*"},
        {{"none", NULL, NULL}, ""},
    };
    assert_int_equal(scratch_roster_lines(scratch->store, NULL), 0);
    import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct seen seen;
        assert_string_equal(listed(scratch->store, &cases[i].filter, &seen), cases[i].listed);
    }
    assert_int_equal(scratch_roster_lines(scratch->store, NULL), 5);
    assert_int_equal(scratch_roster_lines(scratch->store, "lab"), 1);
    struct seen seen = {.stop_after = 1};
    static const struct roster_filter all = {NULL, NULL, NULL};
    assert_stored(scratch->store, store_roster_list(scratch->store, &all, see, &seen));
    assert_int_equal(seen.count, 1);
}

/* What stands in the roster's folder, but for the lock. */
static size_t files_in_folder(const struct scratch *scratch)
{
    char path[96];
    (void)snprintf(path, sizeof path, "%s/store/roster", scratch->folder);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    size_t count = 0;
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += entry->d_name[0] != '.' && strstr(entry->d_name, ".lock") == NULL;
    (void)closedir(dir);
    return count;
}

static void test_an_abandoned_build_leaves_nothing(void **state)
{
    struct scratch *scratch = *state;
    import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
    assert_int_equal(files_in_folder(scratch), 1);
    struct roster_build *build = begin(scratch, NULL, true, NULL);
    assert_stored(scratch->store, store_roster_put(build, &sample[0], NULL));
    assert_int_equal(files_in_folder(scratch), 2);
    store_roster_abandon(build);
    store_roster_abandon(NULL);
    assert_int_equal(files_in_folder(scratch), 1);
    assert_int_equal(scratch_roster_lines(scratch->store, NULL), SAMPLE_COUNT);
}

static void test_a_killed_build_leaves_nothing_for_long(void **state)
{
    struct scratch *scratch = *state;
    import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
    pid_t child = fork();
    assert_int_not_equal(child, -1);
    if (child == 0) {
        struct store *own = scratch_open(scratch, STORE_ROSTER, 0, 0);
        struct roster_build *build = NULL;
        if (store_roster_begin(own, NULL, true, NULL, &build) == STORE_OK)
            (void)store_roster_put(build, &sample[0], NULL);
        _exit(0);
    }
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(files_in_folder(scratch), 2);
    assert_int_equal(scratch_roster_lines(scratch->store, NULL), SAMPLE_COUNT);
    store_roster_abandon(begin(scratch, NULL, false, NULL));
    assert_int_equal(files_in_folder(scratch), 1);
}

static void test_a_bad_line_spoils_the_build(void **state)
{
    struct scratch *scratch = *state;
    import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
    static const struct candidate bad[] = {{.account = "uni", .id = " "}, {.account = "lab", .id = "1"}};
    for (size_t i = 0; i < 2; i++) {
        struct roster_build *build = begin(scratch, "uni", true, NULL);
        assert_int_equal(store_roster_put(build, &bad[i], NULL), STORE_ERROR);
        assert_int_equal(store_roster_commit(build), STORE_ERROR);
    }
    struct seen seen;
    (void)listed(scratch->store, NULL, &seen);
    assert_int_equal(seen.count, SAMPLE_COUNT);
    assert_int_equal(files_in_folder(scratch), 1);
}

static void test_a_reader_sees_the_new_roster_by_itself(void **state)
{
    struct scratch *scratch = *state;
    struct store *reader = scratch_open(scratch, 0, STORE_ROSTER, 0);
    struct roster_key key = {"id", "1001", false};
    struct seen seen;
    assert_string_equal(found(reader, "lab", &key, 1, &seen), "");
    struct roster_build *build = begin(scratch, NULL, true, NULL);
    assert_stored(scratch->store, store_roster_put(build, &sample[4], NULL));
    assert_string_equal(found(reader, "lab", &key, 1, &seen), "");
    assert_stored(scratch->store, store_roster_commit(build));
    assert_string_equal(found(reader, "lab", &key, 1, &seen), "lab/1001/E1");
    /* And once more, the statement being prepared already. */
    import(scratch, NULL, true, NULL, sample, 1);
    assert_string_equal(found(reader, "lab", &key, 1, &seen), "");
    assert_string_equal(found(reader, "uni", &key, 1, &seen), "uni/1001/E1");
    store_free(reader);
}

static bool import_meanwhile(void *context, const struct candidate *candidate)
{
    struct scratch *scratch = *(struct scratch **)context;
    (void)candidate;
    import(scratch, NULL, true, NULL, sample, 1);
    assert_int_equal(scratch_roster_lines(scratch->store, NULL), 1);
    return true;
}

static void test_a_listing_outlives_an_import(void **state)
{
    struct scratch *scratch = *state;
    static const struct roster_filter all = {NULL, NULL, NULL};
    import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
    assert_stored(scratch->store, store_roster_list(scratch->store, &all, import_meanwhile, state));
}

static void test_one_builder_at_a_time(void **state)
{
    struct scratch *scratch = *state;
    struct store *other = scratch_open(scratch, STORE_ROSTER, 0, 20);
    struct roster_build *build = begin(scratch, NULL, false, NULL), *second = NULL;
    assert_int_equal(store_roster_begin(other, NULL, false, NULL, &second), STORE_BUSY);
    assert_null(second);
    assert_stored(scratch->store, store_roster_put(build, &sample[0], NULL));
    assert_stored(scratch->store, store_roster_commit(build));
    assert_stored(other, store_roster_begin(other, NULL, false, NULL, &second));
    assert_stored(other, store_roster_put(second, &sample[4], NULL));
    assert_stored(other, store_roster_commit(second));
    struct seen seen;
    assert_string_equal(listed(scratch->store, NULL, &seen), "lab/1001/E1 uni/1001/E1");
    store_free(other);
}

static void test_the_dummy_costs_what_most_hashes_cost(void **state)
{
    struct scratch *scratch = *state;
    char setting[PASSWORD_HASH_BYTES] = "";
    static const struct candidate lines[] = {
        {.account = "uni", .id = "1", .password_hash = CHEAP},
        {.account = "uni", .id = "2", .password_hash = COSTLY},
        {.account = "uni", .id = "3", .password_hash = COSTLY},
        {.account = "uni", .id = "4"},
        {.account = "lab", .id = "1", .password_hash = CHEAP},
        {.account = "bare", .id = "1"},
    };
    assert_int_equal(store_roster_dummy(scratch->store, "uni", setting, sizeof setting), STORE_ABSENT);
    import(scratch, NULL, true, NULL, lines, 6);
    assert_stored(scratch->store, store_roster_dummy(scratch->store, "uni", setting, sizeof setting));
    assert_memory_equal(setting, "$2b$12$", 7);
    assert_string_not_equal(setting, COSTLY);
    assert_stored(scratch->store, store_roster_dummy(scratch->store, "lab", setting, sizeof setting));
    assert_memory_equal(setting, "$2b$10$", 7);
    assert_int_equal(store_roster_dummy(scratch->store, "bare", setting, sizeof setting), STORE_ABSENT);
    assert_int_equal(store_roster_dummy(scratch->store, "lab", setting, 5), STORE_ERROR);
    /* Once the costly ones are gone, it follows. */
    struct roster_build *build = begin(scratch, "uni", false, NULL);
    int64_t removed = 0;
    assert_stored(scratch->store, store_roster_remove(build, "uni", "2", &removed));
    assert_stored(scratch->store, store_roster_remove(build, "uni", "3", &removed));
    assert_stored(scratch->store, store_roster_commit(build));
    assert_stored(scratch->store, store_roster_dummy(scratch->store, "uni", setting, sizeof setting));
    assert_memory_equal(setting, "$2b$10$", 7);
}

static void test_the_mode_stays(void **state)
{
    struct scratch *scratch = *state;
    char path[96];
    struct stat info;
    (void)snprintf(path, sizeof path, "%s/store/roster/roster.db", scratch->folder);
    import(scratch, NULL, true, NULL, sample, 1);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0640);
    assert_int_equal(chmod(path, 0644), 0);
    import(scratch, NULL, true, NULL, sample, 1);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_mode & 0777, 0644);
}

static void test_a_missing_or_damaged_roster_says_so(void **state)
{
    struct scratch *scratch = *state;
    char path[96];
    struct seen seen = {.count = 0};
    static const struct roster_filter all = {NULL, NULL, NULL};
    struct roster_build *build = NULL;
    (void)snprintf(path, sizeof path, "%s/store/roster/roster.db", scratch->folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(store_roster_list(scratch->store, &all, see, &seen), STORE_MISSING);
    assert_int_equal(store_roster_begin(scratch->store, NULL, true, NULL, &build), STORE_MISSING);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 1000; i++)
        (void)fputs("this is no database at all; ", file);
    (void)fclose(file);
    assert_int_equal(store_roster_list(scratch->store, &all, see, &seen), STORE_CORRUPT);
    assert_int_equal(store_roster_begin(scratch->store, NULL, true, NULL, &build), STORE_CORRUPT);
}

/* Puts a copy of the roster in its place that says it is of that schema: SQLite's user_version. */
static void replace_by_schema(const struct scratch *scratch, uint8_t version)
{
    enum { AT = 60 }; /* big-endian, in SQLite's header */
    static char bytes[256 * 1024];
    char path[96], copy[96];
    (void)snprintf(path, sizeof path, "%s/store/roster/roster.db", scratch->folder);
    (void)snprintf(copy, sizeof copy, "%s/store/roster/copy", scratch->folder);
    FILE *from = fopen(path, "rb"), *to = fopen(copy, "wb");
    assert_non_null(from);
    assert_non_null(to);
    size_t len = fread(bytes, 1, sizeof bytes, from);
    assert_in_range(len, AT + 4, sizeof bytes - 1);
    memcpy(bytes + AT, (const uint8_t[]){0, 0, 0, version}, 4);
    assert_int_equal(fwrite(bytes, 1, len, to), len);
    assert_int_equal(fclose(from), 0);
    assert_int_equal(fclose(to), 0);
    assert_int_equal(rename(copy, path), 0);
}

/* As a restored backup or another version's import is, under a program that runs. */
static void test_a_roster_of_another_schema_is_put_in_place(void **state)
{
    struct scratch *scratch = *state;
    static const struct {
        uint8_t version;
        enum store_status status;
        const char *says;
    } cases[] = {{0, STORE_OLD, "older"},
                 {3, STORE_NEW, "newer"},
                 {2, STORE_OK, ""}, /* one newer is borne */
                 {255, STORE_NEW, "newer"},
                 {1, STORE_OK, ""}};
    struct store *reader = scratch_open(scratch, 0, STORE_ROSTER, 0);
    struct roster_key key = {"id", "1001", false};
    import(scratch, NULL, true, NULL, sample, SAMPLE_COUNT);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct seen seen = {.count = 0};
        replace_by_schema(scratch, cases[i].version);
        enum store_status status = store_candidates(reader, "lab", &key, 1, see, &seen);
        assert_int_equal(status, cases[i].status);
        assert_string_equal(seen.text, status == STORE_OK ? "lab/1001/E1" : "");
        if (status != STORE_OK)
            assert_non_null(strstr(store_message(reader), cases[i].says));
        struct store *later = NULL;
        struct buf why = BUF_INIT;
        assert_int_equal(store_open(scratch->url, 0, STORE_ROSTER, 0, &later, &why), cases[i].status);
        store_free(later);
        buf_release(&why);
    }
    store_free(reader);
}

static void test_a_folder_whose_name_looks_like_an_address(void **state)
{
    struct scratch *scratch = *state;
    static const char *const names[] = {"st?mode=memory", "100%41", "a#b", "%3f?#&=;\"'"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        struct scratch odd = {.store = NULL};
        struct buf said = BUF_INIT;
        char path[160];
        struct stat there;
        memcpy(odd.folder, scratch->folder, sizeof odd.folder);
        (void)snprintf(odd.url, sizeof odd.url, "sqlite:%.60s/%s", scratch->folder, names[i]);
        assert_int_equal(store_migrate(odd.url, &said), STORE_OK);
        buf_release(&said);
        (void)snprintf(path, sizeof path, "%s/%s/roster/roster.db", scratch->folder, names[i]);
        assert_int_equal(stat(path, &there), 0);
        odd.store = scratch_open(&odd, STORE_ALL, 0, 5000);
        import(&odd, NULL, true, NULL, &sample[i], 1);
        struct store *reader = scratch_open(&odd, 0, STORE_ALL, 0);
        struct seen here, alone;
        assert_string_not_equal(listed(reader, NULL, &here), "");
        import(scratch, NULL, true, NULL, &sample[i], 1);
        assert_string_equal(here.text, listed(scratch->store, NULL, &alone));
        store_free(reader);
        store_free(odd.store);
    }
}

static double cpu_seconds(void)
{
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 +
           (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6;
}

/* Measured and printed, never judged by time: machines differ. */
static void test_a_large_roster(void **state)
{
    struct scratch *scratch = *state;
    const int lines = getenv("EXAMHOOK_SMALL_TESTS") != NULL ? 2000 : 200000;
    for (int turn = 0; turn < 2; turn++) {
        double before = cpu_seconds();
        struct roster_build *build = begin(scratch, turn == 0 ? NULL : "uni", turn == 0, NULL);
        for (int i = 0; i < lines; i++) {
            char id[16], email[48], name[48], number[32];
            (void)snprintf(id, sizeof id, "%07d", (int)((int64_t)i * 7919 % lines));
            (void)snprintf(email, sizeof email, "Candidate.%d@Students.Example.org",
                           (int)((int64_t)i * 104729 % lines));
            (void)snprintf(name, sizeof name, "Candidate Number %d", i % 5000);
            (void)snprintf(number, sizeof number, "M-%08d", i);
            struct candidate_attribute attribute = {"matriculation", number};
            struct candidate line = {.account = "uni",
                                     .id = id,
                                     .email = email,
                                     .name = name,
                                     .exam = "E1",
                                     .password_hash = COSTLY,
                                     .attributes = &attribute,
                                     .attribute_count = 1};
            assert_stored(scratch->store, store_roster_put(build, &line, NULL));
        }
        assert_stored(scratch->store, store_roster_commit(build));
        print_message("%d lines %s: %.2f s of CPU\n", lines, turn == 0 ? "built" : "replaced one by one",
                      cpu_seconds() - before);
    }
    double before = cpu_seconds();
    for (int i = 0; i < 2000; i++) {
        char email[48];
        struct seen seen;
        (void)snprintf(email, sizeof email, "candidate.%d@students.example.org", (i * 97) % lines);
        struct roster_key key = {"email", email, true};
        (void)found(scratch->store, "uni", &key, 1, &seen);
        assert_int_equal(seen.count, 1);
    }
    print_message("2000 lookups: %.1f us of CPU each\n", (cpu_seconds() - before) * 1e6 / 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        scratch_test(test_lookups),
        scratch_test(test_many_keys),
        scratch_test(test_at_most_10000_lines),
        scratch_test(test_everything_of_a_line_comes_back),
        scratch_test(test_what_replace_takes_away),
        scratch_test(test_a_line_takes_the_place_of_its_like),
        scratch_test(test_remove),
        scratch_test(test_list),
        scratch_test(test_an_abandoned_build_leaves_nothing),
        scratch_test(test_a_killed_build_leaves_nothing_for_long),
        scratch_test(test_a_bad_line_spoils_the_build),
        scratch_test(test_a_reader_sees_the_new_roster_by_itself),
        scratch_test(test_a_listing_outlives_an_import),
        scratch_test(test_one_builder_at_a_time),
        scratch_test(test_the_dummy_costs_what_most_hashes_cost),
        scratch_test(test_the_mode_stays),
        scratch_test(test_a_missing_or_damaged_roster_says_so),
        scratch_test(test_a_roster_of_another_schema_is_put_in_place),
        scratch_test(test_a_folder_whose_name_looks_like_an_address),
        scratch_test(test_a_large_roster),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
