/* winograd_transform.h - the one-dimensional transforms of Winograd's F(4, 3), F(2, 3), F(4, 2) and F(2, 5), on
 * vectors. n: the frequencies there are on the input's side: all, or of F(4, 2) 4: that is F(4, 1), whose taps end in
 * nothing at infinity. x has elements xs apart, o os apart. Names as in winograd_private.h: bt is B^T x, b is B x, and
 * so on. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CPU_NATIVE_WINOGRAD_TRANSFORM_H
#define FLEXP_TRAINER_CPU_NATIVE_WINOGRAD_TRANSFORM_H

#include "trainer/backend/cpu/native/vec.h"

enum winograd_form { WINOGRAD_F43, WINOGRAD_F23, WINOGRAD_F42, WINOGRAD_F25 };

/* Outputs, frequencies, the kernel's side and the stride: each a constant where the form is. */
VEC_INLINE size_t winograd_m(enum winograd_form form)
{
    return form == WINOGRAD_F43 || form == WINOGRAD_F42 ? 4 : 2;
}

VEC_INLINE size_t winograd_side(enum winograd_form form)
{
    return form == WINOGRAD_F23 ? 4 : form == WINOGRAD_F42 ? 5 : 6;
}

VEC_INLINE size_t winograd_kernel(enum winograd_form form)
{
    return form == WINOGRAD_F25 ? 5 : 3;
}

VEC_INLINE size_t winograd_stride(enum winograd_form form)
{
    return form == WINOGRAD_F42 ? 2 : 1;
}

/* The points: 0, p, -p, q, -q and infinity; F(4, 2) does without 0, F(2, 3) has 0, 1, -1 and infinity. */
VEC_INLINE double winograd_p(enum winograd_form form)
{
    return form == WINOGRAD_F42 ? 1.25 : .625;
}

VEC_INLINE double winograd_q(enum winograd_form form)
{
    return form == WINOGRAD_F42 ? .375 : 1.5;
}

/* What G's row of a point is multiplied by, 1 over the product of its distances from the other finite ones: of p if
 * other is q, of q if it is p. Of -p and -q it is the same where 0 is among them, else its negative. */
VEC_INLINE double winograd_scale(enum winograd_form form, double of, double other)
{
    return 1 / ((form == WINOGRAD_F42 ? 2 * of : 2 * of * of) * (of * of - other * other));
}

/* Of a point and its negative: even part + and - odd part. */
VEC_INLINE void winograd_pair(vec even, double factor, vec odd, vec *o, size_t os)
{
    o[0] = vec_fma(vec_splat((float)factor), odd, even);
    o[os] = vec_fnma(vec_splat((float)factor), odd, even);
}

/* a x + b y */
VEC_INLINE vec winograd_mix(double a, vec x, double b, vec y)
{
    return vec_fma(vec_splat((float)a), x, vec_splat((float)b) * y);
}

VEC_INLINE void winograd_bt(enum winograd_form form, size_t n, const vec *x, size_t xs, vec *o, size_t os)
{
    const double p = winograd_p(form), q = winograd_q(form), pp = p * p, qq = q * q;
    const vec square_p = vec_splat((float)pp), square_q = vec_splat((float)qq);
    const vec product = vec_splat((float)(pp * qq)), sum = vec_splat((float)(pp + qq));
    vec x0 = x[0], x1 = x[xs], x2 = x[2 * xs], x3 = x[3 * xs];

    if (form == WINOGRAD_F23) {
        o[0] = x0 - x2;
        o[os] = x1 + x2;
        o[2 * os] = x2 - x1;
        o[3 * os] = x1 - x3;
    } else if (form == WINOGRAD_F42) {
        winograd_pair(vec_fnma(square_q, x1, x3), p, vec_fnma(square_q, x0, x2), o, os);
        winograd_pair(vec_fnma(square_p, x1, x3), q, vec_fnma(square_p, x0, x2), o + 2 * os, os);
        if (n == 5)
            o[4 * os] = vec_fma(product, x0, vec_fnma(sum, x2, x[4 * xs]));
    } else {
        vec x4 = x[4 * xs], x5 = x[5 * xs];

        o[0] = vec_fma(product, x0, vec_fnma(sum, x2, x4));
        winograd_pair(vec_fnma(square_q, x2, x4), p, vec_fnma(square_q, x1, x3), o + os, os);
        winograd_pair(vec_fnma(square_p, x2, x4), q, vec_fnma(square_p, x1, x3), o + 3 * os, os);
        o[5 * os] = vec_fma(product, x1, vec_fnma(sum, x3, x5));
    }
}

