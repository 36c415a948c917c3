/* batched_move.c - rows of (H, W, C) to lanes and back, and what a group with rows missing is cut into.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/batched.h"

int NATIVE(batched_shares)(const struct conv *c, int n, struct share shares[LANES])
{
    /* What n rows cost, in pairs of rows of the convolution's output, and the lanes that their first share has. */
    int pairs = (c->pool ? c->p : c->p + 1) / 2, cost[LANES + 1] = {0}, first[LANES + 1] = {0}, count = 0, before = 0;

    for (int rows = 1; rows <= n; rows++) {
        cost[rows] = pairs * 3 / 4; /* what bands cost besides does not pay for less */
        first[rows] = LANES;
        for (int lanes = LANES / 2; lanes; lanes /= 2) {
            int with = (pairs + LANES / lanes - 1) / (LANES / lanes) + (rows > lanes ? cost[rows - lanes] : 0);
            if (with < cost[rows]) {
                cost[rows] = with;
                first[rows] = lanes;
            }
        }
    }
    for (int row0 = 0; row0 < n; count++) {
        struct share *s = &shares[count];
        int left = n - row0, lanes = first[left], bands = LANES / lanes, each = (pairs + bands - 1) / bands,
            high = (c->h + 1) / 2;
        *s = (struct share){.row0 = row0, .n = left < lanes ? left : lanes, .lanes = lanes, .bands = bands,
                            .before = before};
        s->band_p = bands == 1 ? c->p : 2 * each;
        s->band_h = 2 * ((high + bands - 1) / bands) < c->h && bands > 1 ? 2 * ((high + bands - 1) / bands) : c->h;
        before += c->pool ? each : s->band_p;
        row0 += s->n;
    }
    return count;
}

/* Row i of r becomes column i. */
VEC_INLINE void transpose(vec r[VEC_N])
{
#if VEC_N == 16
    __m512 a[16], b[16];

    VEC_UNROLL for (int i = 0; i < 8; i++) {
        a[2 * i] = _mm512_unpacklo_ps((__m512)r[2 * i], (__m512)r[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_ps((__m512)r[2 * i], (__m512)r[2 * i + 1]);
    }
    VEC_UNROLL for (int i = 0; i < 8; i++) {
        int from = 4 * (i / 2) + i % 2;
        b[4 * (i / 2) + 2 * (i % 2)] = (__m512)_mm512_unpacklo_pd((__m512d)a[from], (__m512d)a[from + 2]);
        b[4 * (i / 2) + 2 * (i % 2) + 1] = (__m512)_mm512_unpackhi_pd((__m512d)a[from], (__m512d)a[from + 2]);
    }
    VEC_UNROLL for (int i = 0; i < 4; i++) {
        a[i] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0x88);
        a[i + 4] = _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd);
        a[i + 8] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0x88);
        a[i + 12] = _mm512_shuffle_f32x4(b[i + 8], b[i + 12], 0xdd);
    }
    VEC_UNROLL for (int i = 0; i < 8; i++) {
        r[i] = (vec)_mm512_shuffle_f32x4(a[i], a[i + 8], 0x88);
        r[i + 8] = (vec)_mm512_shuffle_f32x4(a[i], a[i + 8], 0xdd);
    }
#elif VEC_N == 8
    __m256 a[8], b[8];

    VEC_UNROLL for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm256_unpacklo_ps((__m256)r[2 * i], (__m256)r[2 * i + 1]);
        a[2 * i + 1] = _mm256_unpackhi_ps((__m256)r[2 * i], (__m256)r[2 * i + 1]);
    }
    VEC_UNROLL for (int i = 0; i < 4; i++) {
        int from = 4 * (i / 2) + i % 2;
        b[4 * (i / 2) + 2 * (i % 2)] = _mm256_shuffle_ps(a[from], a[from + 2], 0x44);
        b[4 * (i / 2) + 2 * (i % 2) + 1] = _mm256_shuffle_ps(a[from], a[from + 2], 0xee);
    }
    VEC_UNROLL for (int i = 0; i < 4; i++) {
        r[i] = (vec)_mm256_permute2f128_ps(b[i], b[i + 4], 0x20);
        r[i + 4] = (vec)_mm256_permute2f128_ps(b[i], b[i + 4], 0x31);
    }
