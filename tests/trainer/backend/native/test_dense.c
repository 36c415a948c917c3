/* Dense layers of every instruction set against their definition in double precision.
 * Errors are relative to the root mean square of the true values. A product and a sum round by 2^-25 in the mean; sums
 * are at most 64 values long, and sums of these, so errors grow to a few 1e-7, and outliers to some times that.
 * SPDX-License-Identifier: Apache-2.0 */
#pragma GCC diagnostic ignored "-Wunused-function" /* of what conv_check.h has, only the buffers are wanted */
#include "tests/trainer/backend/native/conv_check.h"
#define NATIVE_ISA portable
#include "trainer/backend/cpu/native/kernels.h"

#define RMS_MOST 6e-7
#define MAX_MOST 1e-5

static const struct shape {
    size_t in, out, rows;
} SHAPES[] = {
    {1, 1, 1},      {3, 5, 2},      {17, 33, 7},    {64, 16, 10},    {65, 17, 33},  {84, 10, 50},   {84, 10, 64},
    {120, 84, 7},   {128, 10, 32},  {130, 257, 10}, {200, 256, 33},  {300, 48, 49}, {400, 120, 64}, {63, 512, 10},
    {784, 200, 10}, {1024, 128, 1}, {1024, 128, 2}, {1024, 128, 32}, {192, 64, 97},
};

struct dense_case {
    struct dense d;
    size_t rows, x_n, y_n, w_n, scratch_bytes;
    float *x, *y, *w, *bias, *dy, *dx, *dw, *db;
    void *scratch;
};

static void case_new_dense(struct dense_case *k, const struct native *set, const struct shape *s, bool bias, bool relu)
{
    struct pcg32 rng = rng_key(11, RNG_SYNTHETIC, 0, 0, 0);
    struct dense d = {.in = s->in, .out = s->out, .stride = set->dense_stride(s->out), .bias = bias, .relu = relu};

    assert_true(d.stride >= d.out && d.stride % 16 == 0);
    *k = (struct dense_case){
        .d = d, .rows = s->rows, .x_n = s->rows * d.in, .y_n = s->rows * d.out, .w_n = d.in * d.stride};
    k->scratch_bytes = set->dense_scratch_bytes(&d, s->rows);
    k->x = check_new(k->x_n * 4 + 64);
    k->y = check_new(k->y_n * 4);
    k->w = check_new(k->w_n * 4 + 64);
    k->bias = check_new(d.out * 4 + 64);
    k->dy = check_new(k->y_n * 4);
    k->dx = check_new(k->x_n * 4);
    k->dw = check_new(k->w_n * 4);
    k->db = check_new(d.out * 4);
    k->scratch = check_new(k->scratch_bytes);
    memset(k->scratch, 0x7f, k->scratch_bytes); /* large numbers: what is read before it is written shows */
    memset(k->y, 0x7f, k->y_n * 4);
    memset(k->dx, 0x7f, k->x_n * 4);
    memset(k->dw, 0x7f, k->w_n * 4);
    memset(k->db, 0x7f, d.out * 4);
    for (size_t i = 0; i < k->x_n; i++)
        k->x[i] = check_random(&rng);
    for (size_t i = 0; i < k->y_n; i++)
        k->dy[i] = check_random(&rng) * .01f;
    for (size_t i = 0; i < d.in; i++)
        for (size_t o = 0; o < d.out; o++)
            k->w[i * d.stride + o] = check_random(&rng) / sqrtf((float)d.in);
    for (size_t o = 0; o < d.out; o++)
        k->bias[o] = check_random(&rng);
}

static void case_free_dense(struct dense_case *k)
{
    check_free(k->x, k->x_n * 4 + 64, "x");
    check_free(k->y, k->y_n * 4, "y");
    check_free(k->w, k->w_n * 4 + 64, "w");
    check_free(k->bias, k->d.out * 4 + 64, "bias");
    check_free(k->dy, k->y_n * 4, "dy");
    check_free(k->dx, k->x_n * 4, "dx");
    check_free(k->dw, k->w_n * 4, "dw");
    check_free(k->db, k->d.out * 4, "db");
    check_free(k->scratch, k->scratch_bytes, "scratch");
}

