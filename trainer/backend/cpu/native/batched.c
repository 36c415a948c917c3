/* batched.c - convolutions with few channels, a lane for each sample.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/kernels.h"

static bool covers(const struct conv *c)
{
    (void)c;
    return false;
}

const struct conv_kernel NATIVE(conv_batched) = {.name = "batched", .covers = covers};
