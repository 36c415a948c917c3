/* direct_blocks.c - the direct convolution by blocks that stay in cache, around the loops of direct_wide.c.
 *
 * Forward: a panel of weights meets all pixels before the next. Gradient of weights: pixels by panels, d packed for two
 * blocks of filters and x for a kernel row, so that nothing is read at strides more than once.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/direct_private.h"

#if DIRECT_WIDE

#define PANEL 192          /* values of a run at once */
#define PIXELS 256         /* of the gradient of weights at once */
#define SHORT 48           /* a run that is not worth a tile's start and end */
#define LARGE (256u << 10) /* floats of weights that do not stay in the second */

/* A pixel of a batch of images. */
struct walk {
    size_t p, q; /* rows and columns of an image */
    size_t image, row, col;
};

static inline void walk_on(struct walk *k)
{
    if (++k->col < k->q)
        return;
    k->col = 0;
    if (++k->row < k->p)
        return;
    k->row = 0;
    k->image++;
}

/* The same, for where a job's pixels are read and written. */
struct stride {
    const float *x;
    float *y;
    size_t cols, rows; /* left */
};

static inline void stride_on(const struct direct_job *j, struct stride *s)
{
    s->x += j->x_col;
    s->y += j->y_col;
    if (--s->cols)
        return;
    s->cols = j->q;
    s->x += j->x_row - j->q * j->x_col;
    s->y += j->y_row - j->q * j->y_col;
    if (--s->rows)
        return;
    s->rows = j->p;
    s->x += j->x_image - j->p * j->x_row;
    s->y += j->y_image - j->p * j->y_row;
}

/* The next tile's pixels; cold: what they read and write is fetched. */
static inline size_t next_tile(const struct direct_job *j, struct direct_wide *t, struct stride *ret_at, size_t left,
                               bool cold)
{
    size_t n = left < DIRECT_WIDE_PIXELS ? left : DIRECT_WIDE_PIXELS;
    struct stride at = *ret_at;

    for (size_t i = 0; i < n; i++, stride_on(j, &at)) {
        t->x[i] = at.x;
        t->y[i] = at.y;
        for (size_t k = 0; cold && k < t->run; k += 16)
            __builtin_prefetch(at.x + k, 0, 3);
        for (size_t k = 0; cold && k < DIRECT_WIDE - VEC_N + t->lanes; k += 16)
            __builtin_prefetch(at.y + k, 1, 3);
    }
    *ret_at = at;
    return n;
}

static void pixels_by_panel(const struct direct_job *j, const struct direct_wide *panel, const float *x, size_t k)
{
    struct direct_wide t[2] = {*panel, *panel};
    struct stride at = {.x = x, .y = j->y + k, .cols = j->q, .rows = j->p};
    bool cold = !k && panel->bias; /* the first time that these pixels are met */
    size_t pixels = j->images * j->p * j->q, n = next_tile(j, &t[0], &at, pixels, cold);

    for (int turn = 0; n; turn = !turn) {
        size_t now = n;
        pixels -= now;
        n = next_tile(j, &t[!turn], &at, pixels, cold);
        NATIVE(direct_wide)((int)now)(&t[turn]);
        for (int i = 0; i < 2; i++)
            t[!turn].ahead[i] = t[turn].ahead[i] + t[turn].ahead_step[i] * (panel->run / DIRECT_WIDE_STEPS);
    }
}

size_t NATIVE(direct_wide_run)(const struct direct_job *j)
{
    size_t pad = whole_vectors(j->filters), wide = pad / DIRECT_WIDE * DIRECT_WIDE;
    size_t parts = (j->run + PANEL - 1) / PANEL, panels = j->rows * parts, block = j->rows * j->run * DIRECT_BLOCK;
    size_t tiles = (j->images * j->p * j->q + DIRECT_WIDE_PIXELS - 1) / DIRECT_WIDE_PIXELS;
    size_t steps = tiles * j->rows * j->run * (wide / DIRECT_WIDE), soon[2] = {0};

    if (j->end == DIRECT_POOL || j->run < SHORT)
        return 0;
    for (size_t k = 0; k < wide; k += DIRECT_WIDE) {
        size_t n = j->filters - k < DIRECT_WIDE ? j->filters - k : DIRECT_WIDE;
        float bias[DIRECT_WIDE] = {0};
        struct direct_wide t = {.w = j->w + k * j->rows * j->run, .w_block = block, .bias = bias,
                                .lanes = n - (DIRECT_WIDE - VEC_N)};

        if (j->bias)
            memcpy(bias, j->bias + k, n * sizeof(float));
        for (size_t i = 0; i < panels; i++) {
            size_t from = i % parts * j->run / parts, to = (i % parts + 1) * j->run / parts;
            t.run = to - from;
            t.relu = i + 1 == panels && j->end == DIRECT_RELU;
            t.drop = i + 1 == panels ? j->drop : NULL;
            /* of both blocks, for the panel after this one */
            t.ahead[0] = t.ahead[1] = (const char *)t.w;
            t.ahead_step[0] = t.ahead_step[1] = 0;
            if (i + 1 < panels && block * (wide / DIRECT_BLOCK) > LARGE) {
                t.ahead[0] = (const char *)(t.w + t.run * DIRECT_BLOCK);
                t.ahead[1] = t.ahead[0] + block * sizeof(float);
                t.ahead_step[0] = t.ahead_step[1] = DIRECT_BLOCK * sizeof(float) * DIRECT_WIDE_STEPS / tiles + 1;
            } else {
                for (int a = 0; a < 2 && j->soon[a]; a++) {
                    t.ahead_step[a] = j->soon_floats[a] * sizeof(float) * DIRECT_WIDE_STEPS / steps;
                    t.ahead[a] = (const char *)j->soon[a] + soon[a];
                    soon[a] += tiles * (t.run / DIRECT_WIDE_STEPS) * t.ahead_step[a];
                }
            }
            pixels_by_panel(j, &t, j->x + i / parts * j->kernel_row + from, k);
            t.w += t.run * DIRECT_BLOCK;
            t.bias = NULL;
        }
    }
    return wide;
}