#else
    vec a[4];

    for (int i = 0; i < 4; i += 2) {
        a[i] = __builtin_shuffle(r[i], r[i + 1], (veci){0, 4, 1, 5});
        a[i + 1] = __builtin_shuffle(r[i], r[i + 1], (veci){2, 6, 3, 7});
    }
    for (int i = 0; i < 2; i++) {
        r[2 * i] = __builtin_shuffle(a[i], a[i + 2], (veci){0, 1, 4, 5});
        r[2 * i + 1] = __builtin_shuffle(a[i], a[i + 2], (veci){2, 3, 6, 7});
    }
#endif
}

/* (pixel, channel) elements of one image row, by number; `pixel` and `plane` are its strides in lanes. */
struct walk {
    int channel, c;
    ptrdiff_t at, pixel, plane;
};

VEC_INLINE ptrdiff_t walk_next(struct walk *w)
{
    ptrdiff_t at = w->at;

    w->at += w->plane;
    if (++w->channel == w->c) {
        w->channel = 0;
        w->at += w->pixel - w->plane * w->c;
    }
    return at;
}

/* n elements from each of 16 runs (NULL: zeros) to lanes; reads up to a vector past a run. */
static void gather_row(const float *const runs[LANES], int n, struct walk to, float *lanes)
{
    for (int e = 0; e < n; e += VEC_N) {
        ptrdiff_t at[VEC_N];
        int some = n - e < VEC_N ? n - e : VEC_N;
        for (int i = 0; i < some; i++)
            at[i] = walk_next(&to);
        for (int part = 0; part < PARTS; part++) {
            vec r[VEC_N];
            VEC_UNROLL for (int i = 0; i < VEC_N; i++)
                r[i] = runs[part * VEC_N + i] ? vec_load(runs[part * VEC_N + i] + e) : vec_zero();
            transpose(r);
            if (some == VEC_N) {
                VEC_UNROLL for (int i = 0; i < VEC_N; i++)
                    vec_store(lanes + at[i] + part * VEC_N, r[i]);
            } else {
                VEC_UNROLL for (int i = 0; i < VEC_N; i++)
                    if (i < some)
                        vec_store(lanes + at[i] + part * VEC_N, r[i]);
            }
        }
    }
}

static void scatter_row(float *const runs[LANES], int n, struct walk from, const float *lanes)
{
    for (int e = 0; e < n; e += VEC_N) {
        ptrdiff_t at[VEC_N];
        int some = n - e < VEC_N ? n - e : VEC_N;
        at[0] = walk_next(&from);
        for (int i = 1; i < VEC_N; i++)
            at[i] = i < some ? walk_next(&from) : at[0];
        for (int part = 0; part < PARTS; part++) {
            vec r[VEC_N];
            VEC_UNROLL for (int i = 0; i < VEC_N; i++)
                r[i] = vec_load(lanes + at[i] + part * VEC_N);
            transpose(r);
            VEC_UNROLL for (int i = 0; i < VEC_N; i++) {
                float *run = runs[part * VEC_N + i];
                if (run && some == VEC_N)
                    vec_store(run + e, r[i]);
                else if (run)
                    vec_store_n(run + e, r[i], (size_t)some);
            }
        }
    }
}

/* n floats of each of `pixels` pixels. */
static void copy_lanes(float *to, const float *from, int pixels, int n)
{
#define COPY(count)                                                                                                    \
    case count:                                                                                                        \
        for (int x = 0; x < pixels; x++)                                                                               \
            memcpy(to + x * LANES, from + x * LANES, count * sizeof(float));                                           \
        break

    switch (n) {
        COPY(1);
        COPY(2);
        COPY(4);
        COPY(8);
        COPY(16);
    default:
        for (int x = 0; x < pixels; x++)
            for (int i = 0; i < n; i++)
                to[x * LANES + i] = from[x * LANES + i];
    }
#undef COPY
}

