#!/usr/bin/env python3
"""What rounding does to a Winograd convolution by the points its polynomials are evaluated at: root mean square errors in float32
of the output and of both gradients, relative, for pairs of points on a grid and for those of others.

    tests/bench/cpu/points.py [F43|F25|F42 ...]

F(m, r): m outputs, r taps in each direction; infinity is always a point. trainer/backend/cpu/native/winograd_transform.h has the best
of F25, which F43 shares and is within 1% of its own best, and of F42. Matrices as in Lavin and Gray, arXiv 1509.09308. Needs numpy. SPDX-License-Identifier: Apache-2.0
"""
import sys
from fractions import Fraction

import numpy as np

CHANNELS, FILTERS, TILES = 32, 16, 256


def pairs(zero, p, q):
    return ([Fraction(0)] if zero else []) + [p, -p, q, -q]


def sixteenths(low, high, step):
    return [Fraction(n, 16) for n in range(low, high + 1, step)]


FORMS = {
    "F43": (4, 3, [pairs(True, Fraction(1), Fraction(2)), [Fraction(0), *(Fraction(n) for n in (1, -1, 2)), Fraction(-1, 2)],
                   *(pairs(True, p, q) for p in sixteenths(8, 16, 2) for q in sixteenths(20, 28, 2))]),
    "F25": (2, 5, [pairs(True, Fraction(1), Fraction(2)), [Fraction(0), *(Fraction(n) for n in (1, -1, 2)), Fraction(-1, 2)],
                   *(pairs(True, p, q) for p in sixteenths(8, 16, 2) for q in sixteenths(20, 28, 2))]),
    "F42": (4, 2, [[Fraction(n) for n in (0, 1, -1, 2)], [Fraction(0), Fraction(3, 4), Fraction(-3, 4), Fraction(3, 2)],
                   *(pairs(False, p, q) for p in sixteenths(16, 24, 2) for q in sixteenths(4, 10, 2))]),
}


def polynomial(roots):
    """Its coefficients, the constant one first."""
    c = [Fraction(1)]
    for root in roots:
        c = [(c[k - 1] if k else 0) - root * (c[k] if k < len(c) else 0) for k in range(len(c) + 1)]
    return c


def matrices(points, m, r):
    """A^T, G, B^T."""
    n = m + r - 1
    at = [[p ** i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    g, bt = [], []
    for p in points:
        others = [q for q in points if q != p]
        share = Fraction(1)
        for q in others:
            share *= p - q
        g.append([p ** k / share for k in range(r)])
        c = polynomial(others)
        bt.append(c + [Fraction(0)] * (n - len(c)))
    g.append([Fraction(k == r - 1) for k in range(r)])
    bt.append(polynomial(points))
    return [np.array([[float(x) for x in row] for row in matrix]) for matrix in (at, g, bt)]


def errors(points, m, r):
    rng = np.random.default_rng(0)
    n = m + r - 1
    at, g, bt = matrices(points, m, r)
    x, w, dy = (rng.standard_normal(shape).astype(np.float32) for shape in
                ((TILES, CHANNELS, n, n), (FILTERS, CHANNELS, r, r), (TILES, FILTERS, m, m)))

    def both(matrix, values):
        matrix = matrix.astype(np.float32)
        return np.einsum("ia,...ab,jb->...ij", matrix, values, matrix, optimize=True).astype(np.float32)

    v, u, d = both(bt, x), both(g, w), both(at.T, dy)
    found = (both(at, np.einsum("tcij,kcij->tkij", v, u, optimize=True)),
             both(bt.T, np.einsum("tkij,kcij->tcij", d, u, optimize=True)),
             both(g.T, np.einsum("tcij,tkij->kcij", v, d, optimize=True)))
    x, w, dy = (a.astype(np.float64) for a in (x, w, dy))
    truth = (np.zeros(dy.shape), np.zeros(x.shape), np.zeros(w.shape))
    for a in range(r):
        for b in range(r):
            piece, tap = x[:, :, a:a + m, b:b + m], w[:, :, a, b]
            truth[0][...] += np.einsum("tcij,kc->tkij", piece, tap, optimize=True)
            truth[1][:, :, a:a + m, b:b + m] += np.einsum("tkij,kc->tcij", dy, tap, optimize=True)
            truth[2][:, :, a, b] = np.einsum("tcij,tkij->kc", piece, dy, optimize=True)
    return [float(np.sqrt(np.mean((f - t) ** 2) / np.mean(t ** 2))) for f, t in zip(found, truth)]


def main():
    names = sys.argv[1:] or list(FORMS)
    for name in names:
        if name not in FORMS:
            sys.exit(f"{name}: must be one of {', '.join(FORMS)}")
    for name in names:
        m, r, sets = FORMS[name]
        for points in sets:
            y, dx, dw = errors(points, m, r)
            print(f"{name}  y {y:.2e}  dx {dx:.2e}  dw {dw:.2e}  {' '.join(str(p) for p in points)}", flush=True)


if __name__ == "__main__":
    main()
