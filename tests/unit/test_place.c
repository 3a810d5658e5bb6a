#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../common/place.h"
#include "../../common/store.h"

/*
 * A customer's home as a host lays it out: public_html is the document root, web a link to it, www2 its
 * neighbour with a name that begins like another's.
 */
struct home {
    char folder[64];
};

static void make_file(const struct home *home, const char *name, const char *text)
{
    char path[192];
    int fd;
    snprintf(path, sizeof path, "%s/%s", home->folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void in_home(const struct home *home, const char *name, char path[192])
{
    snprintf(path, 192, "%s/%s", home->folder, name);
}

static int make_home(void **state)
{
    static const char *const folders[] = {"examhook", "examhook/store", "examhook/store/ratings",
                                          "www",      "www2",           "www/store"};
    struct home *home = calloc(1, sizeof *home);
    char path[192];
    assert_non_null(home);
    strncpy(home->folder, "/tmp/examhook-place-XXXXXX", sizeof home->folder - 1);
    assert_non_null(mkdtemp(home->folder));
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        in_home(home, folders[i], path);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    in_home(home, "web", path);
    assert_int_equal(symlink("www", path), 0);
    make_file(home, "secret", "client-secret-1\n");
    make_file(home, "www/secret", "client-secret-2\n");
    *state = home;
    return 0;
}

static int remove_home(void **state)
{
    static const char *const names[] = {"secret",
                                        "www/secret",
                                        "www/linked",
                                        "web",
                                        "examhook/examhook.conf",
                                        "www/examhook.conf",
                                        "examhook/store/examjoint"};
    static const char *const folders[] = {
        "www/store", "www/ratings", "www2", "www", "examhook/store/ratings", "examhook/store", "examhook"};
    struct home *home = *state;
    char path[192];
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        in_home(home, names[i], path);
        unlink(path);
    }
    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++) {
        in_home(home, folders[i], path);
        rmdir(path);
    }
    assert_int_equal(rmdir(home->folder), 0);
    free(home);
    return 0;
}

/* The configuration at `name` of the home, with this store and this secret file; document root `root`. */
static bool judge(const struct home *home, const char *name, const char *store, const char *secret,
                  const char *root, struct buf *why)
{
    struct buf text = BUF_INIT, refused = BUF_INIT;
    struct config *config = NULL;
    char path[192];
    bool good;
    buf_addf(&text, "[store]\nurl = sqlite:%s\n[examjoint a]\nclient_id = c\nclient_secret_file = %s\n",
             store, secret);
    make_file(home, name, buf_str(&text));
    in_home(home, name, path);
    if (!config_load(path, CONFIG_EXAMJOINT, &config, &refused))
        fail_msg("refused: %s", buf_str(&refused));
    good = place_check(config, root, why);
    config_free(config);
    buf_release(&text);
    buf_release(&refused);
    return good;
}

static void expect(const struct home *home, const char *store, const char *secret, const char *root,
                   const char *expected)
{
    struct buf why = BUF_INIT;
    char whole[192];
    in_home(home, root, whole);
    bool good = judge(home, "examhook/examhook.conf", store, secret, whole, &why);
    if (!expected && !good)
        fail_msg("refused: %s", buf_str(&why));
    if (expected && (good || !strstr(buf_str(&why), expected)))
        fail_msg("expected %s, got %s", expected, good ? "no objection" : buf_str(&why));
    if (expected && !strstr(buf_str(&why), "move it out of there"))
        fail_msg("says not what to do: %s", buf_str(&why));
    buf_release(&why);
}

static void beside_the_document_root_is_fine(void **state)
{
    const struct home *home = *state;
    expect(home, "store", "../secret", "www", NULL);
    expect(home, "store", "../secret", "web", NULL);
    /* A name that begins like the root's is another folder. */
    expect(home, "../www2/store", "../secret", "www", NULL);
    expect(home, "store-that-is-not-there/yet", "../secret", "www", NULL);
}

static void the_store_under_it_is_refused(void **state)
{
    const struct home *home = *state;
    expect(home, "../www/store", "../secret", "www", "the store ");
    expect(home, "../www", "../secret", "www", "the store ");
    /* One that is still to be made. */
    expect(home, "../www/not/there/yet", "../secret", "www", "the store ");
    /* The document root is all of the customer's folder. */
    expect(home, "store", "../secret", ".", "the store ");
    expect(home, "store", "../secret", "/..", "the store ");
}

static void links_hide_nothing(void **state)
{
    const struct home *home = *state;
    char path[192];
    expect(home, "../web/store", "../secret", "www", "the store ");
    expect(home, "../www/store", "../secret", "web", "the store ");
    expect(home, "../web/not-there-yet", "../secret", "www", "the store ");
    in_home(home, "examhook/store/examjoint", path);
    assert_int_equal(symlink("../../www/store", path), 0);
    expect(home, "store", "../secret", "www", "examjoint lies under");
    assert_int_equal(unlink(path), 0);
    /* The other way round: the root shows our folder under a name of its own. */
    in_home(home, "www/linked", path);
    assert_int_equal(symlink("../examhook", path), 0);
    expect(home, "store", "../secret", "www/linked", "the store ");
}

