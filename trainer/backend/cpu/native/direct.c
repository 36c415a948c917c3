/* direct.c - convolutions as they are defined, over rows of (H, W, C).
 *
 * A row's image is copied into a frame of zeros that stays in the second-level cache, so that (kernel column, channel)
 * is one run of floats for each kernel row; where there is nothing to pad the image is used as it lies. The gradient of
 * the output is spread (out of the pool, through ReLU) into a frame too, and the gradient of the input is a convolution
 * of that with turned weights: for a stride of s one for each of the s x s phases, with the kernel's taps that meet it.
 * Weights: [block of filters][kernel row][kernel column][channel][filter of the block], group after group.
 * Where weights are large a few images go through them together. SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/direct_private.h"
#include "trainer/backend/cpu/native/frame.h"
#include "trainer/backend/cpu/native/kernels.h"

struct shape {
    size_t p, q;                    /* outputs that matter */
    size_t channels, filters;       /* of a group */
    size_t run;                     /* floats of a kernel row */
    size_t filters_pad, group_size; /* in whole vectors; a group's floats of weights */
    struct frame x, d;
    size_t images; /* that go through together */
    size_t band;   /* rows of d at once */
};

#define WEIGHTS_LARGE (128u << 10)
#define FRAMES_BYTES (9u << 17)
#define PIXELS_FEW 128
#define BAND_BYTES (16u << 10)

/* Floats of scratch behind the frames. */
static size_t wide_room(const struct conv *c, const struct shape *z)
{
    return c->need_dx ? NATIVE(direct_wide_room)(z->filters_pad, z->run) : 0;
}

static struct shape shape_of(const struct conv *c)
{
    size_t stride = (size_t)c->stride, r = (size_t)c->r, s = (size_t)c->s, each;
    struct shape z = {.p = (size_t)(c->pool ? c->p / 2 * 2 : c->p),
                      .q = (size_t)(c->pool ? c->q / 2 * 2 : c->q),
                      .channels = (size_t)(c->c / c->groups),
                      .filters = (size_t)(c->k / c->groups),
                      .images = 1};

    z.run = s * z.channels;
    z.filters_pad = whole_vectors(z.filters);
    z.group_size = r * z.run * z.filters_pad;
    z.x = (struct frame){.rows = (z.p - 1) * stride + r,
                         .cols = (z.q - 1) * stride + s,
                         .top = (size_t)c->pad_top,
                         .left = (size_t)c->pad_left,
                         .depth = z.channels};
    z.x.bare = c->groups == 1 && !c->pad_top && !c->pad_left && z.x.rows <= (size_t)c->h && z.x.cols <= (size_t)c->w;
    z.d = (struct frame){.rows = z.p, .cols = z.q, .depth = z.filters};
    if (c->need_dx)
        frame_for_dx(&z.d, c);
    z.d.bare = c->groups == 1 && !c->relu && z.d.rows == z.p && z.d.cols == z.q;
    z.band = z.p;
    if (!c->need_dx && !z.d.bare) {
        z.band = larger(BAND_BYTES / (4 * z.q * z.filters) / 2 * 2, 2);
        z.band = z.band < z.p ? z.band : z.p;
        z.d.rows = z.band;
    }
    frame_close(&z.x);
    frame_close(&z.d);
    each = 4 * (z.x.floats + z.d.floats);
    if (c->need_dx && each < FRAMES_BYTES &&
        (4 * z.group_size > WEIGHTS_LARGE || (wide_room(c, &z) && z.p * z.q < PIXELS_FEW)))
        z.images = FRAMES_BYTES / each < 8 ? FRAMES_BYTES / each : 8;
    return z;
}

static bool covers(const struct conv *c)
{
    return !c->x_batched && !c->y_batched && c->p > (c->pool ? 1 : 0) && c->q > (c->pool ? 1 : 0) &&
           c->c % c->groups == 0 && c->k % c->groups == 0 && (!c->pool || c->relu) && c->pad_top >= 0 &&
           c->pad_left >= 0;
}

static size_t weights_floats(const struct conv *c)
{
    return (size_t)c->groups * shape_of(c).group_size;
}

/* Width of the block that filter k is in. */
static size_t block_width(size_t filters_pad, size_t k)
{
    return filters_pad - k / DIRECT_BLOCK * DIRECT_BLOCK < DIRECT_BLOCK ? VEC_N : DIRECT_BLOCK;
}