void NATIVE(batched_load)(const struct load *l, const struct share *s, float *lanes)
{
    int skip = l->left < 0 ? -l->left : 0, lead = l->left + skip; /* columns left out, and of zeros */
    int used = l->w - skip < l->cols - lead ? l->w - skip : l->cols - lead;
    ptrdiff_t plane = (ptrdiff_t)l->rows * l->cols * LANES, row_size = (ptrdiff_t)l->w * l->c;

    for (int v = 0; v < l->rows; v++) {
        const float *runs[LANES] = {NULL};
        bool any = false, full = s->n == LANES;
        for (int band = 0; band < s->bands; band++) {
            int y = band * l->step + l->first + v;
            for (int i = 0; i < s->n && y >= 0 && y < l->h; i++, any = true)
                runs[band * s->lanes + i] = l->image + ((ptrdiff_t)(s->row0 + i) * l->h + y) * row_size + skip * l->c;
        }
        for (int ch = 0; ch < l->c; ch++) {
            float *to = lanes + ch * plane + (ptrdiff_t)v * l->cols * LANES, *inner = to + lead * LANES;
            if (!any) {
                memset(to, 0, (size_t)(l->cols * LANES) * sizeof(float));
                continue;
            }
            memset(to, 0, (size_t)(lead * LANES) * sizeof(float));
            memset(inner + used * LANES, 0, (size_t)((l->cols - lead - used) * LANES) * sizeof(float));
            if (!l->batched)
                continue;
            if (!full)
                memset(inner, 0, (size_t)(used * LANES) * sizeof(float));
            for (int band = 0; band < s->bands; band++) {
                int y = band * l->step + l->first + v;
                if (y >= 0 && y < l->h)
                    copy_lanes(inner + band * s->lanes,
                               l->image + (((ptrdiff_t)ch * l->h + y) * l->w + skip) * LANES + s->row0, used, s->n);
            }
        }
        if (!l->batched && any)
            gather_row(runs, used * l->c, (struct walk){.c = l->c, .pixel = LANES, .plane = plane},
                       lanes + ((ptrdiff_t)v * l->cols + lead) * LANES);
    }
}

void NATIVE(batched_store)(float *image, bool batched, int h, int w, int c, int step, const struct share *s,
                           const float *lanes)
{
    ptrdiff_t plane = (ptrdiff_t)step * w * LANES;

    for (int v = 0; v < step; v++) {
        float *runs[LANES] = {NULL};
        for (int band = 0; band < s->bands && band * step + v < h; band++) {
            int y = band * step + v;
            for (int i = 0; i < s->n && !batched; i++)
                runs[band * s->lanes + i] = image + ((ptrdiff_t)(s->row0 + i) * h + y) * w * c;
            for (int ch = 0; ch < c && batched; ch++)
                copy_lanes(image + ((ptrdiff_t)ch * h + y) * w * LANES + s->row0,
                           lanes + ch * plane + (ptrdiff_t)v * w * LANES + band * s->lanes, w, s->n);
        }
        if (!batched)
            scatter_row(runs, w * c, (struct walk){.c = c, .pixel = LANES, .plane = plane},
                        lanes + (ptrdiff_t)v * w * LANES);
    }
}

void NATIVE(batched_sum_lanes)(const float *lanes, size_t n, float *sums)
{
    for (size_t at = 0; at < n; at += VEC_N) {
        size_t some = n - at < VEC_N ? n - at : VEC_N;
        vec r[VEC_N];
        VEC_UNROLL for (int i = 0; i < VEC_N; i++) {
            r[i] = vec_zero();
            for (int part = 0; part < PARTS && (size_t)i < some; part++)
                r[i] += vec_load(lanes + (at + (size_t)i) * LANES + part * VEC_N);
        }
        transpose(r);
        VEC_UNROLL for (int half = VEC_N / 2; half; half /= 2)
            VEC_UNROLL for (int i = 0; i < half; i++)
                r[i] += r[i + half];
        if (some == VEC_N)
            vec_store(sums + at, vec_load(sums + at) + r[0]);
        else
            vec_store_n(sums + at, vec_load_n(sums + at, some) + r[0], some);
    }
}
