#include "rehearse_shape.h"

#include <math.h>
#include <stdlib.h>

#include "../common/buf.h"

/* The mean of the arrivals is this part of the time. */
#define MEANS 5.0

int64_t shape_arrival_ms(size_t i, size_t count, int64_t within_ms)
{
    double part = ((double)i + 0.5) / (double)(count > 0 ? count : 1);
    /* The inverse of (1 - exp(-x)) / (1 - exp(-MEANS)), x from 0 to MEANS. */
    double x = -log1p(-part * (1.0 - exp(-MEANS)));
    int64_t at_ms = (int64_t)(x / MEANS * (double)within_ms);
    return at_ms < within_ms ? at_ms : within_ms > 0 ? within_ms - 1 : 0;
}

int64_t shape_peak(size_t count, int64_t within_ms)
{
    size_t first = 0;
    while (first < count && shape_arrival_ms(first, count, within_ms) < 1000)
        first++;
    return (int64_t)first;
}

void samples_add(struct samples *samples, int64_t ms)
{
    if (samples->count == samples->room) {
        samples->room = samples->room ? 2 * samples->room : 256;
        samples->at = xrealloc(samples->at, samples->room * sizeof *samples->at);
    }
    samples->at[samples->count++] = ms;
    samples->sorted = false;
}

static int compare(const void *a, const void *b)
{
    int64_t left = *(const int64_t *)a, right = *(const int64_t *)b;
    return left < right ? -1 : left > right;
}

int64_t samples_percentile(struct samples *samples, double percent)
{
    if (samples->count == 0)
        return 0;
    if (!samples->sorted)
        qsort(samples->at, samples->count, sizeof *samples->at, compare);
    samples->sorted = true;
    double rank = ceil(percent / 100.0 * (double)samples->count);
    size_t at = rank < 1.0 ? 0 : (size_t)rank - 1;
    return samples->at[at < samples->count ? at : samples->count - 1];
}

void samples_release(struct samples *samples)
{
    free(samples->at);
    *samples = (struct samples){0};
}

/* --- The agenda: a binary heap ---------------------------------------------------------------------------
 */

/* Of those who are due at the same time the first in number. */
static bool earlier(const struct agenda_entry *a, const struct agenda_entry *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->who < b->who;
}

static void swap(struct agenda_entry *a, struct agenda_entry *b)
{
    struct agenda_entry kept = *a;
    *a = *b;
    *b = kept;
}

void agenda_add(struct agenda *agenda, int64_t at_ms, size_t who)
{
    if (agenda->count == agenda->room) {
        agenda->room = agenda->room ? 2 * agenda->room : 256;
        agenda->heap = xrealloc(agenda->heap, agenda->room * sizeof *agenda->heap);
    }
    size_t at = agenda->count++;
    agenda->heap[at] = (struct agenda_entry){at_ms, who};
    for (; at > 0 && earlier(&agenda->heap[at], &agenda->heap[(at - 1) / 2]); at = (at - 1) / 2)
        swap(&agenda->heap[at], &agenda->heap[(at - 1) / 2]);
}

bool agenda_take(struct agenda *agenda, int64_t now_ms, size_t *who)
{
    if (agenda->count == 0 || agenda->heap[0].at_ms > now_ms)
        return false;
    *who = agenda->heap[0].who;
    agenda->heap[0] = agenda->heap[--agenda->count];
    for (size_t at = 0, child = 1; child < agenda->count; at = child, child = 2 * at + 1) {
        if (child + 1 < agenda->count && earlier(&agenda->heap[child + 1], &agenda->heap[child]))
            child++;
        if (!earlier(&agenda->heap[child], &agenda->heap[at]))
            break;
        swap(&agenda->heap[child], &agenda->heap[at]);
    }
    return true;
}

int64_t agenda_next_ms(const struct agenda *agenda)
{
    return agenda->count > 0 ? agenda->heap[0].at_ms : INT64_MAX;
}

void agenda_release(struct agenda *agenda)
{
    free(agenda->heap);
    *agenda = (struct agenda){0};
}

/* --- Kinds of hash ---------------------------------------------------------------------------------------
 */

size_t shape_next_kind(const int64_t *shares, int64_t *given, size_t kinds)
{
    double all = 0, so_far = 1, most = -1;
    size_t next = 0;
    for (size_t i = 0; i < kinds; i++) {
        all += (double)shares[i];
        so_far += (double)given[i];
    }
    for (size_t i = 0; i < kinds && all > 0; i++) {
        double behind = (double)shares[i] / all * so_far - (double)given[i];
        if (shares[i] > 0 && behind > most) {
            most = behind;
            next = i;
        }
    }
    given[next]++;
    return next;
}
