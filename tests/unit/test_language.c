#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "../../common/json.h"
#include "../../common/language.h"

#define SHIPPED "deploy/languages"

static const enum roster_verdict verdicts[] = {ROSTER_UNKNOWN, ROSTER_OTHER_EXAM,     ROSTER_NOT_OPEN,
                                               ROSTER_CLOSED,  ROSTER_FIELDS_MAPPING, ROSTER_THROTTLED,
                                               ROSTER_BUSY};
#define VERDICTS (sizeof verdicts / sizeof *verdicts)

/* --- A folder of its own for each test ------------------------------------------------------------------ */

static int make_folder(void **state)
{
    char path[] = "/tmp/examhook-language-XXXXXX";
    *state = mkdtemp(path) ? xstrdup(path) : NULL;
    return *state ? 0 : -1;
}

static int forget(const char *path, const struct stat *info, int kind, struct FTW *where)
{
    (void)info;
    (void)kind;
    (void)where;
    return remove(path);
}

static int remove_folder(void **state)
{
    int failed = nftw(*state, forget, 4, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return failed;
}

static void put(const char *folder, const char *name, const char *text, size_t len)
{
    char path[256];
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, len, file), len);
    assert_int_equal(fclose(file), 0);
}

static void put_text(const char *folder, const char *name, const char *text)
{
    put(folder, name, text, strlen(text));
}

static struct languages *load(const char *folder, const char *code)
{
    struct languages *languages = NULL;
    struct buf why = BUF_INIT;
    bool loaded = languages_load(folder, code, &languages, &why);
    if (!loaded)
        print_error("%s\n", buf_str(&why));
    assert_true(loaded);
    buf_release(&why);
    return languages;
}

static void assert_says(const struct languages *languages, const char *code, enum roster_verdict verdict,
                        const char *expected)
{
    struct buf text = BUF_INIT;
    language_text(languages, code, verdict, 15, &text);
    assert_string_equal(buf_str(&text), expected);
    buf_release(&text);
}

/* --- What we ship --------------------------------------------------------------------------------------- */

static void every_shipped_language_is_whole(void **state)
{
    static const char *const codes[] = {"en", "de", "fr", "es", "pt", "ru", "pl", "zh", "ko", "ja", "vi"};
    struct languages *languages = load(SHIPPED, "en");
    (void)state;
    for (size_t c = 0; c < sizeof codes / sizeof *codes; c++) {
        for (size_t v = 0; v < VERDICTS; v++) {
            struct buf text = BUF_INIT, english = BUF_INIT;
            language_text(languages, codes[c], verdicts[v], 1234, &text);
            language_text(languages, "en", verdicts[v], 1234, &english);
            assert_true(text.len > 10);
            assert_true(utf8_valid(text.data, text.len));
            assert_null(strchr(buf_str(&text), '{'));
            /* Its own text, and not the English one for lack of it. */
            assert_int_equal(strcmp(buf_str(&text), buf_str(&english)) == 0, c == 0);
            assert_int_equal(strstr(buf_str(&text), "1234") != NULL,
                             verdicts[v] == ROSTER_THROTTLED || verdicts[v] == ROSTER_BUSY);
            buf_release(&text);
            buf_release(&english);
        }
    }
    languages_free(languages);
}

/* Without a folder a candidate reads the same English as with it. */
static void built_in_english_is_the_shipped_english(void **state)
{
    struct languages *shipped = load(SHIPPED, "en"), *none = load("/nonexistent/languages", "de");
    (void)state;
    for (size_t v = 0; v < VERDICTS; v++) {
        struct buf text = BUF_INIT;
        language_text(shipped, "en", verdicts[v], 15, &text);
        assert_says(none, "en", verdicts[v], buf_str(&text));
        assert_says(none, "de", verdicts[v], buf_str(&text));
        assert_says(none, NULL, verdicts[v], buf_str(&text));
        buf_release(&text);
    }
    languages_free(shipped);
    languages_free(none);
}

/* --- Which text ----------------------------------------------------------------------------------------- */

