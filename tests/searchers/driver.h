/* driver.h - plays a search against a made-up curve, in an order that the test chooses, and keeps what was said.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_SEARCHERS_DRIVER_H
#define FLEXP_TESTS_SEARCHERS_DRIVER_H

#include "common/rng.h" /* ours first: cmocka.h makes fail() a macro */
#include "searchers/searcher.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define RUNGS_SEEN 16

enum fate { FATE_WAITS, FATE_TRAINS, FATE_PAUSED, FATE_STOPPED, FATE_COMPLETED, FATE_CONVERGED, FATE_FAILED };

struct played {
    double until, at;          /* told to train until; has reported at */
    double untils[RUNGS_SEEN]; /* each it was told */
    size_t untils_n;
    enum fate fate;
    json_t *hyperparameters;
};

/* The world that trials live in: value of trial at unit; where it converges or fails (0: never). */
struct world {
    double (*value)(const struct world *world, int64_t trial, double unit);
    double (*converges)(const struct world *world, int64_t trial);
    double (*fails)(const struct world *world, int64_t trial);
    uint64_t seed;
    const double *values; /* for fixed_value */
};

struct play {
    struct searcher *searcher;
    const struct world *world;
    struct played *trials; /* trial n is trials[n] */
    size_t n, room;
    bool done;
    struct searcher_op *said; /* all operations, without hyperparameters */
    size_t said_n, said_room;
    struct searcher_event *told;
    size_t told_n, told_room;
    size_t training_most;
    double progress;
};

static inline struct space *driver_space(const char *text)
{
    json_t *hyperparameters = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
    struct space *space = NULL;
    struct error err;

    assert_non_null(hyperparameters);
    if (space_new(hyperparameters, &space, &err))
        fail_msg("%s", err.text);
    json_decref(hyperparameters);
    return space;
}

static inline struct searcher *driver_searcher(const struct searcher_config *config, const struct space *space)
{
    struct searcher *searcher = NULL;
    struct error err;

    if (searcher_new(config, space, &searcher, &err))
        fail_msg("%s", err.text);
    return searcher;
}

/* Hyperparameters apart: those are kept with the trials. */
static inline bool same_op(const struct searcher_op *a, const struct searcher_op *b)
{
    return a->type == b->type && a->trial == b->trial && a->until == b->until;
}

static inline void play_init(struct play *play, struct searcher *searcher, const struct world *world)
{
    memset(play, 0, sizeof *play);
    play->searcher = searcher;
    play->world = world;
}

static inline void play_done(struct play *play)
{
    for (size_t i = 1; i <= play->n; i++)
        json_decref(play->trials[i].hyperparameters);
    free(play->trials);
    free(play->said);
    free(play->told);
    searcher_free(play->searcher);
}

static inline void play_hear(struct play *play, const struct searcher_op *op)
{
    struct played *trial;

    if (play->said_n == play->said_room) {
        play->said_room = play->said_room ? 2 * play->said_room : 64;
        play->said = realloc(play->said, play->said_room * sizeof *play->said);
        assert_non_null(play->said);
    }
    play->said[play->said_n] = *op;
    play->said[play->said_n++].hyperparameters = NULL;
    assert_false(play->done); /* nothing comes after done */
    if (op->type == OP_DONE) {
        play->done = true;
        return;
    }
    if (op->type == OP_CREATE) {
        assert_int_equal(op->trial, play->n + 1);
        if (play->n + 2 > play->room) {
            play->room = play->room ? 2 * play->room : 64;
            play->trials = realloc(play->trials, play->room * sizeof *play->trials);
            assert_non_null(play->trials);
        }
        assert_true(json_is_object(op->hyperparameters));
        play->trials[++play->n] = (struct played){.hyperparameters = json_incref(op->hyperparameters)};
        return;
    }
    assert_in_range(op->trial, 1, play->n);
    trial = &play->trials[op->trial];
    if (trial->fate == FATE_CONVERGED || trial->fate == FATE_FAILED)
        return; /* said late, means nothing */
    assert_true(trial->fate == FATE_WAITS || trial->fate == FATE_TRAINS || trial->fate == FATE_PAUSED);
    if (op->type == OP_TRAIN) {
        size_t training = 0;
        assert_true(op->until > trial->until);
        assert_true(trial->untils_n < RUNGS_SEEN);
        trial->until = trial->untils[trial->untils_n++] = op->until;
        trial->fate = FATE_TRAINS;
        for (size_t i = 1; play->n < 200 && i <= play->n; i++)
            training += play->trials[i].fate == FATE_TRAINS && play->trials[i].at < play->trials[i].until;
        play->training_most = training > play->training_most ? training : play->training_most;
    } else if (op->type == OP_PAUSE) {
        assert_int_not_equal(trial->fate, FATE_PAUSED);
        trial->fate = FATE_PAUSED;
    } else {
        trial->fate = op->type == OP_STOP ? FATE_STOPPED : FATE_COMPLETED;
        if (op->type == OP_COMPLETE)
            assert_true(trial->at >= trial->until);
    }
}

