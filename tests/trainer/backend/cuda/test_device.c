/* test_device.c - a real GPU against the fake one, which computes with the same source on the host: in fp32 every bit
 * is the same; with rounded operands only the order of sums within an mma differs; libraries differ by rounding.
 * Skipped where there is no GPU. SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/backend/cuda/fake.h"
#include "trainer/backend/cuda/cuda_private.h"
#include "trainer/backend/cuda/selftest.h"
#include "trainer/backend/shape_table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct driver *real;
static char why[1000];

#define NEED_GPU                                                                                                       \
    if (!real) {                                                                                                       \
        printf("# because: %s\n", why);                                                                                \
        fflush(stdout);                                                                                                \
        skip();                                                                                                        \
        return;                                                                                                        \
    }

static const struct {
    enum layer_type type;
    int in_c, in_h, in_w, out_c, kernel, stride, pad, groups;
    size_t rows;
} SHAPES[] = {
    {LAYER_CONV2D, 3, 32, 32, 32, 3, 1, 1, 1, 8},  {LAYER_CONV2D, 32, 16, 16, 64, 3, 1, 1, 1, 7},
    {LAYER_CONV2D, 32, 30, 30, 64, 3, 1, 0, 1, 2}, {LAYER_CONV2D, 5, 9, 7, 6, 3, 2, 1, 1, 7},
    {LAYER_CONV2D, 6, 8, 8, 16, 5, 1, 0, 1, 50},   {LAYER_CONV2D, 16, 8, 8, 32, 3, 1, 1, 4, 33},
    {LAYER_CONV2D, 64, 8, 8, 128, 1, 2, 0, 1, 16}, {LAYER_DENSE, 2048, 1, 1, 128, 1, 1, 0, 1, 64},
    {LAYER_DENSE, 128, 1, 1, 10, 1, 1, 0, 1, 64},  {LAYER_DENSE, 6272, 1, 1, 128, 1, 1, 0, 1, 10},
    {LAYER_DENSE, 84, 1, 1, 10, 1, 1, 0, 1, 13},
};
#define SHAPES_N (sizeof SHAPES / sizeof *SHAPES)

static struct layer layer_of(size_t k)
{
    int out_h = (SHAPES[k].in_h + 2 * SHAPES[k].pad - SHAPES[k].kernel) / SHAPES[k].stride + 1;
    int out_w = (SHAPES[k].in_w + 2 * SHAPES[k].pad - SHAPES[k].kernel) / SHAPES[k].stride + 1;

    return (struct layer){.type = SHAPES[k].type,
                          .in = {SHAPES[k].in_c, SHAPES[k].in_h, SHAPES[k].in_w, false},
                          .out = {SHAPES[k].out_c, out_h, out_w, false},
                          .kernel_h = SHAPES[k].kernel,
                          .kernel_w = SHAPES[k].kernel,
                          .stride = SHAPES[k].stride,
                          .pad_top = SHAPES[k].pad,
                          .pad_left = SHAPES[k].pad,
                          .groups = SHAPES[k].groups,
                          .bias = true};
}

struct product {
    struct gemm_args args;
    size_t x_n, y_n, w_n, out_n, parts_n;
    float *x, *y, *w, *out, *parts;
    struct lane_step *steps;
};

/* Host arrays of random values; the second lane has fewer rows. */
static void make_product(struct product *p, size_t k, uint32_t mode, uint32_t precision, uint32_t lanes)
{
    struct layer l = layer_of(k);
    struct pcg32 rng = rng_key(k, RNG_SYNTHETIC, mode, 0, 0);
    struct gemm_args *a = &p->args;

    assert_int_equal(gemm_of(&l, mode, precision, SHAPES[k].rows, a), 0);
    a->lanes = lanes;
    a->count = (uint64_t)lanes * a->groups * a->m * a->n;
    p->x_n = (size_t)lanes * a->rows * a->in_h * a->in_w * a->in_c;
    p->y_n = (size_t)lanes * a->rows * a->out_h * a->out_w * a->out_c;
    p->w_n = ((size_t)a->out_c * a->kernel_h * a->kernel_w * a->in_cg + a->out_c + 63) / 64 * 64;
    a->weights_stride = a->out_stride = p->w_n;
    p->w_n *= lanes;
    p->out_n = mode == GEMM_FORWARD ? p->y_n : mode == GEMM_DATA ? p->x_n : p->w_n;
    p->parts_n = gemm_parts_bytes(a) / sizeof(float) * lanes + 1;
    p->x = malloc(p->x_n * sizeof(float));
    p->y = malloc(p->y_n * sizeof(float));
    p->w = malloc(p->w_n * sizeof(float));
    p->out = calloc(p->out_n, sizeof(float));
    p->parts = calloc(p->parts_n, sizeof(float));
    p->steps = calloc(lanes, sizeof *p->steps);
    for (size_t i = 0; i < p->x_n; i++)
        p->x[i] = rng_float(&rng) - 0.5f;
    for (size_t i = 0; i < p->y_n; i++)
        p->y[i] = rng_float(&rng) - 0.5f;
    for (size_t i = 0; i < p->w_n; i++)
        p->w[i] = rng_float(&rng) - 0.5f;
    for (uint32_t i = 0; i < lanes; i++)
        p->steps[i].rows = p->steps[i].whole = i == 1 ? (uint32_t)SHAPES[k].rows / 2 : (uint32_t)SHAPES[k].rows;
}

