/* world.h - a scripted world around one experiment: slots, workers that train by a formula, and a driver that commits
 * turns and carries their effects out as the orchestrator does. Messages travel as text through message_parse.
 * The including file provides the disk: struct disk, disk_write, disk_restore (see test_crash.c and test_real_store.c).
 * Who acts next is drawn from a seed, so a world is a function of (file, seeds, disturbances).
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_WORLD_H
#define FLEXP_TESTS_WORLD_H

#include "common/rng.h"
#include "orchestrator/experiment/experiment.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WORKERS 8

struct worker {
    int64_t run, trial;    /* run 0: none */
    json_t *assign;        /* owned */
    json_t *say;           /* owned: list of messages to come, without seq */
    int64_t seq;
    int64_t unit, until, max, checkpointed; /* checkpointed: the last unit with a checkpoint */
    bool evaluates, preempt, stop;
};

enum crash { CRASH_NONE, CRASH_BEFORE_COMMIT, CRASH_AFTER_COMMIT, CRASH_AFTER_EFFECTS, CRASH_IN_COMMIT, CRASH_MODES };

struct disturbances {
    int64_t crash_turn; /* from 1; 0: none */
    enum crash mode;
    uint32_t crash_each;   /* besides: a crash (mode drawn) about each so many turns; 0: none */
    uint32_t death_each;   /* a worker dies */
    uint32_t preempt_each; /* the scheduler takes a run's slots back */
    uint32_t pause_each;   /* a user pauses, and activates soon */
    uint64_t seed;         /* of all that, and of who acts next */
};

struct disk;
struct world {
    const char *yaml;
    struct experiment *experiment;
    struct disk *disk;
    struct worker workers[WORKERS];
    size_t slots;
    int64_t next_run, next_checkpoint, turns, crashes, clock;
    json_t *acked; /* {"run": seq} */
    struct disturbances disturb;
    struct pcg32 random;
    bool crashed; /* in this turn */
    int64_t converges_at; /* trials whose number is divisible by 3 converge at this unit; 0: none does */
};

/* Commits the turn's writes; keep SIZE_MAX or how many puts. Takes the batch. */
static void disk_write(struct disk *disk, struct store_batch *batch, bool cut);
static struct experiment *disk_restore(struct world *world, struct turn *turn);
static bool disk_can_cut(struct disk *disk, const struct store_batch *batch);

static int64_t world_next_run(void *arg)
{
    return ++((struct world *)arg)->next_run;
}

static int64_t world_next_checkpoint(void *arg)
{
    return ++((struct world *)arg)->next_checkpoint;
}

#define WORLD_HOME "/home/test/results"

static struct id_source world_ids(struct world *world)
{
    return (struct id_source){world_next_run, world_next_checkpoint, world};
}

static struct experiment_config *read_config(const char *yaml)
{
    struct config_problems problems = {0};
    struct experiment_config *config = NULL;

    if (config_read(yaml, strlen(yaml), NULL, 0, NULL, &config, &problems)) {
        char *text = config_problems_text(&problems, "test.yaml");
        print_message("%s", text);
        free(text);
        fail_msg("the test's own file is wrong");
    }
    config_problems_done(&problems);
    return config;
}

/* --- what training gives ------------------------------------------------------------------------------------------ */

/* A curve that rises with the learning rate's fitness and the unit; a few trials give NaN at times. */
static double accuracy(const struct worker *worker, int64_t unit)
{
    double lr = json_double_or(json_object_get(worker->assign, "hyperparameters"), "lr", 0.5);
    struct pcg32 noise = rng_key(11, RNG_INIT, (uint64_t)worker->trial, (uint64_t)unit, 0);

    if (worker->trial % 7 == 5 && unit % 2 == 0)
        return NAN;
    return (1 - (lr - 0.3) * (lr - 0.3)) * (double)unit / (double)(unit + 3) + 0.02 * rng_double(&noise);
}

/* Where it is not sent there, it validates two units of three. */
static bool is_validated(int64_t unit)
{
    return unit % 3 != 0;
}

static bool improves(const struct worker *worker, int64_t unit)
{
    double value = accuracy(worker, unit);

    for (int64_t u = 1; u < unit; u++)
        if (is_validated(u) && !searcher_better(false, value, accuracy(worker, u)))
            return false;
    return isfinite(value);
}

