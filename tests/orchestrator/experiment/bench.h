/* bench.h - one experiment on the fake store, driven message by message. After each call `heard` has the turn's effects, one
 * a line: "assign 1", "ack 1 3", "train_until 1 4", "kill 1", "free 1", "delete PATH", "changed".
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_BENCH_H
#define FLEXP_TESTS_BENCH_H

#include "orchestrator/experiment/experiment.h"
#include "tests/orchestrator/experiment/fake_store.h"

#define BENCH_HOME "/home/test/results"

struct bench {
    json_t *disk;
    struct experiment *experiment;
    int64_t next_run, next_checkpoint, clock;
    json_t *last; /* the last assign or evaluate */
    char heard[4000];
    struct error err;
};

static inline int64_t bench_next_run(void *arg)
{
    return ++((struct bench *)arg)->next_run;
}

static inline int64_t bench_next_checkpoint(void *arg)
{
    return ++((struct bench *)arg)->next_checkpoint;
}

static inline struct experiment_config *bench_config(const char *yaml)
{
    struct config_problems problems = {0};
    struct experiment_config *config = NULL;

    if (config_read(yaml, strlen(yaml), NULL, 0, NULL, &config, &problems)) {
        char *text = config_problems_text(&problems, "test.yaml");
        printf("# %s\n", text);
        free(text);
        fail_msg("the test's own file is wrong");
    }
    config_problems_done(&problems);
    return config;
}

__attribute__((format(printf, 2, 3))) static void hear(struct bench *b, const char *format, ...)
{
    size_t used = strlen(b->heard);
    va_list args;

    va_start(args, format);
    vsnprintf(b->heard + used, sizeof b->heard - used, format, args);
    va_end(args);
}

static inline void hear_message(struct bench *b, int64_t run, const json_t *message)
{
    const char *op = json_string_or(message, "op", "");

    hear(b, "%s %lld", op, (long long)run);
    if (!strcmp(op, "train_until"))
        hear(b, " %g", json_double_or(message, "unit", -1));
    hear(b, "\n");
    assert_int_equal(json_int_or(message, "run", 0), run);
    if (!strcmp(op, "assign") || !strcmp(op, "evaluate")) {
        json_decref(b->last);
        b->last = json_deep_copy(message);
    }
}

static inline struct turn bench_turn(struct bench *b)
{
    struct turn turn;

    b->heard[0] = 0;
    turn_init(&turn, ++b->clock);
    return turn;
}

static inline void bench_commit(struct bench *b, struct turn *turn)
{
    disk_commit(b->disk, turn->writes);
    turn->writes = NULL;
    for (size_t i = 0; i < turn->n; i++) {
        const struct effect *effect = &turn->effects[i];
        if (effect->type == EFFECT_SEND)
            hear_message(b, effect->run, effect->message);
        else if (effect->type == EFFECT_ACK)
            hear(b, "ack %lld %lld\n", (long long)effect->run, (long long)effect->seq);
        else if (effect->type == EFFECT_DELETE)
            hear(b, "delete %s\n", effect->path);
        else if (effect->type == EFFECT_CHANGED)
            hear(b, "changed\n");
        else
            hear(b, "%s %lld\n", effect->type == EFFECT_KILL ? "kill" : "free", (long long)effect->run);
    }
    turn_done(turn);
}

static inline void bench_open(struct bench *b, const char *yaml)
{
    struct id_source ids = {bench_next_run, bench_next_checkpoint, b};
    struct turn turn;

    memset(b, 0, sizeof *b);
    b->disk = disk_new();
    turn = bench_turn(b);
    if (experiment_new(1, bench_config(yaml), BENCH_HOME, &ids, false, &turn, &b->experiment, &b->err))
        fail_msg("%s", b->err.text);
    bench_commit(b, &turn);
}

static inline void bench_close(struct bench *b)
{
    experiment_free(b->experiment);
    json_decref(b->disk);
    json_decref(b->last);
}

/* The orchestrator is lost and comes back. */
static inline int bench_restore(struct bench *b)
{
    struct id_source ids = {bench_next_run, bench_next_checkpoint, b};
    struct stored_experiment stored = disk_load(b->disk);
    struct turn turn = bench_turn(b);
    int rc;

    experiment_free(b->experiment);
    b->experiment = NULL;
    rc = experiment_restore(&stored, BENCH_HOME, &ids, &turn, &b->experiment, &b->err);
    stored_done(&stored);
    if (rc)
        turn_done(&turn);
    else
        bench_commit(b, &turn);
    return rc;
}

/* Starts this trial, which must be wanted; the run's id. */
static inline int64_t bench_start(struct bench *b, int64_t trial)
{
    json_t *slots = json_pack("[s]", "cpu:0");
    struct turn turn = bench_turn(b);
    int64_t run = experiment_start_run(b->experiment, trial, slots, 4711, "avx512", &turn);

    json_decref(slots);
    assert_true(run > 0);
    bench_commit(b, &turn);
    return run;
}

/* A message as text; a refused one writes nothing and says why in b->err. */
__attribute__((format(printf, 2, 3))) static int bench_say(struct bench *b, const char *format, ...)
{
    struct turn turn = bench_turn(b);
    struct message message;
    char line[4000];
    va_list args;
    int rc;

    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (message_parse(line, strlen(line), true, &message, &b->err))
        fail_msg("%s: %s", line, b->err.text);
    rc = experiment_message(b->experiment, &message, &turn, &b->err);
    message_done(&message);
    if (!rc) {
        bench_commit(b, &turn);
        return 0;
    }
    assert_true(store_batch_is_empty(turn.writes));
    assert_int_equal(turn.n, 0);
    turn_done(&turn);
    return rc;
}

