/* test_plan.c - memory and errors of the CUDA backend on the fake GPU: buffers that live at once stand apart, what a
 * trial needs is known before it starts and refused in one line, a set-up trial allocates nothing, failures leak
 * nothing. SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SAMPLES 60

static const char RESIDUAL[] =
    "[{\"conv2d\": {\"filters\": 8, \"kernel\": 3, \"padding\": \"same\", \"activation\": \"relu\"}}, "
    "{\"residual\": {\"layers\": [{\"conv2d\": {\"filters\": 8, \"kernel\": 3, \"padding\": \"same\"}}, "
    "\"batch_norm\"], "
    "\"activation\": \"relu\"}}, {\"max_pool2d\": {\"size\": 2}}, \"flatten\", {\"dropout\": {\"rate\": 0.5}}, "
    "{\"dense\": {\"units\": \"classes\"}}]";

static void must_open(struct bed *b, const char *layers)
{
    struct error err = {0};

    if (bed_init(b, layers, 3, 8, 6, 4, SAMPLES, 8, PRECISION_FP32_STRICT, &err))
        fail_msg("%s", err.text);
}

static void must_close(struct bed *b)
{
    bed_done(b);
    assert_int_equal(fake.blocks, 0);
    assert_int_equal(fake.opened, 0);
}

static void make(struct replica *r, size_t n, const float *start, const uint32_t *samples)
{
    for (size_t i = 0; i < n; i++)
        r[i] = (struct replica){.start = start,
                                .samples = samples + i,
                                .samples_n = 20 + 3 * i,
                                .epochs = 1,
                                .batch = 8,
                                .lr = 0.05f,
                                .optimizer = {.momentum = 0.9f},
                                .seed = 1,
                                .client = i,
                                .weight = 0.125};
}

static int round_of(struct bed *b, size_t n, double *sum, const volatile int *cancel, struct error *err)
{
    uint32_t samples[SAMPLES];
    struct replica r[8];
    struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = sum};

    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    memset(sum, 0, b->model->weights_n * sizeof *sum);
    make(r, n, b->weights, samples);
    return backend_train(&BACKEND_CUDA, b->gpu_plan, r, n, NULL, &reduction, cancel, err);
}

static void buffers_that_live_at_once_stand_apart(void **state)
{
    static const char *const NETS[] = {RESIDUAL, "seed_cnn", "lenet"};

    (void)state;
    for (size_t k = 0; k < 3; k++) {
        struct bed b;
        struct error err = {0};
        const struct program *programs[2];
        size_t together = 0;
        assert_int_equal(bed_init(&b, NETS[k], 3, 32, 32, 4, 8, 8, PRECISION_FP32, &err), 0);
        programs[0] = &b.gpu_plan->train;
        programs[1] = &b.gpu_plan->evaluate;
        for (size_t p = 0; p < 2; p++)
            for (size_t i = 0; i < programs[p]->spaces_n; i++) {
                const struct space *x = &programs[p]->spaces[i];
                together += p ? 0 : x->bytes;
                assert_true(x->first >= 0 && x->offset + x->bytes <= programs[p]->bytes && x->offset % 256 == 0);
                for (size_t j = 0; j < i; j++) {
                    const struct space *y = &programs[p]->spaces[j];
                    bool meet = x->first <= y->last && y->first <= x->last;
                    assert_true(!meet || x->offset >= y->offset + y->bytes || y->offset >= x->offset + x->bytes);
                }
            }
        assert_true(programs[0]->bytes < together); /* some stand where others stood */
        must_close(&b);
    }
}

static void what_is_planned_is_what_is_taken(void **state)
{
    struct bed b;
    struct error err = {0};
    size_t shared, lane, bytes;
    double *sum;

    (void)state;
    must_open(&b, RESIDUAL);
    assert_int_equal(
        BACKEND_CUDA.compile(b.gpu, b.model, &(struct plan_options){8, PRECISION_FP32_STRICT}, NULL, &bytes, &err), 0);
    cuda_plan_bytes(b.model, 8, PRECISION_FP32_STRICT, &b.data, &shared, &lane, &err);
    assert_int_equal(bytes, shared + lane);
    sum = calloc(b.model->weights_n, sizeof *sum);
    fake.peak = 0;
    assert_int_equal(round_of(&b, 5, sum, NULL, &err), 0);
    assert_true(fake.peak <= shared - CONTEXT_BYTES + 5 * lane);
    free(sum);
    must_close(&b);
}