/* Forward in ranges of `piece` rows, of 32 outputs where these are not all, backward in ranges of `panel` inputs. */
static void case_run_dense(struct dense_case *k, const struct native *set, size_t piece, size_t panel)
{
    const struct dense *d = &k->d;

    for (size_t lo = 0; lo < k->rows; lo += piece)
        for (size_t from = 0, step = piece < k->rows ? 32 : d->out; from < d->out; from += step)
            set->dense_forward(d, k->w, d->bias ? k->bias : NULL, k->x, k->y, NULL, lo,
                               lo + piece < k->rows ? lo + piece : k->rows, from,
                               from + step < d->out ? from + step : d->out);
    set->dense_mask(d, k->y, k->dy, k->db, NULL, k->rows);
    for (size_t i = 0; i < d->in; i += panel)
        set->dense_backward(d, k->w, k->x, k->dy, k->dx, k->dw + i * d->stride, k->rows, i,
                            i + panel < d->in ? i + panel : d->in, k->scratch);
}

static void expect_small(struct conv_error e, const char *set, const struct shape *s, const char *what)
{
    if (!(e.rms < RMS_MOST) || !(e.max < MAX_MOST))
        fail_msg("%s %zu x %zu, %zu rows, %s: rms %g max %g", set, s->in, s->out, s->rows, what, e.rms, e.max);
}

static void check_against_definition(const struct native *set, const struct shape *s, bool bias, bool relu)
{
    struct dense_case k, cut;
    const struct dense *d = &k.d;
    double *y, *dx, *dw, *db;

    case_new_dense(&k, set, s, bias, relu);
    case_new_dense(&cut, set, s, bias, relu);
    y = calloc(k.y_n, sizeof *y);
    dx = calloc(k.x_n, sizeof *dx);
    dw = calloc(k.w_n, sizeof *dw);
    db = calloc(d->out, sizeof *db);
    assert_true(y && dx && dw && db);
    for (size_t r = 0; r < k.rows; r++)
        for (size_t o = 0; o < d->out; o++) {
            double sum = bias ? (double)k.bias[o] : 0, dy = (double)k.dy[r * d->out + o];
            for (size_t i = 0; i < d->in; i++)
                sum += (double)k.x[r * d->in + i] * (double)k.w[i * d->stride + o];
            if (relu && fabs(sum) < 1e-4) /* rounding must not decide what ReLU lets through */
                dy = k.dy[r * d->out + o] = cut.dy[r * d->out + o] = 0;
            if (relu && sum < 0)
                sum = dy = 0;
            y[r * d->out + o] = sum;
            db[o] += dy;
            for (size_t i = 0; i < d->in; i++) {
                dx[r * d->in + i] += dy * (double)k.w[i * d->stride + o];
                dw[i * d->stride + o] += dy * (double)k.x[r * d->in + i];
            }
        }
    case_run_dense(&k, set, k.rows, d->in);
    case_run_dense(&cut, set, 3, 64);
    assert_memory_equal(k.y, cut.y, k.y_n * 4);
    assert_memory_equal(k.dy, cut.dy, k.y_n * 4);
    assert_memory_equal(k.dx, cut.dx, k.x_n * 4);
    assert_memory_equal(k.dw, cut.dw, k.w_n * 4);
    for (size_t i = 0; i < d->in; i++)
        for (size_t o = d->out; o < d->stride; o++)
            assert_true(k.dw[i * d->stride + o] == 0);
    expect_small(check_error(y, k.y, k.y_n), set->name, s, "y");
    expect_small(check_error(dx, k.dx, k.x_n), set->name, s, "dx");
    expect_small(check_error(dw, k.dw, k.w_n), set->name, s, "dw");
    expect_small(check_error(db, k.db, d->out), set->name, s, "db");
    free(y);
    free(dx);
    free(dw);
    free(db);
    case_free_dense(&k);
    case_free_dense(&cut);
}

