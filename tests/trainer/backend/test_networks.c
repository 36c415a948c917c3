/* test_networks.c - networks at random (random_net.h): every instruction set and oneDNN against each other and against the
 * definition in double, gradients against central differences along random directions, bits for any number of threads.
 * FLEXP_NETS=N: so many of each kind in place of a few seconds' worth; FLEXP_SEED: the first seed.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/random_net.h"
#include "tests/trainer/backend/reference.h"
#include "tests/trainer/backend/tiny.h"
#include "trainer/backend/cpu/native/native.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

/* Of a tensor's largest gradient: what rounding leaves after some ten layers with Winograd's F(4x4) and F(2x2) of 5x5 among them is a few
 * 1e-5; a value in the wrong place makes 1e-2. FLOOR is of the network's largest: tensors whose gradient is 0 by
 * construction (a bias ahead of a norm) hold the rounding of what cancels. */
#define TOLERANCE 5e-4
#define FLOOR 1e-4
/* Where a ReLU's input is this near to 0, or two of a pool's window to each other, rounding may choose another side. */
#define KINK 3e-5
#define SAMPLES 40

static uint64_t first_seed(void)
{
    const char *text = getenv("FLEXP_SEED");

    return text ? strtoull(text, NULL, 10) : 1;
}

static uint64_t count(uint64_t usual)
{
    const char *text = getenv("FLEXP_NETS");

    return text ? strtoull(text, NULL, 10) : usual;
}

struct setting { /* one of those that are held against each other */
    const char *isa, *kernels;
};

struct outcome {
    double loss, evaluated;
    float *gradients, *predictions;
};

struct trial {
    uint64_t seed;
    struct random_net net;
    size_t batch, n;
    bool strict;
    uint32_t samples[SAMPLES];
};

static void trial_new(struct trial *t, uint64_t seed, bool large)
{
    t->seed = seed;
    random_net(&t->net, seed, large);
    t->batch = 1 + (size_t)net_below(&t->net, large ? 36 : 9);
    t->strict = net_chance(&t->net, 30);
    if (t->net.batch_norm && t->batch < 4)
        t->batch = 4;
    t->n = t->batch;
    if (net_chance(&t->net, 40) && t->batch > 4)
        t->n -= (size_t)net_below(&t->net, (int)t->batch - 4);
    for (uint32_t i = 0; i < SAMPLES; i++)
        t->samples[i] = i * 7 % SAMPLES;
}

static void trial_open(const struct trial *t, size_t threads, struct tiny *ret)
{
    struct plan_options options = {.batch = t->batch, .precision = PRECISION_FP32_STRICT};
    struct error err = {0};

    tiny_init(ret, t->net.text, t->net.channels, t->net.height, t->net.width, t->net.classes, SAMPLES, t->batch, threads);
    if (!t->strict)
        return;
    BACKEND_CPU.release_plan(ret->plan);
    if (BACKEND_CPU.compile(ret->backend, ret->model, &options, &ret->plan, NULL, &err))
        fail_msg("seed %llu: %s", (unsigned long long)t->seed, err.text);
}

static void choose(const struct setting *s)
{
    s->isa ? setenv("FLEXP_ISA", s->isa, 1) : unsetenv("FLEXP_ISA");
    s->kernels ? setenv("FLEXP_CPU_KERNELS", s->kernels, 1) : unsetenv("FLEXP_CPU_KERNELS");
}

static struct outcome run(const struct trial *t, const struct setting *s)
{
    struct evaluation e;
    struct outcome o;
    struct error err = {0};
    struct tiny tiny;
    size_t classes = (size_t)t->net.classes;

    choose(s);
    trial_open(t, 1, &tiny);
    o.gradients = malloc(tiny.model->trainable_n * sizeof *o.gradients);
    o.predictions = malloc(t->n * classes * sizeof *o.predictions);
    evaluation_init(&e, t->net.classes);
    if (BACKEND_CPU.gradients(tiny.plan, tiny.weights, &tiny.data.train, t->samples, t->n, o.gradients, &o.loss, &err) ||
        BACKEND_CPU.evaluate(tiny.plan, tiny.weights, &tiny.data.test, t->samples, t->n, &e, o.predictions, &err))
        fail_msg("seed %llu: %s", (unsigned long long)t->seed, err.text);
    o.evaluated = e.loss_sum / (double)t->n;
    evaluation_done(&e);
    tiny_done(&tiny);
    choose(&(struct setting){0});
    return o;
}