static struct conv_place place(const struct conv *c, int k)
{
    struct shape z = shape_of(c);
    size_t f = (size_t)k % z.filters, width = block_width(z.filters_pad, f), block = f / DIRECT_BLOCK * DIRECT_BLOCK;

    return (struct conv_place){(size_t)k / z.filters * z.group_size + block * (size_t)c->r * z.run + f % DIRECT_BLOCK,
                               width, z.channels * width};
}

static size_t prepared_bytes(const struct conv *c)
{
    struct shape z = shape_of(c);

    if (!c->need_dx)
        return 0;
    return 4 * (size_t)(c->groups * c->r * c->s) * z.filters * whole_vectors(z.channels);
}

static size_t scratch_bytes(const struct conv *c)
{
    struct shape z = shape_of(c);

    /* the last pixel is read in whole vectors */
    return 4 * (z.images * (z.x.floats + z.d.floats) + DIRECT_BLOCK + wide_room(c, &z));
}

static size_t mask_pixel(const struct conv *c, const struct shape *z)
{
    return (size_t)c->groups * z->filters_pad / VEC_N * 4;
}

static size_t aux_row_bytes(const struct conv *c)
{
    struct shape z = shape_of(c);

    return c->pool ? z.p / 2 * (z.q / 2) * mask_pixel(c, &z) * sizeof(uint16_t) : 0;
}

static size_t partial_floats(const struct conv *c)
{
    struct shape z = shape_of(c);

    return (size_t)c->groups * (z.group_size + z.filters_pad);
}

/* to[filter][channel] = from[channel][filter], rows `out` and `in` floats apart; the rest of to's rows becomes 0. */
static void turn(const float *from, size_t in, float *to, size_t out, size_t filters, size_t channels)
{
    typedef float four __attribute__((vector_size(16)));
    size_t whole = filters / 4 * 4, f, i;

    for (f = 0; f < whole; f += 4)
        for (i = 0; i + 4 <= channels; i += 4) {
            four a[4], b[4];
            for (size_t j = 0; j < 4; j++)
                memcpy(&a[j], from + (i + j) * in + f, sizeof a[j]);
            b[0] = __builtin_shufflevector(a[0], a[1], 0, 4, 1, 5);
            b[1] = __builtin_shufflevector(a[2], a[3], 0, 4, 1, 5);
            b[2] = __builtin_shufflevector(a[0], a[1], 2, 6, 3, 7);
            b[3] = __builtin_shufflevector(a[2], a[3], 2, 6, 3, 7);
            a[0] = __builtin_shufflevector(b[0], b[1], 0, 1, 4, 5);
            a[1] = __builtin_shufflevector(b[0], b[1], 2, 3, 6, 7);
            a[2] = __builtin_shufflevector(b[2], b[3], 0, 1, 4, 5);
            a[3] = __builtin_shufflevector(b[2], b[3], 2, 3, 6, 7);
            for (size_t j = 0; j < 4; j++)
                memcpy(to + (f + j) * out + i, &a[j], sizeof a[j]);
        }
    for (f = 0; f < filters; f++) {
        for (i = f < whole ? channels / 4 * 4 : 0; i < channels; i++)
            to[f * out + i] = from[i * in + f];
        for (; i < out; i++)
            to[f * out + i] = 0;
    }
}

/* For each group and phase: [block of channels][taps, last first][filter][channel of the block], padding 0. */
static void prepare(const struct conv *c, const struct conv_args *a, bool training)
{
    struct shape z = shape_of(c);
    size_t channels_pad = whole_vectors(z.channels), s = (size_t)c->s, turns = 0;
    float *o = a->prepared;

    if (!training || !c->need_dx)
        return;
    for (int g = 0; g < c->groups; g++)
        for (int phase = 0; phase < c->stride * c->stride; phase++) {
            int down = phase / c->stride, across = phase % c->stride;
            size_t th = taps(c->r, c->stride, down), tw = taps(c->s, c->stride, across);
            for (size_t block = 0; block < channels_pad; block += DIRECT_BLOCK) {
                size_t width = block_width(channels_pad, block);
                size_t n = z.channels - block < width ? z.channels - block : width;
                if (a->part.n && turns++ % a->part.n != a->part.index) {
                    o += th * tw * z.filters * width;
                    continue;
                }
                for (size_t t = 0; t < th * tw; t++) {
                    size_t row = (size_t)down + (th - 1 - t / tw) * (size_t)c->stride;
                    size_t col = (size_t)across + (tw - 1 - t % tw) * (size_t)c->stride;
                    for (size_t f = 0; f < z.filters; f += DIRECT_BLOCK) {
                        size_t from = block_width(z.filters_pad, f), m = z.filters - f < from ? z.filters - f : from;
                        turn(a->weights + (size_t)g * z.group_size + f * (size_t)c->r * z.run +
                                 ((row * s + col) * z.channels + block) * from,
                             from, o, width, m, n);
                        o += m * width;
                    }
                }
            }
        }
}