static void point(struct gemm_args *a, const struct product *p, const float *x, const float *y, const float *w,
                  float *out, float *parts, const struct lane_step *steps)
{
    size_t bias = (size_t)p->args.out_c * p->args.kernel_h * p->args.kernel_w * p->args.in_cg;

    *a = p->args;
    a->x = x;
    a->dy = y;
    a->w = w;
    a->out = out;
    a->parts = parts;
    a->steps = steps;
    a->relu = a->mode == GEMM_FORWARD;
    a->bias = a->mode == GEMM_FORWARD ? w + bias : NULL;
    a->bias_out = a->mode == GEMM_WEIGHTS ? out + bias : NULL;
    a->mask = a->mode == GEMM_DATA ? x : NULL;
}

static void free_product(struct product *p)
{
    free(p->x);
    free(p->y);
    free(p->w);
    free(p->out);
    free(p->parts);
    free(p->steps);
}

/* Rows that are computed: the others are nobody's. */
static double difference(const struct product *p, const float *expected, const float *got)
{
    size_t row = p->out_n / p->args.lanes / (p->args.mode == GEMM_WEIGHTS ? 1 : p->args.rows);
    double top = 0, worst = 0;

    for (size_t i = 0; i < p->out_n; i++) {
        size_t lane = i / (p->out_n / p->args.lanes);
        double off = fabs((double)expected[i] - (double)got[i]);
        if (p->args.mode != GEMM_WEIGHTS && i / row % p->args.rows >= p->steps[lane].rows)
            continue;
        top = fmax(top, fabs((double)expected[i]));
        worst = off <= worst ? worst : off;
    }
    return worst / top;
}

