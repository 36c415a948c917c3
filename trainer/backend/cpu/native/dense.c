/* dense.c - dense layers. All three passes are one micro-kernel, a tile of C += A B that is held in registers: A's
 * values are broadcast, B's are vectors.
 *
 *   forward   y[row][o] += x[row][i] W[i][o]        A = x, B = W
 *   dx        dx'[i][row] = W[i][o] dy'[o][row]     A = W, B = dy transposed; transposed back behind the tile
 *   dw        dw[i][o] = x[row][i] dy[row][o]       A = x, B = dy
 *
 * Inputs go in panels of PANEL, so that a panel of W stays in the first-level cache for all rows. Forward adds up each
 * panel by itself and then the panels in order: as exact as sums of sums, and the same for every tile.
 * dense_backward copies dy in both orders first, which a call pays once: ranges of 256 inputs or more make that small,
 * and with 128 outputs leave gradients, weights and momentum (384 KiB) in the second-level cache for the optimizer's
 * step. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/drop.h"
#include "trainer/backend/cpu/native/kernels.h"
#include "trainer/backend/cpu/native/sgd.h"
#include "trainer/backend/cpu/native/transpose.h"

#define PANEL 64
#define LINE 16 /* floats of a cache line */

#if VEC_REGISTERS == 32
#define VECS_MAX 4
static const size_t TILE_ROWS[] = {0, 16, 12, 8, 6};
#else
#define VECS_MAX 2
static const size_t TILE_ROWS[] = {0, 8, 6};
#endif
#define BLOCK (VECS_MAX * VEC_N) /* columns of B that a tile has at most */

/* What is made of dw: gradients, or weights after SGD's step. All point at the same value of W. */
struct made {
    float *dw; /* NULL: a step */
    const struct native_sgd *sgd;
    const float *from;
    float *w, *state; /* state: NULL without momentum */
};

/* The step for values at `at`. n: of VEC_N values. */
VEC_INLINE void sgd_step(const struct made *made, vec g, size_t at, size_t n, bool momentum, bool nesterov)
{
    sgd_vec(made->sgd, g, made->from + at, made->w + at, momentum ? made->state + at : NULL, n, momentum, nesterov);
}

struct tile {
    const float *a; /* value (row, k) at row * step + k, or at row + k * step */
    const float *b; /* row k at k * b_step */
    size_t step, b_step, k;
    float *c;
    const float *add; /* NULL, or what is added to the sums: row r at r * add_step */
    size_t c_step, add_step;
    size_t last; /* values of the last vector that exist, VEC_N: all */
    bool relu;
    const struct native_drop *drop; /* NULL, or of c */
    const float *ahead[2]; /* fetched into the second-level cache, ahead_step floats further for each k */
    size_t ahead_step[2];
    struct made made; /* in place of c, of the last two below */
};

/* How A's values stand, and what is done with the sums. */
enum { ALONG, ACROSS, ACROSS_PLAIN, ACROSS_MOMENTUM };

/* How many of the two are fetched: few, lest loads become what a tile waits for. */
VEC_INLINE int tile_ahead(int vecs)
{
    return vecs * VEC_N >= 3 * LINE ? 2 : 1;
}