VEC_INLINE void winograd_b(enum winograd_form form, size_t n, const vec *x, size_t xs, vec *o, size_t os)
{
    const double p = winograd_p(form), q = winograd_q(form), pp = p * p, qq = q * q;
    const vec product = vec_splat((float)(pp * qq)), sum = vec_splat((float)(pp + qq));
    vec x0 = x[0];

    if (form == WINOGRAD_F23) {
        vec x1 = x[xs], x2 = x[2 * xs];

        o[0] = x0;
        o[os] = x1 - x2 + x[3 * xs];
        o[2 * os] = x1 - x0 + x2;
        o[3 * os] = -x[3 * xs];
    } else {
        const vec *at = form == WINOGRAD_F42 ? x : x + xs;
        vec d1 = at[0] - at[xs], s1 = at[0] + at[xs], d2 = at[2 * xs] - at[3 * xs], s2 = at[2 * xs] + at[3 * xs];
        vec d = winograd_mix(p * qq, d1, q * pp, d2), e = winograd_mix(p, d1, q, d2);
        vec s = winograd_mix(qq, s1, pp, s2);

        if (form == WINOGRAD_F43 || form == WINOGRAD_F25) {
            vec x5 = x[5 * xs];

            o[0] = product * x0;
            o[os] = vec_fma(product, x5, -d);
            o[2 * os] = vec_fnma(sum, x0, -s);
            o[3 * os] = vec_fnma(sum, x5, e);
            o[4 * os] = x0 + s1 + s2;
            o[5 * os] = x5;
        } else {
            o[0] = n == 5 ? vec_fma(product, x[4 * xs], -d) : -d;
            o[os] = -s;
            o[2 * os] = n == 5 ? vec_fnma(sum, x[4 * xs], e) : e;
            o[3 * os] = s1 + s2;
            if (n == 5)
                o[4 * os] = x[4 * xs];
        }
    }
}

VEC_INLINE void winograd_at(enum winograd_form form, const vec *x, size_t xs, vec *o, size_t os)
{
    const double p = winograd_p(form), q = winograd_q(form), pp = p * p, qq = q * q;
    vec x0 = x[0];

    if (form == WINOGRAD_F23) {
        vec x1 = x[xs], x2 = x[2 * xs];

        o[0] = x0 + (x1 + x2);
        o[os] = x1 - x2 - x[3 * xs];
    } else {
        const vec *at = form == WINOGRAD_F42 ? x : x + xs;
        vec d1 = at[0] - at[xs], s1 = at[0] + at[xs], d2 = at[2 * xs] - at[3 * xs], s2 = at[2 * xs] + at[3 * xs];
        vec last = at[4 * xs];

        o[0] = form == WINOGRAD_F42 ? s1 + s2 : x0 + s1 + s2;
        o[os] = winograd_mix(q, d2, p, d1);
        if (winograd_m(form) == 2) {
            o[os] += last;
        } else {
            o[2 * os] = winograd_mix(qq, s2, pp, s1);
            o[3 * os] = winograd_mix(q * qq, d2, p * pp, d1) + last;
        }
    }
}

VEC_INLINE void winograd_a(enum winograd_form form, const vec *x, size_t xs, vec *o, size_t os)
{
    const double p = winograd_p(form), q = winograd_q(form), pp = p * p, qq = q * q;
    vec x0 = x[0], x1 = x[xs];

    if (form == WINOGRAD_F23) {
        o[0] = x0;
        o[os] = x0 + x1;
        o[2 * os] = x0 - x1;
        o[3 * os] = -x1;
    } else if (form == WINOGRAD_F25) {
        o[0] = x0;
        winograd_pair(x0, p, x1, o + os, os);
        winograd_pair(x0, q, x1, o + 3 * os, os);
        o[5 * os] = x1;
    } else {
        const vec square_p = vec_splat((float)pp), square_q = vec_splat((float)qq);
        vec x2 = x[2 * xs], x3 = x[3 * xs], *to = form == WINOGRAD_F42 ? o : o + os;

        if (form == WINOGRAD_F43)
            o[0] = x0;
        winograd_pair(vec_fma(square_p, x2, x0), p, vec_fma(square_p, x3, x1), to, os);
        winograd_pair(vec_fma(square_q, x2, x0), q, vec_fma(square_q, x3, x1), to + 2 * os, os);
        to[4 * os] = x3;
    }
}

