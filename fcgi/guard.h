/*
 * The guard in front of libfcgi: looks at the bytes that lie in a connection (MSG_PEEK) and says whether they
 * are one whole FastCGI request that the library can bear. Pure: bytes in, a verdict out.
 *
 * What libfcgi cannot bear (probed on 2.4.2): management records with long names, absurd name
 * lengths, a partial request (it blocks), bytes behind the request (they would be read as the next one).
 */
#ifndef EXAMHOOK_GUARD_H
#define EXAMHOOK_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum guard_verdict {
    GUARD_MORE,      /* well-formed so far, not whole yet */
    GUARD_WHOLE,     /* exactly one whole request */
    GUARD_TOO_LARGE, /* well-formed, its parameters are whole, its body is over the limit: may be answered
                        from the parameters alone */
    GUARD_REFUSE     /* not to be given to libfcgi: close */
};

struct guard_limits {
    size_t params_bytes; /* the content of all PARAMS records */
    size_t body_bytes;   /* the content of all STDIN records */
    size_t total_bytes;  /* everything, headers and padding with it */
};

struct guard_look {
    enum guard_verdict verdict;
    const char *reason;   /* GUARD_REFUSE: a static word */
    size_t bytes;         /* GUARD_WHOLE: its length */
    bool keep_connection; /* the web server asked for it */
};

struct guard_look guard_look(const unsigned char *bytes, size_t len, const struct guard_limits *limits);

#endif
