/* native.h - the CPU backend's own kernels: what a convolution and a dense layer are to them, and the table of kernels of
 * one instruction set.
 *
 * A kernel works on rows [lo, hi) of a batch, so that threads can share a batch. Rows are independent in forward and in
 * the gradient of the input, to the last bit: a row's values depend neither on the other rows nor on where a range begins.
 * Gradients of weights are summed into a `partial` for each of a batch's chunks; a chunk's rows are fixed by the
 * plan, not by the number of threads, and partials are added in the order of the chunks. Work on weights, and a wide
 * layer's on the same rows, can be shared by parts: of the filters or of the channels, so that no sum is divided.
 *
 * Activations: fp32, rows of (H, W, C); or, between convolutions with few channels, "batched": groups of NATIVE_LANES
 * rows, [group][C][H][W][NATIVE_LANES], where ranges begin at multiples of NATIVE_LANES, storage is whole groups, and the
 * values of rows past the batch's end are any, but do not enter sums over rows.
 * Buffers are 64-byte aligned; x, y, dx, dy and weights can be read up to 64 bytes past their end, written never.
 * Nothing allocates. No state: any thread. A value that is no number or infinite stays one in whatever depends on it.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_H
#define FLEXP_TRAINER_CPU_NATIVE_H

#include "common/error.h"
#include "common/rng.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NATIVE_LANES 16

/* y = pool(relu(conv(x) + bias)). Cross-correlation; output (p, q) reads input rows p * stride - pad_top + i. */
struct conv {
    int h, w, c;         /* input */
    int k, r, s;         /* filters, height and width of the kernel */
    int stride, pad_top, pad_left;
    int p, q;            /* output of the convolution; reads past the input's end are zeros */
    int groups;          /* divides c and k */
    bool bias, relu;
    bool pool;           /* max of 2x2, stride 2, p / 2 and q / 2 rounded down; only with relu */
    bool x_batched, y_batched;
    bool need_dx;        /* whether the gradient of x will be asked for, */
    bool add_dx;         /* and added to what stands in dx: where the kernel `adds` */
    size_t batch;        /* rows at most */
    size_t l2_bytes;     /* of a core, for blocks on which no bits depend; 0: 2 MiB */
};

/* Of `n` that share the work; n is 0: there is one. Some may be left with nothing to do. */
struct conv_part {
    size_t index, n;
};

/* As in optim.h. */
struct native_sgd {
    float lr, decay, momentum;
    bool nesterov;
};

/* SGD's step in the place of a gradient. */
struct native_step {
    struct native_sgd sgd;
    float *w, *state; /* both in the working layout; state: read with momentum alone */
};

/* Dropout of y, behind ReLU and pool: value i of y, counted from `first`, is kept and multiplied by scale where bit
 * i % 64 of word i / 64 is set, else it becomes 0. There is one word more than y has bits for. Backward reads scale alone:
 * what is dropped is 0 in y, and in the pool's masks. */
struct native_drop {
    const float *first;
    const uint64_t *kept;
    float scale;
};

/* Where the output of a 2x2 block came from is kept from forward to backward in aux; where no pool follows, backward
 * applies ReLU's mask by y. The gradient is 0 where ReLU's output is 0; the first of equals wins the pool. */
struct conv_args {
    const float *weights, *bias; /* as place says; bias: NULL where there is none */
    void *prepared;              /* prepared_bytes, filled by prepare from these weights; shared by the threads */
    const float *x;
    float *y;
    void *aux;                   /* aux_row_bytes for each row; rows rounded up to NATIVE_LANES */
    const float *dy;             /* of y; backward only, as all below */
    float *dx;                   /* overwritten or, add_dx, added to; NULL: not wanted */
    float *partial;              /* partial_floats; overwritten */
    const struct native_step *step; /* NULL, or, by parts and where all rows are given at once: weights are changed once
                                       dx is there, partial has no dw, finish is given none */
    void *scratch;               /* scratch_bytes, one for each thread; contents need not last */
    const struct native_drop *drop; /* NULL, or, with relu and a kernel that drops: the same in both passes */
    struct conv_part part;       /* of prepare; of forward and backward where by_parts says so */
};

/* Where a filter's weights stand: [c of its group][r][s] at first + c * channel + (r * width of the kernel + s) * tap. */
struct conv_place {
    size_t first, channel, tap;
};

struct conv_kernel {
    const char *name; /* "winograd_f4", "winograd_f2", "winograd_f2_5x5", "direct", "depthwise", "batched" */
    bool drops; /* takes conv_args.drop */
    bool adds;  /* takes conv.add_dx */
    bool (*covers)(const struct conv *c);
    size_t (*weights_floats)(const struct conv *c); /* of the working layout, padding included (kept 0 by all) */
    struct conv_place (*place)(const struct conv *c, int k); /* of filter k in it */
    size_t (*prepared_bytes)(const struct conv *c);
    size_t (*scratch_bytes)(const struct conv *c);
    size_t (*aux_row_bytes)(const struct conv *c);
    size_t (*partial_floats)(const struct conv *c);
    /* Optional: whether forward and backward can be shared by parts: a few rows that many weights meet. The rows of all
     * parts are the same then, and so is the partial, of which each writes its own piece. */
    bool (*by_parts)(const struct conv *c);
    /* Once a step, before forward: transformed or rotated weights; training: for backward too. */
    void (*prepare)(const struct conv *c, const struct conv_args *a, bool training);
    void (*forward)(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi, bool training);
    void (*backward)(const struct conv *c, const struct conv_args *a, size_t lo, size_t hi);
    /* From the sum of the partials: dw in the working layout (padding too, 0), db (NULL where there is none); both
     * overwritten. */
    void (*finish)(const struct conv *c, const float *partial, float *dw, float *db, struct conv_part part);
};