size_t NATIVE(direct_wide_room)(size_t filters_pad, size_t run)
{
    size_t tiles = (run + DIRECT_WIDE_RUN - 1) / DIRECT_WIDE_RUN, wide = filters_pad / DIRECT_WIDE * DIRECT_WIDE;

    return wide ? PIXELS * wide + tiles * (PIXELS * DIRECT_WIDE_PITCH + VEC_N) : 0;
}

/* d of n pixels: [block][pixel][DIRECT_WIDE] */
static void pack_d(const struct direct_dw *t, struct walk at, size_t n, size_t wide, float *to)
{
    for (size_t i = 0; i < n; i++, walk_on(&at)) {
        const float *d = t->d + at.image * t->d_image + at.row * t->d_row + at.col * t->d_col;
        for (size_t k = 0; k < wide; k += DIRECT_WIDE)
            VEC_UNROLL for (size_t v = 0; v < DIRECT_WIDE; v += VEC_N)
                vec_store(to + k * n + i * DIRECT_WIDE + v, vec_load(d + k + v));
    }
}

/* x of n pixels from `from` on: [tile][pixel][DIRECT_WIDE_PITCH], VEC_N floats from tile to tile */
static void pack_x(const struct direct_dw *t, struct walk at, size_t n, size_t run, size_t tiles, const float *from,
                   float *to)
{
    typedef float eight __attribute__((vector_size(32)));
    size_t narrow = run / tiles, wider = run % tiles, step = n * DIRECT_WIDE_PITCH + VEC_N;

    for (size_t i = 0; i < n; i++, walk_on(&at)) {
        const float *x = from + at.image * t->x_image + at.row * t->x_row + at.col * t->x_col;
        float *o = to + i * DIRECT_WIDE_PITCH;
        for (size_t tile = 0; tile < wider; tile++, o += step, x += narrow + 1) {
            eight v;
            memcpy(&v, x, sizeof v);
            memcpy(o, &v, sizeof v);
        }
        for (size_t tile = wider; tile < tiles; tile++, o += step, x += narrow) {
            eight v;
            memcpy(&v, x, sizeof v);
            memcpy(o, &v, sizeof v);
        }
    }
}

size_t NATIVE(direct_wide_weights)(const struct direct_dw *t, size_t filters_pad, size_t kernel_rows, size_t kernel_row,
                                   size_t run, float *room)
{
    size_t tiles = (run + DIRECT_WIDE_RUN - 1) / DIRECT_WIDE_RUN, wide = filters_pad / DIRECT_WIDE * DIRECT_WIDE;
    size_t pixels = t->images * t->rows * t->cols, panels = (pixels + PIXELS - 1) / PIXELS;
    struct walk at = {.p = t->rows, .q = t->cols};
    float *d = room, *x = room + PIXELS * wide;
    struct direct_wide_dw s = {.sum_block = kernel_rows * run * DIRECT_BLOCK};

    for (size_t i = 0; i < panels && wide; i++) {
        s.pixels = pixels * (i + 1) / panels - pixels * i / panels;
        pack_d(t, at, s.pixels, wide, d);
        for (size_t r = 0; r < kernel_rows; r++) {
            pack_x(t, at, s.pixels, run, tiles, t->x + r * kernel_row, x);
            for (size_t k = 0; k < wide; k += DIRECT_WIDE) {
                s.d = d + k * s.pixels;
                s.sum = t->sum + (k * kernel_rows + r * DIRECT_BLOCK) * run;
                for (size_t tile = 0; tile < tiles; tile++) {
                    size_t n = run / tiles + (tile < run % tiles ? 1 : 0);
                    s.x = x + tile * (s.pixels * DIRECT_WIDE_PITCH + VEC_N);
                    s.ahead = s.sum + n * DIRECT_BLOCK;
                    NATIVE(direct_wide_dw)((int)n)(&s);
                    s.sum += n * DIRECT_BLOCK;
                }
            }
        }
        for (size_t n = s.pixels; n; n--)
            walk_on(&at);
    }
    return wide;
}

#else

size_t NATIVE(direct_wide_run)(const struct direct_job *j)
{
    (void)j;
    return 0;
}

size_t NATIVE(direct_wide_room)(size_t filters_pad, size_t run)
{
    (void)filters_pad, (void)run;
    return 0;
}

size_t NATIVE(direct_wide_weights)(const struct direct_dw *t, size_t filters_pad, size_t kernel_rows, size_t kernel_row,
                                   size_t run, float *room)
{
    (void)t, (void)filters_pad, (void)kernel_rows, (void)kernel_row, (void)run, (void)room;
    return 0;
}

#endif
