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
#include "trainer/backend/cpu/native/kernels.h"
#include "trainer/backend/cpu/native/transpose.h"

#define PANEL 64
#define LINE 16 /* floats of a cache line */

#if VEC_REGISTERS == 32
#define VECS_MAX 4
static const size_t TILE_ROWS[] = {0, 12, 12, 8, 6};
#else
#define VECS_MAX 2
static const size_t TILE_ROWS[] = {0, 10, 6};
#endif
#define BLOCK (VECS_MAX * VEC_N) /* columns of B that a tile has at most */

struct tile {
    const float *a; /* value (row, k) at row + k * step, or at row * step + k */
    const float *b; /* row k at k * b_step */
    size_t step, b_step, k;
    float *c;
    const float *add; /* NULL, or what is added to the sums: row r at r * add_step */
    size_t c_step, add_step;
    size_t last; /* values of the last vector that exist, VEC_N: all */
    bool relu;
    const float *ahead; /* fetched into the second-level cache, ahead_step floats further for each k */
    size_t ahead_step;
};

VEC_INLINE void tile_run(const struct tile *t, int rows, int vecs, bool across)
{
    const float *a = t->a, *b = t->b, *ahead = t->ahead;
    const size_t row_step = across ? 1 : t->step, k_step = across ? t->step : 1, b_step = t->b_step,
                 ahead_step = t->ahead_step;
    vec sum[24];

    VEC_UNROLL for (int i = 0; i < rows * vecs; i++) sum[i] = vec_zero();
    for (size_t k = t->k; k; k--, a += k_step, b += b_step, ahead += ahead_step) {
        vec v[VECS_MAX];
        VEC_UNROLL for (int j = 0; j < vecs; j++) v[j] = vec_load(b + j * VEC_N);
        if (!across)
            VEC_UNROLL for (int j = 0; j < vecs * VEC_N; j += LINE) __builtin_prefetch(ahead + j, 0, 2);
        VEC_UNROLL for (int r = 0; r < rows; r++)
        {
            vec x = vec_splat(a[(size_t)r * row_step]);
            VEC_UNROLL for (int j = 0; j < vecs; j++) sum[r * vecs + j] = vec_fma(x, v[j], sum[r * vecs + j]);
        }
    }
    if (t->add)
        VEC_UNROLL for (int r = 0; r < rows; r++) VEC_UNROLL for (int j = 0; j < vecs; j++) sum[r * vecs + j] =
            vec_load(t->add + (size_t)r * t->add_step + j * VEC_N) + sum[r * vecs + j];
    if (t->relu)
        VEC_UNROLL for (int i = 0; i < rows * vecs; i++) sum[i] = vec_max(vec_zero(), sum[i]);
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

#define TILE(n, v)                                                                                                     \
    static void along_##v##_##n(const struct tile *t)                                                                  \
    {                                                                                                                  \
        tile_run(t, n, v, false);                                                                                      \
    }                                                                                                                  \
    static void across_##v##_##n(const struct tile *t)                                                                 \
    {                                                                                                                  \
        tile_run(t, n, v, true);                                                                                       \
    }
#define TILES4(v) TILE(1, v) TILE(2, v) TILE(3, v) TILE(4, v)
#define TILES6(v) TILES4(v) TILE(5, v) TILE(6, v)
#define TILES8(v) TILES6(v) TILE(7, v) TILE(8, v)
#define TILES10(v) TILES8(v) TILE(9, v) TILE(10, v)
#define TILES12(v) TILES10(v) TILE(11, v) TILE(12, v)
#define ROWS6(d, v) d##_##v##_1, d##_##v##_2, d##_##v##_3, d##_##v##_4, d##_##v##_5, d##_##v##_6
#define ROWS8(d, v) ROWS6(d, v), d##_##v##_7, d##_##v##_8
#define ROWS10(d, v) ROWS8(d, v), d##_##v##_9, d##_##v##_10
#define ROWS12(d, v) ROWS10(d, v), d##_##v##_11, d##_##v##_12

/* [across][vectors - 1][rows - 1] */
#if VEC_REGISTERS == 32
TILES12(1)
TILES12(2)
TILES8(3)
TILES6(4)
#define KERNELS(d)                                                                                                     \
    {                                                                                                                  \
        {ROWS12(d, 1)}, {ROWS12(d, 2)}, {ROWS8(d, 3)},                                                                 \
        {                                                                                                              \
            ROWS6(d, 4)                                                                                                \
        }                                                                                                              \
    }
#else
TILES10(1)
TILES6(2)
#define KERNELS(d)                                                                                                     \
    {                                                                                                                  \
        {ROWS10(d, 1)},                                                                                                \
        {                                                                                                              \
            ROWS6(d, 2)                                                                                                \
        }                                                                                                              \
    }
#endif
static tile_fn *const TILES[2][VECS_MAX][12] = {KERNELS(along), KERNELS(across)};

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
                           size_t lo, size_t hi)
{
    const size_t vecs = (d->out + VEC_N - 1) / VEC_N;

    for (size_t k0 = 0; k0 < d->in; k0 += PANEL) {
        size_t k = least(PANEL, d->in - k0), next = k0 + PANEL < d->in ? PANEL : 0;
        for (size_t v0 = 0, nv; v0 < vecs; v0 += nv) {
            nv = share(vecs - v0, VECS_MAX);
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
                                 .ahead_step = d->stride};
                n = share(hi - r0, TILE_ROWS[nv]);
                if (!k0) {
                    t.add = bias ? bias + v0 * VEC_N : NULL;
                    t.add_step = 0;
                }
                t.ahead = r0 == lo ? t.b + next * d->stride : t.b;
                if (!v0 && next)
                    for (size_t r = 0; r < n; r++)
                        for (size_t i = 0; i < PANEL; i += LINE)
                            __builtin_prefetch(t.a + r * d->in + PANEL + i, 0, 2);
                TILES[0][nv - 1][n - 1](&t);
            }
        }
    }
}