static void agrees_with_its_definition(void **state)
{
    (void)state;
    for (size_t set = 0; native_all()[set]; set++)
        for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++) {
            check_against_definition(native_all()[set], &SHAPES[i], true, true);
            check_against_definition(native_all()[set], &SHAPES[i], i & 1, !(i & 1));
        }
}

/* A row's values are the same bits in a batch of any size, whichever tile they fall into. */
static void rows_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    for (size_t set = 0; native_all()[set]; set++) {
        struct dense_case most, less;
        case_new_dense(&most, native_all()[set], &(struct shape){200, 84, 61}, true, true);
        case_run_dense(&most, native_all()[set], 61, 200);
        for (size_t rows = 1; rows < 61; rows++) {
            case_new_dense(&less, native_all()[set], &(struct shape){200, 84, rows}, true, true);
            memcpy(less.x, most.x, less.x_n * 4);
            memcpy(less.w, most.w, less.w_n * 4);
            memcpy(less.bias, most.bias, less.d.out * 4);
            memcpy(less.dy, most.dy, less.y_n * 4); /* masked already: the mask changes nothing */
            case_run_dense(&less, native_all()[set], rows, 200);
            assert_memory_equal(less.y, most.y, less.y_n * 4);
            assert_memory_equal(less.dx, most.dx, less.x_n * 4);
            case_free_dense(&less);
        }
        case_free_dense(&most);
    }
}

static void without_dx_the_weights_gradients_are_the_same(void **state)
{
    (void)state;
    for (size_t set = 0; native_all()[set]; set++) {
        struct dense_case k;
        float *again;
        case_new_dense(&k, native_all()[set], &(struct shape){100, 20, 9}, true, false);
        case_run_dense(&k, native_all()[set], 9, 100);
        again = check_new(k.w_n * 4);
        native_all()[set]->dense_backward(&k.d, k.w, k.x, k.dy, NULL, again, k.rows, 0, 100, k.scratch);
        assert_memory_equal(again, k.dw, k.w_n * 4);
        check_free(again, k.w_n * 4, "dw");
        case_free_dense(&k);
    }
}

static void dropout_in_the_epilogue_is_that_of_a_pass_of_its_own(void **state)
{
    static const struct shape ROWS[] = {{90, 21, 11}, {3, 1, 5}, {64, 128, 32}, {130, 70, 33}, {200, 257, 10}};

    (void)state;
    for (size_t set = 0; native_all()[set]; set++)
        for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
            const struct native *native = native_all()[set];
            struct dense_case apart, fused;
            const struct dense *d = &apart.d;
            struct pcg32 rng = rng_key(5, RNG_DROPOUT, 0, 0, 0);
            size_t words = (ROWS[i].rows * ROWS[i].out + 63) / 64;
            uint64_t *kept = check_new((words + 1) * sizeof *kept);
            struct native_drop drop = {.kept = kept, .scale = 2.5f};

            case_new_dense(&apart, native, &ROWS[i], true, true);
            case_new_dense(&fused, native, &ROWS[i], true, true);
            drop.first = fused.y;
            for (size_t k = 0; k < words; k++)
                kept[k] = (uint64_t)pcg32_next(&rng) << 32 | pcg32_next(&rng);
            native->dense_forward(d, apart.w, apart.bias, apart.x, apart.y, NULL, 0, apart.rows, 0, d->out);
            native->dense_forward(d, fused.w, fused.bias, fused.x, fused.y, &drop, 0, 2, 0, d->out);
            native->dense_forward(d, fused.w, fused.bias, fused.x, fused.y, &drop, 2, fused.rows, 0, d->out);
            for (size_t k = 0; k < apart.y_n; k++)
                apart.dy[k] = kept[k / 64] >> k % 64 & 1 ? apart.dy[k] * drop.scale : 0;
            native->dense_mask(d, apart.y, apart.dy, apart.db, NULL, apart.rows);
            native->dense_mask(d, fused.y, fused.dy, fused.db, &drop, fused.rows);
            for (size_t k = 0; k < apart.y_n; k++)
                apart.y[k] = kept[k / 64] >> k % 64 & 1 ? apart.y[k] * drop.scale : 0;
            assert_memory_equal(fused.y, apart.y, apart.y_n * 4);
            assert_memory_equal(fused.dy, apart.dy, apart.y_n * 4);
            assert_memory_equal(fused.db, apart.db, d->out * 4);
            check_free(kept, (words + 1) * sizeof *kept, "kept");
            case_free_dense(&apart);
            case_free_dense(&fused);
        }
}