/* As many trials as are said to fit train at once. */
static void as_many_trials_fit_as_is_said(void **state)
{
    enum { COHORT = 3 };
    struct bed b;
    struct error err = {0};
    struct plan_options options = {8, PRECISION_FP32_STRICT};
    size_t whole = fake.capacity, shared, lane, trials, one;
    struct training t[64] = {0};
    struct replica r[64][8];
    uint32_t samples[SAMPLES];

    (void)state;
    fake.capacity = CONTEXT_BYTES / 9 * 10 + ((size_t)12 << 20);
    must_open(&b, RESIDUAL);
    cuda_plan_bytes(b.model, 8, PRECISION_FP32_STRICT, &b.data, &shared, &lane, &err);
    one = COHORT * lane + 12 * b.model->weights_n;
    assert_int_equal(BACKEND_CUDA.fit(b.gpu, b.model, &options, &b.data, COHORT, &trials, &err), 0);
    assert_int_equal(trials, (fake.capacity / 10 * 9 - shared) / one);
    assert_true(trials > 4 && trials < 64);
    assert_int_equal(BACKEND_CUDA.fit(b.gpu, b.model, &options, &b.data, 100000, &one, &err), 0);
    assert_int_equal(one, 1);
    fake.capacity -= CONTEXT_BYTES / 9 * 10; /* which a driver takes, with its tenth, and this one does not */
    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    for (size_t k = 0; k < trials; k++) {
        make(r[k], COHORT, NULL, samples);
        t[k] = (struct training){.replicas = r[k], .n = COHORT, .reduction = {.type = REDUCE_MODEL, .rate = 1}};
        assert_int_equal(BACKEND_CUDA.put_model(b.gpu_plan, &t[k].reduction.model, b.weights, &err), 0);
    }
    assert_int_equal(BACKEND_CUDA.train(b.gpu_plan, t, trials, &err), 0);
    assert_true(b.gpu_plan->training->n >= trials * COHORT);
    fake.capacity = whole;
    must_close(&b);
}

/* A pack has ended, and one trial is left: after a while it has lanes of its own number, and the bits it had. */
static void lanes_that_stay_idle_are_given_back(void **state)
{
    struct bed b;
    struct error err = {0};
    double *sum, *expected;

    (void)state;
    must_open(&b, RESIDUAL);
    sum = calloc(b.model->weights_n, sizeof *sum);
    expected = calloc(b.model->weights_n, sizeof *expected);
    assert_int_equal(round_of(&b, 2, expected, NULL, &err), 0);
    assert_int_equal(round_of(&b, 8, sum, NULL, &err), 0);
    for (int i = 0; i < 20; i++) { /* now and then all of them: they stay */
        assert_int_equal(round_of(&b, i % 5 ? 2 : 8, sum, NULL, &err), 0);
        assert_int_equal(b.gpu_plan->training->n, 8);
    }
    for (int i = 0; i < 20; i++) {
        assert_int_equal(round_of(&b, 2, sum, NULL, &err), 0);
        assert_memory_equal(sum, expected, b.model->weights_n * sizeof *sum);
    }
    assert_int_equal(b.gpu_plan->training->n, 2);
    free(sum);
    free(expected);
    must_close(&b);
}

static void what_is_trimmed_is_made_again(void **state)
{
    struct bed b;
    struct error err = {0};
    double *sum, *expected;
    size_t used;

    (void)state;
    must_open(&b, RESIDUAL);
    sum = calloc(b.model->weights_n, sizeof *sum);
    expected = calloc(b.model->weights_n, sizeof *expected);
    used = fake.used;
    assert_int_equal(round_of(&b, 3, expected, NULL, &err), 0);
    assert_false(BACKEND_CUDA.trim(b.gpu, b.gpu_plan));
    assert_true(fake.used > used && BACKEND_CUDA.trim(b.gpu, NULL));
    assert_int_equal(fake.used, used);
    assert_int_equal(round_of(&b, 3, sum, NULL, &err), 0);
    assert_memory_equal(sum, expected, b.model->weights_n * sizeof *sum);
    free(sum);
    free(expected);
    must_close(&b);
}

