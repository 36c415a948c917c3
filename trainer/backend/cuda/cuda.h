/* cuda.h - the CUDA backend. Its code that needs the toolkit is in flexp-cuda.so, which is built wherever nvcc is found
 * and opened at run time: beside the executable, in ../lib/flexp of it, or where FLEXP_CUDA names it. Where there is
 * none, or no driver, or no GPU, opening fails with one line that says so, and the CPU backend is what trains.
 * FLEXP_CUDA_LIBRARIES=none leaves all products to the own kernels: for comparisons.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_CUDA_H
#define FLEXP_TRAINER_CUDA_H

#include "trainer/backend/backend.h"

struct driver;

extern const struct backend_ops BACKEND_CUDA;

/* The toolkit's side; loaded once. -ENODEV: err says what is missing. */
int cuda_driver(const struct driver **ret, struct error *err);
/* What BACKEND_CUDA uses instead: for tests. NULL: the real one again. */
void cuda_use_driver(const struct driver *driver);

/* -EINVAL where FLEXP_CUDA_ROUNDS, _SHARED, _LIBRARIES or _TIMEOUT has a value that means nothing. Opening looks, too. */
int cuda_settings(struct error *err);

/* `flexp-trainer selftest --backend cuda [--json FILE] [--quick] [--bench]`. The exit code. */
int cuda_selftest(int argc, char **argv);

#endif
