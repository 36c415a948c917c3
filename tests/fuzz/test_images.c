/* test_images.c - a tar archive of images, of hostile bytes. The input's first byte: bit 0 asks for a size and
 * channels, bit 1 for labels by a pattern, bit 2 for a share of test images; with bit 3 the rest is no archive but one
 * picture of each class of a folder. SPDX-License-Identifier: Apache-2.0 */
#include "tests/fuzz/folder.h"

#include <sched.h>

/* One core, so that images are decoded by one thread: faster for small files, and the same each time. */
__attribute__((constructor)) static void one_core(void)
{
    cpu_set_t cores;

    CPU_ZERO(&cores);
    CPU_SET((unsigned)sched_getcpu() % CPU_SETSIZE, &cores);
    sched_setaffinity(0, sizeof cores, &cores);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const CLASSES[] = {"cat", "dog"};
    struct folder folder;
    json_t *more;

    if (!size)
        return 0;
    more = json_object();
    must(more);
    if (data[0] & 1) {
        json_object_set_new(more, "resize", json_pack("{s:i, s:i}", "height", 8, "width", 6));
        json_object_set_new(more, "channels", json_integer(1));
    }
    if (data[0] & 2)
        json_object_set_new(more, "label_pattern", json_string("([a-z]+)[0-9]*\\."));
    if (data[0] & 4)
        json_object_set_new(more, "test_fraction", json_real(0.5));
    folder_init(&folder);
    if (data[0] & 8) {
        char path[PATH_MAX];
        for (int k = 0; k < 2; k++) {
            snprintf(path, sizeof path, "%s/pictures/%s", folder.path, CLASSES[k]);
            must(!file_make_folder(path, NULL));
            snprintf(path, sizeof path, "pictures/%s/%s1.png", CLASSES[k], CLASSES[k]);
            folder_write(&folder, path, data + 1, size - 1);
        }
        folder_open(&folder, "pictures", "images", more);
    } else {
        folder_write(&folder, "pictures.tar", data + 1, size - 1);
        folder_open(&folder, "pictures.tar", "images", more);
    }
    folder_done(&folder);
    json_decref(more);
    return 0;
}