static void files_under_it_are_refused(void **state)
{
    const struct home *home = *state;
    struct buf why = BUF_INIT;
    char root[192];
    expect(home, "store", "../www/secret", "www", "the secret ");
    in_home(home, "www", root);
    assert_false(judge(home, "www/examhook.conf", "../examhook/store", "../secret", root, &why));
    assert_non_null(strstr(buf_str(&why), "the configuration "));
    buf_release(&why);
}

static void without_a_document_root_all_is_fine(void **state)
{
    const struct home *home = *state;
    struct buf why = BUF_INIT;
    assert_true(judge(home, "examhook/examhook.conf", "../www/store", "../www/secret", NULL, &why));
    assert_true(judge(home, "examhook/examhook.conf", "../www/store", "../www/secret", "", &why));
    assert_true(
        judge(home, "examhook/examhook.conf", "../www/store", "../www/secret", "/no/such/root", &why));
    assert_int_equal(why.len, 0);
    /* All of the machine is served. */
    assert_false(judge(home, "examhook/examhook.conf", "store", "../secret", "/", &why));
    assert_null(strstr(buf_str(&why), "move it"));
    assert_non_null(strstr(buf_str(&why), "give the site a document root of its own"));
    buf_release(&why);
}

/* What of the store is open to whom, the store being `url`, its folder of ratings asked for. */
static bool closed(const struct home *home, const char *url, bool personal, struct buf *why)
{
    struct config config = {.personal = personal};
    char path[192];
    in_home(home, url, path);
    struct buf whole = BUF_INIT;
    buf_addf(&whole, "sqlite:%s", path);
    config.store_url = whole.data;
    bool good = place_closed(&config, STORE_RATINGS, why);
    buf_release(&whole);
    return good;
}

/* A folder that is reached by a link is as open as what the link leads to. */
static void a_link_hides_no_open_folder(void **state)
{
    static const struct {
        const char *opened;
        mode_t mode;
        bool personal, good;
    } cases[] = {
        {"examhook/store", 0700, true, true},           {"examhook/store", 0711, false, true},
        {"examhook/store", 0777, false, false},         {"examhook/store", 0770, true, false},
        {"examhook/store/ratings", 0700, true, true},   {"examhook/store/ratings", 0770, false, true},
        {"examhook/store/ratings", 0701, false, false}, {"examhook/store/ratings", 0710, true, false},
    };
    const struct home *home = *state;
    char link[192], linked[192], path[192];
    in_home(home, "www/store", path);
    assert_int_equal(rmdir(path), 0);
    in_home(home, "www/linked", link);
    assert_int_equal(symlink("../examhook/store", link), 0);
    in_home(home, "www2/ratings", linked);
    assert_int_equal(symlink("../examhook/store/ratings", linked), 0);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        /* Under its own name, by a link to the store, by a link in the store. */
        static const char *const urls[] = {"examhook/store", "www/linked", "www2"};
        in_home(home, cases[i].opened, path);
        assert_int_equal(chmod(path, cases[i].mode), 0);
        for (size_t j = 0; j < 3; j++) {
            struct buf why = BUF_INIT;
            bool reaches = j < 2 || strstr(cases[i].opened, "ratings");
            assert_int_equal(closed(home, urls[j], cases[i].personal, &why), cases[i].good || !reaches);
            assert_int_equal(why.len > 0, !cases[i].good && reaches);
            buf_release(&why);
        }
        assert_int_equal(chmod(path, 0700), 0);
    }
    unlink(linked);
}

/* What a personal installation closes it closes behind a link too. */
static void a_link_hides_no_folder_to_be_closed(void **state)
{
    const struct home *home = *state;
    struct buf why = BUF_INIT;
    char link[192], path[192];
    struct stat st;
    in_home(home, "www/linked", link);
    assert_int_equal(symlink("../examhook/store/ratings", link), 0);
    in_home(home, "examhook/store/ratings", path);
    assert_int_equal(chmod(path, 0755), 0);
    assert_true(place_close(link, &why));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    buf_release(&why);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(beside_the_document_root_is_fine, make_home, remove_home),
        cmocka_unit_test_setup_teardown(the_store_under_it_is_refused, make_home, remove_home),
        cmocka_unit_test_setup_teardown(links_hide_nothing, make_home, remove_home),
        cmocka_unit_test_setup_teardown(files_under_it_are_refused, make_home, remove_home),
        cmocka_unit_test_setup_teardown(without_a_document_root_all_is_fine, make_home, remove_home),
        cmocka_unit_test_setup_teardown(a_link_hides_no_open_folder, make_home, remove_home),
        cmocka_unit_test_setup_teardown(a_link_hides_no_folder_to_be_closed, make_home, remove_home),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