VEC_INLINE void tile_run(const struct tile *t, int rows, int vecs, int form)
{
    const bool across = form != ALONG;
    const float *a0 = t->a, *a4 = a0 + 4 * t->step, *a8 = a0 + 8 * t->step, *a12 = a0 + 12 * t->step, *b = t->b,
                *ahead0 = t->ahead[0], *ahead1 = t->ahead[1];
    const size_t step = t->step, b_step = t->b_step, ahead0_step = t->ahead_step[0], ahead1_step = t->ahead_step[1];
    vec sum[24];

    /* A pointer for every four rows, and so that the compiler does not see through it: it would keep an offset for each
     * row, and run out of registers. */
    __asm__("" : "+r"(a4), "+r"(a8), "+r"(a12));
    VEC_UNROLL for (int i = 0; i < rows * vecs; i++) sum[i] = vec_zero();
    for (size_t k = t->k; k; k--) {
        vec v[VECS_MAX];
        VEC_UNROLL for (int j = 0; j < vecs; j++) v[j] = vec_load(b + j * VEC_N);
        __builtin_prefetch(ahead0, 0, 2);
        if (tile_ahead(vecs) > 1)
            __builtin_prefetch(ahead1, 0, 2);
        VEC_UNROLL for (int r = 0; r < rows; r++)
        {
            const float *four = r < 4 ? a0 : r < 8 ? a4 : r < 12 ? a8 : a12;
            vec x = vec_splat(across ? a0[r] : four[(size_t)(r % 4) * step]);
            VEC_UNROLL for (int j = 0; j < vecs; j++) sum[r * vecs + j] = vec_fma(x, v[j], sum[r * vecs + j]);
        }
        a0 += across ? step : 1;
        a4++;
        a8++;
        a12++;
        b += b_step;
        ahead0 += ahead0_step;
        ahead1 += ahead1_step;
    }
    if (form == ACROSS_PLAIN || form == ACROSS_MOMENTUM) {
        VEC_UNROLL for (int i = 0; i < rows * vecs; i++)
            sgd_step(&t->made, sum[i], (size_t)(i / vecs) * t->c_step + (size_t)(i % vecs) * VEC_N, VEC_N,
                     form == ACROSS_MOMENTUM, false);
        return;
    }
    if (!across && t->add)
        VEC_UNROLL for (int r = 0; r < rows; r++)
        {
            const float *add = t->add + (size_t)r * t->add_step, *end = add + (vecs - 1) * VEC_N;
            VEC_UNROLL for (int j = 0; j < vecs - 1; j++) sum[r * vecs + j] =
                vec_load(add + j * VEC_N) + sum[r * vecs + j];
            /* what stands behind a row may be another thread's */
            sum[r * vecs + vecs - 1] =
                (t->last == VEC_N ? vec_load(end) : vec_load_n(end, t->last)) + sum[r * vecs + vecs - 1];
        }
    if (!across && t->relu)
        VEC_UNROLL for (int i = 0; i < rows * vecs; i++) sum[i] = vec_max(vec_zero(), sum[i]);
    if (!across && t->drop)
        VEC_UNROLL for (int i = 0; i < rows * vecs; i++) sum[i] =
            drop_vec(t->drop, t->c + (size_t)(i / vecs) * t->c_step + i % vecs * VEC_N, sum[i]);
    VEC_UNROLL for (int r = 0; r < rows; r++)
    {
        float *c = t->c + (size_t)r * t->c_step;
        VEC_UNROLL for (int j = 0; j < vecs - 1; j++) vec_store(c + j * VEC_N, sum[r * vecs + j]);
        if (t->last == VEC_N)
            vec_store(c + (vecs - 1) * VEC_N, sum[r * vecs + vecs - 1]);
        else
            vec_store_n(c + (vecs - 1) * VEC_N, sum[r * vecs + vecs - 1], t->last);
    }
}

typedef void tile_fn(const struct tile *t);

#define TILE_FORM(form, name, n, v)                                                                                    \
    static void name##_##v##_##n(const struct tile *t)                                                                 \
    {                                                                                                                  \
        tile_run(t, n, v, form);                                                                                       \
    }
#define TILE(n, v) TILE_FORM(ALONG, along, n, v) TILE_FORM(ACROSS, across, n, v)
#define STEP(n, v) TILE_FORM(ACROSS_PLAIN, plain, n, v) TILE_FORM(ACROSS_MOMENTUM, momentum, n, v)
#define SIX(f, v) f(1, v) f(2, v) f(3, v) f(4, v) f(5, v) f(6, v)
#define TEN(f, v) SIX(f, v) f(7, v) f(8, v) f(9, v) f(10, v)
#define ROWS6(d, v) d##_##v##_1, d##_##v##_2, d##_##v##_3, d##_##v##_4, d##_##v##_5, d##_##v##_6
#define ROWS8(d, v) ROWS6(d, v), d##_##v##_7, d##_##v##_8
#define ROWS12(d, v) ROWS8(d, v), d##_##v##_9, d##_##v##_10, d##_##v##_11, d##_##v##_12
#define ROWS16(d, v) ROWS12(d, v), d##_##v##_13, d##_##v##_14, d##_##v##_15, d##_##v##_16

/* Steps are taken from the sums in their registers where a tile is whole; elsewhere from a copy.
 * [across][vectors - 1][rows - 1]; [momentum][rows - 1] */
