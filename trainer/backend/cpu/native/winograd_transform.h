/* winograd_transform.h - the one-dimensional transforms of Winograd's F(4, 3), F(2, 3) and F(4, 2), on vectors. a: the
 * frequencies, 6, 4 or 5. n: what there is of them on the input's side, a, or of F(4, 2) 4: that is F(4, 1), whose taps
 * end in nothing at infinity. x has elements xs apart, o os apart. Names as in winograd_private.h: bt is B^T x, b is
 * B x, and so on. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_WINOGRAD_TRANSFORM_H
#define FLEXP_TRAINER_CPU_NATIVE_WINOGRAD_TRANSFORM_H

#include "trainer/backend/cpu/native/vec.h"

VEC_INLINE void winograd_bt(size_t a, size_t n, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];

    if (a == 4) {
        o[0] = x0 - x2;
        o[os] = x1 + x2;
        o[2 * os] = x2 - x1;
        o[3 * os] = x1 - x3;
    } else if (a == 5) {
        vec two = vec_splat(2), d = x3 - x1;

        o[0] = vec_fma(two, x0 - x2, d);
        o[os] = vec_fnma(two, x1, x3 - x2);
        o[2 * os] = vec_fma(two, x1, vec_fnma(vec_splat(3), x2, x3));
        o[3 * os] = d;
        if (n == 5)
            o[4 * os] = vec_fnma(two, d, x[4 * xs] - x2);
    } else {
        vec x4 = x[4 * xs], x5 = x[5 * xs], four = vec_splat(4), five = vec_splat(5), two = vec_splat(2);
        vec p = vec_fnma(four, x2, x4), q = vec_fnma(four, x1, x3), c = x4 - x2, d = x3 - x1;

        o[0] = vec_fma(four, x0, vec_fnma(five, x2, x4));
        o[os] = p + q;
        o[2 * os] = p - q;
        o[3 * os] = vec_fma(two, d, c);
        o[4 * os] = vec_fnma(two, d, c);
        o[5 * os] = vec_fma(four, x1, vec_fnma(five, x3, x5));
    }
}

VEC_INLINE void winograd_b(size_t a, size_t n, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];

    if (a == 4) {
        o[0] = x0;
        o[os] = x1 - x2 + x3;
        o[2 * os] = x1 - x0 + x2;
        o[3 * os] = -x3;
    } else if (a == 5) {
        vec two = vec_splat(2), p = x2 - x1;

        o[0] = two * x0;
        o[os] = vec_fma(two, p, -x0 - x3);
        o[2 * os] = vec_fnma(two, x0 + x2, -x1 - x2);
        o[3 * os] = x0 + x1 + x2 + x3;
        if (n == 5) {
            vec x4 = x[4 * xs];
            o[os] = vec_fma(two, x4, o[os]);
            o[2 * os] -= x4;
            o[3 * os] = vec_fnma(two, x4, o[3 * os]);
            o[4 * os] = x4;
        }
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

VEC_INLINE void winograd_at(size_t a, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];

    if (a == 4) {
        o[0] = x0 + (x1 + x2);
        o[os] = x1 - x2 - x3;
    } else if (a == 5) {
        vec s = x1 + x2, d = x1 - x2;

        o[0] = x0 + s + x3;
        o[os] = vec_fma(vec_splat(2), x3, d);
        o[2 * os] = vec_fma(vec_splat(4), x3, s);
        o[3 * os] = vec_fma(vec_splat(8), x3, d) + x[4 * xs];
    } else {
        vec x4 = x[4 * xs], x5 = x[5 * xs];
        vec s1 = x1 + x2, d1 = x1 - x2, s2 = x3 + x4, d2 = x3 - x4;

        o[0] = x0 + s1 + s2;
        o[os] = vec_fma(vec_splat(2), d2, d1);
        o[2 * os] = vec_fma(vec_splat(4), s2, s1);
        o[3 * os] = vec_fma(vec_splat(8), d2, d1) + x5;
    }
}

VEC_INLINE void winograd_a(size_t a, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs];

    if (a == 4) {
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
        if (a == 6)
            o[4 * os] = vec_fnma(two, t, r);
        o[(a - 1) * os] = x3;
    }
}

VEC_INLINE void winograd_g(size_t a, size_t n, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0];

    if (a == 5) {
        vec h = vec_splat(.5f) * x0, s = vec_splat(1.f / 6) * x0;

        o[0] = h;
        o[os] = -h;
        o[2 * os] = -s;
        o[3 * os] = s;
        if (n == 5) {
            vec x1 = x[xs];
            o[os] = vec_fnma(vec_splat(.5f), x1, o[os]);
            o[2 * os] = vec_fma(vec_splat(1.f / 6), x1, o[2 * os]);
            o[3 * os] = vec_fma(vec_splat(1.f / 3), x1, o[3 * os]);
            o[4 * os] = x1;
        }
    } else if (a == 4) {
        vec x1 = x[xs], x2 = x[2 * xs];
        vec half = vec_splat(.5f), h = half * (x0 + x2);

        o[0] = x0;
        o[os] = vec_fma(half, x1, h);
        o[2 * os] = vec_fnma(half, x1, h);
        o[3 * os] = x2;
    } else {
        vec x1 = x[xs], x2 = x[2 * xs];
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

VEC_INLINE void winograd_gt(size_t a, size_t n, const vec *x, size_t xs, vec *o, size_t os)
{
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];

    if (a == 4) {
        vec half = vec_splat(.5f), s = half * (x1 + x2);

        o[0] = x0 + s;
        o[os] = half * (x1 - x2);
        o[2 * os] = s + x3;
    } else if (a == 5) {
        vec half = vec_splat(.5f), sixth = vec_splat(1.f / 6);

        o[0] = vec_fma(half, x0 - x1, sixth * (x3 - x2));
        if (n == 5)
            o[os] = vec_fma(vec_splat(1.f / 3), x3, vec_fma(sixth, x2, vec_fnma(half, x1, x[4 * xs])));
    } else {
        vec x4 = x[4 * xs], x5 = x[5 * xs], sixth = vec_splat(1.f / 6);
        vec s1 = sixth * (x1 + x2), s2 = x3 + x4;

        o[0] = vec_fma(vec_splat(.25f), x0, vec_fma(vec_splat(1.f / 24), s2, -s1));
        o[os] = vec_fma(vec_splat(1.f / 12), x3 - x4, sixth * (x2 - x1));
        o[2 * os] = x5 + vec_fma(sixth, s2, -s1);
    }
}

#endif