/* What is no number, or infinite, stays so in all that depends on it, and in nothing else; the padding of dw stays 0.
 */
static void values_that_are_not_finite_pass_through(void **state)
{
    static const float VALUES[] = {NAN, INFINITY, -INFINITY};

    (void)state;
    for (size_t set = 0; native_all()[set]; set++)
        for (size_t v = 0; v < 3; v++)
            for (int what = 0; what < 3; what++) {
                struct dense_case k;
                const struct dense *d = &k.d;
                const size_t row = 6, i0 = 77, o0 = 19;
                case_new_dense(&k, native_all()[set], &(struct shape){90, 21, 11}, true, v == 0);
                for (size_t i = 0; i < k.y_n; i++)
                    k.dy[i] += 1; /* no zeros, which would make NaN of infinities */
                if (what == 0)
                    k.x[row * d->in + i0] = VALUES[v];
                else if (what == 1)
                    k.w[i0 * d->stride + o0] = VALUES[v];
                native_all()[set]->dense_forward(d, k.w, k.bias, k.x, k.y, NULL, 0, k.rows, 0, d->out);
                for (size_t r = 0; r < k.rows; r++)
                    for (size_t o = 0; o < d->out; o++)
                        assert_int_equal(!isfinite(k.y[r * d->out + o]),
                                         (what == 0 && r == row) || (what == 1 && o == o0));
                if (what == 2)
                    k.dy[row * d->out + o0] = VALUES[v];
                if (v == 0 && what == 2)
                    k.y[row * d->out + o0] = 1;
                native_all()[set]->dense_mask(d, k.y, k.dy, k.db, NULL, k.rows);
                if (v == 0 && what == 2)
                    assert_true(isnan(k.db[o0]));
                native_all()[set]->dense_backward(d, k.w, k.x, k.dy, k.dx, k.dw, k.rows, 0, d->in, k.scratch);
                for (size_t r = 0; r < k.rows && v > 0; r++)
                    for (size_t i = 0; i < d->in; i++)
                        assert_int_equal(!isfinite(k.dx[r * d->in + i]),
                                         (what == 2 && r == row) || (what == 1 && i == i0));
                for (size_t i = 0; i < d->in; i++)
                    for (size_t o = 0; o < d->stride; o++)
                        if (o >= d->out)
                            assert_true(k.dw[i * d->stride + o] == 0);
                        else if (v > 0)
                            assert_int_equal(!isfinite(k.dw[i * d->stride + o]),
                                             (what == 0 && i == i0) || (what == 2 && o == o0));
                case_free_dense(&k);
            }
}

/* A NaN that ReLU has let through takes no gradient away. */
static void the_mask_keeps_the_gradient_where_y_is_no_number(void **state)
{
    (void)state;
    for (size_t set = 0; native_all()[set]; set++) {
        struct dense d = {.in = 1, .out = 5, .stride = 16, .bias = true, .relu = true};
        float y[32] = {0, 1, NAN, 1e-30f, -0.0f, 2, 0, 0, 0, 0}, dy[32] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, db[5];
        static const float EXPECTED[] = {0, 1, 1, 1, 0, 1, 0, 0, 0, 0, 0}, SUMS[] = {1, 1, 1, 1, 0};
        native_all()[set]->dense_mask(&d, y, dy, db, NULL, 2);
        assert_memory_equal(dy, EXPECTED, sizeof EXPECTED);
        assert_memory_equal(db, SUMS, sizeof SUMS);
        native_all()[set]->dense_mask(&d, y, dy, NULL, NULL, 2);
        assert_memory_equal(dy, EXPECTED, sizeof EXPECTED);
    }
}

/* The step in place of gradients: as optimizer_step's formula in double, whatever the panels; padding stays 0. */

