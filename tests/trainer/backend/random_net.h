/* random_net.h - networks at random: lists of layers that fit each other, of every kind, with sizes that are no multiple
 * of anything. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_RANDOM_NET_H
#define FLEXP_TESTS_RANDOM_NET_H

#include "common/rng.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

struct random_net {
    struct pcg32 rng;
    int filters_max, channels, height, width, classes;
    int c, h, w; /* of the output so far */
    bool batch_norm;
    char text[3900]; /* a JSON list of layers */
    size_t used;
};

static int net_below(struct random_net *n, int end)
{
    return (int)rng_below(&n->rng, (uint32_t)end);
}

static bool net_chance(struct random_net *n, int percent)
{
    return net_below(n, 100) < percent;
}

static int net_pick(struct random_net *n, const int *list, size_t count)
{
    return list[net_below(n, (int)count)];
}

#define NET_PICK(n, ...) net_pick(n, (const int[]){__VA_ARGS__}, sizeof((const int[]){__VA_ARGS__}) / sizeof(int))

__attribute__((format(printf, 2, 3))) static void net_add(struct random_net *n, const char *format, ...)
{
    va_list arguments;
    int length;

    va_start(arguments, format);
    length = vsnprintf(n->text + n->used, sizeof n->text - n->used, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof n->text - n->used)
        abort();
    n->used += (size_t)length;
}

static const char *net_relu(struct random_net *n, int percent)
{
    return net_chance(n, percent) ? ", \"activation\": \"relu\"" : "";
}

static int net_divisor(struct random_net *n, int of)
{
    int divisor;

    do
        divisor = 1 + net_below(n, of);
    while (of % divisor);
    return divisor;
}

/* kernel 0: any that fits. Stride 1 and "same" where the sizes are to stay. */
static void net_conv(struct random_net *n, int filters, int kernel, int stride, bool stay)
{
    int groups = 1, pad = -1, side = n->h < n->w ? n->h : n->w;
    char padding[16];

    if (!kernel)
        kernel = NET_PICK(n, 1, 2, 3, 3, 3, 3, 5, 7);
    if (stay || kernel > side || net_chance(n, 50)) {
        snprintf(padding, sizeof padding, "\"same\"");
    } else {
        pad = net_below(n, (kernel + 1) / 2 + (kernel > 1));
        snprintf(padding, sizeof padding, "%d", pad);
    }
    if (n->c > 1 && net_chance(n, 15)) {
        groups = net_chance(n, 60) ? n->c : net_divisor(n, n->c);
        if (stay && filters % groups)
            groups = 1;
        else if (!stay)
            filters = groups * (1 + net_below(n, filters / groups + 1));
    }
    net_add(n, "{\"conv2d\": {\"filters\": %d, \"kernel\": %d, \"stride\": %d, \"padding\": %s, \"groups\": %d, \"bias\": %s%s}}",
            filters, kernel, stride, padding, groups, net_chance(n, 80) ? "true" : "false", net_relu(n, 60));
    n->c = filters;
    n->h = pad < 0 ? (n->h + stride - 1) / stride : (n->h + 2 * pad - kernel) / stride + 1;
    n->w = pad < 0 ? (n->w + stride - 1) / stride : (n->w + 2 * pad - kernel) / stride + 1;
}

static void net_pool(struct random_net *n, bool stay)
{
    const char *name = net_chance(n, 65) ? "max_pool2d" : "avg_pool2d";
    int size = stay ? 3 : NET_PICK(n, 2, 2, 2, 3), stride = stay ? 1 : NET_PICK(n, 2, 2, 2, 1, 3);
    int pad = stay ? 1 : net_chance(n, 70) ? 0 : size / 2;

    if (n->h + 2 * pad < size || n->w + 2 * pad < size)
        size = stride = 1, pad = 0;
    net_add(n, "{\"%s\": {\"size\": %d, \"stride\": %d, \"padding\": %d}}", name, size, stride, pad);
    n->h = (n->h + 2 * pad - size) / stride + 1;
    n->w = (n->w + 2 * pad - size) / stride + 1;
}

