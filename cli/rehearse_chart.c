/* A rehearsal as a page: figures and two charts, with nothing from elsewhere, light or dark as the reader has
   it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rehearse.h"
#include "../common/clock.h"

/* The charts, in the units of their own viewBox. */
#define WIDTH 860
#define HEIGHT 260
#define LEFT 60
#define RIGHT 16
#define TOP 14
#define BOTTOM 36
#define PLOT_W (WIDTH - LEFT - RIGHT)
#define PLOT_H (HEIGHT - TOP - BOTTOM)
#define TICKS 5

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
    "<meta name=\"color-scheme\" content=\"light dark\">\n<title>examhook rehearsal</title>\n<style>\n"
    ":root{--ink:#1c1c1e;--soft:#5f6368;--paper:#fff;--line:#d9dbe0;--in:#1a73b8;--came:#8a8f98;--busy:#"
    "c26a00;"
    "--bad:#b3261e;--events:#2e7d4f}\n"
    "@media (prefers-color-scheme:dark){:root{--ink:#e8e8ea;--soft:#a0a4ab;--paper:#16181b;--line:#3a3d43;"
    "--in:#6cb6f0;--came:#8d929b;--busy:#f0a54a;--bad:#f28b82;--events:#7bc99a}}\n"
    "body{font:16px/1.5 "
    "system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:54rem;margin:2rem "
    "auto;padding:0 1rem}\n"
    "h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}p.note{color:var(--soft)}\n"
    "table{border-collapse:collapse;width:100%}th,td{text-align:right;padding:.25rem .5rem;border-bottom:1px "
    "solid "
    "var(--line)}th:first-child,td:first-child{text-align:left}\n"
    "div.wide{overflow-x:auto}svg{width:100%;height:auto}svg text{fill:var(--soft);font-size:12px}\n"
    ".key span{margin-right:1.2rem;white-space:nowrap}.key i{display:inline-block;width:.8em;height:.8em;"
    "margin-right:.4em;border-radius:2px}\n</style>\n</head>\n<body>\n";

static void add_escaped(struct buf *html, const char *text)
{
    for (; *text; text++) {
        if (*text == '<')
            buf_adds(html, "&lt;");
        else if (*text == '>')
            buf_adds(html, "&gt;");
        else if (*text == '&')
            buf_adds(html, "&amp;");
        else if ((unsigned char)*text >= 0x20 && (unsigned char)*text < 0x7f)
            buf_addc(html, *text);
        else
            buf_addc(html, ' ');
    }
}

/* Each line, a sentence, as an item. */
static void add_lines(struct buf *html, const char *text)
{
    buf_adds(html, "<ul>\n");
    while (*text) {
        size_t len = strcspn(text, "\n");
        char *line = xstrndup(text, len);

        buf_adds(html, "<li>");
        add_escaped(html, line);
        buf_adds(html, "</li>\n");
        free(line);
        text += len + (text[len] == '\n');
    }
    buf_adds(html, "</ul>\n");
}

/* A number that is not below and reads well in fifths. */
static double round_up(double value)
{
    static const double times[] = {1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10};
    double unit = value > 1 ? pow(10, floor(log10(value))) : 1;
    size_t i = 0;
    while (i + 1 < sizeof times / sizeof times[0] && unit * times[i] < value)
        i++;
    return unit * times[i];
}

static void begin_svg(struct buf *html, const char *label)
{
    buf_addf(html, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s\">\n", WIDTH, HEIGHT, label);
}

static void add_grid(struct buf *html, double top, const char *unit)
{
    for (int i = 0; i <= TICKS; i++) {
        double y = TOP + PLOT_H - (double)PLOT_H * i / TICKS;
        buf_addf(html,
                 "<line x1=\"%d\" y1=\"%.1f\" x2=\"%d\" y2=\"%.1f\" stroke=\"var(--line)\"/>"
                 "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%g%s</text>\n",
                 LEFT, y, WIDTH - RIGHT, y, LEFT - 6, y + 4, top * i / TICKS, unit);
    }
}

static void add_bottom(struct buf *html, double part, double value, const char *unit)
{
    buf_addf(html, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"%s\">%g%s</text>\n", LEFT + PLOT_W * part,
             HEIGHT - BOTTOM + 18, part < 1 ? "middle" : "end", value, unit);
}

/* --- What happened when -----------------------------------------------------------------------------------
 */

enum series { CAME, LET_IN, BUSY, BAD, EVENTS, SERIES };

static const struct {
    const char *colour, *name;
} shown[SERIES] = {{"--came", "candidates came"},
                   {"--in", "candidates let in"},
                   {"--busy", "told to try again later"},
                   {"--bad", "429, 503, failed"},
                   {"--events", "other events answered"}};

static int64_t value_of(const struct rehearse_slice *slice, enum series series)
{
    switch (series) {
    case CAME:
        return slice->arrived;
    case LET_IN:
        return slice->let_in;
    case BUSY:
        return slice->load;
    case BAD:
        return slice->limited + slice->other;
    default:
        return slice->events;
    }
}

/* So many slices make one point, that a line has no more than some hundred. */
static size_t group_of(const struct rehearse_result *result)
{
    return result->slice_count / 200 + 1;
}

static double sum(const struct rehearse_result *result, enum series series, size_t from, size_t group)
{
    double total = 0;
    for (size_t i = from; i < from + group && i < result->slice_count; i++)
        total += (double)value_of(&result->slices[i], series);
    return total * 1000.0 / (double)((int64_t)group * result->slice_ms);
}

