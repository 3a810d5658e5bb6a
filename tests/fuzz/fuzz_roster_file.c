/* The roster file's reader: what is accepted is whole, and no message has a cell's content in it. */
#include <unistd.h>

#include "../../cli/roster_file.h"
#include "../../common/json.h"
#include "fuzz.h"

#define CANARY "CANARY"

static void check_candidate(const struct candidate *candidate)
{
    MUST(strcmp(candidate->account, "main") == 0);
    MUST(candidate->id && candidate->id[0] != '\0' && utf8_valid(candidate->id, strlen(candidate->id)));
    MUST(!candidate->exam || candidate->exam[0] != '\0');
    MUST(!candidate->closes_ms || candidate->opens_ms <= candidate->closes_ms);
    if (candidate->data) {
        struct json_doc *doc;
        MUST(json_parse_any(candidate->data, strlen(candidate->data), &doc) == JSON_OK);
        json_free(doc);
    }
    for (size_t i = 0; i < candidate->attribute_count; i++)
        MUST(candidate->attributes[i].column[0] != '\0' && candidate->attributes[i].value);
}

/* The header's names may be in a message; nothing that stands below it may. */
static bool only_below_the_header(const char *text, size_t size)
{
    size_t begin = 0, end;
    while (begin < size && memchr("\xef\xbb\xbf\r\n", text[begin], 5))
        begin++;
    for (end = begin; end < size && text[end] != '\n'; end++) {
        if (text[end] == '"')
            return false; /* it may go on over the line's end */
    }
    return memmem(text, end, CANARY, strlen(CANARY)) == NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct roster_file_rules rules = {
        .name = "roster.csv", .account = "main", .zone = "Europe/Berlin", .hash = "yescrypt"};
    struct roster_file *file = NULL;
    struct buf errors = BUF_INIT;
    int fd = fuzz_file(data, size);

    if (roster_file_read(fd, &rules, &file, &errors)) {
        size_t lines = roster_file_lines(file);
        MUST(errors.len == 0 && roster_file_candidates(file) <= lines);
        for (size_t i = 0; i < lines; i++) {
            const struct candidate *candidate = roster_file_at(file, i);
            check_candidate(candidate);
            MUST(roster_file_has(file, candidate->id, candidate->exam));
        }
        roster_file_free(file);
    } else {
        MUST(errors.len > 0 && strncmp(errors.data, "roster.csv:", 11) == 0);
        MUST(utf8_valid(errors.data, errors.len));
        if (only_below_the_header((const char *)data, size))
            MUST(!fuzz_contains(&errors, CANARY));
    }
    close(fd);
    buf_release(&errors);
    return 0;
}