typedef void sgd_fn(const struct dense *d, const struct native_sgd *sgd, const float *from, float *w, float *state,
                    const float *x, const float *dy, float *dx, size_t rows, size_t i0, size_t i1, void *scratch);
#ifdef __x86_64__
sgd_fn dense_backward_sgd_avx512, dense_backward_sgd_avx2;
#endif

static sgd_fn *sgd_of(const struct native *set)
{
#ifdef __x86_64__
    if (!strcmp(set->name, "avx512"))
        return dense_backward_sgd_avx512;
    if (!strcmp(set->name, "avx2"))
        return dense_backward_sgd_avx2;
#endif
    return dense_backward_sgd_portable;
}

static void check_step(const struct native *set, const struct shape *s, const struct native_sgd *sgd)
{
    struct dense_case k;
    const struct dense *d = &k.d;
    double *w, *state;
    float *state_got, *from;

    case_new_dense(&k, set, s, true, false);
    case_run_dense(&k, set, k.rows, d->in);
    w = calloc(k.w_n, sizeof *w);
    state = calloc(k.w_n, sizeof *state);
    assert_true(w && state);
    state_got = check_new(k.w_n * 4);
    from = check_new(k.w_n * 4 + 64);
    for (size_t i = 0; i < d->in; i++)
        for (size_t o = 0; o < d->out; o++) {
            size_t at = i * d->stride + o;
            double g = (double)k.dw[at] + (double)sgd->decay * (double)k.w[at];
            if (sgd->momentum > 0) {
                state_got[at] = (float)(at % 13) * .01f;
                state[at] = (double)sgd->momentum * (double)state_got[at] + g;
                g = sgd->nesterov ? g + (double)sgd->momentum * state[at] : state[at];
            }
            w[at] = (double)k.w[at] - (double)sgd->lr * g;
        }
    memcpy(from, k.w, k.w_n * 4);
    for (size_t i = 0; i < d->in; i += 128) /* the first panel in place, the others from elsewhere */
        sgd_of(set)(d, sgd, i ? from : k.w, k.w, sgd->momentum > 0 ? state_got : NULL, k.x, k.dy, k.dx, k.rows, i,
                    i + 128 < d->in ? i + 128 : d->in, k.scratch);
    expect_small(check_error(w, k.w, k.w_n), set->name, s, "weights after a step");
    expect_small(check_error(state, state_got, k.w_n), set->name, s, "state after a step");
    for (size_t i = 0; i < d->in; i++)
        for (size_t o = d->out; o < d->stride; o++)
            assert_true(k.w[i * d->stride + o] == 0 && state_got[i * d->stride + o] == 0);
    check_free(state_got, k.w_n * 4, "state");
    check_free(from, k.w_n * 4 + 64, "from");
    free(w);
    free(state);
    case_free_dense(&k);
}

static void steps_as_the_optimizer_does(void **state)
{
    static const struct native_sgd STEPS[] = {
        {.lr = .5f},
        {.lr = .5f, .decay = .1f},
        {.lr = .5f, .momentum = .9f},
        {.lr = .5f, .momentum = .9f, .decay = .1f},
        {.lr = .5f, .momentum = .9f, .decay = .1f, .nesterov = true},
    };

    (void)state;
    for (size_t set = 0; native_all()[set]; set++)
        for (size_t i = 0; i < sizeof SHAPES / sizeof SHAPES[0]; i++)
            for (size_t k = 0; k < sizeof STEPS / sizeof STEPS[0]; k++)
                check_step(native_all()[set], &SHAPES[i], &STEPS[k]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_its_definition),
        cmocka_unit_test(rows_do_not_depend_on_the_batch),
        cmocka_unit_test(without_dx_the_weights_gradients_are_the_same),
        cmocka_unit_test(dropout_in_the_epilogue_is_that_of_a_pass_of_its_own),
        cmocka_unit_test(values_that_are_not_finite_pass_through),
        cmocka_unit_test(steps_as_the_optimizer_does),
        cmocka_unit_test(the_mask_keeps_the_gradient_where_y_is_no_number),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