/* A large eps: few values that hardly differ would make every gradient a difference of large numbers. */
static void net_norm(struct random_net *n)
{
    if (net_chance(n, 50)) {
        net_add(n, "{\"batch_norm\": {\"eps\": 0.05%s}}", net_relu(n, 60));
        n->batch_norm = true;
    } else {
        net_add(n, "{\"group_norm\": {\"groups\": %d, \"eps\": 0.05%s}}", net_divisor(n, n->c), net_relu(n, 60));
    }
}

static int net_filters(struct random_net *n)
{
    return net_chance(n, 40) ? NET_PICK(n, 4, 8, 16, 32) : 1 + net_below(n, n->filters_max);
}

/* The sizes stay as they are. */
static void net_branch(struct random_net *n)
{
    int layers = 1 + net_below(n, 3);

    for (int i = 0; i < layers; i++) {
        net_add(n, i ? ", " : "");
        switch (net_below(n, 6)) {
        case 0:
            net_norm(n);
            break;
        case 1:
            net_pool(n, true);
            break;
        case 2:
            net_add(n, "\"relu\"");
            break;
        default:
            net_conv(n, n->c, 0, 1, true);
            break;
        }
    }
}

static void net_residual(struct random_net *n)
{
    struct random_net before = *n;
    int filters = net_filters(n), stride = 1 + net_below(n, 2), norm = net_chance(n, 50);

    if (net_chance(n, 60)) {
        net_add(n, "{\"residual\": {\"layers\": [");
        net_branch(n);
    } else {
        net_add(n, "{\"residual\": {\"shortcut\": [{\"conv2d\": {\"filters\": %d, \"kernel\": 1, \"stride\": %d, "
                   "\"padding\": \"same\"}}], \"layers\": [{\"conv2d\": {\"filters\": %d, \"kernel\": 3, \"stride\": %d, "
                   "\"padding\": \"same\", \"bias\": false%s}}", filters, stride, filters, stride, net_relu(n, 50));
        n->c = filters;
        n->h = (before.h + stride - 1) / stride;
        n->w = (before.w + stride - 1) / stride;
    }
    if (norm) {
        net_add(n, ", ");
        net_norm(n);
    }
    net_add(n, "]%s}}", net_relu(n, 50));
}

static void net_image_layer(struct random_net *n)
{
    int what = net_below(n, 20);

    if (what < 10)
        net_conv(n, net_filters(n), 0, net_chance(n, 80) ? 1 : 2, false);
    else if (what < 13)
        net_pool(n, false);
    else if (what < 15)
        net_norm(n);
    else if (what < 18)
        net_residual(n);
    else if (what < 19)
        net_add(n, "{\"dropout\": {\"rate\": 0.3}}");
    else
        net_add(n, "\"relu\"");
}

/* large: for comparing backends with each other; small: for central differences. */
static void random_net(struct random_net *n, uint64_t seed, bool large)
{
    int layers;

    *n = (struct random_net){.rng = rng_key(seed, RNG_SYNTHETIC, large, 0, 0)};
    n->filters_max = large ? NET_PICK(n, 20, 40, 80, 140) : 20;
    n->channels = n->c = 1 + net_below(n, 4);
    n->height = n->h = 3 + net_below(n, large ? 22 : 8);
    n->width = n->w = 3 + net_below(n, large ? 22 : 8);
    n->classes = 2 + net_below(n, 12);
    layers = 1 + net_below(n, large ? 7 : 5);
    net_add(n, "[");
    for (int i = 0; i < layers; i++) {
        net_image_layer(n);
        net_add(n, ", ");
    }
    net_add(n, net_chance(n, 75) ? "\"flatten\"" : "\"global_avg_pool2d\"");
    if (net_chance(n, 15))
        net_add(n, ", {\"batch_norm\": {\"eps\": 0.05}}"), n->batch_norm = true;
    if (net_chance(n, 40))
        net_add(n, ", {\"dense\": {\"units\": %d%s}}", 1 + net_below(n, large ? 150 : 30), net_relu(n, 60));
    if (net_chance(n, 20))
        net_add(n, ", {\"dropout\": {\"rate\": 0.5}}");
    net_add(n, ", {\"dense\": {\"units\": \"classes\", \"bias\": %s}}]", net_chance(n, 80) ? "true" : "false");
}

#endif