static void outcome_free(struct outcome *o)
{
    free(o->gradients);
    free(o->predictions);
}

/* kinks */

static double rms(const double *x, size_t n)
{
    double sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum / (double)n) + 1e-300;
}

/* Between the largest and the next that is not just as large. */
static double pool_margin(const struct layer *l, const double *x, size_t n, int c, int oh, int ow)
{
    double top = -INFINITY, second = -INFINITY;

    for (int r = 0; r < l->kernel_h; r++)
        for (int s = 0; s < l->kernel_w; s++) {
            int h = oh * l->stride - l->pad_top + r, w = ow * l->stride - l->pad_left + s;
            double v;
            if (h < 0 || w < 0 || h >= l->in.h || w >= l->in.w)
                continue;
            v = at(x, &l->in, n, c, h, w);
            if (v > top) {
                second = top;
                top = v;
            } else if (v < top && v > second) {
                second = v;
            }
        }
    return top - second;
}

/* How near the network is to a kink, relative to the values there; behind reference_loss. */
static double margin_of(const struct reference *r)
{
    double least = INFINITY;

    for (size_t i = 0; i < r->model->layers_n; i++) {
        const struct layer *l = &r->model->layers[i];
        const double *x = r->act[l->input + 1];
        size_t values = r->n * reference_values(&l->in);
        double scale = rms(x, values);

        for (size_t k = 0; l->type == LAYER_RELU && k < values; k++)
            if (x[k] != 0) /* exactly 0: behind another ReLU */
                least = fmin(least, fabs(x[k]) / scale);
        for (size_t k = 0; l->type == LAYER_MAX_POOL2D && k < r->n * reference_values(&l->out); k++) {
            size_t pixels = (size_t)l->out.h * (size_t)l->out.w, pixel = k % pixels;
            int c = (int)(k / pixels % (size_t)l->out.c);
            least = fmin(least, pool_margin(l, x, k / pixels / (size_t)l->out.c, c, (int)(pixel / (size_t)l->out.w),
                                            (int)(pixel % (size_t)l->out.w)) / scale);
        }
    }
    return least;
}

/* The definition, and what is compared with it. */
struct truth {
    struct tiny tiny;
    struct reference r;
    uint16_t labels[SAMPLES];
    double *weights, loss, margin;
};

static void truth_new(struct truth *truth, const struct trial *t)
{
    trial_open(t, 1, &truth->tiny);
    truth->weights = malloc(truth->tiny.model->weights_n * sizeof *truth->weights);
    for (size_t i = 0; i < truth->tiny.model->weights_n; i++)
        truth->weights[i] = (double)truth->tiny.weights[i];
    reference_init(&truth->r, truth->tiny.model, &truth->tiny.data, &truth->tiny.data.train, t->samples, t->n, truth->labels);
    truth->loss = reference_loss(&truth->r, truth->weights, true);
    truth->margin = margin_of(&truth->r);
}

static void truth_free(struct truth *truth)
{
    reference_done(&truth->r);
    tiny_done(&truth->tiny);
    free(truth->weights);
}

static size_t on_kinks, compared;

/* The first gradient in which they differ, as text; NULL: none. */
static const char *differ(const struct model *m, const float *a, const float *b)
{
    static char text[200];
    double all = 0;

    for (size_t i = 0; i < m->trainable_n; i++)
        all = fmax(all, fabs((double)a[i]));
    for (size_t k = 0; k < m->params_n; k++) {
        const struct param *p = &m->params[k];
        double top = 0;
        for (size_t i = p->offset; p->trainable && i < p->offset + p->size; i++)
            top = fmax(top, fabs((double)a[i]));
        for (size_t i = p->offset; p->trainable && i < p->offset + p->size; i++)
            if (!(fabs((double)a[i] - (double)b[i]) <= TOLERANCE * top + FLOOR * all)) {
                snprintf(text, sizeof text, "%s[%zu]: %.9g and %.9g, largest %.3g, of all %.3g", p->name, i - p->offset,
                         (double)a[i], (double)b[i], top, all);
                return text;
            }
    }
    return NULL;
}