static void job_run(const struct direct_job *j)
{
    size_t unit = j->end == DIRECT_POOL ? 2 : 1, pad = whole_vectors(j->filters);
    size_t done = NATIVE(direct_wide_run)(j);
    const float *w = j->w + done * j->rows * j->run;

    for (size_t k = done; k < j->filters; k += DIRECT_BLOCK) {
        size_t width = block_width(pad, k), n = j->filters - k < width ? j->filters - k : width;
        int nv = (int)(width / VEC_N);
        size_t most = (size_t)DIRECT_COLS(nv) / unit, units = j->q / unit, tiles = (units + most - 1) / most;
        size_t narrow = units / tiles, wide = units % tiles; /* so many are wider by one */
        float bias[DIRECT_BLOCK] = {0};
        struct direct_strip s = {.x_row = j->x_row,
                                 .x_col = j->x_col,
                                 .kernel_row = j->kernel_row,
                                 .rows = j->rows,
                                 .run = j->run,
                                 .w = w,
                                 .bias = bias,
                                 .y_row = j->y_row,
                                 .y_col = j->y_col,
                                 .lanes = n - (width - VEC_N),
                                 .end = j->end,
                                 .drop = j->drop,
                                 .mask_col = j->mask_col};

        if (j->bias)
            memcpy(bias, j->bias + k, n * sizeof(float));
        for (size_t i = 0; i < j->images; i++)
            for (size_t row = 0; row < j->p; row += 2) {
                int rows = j->p - row < 2 ? 1 : 2;
                s.x = j->x + i * j->x_image + row * j->x_row;
                s.y = j->y + i * j->y_image + row / unit * j->y_row + k;
                s.mask = j->mask ? j->mask + i * j->mask_image + row / 2 * j->mask_row + k / VEC_N * 4 : NULL;
                for (size_t part = 0; part < 2; part++) {
                    size_t u = narrow + 1 - part;
                    s.count = part ? tiles - wide : wide;
                    if (!s.count)
                        continue;
                    s.x_tile = u * unit * j->x_col;
                    s.y_tile = u * j->y_col;
                    s.mask_tile = u * j->mask_col;
                    NATIVE(direct_strip)(rows, (int)(u * unit), nv)(&s);
                    s.x += s.count * s.x_tile;
                    s.y += s.count * s.y_tile;
                    s.mask = s.mask ? s.mask + s.count * s.mask_tile : NULL;
                }
            }
        w += j->rows * j->run * width;
    }
}

/* Frames of images [lo, lo + n) of a group, and where they stand. */
static const float *x_frames(const struct conv *c, const struct shape *z, const struct conv_args *a, size_t g,
                             size_t lo, size_t n, float *scratch, struct direct_job *ret_steps)
{
    size_t image = (size_t)(c->h * c->w * c->c);

    ret_steps->x_image = z->x.bare ? image : z->x.floats;
    ret_steps->kernel_row = (z->x.bare ? (size_t)c->w : z->x.cols) * z->x.depth;
    ret_steps->x_row = (size_t)c->stride * ret_steps->kernel_row;
    ret_steps->x_col = (size_t)c->stride * z->x.depth;
    if (z->x.bare)
        return a->x + lo * image;
    for (size_t i = 0; i < n; i++)
        frame_fill(&z->x, scratch + i * z->x.floats, a->x + (lo + i) * image + g * z->channels, (size_t)c->h,
                   (size_t)c->w, (size_t)c->c);
    return scratch;
}

