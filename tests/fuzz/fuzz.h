/*
 * What the fuzz targets share. A target is one file fuzz_NAME.c with LLVMFuzzerTestOneInput(); it says with
 * MUST() what has to hold for every input, so that a wrong answer is found as a crash is.
 *
 * Standard error belongs to the fuzzer: what the code under test logs is caught here instead.
 */
#ifndef EXAMHOOK_FUZZ_H
#define EXAMHOOK_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "../../common/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(holds)                                \
    do {                                           \
        if (!(holds))                              \
            fuzz_fail(__FILE__, __LINE__, #holds); \
    } while (0)
_Noreturn void fuzz_fail(const char *file, int line, const char *what);

/* What was logged since fuzz_log_clear(). */
const struct buf *fuzz_log(void);
void fuzz_log_clear(void);

/* A file in memory with that content, at its begin; mode 0600. The caller closes it. */
int fuzz_file(const void *bytes, size_t len);

/* The rest of an input, of which lines are taken. */
struct fuzz_rest {
    const char *at;
    size_t len;
};
/* The bytes up to a line feed or the end as allocated text, without NULs. */
char *fuzz_line(struct fuzz_rest *rest);

/* Whether `text` is in `bytes`. */
bool fuzz_contains(const struct buf *bytes, const char *text);
/* Lower case letters, digits and underscores, not empty: a stable word that nobody's input got into. */
bool fuzz_is_word(const char *text);

#endif
