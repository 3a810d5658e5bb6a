/* What one role gets of the configuration, as a file of its own. */
#include "config_parts.h"

#include <stdlib.h>
#include <string.h>

#define HEX_BYTES 64 /* of a secret on one line */

struct rendering {
    const struct config_source *source;
    enum config_role role;
    struct buf *out;
    struct buf *why;
};

static const char *role_word(enum config_role role)
{
    return role == CONFIG_EXAMJOINT ? "examjoint" : role == CONFIG_PROVIEW ? "proview" : "the worker";
}

/* --- Lines ---------------------------------------------------------------------------------------------- */

/* False where the reader would make something else of it. */
static bool add_line(struct buf *out, const char *name, const char *text)
{
    struct buf line = BUF_INIT;
    /* Behind white space a ';' begins a comment. */
    buf_addf(&line, "%s%s%s", name, text[0] == ';' ? " =" : text[0] ? " = " : " =", text);
    bool fits = config_fits_line(line.data);
    if (fits)
        buf_addf(out, "%s\n", line.data);
    buf_release(&line);
    return fits;
}

static bool render_value(const struct rendering *r, const struct config_section *section, const char *name,
                         const char *text)
{
    const struct config_value *value = config_section_value(section, name);
    if (add_line(r->out, name, text))
        return true;
    return config_refuse(r->why, r->source->path,
                         value     ? value->line
                         : section ? section->line
                                   : 0,
                         "%s: with its whole path this cannot stand on a line: give an absolute one, shorter "
                         "or without special characters",
                         name);
}

/* In digits, where a line could not bear it: a secret of a file may be long, or have a " ;" in it. */
static void add_hex(struct buf *out, const char *name, const struct buf *secret)
{
    size_t i;
    for (i = 0; i < secret->len; i++) {
        if (i % HEX_BYTES == 0)
            buf_addf(out, "%s%s_hex = ", i > 0 ? "\n" : "", name);
        buf_addf(out, "%02x", (unsigned)(unsigned char)secret->data[i]);
    }
    buf_addc(out, '\n');
}

static bool render_secret(const struct rendering *r, const struct config_section *section, const char *name)
{
    struct buf secret = BUF_INIT;
    char *path;
    bool good = config_secret_read(r->source, r->role, section, name, &secret, &path, r->why);
    if (good && secret.len > 0) {
        const char *text = buf_str(&secret);
        if (text[0] == ' ' || text[0] == ';' || !add_line(r->out, name, text))
            add_hex(r->out, name, &secret);
    }
    free(path);
    buf_release(&secret);
    return good;
}

/* --- Sections ------------------------------------------------------------------------------------------- */

static bool is_account_kind(const char *kind)
{
    return strcmp(kind, "examjoint") == 0 || strcmp(kind, "proview") == 0;
}

/* Without a _previous: what says which protections an account has. */
static bool tells_protection(const struct config_option *option)
{
    static const char suffix[] = "_previous";
    size_t len = strlen(option->name), cut = sizeof suffix - 1;
    return (option->roles & CONFIG_PROVIEW) && (len <= cut || strcmp(option->name + len - cut, suffix) != 0);
}

/* The worker must know that an account's callbacks are protected, and not by what. The file that is named is
   never opened by it, and nobody else gets far with this one. */
static bool render_anothers(const struct rendering *r, const struct config_section *section,
                            const struct config_option *option)
{
    const struct config_value *value = config_section_value(section, option->name);
    if (!value || r->role != CONFIG_WORKER || !tells_protection(option))
        return true;
    if (option->type != CONFIG_SECRET_VALUE)
        return render_value(r, section, option->name, value->text);
    buf_addf(r->out, "%s_file = (not for %s)\n", option->name, role_word(r->role));
    return true;
}

static bool render_option(const struct rendering *r, const struct config_section *section,
                          const struct config_option *option)
{
    char *text;
    bool good;
    if (!(option->roles & (unsigned)r->role))
        return render_anothers(r, section, option);
    if (option->type == CONFIG_SECRET_VALUE)
        return render_secret(r, section, option->name);
    if (strcmp(option->name, "environment") == 0 && config_has_own_urls(section))
        return true;
    text = config_absolute(r->source, option, config_effective(section, option));
    good = !text || render_value(r, section, option->name, text);
    free(text);
    return good;
}

static bool render_options(const struct rendering *r, const struct config_section *section, const char *kind)
{
    const struct config_option *o;
    for (o = config_options; o->section; o++) {
        if (strcmp(o->section, kind) == 0 && !render_option(r, section, o))
            return false;
    }
    return true;
}

static bool render_general(const struct rendering *r)
{
    const struct config_option *o;
    const char *last = "";
    for (o = config_options; o->section; o++) {
        if (strcmp(o->section, last) == 0 || is_account_kind(o->section))
            continue;
        last = o->section;
        buf_addf(r->out, "\n[%s]\n", last);
        if (!render_options(r, config_source_section(r->source, last), last))
            return false;
    }
    return true;
}

static void render_fields(const struct rendering *r, const struct config_section *section)
{
    int i;
    if (section->account)
        buf_addf(r->out, "\n[examjoint %s fields", section->account);
    else
        buf_adds(r->out, "\n[fields");
    buf_addf(r->out, "%s%s]\n", section->exam ? " " : "", section->exam ? section->exam : "");
    for (i = 0; i < section->map.count; i++)
        buf_addf(r->out, "%d = %s\n", section->map.at[i].position, section->map.at[i].column);
}

/* ExamJoint's program uses no account of Proview's, and the other two none of ExamJoint's. */
static bool render_sections(const struct rendering *r)
{
    const char *kind = r->role == CONFIG_EXAMJOINT ? "examjoint" : "proview";
    size_t i;
    for (i = 0; i < r->source->count; i++) {
        const struct config_section *section = &r->source->sections[i];
        if (strcmp(section->kind, CONFIG_FIELDS_SECTION) == 0) {
            if (r->role == CONFIG_EXAMJOINT)
                render_fields(r, section);
            continue;
        }
        if (strcmp(section->kind, kind) != 0)
            continue;
        buf_addf(r->out, "\n[%s %s]\n", kind, section->account);
        if (!render_options(r, section, kind))
            return false;
    }
    return true;
}

static int64_t changed_at_ms(const struct rendering *r)
{
    static const char *const names[] = {"username", "password"};
    int64_t at_ms = r->source->changed_ms;
    size_t i, j;
    for (i = 0; i < r->source->count; i++) {
        for (j = 0; j < sizeof names / sizeof names[0]; j++) {
            int64_t written_ms =
                config_secret_written_ms(r->source, r->role, &r->source->sections[i], names[j]);
            if (written_ms > at_ms)
                at_ms = written_ms;
        }
    }
    return at_ms;
}

bool config_render(const char *path, enum config_role role, struct buf *out, int64_t *changed_ms,
                   struct buf *why)
{
    struct config_source source;
    struct rendering r = {&source, role, out, why};
    bool good = config_source_read(path, &source, why);
    if (good) {
        buf_addf(out, "# Made by `examhook config --for`, for %s alone. Change the file it was made from.\n",
                 role_word(role));
        good = render_general(&r) && render_sections(&r);
    }
    if (good)
        *changed_ms = changed_at_ms(&r);
    else
        buf_clear(out);
    config_source_release(&source);
    return good;
}