static void say(struct worker *worker, json_t *message)
{
    assert_non_null(message);
    json_object_set_new(message, "run", json_integer(worker->run));
    json_array_append_new(worker->say, message);
}

static json_t *units(int64_t unit)
{
    return json_pack("{s:I, s:f}", "rounds", (json_int_t)unit, "epochs", (double)unit / 2);
}

static void say_validation(struct worker *worker)
{
    say(worker, json_pack("{s:s, s:s, s:o, s:{s:o, s:f}}", "op", "report", "kind", "validation", "units",
                          units(worker->unit), "metrics", "validation_accuracy",
                          json_from_double(accuracy(worker, worker->unit)), "validation_loss", 0.5));
}

static void say_checkpoint(struct worker *worker)
{
    char path[80];

    snprintf(path, sizeof path, "runs/%lld/checkpoint-%lld.safetensors", (long long)worker->run, (long long)worker->unit);
    worker->checkpointed = worker->unit;
    say(worker, json_pack("{s:s, s:o, s:s, s:i}", "op", "checkpoint", "units", units(worker->unit), "path", path,
                          "bytes", 100));
}

static void say_done(struct worker *worker, const char *reason)
{
    say(worker, json_pack("{s:s, s:s, s:o}", "op", "done", "reason", reason, "units", units(worker->unit)));
}

static bool worker_can_act(const struct worker *worker)
{
    return worker->run && (json_array_size(worker->say) || worker->stop || worker->preempt || worker->evaluates ||
                           worker->unit < worker->until);
}

static bool has_converged(const struct world *world, const struct worker *worker)
{
    return world->converges_at && worker->trial % 3 == 0 && worker->unit >= world->converges_at;
}

/* Fills worker->say where it is empty. */
static void worker_think(const struct world *world, struct worker *worker)
{
    if (worker->stop) {
        say_done(worker, "stopped");
    } else if (worker->preempt) {
        if (worker->checkpointed < worker->unit)
            say_checkpoint(worker);
        say_done(worker, "preempted");
    } else if (!worker->evaluates && has_converged(world, worker)) {
        say_validation(worker); /* resumed from the checkpoint with which it ended */
        say_done(worker, "converged");
    } else if (worker->evaluates) {
        say(worker, json_pack("{s:s, s:s, s:o, s:{s:f}}", "op", "report", "kind", "test", "units", units(worker->until),
                              "metrics", "test_accuracy", accuracy(worker, worker->until) - 0.01));
        say_done(worker, "evaluated");
    } else {
        worker->unit++;
        say(worker, json_pack("{s:s, s:s, s:o, s:{s:f}, s:[{s:i, s:i, s:f, s:{s:f}}]}", "op", "report", "kind",
                              "training", "units", units(worker->unit), "metrics", "train_loss", 1.0 / (double)worker->unit,
                              "clients", "client", 2, "samples", 90, "seconds", 0.1, "metrics", "train_loss", 0.5));
        if (is_validated(worker->unit) || worker->unit == worker->until || has_converged(world, worker))
            say_validation(worker);
        if (has_converged(world, worker)) {
            say_checkpoint(worker);
            say_done(worker, "converged");
        } else if (worker->unit == worker->until || (is_validated(worker->unit) && improves(worker, worker->unit))) {
            say_checkpoint(worker);
        }
    }
}

static void worker_gone(struct worker *worker)
{
    json_decref(worker->assign);
    json_decref(worker->say);
    memset(worker, 0, sizeof *worker);
}

static struct worker *find_worker(struct world *world, int64_t run)
{
    for (size_t i = 0; i < world->slots; i++)
        if (world->workers[i].run == run)
            return &world->workers[i];
    return NULL;
}