VEC_INLINE void winograd_g(enum winograd_form form, size_t n, const vec *x, size_t xs, vec *o, size_t os)
{
    const double p = winograd_p(form), q = winograd_q(form), pp = p * p, qq = q * q;
    const double scale_p = winograd_scale(form, p, q), scale_q = winograd_scale(form, q, p);
    vec x0 = x[0];

    if (form == WINOGRAD_F23) {
        vec x1 = x[xs], x2 = x[2 * xs];
        vec half = vec_splat(.5f), h = half * (x0 + x2);

        o[0] = x0;
        o[os] = vec_fma(half, x1, h);
        o[2 * os] = vec_fnma(half, x1, h);
        o[3 * os] = x2;
    } else if (form == WINOGRAD_F42) {
        vec at_p = vec_splat((float)scale_p) * x0, at_q = vec_splat((float)scale_q) * x0;

        o[0] = at_p;
        o[os] = -at_p;
        o[2 * os] = at_q;
        o[3 * os] = -at_q;
        if (n == 5) {
            vec x1 = x[xs], of_p = vec_splat((float)(scale_p * p)), of_q = vec_splat((float)(scale_q * q));

            for (size_t i = 0; i < 2; i++) {
                o[i * os] = vec_fma(of_p, x1, o[i * os]);
                o[(i + 2) * os] = vec_fma(of_q, x1, o[(i + 2) * os]);
            }
            o[4 * os] = x1;
        }
    } else {
        vec x1 = x[xs], x2 = x[2 * xs];
        vec even_p = winograd_mix(scale_p * pp, x2, scale_p, x0), even_q = winograd_mix(scale_q * qq, x2, scale_q, x0);
        vec odd_p = x1, odd_q = x1, last = x2;

        if (form == WINOGRAD_F25) {
            last = x[4 * xs];
            even_p = vec_fma(vec_splat((float)(scale_p * pp * pp)), last, even_p);
            even_q = vec_fma(vec_splat((float)(scale_q * qq * qq)), last, even_q);
            odd_p = vec_fma(vec_splat((float)pp), x[3 * xs], odd_p);
            odd_q = vec_fma(vec_splat((float)qq), x[3 * xs], odd_q);
        }
        o[0] = vec_splat((float)(1 / (pp * qq))) * x0;
        winograd_pair(even_p, scale_p * p, odd_p, o + os, os);
        winograd_pair(even_q, scale_q * q, odd_q, o + 3 * os, os);
        o[5 * os] = last;
    }
}

VEC_INLINE void winograd_gt(enum winograd_form form, size_t n, const vec *x, size_t xs, vec *o, size_t os)
{
    const double p = winograd_p(form), q = winograd_q(form), pp = p * p, qq = q * q;
    const double scale_p = winograd_scale(form, p, q), scale_q = winograd_scale(form, q, p);

    if (form == WINOGRAD_F23) {
        vec half = vec_splat(.5f), s = half * (x[xs] + x[2 * xs]);

        o[0] = x[0] + s;
        o[os] = half * (x[xs] - x[2 * xs]);
        o[2 * os] = s + x[3 * xs];
    } else {
        const vec *at = form == WINOGRAD_F42 ? x : x + xs;
        vec d1 = at[0] - at[xs], s1 = at[0] + at[xs], d2 = at[2 * xs] - at[3 * xs], s2 = at[2 * xs] + at[3 * xs];

        if (form == WINOGRAD_F42) {
            o[0] = winograd_mix(scale_p, d1, scale_q, d2);
            if (n == 5)
                o[os] = winograd_mix(scale_p * p, s1, scale_q * q, s2) + at[4 * xs];
            return;
        }
        o[0] = vec_fma(vec_splat((float)(1 / (pp * qq))), x[0], winograd_mix(scale_p, s1, scale_q, s2));
        o[os] = winograd_mix(scale_p * p, d1, scale_q * q, d2);
        o[2 * os] = winograd_mix(scale_p * pp, s1, scale_q * qq, s2);
        if (form == WINOGRAD_F25) {
            o[3 * os] = winograd_mix(scale_p * p * pp, d1, scale_q * q * qq, d2);
            o[4 * os] = winograd_mix(scale_p * pp * pp, s1, scale_q * qq * qq, s2);
        }
        o[(winograd_kernel(form) - 1) * os] += at[4 * xs];
    }
}

#endif
