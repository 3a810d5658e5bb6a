#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <cmocka.h>

#include "../../common/password.h"

#define A10 "aaaaaaaaaa"
#define A70 A10 A10 A10 A10 A10 A10 A10
#define BCRYPT_OF_72_A "$2y$04$Nobody.Has.This.Salt0.ATgvFIDy1RFDbg1kyur7v3rz8tYZNYe"
#define YESCRYPT_HUNTER2 "$y$j9T$Nobody.Has.This.Salt0.$tv/QV7mm5Ct5V5irzQf/x7a.q1Ta7IxxFxP85EiqGo9"
#define SHA512_X                                                                 \
    "$6$Nobody.Has.This0$ZOuFZBtJw7RIps8VwaHhLb63y2MRKWukh6BCjxzDC154T/fvtgkgt/" \
    "3.N5ve9l6DSSVfR9rsGGbeMeYJC5r5m/"
#define SHA512_TAIL "ZOuFZBtJw7RIps8VwaHhLb63y2MRKWukh6BCjxzDC154T/fvtgkgt/3.N5ve9l6DSSVfR9rsGGbeMeYJC5r5m/"

/* Whatever goes in, one hash is computed. */
static bool check(const char *hash, const char *password, size_t len)
{
    unsigned long before = password_computed();
    bool match = true;
    (void)password_check(hash, password, len, &match);
    assert_int_equal(password_computed() - before, 1);
    return match;
}

static bool check_text(const char *hash, const char *password)
{
    return check(hash, password, strlen(password));
}