static void choice_of_language(void **state)
{
    static const struct {
        const char *code, *expected;
    } cases[] = {
        {"pt", "pt"},
        {"PT", "pt"},
        {"pt-BR", "pt"},
        {"pt_BR", "pt"},
        {"pt-br-x", "pt"},
        {"zh", "zh"},
        {"zh-Hant", "tw"},
        {"ZH-hant", "tw"},
        {"zh-Hant-TW", "tw"},
        {"zh_Hant_TW", "tw"},
        {"zh-Hans", "zh"},
        {"zh-CN", "zh"},
        {"de", "de"},
        {NULL, "de"},
        {"", "de"},
        {"xx", "de"},
        {"p", "de"},
        {"ptt", "de"},
        {"pt.txt", "de"},
        {"../pt", "de"},
        {"pt-", "pt"},
        {"-pt", "de"},
        {"-", "de"},
        {"--------", "de"},
        {"\xD0\xBF\xD1\x82", "de"},
        {"zh-Hant-and-a-very-long-tail-behind-it", "tw"},
        {"averylongcodewithouthyphens", "de"},
    };
    const char *folder = *state;
    struct languages *languages;
    put_text(folder, "PT.txt", "unknown = pt\n");
    put_text(folder, "zh.txt", "unknown = zh\n");
    put_text(folder, "zh-Hant.txt", "unknown = tw\n");
    put_text(folder, "de.txt", "unknown = de\n");
    languages = load(folder, "DE");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_says(languages, cases[i].code, ROSTER_UNKNOWN, cases[i].expected);
    languages_free(languages);
}

static void a_missing_text_is_english(void **state)
{
    const char *folder = *state;
    struct languages *languages;
    put_text(folder, "de.txt", "unknown = nicht gefunden\n");
    languages = load(folder, "de");
    assert_says(languages, "de", ROSTER_CLOSED,
                "The time for this exam is over. Please contact the organisers.");
    languages_free(languages);
    put_text(folder, "en.txt", "closed = our own words\n");
    languages = load(folder, "de");
    assert_says(languages, "de", ROSTER_UNKNOWN, "nicht gefunden");
    assert_says(languages, "de", ROSTER_CLOSED, "our own words");
    assert_says(languages, "xx", ROSTER_CLOSED, "our own words");
    assert_says(languages, "en", ROSTER_NOT_OPEN,
                "This exam is not open for you yet. Please come back at your scheduled time.");
    languages_free(languages);
}

static void seconds_are_filled_in(void **state)
{
    const char *folder = *state;
    struct languages *languages;
    struct buf text = BUF_INIT;
    put_text(folder, "de.txt", "wait = {seconds}s: noch {seconds} {Sekunden}\nbusy = bald\n");
    languages = load(folder, "de");
    assert_says(languages, "de", ROSTER_THROTTLED, "15s: noch 15 {Sekunden}");
    /* Nobody is told to wait for no time at all. */
    language_text(languages, "de", ROSTER_THROTTLED, 0, &text);
    assert_string_equal(buf_str(&text), "1s: noch 1 {Sekunden}");
    buf_release(&text);
    languages_free(languages);
}

/* --- What a file may look like -------------------------------------------------------------------------- */

static void accepted_files(void **state)
{
    const char *folder = *state;
    struct languages *languages;
    put_text(folder, "de.txt",
             "\xEF\xBB\xBF# Kommentar\r\n\r\n  unknown=a = b # c  \r\n\t# noch einer\r\n"
             "\tclosed\t=\t\xC3\xBC"
             "ber\r\nbusy = ohne Zeilenende");
    /* Not languages: other names, other endings. */
    put_text(folder, "README.md", "no language");
    put_text(folder, "fr.txt~", "no language");
    put_text(folder, ".fr.txt.swp", "no language");
    put_text(folder, "f.txt", "no language");
    put_text(folder, "abcdefghijklmnopq.txt", "no language");
    put_text(folder, "fr_FR.txt", "no language");
    put_text(folder, "fr.TXT", "no language");
    languages = load(folder, "de");
    assert_says(languages, "de", ROSTER_UNKNOWN, "a = b # c");
    assert_says(languages, "de", ROSTER_CLOSED,
                "\xC3\xBC"
                "ber");
    assert_says(languages, "de", ROSTER_BUSY, "ohne Zeilenende");
    languages_free(languages);
}