void NATIVE(dense_mask)(const struct dense *d, const float *y, float *dy, float *db, size_t rows)
{
    for (size_t o = 0; o < d->out; o += VEC_N) {
        size_t n = least(VEC_N, d->out - o);
        vec sum = vec_zero();
        for (size_t r = 0; r < rows; r++) {
            float *at = dy + r * d->out + o;
            vec g = vec_load(at);
            if (d->relu) {
                vec v = vec_load(y + r * d->out + o);
                g = vec_where(vec_mask_or(vec_gt(v, vec_zero()), vec_unordered(v)), g);
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
 * has columns, [block][out][rows of the block]; a panel of x, [rows][PANEL]; a panel of dx transposed, [PANEL][BLOCK].
 */
struct scratch {
    float *dy, *turned, *x, *dx;
};

static size_t scratch_of(const struct dense *d, size_t rows, float *at, struct scratch *ret)
{
    size_t dy = round_up(d->out, BLOCK) * rows, turned = d->out * round_up(rows, VEC_N), x = rows * PANEL,
           dx = (size_t)PANEL * BLOCK;

    if (ret)
        *ret = (struct scratch){at, at + dy, at + dy + turned, at + dy + turned + x};
    return dy + turned + x + dx;
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
            m = share(n - i, TILE_ROWS[nv]);
            TILES[0][nv - 1][m - 1](&(struct tile){.a = from,
                                                   .step = d->stride,
                                                   .b = b,
                                                   .b_step = nv * VEC_N,
                                                   .k = d->out,
                                                   .c = s->dx + i * BLOCK,
                                                   .c_step = BLOCK,
                                                   .last = VEC_N,
                                                   .ahead = v0 ? from : from + PANEL * d->stride,
                                                   .ahead_step = v0 ? 0 : m});
        }
        for (size_t j = 0; j < nv; j++)
            for (size_t i = 0; i < n; i += VEC_N) {
                size_t r0 = (v0 + j) * VEC_N, here = least(VEC_N, rows - r0);
                float *to = dx + r0 * d->in + i0 + i;
                vec v[VEC_N];
                VEC_UNROLL for (size_t k = 0; k < VEC_N; k++) v[k] = vec_load(s->dx + (i + k) * BLOCK + j * VEC_N);
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

/* dw of the same inputs; dw points at the first one's row. */
static void panel_dw(const struct dense *d, const float *x, const struct scratch *s, float *dw, size_t rows, size_t i0,
                     size_t n)
{
    const size_t vecs = (d->out + VEC_N - 1) / VEC_N;

    for (size_t r = 0; r < rows; r++)
        for (size_t i = 0; i < n; i += VEC_N)
            vec_store(s->x + r * PANEL + i, vec_load(x + r * d->in + i0 + i));
    for (size_t o = d->out / VEC_N * VEC_N; o < d->stride; o += VEC_N) /* padding, and what is written below */
        for (size_t i = 0; i < n; i++)
            vec_store(dw + i * d->stride + o, vec_zero());
    for (size_t c0 = 0; c0 < vecs; c0 += VECS_MAX) {
        const float *b = s->dy + c0 * VEC_N * rows;
        size_t nv = least(VECS_MAX, vecs - c0);
        for (size_t i = 0, m; i < n; i += m) {
            m = share(n - i, TILE_ROWS[nv]);
            TILES[1][nv - 1][m - 1](&(struct tile){.a = s->x + i,
                                                   .step = PANEL,
                                                   .b = b,
                                                   .b_step = BLOCK,
                                                   .k = rows,
                                                   .c = dw + i * d->stride + c0 * VEC_N,
                                                   .c_step = d->stride,
                                                   .last = c0 + nv == vecs ? last_of(d->out) : VEC_N,
                                                   .ahead = b});
        }
    }
}

void NATIVE(dense_backward)(const struct dense *d, const float *w, const float *x, const float *dy, float *dx,
                            float *dw, size_t rows, size_t i0, size_t i1, void *scratch)
{
    struct scratch s;

    scratch_of(d, rows, scratch, &s);
    copy_dy(d, dy, rows, s.dy);
    if (dx)
        turn_dy(d, dy, rows, s.turned);
    for (size_t i = i0; i < i1; i += PANEL) {
        size_t n = least(PANEL, i1 - i);
        if (dx)
            panel_dx(d, w, &s, dx, rows, i, n);
        panel_dw(d, x, &s, dw + (i - i0) * d->stride, rows, i, n);
    }
}