static void worker_hears(struct world *world, int64_t run, const json_t *message)
{
    const char *op = json_string_or(message, "op", "");
    struct worker *worker = find_worker(world, run);

    if (!strcmp(op, "assign") || !strcmp(op, "evaluate")) {
        worker = find_worker(world, 0);
        assert_non_null(worker); /* no more runs than slots */
        *worker = (struct worker){.run = run, .trial = json_int_or(message, "trial", 0),
                                  .assign = json_deep_copy(message), .say = json_array(),
                                  .until = (int64_t)json_double_or(message, "train_until", 0),
                                  .max = (int64_t)json_double_or(message, "max_units", 0),
                                  .evaluates = !strcmp(op, "evaluate")};
        worker->unit = worker->checkpointed =
            json_int_or(json_object_get(json_object_get(message, "resume"), "units"), "rounds", 0);
        assert_true(worker->until >= worker->unit && worker->until <= worker->max);
        if (!worker->evaluates && worker->unit == worker->until)
            say_validation(worker); /* its checkpoint is there, its value may not be */
        return;
    }
    assert_non_null(worker);
    if (!strcmp(op, "train_until")) {
        worker->until = (int64_t)json_double_or(message, "unit", 0);
    } else if (!strcmp(op, "preempt")) {
        worker->preempt = true;
    } else if (!strcmp(op, "stop")) {
        worker->stop = true;
    } else {
        fail_msg("unexpected message %s", op);
    }
}

static void worker_hears_ack(struct world *world, int64_t run, int64_t seq)
{
    char key[32];

    assert_non_null(find_worker(world, run));
    snprintf(key, sizeof key, "%lld", (long long)run);
    json_object_set_new(world->acked, key, json_integer(seq));
}

/* --- turns -------------------------------------------------------------------------------------------------------- */

static uint32_t draw(struct world *world, uint32_t n)
{
    return rng_below(&world->random, n);
}

static void world_crash(struct world *world);

static void carry_out(struct world *world, const struct turn *turn)
{
    for (size_t i = 0; i < turn->n; i++) {
        const struct effect *effect = &turn->effects[i];
        if (effect->type == EFFECT_SEND)
            worker_hears(world, effect->run, effect->message);
        else if (effect->type == EFFECT_ACK)
            worker_hears_ack(world, effect->run, effect->seq);
        else if (effect->type == EFFECT_FREE_SLOTS || effect->type == EFFECT_KILL)
            worker_gone(find_worker(world, effect->run));
        else if (effect->type == EFFECT_DELETE)
            assert_int_equal(strncmp(effect->path, WORLD_HOME "/experiments/1/trials/", 38), 0);
    }
}

/* Ends a turn as the world's disturbances have it. */
static void world_commit(struct world *world, struct turn *turn)
{
    enum crash mode = CRASH_NONE;

    world->turns++;
    if (world->turns == world->disturb.crash_turn)
        mode = world->disturb.mode;
    else if (world->disturb.crash_each && draw(world, world->disturb.crash_each) == 0)
        mode = 1 + (enum crash)draw(world, CRASH_MODES - 1);
    if (mode == CRASH_IN_COMMIT && !disk_can_cut(world->disk, turn->writes))
        mode = CRASH_AFTER_COMMIT;
    if (mode != CRASH_BEFORE_COMMIT) {
        disk_write(world->disk, turn->writes, mode == CRASH_IN_COMMIT);
        turn->writes = NULL;
    }
    if (mode == CRASH_NONE || mode == CRASH_AFTER_EFFECTS)
        carry_out(world, turn);
    turn_done(turn);
    if (mode)
        world_crash(world);
}

/* All workers and the orchestrator are gone; what is on disk is restored. */
static void world_crash(struct world *world)
{
    struct turn turn;

    for (size_t i = 0; i < world->slots; i++)
        worker_gone(&world->workers[i]);
    experiment_free(world->experiment);
    world->experiment = NULL;
    world->crashes++;
    world->crashed = true;
    for (int times = 0; times < 3; times++) { /* lost before its commit, committed and lost, done again */
        turn_init(&turn, ++world->clock);
        experiment_free(world->experiment);
        world->experiment = disk_restore(world, &turn);
        if (!world->experiment) { /* it was over */
            turn_done(&turn);
            return;
        }
        if (times == 2)
            assert_true(store_batch_is_empty(turn.writes)); /* restoring twice is restoring once */
        if (times) {
            disk_write(world->disk, turn.writes, false);
            turn.writes = NULL;
        }
        turn_done(&turn);
    }
}

static struct turn world_turn(struct world *world)
{
    struct turn turn;

    turn_init(&turn, ++world->clock);
    return turn;
}