static void a_set_up_trial_allocates_nothing(void **state)
{
    struct bed b;
    struct error err = {0};
    double *sum;
    size_t allocations = 0, captures = fake.captures;

    (void)state;
    must_open(&b, RESIDUAL);
    sum = calloc(b.model->weights_n, sizeof *sum);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(round_of(&b, (size_t)(i % 3 ? 8 : 5 + i / 9), sum, NULL, &err), 0);
        if (i == 1)
            allocations = fake.allocations;
    }
    assert_int_equal(fake.allocations, allocations);
    assert_true(fake.captures - captures <= GRAPHS); /* a number of steps that was not there before */
    free(sum);
    must_close(&b);
}

static void turns_leave_the_bits_as_they_are(void **state)
{
    struct bed b;
    struct error err = {0};
    double *sum, *other;
    size_t whole = fake.capacity, shared, lane;

    (void)state;
    must_open(&b, RESIDUAL);
    sum = calloc(b.model->weights_n, sizeof *sum);
    other = calloc(b.model->weights_n, sizeof *sum);
    cuda_plan_bytes(b.model, 8, PRECISION_FP32_STRICT, NULL, &shared, &lane, &err);
    fake.capacity = fake.used + 4 * lane; /* room for three at once */
    assert_int_equal(round_of(&b, 8, other, NULL, &err), 0);
    assert_true(b.gpu_plan->training->n < 8);
    fake.capacity = whole;
    assert_int_equal(round_of(&b, 8, sum, NULL, &err), 0);
    assert_int_equal(b.gpu_plan->training->n, 8);
    assert_memory_equal(sum, other, b.model->weights_n * sizeof *sum);
    free(sum);
    free(other);
    must_close(&b);
}

static void what_does_not_fit_is_refused_in_one_line(void **state)
{
    struct bed b;
    struct error err = {0};
    struct plan *plan;
    double *sum;
    size_t whole = fake.capacity;

    (void)state;
    must_open(&b, RESIDUAL);
    sum = calloc(b.model->weights_n, sizeof *sum);
    fake.capacity = fake.used + 1000;
    assert_int_equal(round_of(&b, 2, sum, NULL, &err), -ENOMEM);
    assert_non_null(strstr(err.text, "out of GPU memory: a replica needs 1 MiB, 0 of"));
    fake.capacity = whole;
    assert_int_equal(round_of(&b, 2, sum, NULL, &err), 0); /* it goes on when there is room again */
    assert_int_equal(
        BACKEND_CUDA.compile(b.gpu, b.model, &(struct plan_options){4000000, PRECISION_FP32}, &plan, NULL, &err),
        -ENOMEM);
    assert_non_null(strstr(err.text, "MiB of GPU memory for batches of 4000000, but Fake GPU has 4096 MiB"));
    assert_int_equal(
        BACKEND_CUDA.compile(b.gpu, b.model, &(struct plan_options){400000000, PRECISION_FP32}, &plan, NULL, &err),
        -EINVAL);
    assert_string_equal(err.text, "layer 0: a batch of 400000000 is too large for the CUDA backend");
    free(sum);
    must_close(&b);
}

/* Wherever a launch fails, the reason arrives and the next round trains as if nothing had been. */
static void a_failure_leaks_nothing_and_is_told(void **state)
{
    struct bed b;
    struct error err = {0};
    double *sum, *expected;
    int at = 1;

    (void)state;
    must_open(&b, RESIDUAL);
    sum = calloc(b.model->weights_n, sizeof *sum);
    expected = calloc(b.model->weights_n, sizeof *sum);
    assert_int_equal(round_of(&b, 3, expected, NULL, &err), 0);
    fake.fail_stays = true;
    for (;; at += 7) {
        lanes_forget_graphs(b.gpu_plan->training);
        fake.of[0].lost = false;
        fake.fail_launch = at;
        if (!round_of(&b, 3, sum, NULL, &err))
            break;
        assert_string_equal(err.text, "the fake GPU fell off the bus");
        assert_false(fake.capturing);
    }
    fake.fail_launch = 0;
    fake.fail_stays = false;
    assert_true(at > 20);
    assert_int_equal(round_of(&b, 3, sum, NULL, &err), 0);
    assert_memory_equal(sum, expected, b.model->weights_n * sizeof *sum);
    free(sum);
    free(expected);
    must_close(&b);
}

static void a_cancellation_ends_the_round(void **state)
{
    struct bed b;
    struct error err = {0};
    double *sum;
    int cancel = 1;

    (void)state;
    must_open(&b, RESIDUAL);
    sum = calloc(b.model->weights_n, sizeof *sum);
    assert_int_equal(round_of(&b, 3, sum, &cancel, &err), -ECANCELED);
    free(sum);
    must_close(&b);
}