// clang-format off
#if VEC_REGISTERS == 32
TEN(TILE, 1) TILE(11, 1) TILE(12, 1) TILE(13, 1) TILE(14, 1) TILE(15, 1) TILE(16, 1)
TEN(TILE, 2) TILE(11, 2) TILE(12, 2)
SIX(TILE, 3) TILE(7, 3) TILE(8, 3)
SIX(TILE, 4)
SIX(STEP, 4)
static tile_fn *const TILES[2][VECS_MAX][16] = {
    {{ROWS16(along, 1)}, {ROWS12(along, 2)}, {ROWS8(along, 3)}, {ROWS6(along, 4)}},
    {{ROWS16(across, 1)}, {ROWS12(across, 2)}, {ROWS8(across, 3)}, {ROWS6(across, 4)}},
};
static tile_fn *const STEPS[2][6] = {{ROWS6(plain, 4)}, {ROWS6(momentum, 4)}};
#else
SIX(TILE, 1) TILE(7, 1) TILE(8, 1)
SIX(TILE, 2)
SIX(STEP, 2)
static tile_fn *const TILES[2][VECS_MAX][8] = {{{ROWS8(along, 1)}, {ROWS6(along, 2)}},
                                               {{ROWS8(across, 1)}, {ROWS6(across, 2)}}};
static tile_fn *const STEPS[2][6] = {{ROWS6(plain, 2)}, {ROWS6(momentum, 2)}};
#endif
// clang-format on