static void forward(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi, bool training)
{
    struct shape z = shape_of(c);
    float *frames = a->scratch;
    size_t oh = c->pool ? z.p / 2 : z.p, ow = c->pool ? z.q / 2 : z.q, k = (size_t)c->k;
    struct direct_job j = {.rows = (size_t)c->r,
                    .run = z.run,
                    .filters = z.filters,
                    .p = z.p,
                    .q = z.q,
                    .y_image = oh * ow * k,
                    .y_row = ow * k,
                    .y_col = k,
                    .mask_col = mask_pixel(c, &z),
                    .end = c->pool   ? DIRECT_POOL
                           : c->relu ? DIRECT_RELU
                                     : DIRECT_PLAIN,
                    .drop = a->drop};

    j.mask_row = ow * j.mask_col;
    j.mask_image = oh * j.mask_row;
    frame_clear(&z.x, frames, z.images);
    for (; lo < hi; lo += z.images)
        for (size_t g = 0; g < (size_t)c->groups; g++) {
            j.images = hi - lo < z.images ? hi - lo : z.images;
            j.x = x_frames(c, &z, a, g, lo, j.images, frames, &j);
            j.w = a->weights + g * z.group_size;
            j.soon[0] = lo + j.images < hi ? a->x + (lo + j.images) * (size_t)(c->h * c->w * c->c) : NULL;
            j.soon_floats[0] = j.images * (size_t)(c->h * c->w * c->c);
            j.bias = a->bias ? a->bias + g * z.filters : NULL;
            j.y = a->y + lo * j.y_image + g * z.filters;
            j.mask =
                c->pool && training ? (uint16_t *)a->aux + lo * j.mask_image + g * z.filters_pad / VEC_N * 4 : NULL;
            job_run(&j);
        }
}

/* A row of dy of the convolution's output, `cols` pixels, into a frame; db: sums. Two for a pool. */
static void spread_pooled(const struct conv *c, const struct shape *z, const struct native_drop *drop, const float *dy,
                          const uint16_t *mask, float *o, float *db)
{
    const vec scale = drop_scale(drop);
    size_t k = (size_t)c->k, depth = z->filters, below = z->d.cols * depth, step = mask_pixel(c, z);

    for (size_t v = 0; v < depth; v += VEC_N) {
        size_t lanes = depth - v < VEC_N ? depth - v : VEC_N;
        vec sum = vec_load(db + v);
        for (size_t x = 0; x < z->q / 2; x++) {
            const uint16_t *m = mask + x * step + v / VEC_N * 4;
            float *to = o + 2 * x * depth + v;
            vec d = vec_load(dy + x * k + v) * scale;
            vec d0 = vec_where(vec_mask_from(m[0]), d), d1 = vec_where(vec_mask_from(m[1]), d);
            vec d2 = vec_where(vec_mask_from(m[2]), d), d3 = vec_where(vec_mask_from(m[3]), d);
            vec_store_some(to, d0, lanes);
            vec_store_some(to + depth, d1, lanes);
            vec_store_some(to + below, d2, lanes);
            vec_store_some(to + below + depth, d3, lanes);
            sum += vec_where(vec_mask_from((uint16_t)(m[0] | m[1] | m[2] | m[3])), d);
        }
        vec_store(db + v, sum);
    }
}

/* Rows [from, to) of dy of image n into a frame (NULL: sums alone), through dropout and ReLU and out of the pool. */
static void spread(const struct conv *c, const struct shape *z, const struct conv_args *a, size_t g, size_t n,
                   size_t from, size_t to, float *o, float *db)
{
    size_t k = (size_t)c->k, step = mask_pixel(c, z), oh = z->p / 2, ow = z->q / 2, row = z->d.cols * z->filters;

    if (c->pool) {
        for (size_t i = from / 2; i < to / 2; i++, o += 2 * row)
            spread_pooled(c, z, a->drop, a->dy + (n * oh + i) * ow * k + g * z->filters,
                          (const uint16_t *)a->aux + (n * oh + i) * ow * step + g * z->filters_pad / VEC_N * 4, o, db);
        return;
    }
    for (size_t i = from; i < to; i++) {
        size_t at = (n * z->p + i) * z->q * k + g * z->filters;
        if (!o)
            spread_row(a->dy + at, NULL, NULL, NULL, db, z->q, k, z->filters);
        else if (c->relu)
            spread_row(a->dy + at, a->y + at, a->drop, o + (i - from) * row, db, z->q, k, z->filters);
        else
            spread_row(a->dy + at, NULL, NULL, o + (i - from) * row, db, z->q, k, z->filters);
    }
}

