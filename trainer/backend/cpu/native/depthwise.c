/* depthwise.c - convolutions of each channel by itself.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/backend/cpu/native/kernels.h"

static bool covers(const struct conv *c)
{
    (void)c;
    return false;
}

const struct conv_kernel NATIVE(conv_depthwise) = {.name = "depthwise", .covers = covers};