static void compare(const struct trial *t, const struct setting *s, const struct outcome *expected,
                    const struct truth *truth)
{
    struct outcome o = run(t, s);
    const char *where;

    if (!(fabs(o.loss - expected->loss) < 3e-5 * (1 + fabs(expected->loss))) ||
        !(fabs(o.evaluated - expected->evaluated) < 3e-5 * (1 + fabs(expected->evaluated))))
        fail_msg("seed %llu, %s %s: losses %.9g %.9g, expected %.9g %.9g: %s", (unsigned long long)t->seed, s->isa,
                 s->kernels, o.loss, o.evaluated, expected->loss, expected->evaluated, t->net.text);
    for (size_t i = 0; i < t->n * (size_t)t->net.classes; i++)
        if (!(fabsf(o.predictions[i] - expected->predictions[i]) < 3e-4f))
            fail_msg("seed %llu, %s %s: score %zu is %g, expected %g: %s", (unsigned long long)t->seed, s->isa, s->kernels,
                     i, (double)o.predictions[i], (double)expected->predictions[i], t->net.text);
    where = differ(truth->tiny.model, expected->gradients, o.gradients);
    compared++;
    if (where && truth->margin < KINK)
        on_kinks++;
    else if (where)
        fail_msg("seed %llu, %s %s, %zu of %zu, margin %.1e: %s: %s", (unsigned long long)t->seed, s->isa, s->kernels, t->n,
                 t->batch, truth->margin, where, t->net.text);
    outcome_free(&o);
}

/* All of them against the best instruction set's. */
static void compare_settings(const struct trial *t, const struct outcome *best, const struct truth *truth)
{
    for (const struct native *const *native = native_all() + 1; *native; native++)
        compare(t, &(struct setting){.isa = (*native)->name}, best, truth);
    compare(t, &(struct setting){.kernels = "onednn"}, best, truth);
    compare(t, &(struct setting){.kernels = "direct"}, best, truth);
    compare(t, &(struct setting){.kernels = "winograd_f4"}, best, truth);
    compare(t, &(struct setting){.kernels = "winograd_f2_5x5"}, best, truth);
}

/* Slopes of the loss along directions of which each moves all weights of a tensor by as much, up or down. */
static void check_slopes(const struct trial *t, const struct outcome *o, struct truth *truth)
{
    const struct model *m = truth->tiny.model;
    struct pcg32 rng = rng_key(t->seed, RNG_SYNTHETIC, 3, 0, 0);
    double step = 1e-7, all = 0;

    for (size_t i = 0; i < m->trainable_n; i++)
        all = fmax(all, fabs((double)o->gradients[i]));
    for (size_t k = 0; k < m->params_n; k++) {
        const struct param *p = &m->params[k];
        double *w = truth->weights + p->offset, slope = 0, top = 0, up, down, limit;
        double *kept, *direction;
        if (!p->trainable)
            continue;
        kept = malloc(p->size * sizeof *kept);
        direction = malloc(p->size * sizeof *direction);
        memcpy(kept, w, p->size * sizeof *kept);
        for (size_t i = 0; i < p->size; i++) {
            double g = (double)o->gradients[p->offset + i];
            direction[i] = pcg32_next(&rng) & 1 ? 1 : -1;
            slope += g * direction[i];
            top = fmax(top, fabs(g));
            w[i] = kept[i] + step * direction[i];
        }
        up = (reference_loss(&truth->r, truth->weights, true) - truth->loss) / step;
        for (size_t i = 0; i < p->size; i++)
            w[i] = kept[i] - step * direction[i];
        down = (truth->loss - reference_loss(&truth->r, truth->weights, true)) / step;
        memcpy(w, kept, p->size * sizeof *kept);
        limit = (TOLERANCE * top + FLOOR * all) * sqrt((double)p->size) + 1e-6;
        compared++;
        if (fabs(up - down) > limit || (truth->margin < KINK && !(fabs(slope - (up + down) / 2) <= limit)))
            on_kinks++;
        else if (!(fabs(slope - (up + down) / 2) <= limit))
            fail_msg("seed %llu, %zu of %zu, margin %.1e: slope along %s is %.9g, expected %.9g +- %.1g: %s",
                     (unsigned long long)t->seed, t->n, t->batch, truth->margin, p->name, slope, (up + down) / 2, limit,
                     t->net.text);
        free(kept);
        free(direction);
    }
}