static void add_series(struct buf *html, const struct rehearse_result *result, enum series series, double top)
{
    size_t group = group_of(result), points = (result->slice_count + group - 1) / group;
    buf_addf(html, "<polyline fill=\"none\" stroke=\"var(%s)\" stroke-width=\"%s\" points=\"",
             shown[series].colour, series == EVENTS ? "1.2" : "2");
    for (size_t i = 0; i < points; i++)
        buf_addf(html, "%.1f,%.1f ", LEFT + (double)PLOT_W * ((double)i + 0.5) / (double)points,
                 TOP + PLOT_H - PLOT_H * sum(result, series, i * group, group) / top);
    buf_adds(html, "\"/>\n");
}

static void add_times_chart(struct buf *html, const struct rehearse_result *result)
{
    size_t group = group_of(result);
    double most = 1, seconds = (double)((int64_t)result->slice_count * result->slice_ms) / 1000.0;

    for (size_t i = 0; i < result->slice_count; i += group) {
        for (int s = 0; s < SERIES; s++) {
            double value = sum(result, (enum series)s, i, group);
            most = value > most ? value : most;
        }
    }
    most = round_up(most);
    buf_adds(html, "<h2>The day</h2>\n<p class=\"key\">");
    for (int s = 0; s < SERIES; s++)
        buf_addf(html, "<span><i style=\"background:var(%s)\"></i>%s</span> ", shown[s].colour,
                 shown[s].name);
    buf_adds(html, "</p>\n<p class=\"note\">A second, over the seconds of the rehearsal.</p>\n");
    begin_svg(html, "Arrivals, answers and refusals a second");
    add_grid(html, most, "");
    for (int i = 0; i <= TICKS; i++)
        add_bottom(html, (double)i / TICKS, round(seconds * i / TICKS * 10) / 10, " s");
    for (int s = SERIES - 1; s >= 0; s--)
        add_series(html, result, (enum series)s, most);
    buf_adds(html, "</svg>\n");
}

/* --- How long it took -------------------------------------------------------------------------------------
 */

/* One percentile a point. */
static void add_curve(struct buf *html, struct samples *took, const char *colour, double top)
{
    if (took->count == 0)
        return;
    buf_addf(html, "<polyline fill=\"none\" stroke=\"var(%s)\" stroke-width=\"2\" points=\"", colour);
    for (int percent = 0; percent <= 100; percent++)
        buf_addf(html, "%.1f,%.1f ", LEFT + (double)PLOT_W * percent / 100,
                 TOP + PLOT_H - PLOT_H * (double)samples_percentile(took, percent) / top);
    buf_adds(html, "\"/>\n");
}

static void add_percentiles(struct buf *html, struct rehearse_result *result)
{
    struct samples *verify = &result->tally[STEP_VERIFY].took;
    double most = (double)samples_percentile(verify, 100);

    if ((double)samples_percentile(&result->events, 100) > most)
        most = (double)samples_percentile(&result->events, 100);
    most = round_up(most < 10 ? 10 : most);
    buf_adds(html,
             "<h2>How long an answer took</h2>\n<p class=\"key\"><span><i style=\"background:var(--in)\"></i>"
             "verifications</span> <span><i style=\"background:var(--events)\"></i>other events</span></p>\n"
             "<p class=\"note\">So many of a hundred answers took no longer.</p>\n");
    begin_svg(html, "Percentiles of the time until an answer");
    add_grid(html, most, " ms");
    for (int percent = 0; percent <= 100; percent += 20)
        add_bottom(html, percent / 100.0, percent, "");
    add_curve(html, verify, "--in", most);
    add_curve(html, &result->events, "--events", most);
    buf_adds(html, "</svg>\n");
}

/* --- The page ---------------------------------------------------------------------------------------------
 */

static void add_table(struct buf *html, struct rehearse_result *result)
{
    buf_adds(html,
             "<div class=\"wide\"><table>\n<tr><th>event</th><th>sent</th><th>answered</th><th>refused, "
             "busy</th><th>with 429</th><th>with 503</th><th>failed</th><th>late</th><th>p50 ms</th><th>p99 "
             "ms</th></tr>\n");
    for (size_t i = 0; i < STEPS; i++) {
        struct rehearse_tally *t = &result->tally[i];
        buf_addf(
            html,
            "<tr><td>%s</td><td>%lld</td><td>%lld</td><td>%lld</td><td>%lld</td><td>%lld</td><td>%lld</td>"
            "<td>%lld</td><td>%lld</td><td>%lld</td></tr>\n",
            rehearse_step_name((enum rehearse_step)i), (long long)t->sent, (long long)t->answered,
            (long long)t->load, (long long)t->limited, (long long)t->unavailable, (long long)t->failed,
            (long long)t->late, (long long)samples_percentile(&t->took, 50),
            (long long)samples_percentile(&t->took, 99));
    }
    buf_adds(html, "</table></div>\n");
}

void rehearse_chart(struct buf *html, const struct rehearse_run *run, struct rehearse_result *result)
{
    struct buf why = BUF_INIT, said = BUF_INIT;
    enum rehearse_limit limit = rehearse_judge(run, result, &why);
    char at[CLOCK_TEXT_BYTES];

    buf_adds(html, head);
    buf_addf(html, "<h1>A rehearsed exam day: %zu candidates within %lld s</h1>\n<p>%s</p>\n",
             run->candidates, (long long)run->within_ms / 1000, clock_format(result->begun_at_ms, at));
    rehearse_say(&said, run, result);
    add_lines(html, buf_str(&said));
    buf_release(&said);
    buf_addf(html, "<p><strong>Bottleneck: %s</strong>: ", rehearse_limit_name(limit));
    add_escaped(html, buf_str(&why));
    buf_adds(html, ".</p>\n");
    add_table(html, result);
    add_times_chart(html, result);
    add_percentiles(html, result);
    buf_adds(html, "</body>\n</html>\n");
    buf_release(&why);
}