static void world_send(struct world *world, struct worker *worker)
{
    json_t *body;
    struct message message;
    struct turn turn;
    struct error err;
    char *line;

    if (!json_array_size(worker->say))
        worker_think(world, worker);
    body = json_incref(json_array_get(worker->say, 0));
    json_array_remove(worker->say, 0);
    json_object_set_new(body, "seq", json_integer(++worker->seq));
    line = json_line(body);
    if (message_parse(line, strlen(line), true, &message, &err))
        fail_msg("%s: %s", line, err.text);
    free(line);
    json_decref(body);
    turn = world_turn(world);
    if (experiment_message(world->experiment, &message, &turn, &err))
        fail_msg("refused: %s", err.text);
    message_done(&message);
    world_commit(world, &turn);
}

/* Starts what is wanted while slots are free; each start is a turn. False: nothing to start. */
static bool world_start(struct world *world)
{
    struct wanted wanted;
    struct turn turn;
    json_t *slots;

    if (!find_worker(world, 0) || !experiment_wanted(world->experiment, &wanted, 1))
        return false;
    slots = json_pack("[s]", "cpu:0");
    turn = world_turn(world);
    assert_true(experiment_start_run(world->experiment, wanted.trial, slots, 1, "avx512", &turn) > 0);
    json_decref(slots);
    world_commit(world, &turn);
    return true;
}

/* Puts something in the way. True when that was a turn of its own. */
static bool world_disturb(struct world *world)
{
    const struct disturbances *d = &world->disturb;
    struct worker *worker = &world->workers[draw(world, (uint32_t)world->slots)];
    enum experiment_state state = experiment_get_state(world->experiment);
    struct turn turn;

    if (d->death_each && worker->run && draw(world, d->death_each) == 0) {
        int64_t run = worker->run;
        worker_gone(worker);
        turn = world_turn(world);
        experiment_run_ended(world->experiment, run, "signal", "killed by signal 9", &turn);
    } else if (d->preempt_each && worker->run && draw(world, d->preempt_each) == 0) {
        turn = world_turn(world);
        experiment_preempt(world->experiment, worker->run, &turn);
    } else if (d->pause_each && state == EXPERIMENT_ACTIVE && draw(world, d->pause_each) == 0) {
        turn = world_turn(world);
        assert_int_equal(experiment_pause(world->experiment, &turn, NULL), 0);
    } else if (state == EXPERIMENT_PAUSED && (draw(world, 6) == 0 || !experiment_running_n(world->experiment))) {
        turn = world_turn(world);
        assert_int_equal(experiment_activate(world->experiment, &turn, NULL), 0);
    } else {
        return false;
    }
    world_commit(world, &turn);
    return true;
}

static void world_open(struct world *world, const char *yaml, size_t slots, struct disk *disk,
                       const struct disturbances *disturb)
{
    struct id_source ids = world_ids(world);
    struct turn turn;
    struct error err;

    *world = (struct world){.yaml = yaml, .slots = slots, .disk = disk, .acked = json_object(), .disturb = *disturb};
    world->random = rng_key(disturb->seed, RNG_RETRY, 0, 0, 0);
    turn = world_turn(world);
    if (experiment_new(1, read_config(yaml), WORLD_HOME, &ids, false, &turn, &world->experiment, &err))
        fail_msg("%s", err.text);
    world_commit(world, &turn);
    if (!world->experiment) { /* it never was: the user asks again */
        turn = world_turn(world);
        assert_int_equal(experiment_new(1, read_config(yaml), WORLD_HOME, &ids, false, &turn, &world->experiment, &err), 0);
        world_commit(world, &turn);
    }
}

/* Runs to the experiment's end. */
static void world_run(struct world *world)
{
    while (world->experiment && !experiment_has_ended(world->experiment)) {
        uint32_t first = draw(world, (uint32_t)world->slots);
        struct worker *actor = NULL;

        assert_true(world->turns < 200000);
        if (world_disturb(world) || (draw(world, 2) && world_start(world)))
            continue;
        for (size_t i = 0; i < world->slots && !actor; i++)
            if (worker_can_act(&world->workers[(first + i) % world->slots]))
                actor = &world->workers[(first + i) % world->slots];
        if (actor)
            world_send(world, actor);
        else if (!world_start(world))
            fail_msg("nothing can go on: experiment %s after %lld turns",
                     EXPERIMENT_STATE_NAMES[experiment_get_state(world->experiment)], (long long)world->turns);
    }
}

static void world_close(struct world *world)
{
    for (size_t i = 0; i < world->slots; i++)
        worker_gone(&world->workers[i]);
    experiment_free(world->experiment);
    json_decref(world->acked);
}

#endif
