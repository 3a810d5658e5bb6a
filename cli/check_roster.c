#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "check_capacity.h"
#include "../common/clock.h"

/* What one account's roster holds. */
struct holdings {
    int64_t lines, hashes;
    char **attributes;
    size_t count;
    bool email, name;
    struct capacity *capacity; /* of all accounts */
};

static bool has_attribute(const struct holdings *holdings, const char *column)
{
    for (size_t i = 0; i < holdings->count; i++) {
        if (!strcmp(holdings->attributes[i], column))
            return true;
    }
    return false;
}

static bool take_line(void *context, const struct candidate *line)
{
    struct holdings *holdings = context;

    capacity_take(holdings->capacity, line);
    holdings->lines++;
    holdings->hashes += line->password_hash != NULL;
    holdings->email |= line->email != NULL;
    holdings->name |= line->name != NULL;
    for (size_t i = 0; i < line->attribute_count; i++) {
        if (has_attribute(holdings, line->attributes[i].column))
            continue;
        holdings->attributes =
            xrealloc(holdings->attributes, (holdings->count + 1) * sizeof(*holdings->attributes));
        holdings->attributes[holdings->count++] = xstrdup(line->attributes[i].column);
    }
    return true;
}

static bool holds(const struct holdings *holdings, const char *column)
{
    if (!strcmp(column, "id"))
        return true;
    if (!strcmp(column, "email"))
        return holdings->email;
    if (!strcmp(column, "name"))
        return holdings->name;
    return has_attribute(holdings, column);
}

static void check_section(struct check_report *report, const char *account,
                          const struct config_fields *fields, const struct holdings *holdings)
{
    const char *exam = fields->exam ? fields->exam : "every exam";

    for (int i = 0; i < fields->map.count; i++) {
        const char *column = fields->map.at[i].column;
        bool secret = !strcmp(column, CONFIG_SECRET_COLUMN);

        if (secret && !holdings->hashes)
            check_line(report, CHECK_WARNING, "fields",
                       "import the passwords, or map no password where an exam asks for none",
                       "%s asks for a password, and no candidate of %s has one", exam, account);
        else if (!secret && !holds(holdings, column))
            /* A section for one exam of whatever account need not be meant for this one. */
            check_line(report, fields->exam && !fields->account ? CHECK_WARNING : CHECK_FAILED, "fields",
                       "import a roster with that column, or mend [fields]",
                       "position %d of %s is the column %s, which no candidate of %s has",
                       fields->map.at[i].position, exam, column, account);
        else if (secret && holdings->hashes < holdings->lines)
            check_line(report, CHECK_WARNING, "fields", "examhook roster list shows who: SECRET is empty",
                       "%s asks for a password, and %lld of %s's %lld lines have none", exam,
                       (long long)(holdings->lines - holdings->hashes), account, (long long)holdings->lines);
    }
}

static void check_fields(struct check_report *report, const struct config *config, const char *account,
                         const struct holdings *holdings)
{
    int failed = report->failed;

    if (!config_field_map(config, account, ""))
        check_line(report, CHECK_WARNING, "fields", "add [fields] with position = column",
                   "only the exams named in the configuration have a mapping for %s: any other is refused",
                   account);
    for (size_t i = 0; i < config->fields_count; i++) {
        if (!config->fields[i].account || !strcmp(config->fields[i].account, account))
            check_section(report, account, &config->fields[i], holdings);
    }
    if (report->failed == failed)
        check_line(report, CHECK_OK, "fields", NULL, "every mapped column is in the roster of %s", account);
}

static void check_account(struct check_report *report, const struct config *config, struct store *store,
                          const char *account, struct capacity *capacity)
{
    struct roster_filter filter = {.account = account};
    struct holdings holdings = {.capacity = capacity};
    enum store_status status = store_roster_list(store, &filter, take_line, &holdings);

    if (status) {
        check_line(report, CHECK_FAILED, "roster", "examhook migrate, or look at the file's owner and mode",
                   "%s", store_message(store));
    } else if (!holdings.lines) {
        check_line(report, CHECK_FAILED, "roster", "examhook roster import FILE.csv",
                   "is empty for %s: nobody can sit an exam", account);
    } else {
        check_line(report, CHECK_OK, "roster", NULL, "has %lld lines for %s", (long long)holdings.lines,
                   account);
        check_fields(report, config, account, &holdings);
    }
    while (holdings.count)
        free(holdings.attributes[--holdings.count]);
    free(holdings.attributes);
}

void check_roster(struct check_report *report, const struct config *config)
{
    struct capacity *capacity;
    struct store *store;
    struct buf why = BUF_INIT;

    if (!config->examjoint_count)
        return;
    if (store_open(config->store_url, 0, STORE_ROSTER, config->lock_wait_ms, &store, &why)) {
        check_line(report, CHECK_FAILED, "roster", "examhook migrate", "%s", buf_str(&why));
    } else {
        capacity = capacity_new(clock_now_ms());
        for (size_t i = 0; i < config->examjoint_count; i++) {
            if (strcmp(config->examjoint[i].name, STORE_REHEARSAL)) /* its candidates come and go */
                check_account(report, config, store, config->examjoint[i].name, capacity);
        }
        store_free(store);
        check_capacity(report, config, capacity);
        capacity_free(capacity);
    }
    buf_release(&why);
}