/* By the own kernel, or a library; the result on the host. False: the library has none. */
static bool on_device(struct device *device, const struct product *p, bool by_library, float *ret)
{
    struct error err = {0};
    float *x, *y, *w, *out, *parts;
    struct lane_step *steps;
    struct library *library = NULL;
    void *workspace = NULL;
    size_t bytes = 0;
    struct gemm_args a;
    int rc = 0;

    if (real->alloc(device, p->x_n * 4, (void **)&x, &err) || real->alloc(device, p->y_n * 4, (void **)&y, &err) ||
        real->alloc(device, p->w_n * 4, (void **)&w, &err) || real->alloc(device, p->out_n * 4, (void **)&out, &err) ||
        real->alloc(device, p->parts_n * 4, (void **)&parts, &err) ||
        real->alloc(device, p->args.lanes * sizeof *steps, (void **)&steps, &err) ||
        real->upload(device, x, p->x, p->x_n * 4, &err) || real->upload(device, y, p->y, p->y_n * 4, &err) ||
        real->upload(device, w, p->w, p->w_n * 4, &err) || real->clear(device, out, p->out_n * 4, &err) ||
        real->upload(device, steps, p->steps, p->args.lanes * sizeof *steps, &err))
        fail_msg("%s", err.text);
    point(&a, p, x, y, w, out, parts, steps);
    if (by_library) {
        rc = real->library_new(device, &a, &library, &bytes, &err);
        if (!rc &&
            (real->alloc(device, bytes, &workspace, &err) || real->library_run(device, library, &a, workspace, &err)))
            fail_msg("%s", err.text);
        if (rc)
            print_message("# shape of %u x %u x %u to %u, mode %u: %s\n", a.in_h, a.in_w, a.in_c, a.out_c, a.mode,
                          err.text);
    } else if (real->gemm(device, &a, &err) ||
               (a.splits > 1 && real->launch(device, KERNEL_gemm_finish, &a, sizeof a, &err))) {
        fail_msg("%s", err.text);
    }
    if (real->download(device, ret, out, p->out_n * 4, &err))
        fail_msg("%s", err.text);
    if (library)
        real->library_free(device, library);
    real->release(device, x);
    real->release(device, y);
    real->release(device, w);
    real->release(device, out);
    real->release(device, parts);
    real->release(device, steps);
    real->release(device, workspace);
    return !rc;
}

static size_t bad, libraries;

static void compare(const struct product *p, const float *expected, const float *got, const char *by, size_t k,
                    double limit)
{
    double off = difference(p, expected, got);

    if (off <= limit)
        return;
    print_message("# shape %zu, mode %u, precision %u, %u lanes, tile %u, %s: off by %.3g\n", k, p->args.mode,
                  p->args.precision, p->args.lanes, p->args.tile, by, off);
    bad++;
}

/* One product in all precisions, by every tile and by the library. */
static void check_product(struct device *device, size_t k, uint32_t mode, uint32_t lanes)
{
    static const double OWN[] = {0, 1e-4, 1e-4}, LIBRARY[] = {5e-5, 4e-3};
    float *exact = NULL;

    for (uint32_t precision = GEMM_FP32; precision <= GEMM_BF16; precision++) {
        struct product p;
        struct gemm_args a;
        float *got;
        make_product(&p, k, mode, precision, lanes);
        got = malloc(p.out_n * sizeof *got);
        point(&a, &p, p.x, p.y, p.w, p.out, p.parts, p.steps);
        fake_product(&a);
        for (uint64_t i = 0; a.splits > 1 && i < a.count; i++)
            gemm_finish_body(&a, i);
        for (p.args.tile = 0; p.args.tile <= TILE_SIZES; p.args.tile++)
            if (on_device(device, &p, false, got))
                compare(&p, p.out, got, "own kernel", k, OWN[precision]);
        if (!exact) {
            exact = malloc(p.out_n * sizeof *exact);
            memcpy(exact, p.out, p.out_n * sizeof *exact);
        }
        p.args.tile = 0;
        if (precision < GEMM_BF16 && on_device(device, &p, true, got)) {
            compare(&p, exact, got, "library", k, LIBRARY[precision]);
            libraries++;
        }
        free(got);
        free_product(&p);
    }
    free(exact);
}

static void products_are_the_hosts(void **state)
{
    struct device *device;
    struct error err;

    (void)state;
    NEED_GPU
    bad = 0;
    assert_int_equal(real->open(-1, NULL, &device, &err), 0);
    for (size_t k = 0; k < SHAPES_N; k++)
        for (uint32_t mode = 0; mode < 3; mode++)
            for (uint32_t lanes = 1; lanes <= 3; lanes += 2)
                check_product(device, k, mode, lanes);
    real->close(device);
    print_message("# %zu products by libraries\n", libraries);
    assert_int_equal(bad, 0);
}