static inline void say_value(struct bench *b, int64_t run, int64_t seq, int unit, const char *value)
{
    assert_int_equal(bench_say(b, "{\"op\":\"report\",\"run\":%lld,\"seq\":%lld,\"kind\":\"validation\",\"units\":"
                                  "{\"rounds\":%d},\"metrics\":{\"validation_accuracy\":%s,\"validation_loss\":1.5}}",
                               (long long)run, (long long)seq, unit, value),
                     0);
}

static inline void say_saved(struct bench *b, int64_t run, int64_t seq, int unit)
{
    assert_int_equal(bench_say(b, "{\"op\":\"checkpoint\",\"run\":%lld,\"seq\":%lld,\"units\":{\"rounds\":%d},\"path\":"
                                  "\"runs/%lld/checkpoint-%d.safetensors\",\"bytes\":10}",
                               (long long)run, (long long)seq, unit, (long long)run, unit),
                     0);
}

/* Under a path of the worker's choice. */
static inline int say_saved_as(struct bench *b, int64_t run, int64_t seq, int unit, const char *path)
{
    return bench_say(b, "{\"op\":\"checkpoint\",\"run\":%lld,\"seq\":%lld,\"units\":{\"rounds\":%d},\"path\":\"%s\","
                        "\"bytes\":10}", (long long)run, (long long)seq, unit, path);
}

static inline void say_end(struct bench *b, int64_t run, int64_t seq, const char *reason)
{
    assert_int_equal(bench_say(b, "{\"op\":\"done\",\"run\":%lld,\"seq\":%lld,\"reason\":\"%s\",\"units\":{}}",
                               (long long)run, (long long)seq, reason),
                     0);
}

static inline void bench_dies(struct bench *b, int64_t run, const char *reason)
{
    struct turn turn = bench_turn(b);

    experiment_run_ended(b->experiment, run, reason, "its last words", &turn);
    bench_commit(b, &turn);
}

static inline int bench_verb(struct bench *b, int (*verb)(struct experiment *, struct turn *, struct error *))
{
    struct turn turn = bench_turn(b);
    int rc = verb(b->experiment, &turn, &b->err);

    bench_commit(b, &turn);
    return rc;
}

static inline int bench_kill_trial(struct bench *b, int64_t trial)
{
    struct turn turn = bench_turn(b);
    int rc = experiment_kill_trial(b->experiment, trial, &turn, &b->err);

    bench_commit(b, &turn);
    return rc;
}

static inline void bench_preempt(struct bench *b, int64_t run)
{
    struct turn turn = bench_turn(b);

    experiment_preempt(b->experiment, run, &turn);
    bench_commit(b, &turn);
}

/* "state" or "state reason" of a trial on disk. */
static inline const char *trial_is(const struct bench *b, int64_t number)
{
    static char text[200];
    const json_t *row = disk_trial(b->disk, number);
    const char *reason = json_string_or(row, "reason", NULL);

    snprintf(text, sizeof text, "%s%s%s", json_string_or(row, "state", "?"), reason ? " " : "", reason ? reason : "");
    return text;
}

static inline const char *experiment_is(const struct bench *b)
{
    return json_string_or(json_object_get(b->disk, "experiment"), "state", "?");
}

static inline const char *run_ended_by(const struct bench *b, int64_t run)
{
    return json_string_or(by_id(json_object_get(b->disk, "runs"), run), "reason", "open");
}

/* "1 3 2": trials in the order in which they want slots. */
static inline const char *wanted(const struct bench *b)
{
    static char text[400];
    struct wanted list[64];
    size_t n = experiment_wanted(b->experiment, list, 64);

    assert_int_equal(n, experiment_wanted(b->experiment, NULL, 0));
    text[0] = 0;
    for (size_t i = 0; i < n; i++)
        sprintf(text + strlen(text), "%s%lld", i ? " " : "", (long long)list[i].trial);
    return text;
}

/* The bodies of the journal's records of a kind, one a line. */
static inline char *journal_text(const struct bench *b, const char *kind)
{
    const json_t *record;
    char *text = calloc(1, 20000);
    size_t i;

    json_array_foreach (json_object_get(b->disk, "journal"), i, record) {
        char *line = json_line(json_object_get(record, "body"));
        if (!strcmp(json_string_or(record, "kind", ""), kind))
            sprintf(text + strlen(text), "%s\n", line);
        free(line);
    }
    return text;
}

#define REST                                                                                                          \
    "reproducibility: {experiment_seed: 7}\n"                                                                         \
    "data: {source: synthetic}\n"                                                                                     \
    "model: {preset: lenet}\n"                                                                                        \
    "training: {learning_rate: $lr}\n"                                                                                \
    "federation: {clients: 4, partition: {scheme: iid}}\n"
#define METRIC "metric: validation_accuracy, smaller_is_better: false, time_metric: rounds"
/* Three trials of 4 rounds, all at once. */
#define PLAIN                                                                                                         \
    "name: plain\n"                                                                                                   \
    "hyperparameters: {lr: {type: double, minval: 0.1, maxval: 0.3, count: 3}}\n"                                     \
    "searcher: {name: grid, max_time: 4, max_concurrent_trials: 3, " METRIC "}\n" REST
/* Rungs at 1, 3 and 9 rounds, by promotion: a trial waits for two worse ones. */
#define RUNGS                                                                                                         \
    "name: rungs\n"                                                                                                   \
    "hyperparameters: {lr: {type: double, minval: 0.1, maxval: 0.3}}\n"                                               \
    "searcher: {name: async_halving, max_time: 9, num_rungs: 3, divisor: 3, stop_once: false, max_trials: 9,\n"       \
    "           max_concurrent_trials: 3, " METRIC "}\n" REST

#endif
