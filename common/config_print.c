#include "config_parts.h"

#include <stdlib.h>
#include <string.h>

struct printing {
    const struct config_source *source;
    struct buf *out;
};

static void print_secret(const struct printing *p, const struct config_option *option,
                         const struct config_value *value)
{
    if (!value) {
        buf_addf(p->out, "# %s =\n", option->name);
    } else if (value->form == CONFIG_FROM_FILE) {
        char *path = config_secret_path(p->source, value);
        buf_addf(p->out, "%s = (from %s)\n", option->name, path);
        free(path);
    } else {
        buf_addf(p->out, "%s = (set)\n", option->name);
    }
}

/* What is not set and has no default stands as a comment, so that it is seen to exist. */
static void print_option(const struct printing *p, const struct config_section *section,
                         const struct config_option *option)
{
    char *text;
    if (option->type == CONFIG_SECRET_VALUE) {
        print_secret(p, option, config_section_value(section, option->name));
        return;
    }
    text = config_absolute(p->source, option, config_effective(section, option));
    if (text)
        buf_addf(p->out, "%s = %s\n", option->name, text);
    else
        buf_addf(p->out, "# %s =\n", option->name);
    free(text);
}

/* Either an environment or two addresses count; the others are told in a comment. */
static bool print_address(const struct printing *p, const struct config_section *section,
                          const struct config_option *option)
{
    bool own = config_has_own_urls(section);
    char *url;
    if (strcmp(option->name, "environment") == 0 && own) {
        buf_addf(p->out, "# %s =\n", option->name);
        return true;
    }
    if (strcmp(option->name, "login_url") != 0 && strcmp(option->name, "session_url") != 0)
        return false;
    url = option->name[0] == 'l' ? config_login_url(section) : config_session_url(section);
    buf_addf(p->out, "%s%s = %s\n", own ? "" : "# ", option->name, url);
    free(url);
    return true;
}

static void print_options(const struct printing *p, const struct config_section *section, const char *kind)
{
    const struct config_option *o;
    for (o = config_options; o->section; o++) {
        if (strcmp(o->section, kind) != 0)
            continue;
        if (strcmp(kind, "proview") != 0 || !print_address(p, section, o))
            print_option(p, section, o);
    }
}

static void print_fields(const struct printing *p, const struct config_section *section)
{
    int i;
    if (section->account)
        buf_addf(p->out, "\n[examjoint %s fields", section->account);
    else
        buf_adds(p->out, "\n[fields");
    if (section->exam)
        buf_addf(p->out, " %s", section->exam);
    buf_adds(p->out, "]\n");
    for (i = 0; i < section->map.count; i++)
        buf_addf(p->out, "%d = %s\n", section->map.at[i].position, section->map.at[i].column);
}

static void print_source(const struct printing *p)
{
    const struct config_option *o;
    const char *last = "";
    size_t i;
    buf_addf(p->out, "# %s\n", p->source->path);
    for (o = config_options; o->section; o++) {
        if (strcmp(o->section, last) == 0)
            continue;
        last = o->section;
        if (strcmp(last, "examjoint") == 0 || strcmp(last, "proview") == 0)
            continue;
        buf_addf(p->out, "\n[%s]\n", last);
        print_options(p, config_source_section(p->source, last), last);
    }
    for (i = 0; i < p->source->count; i++) {
        const struct config_section *section = &p->source->sections[i];
        if (strcmp(section->kind, CONFIG_FIELDS_SECTION) == 0) {
            print_fields(p, section);
        } else if (section->account) {
            buf_addf(p->out, "\n[%s %s]\n", section->kind, section->account);
            print_options(p, section, section->kind);
        }
    }
}

void config_print(const char *path, struct buf *out, struct buf *why, bool *ok)
{
    struct config_source source;
    struct printing p = {&source, out};
    *ok = config_source_read(path, &source, why);
    if (*ok)
        print_source(&p);
    config_source_release(&source);
}
