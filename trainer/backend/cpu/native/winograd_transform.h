/* winograd_transform.h - the one-dimensional transforms of Winograd's F(4, 3) and F(2, 3), m 4 or 2, on vectors.
 * x has elements xs apart, o os apart. Names as in winograd_private.h: bt is B^T x, b is B x, and so on.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_WINOGRAD_TRANSFORM_H
#define FLEXP_TRAINER_CPU_NATIVE_WINOGRAD_TRANSFORM_H

#include "trainer/backend/cpu/native/vec.h"

VEC_INLINE void winograd_bt(size_t m, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];

    if (m == 2) {
        o[0] = x0 - x2;
        o[os] = x1 + x2;
        o[2 * os] = x2 - x1;
        o[3 * os] = x1 - x3;
    } else {
        vec x4 = x[4 * xs], x5 = x[5 * xs], four = vec_splat(4), five = vec_splat(5), two = vec_splat(2);
        vec a = vec_fnma(four, x2, x4), b = vec_fnma(four, x1, x3), c = x4 - x2, d = x3 - x1;

        o[0] = vec_fma(four, x0, vec_fnma(five, x2, x4));
        o[os] = a + b;
        o[2 * os] = a - b;
        o[3 * os] = vec_fma(two, d, c);
        o[4 * os] = vec_fnma(two, d, c);
        o[5 * os] = vec_fma(four, x1, vec_fnma(five, x3, x5));
    }
}

VEC_INLINE void winograd_b(size_t m, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];

    if (m == 2) {
        o[0] = x0;
        o[os] = x1 - x2 + x3;
        o[2 * os] = x1 - x0 + x2;
        o[3 * os] = -x3;
    } else {
        vec x4 = x[4 * xs], x5 = x[5 * xs], four = vec_splat(4), five = vec_splat(5), two = vec_splat(2);
        vec d1 = x1 - x2, s1 = x1 + x2, d2 = x3 - x4, s2 = x3 + x4;

        o[0] = four * x0;
        o[os] = vec_fma(four, x5 - d1, vec_splat(-2) * d2);
        o[2 * os] = vec_fnma(five, x0, vec_fnma(four, s1, -s2));
        o[3 * os] = vec_fnma(five, x5, vec_fma(two, d2, d1));
        o[4 * os] = x0 + s1 + s2;
        o[5 * os] = x5;
    }
}

VEC_INLINE void winograd_at(size_t m, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];

    if (m == 2) {
        o[0] = x0 + (x1 + x2);
        o[os] = x1 - x2 - x3;
    } else {
        vec x4 = x[4 * xs], x5 = x[5 * xs];
        vec s1 = x1 + x2, d1 = x1 - x2, s2 = x3 + x4, d2 = x3 - x4;

        o[0] = x0 + s1 + s2;
        o[os] = vec_fma(vec_splat(2), d2, d1);
        o[2 * os] = vec_fma(vec_splat(4), s2, s1);
        o[3 * os] = vec_fma(vec_splat(8), d2, d1) + x5;
    }
}

VEC_INLINE void winograd_a(size_t m, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs];

    if (m == 2) {
        o[0] = x0;
        o[os] = x0 + x1;
        o[2 * os] = x0 - x1;
        o[3 * os] = -x1;
    } else {
        vec x2 = x[2 * xs], x3 = x[3 * xs], two = vec_splat(2), four = vec_splat(4);
        vec p = x0 + x2, q = x1 + x3, r = vec_fma(four, x2, x0), t = vec_fma(four, x3, x1);

        o[0] = x0;
        o[os] = p + q;
        o[2 * os] = p - q;
        o[3 * os] = vec_fma(two, t, r);
        o[4 * os] = vec_fnma(two, t, r);
        o[5 * os] = x3;
    }
}

VEC_INLINE void winograd_g(size_t m, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs];

    if (m == 2) {
        vec half = vec_splat(.5f), h = half * (x0 + x2);

        o[0] = x0;
        o[os] = vec_fma(half, x1, h);
        o[2 * os] = vec_fnma(half, x1, h);
        o[3 * os] = x2;
    } else {
        vec sixth = vec_splat(1.f / 6), twelfth = vec_splat(1.f / 12);
        vec s = vec_splat(-1.f / 6) * (x0 + x2), r = vec_fma(vec_splat(1.f / 24), x0, sixth * x2);

        o[0] = vec_splat(.25f) * x0;
        o[os] = vec_fnma(sixth, x1, s);
        o[2 * os] = vec_fma(sixth, x1, s);
        o[3 * os] = vec_fma(twelfth, x1, r);
        o[4 * os] = vec_fnma(twelfth, x1, r);
        o[5 * os] = x2;
    }
}

VEC_INLINE void winograd_gt(size_t m, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];

    if (m == 2) {
        vec half = vec_splat(.5f), s = half * (x1 + x2);

        o[0] = x0 + s;
        o[os] = half * (x1 - x2);
        o[2 * os] = s + x3;
    } else {
        vec x4 = x[4 * xs], x5 = x[5 * xs], sixth = vec_splat(1.f / 6);
        vec s1 = sixth * (x1 + x2), s2 = x3 + x4;

        o[0] = vec_fma(vec_splat(.25f), x0, vec_fma(vec_splat(1.f / 24), s2, -s1));
        o[os] = vec_fma(vec_splat(1.f / 12), x3 - x4, sixth * (x2 - x1));
        o[2 * os] = x5 + vec_fma(sixth, s2, -s1);
    }
}

#endif