static void refused_files(void **state)
{
    static const struct {
        const char *text, *line, *what;
    } cases[] = {
        {"unknown = a\nunknwon = b\n", "2", "unknown key \"unknwon\""},
        {"throttled = a\n", "1", "unknown key"},
        {"Unknown = a\n", "1", "unknown key"},
        {"= a\n", "1", "unknown key"},
        {"# x\n\nunknown\n", "3", "expected \"key = text\""},
        {"[texts]\n", "1", "expected \"key = text\""},
        {"unknown =\n", "1", "the text is missing"},
        {"unknown = \t \n", "1", "the text is missing"},
        {"unknown = a\nclosed = b\nunknown = c\n", "3", "twice"},
        {"wait = wait a little\n", "1", "{seconds}"},
        {"wait = wait {second}\n", "1", "{seconds}"},
        {"closed = Gr\xFC\xDF"
         "e\n",
         "1", "UTF-8"},
        {"\n# Gr\xFC\xDF"
         "e\n",
         "2", "UTF-8"},
        {"closed = \xC0\x80\n", "1", "UTF-8"},
        {"\xFF\xFE"
         "closed",
         "1", "UTF-8"},
    };
    const char *folder = *state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct languages *languages = NULL;
        struct buf why = BUF_INIT;
        char place[256];
        put_text(folder, "fr.txt", cases[i].text);
        assert_false(languages_load(folder, "en", &languages, &why));
        assert_null(languages);
        snprintf(place, sizeof place, "%s/fr.txt:%s: ", folder, cases[i].line);
        assert_int_equal(strncmp(buf_str(&why), place, strlen(place)), 0);
        assert_non_null(strstr(buf_str(&why), cases[i].what));
        assert_true(utf8_valid(buf_str(&why), why.len));
        buf_release(&why);
    }
}

static void assert_refused(const char *folder, const char *code, const char *what)
{
    struct languages *languages = NULL;
    struct buf why = BUF_INIT;
    assert_false(languages_load(folder, code, &languages, &why));
    assert_null(languages);
    assert_non_null(strstr(buf_str(&why), what));
    buf_release(&why);
}

static void refused_folders(void **state)
{
    const char *folder = *state;
    char path[256];
    char *large;
    put_text(folder, "de.txt", "unknown = a\n");
    assert_refused(folder, "fr", "there is no fr.txt");
    languages_free(load(folder, "en")); /* built in */
    put(folder, "nl.txt", "unknown = a\0b\n", 14);
    assert_refused(folder, "de", "nl.txt:1: not valid UTF-8");
    large = xcalloc(1, 100000);
    memset(large, '#', 100000);
    put(folder, "nl.txt", large, 100000);
    free(large);
    assert_refused(folder, "de", "nl.txt: too large");
    put_text(folder, "nl.txt", "");
    languages_free(load(folder, "de"));
    put_text(folder, "DE.txt", "unknown = b\n");
    assert_refused(folder, "de", "de.txt: another file has the same code");
    snprintf(path, sizeof path, "%s/DE.txt", folder);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/fr.txt", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_refused(folder, "de", "fr.txt: not a regular file");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refused(folder, "de", "fr.txt: not a regular file");
    snprintf(path, sizeof path, "%s/de.txt", folder);
    assert_refused(path, "de", path); /* a file where a folder should be */
}

#define WITH_FOLDER(test) cmocka_unit_test_setup_teardown(test, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shipped_language_is_whole),
        cmocka_unit_test(built_in_english_is_the_shipped_english),
        WITH_FOLDER(choice_of_language),
        WITH_FOLDER(a_missing_text_is_english),
        WITH_FOLDER(seconds_are_filled_in),
        WITH_FOLDER(accepted_files),
        WITH_FOLDER(refused_files),
        WITH_FOLDER(refused_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