/* The next piece of what is left, in as many pieces as must be, of about the same size. */
static size_t share(size_t left, size_t most)
{
    size_t pieces = (left + most - 1) / most;

    return (left + pieces - 1) / pieces;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static size_t last_of(size_t columns)
{
    return columns % VEC_N ? columns % VEC_N : VEC_N;
}

/* Rows that are a multiple of 1 KiB apart would share few sets of the first-level cache. */
size_t NATIVE(dense_stride)(size_t out)
{
    size_t lines = (out + LINE - 1) / LINE;

    return (lines % 16 ? lines : lines + 1) * LINE;
}

void NATIVE(dense_forward)(const struct dense *d, const float *w, const float *bias, const float *x, float *y,
                           const struct native_drop *drop, size_t lo, size_t hi, size_t from, size_t to)
{
    const size_t vecs = (d->out + VEC_N - 1) / VEC_N, end = (to + VEC_N - 1) / VEC_N;

    for (size_t k0 = 0; k0 < d->in; k0 += PANEL) {
        size_t k = least(PANEL, d->in - k0), next = k0 + PANEL < d->in ? PANEL : 0;
        for (size_t v0 = from / VEC_N, nv; v0 < end; v0 += nv) {
            size_t ahead = 0; /* the columns of the next panel are fetched by all tiles in turn */
            nv = share(end - v0, VECS_MAX);
            for (size_t r0 = lo, n; r0 < hi; r0 += n) {
                float *at = y + r0 * d->out + v0 * VEC_N;
                struct tile t = {.a = x + r0 * d->in + k0,
                                 .step = d->in,
                                 .b = w + k0 * d->stride + v0 * VEC_N,
                                 .b_step = d->stride,
                                 .k = k,
                                 .c = at,
                                 .c_step = d->out,
                                 .add = at,
                                 .add_step = d->out,
                                 .last = v0 + nv == vecs ? last_of(d->out) : VEC_N,
                                 .relu = d->relu && !next,
                                 .drop = next ? NULL : drop,
                                 .ahead_step = {d->stride, d->stride}};
                n = share(hi - r0, TILE_ROWS[nv]);
                if (!k0) {
                    t.add = bias ? bias + v0 * VEC_N : NULL;
                    t.add_step = 0;
                }
                t.ahead[0] = ahead < nv * VEC_N ? t.b + next * d->stride + ahead : t.b;
                t.ahead[1] = t.ahead[0] + LINE;
                ahead += (size_t)tile_ahead((int)nv) * LINE;
                TILES[0][nv - 1][n - 1](&t);
            }
        }
    }
}

void NATIVE(dense_mask)(const struct dense *d, const float *y, float *dy, float *db, const struct native_drop *drop,
                        size_t rows)
{
    const vec scale = drop_scale(drop);

    for (size_t o = 0; o < d->out; o += VEC_N) {
        size_t n = least(VEC_N, d->out - o);
        vec sum = vec_zero();
        for (size_t r = 0; r < rows; r++) {
            float *at = dy + r * d->out + o;
            vec g = vec_load(at);
            if (d->relu) {
                vec v = vec_load(y + r * d->out + o);
                g = vec_where(vec_mask_or(vec_gt(v, vec_zero()), vec_unordered(v)), g * scale);
                if (n == VEC_N)
                    vec_store(at, g);
                else
                    vec_store_n(at, g, n);
            }
            sum = sum + g;
        }
        if (!db)
            continue;
        if (n == VEC_N)
            vec_store(db + o, sum);
        else
            vec_store_n(db + o, sum, n);
    }
}

/* scratch: dy in columns of BLOCK outputs, [columns][rows][BLOCK]; dy transposed, in blocks of as many rows as a tile
 * has columns, [block][out][rows of the block]; a panel of x, [rows][PANEL]; a panel of dx transposed, [PANEL][BLOCK],
 * or a tile of dw. */
struct scratch {
    float *dy, *turned, *x, *tile;
};

static size_t scratch_of(const struct dense *d, size_t rows, float *at, struct scratch *ret)
{
    size_t dy = round_up(d->out, BLOCK) * rows, turned = d->out * round_up(rows, VEC_N), x = rows * PANEL,
           tile = (size_t)PANEL * BLOCK;

    if (ret)
        *ret = (struct scratch){at, at + dy, at + dy + turned, at + dy + turned + x};
    return dy + turned + x + tile;
}

size_t NATIVE(dense_scratch_bytes)(const struct dense *d, size_t rows)
{
    return scratch_of(d, rows, NULL, NULL) * sizeof(float) + 64;
}

static void copy_dy(const struct dense *d, const float *dy, size_t rows, float *to)
{
    for (size_t o0 = 0; o0 < d->out; o0 += BLOCK)
        for (size_t r = 0; r < rows; r++, to += BLOCK)
            for (size_t o = 0; o < BLOCK && o0 + o < d->out; o += VEC_N)
                vec_store(to + o, vec_load(dy + r * d->out + o0 + o));
}

static void turn_dy(const struct dense *d, const float *dy, size_t rows, float *to)
{
    const size_t vecs = (rows + VEC_N - 1) / VEC_N;

    for (size_t v0 = 0, nv; v0 < vecs; v0 += nv, to += d->out * nv * VEC_N) {
        nv = share(vecs - v0, VECS_MAX);
        for (size_t j = 0; j < nv; j++)
            for (size_t o = 0; o < d->out; o += VEC_N) {
                size_t r0 = (v0 + j) * VEC_N, n = least(VEC_N, d->out - o);
                vec v[VEC_N];
                for (size_t r = 0; r < VEC_N; r++)
                    v[r] = r0 + r < rows ? vec_load(dy + (r0 + r) * d->out + o) : vec_zero();
                vec_transpose(v);
                for (size_t i = 0; i < n; i++)
                    vec_store(to + (o + i) * nv * VEC_N + j * VEC_N, v[i]);
            }
    }
}

/* dx of inputs [i0, i0 + n), n <= PANEL. */
static void panel_dx(const struct dense *d, const float *w, const struct scratch *s, float *dx, size_t rows, size_t i0,
                     size_t n)
{
    const size_t vecs = (rows + VEC_N - 1) / VEC_N;
    const float *b = s->turned;

    for (size_t v0 = 0, nv; v0 < vecs; v0 += nv, b += d->out * nv * VEC_N) {
        nv = share(vecs - v0, VECS_MAX);
        for (size_t i = 0, m; i < n; i += m) {
            const float *from = w + (i0 + i) * d->stride;
            struct tile t = {.a = from,
                             .step = d->stride,
                             .b = b,
                             .b_step = nv * VEC_N,
                             .k = d->out,
                             .c = s->tile + i * BLOCK,
                             .c_step = BLOCK,
                             .last = VEC_N,
                             .ahead = {b, b}};
            if (!v0) { /* the next panel of W */
                t.ahead[0] = from + PANEL * d->stride;
                t.ahead_step[0] = share(n - i, TILE_ROWS[nv]);
            }
            m = share(n - i, TILE_ROWS[nv]);
            TILES[0][nv - 1][m - 1](&t);
        }
        for (size_t j = 0; j < nv; j++)
            for (size_t i = 0; i < n; i += VEC_N) {
                size_t r0 = (v0 + j) * VEC_N, here = least(VEC_N, rows - r0);
                float *to = dx + r0 * d->in + i0 + i;
                vec v[VEC_N];
                VEC_UNROLL for (size_t k = 0; k < VEC_N; k++) v[k] = vec_load(s->tile + (i + k) * BLOCK + j * VEC_N);
                vec_transpose(v);
                if (i + VEC_N <= n)
                    for (size_t r = 0; r < here; r++)
                        vec_store(to + r * d->in, v[r]);
                else
                    for (size_t r = 0; r < here; r++)
                        vec_store_n(to + r * d->in, v[r], n - i);
            }
    }
}

static struct made made_at(struct made made, size_t at)
{
    if (made.dw) {
        made.dw += at;
        return made;
    }
    made.from += at;
    made.w += at;
    if (made.state)
        made.state += at;
    return made;
}

/* The step for a tile of dw at s->tile. */
static void tile_step(const struct made *made, const float *dw, size_t rows, size_t columns, size_t stride)
{
    const bool momentum = made->state != NULL, nesterov = made->sgd->nesterov;

    for (size_t r = 0; r < rows; r++)
        for (size_t o = 0; o < columns; o += VEC_N)
            sgd_step(made, vec_load(dw + r * BLOCK + o), r * stride + o, least(VEC_N, columns - o), momentum, nesterov);
}

/* made: at row i0 of W. */
static void panel_dw(const struct dense *d, const float *x, const struct scratch *s, struct made made, size_t rows,
                     size_t i0, size_t i1)
{
    const size_t columns = (d->out + BLOCK - 1) / BLOCK, n = least(PANEL, i1 - i0);
    size_t fetched = 0, state = 0;

    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i += VEC_N)
            vec_store(s->x + r * PANEL + i, vec_load(x + r * d->in + i0 + i));
    for (size_t i = 0; made.dw && i < n; i++) /* padding, and some of what is written below */
        for (size_t o = d->out / VEC_N * VEC_N; o < d->stride; o += VEC_N)
            vec_store(made.dw + i * d->stride + o, vec_zero());
    for (size_t c = 0; c < columns; c++) {
        size_t width = least(BLOCK, d->out - c * BLOCK), nv = (width + VEC_N - 1) / VEC_N;
        bool buffered = !made.dw && (width < BLOCK || (made.state && made.sgd->nesterov));
        for (size_t i = 0, m; i < n; i += m) {
            struct tile t = {.a = s->x + i,
                             .step = PANEL,
                             .b = s->dy + c * BLOCK * rows,
                             .b_step = BLOCK,
                             .k = rows,
                             .c = s->tile,
                             .c_step = d->stride,
                             .last = VEC_N,
                             .made = made_at(made, i * d->stride + c * BLOCK)};
            m = share(n - i, TILE_ROWS[nv]);
            t.ahead[0] = t.ahead[1] = t.b;
            if (fetched < PANEL && i1 - i0 > PANEL) { /* the next panel of x, a line of each row with each tile */
                t.ahead[0] = x + i0 + PANEL + fetched;
                t.ahead_step[0] = d->in;
                fetched += LINE;
            }
            if (made.state && state < PANEL * d->stride) { /* the next panel of state, from end to end */
                t.ahead[1] = made.state + PANEL * d->stride + state;
                t.ahead_step[1] = LINE;
                state += rows * LINE;
            }
            if (made.dw) {
                t.c = t.made.dw;
                t.last = last_of(width);
            } else if (buffered) {
                t.c_step = BLOCK;
            } else {
                STEPS[made.state != NULL][m - 1](&t);
                continue;
            }
            TILES[1][nv - 1][m - 1](&t);
            if (buffered)
                tile_step(&t.made, s->tile, m, width, d->stride);
        }
    }
}

