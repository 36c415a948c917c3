/* config_keys.c - every key of an experiment file, the trainer's sections by reference.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_private.h"

#include <assert.h>
#include <string.h>

#define END {.name = NULL}
#define NOTHING "means nothing here and is ignored"
#define IGNORED(key, text) {key, KEY_IGNORED, .doc = text}

static const struct key STRINGS[] = {{NULL, KEY_STRING, .doc = "A string."}};
static const struct key RUNGS[] = {{NULL, KEY_INT, .min = 1, .max = 64, .doc = "Rungs of one bracket."}};

static const struct key SEARCHER[] = {
    {"name", KEY_STRING, .required = true,
     .doc = "A scheduler (single, async_halving, adaptive_asha), which samples at random unless sampler says "
            "otherwise, or a sampler (random, grid), which trains every trial to its end.",
     .example = "name: adaptive_asha"},
    {"sampler", KEY_STRING, .doc = "Which configurations are tried: random (the default of a scheduler) or grid.",
     .example = "sampler: random"},
    {"metric", KEY_STRING, .required = true,
     .doc = "What is compared: validation_ or client_validation_ before loss, accuracy, f1, precision or recall; of "
            "the client ones also the _mean and the _worst over clients. With an entrypoint, any name that your "
            "program reports.",
     .example = "metric: validation_accuracy"},
    {"smaller_is_better", KEY_BOOL,
     .doc = "Which way the metric points. It follows from the name of a built-in metric and must be given with an "
            "entrypoint.",
     .example = "smaller_is_better: false"},
    {"max_trials", KEY_INT, .min = 1, .max = 10000000,
     .doc = "Configurations tried. grid: all points where absent; single: 1.", .example = "max_trials: 16"},
    {"max_concurrent_trials", KEY_INT, .def = "16", .min = 0, .max = 1000000,
     .doc = "Trials that go on at the same time, whatever the number of slots; 0: as many as the searcher allows.",
     .example = "max_concurrent_trials: 8"},
    {"max_time", KEY_FREE,
     .doc = "Length of a whole trial in time_metric, or a map such as {rounds: 64}. Rung lengths are absolute; a "
            "trial is stopped at a rung unless stop_once is false.",
     .example = "max_time: 64"},
    {"max_length", KEY_FREE,
     .doc = "The older form of max_time: rung lengths add up, and trials wait at a rung to be promoted unless "
            "stop_once is true. One of the two must be given.",
     .example = "max_length: {rounds: 64}"},
    {"time_metric", KEY_CHOICE, .choices = "rounds epochs batches samples seconds",
     .doc = "What lengths are counted in; rounds where absent (without federation a round is an epoch).",
     .example = "time_metric: rounds"},
    {"divisor", KEY_NUMBER, .def = "4", .min = 1, .max = 1000, .exclusive_min = true,
     .doc = "async_halving, adaptive_asha: one in so many goes on from a rung.", .example = "divisor: 4"},
    {"max_rungs", KEY_INT, .def = "5", .min = 1, .max = 64, .doc = "adaptive_asha: most rungs of a bracket.",
     .example = "max_rungs: 3"},
    {"num_rungs", KEY_INT, .min = 1, .max = 64, .doc = "async_halving: rungs; must be given there.",
     .example = "num_rungs: 3"},
    {"mode", KEY_CHOICE, .def = "\"standard\"", .choices = "aggressive standard conservative",
     .doc = "adaptive_asha: how many brackets; aggressive has one and stops earliest.", .example = "mode: aggressive"},
    {"bracket_rungs", KEY_LIST, .sub = RUNGS, .doc = "adaptive_asha: rungs of each bracket, in place of mode.",
     .example = "bracket_rungs: [4, 3]"},
    {"stop_once", KEY_BOOL,
     .doc = "async_halving, adaptive_asha: true stops a trial for good at a rung, false lets it wait there for "
            "promotion.",
     .example = "stop_once: true"},
    {"order", KEY_CHOICE, .def = "\"arrival\"", .choices = "arrival logical",
     .doc = "arrival wastes no slot; logical takes results as if all units took the same time, so that one file gives "
            "one outcome on any number of slots.",
     .example = "order: logical"},
    IGNORED("source_trial_id", NOTHING ": trials start from fresh weights"),
    IGNORED("source_checkpoint_uuid", NOTHING ": trials start from fresh weights"),
    IGNORED("train_stragglers", NOTHING),
    END};

static const struct key RESOURCES[] = {
    {"slots_per_trial", KEY_INT, .def = "1", .min = 1, .max = 65536,
     .doc = "Slots (GPUs, else CPU cores) that a trial runs on, all or none; the built-in trainer takes 16 GPUs at most.", .example = "slots_per_trial: 1"},
    {"trials_per_slot", KEY_INT, .def = "1", .min = 1, .max = 64, .choices = "auto",
     .doc = "Trials of this experiment that share a slot at most, where slots_per_trial is 1: on a GPU several small models "
            "train together in about the time of one. On a CPU, and in fp32_strict, their curves are those that they have alone. "
            "auto: as many as fit and pay, by the trainer's word (on a CPU 1); the stored file has the number.",
     .example = "trials_per_slot: auto"},
    {"max_slots", KEY_INT, .min = 1, .max = 65536,
     .doc = "Slots that the experiment uses at most (one that several trials share is one); no limit where absent.",
     .example = "max_slots: 4"},
    {"priority", KEY_INT, .def = "42", .min = 1, .max = 99, .doc = "Lower goes first.", .example = "priority: 42"},
    {"weight", KEY_NUMBER, .def = "1", .min = 0, .max = 1e6, .exclusive_min = true,
     .doc = "Share of the slots among experiments of equal priority.", .example = "weight: 1"},
    {"slot_type", KEY_CHOICE, .def = "\"auto\"", .choices = "auto cpu cuda",
     .doc = "auto: GPUs where there are any, else CPU cores.", .example = "slot_type: cpu"},
    IGNORED("resource_pool", NOTHING ": there is one pool of slots; see slot_type"),
    IGNORED("agent_label", NOTHING ": there is one pool of slots; see slot_type"),
    IGNORED("devices", NOTHING ": a trial's devices are its slots"),
    IGNORED("shm_size", NOTHING ": trials run without containers"),
    IGNORED("native_parallel", NOTHING),
    IGNORED("is_single_node", NOTHING ": a trial runs on one machine"),
    IGNORED("slots", NOTHING "; slots_per_trial says how many slots a trial has"),
    END};

#define STORAGE(key) IGNORED(key, NOTHING ": checkpoints are kept in the home, below experiments/")
static const struct key CHECKPOINT_STORAGE[] = {
    {"save_experiment_best", KEY_INT, .def = "0", .min = 0, .max = 1000000,
     .doc = "Best checkpoints kept of the whole experiment when it ends.", .example = "save_experiment_best: 0"},
    {"save_trial_best", KEY_INT, .def = "1", .min = 0, .max = 1000000, .doc = "Best checkpoints kept of each trial.",
     .example = "save_trial_best: 1"},
    {"save_trial_latest", KEY_INT, .def = "1", .min = 0, .max = 1000000,
     .doc = "Latest checkpoints kept of each trial.",
     .example = "save_trial_latest: 1"},
    STORAGE("type"), STORAGE("host_path"), STORAGE("storage_path"), STORAGE("container_path"), STORAGE("propagation"),
    STORAGE("bucket"), STORAGE("prefix"), STORAGE("access_key"), STORAGE("secret_key"), STORAGE("endpoint_url"),
    STORAGE("hdfs_url"), STORAGE("hdfs_path"), STORAGE("user"), STORAGE("container"), STORAGE("connection_string"),
    STORAGE("account_url"), STORAGE("credential"), STORAGE("checkpoint_path"), STORAGE("tensorboard_path"),
    END};

static const struct key REPRODUCIBILITY[] = {
    {"experiment_seed", KEY_INT, .min = 0, .max = 9e18,
     .doc = "All that is drawn at random follows from it; drawn, and written into the stored file, where absent.",
     .example = "experiment_seed: 7"},
    END};

const struct key CONFIG_KEYS[] = {
    {"name", KEY_STRING, .def = "\"unnamed\"", .doc = "A name, for people.", .example = "name: cifar10-fedavg-night"},
    {"description", KEY_STRING, .doc = "A sentence, for people.",
     .example = "description: first sweep over the learning rate"},
    {"labels", KEY_LIST, .sub = STRINGS, .doc = "Words, for people.", .example = "labels: [cifar10, fedavg]"},
    {"hyperparameters", KEY_FREE, .def = "{}",
     .doc = "What the searcher chooses: {type: int, double, log, categorical or const, ...} by name, a bare value for "
            "a constant, and maps without a type for groups. `$name` (`$group.name`) stands for the value in data, "
            "model, training and federation.",
     .example = "hyperparameters: {lr: {type: log, minval: -3, maxval: -1}}"},
    {"searcher", KEY_MAP, .required = true, .sub = SEARCHER,
     .doc = "How configurations are chosen and which trials go on.",
     .example = "searcher: {name: random, metric: validation_accuracy, max_trials: 8, max_time: 20}"},
    {"resources", KEY_MAP, .sub = RESOURCES, .def = "{}", .doc = "What trials run on.",
     .example = "resources: {slots_per_trial: 1}"},
    {"max_restarts", KEY_INT, .def = "5", .min = 0, .max = 1000000,
     .doc = "How often a trial whose worker died is started again, from its latest checkpoint.",
     .example = "max_restarts: 2"},
    {"time_limit", KEY_NUMBER, .min = 0, .max = 1e9, .exclusive_min = true,
     .doc = "Seconds of wall clock for the whole experiment.", .example = "time_limit: 28800"},
    {"min_checkpoint_period", KEY_FREE, .def = "0",
     .doc = "A checkpoint at least each so many units of time_metric, or a map such as {rounds: 5}; 0: when the "
            "metric improved, at decisions and when preempted.",
     .example = "min_checkpoint_period: {rounds: 5}"},
    {"checkpoint_storage", KEY_MAP, .sub = CHECKPOINT_STORAGE, .def = "{}",
     .doc = "Which checkpoints are kept when the experiment ends; the winner's always is.",
     .example = "checkpoint_storage: {save_trial_best: 1}"},
    {"reproducibility", KEY_MAP, .sub = REPRODUCIBILITY, .def = "{}", .doc = "Seeds.",
     .example = "reproducibility: {experiment_seed: 7}"},
    {"on_complete", KEY_STRING,
     .doc = "A command for /bin/sh, run once when the experiment has ended, however it ended, for at most 10 minutes. Its "
            "environment says how: FLEXP_EXPERIMENT_ID, FLEXP_EXPERIMENT_NAME, FLEXP_STATE, FLEXP_METRIC, FLEXP_BEST_TRIAL, "
            "FLEXP_BEST_VALUE, FLEXP_BEST_MODEL, FLEXP_BEST_CHECKPOINT, FLEXP_RESULT (a file with what describe --json says) "
            "and FLEXP_HOME. What it prints is in the experiment's log. If the orchestrator ends meanwhile it is run "
            "again, once.",
     .example = "on_complete: 'mail -s \"$FLEXP_EXPERIMENT_NAME: $FLEXP_BEST_VALUE\" me <\"$FLEXP_RESULT\"'"},
    {"entrypoint", KEY_FREE,
     .doc = "Your own program in place of the built-in trainer: a list of words, or a string for /bin/sh. It speaks "
            "the trial protocol (docs/protocol.md).",
     .example = "entrypoint: [python3, train.py]"},
    {"working_directory", KEY_STRING,
     .doc = "Folder in which the entrypoint runs; absent: the one in which the experiment was created.",
     .example = "working_directory: /home/me/project"},
    {"data", KEY_MAP, .required = true, .sub = DATA_KEYS, .references = true,
     .doc = "The images. With an entrypoint: whatever your program wants, handed on untouched.",
     .example = "data: {source: synthetic}"},
    {"model", KEY_MAP, .required = true, .sub = MODEL_KEYS, .references = true, .doc = "The network.",
     .example = "model: {preset: seed_cnn}"},
    {"training", KEY_MAP, .required = true, .sub = TRAINING_KEYS, .references = true, .doc = "Local training.",
     .example = "training: {learning_rate: 0.01}"},
    {"federation", KEY_MAP, .sub = FEDERATION_KEYS, .references = true,
     .doc = "The federation; absent: centralised training, in which a round is an epoch.",
     .example = "federation: {clients: 10}"},
    IGNORED("environment", NOTHING ": trials run on this machine, without containers"),
    IGNORED("bind_mounts", NOTHING ": trials see this machine's files; data.path names the data"),
    IGNORED("profiling", NOTHING ": timings are always recorded"),
    IGNORED("optimizations", NOTHING ": gradients are not exchanged between slots"),
    IGNORED("security", NOTHING),
    IGNORED("workspace", NOTHING ": another --home keeps experiments apart"),
    IGNORED("project", NOTHING ": another --home keeps experiments apart"),
    IGNORED("data_layer", NOTHING ": data are decoded once and cached in the home; see data.source"),
    IGNORED("pbs", NOTHING),
    IGNORED("slurm", NOTHING),
    IGNORED("min_validation_period", NOTHING "; use training.validation_period"),
    IGNORED("perform_initial_validation", NOTHING ": validation comes after rounds"),
    IGNORED("records_per_epoch", NOTHING ": the data set says how long an epoch is"),
    IGNORED("batches_per_epoch", NOTHING ": the data set says how long an epoch is"),
    IGNORED("scheduling_unit", NOTHING ": reports come each round; see training.validation_period"),
    IGNORED("checkpoint_policy", NOTHING ": a checkpoint is made when the metric improves"),
    IGNORED("tensorboard_storage", NOTHING ": metrics are in the home's flexp.db"),
    IGNORED("debug", NOTHING "; set FLEXP_LOG=debug"),
    IGNORED("internal", NOTHING),
    IGNORED("integrations", NOTHING),
    IGNORED("log_policies", NOTHING "; see max_restarts"),
    IGNORED("preemption_timeout", NOTHING ": a trial is preempted at the end of a round"),
    IGNORED("retention_policy", NOTHING ": logs are kept with the experiment"),
    IGNORED("registry_auth", NOTHING ": trials run without containers"),
    IGNORED("template", NOTHING "; YAML anchors and merge keys (<<) can share parts of a file"),
    IGNORED("unmanaged", NOTHING),
    END};

#define ROWS (sizeof CONFIG_KEYS / sizeof *CONFIG_KEYS)
static_assert(ROWS <= CONFIG_KEYS_ROOM, "CONFIG_KEYS_ROOM is too small");

void config_keys_for(bool own_program, struct key *ret)
{
    static const char *const SECTIONS[] = {"model", "training", "federation"};

    memcpy(ret, CONFIG_KEYS, sizeof CONFIG_KEYS);
    for (struct key *row = ret; own_program && row->name; row++) {
        if (!strcmp(row->name, "data")) {
            row->type = KEY_FREE;
            row->required = false;
            row->def = "{}";
        }
        for (size_t i = 0; i < sizeof SECTIONS / sizeof *SECTIONS; i++)
            if (!strcmp(row->name, SECTIONS[i])) {
                row->type = KEY_IGNORED;
                row->required = false;
                row->doc = "means nothing with an entrypoint and is ignored: the program gets hyperparameters and data";
            }
    }
}
