/* shape_table.h - networks to hold a backend against its definition: every kind of layer, with channels and widths that are no multiple of a tile,
 * images higher than wide, residuals of all sorts. SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_SHAPE_TABLE_H
#define FLEXP_TRAINER_SHAPE_TABLE_H

#define CONV(f, k, more) "{\"conv2d\": {\"filters\": " #f ", \"kernel\": " #k more "}}"
#define SAME ", \"padding\": \"same\""
#define STRIDE ", \"stride\": 2"
#define RELU ", \"activation\": \"relu\""
#define LAST "{\"dense\": {\"units\": \"classes\"}}"
#define END "\"flatten\", " LAST

/* clang-format off */
static const struct selftest_net {
    const char *name, *layers;
    int channels, height, width;
} NETS[] = {
    {"dense", "[\"flatten\", {\"dense\": {\"units\": 13, \"activation\": \"relu\"}}, " LAST "]", 1, 5, 3},
    {"dense without bias", "[\"flatten\", {\"dense\": {\"units\": 7, \"bias\": false}}, " LAST "]", 3, 3, 3},
    {"convolution, channels 3 to 5", "[" CONV(5, 3, SAME) ", " END "]", 3, 7, 5},
    {"convolution with ReLU, 17 to 33 channels", "[" CONV(17, 3, SAME RELU) ", " CONV(33, 3, RELU) ", " END "]",
     3, 6, 5},
    {"stride 2 and pads",
     "[" CONV(6, 3, ", \"stride\": 2, \"padding\": 1" RELU) ", " CONV(
         4, 2, ", \"stride\": 2, \"padding\": 1") ", " END "]",
     2, 9, 6},
    {"even kernel, same padding on both strides",
     "[" CONV(5, 4, SAME) ", \"relu\", " CONV(6, 4, SAME ", \"stride\": 2") ", " END "]", 3, 7, 6},
    {"groups", "[" CONV(6, 3, SAME ", \"groups\": 3") ", " CONV(8, 3, SAME RELU ", \"groups\": 2") ", " END "]",
     3, 5, 4},
    {"depthwise, no bias",
     "[" CONV(16, 1, "") ", " CONV(16, 3, SAME ", \"groups\": 16, \"bias\": false") ", \"relu\", " END "]", 3,
     6, 5},
    {"ReLU and max pool 2",
     "[" CONV(16, 3, SAME RELU) ", {\"max_pool2d\": {\"size\": 2}}, " CONV(
         9, 3, SAME RELU) ", {\"max_pool2d\": {\"size\": 2}}, " END "]",
     3, 8, 4},
    {"max pool of odd sizes, ReLU behind",
     "[" CONV(5, 3, SAME) ", {\"max_pool2d\": {\"size\": 2}}, \"relu\", " CONV(7, 3, SAME) ", " END "]", 3, 7,
     5},
    {"overlapping padded max pool",
     "[" CONV(6, 3, SAME RELU) ", {\"max_pool2d\": {\"size\": 3, \"stride\": 2, \"padding\": 1}}, " END "]", 3,
     7, 6},
    {"padded average pool",
     "[" CONV(6, 3, SAME) ", {\"avg_pool2d\": {\"size\": 3, \"stride\": 2, \"padding\": 1}}, \"relu\", "
                          "{\"avg_pool2d\": {\"size\": 2}}, " END "]",
     3, 9, 7},
    {"global average pool", "[" CONV(10, 3, SAME RELU) ", {\"global_avg_pool2d\": {}}, " LAST "]", 3, 6, 5},
    {"batch norm",
     "[" CONV(7, 3, SAME ", \"bias\": false") ", {\"batch_norm\": {\"activation\": \"relu\"}}, "
                                              "{\"max_pool2d\": {\"size\": 2}}, " END "]",
     3, 6, 4},
    {"batch norm first and on flat values",
     "[\"batch_norm\", " CONV(4, 3, "") ", \"flatten\", {\"batch_norm\": {}}, \"relu\", " LAST "]", 3, 6, 5},
    {"group norm",
     "[" CONV(6, 3, SAME) ", {\"group_norm\": {\"groups\": 3, \"activation\": \"relu\"}}, " CONV(
         8, 3, SAME) ", {\"group_norm\": {\"groups\": 1}}, " END "]",
     3, 5, 4},
    {"group norm on flat values",
     "[" CONV(4, 3, "") ", \"flatten\", {\"group_norm\": {\"groups\": 4}}, \"relu\", " LAST "]", 3, 6, 5},
    {"residual",
     "[" CONV(8, 3, SAME RELU) ", {\"residual\": {\"layers\": [" CONV(8, 3, SAME RELU) ", " CONV(
         8, 3, SAME) "], \"activation\": \"relu\"}}, {\"max_pool2d\": {\"size\": 2}}, " END "]",
     3, 6, 4},
    {"residual with shortcut and batch norm",
     "[" CONV(6, 3, SAME RELU) ", {\"residual\": {\"layers\": [" CONV(9, 3, STRIDE ", \"padding\": 1, \"bias\": false")
     ", {\"batch_norm\": {\"activation\": \"relu\"}}, " CONV(9, 3, SAME) ", \"batch_norm\"], "
     "\"shortcut\": [" CONV(9, 1, STRIDE) "], \"activation\": \"relu\"}}, {\"global_avg_pool2d\": {}}, " LAST "]",
     3, 7, 5},
    {"residual from the image",
     "[{\"residual\": {\"layers\": [" CONV(3, 3, SAME) "]}}, {\"residual\": {\"layers\": [\"relu\"]}}, " END
                                                       "]",
     3, 5, 4},
    {"residual on flat values in two orders",
     "[" CONV(4, 3,
              "") ", \"flatten\", {\"residual\": {\"layers\": [{\"dense\": {\"units\": 96}}, \"relu\"]}}, " LAST
                  "]",
     3, 6, 8},
    {"nested residuals",
     "[" CONV(5, 3, SAME) ", {\"residual\": {\"layers\": [{\"residual\": {\"layers\": [\"relu\", " CONV(
         5, 3, SAME) "]}}, {\"max_pool2d\": {\"size\": 3, \"stride\": 1, \"padding\": 1}}]}}, " END "]",
     3, 5, 6},
    {"dropout and ReLU between flatten and dense",
     "[" CONV(6, 3, "") ", \"flatten\", {\"dropout\": {\"rate\": 0.5}}, \"relu\", \"flatten\", " LAST "]", 3, 6,
     5},
    {"repeat",
     "[" CONV(8, 3, SAME) ", {\"repeat\": {\"times\": 3, \"layers\": [\"batch_norm\", \"relu\", " CONV(
         8, 3, SAME) "]}}, " END "]",
     3, 4, 4},
    {"lenet's shapes",
     "[" CONV(6, 5, RELU) ", {\"max_pool2d\": {\"size\": 2}}, " CONV(
         16, 5, RELU) ", {\"max_pool2d\": {\"size\": 2}}, \"flatten\", {\"dense\": {\"units\": 12, "
                      "\"activation\": \"relu\"}}, " LAST "]",
     3, 18, 16},
};
/* clang-format on */
#define NETS_N (sizeof NETS / sizeof NETS[0])

#endif