static void backward(const struct dense *d, const float *w, const float *x, const float *dy, float *dx,
                     struct made made, size_t rows, size_t i0, size_t i1, void *scratch)
{
    struct scratch s;

    scratch_of(d, rows, scratch, &s);
    copy_dy(d, dy, rows, s.dy);
    if (dx)
        turn_dy(d, dy, rows, s.turned);
    for (size_t i = i0; i < i1; i += PANEL) {
        if (dx)
            panel_dx(d, w, &s, dx, rows, i, least(PANEL, i1 - i));
        panel_dw(d, x, &s, made_at(made, (i - i0) * d->stride), rows, i, i1);
    }
}

void NATIVE(dense_backward)(const struct dense *d, const float *w, const float *x, const float *dy, float *dx,
                            float *dw, size_t rows, size_t i0, size_t i1, void *scratch)
{
    backward(d, w, x, dy, dx, (struct made){.dw = dw}, rows, i0, i1, scratch);
}

void NATIVE(dense_backward_sgd)(const struct dense *d, const struct native_sgd *sgd, const float *from, float *w,
                                float *state, const float *x, const float *dy, float *dx, size_t rows, size_t i0,
                                size_t i1, void *scratch)
{
    size_t at = i0 * d->stride;

    backward(d, from, x, dy, dx,
             (struct made){.sgd = sgd, .from = from + at, .w = w + at, .state = sgd->momentum > 0 ? state + at : NULL},
             rows, i0, i1, scratch);
}