static void sums_are_the_cpus_but_for_the_weights_rounding(void **state)
{
    struct bed b;
    struct error err = {0};
    struct replica r[2][4];
    uint32_t samples[SAMPLES];
    double *sums[2];

    (void)state;
    must_open(&b, RESIDUAL);
    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    for (int k = 0; k < 2; k++) {
        struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM};
        const struct backend_ops *ops = k ? &BACKEND_CUDA : &BACKEND_CPU;
        sums[k] = reduction.sum = calloc(b.model->weights_n, sizeof(double));
        sums[k][0] = 3; /* overwritten */
        make(r[k], 4, b.weights, samples);
        r[k][2].max_batches = 1;
        r[k][3].samples_n = 0; /* a client without samples sends what it got */
        assert_int_equal(backend_train(ops, k ? b.gpu_plan : b.cpu_plan, r[k], 4, NULL, &reduction, NULL, &err), 0);
    }
    for (size_t i = 0; i < b.model->weights_n; i++)
        assert_true(fabs(sums[0][i] - sums[1][i]) < 1e-5 * (1 + fabs(sums[0][i])));
    for (int i = 0; i < 4; i++) {
        assert_int_equal(r[0][i].batches, r[1][i].batches);
        assert_int_equal(r[0][i].samples_seen, r[1][i].samples_seen);
    }
    assert_true(r[1][3].update_norm == 0);
    free(sums[0]);
    free(sums[1]);
    must_close(&b);
}

/* Rounds with the model on the device, against rounds whose sums come and go. */
static void a_resident_model_is_trained_to_the_same_bits(void **state)
{
    struct bed b;
    struct error err = {0};
    struct reduction resident = {.type = REDUCE_MODEL, .rate = 0.5};
    struct replica r[4];
    struct evaluation e[2];
    uint32_t samples[SAMPLES];
    double *sum;
    float *got;
    size_t n;

    (void)state;
    must_open(&b, RESIDUAL);
    n = b.model->weights_n;
    sum = calloc(n, sizeof *sum);
    got = calloc(n, sizeof *got);
    for (uint32_t i = 0; i < SAMPLES; i++)
        samples[i] = i;
    make(r, 4, NULL, samples);
    assert_int_equal(backend_train(&BACKEND_CUDA, b.gpu_plan, r, 4, NULL, &resident, NULL, &err), -EINVAL);
    assert_string_equal(err.text, "no model has been put");
    assert_int_equal(BACKEND_CUDA.put_model(b.gpu_plan, &resident.model, b.weights, &err), 0);
    for (int round = 0; round < 3; round++) {
        make(r, 4, NULL, samples);
        assert_int_equal(backend_train(&BACKEND_CUDA, b.gpu_plan, r, 4, NULL, &resident, NULL, &err), 0);
        assert_int_equal(round_of(&b, 4, sum, NULL, &err), 0);
        for (size_t i = 0; i < n; i++)
            b.weights[i] =
                (float)(i < b.model->trainable_n ? (double)b.weights[i] + 0.5 * (sum[i] - (double)b.weights[i])
                                                 : sum[i]);
    }
    assert_int_equal(BACKEND_CUDA.get_model(b.gpu_plan, resident.model, got, &err), 0);
    assert_memory_equal(got, b.weights, n * sizeof *got);
    for (int k = 0; k < 2; k++) {
        assert_int_equal(evaluation_init(&e[k], 4), 0);
        assert_int_equal(
            k ? BACKEND_CUDA.evaluate_model(b.gpu_plan, resident.model, &b.data.test, samples, 33, &e[k], NULL, &err)
              : BACKEND_CUDA.evaluate(b.gpu_plan, got, &b.data.test, samples, 33, &e[k], NULL, &err),
            0);
    }
    assert_true(e[0].loss_sum == e[1].loss_sum && e[1].n == 33);
    evaluation_done(&e[0]);
    evaluation_done(&e[1]);
    free(sum);
    free(got);
    must_close(&b);
}