/* t: images, rows, columns, steps and sum are set; x and d are the first's. The `soon` floats from ahead[] on are
 * fetched meanwhile. */
static void weights_gradient(const struct conv *c, const struct shape *z, struct direct_dw t, size_t kernel_row,
                             float *room, size_t soon)
{
    const float *x = t.x, *d = t.d;
    size_t fetched = t.images * t.rows * t.cols * 16, done = 0;
    float *sum = t.sum;

    if (wide_room(c, z))
        done = NATIVE(direct_wide_weights)(&t, z->filters_pad, (size_t)c->r, kernel_row, z->run, room);
    sum += done * (size_t)c->r * z->run;
    for (size_t k = done; k < z->filters; k += DIRECT_BLOCK) {
        size_t width = block_width(z->filters_pad, k);
        int nv = (int)(width / VEC_N);
        size_t most = (size_t)DIRECT_RUN(nv), tiles = (z->run + most - 1) / most;
        t.d = d + k;
        for (size_t r = 0; r < (size_t)c->r; r++)
            for (size_t i = 0, at = 0; i < tiles; i++) {
                size_t n = z->run / tiles + (i < z->run % tiles ? 1 : 0);
                t.x = x + r * kernel_row + at;
                t.sum = sum;
                sum += n * width;
                if (!soon) /* the sums that come next */
                    t.ahead[0] = t.ahead[1] = sum;
                NATIVE(direct_dw)((int)n, nv)(&t);
                for (int j = 0; j < 2 && soon; j++)
                    t.ahead[j] += fetched;
                soon -= soon < fetched ? soon : fetched;
                at += n;
            }
    }
}

static void clear_pixels(float *to, size_t n, size_t step, size_t depth)
{
    for (; n; n--, to += step) {
        size_t v = 0;
        for (; v + VEC_N <= depth; v += VEC_N)
            vec_store(to + v, vec_zero());
        if (v < depth)
            vec_store_n(to + v, vec_zero(), depth - v);
    }
}

/* x and dy of as many images (NULL: there are none) are fetched meanwhile. */
static void input_gradient(const struct conv *c, const struct shape *z, const float *turned, const float *d,
                           size_t d_image, float *dx, size_t images, const float *x_soon, const float *dy_soon)
{
    size_t ch = (size_t)c->c, w = (size_t)c->w, image = (size_t)c->h * w * ch, s = (size_t)c->stride;
    size_t pitch = z->d.cols * z->filters;
    struct direct_job j = {.x_image = d_image,
                    .x_row = pitch,
                    .x_col = z->filters,
                    .kernel_row = pitch,
                    .y_image = image,
                    .y_row = s * w * ch,
                    .y_col = s * ch,
                    .images = images,
                    .filters = z->channels,
                    .soon = {x_soon, dy_soon},
                    .end = DIRECT_PLAIN};
    size_t taps_all = (size_t)(c->r * c->s), dy_image = z->p * z->q * (size_t)c->k / (c->pool ? 4 : 1);

    for (int phase = 0; phase < c->stride * c->stride; phase++) {
        struct phase f = phase_of(c, &z->d, phase / c->stride, phase % c->stride);
        const float *of_phase = turned;
        turned += f.taps_h * f.taps_w * z->filters * whole_vectors(z->channels);
        if (!f.p || !f.q)
            continue;
        j.p = f.p;
        j.q = f.q;
        j.y = dx + (f.h0 * w + f.w0) * ch;
        if (!f.taps_h || !f.taps_w) { /* between the taps */
            for (size_t i = 0; i < images * f.p; i++)
                clear_pixels(j.y + i / f.p * image + i % f.p * j.y_row, f.q, j.y_col, z->channels);
            continue;
        }
        j.x = d + f.from * z->filters;
        j.rows = f.taps_h;
        j.run = f.taps_w * z->filters;
        j.w = of_phase;
        j.soon_floats[0] = images * image * f.taps_h * f.taps_w / taps_all;
        j.soon_floats[1] = images * dy_image * f.taps_h * f.taps_w / taps_all;
        job_run(&j);
        for (int i = 0; i < 2 && x_soon; i++)
            j.soon[i] += j.soon_floats[i];
    }
}