/* Hashes that others made: the specification's, PHP's manual's, OpenWall's; and libxcrypt's for yescrypt. */
static void known_hashes(void **state)
{
    static const struct {
        const char *password, *hash;
    } cases[] = {
        {"U*U", "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"},
        {"rasmuslerdorf", "$2y$07$BCryptRequires22Chrcte/VlQH0piJtjXl.0t1XkA8pw9dMXTpOq"},
        {"hunter2", "$2b$04$Nobody.Has.This.Salt0.2RtCbh23CzlgBc0D2fexuoIPIbCsHIW"},
        {"Hello world!", "$6$saltstring$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl/"
                         "O817G3uBnIFNjnQJuesI68u4OTLiBFdcbYEdFCoEOfaS35inz1"},
        {"Hello world!", "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/"
                         "UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/y3RnOaw5v."},
        {"x", SHA512_X},
        {"hunter2", YESCRYPT_HUNTER2},
        {"p\xC3\xA4ssw\xC3\xB6rd",
         "$y$j75$Nobody.Has.This.Salt0.$XFEls5Wp8YFbR5X.bOlJcv44LlLpSaRJ2DmfMnV2wk/"},
        {"", "$y$j75$Nobody.Has.This.Salt0.$pg7qVEQQy7VitHd4zvK2j.dht64vzwT6vAxHG09pt1/"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *password = cases[i].password, *hash = cases[i].hash;
        char wrong[64], padded[PASSWORD_HASH_BYTES];
        assert_true(password_hash_supported(hash));
        assert_true(password_hash_complete(hash));
        assert_true(check_text(hash, password));
        snprintf(wrong, sizeof wrong, "%s ", password);
        assert_false(check_text(hash, wrong));
        if (*password)
            assert_false(check(hash, password, strlen(password) - 1));
        snprintf(padded, sizeof padded, "%sA", hash);
        assert_false(password_hash_complete(padded));
        assert_false(check_text(padded, password));
    }
}

static void only_these_kinds(void **state)
{
    static const char *const refused[] = {
        "",
        "x",
        "*",
        "!",
        "hunter2",
        "$",
        "$$",
        "$2",
        "$2b",
        "$2b$",
        "$y$",
        "$y$j9T",
        "$6",
        "abJnggxhB/yWI",                                                     /* DES */
        "_J9..K0AyUubRfpk9Wcg",                                              /* extended DES */
        "$1$YxleGgmO$qZZs/cHmjCk7VjnXVAeH40",                                /* MD5 */
        "$apr1$YxleGgmO$qZZs/cHmjCk7VjnXVAeH40",                             /* Apache's MD5 */
        "$5$lFNl4jgaRpkUw1zJ$3Ii1CLV4yXlzd3tiRoXTEb.ionkxRqervlsX28gRZX4",   /* sha256crypt */
        "$7$CU..../....Q8rKekOwoFuSf1j4.sy1P.$2rPIo32hMue8RIFOxw76vamGdx1T", /* scrypt */
        "$gy$j9T$MBw2dnKZsSA3sAEbBIMj1.$QrwL/2TkUOgcohW4dk6i91Hn41byFK2QbCh6zeg3Gi7",
        "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$RdescudvJCsgt3ub+b4dWRWJTmaaJObG",
        "$argon2i$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$wWKIMhR9lyDFvRz9YTZweHKfbftvj+qf",
        "$sha1$40000$jtNX3nZ2$hBNaIXkt4wBI2o5rsi8KejSjNqIq",
        "$3$$8846f7eaee8fb117ad06bdd830b7586c", /* NT */
        "5f4dcc3b5aa765d61d8327deb882cf99",
        "{SSHA}0c0blFTXXNuAMHECS4uxrj3ZieMoWImr",
        "pbkdf2_sha256$260000$x$y",
        "$2$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2x$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2B$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2b$03$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2b$17$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", /* outlasts many a time budget */
        "$2b$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2b$5$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
        "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe",
        "$2b$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOe:",
        "$2b$05$CCCCCCCCCCCCCCCCCCCCCCE5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", /* salt with loose bits */
        "$6$saltstring$short",
        ("$6$abcdefghijklmnopq$" SHA512_TAIL), /* salt of 17 */
        ("$6$rounds=999$x$" SHA512_TAIL),
        ("$6$rounds=5000001$x$" SHA512_TAIL),
        ("$6$rounds=999999999$x$" SHA512_TAIL),
        ("$6$rounds=05000$x$" SHA512_TAIL),
        ("$6$rounds=$x$" SHA512_TAIL),
        ("$6$sa:lt$" SHA512_TAIL),
        "$y$jZT$Nobody.Has.This.Salt0.$tv/QV7mm5Ct5V5irzQf/x7a.q1Ta7IxxFxP85EiqGo9",
        "$y$j9z$Nobody.Has.This.Salt0.$tv/QV7mm5Ct5V5irzQf/x7a.q1Ta7IxxFxP85EiqGo9",
        "$y$j9T$Nobody.Has.This.Salt0.$tv/QV7mm5Ct5V5irzQf/x7a.q1Ta7IxxFxP85EiqGo",
        "$y$j9T$$tv/QV7mm5Ct5V5irzQf/x7a.q1Ta7IxxFxP85EiqGo9",
        (" " SHA512_X),
        (SHA512_X " "),
        (SHA512_X "\n"),
    };
    char setting[PASSWORD_HASH_BYTES] = "untouched", class_text[32] = "untouched";
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        if (password_hash_supported(refused[i]))
            print_error("supported, and should not be: %s\n", refused[i]);
        assert_false(password_hash_supported(refused[i]));
        assert_false(password_hash_complete(refused[i]));
        assert_false(password_dummy(refused[i], setting));
        assert_false(password_cost_class(refused[i], class_text));
    }
    assert_false(password_hash_supported(NULL));
    assert_string_equal(setting, "untouched");
    assert_string_equal(class_text, "untouched");
}

/* "hunter2" by DES, MD5 and sha256crypt: crypt(3) would say yes to each. */
static void refused_kinds_never_match(void **state)
{
    static const char *const hashes[] = {
        "GvU23rCfUwBO.",
        "$1$YxleGgmO$qZZs/cHmjCk7VjnXVAeH40",
        "$5$lFNl4jgaRpkUw1zJ$3Ii1CLV4yXlzd3tiRoXTEb.ionkxRqervlsX28gRZX4",
    };
    (void)state;
    for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++)
        assert_false(check_text(hashes[i], "hunter2"));
    assert_false(check_text("", "hunter2"));
    assert_false(check_text("", ""));
    assert_false(check_text("*0", "hunter2"));
    assert_false(check_text("*1", "*1"));
    assert_false(check_text(NULL, "hunter2"));
    /* Right to look at, but its salt decodes to nothing: crypt(3) answers *0 without computing. */
    assert_true(password_hash_supported("$y$j9T$abc"));
    assert_false(check_text("$y$j9T$abc", "hunter2"));
}