static void check(uint64_t seed, bool large)
{
    struct trial t;
    struct truth truth;
    struct outcome best;
    double evaluated;

    trial_new(&t, seed, large);
    truth_new(&truth, &t);
    best = run(&t, &(struct setting){0});
    evaluated = reference_loss(&truth.r, truth.weights, false);
    reference_loss(&truth.r, truth.weights, true);
    if (!(fabs(best.loss - truth.loss) < 3e-5 * (1 + fabs(truth.loss))) ||
        !(fabs(best.evaluated - evaluated) < 3e-5 * (1 + fabs(evaluated))))
        fail_msg("seed %llu, %zu of %zu: losses %.9g %.9g, expected %.9g %.9g: %s", (unsigned long long)seed, t.n, t.batch,
                 best.loss, best.evaluated, truth.loss, evaluated, t.net.text);
    if (!large)
        check_slopes(&t, &best, &truth);
    compare_settings(&t, &best, &truth);
    outcome_free(&best);
    truth_free(&truth);
}

static void few_lay_on_a_kink(void)
{
    print_message("%zu compared, %zu of them not for a kink\n", compared, on_kinks);
    assert_true(compared > 0 && on_kinks * 20 < compared + 20);
    compared = on_kinks = 0;
}

static void gradients_of_random_networks_match_central_differences(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < count(60); i++)
        check(first_seed() + i, false);
    few_lay_on_a_kink();
}

static void kernels_agree_on_larger_random_networks(void **state)
{
    (void)state;
    for (uint64_t i = 0; i < count(25); i++)
        check(first_seed() + i, true);
    few_lay_on_a_kink();
}

/* A few steps with everything on: augmentation, dropout, one of the optimizers. */
static double *train(const struct trial *t, size_t threads, double *ret_loss)
{
    struct pcg32 rng = rng_key(t->seed, RNG_SYNTHETIC, 4, 0, 0);
    struct augment augment = {.crop_padding = 1, .horizontal_flip = true};
    struct training training;
    struct tiny tiny;
    struct replica r;
    struct error err = {0};
    double *sum;

    trial_open(t, threads, &tiny);
    sum = calloc(tiny.model->weights_n, sizeof *sum);
    r = (struct replica){.start = tiny.weights,
                         .samples = t->samples,
                         .samples_n = 2 * t->batch + t->n < SAMPLES ? 2 * t->batch + t->n : SAMPLES,
                         .epochs = 1,
                         .batch = t->batch,
                         .lr = 0.02f,
                         .optimizer = {.type = rng_below(&rng, 3) ? OPTIMIZER_SGD : OPTIMIZER_ADAM, .beta1 = 0.9f,
                                       .beta2 = 0.999f, .eps = 1e-8f, .momentum = rng_below(&rng, 2) ? 0.9f : 0,
                                       .weight_decay = rng_below(&rng, 2) ? 1e-3f : 0},
                         .proximal_mu = rng_below(&rng, 3) ? 0 : 0.1f,
                         .seed = t->seed,
                         .weight = 1};
    training = (struct training){&r, 1, .augment = &augment, .reduction = {.type = REDUCE_WEIGHTED_SUM, .sum = sum}};
    if (BACKEND_CPU.train(tiny.plan, &training, 1, &err))
        fail_msg("seed %llu: %s", (unsigned long long)t->seed, err.text);
    *ret_loss = r.loss_sum;
    tiny_done(&tiny);
    return sum;
}

static void random_networks_train_to_equal_bits_on_any_number_of_threads(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + count(40); seed++)
        for (int large = 0; large < 2; large++) {
            struct trial t;
            double loss, shared_loss, *alone, *shared;
            size_t threads = 2 + seed % 4, n;
            struct tiny tiny;

            trial_new(&t, seed, large);
            trial_open(&t, 1, &tiny);
            n = tiny.model->weights_n;
            tiny_done(&tiny);
            alone = train(&t, 1, &loss);
            shared = train(&t, threads, &shared_loss);
            if (memcmp(alone, shared, n * sizeof *alone) || memcmp(&loss, &shared_loss, sizeof loss))
                fail_msg("seed %llu, batch %zu: %zu threads come to other bits: %s", (unsigned long long)seed, t.batch,
                         threads, t.net.text);
            free(alone);
            free(shared);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_of_random_networks_match_central_differences),
        cmocka_unit_test(kernels_agree_on_larger_random_networks),
        cmocka_unit_test(random_networks_train_to_equal_bits_on_any_number_of_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
