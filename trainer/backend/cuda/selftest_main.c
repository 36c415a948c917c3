/* selftest_main.c - `flexp-trainer selftest --backend cuda`.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/ranks.h"
#include "trainer/backend/cuda/selftest.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef FLEXP_COMMIT
#define FLEXP_COMMIT "unknown"
#endif

static const char HELP[] =
    "usage: flexp-trainer selftest --backend cuda [--json FILE] [--no-checks] [--bench | --quick-bench] [--rounds N]\n"
    "                              [--precision fp32|fp32_strict|tf32|bf16 ...]\n"
    "\n"
    "Holds every operation, gradient and 20 steps of training on the GPU against the CPU backend, checks that bits "
    "are\n"
    "equal from run to run and packed or not, that memory is flat over N rounds (1000), and, where several are "
    "visible,\n"
    "several GPUs in one trial against one; then, with --bench, times networks, the federated benchmark and each "
    "operation of a step.\n"
    "Exits with 1 where something failed, 2 for a wrong call, 3 where there is no GPU, 4 where other processes hold the\n"
    "memory of every GPU that can be used.\n";

#define ROUNDS_LEAST 4 /* memory is looked at after the third */
#define ROUNDS_MOST 1000000

struct options {
    const char *json;
    bool cuda, checks, bench, quick;
    int rounds;
    bool wanted[4]; /* by precision */
    bool chosen;
};

static int precision_of(const char *name)
{
    for (int i = 0; PRECISION_NAMES[i]; i++)
        if (!strcmp(PRECISION_NAMES[i], name))
            return i;
    return -1;
}

static bool is_rounds(const char *value, int *ret)
{
    char *end;
    long n;

    errno = 0;
    n = strtol(value, &end, 10);
    if (errno || end == value || *end || n < ROUNDS_LEAST || n > ROUNDS_MOST)
        return false;
    *ret = (int)n;
    return true;
}

/* An option with a value: true where it is one; its value is taken, or what it must be is in *ret_must. */
static bool take_value(const char *option, const char *value, struct options *o, const char **ret_must)
{
    const char *given = value ? value : "";
    int precision = precision_of(given);

    *ret_must = NULL;
    if (!strcmp(option, "--backend")) {
        *ret_must = strcmp(given, "cuda") ? "cuda" : NULL;
        o->cuda = true;
    } else if (!strcmp(option, "--json")) {
        *ret_must = value ? NULL : "the name of a file";
        o->json = value;
    } else if (!strcmp(option, "--precision")) {
        if (precision < 0)
            *ret_must = "fp32, fp32_strict, tf32 or bf16";
        else
            o->chosen = o->wanted[precision] = true;
    } else if (!strcmp(option, "--rounds")) {
        *ret_must = is_rounds(given, &o->rounds) ? NULL : "a whole number from 4 to 1000000";
    } else {
        return false;
    }
    return true;
}

/* 0, or the exit code plus 1. */
static int parse(int argc, char **argv, struct options *o)
{
    const char *must;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            fputs(HELP, stdout);
            return 1;
        }
        if (!strcmp(argv[i], "--no-checks"))
            o->checks = false;
        else if (!strcmp(argv[i], "--bench"))
            o->bench = true;
        else if (!strcmp(argv[i], "--quick-bench"))
            o->bench = o->quick = true;
        else if (!take_value(argv[i], value, o, &must)) {
            fprintf(stderr, "flexp-trainer selftest: cannot make sense of \"%s\"\n%s", argv[i], HELP);
            return 3;
        } else if (must) {
            fprintf(stderr, "flexp-trainer selftest: %s: must be %s, got %s%s%s\n", argv[i], must, value ? "\"" : "",
                    value ? value : "nothing", value ? "\"" : "");
            return 3;
        } else
            i++;
    }
    if (!o->cuda) {
        fprintf(stderr, "flexp-trainer selftest: --backend cuda is what there is\n%s", HELP);
        return 3;
    }
    return 0;
}

static json_t *describe(const struct device_info *info)
{
    char date[32];
    time_t now = time(NULL);
    struct tm tm;

    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    return json_pack("{s:s, s:s, s:s, s:i, s:i, s:I, s:s, s:s}", "gpu", info->name, "uuid", info->uuid, "isa",
                     info->isa, "driver_version", info->driver_version, "runtime_version", info->runtime_version,
                     "total_bytes", (json_int_t)info->total_bytes, "commit", FLEXP_COMMIT, "date", date);
}