static inline void play_tell(struct play *play, struct searcher_event event)
{
    struct searcher_ops ops = {0};
    struct error err;
    double progress;

    if (play->told_n == play->told_room) {
        play->told_room = play->told_room ? 2 * play->told_room : 64;
        play->told = realloc(play->told, play->told_room * sizeof *play->told);
        assert_non_null(play->told);
    }
    play->told[play->told_n++] = event;
    if (searcher_answer(play->searcher, &event, &ops, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < ops.n; i++)
        play_hear(play, &ops.list[i]);
    searcher_ops_done(&ops);
    progress = searcher_progress(play->searcher, 0);
    assert_true(progress >= play->progress && progress <= 1);
    play->progress = progress;
}

static inline bool play_trains(const struct play *play, size_t trial)
{
    return play->trials[trial].fate == FATE_TRAINS && play->trials[trial].at < play->trials[trial].until;
}

/* One trial goes to its next decision unit, or to where it converges or fails. */
static inline void play_step(struct play *play, size_t number)
{
    const struct world *world = play->world;
    struct played *trial = &play->trials[number];
    int64_t id = (int64_t)number;
    double until = trial->until;
    double converges = world->converges ? world->converges(world, id) : 0;
    double fails = world->fails ? world->fails(world, id) : 0;

    if (fails > trial->at && fails <= until) {
        trial->fate = FATE_FAILED;
        play_tell(play, (struct searcher_event){.type = EVENT_EXITED, .trial = id, .exit = EXIT_ERROR});
    } else if (converges > trial->at && converges <= until) {
        double value = world->value(world, id, converges);
        trial->at = converges;
        trial->fate = FATE_CONVERGED;
        play_tell(play,
                  (struct searcher_event){.type = EVENT_VALIDATION, .trial = id, .unit = converges, .value = value});
        play_tell(play,
                  (struct searcher_event){
                      .type = EVENT_EXITED, .trial = id, .unit = converges, .value = value, .exit = EXIT_CONVERGED});
    } else {
        trial->at = until;
        play_tell(play,
                  (struct searcher_event){
                      .type = EVENT_VALIDATION, .trial = id, .unit = until, .value = world->value(world, id, until)});
    }
}

/* First in, first out: trials act in the order in which they were told to train. */
static inline void play_in_order(struct play *play)
{
    play_tell(play, (struct searcher_event){.type = EVENT_START});
    for (size_t i = 0; i < play->said_n; i++)
        if (play->said[i].type == OP_TRAIN && play_trains(play, (size_t)play->said[i].trial))
            play_step(play, (size_t)play->said[i].trial);
}

/* Any order: of the trials that hold a slot (slots 0: every trial has one), a random one acts next. A trial that paused
 * gives its slot to the next that wants one. */
static inline void play_at_random(struct play *play, uint64_t seed, size_t slots)
{
    struct pcg32 rng = rng_key(seed, RNG_SEARCH, 99, 0, 0);
    size_t *holders = NULL, n = 0;

    play_tell(play, (struct searcher_event){.type = EVENT_START});
    while (!play->done) {
        size_t kept = 0;
        for (size_t i = 0; i < n; i++)
            if (play_trains(play, holders[i]))
                holders[kept++] = holders[i];
        n = kept;
        holders = realloc(holders, (play->n + 1) * sizeof *holders);
        assert_non_null(holders);
        for (size_t i = 1; i <= play->n && (!slots || n < slots); i++) {
            bool holds = false;
            for (size_t k = 0; k < n; k++)
                holds = holds || holders[k] == i;
            if (!holds && play_trains(play, i))
                holders[n++] = i;
        }
        assert_int_not_equal(n, 0); /* else it would wait for ever */
        play_step(play, holders[rng_below(&rng, (uint32_t)n)]);
    }
    free(holders);
}

static inline double fixed_value(const struct world *world, int64_t trial, double unit)
{
    (void)unit;
    return world->values[trial - 1];
}

/* A curve of its own for each (seed, trial): falls from about 1 towards a floor; one in 16 is not finite from some unit
 * on. */
static inline double curve_value(const struct world *world, int64_t trial, double unit)
{
    struct pcg32 rng = rng_key(world->seed, RNG_SEARCH, (uint64_t)trial, 1, 0);
    double low = rng_double(&rng), speed = 0.01 + rng_double(&rng), breaks = rng_double(&rng) * 100;
    uint32_t kind = rng_below(&rng, 48);

    if (kind < 3 && unit > breaks)
        return kind == 0 ? NAN : kind == 1 ? INFINITY : -INFINITY;
    return floor(64 * (low + 1 / (1 + speed * unit))) / 64; /* coarse, so that there are ties */
}

static inline double curve_converges(const struct world *world, int64_t trial)
{
    struct pcg32 rng = rng_key(world->seed, RNG_SEARCH, (uint64_t)trial, 2, 0);

    return rng_below(&rng, 6) ? 0 : 1 + rng_below(&rng, 40);
}

static inline double curve_fails(const struct world *world, int64_t trial)
{
    struct pcg32 rng = rng_key(world->seed, RNG_SEARCH, (uint64_t)trial, 3, 0);

    return rng_below(&rng, 10) ? 0 : 1 + rng_below(&rng, 40);
}

#define LR_SPACE "{\"lr\": {\"type\": \"log\", \"base\": 10, \"minval\": -4, \"maxval\": 0}}"

#endif