static void gradients_of_every_layer_have_the_hosts_bits(void **state)
{
    (void)state;
    NEED_GPU
    bad = 0;
    for (size_t k = 0; k < NETS_N; k++) {
        float *gradients[2];
        double losses[2];
        size_t n = 0;
        for (int which = 0; which < 2; which++) {
            struct bed b;
            struct error err = {0};
            uint32_t samples[7] = {3, 1, 4, 15, 9, 26, 5};
            cuda_use_driver(which ? real : &FAKE_DRIVER);
            if (bed_init(&b, NETS[k].layers, NETS[k].channels, NETS[k].height, NETS[k].width, 4, 40, 16,
                         PRECISION_FP32_STRICT, &err))
                fail_msg("%s", err.text);
            n = b.model->trainable_n;
            gradients[which] = malloc(n * sizeof(float));
            if (BACKEND_CUDA.gradients(b.gpu_plan, b.weights, &b.data.train, samples, 7, gradients[which],
                                       &losses[which], &err))
                fail_msg("%s", err.text);
            bed_done(&b);
        }
        if (memcmp(gradients[0], gradients[1], n * sizeof(float)) || losses[0] != losses[1]) {
            print_message("# %s: the bits differ, by %.3g\n", NETS[k].name,
                          selftest_difference(gradients[0], gradients[1], n));
            bad++;
        }
        free(gradients[0]);
        free(gradients[1]);
    }
    cuda_use_driver(NULL);
    assert_int_equal(bad, 0);
}

/* A round of plain SGD clients that share the start, by own kernels: the factors, the sum over them, the norms. */
static void rounds_that_share_the_start_have_the_hosts_bits(void **state)
{
    enum { CLIENTS = 9, IMAGES = 40 };
    uint32_t samples[IMAGES];
    struct replica r[2][CLIENTS];
    double *sums[2];
    size_t n = 0;

    (void)state;
    NEED_GPU
    setenv("FLEXP_CUDA_SHARED", "1", 1);
    setenv("FLEXP_CUDA_LIBRARIES", "none", 1);
    for (uint32_t i = 0; i < IMAGES; i++)
        samples[i] = i;
    for (int which = 0; which < 2; which++) {
        struct bed b;
        struct error err = {0};
        struct reduction reduction = {.type = REDUCE_WEIGHTED_SUM};
        cuda_use_driver(which ? real : &FAKE_DRIVER);
        if (bed_init(&b, "bench_cnn", 3, 16, 12, 4, IMAGES, 5, PRECISION_FP32, &err))
            fail_msg("%s", err.text);
        n = b.model->weights_n;
        reduction.sum = sums[which] = calloc(n, sizeof(double));
        for (size_t i = 0; i < CLIENTS; i++)
            r[which][i] = (struct replica){.start = b.weights,
                                           .samples = samples + i,
                                           .samples_n = 3 + 3 * i,
                                           .epochs = 1,
                                           .batch = 5,
                                           .lr = 0.05f,
                                           .optimizer = {.weight_decay = i % 2 ? 1e-2f : 0},
                                           .seed = 1,
                                           .client = i,
                                           .weight = 1.0 / CLIENTS};
        if (backend_train(&BACKEND_CUDA, b.gpu_plan, r[which], CLIENTS, NULL, &reduction, NULL, &err))
            fail_msg("%s", err.text);
        assert_true(b.gpu_plan->training->shared);
        bed_done(&b);
    }
    cuda_use_driver(NULL);
    unsetenv("FLEXP_CUDA_SHARED");
    unsetenv("FLEXP_CUDA_LIBRARIES");
    assert_memory_equal(sums[0], sums[1], n * sizeof(double));
    for (int i = 0; i < CLIENTS; i++)
        assert_true(r[0][i].update_norm == r[1][i].update_norm && r[0][i].loss_sum == r[1][i].loss_sum);
    free(sums[0]);
    free(sums[1]);
}

