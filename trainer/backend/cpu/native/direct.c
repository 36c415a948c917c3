/* direct.c - convolutions as they are defined, over rows of (H, W, C).
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/kernels.h"

static bool covers(const struct conv *c)
{
    (void)c;
    return false;
}

const struct conv_kernel NATIVE(conv_direct) = {.name = "direct", .covers = covers};