/* y = relu(x W + bias), x rows of `in`, y rows of `out`. Weights: W[i][o], row i at i * stride floats (stride >= out, so
 * that rows start at cache lines and do not alias; padding is 0 and stays 0). */
struct dense {
    size_t in, out, stride;
    bool bias, relu;
};

/* y = relu(gamma (x - mean) / sqrt(var + eps) + beta + skip); skip: NULL or as y. stats: for each row, groups means and
 * groups times 1 / sqrt(var + eps). Batch normalisation: one row of all pixels, groups = channels. */
struct native_norm {
    size_t pixels, channels, groups; /* of a row; groups divides channels */
    double eps;
    bool relu;
};

/* One instruction set. */
struct native {
    const char *name; /* "avx512", "avx2", "portable" */
    int lanes;        /* floats of a vector */
    const struct conv_kernel *const *convs; /* NULL-terminated */

    size_t (*dense_stride)(size_t out);
    /* Outputs [from, to) of rows [lo, hi); from a multiple of 2 x NATIVE_LANES, to likewise or out. drop: NULL, or with
     * relu. */
    void (*dense_forward)(const struct dense *d, const float *w, const float *bias, const float *x, float *y,
                          const struct native_drop *drop, size_t lo, size_t hi, size_t from, size_t to);
    /* dy becomes 0 where ReLU's y is, elsewhere times drop's scale; db (NULL: none) = sums over the rows, overwritten. */
    void (*dense_mask)(const struct dense *d, const float *y, float *dy, float *db, const struct native_drop *drop,
                       size_t rows);
    /* For inputs [i0, i1), i0 a multiple of 64: dx (NULL: not wanted) of all rows, overwritten, and the gradients of these
     * rows of W: dw[(i - i0) * stride + o], overwritten, padding 0. */
    void (*dense_backward)(const struct dense *d, const float *w, const float *x, const float *dy, float *dx, float *dw,
                           size_t rows, size_t i0, size_t i1, void *scratch);
    /* dense_backward, and SGD's step in its place where gradients are not wanted for themselves. w becomes what the step
     * makes of `from` (which may be w); state: as w, NULL without momentum. As optimizer_step, but for products and sums
     * that are rounded once. */
    void (*dense_backward_sgd)(const struct dense *d, const struct native_sgd *sgd, const float *from, float *w,
                               float *state, const float *x, const float *dy, float *dx, size_t rows, size_t i0,
                               size_t i1, void *scratch);
    size_t (*dense_scratch_bytes)(const struct dense *d, size_t rows);

    /* Values [lo, hi) of a tensor, lo a multiple of 64; rng stands at value 0 and is not moved: behind the whole tensor the
     * caller advances it by ceil(n / 2). Each number drawn decides two values, its low 16 bits the first: below rate *
     * 65536, rounded to the nearest whole number, a value is dropped. kept: a bit for each value, value i at bit i % 64 of word i / 64. y may be x, dx dy.
     * dropout_keep: the decisions alone. */
    void (*dropout_keep)(double rate, const struct pcg32 *rng, uint64_t *kept, size_t lo, size_t hi);
    void (*dropout)(double rate, const struct pcg32 *rng, const float *x, float *y, uint64_t *kept, size_t lo, size_t hi);
    void (*dropout_backward)(double rate, const uint64_t *kept, const float *dy, float *dx, size_t lo, size_t hi);

    /* Rows [lo, hi). ret_var: NULL, or the biased variances of the last row's groups. y may be x or skip. */
    size_t (*norm_scratch_bytes)(const struct native_norm *n);
    void (*norm_forward)(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                         const float *beta, float *stats, double *ret_var, void *scratch, size_t lo, size_t hi);
    /* With statistics that are given, the same for all rows (groups values each): batch normalisation when evaluating. */
    void (*norm_apply)(const struct native_norm *n, const float *x, const float *skip, float *y, const float *gamma,
                       const float *beta, const float *mean, const float *rstd, void *scratch, size_t lo, size_t hi);
    /* dx (NULL: not wanted) is overwritten and may be dy or dmasked, but not x. y is read with relu alone. dmasked: NULL,
     * or where dy behind ReLU's mask goes, which is the gradient of skip; may be dy. partial: 2 x channels, dgamma and
     * dbeta, added to, a row at a time. */
    void (*norm_backward)(const struct native_norm *n, const float *x, const float *y, const float *dy, float *dx,
                          float *dmasked, const float *gamma, const float *stats, float *partial, void *scratch, size_t lo,
                          size_t hi);

    void (*add)(const float *x, float *y, size_t n); /* y += x */
    /* What this core does of fused multiply-adds (of multiplications and additions on portable), 2 FLOPs each, when
     * nothing is in its way; takes that many seconds. */
    double (*peak_flops)(double seconds);
};

/* The set to use: the best that this processor has, or what FLEXP_ISA names; -EINVAL where that is none of them, or the
 * processor lacks it. */
int native_pick(const struct native **ret, struct error *err);
/* All sets that this processor has, best first, NULL-terminated. */
const struct native *const *native_all(void);

#endif