static void backward(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi)
{
    struct shape z = shape_of(c);
    float *x_room = a->scratch, *d_room = x_room + z.images * z.x.floats;
    float *room = d_room + z.images * z.d.floats + DIRECT_BLOCK;
    size_t turned_group = (size_t)(c->r * c->s) * z.filters * whole_vectors(z.channels);
    size_t pixels = z.p * z.q, row = z.d.cols * z.filters;

    memset(a->partial, 0, partial_floats(c) * sizeof(float));
    frame_clear(&z.x, x_room, z.images);
    frame_clear(&z.d, d_room, z.images);
    for (; lo < hi; lo += z.images)
        for (size_t g = 0; g < (size_t)c->groups; g++) {
            size_t images = hi - lo < z.images ? hi - lo : z.images;
            size_t image = (size_t)(c->h * c->w * c->c), next = lo + images;
            bool more = next < hi;
            float *sum = a->partial + g * z.group_size;
            float *db = a->partial + (size_t)c->groups * z.group_size + g * z.filters_pad;
            struct direct_job j;
            const float *x = x_frames(c, &z, a, g, lo, images, x_room, &j);
            const float *d = z.d.bare ? a->dy + lo * pixels * z.filters : d_room;
            struct direct_dw t = {.x_image = j.x_image,
                                  .x_row = j.x_row,
                                  .x_col = j.x_col,
                                  .d_row = row,
                                  .d_image = z.d.bare ? pixels * z.filters : z.d.floats,
                                  .d_col = z.filters,
                                  .images = images,
                                  .cols = z.q};
            for (size_t from = 0; from < z.p; from += z.band) {
                size_t to = from + z.band < z.p ? from + z.band : z.p;
                size_t inside = (z.d.top * z.d.cols + z.d.left) * z.filters;
                if (!z.d.bare || c->bias)
                    for (size_t i = 0; i < images; i++)
                        spread(c, &z, a, g, lo + i, from, to, z.d.bare ? NULL : d_room + i * z.d.floats + inside, db);
                t.x = x + from * j.x_row;
                t.d = d + inside;
                t.sum = sum;
                t.rows = to - from;
                size_t part = (to - from) * z.q * (size_t)c->k / (c->pool ? 4 : 1);
                t.ahead[0] = a->dy + (lo * z.p + to) * z.q * (size_t)c->k / (c->pool ? 4 : 1);
                t.ahead[1] = c->relu && !c->pool ? a->y + (t.ahead[0] - a->dy) : t.ahead[0];
                weights_gradient(c, &z, t, j.kernel_row, room, c->need_dx ? 0 : part);
            }
            if (a->dx && c->need_dx)
                input_gradient(c, &z, (const float *)a->prepared + g * turned_group, d, t.d_image,
                               a->dx + lo * image + g * z.channels, images, more ? a->x + next * image : NULL,
                               more ? a->dy + next * pixels * (size_t)c->k / (c->pool ? 4 : 1) : NULL);
        }
}

static void finish(const struct conv *c, const float *partial, float *dw, float *db, struct conv_part part)
{
    struct shape z = shape_of(c);
    size_t tail = z.filters % VEC_N, last = (z.filters_pad - 1) / DIRECT_BLOCK * DIRECT_BLOCK, taps_all;

    if (part.index)
        return;
    memcpy(dw, partial, (size_t)c->groups * z.group_size * sizeof(float));
    taps_all = (size_t)c->r * z.run;
    for (size_t g = 0; g < (size_t)c->groups; g++) {
        size_t width = block_width(z.filters_pad, last), used = z.filters - last;
        float *o = dw + g * z.group_size + last * taps_all;
        for (size_t i = 0; tail && i < taps_all; i++)
            memset(o + i * width + used, 0, (width - used) * sizeof(float));
        if (db)
            memcpy(db + g * z.filters, partial + (size_t)c->groups * z.group_size + g * z.filters_pad,
                   z.filters * sizeof(float));
    }
}

const struct conv_kernel NATIVE(conv_direct) = {
    .name = "direct",
    .drops = true,
    .covers = covers,
    .weights_floats = weights_floats,
    .place = place,
    .prepared_bytes = prepared_bytes,
    .scratch_bytes = scratch_bytes,
    .aux_row_bytes = aux_row_bytes,
    .partial_floats = partial_floats,
    .prepare = prepare,
    .forward = forward,
    .backward = backward,
    .finish = finish,
};