static void strange_passwords(void **state)
{
    char big[4096];
    (void)state;
    memset(big, 'a', sizeof big);
    /* bcrypt sees 72 bytes; PHP compares like that. */
    assert_true(check(BCRYPT_OF_72_A, A70 "aa", 72));
    assert_true(check(BCRYPT_OF_72_A, A70 "aab", 73));
    assert_true(check(BCRYPT_OF_72_A, big, PASSWORD_MAX_BYTES));
    assert_false(check(BCRYPT_OF_72_A, A70 "a", 71));
    assert_false(check(BCRYPT_OF_72_A, A70 "ab", 72));
    /* Beyond what crypt(3) takes. */
    assert_false(check(BCRYPT_OF_72_A, big, PASSWORD_MAX_BYTES + 1));
    assert_false(check(BCRYPT_OF_72_A, big, sizeof big));
    assert_false(check(SHA512_X, big, PASSWORD_MAX_BYTES));
    /* What stands before a NUL is not the password. */
    assert_false(check(SHA512_X, "x\0", 2));
    assert_false(check(SHA512_X, "x\0y", 3));
    assert_false(check(SHA512_X, "\0x", 2));
    assert_false(check(SHA512_X, "", 0));
    assert_false(check(SHA512_X, NULL, 0));
    assert_true(check(SHA512_X, "xyz", 1)); /* the length counts, not a NUL behind */
}

static void made_hashes(void **state)
{
    static const struct {
        const char *kind, *class_text;
    } kinds[] = {{"yescrypt", "$y$j9T$"}, {"bcrypt", "$2b$10$"}, {"sha512crypt", "$6$"}};
    char one[PASSWORD_HASH_BYTES], other[PASSWORD_HASH_BYTES], class_text[32];
    char big[PASSWORD_MAX_BYTES + 2];
    (void)state;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        assert_true(password_make(kinds[i].kind, "hunter2", one));
        assert_true(password_make(kinds[i].kind, "hunter2", other));
        assert_string_not_equal(one, other); /* the salts differ */
        assert_true(password_hash_complete(one));
        assert_true(password_cost_class(one, class_text));
        assert_string_equal(class_text, kinds[i].class_text);
        assert_true(check_text(one, "hunter2"));
        assert_false(check_text(one, "Hunter2"));
    }
    assert_false(password_make("md5", "hunter2", one));
    assert_false(password_make("", "hunter2", one));
    memset(big, 'a', sizeof big);
    big[PASSWORD_MAX_BYTES + 1] = '\0';
    assert_false(password_make("sha512crypt", big, one));
    big[PASSWORD_MAX_BYTES] = '\0';
    assert_true(password_make("sha512crypt", big, one));
    assert_true(check_text(one, big));
}

static void dummies(void **state)
{
    static const struct {
        const char *hash, *class_text;
    } cases[] = {{YESCRYPT_HUNTER2, "$y$j9T$"},
                 {"$y$j75$Nobody.Has.This.Salt0.$pg7qVEQQy7VitHd4zvK2j.dht64vzwT6vAxHG09pt1/", "$y$j75$"},
                 {BCRYPT_OF_72_A, "$2b$04$"},
                 {"$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "$2b$05$"},
                 {SHA512_X, "$6$"},
                 {"$6$rounds=5000$x", "$6$"},
                 {"$6$rounds=10000$saltstringsaltst", "$6$rounds=10000$"}};
    char setting[PASSWORD_HASH_BYTES], class_text[32];
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_true(password_cost_class(cases[i].hash, class_text));
        assert_string_equal(class_text, cases[i].class_text);
        assert_true(password_dummy(cases[i].hash, setting));
        assert_true(password_hash_supported(setting));
        assert_false(password_hash_complete(setting));
        assert_true(password_cost_class(setting, class_text));
        assert_string_equal(class_text, cases[i].class_text);
        /* Computed with that setting and not with another: counted once, and nothing matches it. */
        assert_false(check_text(setting, "hunter2"));
        assert_false(check_text(setting, setting));
    }
    assert_true(password_hash_supported(password_default_dummy()));
    assert_false(password_hash_complete(password_default_dummy()));
    assert_false(check_text(password_default_dummy(), ""));
}

