/*
 * The arithmetic of a rehearsal: when candidates arrive, who is due next, and what the measured times say.
 * Pure but for memory.
 */
#ifndef EXAMHOOK_REHEARSE_SHAPE_H
#define EXAMHOOK_REHEARSE_SHAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * When the i-th of `count` candidates arrives, in ms from the beginning: as at nine o'clock, when the doors
 * open and most are there already. The rate is highest at the beginning and falls exponentially, with a mean
 * of a fifth of `within_ms`, cut at `within_ms`: four of five come in the first third. Grows with i; the
 * first comes near 0, the last before within_ms.
 */
int64_t shape_arrival_ms(size_t i, size_t count, int64_t within_ms);
/* The most that arrive within any one second. */
int64_t shape_peak(size_t count, int64_t within_ms);

/* Measured times, in ms. */
struct samples {
    int64_t *at;
    size_t count, room;
    bool sorted;
};
void samples_add(struct samples *samples, int64_t ms);
/* The nearest rank: the smallest value that `percent` (0 to 100) of all are not above; 0 without any. */
int64_t samples_percentile(struct samples *samples, double percent);
void samples_release(struct samples *samples);

/* Numbers with a time: who has the earliest comes first. */
struct agenda {
    struct agenda_entry {
        int64_t at_ms;
        size_t who;
    } * heap;
    size_t count, room;
};
void agenda_add(struct agenda *agenda, int64_t at_ms, size_t who);
/* False: nobody is due at now_ms. */
bool agenda_take(struct agenda *agenda, int64_t now_ms, size_t *who);
/* When the next is due; INT64_MAX: nobody is on it. */
int64_t agenda_next_ms(const struct agenda *agenda);
void agenda_release(struct agenda *agenda);

/* How the kinds of hash of a roster come among made-up candidates: the kind (an index) of the next one, so
   that at any time each has about its share. `given` counts them. */
size_t shape_next_kind(const int64_t *shares, int64_t *given, size_t kinds);

#endif
