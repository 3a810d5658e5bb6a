#include <string.h>
#include <unistd.h>

#include "progress.h"
#include "../common/clock.h"

#define REDRAW_MS 100
#define BAR 30
#define MINUTES_FROM_S 600
#define FAR_BYTES 48

void progress_begin(struct progress *progress, FILE *out, const char *what, int64_t total)
{
    *progress = (struct progress){.out = out, .what = what, .total = total, .begun_ms = clock_monotonic_ms()};
    progress->terminal = isatty(fileno(out));
    progress->drawn_ms = progress->begun_ms;
}

/* " 42%, 12 s left" as far as it is known. */
static void how_far(int64_t done, int64_t total, int64_t elapsed_ms, char text[FAR_BYTES])
{
    int percent = (int)(done * 100 / total);
    int64_t left_s = done > 0 ? elapsed_ms * (total - done) / done / 1000 + 1 : 0;

    if (done == 0 || elapsed_ms < 1000 || done == total)
        snprintf(text, FAR_BYTES, "%d%%", percent);
    else if (left_s < MINUTES_FROM_S)
        snprintf(text, FAR_BYTES, "%d%%, %lld s left", percent, (long long)left_s);
    else
        snprintf(text, FAR_BYTES, "%d%%, %lld min left", percent, (long long)(left_s + 30) / 60);
}

static int64_t within(int64_t done, int64_t total)
{
    return done < 0 ? 0 : done > total ? total : done;
}

const char *progress_line(const char *what, int64_t done, int64_t total, int64_t elapsed_ms,
                          char line[PROGRESS_LINE_BYTES])
{
    char bar[BAR + 1], far[FAR_BYTES];
    int64_t filled;

    if (total < 1)
        total = 1;
    done = within(done, total);
    filled = done * BAR / total;
    memset(bar, ' ', BAR);
    memset(bar, '=', (size_t)filled);
    if (filled < BAR)
        bar[filled] = '>';
    bar[BAR] = '\0';
    how_far(done, total, elapsed_ms, far);
    snprintf(line, PROGRESS_LINE_BYTES, "%.60s [%s] %s", what, bar, far);
    return line;
}

const char *progress_plain(const char *what, int64_t done, int64_t total, int64_t elapsed_ms,
                           char line[PROGRESS_LINE_BYTES])
{
    char far[FAR_BYTES];

    if (total < 1)
        total = 1;
    how_far(within(done, total), total, elapsed_ms, far);
    snprintf(line, PROGRESS_LINE_BYTES, "%.60s: %s", what, far);
    return line;
}

void progress_at(struct progress *progress, int64_t done)
{
    char line[PROGRESS_LINE_BYTES];
    int64_t now = clock_monotonic_ms();

    if (!progress->out)
        return;
    if (!progress->terminal) {
        if (now - progress->drawn_ms < PROGRESS_PLAIN_MS)
            return;
        progress->drawn_ms = now;
        fprintf(progress->out, "%s\n",
                progress_plain(progress->what, done, progress->total, now - progress->begun_ms, line));
        fflush(progress->out);
        return;
    }
    if (progress->drawn && now - progress->drawn_ms < REDRAW_MS)
        return;
    progress->drawn = true;
    progress->drawn_ms = now;
    fprintf(progress->out, "\r%s\033[K",
            progress_line(progress->what, done, progress->total, now - progress->begun_ms, line));
    fflush(progress->out);
}

void progress_end(struct progress *progress)
{
    if (progress->out && progress->drawn) {
        fputs("\r\033[K", progress->out);
        fflush(progress->out);
    }
    progress->out = NULL;
}