static void guessed_costs(void **state)
{
    static const char *const dearer[] = {"$y$j/.$x",
                                         "$2b$04$Nobody.Has.This.Salt0.",
                                         "$6$x",
                                         YESCRYPT_HUNTER2,
                                         "$2b$10$Nobody.Has.This.Salt0.",
                                         "$y$jBT$x",
                                         "$6$rounds=1000000$x",
                                         "$2b$14$Nobody.Has.This.Salt0.",
                                         "$6$rounds=5000000$x"};
    (void)state;
    assert_true(password_cost_guess_us(dearer[0]) >= 1);
    for (size_t i = 1; i < sizeof dearer / sizeof *dearer; i++)
        assert_true(password_cost_guess_us(dearer[i]) > password_cost_guess_us(dearer[i - 1]));
    assert_int_equal(password_cost_guess_us("no hash"), password_cost_guess_us(password_default_dummy()));
}

static void made_like_another(void **state)
{
    static const char *const like[] = {"$2y$05$3mFC35/GjLoMXhFEl8b0bOzCdLqacDjMgpsUIOtasAHAr5rBdb8By",
                                       "$6$rounds=1500$abcdefgh$", "$y$j7T$abcdefghijklmnop$"};
    char hash[PASSWORD_HASH_BYTES], wanted[32], got[32];
    (void)state;
    for (size_t i = 0; i < sizeof like / sizeof *like; i++) {
        assert_true(password_make_like(like[i], "made up", hash));
        assert_true(password_hash_complete(hash));
        assert_true(check_text(hash, "made up"));
        assert_false(check_text(hash, "made up "));
        assert_true(password_cost_class(like[i], wanted) && password_cost_class(hash, got));
        assert_string_equal(got, wanted);
    }
    snprintf(hash, sizeof hash, "untouched");
    assert_false(password_make_like("$1$YxleGgmO$qZZs/cHmjCk7VjnXVAeH40", "made up", hash));
    assert_string_equal(hash, "untouched");
}

static long page_faults(void)
{
    struct rusage used;
    assert_int_equal(getrusage(RUSAGE_THREAD, &used), 0);
    return used.ru_minflt;
}

/* Whether the system gives large pages to who asks for them, just now. */
static bool large_pages_here(void)
{
    size_t len = (size_t)16 << 20;
    char *room = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(room != MAP_FAILED);
    (void)madvise(room, len, MADV_HUGEPAGE);
    long before = page_faults();
    for (size_t i = 0; i < len; i += 4096)
        room[i] = 1;
    long faults = page_faults() - before;
    munmap(room, len);
    return faults < 1500;
}

/* A yescrypt's 16 MiB in small pages are 4,096 faults, and half of its time. */
static void few_page_faults(void **state)
{
    long least = -1;
    (void)state;
#ifdef EXAMHOOK_SANITIZED
    print_message("SKIP: a sanitizer has an mmap() of its own\n");
    skip();
#endif
    for (int i = 0; i < 5; i++) {
        long before = page_faults();
        assert_true(check_text(YESCRYPT_HUNTER2, "hunter2"));
        long faults = page_faults() - before;
        least = least < 0 || faults < least ? faults : least;
    }
    if (least >= 1500 && !large_pages_here()) {
        print_message("SKIP: this system gives no large pages\n");
        skip();
    }
    assert_in_range(least, 0, 1499);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_hashes),
        cmocka_unit_test(only_these_kinds),
        cmocka_unit_test(refused_kinds_never_match),
        cmocka_unit_test(strange_passwords),
        cmocka_unit_test(made_hashes),
        cmocka_unit_test(dummies),
        cmocka_unit_test(guessed_costs),
        cmocka_unit_test(made_like_another),
        cmocka_unit_test(few_page_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
