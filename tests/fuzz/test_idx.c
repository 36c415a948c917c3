/* test_idx.c - a folder of IDX files of hostile bytes. The input: a byte whose lowest bit asks for a test split too
 * (the same files), two bytes of length, the labels' file of that length, and the images' file, plain or gzip as its
 * bytes say. SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct folder folder;
    size_t labels;

    if (size < 3)
        return 0;
    labels = (size_t)data[1] << 8 | data[2];
    if (labels > size - 3)
        return 0;
    folder_init(&folder);
    folder_write(&folder, "train-labels-idx1-ubyte", data + 3, labels);
    folder_write(&folder, "train-images-idx3-ubyte", data + 3 + labels, size - 3 - labels);
    if (data[0] & 1) {
        folder_write(&folder, "t10k-labels-idx1-ubyte", data + 3, labels);
        folder_write(&folder, "t10k-images-idx3-ubyte", data + 3 + labels, size - 3 - labels);
    }
    folder_open(&folder, "", "idx", NULL);
    folder_done(&folder);
    return 0;
}
