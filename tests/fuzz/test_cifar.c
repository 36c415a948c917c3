/* test_cifar.c - CIFAR-10's binary version, of hostile bytes. The input's first byte says what the rest is: 0 one
 * batch, 1 the archive, else all six batches of a folder. SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/folder.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const BATCHES[] = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                          "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"};
    struct folder folder;

    if (!size)
        return 0;
    folder_init(&folder);
    if (data[0] == 0) {
        folder_write(&folder, "one.bin", data + 1, size - 1);
        folder_open(&folder, "one.bin", "cifar10", NULL);
    } else if (data[0] == 1) {
        folder_write(&folder, "cifar-10-binary.tar.gz", data + 1, size - 1);
        folder_open(&folder, "cifar-10-binary.tar.gz", "cifar10", NULL);
    } else {
        for (size_t b = 0; b < sizeof BATCHES / sizeof *BATCHES; b++)
            folder_write(&folder, BATCHES[b], data + 1, size - 1);
        folder_open(&folder, "", "cifar10", NULL);
    }
    folder_done(&folder);
    return 0;
}