static bool wants(const struct options *o, enum precision precision)
{
    return !o->chosen || o->wanted[precision];
}

static void phase(struct selftest *t, const char *name, time_t began)
{
    printf("%s: %d passed, %d failed so far, %lld s\n", name, t->passed, t->failed, (long long)(time(NULL) - began));
    fflush(stdout);
}

/* Of two GPUs, and of all that are visible. */
static void check_parallel(struct selftest *t, const struct options *o, const struct driver *driver)
{
    struct device *device;
    struct error err;
    size_t gpus = 0;

    while (gpus < RANKS_MOST && !driver->open((int)gpus, NULL, &device, &err)) {
        driver->close(device);
        gpus++;
    }
    if (gpus < 2)
        printf("several GPUs: skipped, %zu is visible\n", gpus);
    for (enum precision precision = PRECISION_FP32; gpus > 1 && precision <= PRECISION_BF16; precision++) {
        if (!wants(o, precision))
            continue;
        selftest_parallel(t, precision, 2);
        if (gpus > 2)
            selftest_parallel(t, precision, gpus);
    }
}

/* The own kernels first; what libraries compute takes longer to make ready. */
static void run_checks(struct selftest *t, const struct options *o, const struct driver *driver)
{
    static const enum precision ORDER[] = {PRECISION_FP32_STRICT, PRECISION_BF16, PRECISION_FP32, PRECISION_TF32};
    time_t began = time(NULL);

    for (size_t i = 0; i < 4; i++) {
        if (!wants(o, ORDER[i]))
            continue;
        selftest_operations(t, ORDER[i]);
        selftest_training(t, ORDER[i]);
        if (ORDER[i] != PRECISION_FP32_STRICT)
            selftest_shared(t, ORDER[i]);
        selftest_rounds(t, ORDER[i]);
        phase(t, PRECISION_NAMES[ORDER[i]], began);
    }
    if (wants(o, PRECISION_FP32_STRICT)) {
        selftest_bits(t, PRECISION_FP32_STRICT);
        selftest_trials(t, PRECISION_FP32_STRICT);
    }
    if (wants(o, PRECISION_BF16))
        selftest_bits(t, PRECISION_BF16);
    selftest_memory(t, o->rounds);
    phase(t, "bits and memory", began);
    check_parallel(t, o, driver);
    phase(t, "several GPUs", began);
}

int cuda_selftest(int argc, char **argv)
{
    struct options o = {.checks = true, .rounds = 1000};
    struct device_info info;
    const struct driver *driver;
    struct device *device;
    struct selftest t;
    struct error err;
    int rc = parse(argc, argv, &o);
    json_t *result;

    if (rc)
        return rc - 1;
    if (cuda_settings(&err)) {
        fprintf(stderr, "flexp-trainer selftest: %s\n", err.text);
        return 2;
    }
    if (cuda_driver(&driver, &err) || device_any(driver, false, &device, &info, &err)) {
        fprintf(stderr, "flexp-trainer selftest: %s\n", err.text);
        return err.code == -ENOBUFS ? 4 : 3;
    }
    driver->info(device, &info);
    driver->close(device);
    printf("%s, %s, driver for CUDA %d.%d, commit %s\n", info.name, info.isa, info.driver_version / 1000,
           info.driver_version % 1000 / 10, FLEXP_COMMIT);
    selftest_init(&t);
    if (o.checks)
        run_checks(&t, &o, driver);
    if (o.bench)
        selftest_bench(&t, o.quick, o.chosen ? o.wanted : NULL);
    if (t.rounds == ROUNDS_CALLS)
        printf("rounds are queued call by call on this GPU, not as one graph: loops were not tried\n");
    printf("%d passed, %d failed\n", t.passed, t.failed);
    rc = t.failed != 0;
    if (o.json) {
        result = describe(&info);
        json_object_set_new(result, "passed", json_integer(t.passed));
        json_object_set_new(result, "failed", json_integer(t.failed));
        json_object_set_new(result, "rounds_as_graphs",
                            t.rounds == ROUNDS_NOT_SEEN ? json_null() : json_boolean(t.rounds == ROUNDS_WHOLE));
        json_object_set(result, "timings", t.timings);
        json_object_set(result, "profiles", t.profiles);
        json_object_set(result, "checks", t.checks);
        if (json_dump_file(result, o.json, JSON_INDENT(1))) {
            fprintf(stderr, "flexp-trainer selftest: cannot write %s\n", o.json);
            rc = 1;
        }
        json_decref(result);
    }
    selftest_done(&t);
    return rc;
}
