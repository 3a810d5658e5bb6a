#include <string.h>
#include <unistd.h>

#include "progress.h"
#include "../common/clock.h"

#define REDRAW_MS 100
#define BAR 30

void progress_begin(struct progress *progress, FILE *out, const char *what, int64_t total)
{
    *progress = (struct progress){.what = what, .total = total, .begun_ms = clock_monotonic_ms()};
    if (isatty(fileno(out)))
        progress->out = out;
}

const char *progress_line(const char *what, int64_t done, int64_t total, int64_t elapsed_ms,
                          char line[PROGRESS_LINE_BYTES])
{
    char bar[BAR + 1];
    int64_t filled;

    if (total < 1)
        total = 1;
    done = done < 0 ? 0 : done > total ? total : done;
    filled = done * BAR / total;
    memset(bar, ' ', BAR);
    memset(bar, '=', (size_t)filled);
    if (filled < BAR)
        bar[filled] = '>';
    bar[BAR] = '\0';
    if (done > 0 && elapsed_ms >= 1000 && done < total)
        snprintf(line, PROGRESS_LINE_BYTES, "%.60s [%s] %d%%, %lld s left", what, bar,
                 (int)(done * 100 / total), (long long)elapsed_ms * (total - done) / done / 1000 + 1);
    else
        snprintf(line, PROGRESS_LINE_BYTES, "%.60s [%s] %d%%", what, bar, (int)(done * 100 / total));
    return line;
}

void progress_at(struct progress *progress, int64_t done)
{
    char line[PROGRESS_LINE_BYTES];
    int64_t now = clock_monotonic_ms();

    if (!progress->out || (progress->drawn && now - progress->drawn_ms < REDRAW_MS))
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