static void another_data_set_is_seen(void **state)
{
    struct bed b;
    struct error err = {0};
    struct dataset other;
    double *sum, *before, *after;

    (void)state;
    must_open(&b, RESIDUAL);
    sum = calloc(3 * b.model->weights_n, sizeof *sum);
    before = sum + b.model->weights_n;
    after = before + b.model->weights_n;
    assert_int_equal(round_of(&b, 2, before, NULL, &err), 0);
    other = b.data;
    other.mean[0] = .1f; /* stands in what was captured */
    assert_int_equal(BACKEND_CUDA.load_dataset(b.gpu, &other, &err), 0);
    assert_int_equal(round_of(&b, 2, sum, NULL, &err), 0);
    assert_memory_not_equal(sum, before, b.model->weights_n * sizeof *sum);
    assert_int_equal(BACKEND_CUDA.load_dataset(b.gpu, &b.data, &err), 0);
    assert_int_equal(round_of(&b, 2, after, NULL, &err), 0);
    assert_memory_equal(after, before, b.model->weights_n * sizeof *sum);
    free(sum);
    must_close(&b);
}

static void without_the_shared_object_the_reason_is_told(void **state)
{
    struct backend *backend;
    struct error err = {0};

    (void)state;
    cuda_use_driver(NULL);
    setenv("FLEXP_CUDA", "/nowhere/flexp-cuda.so", 1);
    assert_int_equal(BACKEND_CUDA.open(&(struct backend_options){.cores_n = 0}, &backend, &err), -ENODEV);
    assert_string_equal(err.text, "this build has no CUDA backend (flexp-cuda.so is built where nvcc is found)");
    cuda_use_driver(&FAKE_DRIVER);
}

static void what_the_environment_must_not_say_is_refused_at_once(void **state)
{
    static const struct {
        const char *name, *value, *must; /* NULL: it is right */
    } CASES[] = {
        {"FLEXP_CUDA_ROUNDS", "call", "calls"},          {"FLEXP_CUDA_ROUNDS", "calls", NULL},
        {"FLEXP_CUDA_ROUNDS", "", NULL},                 {"FLEXP_CUDA_SHARED", "2", "0 or 1"},
        {"FLEXP_CUDA_SHARED", "yes", "0 or 1"},          {"FLEXP_CUDA_SHARED", "0", NULL},
        {"FLEXP_CUDA_SHARED", "1", NULL},                {"FLEXP_CUDA_LIBRARIES", "non", "none"},
        {"FLEXP_CUDA_LIBRARIES", "none", NULL},          {"FLEXP_CUDA_TIMEOUT", "0", "a number of seconds greater than 0"},
        {"FLEXP_CUDA_TIMEOUT", "5s", "a number of seconds greater than 0"},
        {"FLEXP_CUDA_TIMEOUT", "nan", "a number of seconds greater than 0"},
        {"FLEXP_CUDA_TIMEOUT", "0.5", NULL},
    };

    (void)state;
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        struct backend *backend = NULL;
        struct error err = {0};
        char text[200];
        setenv(CASES[i].name, CASES[i].value, 1);
        assert_int_equal(BACKEND_CUDA.open(&(struct backend_options){.cores_n = 0}, &backend, &err), CASES[i].must ? -EINVAL : 0);
        unsetenv(CASES[i].name);
        BACKEND_CUDA.close(backend);
        if (!CASES[i].must)
            continue;
        snprintf(text, sizeof text, "%s=%s: must be %s", CASES[i].name, CASES[i].value, CASES[i].must);
        assert_string_equal(err.text, text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buffers_that_live_at_once_stand_apart),
        cmocka_unit_test(what_is_planned_is_what_is_taken),
        cmocka_unit_test(as_many_trials_fit_as_is_said),
        cmocka_unit_test(lanes_that_stay_idle_are_given_back),
        cmocka_unit_test(what_is_trimmed_is_made_again),
        cmocka_unit_test(a_set_up_trial_allocates_nothing),
        cmocka_unit_test(turns_leave_the_bits_as_they_are),
        cmocka_unit_test(what_does_not_fit_is_refused_in_one_line),
        cmocka_unit_test(a_failure_leaks_nothing_and_is_told),
        cmocka_unit_test(a_cancellation_ends_the_round),
        cmocka_unit_test(sums_are_the_cpus_but_for_the_weights_rounding),
        cmocka_unit_test(a_resident_model_is_trained_to_the_same_bits),
        cmocka_unit_test(another_data_set_is_seen),
        cmocka_unit_test(without_the_shared_object_the_reason_is_told),
        cmocka_unit_test(what_the_environment_must_not_say_is_refused_at_once),
    };
    return cmocka_run_group_tests(tests, fake_use, NULL);
}