/* Copies from and to pinned memory, and a loop between them: 1 + 4 x times in one launch. */
static void check_loop(const struct driver *d)
{
    static const uint32_t TIMES[] = {1, 5, 0, 300, 2};
    struct {
        float from, to;
        uint32_t left;
    } * pinned, *memory;
    struct accumulate_args once = {.count = 1}, again = {.count = 1};
    struct captured *captured = NULL;
    struct device *device;
    struct error err = {0};
    void *host, *there;
    bool ok;

    if (d->open(-1, NULL, &device, &err) || d->pin(device, 2 * sizeof *pinned, &host, &err) ||
        d->alloc(device, sizeof *memory, &there, &err))
        fail_msg("%s", err.text);
    pinned = host;
    memory = there;
    pinned[0].from = 2;
    once.from = again.from = &memory->from;
    once.to = &memory->from; /* from += from */
    again.to = &memory->to;
    ok = !d->launch(device, KERNEL_accumulate, &again, sizeof again, &err) && !d->wait(device, &err) && /* loads it */
         !d->capture_begin(device, &err) && !d->copy_in(device, memory, pinned, sizeof *pinned, &err) &&
         !d->launch(device, KERNEL_accumulate, &once, sizeof once, &err) && !d->loop_begin(device, &err) &&
         !d->launch(device, KERNEL_accumulate, &again, sizeof again, &err) &&
         !d->loop_end(device, &memory->left, &err) && !d->launch(device, KERNEL_accumulate, &once, sizeof once, &err) &&
         !d->copy_out(device, pinned + 1, memory, sizeof *memory, &err) && !d->capture_end(device, &captured, &err);
    for (size_t i = 0; ok && i < sizeof TIMES / sizeof *TIMES; i++) {
        uint32_t times = TIMES[i] ? TIMES[i] : 1;
        pinned[0].to = 1;
        pinned[0].left = TIMES[i];
        ok = !d->replay(device, captured, &err) && !d->wait(device, &err);
        assert_true(ok && pinned[1].to == 1 + 4 * (float)times && pinned[1].from == 8 && pinned[1].left == 0);
    }
    if (!ok)
        fail_msg("%s", err.text);
    d->captured_free(device, captured);
    d->release(device, there);
    d->unpin(device, host);
    d->close(device);
}

static void a_loop_runs_as_often_as_it_is_told(void **state)
{
    (void)state;
    check_loop(&FAKE_DRIVER);
    assert_int_equal(fake.blocks, 0);
    NEED_GPU
    check_loop(real);
}

/* What cannot be captured is thrown away, and the device goes on. */
static void a_capture_is_thrown_away_inside_a_loop(void **state)
{
    struct device *device;
    struct error err = {0};
    struct spread_args wrong = {.count = 1};

    (void)state;
    NEED_GPU
    assert_int_equal(real->open(-1, NULL, &device, &err), 0);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(real->capture_begin(device, &err), 0);
        assert_int_equal(real->loop_begin(device, &err), 0);
        assert_int_equal(real->launch(device, KERNEL_spread, &wrong, 1, &err), -EIO);
        real->capture_end(device, NULL, NULL);
        assert_int_equal(real->wait(device, &err), 0);
    }
    real->close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_are_the_hosts),
        cmocka_unit_test(gradients_of_every_layer_have_the_hosts_bits),
        cmocka_unit_test(rounds_that_share_the_start_have_the_hosts_bits),
        cmocka_unit_test(a_loop_runs_as_often_as_it_is_told),
        cmocka_unit_test(a_capture_is_thrown_away_inside_a_loop),
    };
    struct error err;
    struct device *device;

    setenv("FLEXP_CUDA", "build/flexp-cuda.so", 0);
    if (cuda_driver(&real, &err) || real->open(-1, NULL, &device, &err)) {
        snprintf(why, sizeof why, "%s", err.text);
        real = NULL;
    } else {
        real->close(device);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
