/* test_sources.c - what each source reads from real files, and the one error that each kind of damage gives.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tests/trainer/data/made_files.h"

#include <archive.h>
#include <archive_entry.h>

/* Shape by the quick way, equal to what opening gives. */
static void check_shape(const char *source, const char *path, const struct dataset *dataset)
{
    json_t *data = made_section(source, path);
    struct data_shape shape = {0};

    assert_int_equal(dataset_shape(data, 1, made_path("other-cache"), &shape, NULL), 0);
    assert_int_equal(shape.channels, dataset->channels);
    assert_int_equal(shape.height, dataset->height);
    assert_int_equal(shape.width, dataset->width);
    assert_int_equal(shape.classes, dataset->classes);
    assert_int_equal(shape.train_n, dataset->train.n);
    assert_int_equal(shape.test_n, dataset->test.n);
    json_decref(data);
}

static void check_labels(const struct data_split *split, size_t n, const int *counts, int classes,
                         const uint16_t first[10])
{
    int found[16] = {0};

    assert_int_equal(split->n, n);
    for (size_t i = 0; i < n; i++) {
        assert_true(split->labels[i] < classes);
        found[split->labels[i]]++;
    }
    for (int k = 0; k < classes; k++)
        assert_int_equal(found[k], counts[k]);
    if (first)
        assert_memory_equal(split->labels, first, 10 * sizeof *first);
}

static unsigned sum_of(const uint8_t *bytes, size_t n)
{
    unsigned sum = 0;

    for (size_t i = 0; i < n; i++)
        sum += bytes[i];
    return sum;
}

/* -- real data -- */

static void mnist_has_its_published_counts_and_first_labels(void **state)
{
    static const int TRAIN[] = {5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949},
                     TEST[] = {980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009};
    const char *path = shared_data("mnist");
    struct dataset *dataset;

    (void)state;
    if (!path)
        skip();
    dataset = made_open("idx", path);
    assert_string_equal(dataset->source, "idx");
    assert_int_equal(dataset->channels, 1);
    assert_int_equal(dataset->height, 28);
    assert_int_equal(dataset->width, 28);
    assert_int_equal(dataset->classes, 10);
    assert_string_equal(dataset->class_names[9], "9");
    check_labels(&dataset->train, 60000, TRAIN, 10, (const uint16_t[]){5, 0, 4, 1, 9, 2, 1, 3, 1, 4});
    check_labels(&dataset->test, 10000, TEST, 10, (const uint16_t[]){7, 2, 1, 0, 4, 1, 4, 9, 5, 9});
    assert_int_equal(sum_of(dataset->train.images, 784), 27525);
    assert_memory_equal(dataset->train.images + 14 * 28 + 10,
                        ((const uint8_t[]){0, 0, 0, 81, 240, 253, 253, 119, 25, 0}), 10);
    check_shape("idx", path, dataset);
    dataset_close(dataset);
}

static void pneumoniamnist_has_two_unequal_classes(void **state)
{
    static const int TRAIN[] = {1214, 3494}, TEST[] = {234, 390};
    const char *path = shared_data("pneumoniamnist");
    struct dataset *dataset;

    (void)state;
    if (!path)
        skip();
    dataset = made_open("idx", path);
    assert_int_equal(dataset->classes, 2);
    check_labels(&dataset->train, 4708, TRAIN, 2, (const uint16_t[]){1, 1, 1, 1, 1, 1, 0, 1, 1, 1});
    check_labels(&dataset->test, 624, TEST, 2, (const uint16_t[]){1, 0, 1, 0, 1, 1, 1, 1, 1, 0});
    check_shape("idx", path, dataset);
    dataset_close(dataset);
}

static void lossless_cifar_records_keep_every_pixel(void **state)
{
    const char *path = shared_data("cifar10/lossless-1000.bin");
    struct dataset *dataset;
    char *bytes;
    size_t n;

    (void)state;
    if (!path)
        skip();
    dataset = made_open("cifar10", path);
    assert_int_equal(dataset->train.n, 1000);
    assert_int_equal(dataset->test.n, 0);
    assert_int_equal(dataset->channels, 3);
    assert_string_equal(dataset->class_names[3], "cat");
    assert_memory_equal(dataset->train.labels, ((const uint16_t[]){3, 8, 8, 0, 6, 6, 1, 6, 3, 1}), 20);
    assert_memory_equal(dataset->train.images, ((const uint8_t[]){158, 112, 49}), 3);
    assert_int_equal(file_read(path, &bytes, &n, NULL), 0);
    assert_int_equal(n, 1000 * 3073);
    for (size_t i = 0; i < 1000; i++)
        for (size_t p = 0; p < 1024; p++)
            for (size_t c = 0; c < 3; c++)
                if (dataset->train.images[(i * 1024 + p) * 3 + c] != (uint8_t)bytes[i * 3073 + 1 + c * 1024 + p])
                    fail_msg("record %zu, pixel %zu, channel %zu", i, p, c);
    free(bytes);
    check_shape("cifar10", path, dataset);
    dataset_close(dataset);
}

static void cifar_as_jpeg_archive_gives_60000_images_of_ten_sorted_classes(void **state)
{
    static const char *const NAMES[] = {"airplane", "automobile", "bird",  "cat",  "deer",
                                        "dog",      "frog",       "horse", "ship", "truck"};
    static const int TRAIN[] = {5000, 5000, 5000, 5000, 5000, 5000, 5000, 5000, 5000, 5000},
                     TEST[] = {1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000};
    const char *path = shared_data("cifar10/cifar10-jpeg.tar.xz");
    struct dataset *dataset;

    (void)state;
    if (!path)
        skip();
    dataset = made_open("images", path);
    assert_int_equal(dataset->channels, 3);
    assert_int_equal(dataset->height, 32);
    assert_int_equal(dataset->width, 32);
    assert_int_equal(dataset->classes, 10);
    for (int k = 0; k < 10; k++)
        assert_string_equal(dataset->class_names[k], NAMES[k]);
    check_labels(&dataset->train, 50000, TRAIN, 10, NULL);
    check_labels(&dataset->test, 10000, TEST, 10, NULL);
    for (size_t i = 0; i < dataset->train.n; i++) /* in the order of names, so class by class */
        assert_int_equal(dataset->train.labels[i], i / 5000);
    dataset_close(dataset);
}

/* -- IDX -- */

static void idx_reads_plain_and_gz_alike(void **state)
{
    struct dataset *plain, *packed;

    (void)state;
    made_idx("a", "train", 20, 20, 4, 3);
    made_idx("a", "t10k", 5, 5, 4, 3);
    made_idx("b", "train", 20, 20, 4, 3);
    made_idx("b", "test", 5, 5, 4, 3);
    made_gzip("b/train-images-idx3-ubyte", "b/train-images-idx3-ubyte.gz");
    made_gzip("b/test-labels-idx1-ubyte", "b/test-labels.idx1-ubyte.gz");
    plain = made_open("idx", made_path("a"));
    packed = made_open("idx", made_path("b"));
    assert_int_equal(plain->train.n, 20);
    assert_int_equal(plain->test.n, 5);
    assert_int_equal(plain->classes, 3);
    for (size_t p = 0; p < 20 * 16; p++)
        assert_int_equal(plain->train.images[p], (uint8_t)(p / 16 * 7 + p % 16));
    for (size_t i = 0; i < 20; i++)
        assert_int_equal(plain->train.labels[i], i % 3);
    assert_string_equal(plain->hash, packed->hash);
    dataset_close(plain);
    dataset_close(packed);
}

static void idx_without_test_files_has_no_test_split(void **state)
{
    struct dataset *dataset;

    (void)state;
    made_idx("a", "train", 6, 6, 2, 2);
    dataset = made_open("idx", made_path("a"));
    assert_int_equal(dataset->test.n, 0);
    check_shape("idx", made_path("a"), dataset);
    dataset_close(dataset);
}

static void idx_refuses_a_wrong_magic_number(void **state)
{
    const char *images = "a/train-images-idx3-ubyte";

    (void)state;
    made_idx("a", "train", 6, 6, 4, 2);
    made_write(images, "\0\0\x0d\x03\0\0\0\x06\0\0\0\x04\0\0\0\x04", 16);
    made_refused("idx", made_path("a"), -EINVAL,
                 "%s: its magic number is 0x00000d03 where 0x00000803 is right (IDX, unsigned bytes, 3 dimensions)",
                 made_path(images));
    made_idx("a", "train", 6, 6, 4, 2);
    made_write("a/train-labels-idx1-ubyte", "\0\0\x08\x03\0\0\0\x06......", 14);
    made_refused("idx", made_path("a"), -EINVAL,
                 "%s: its magic number is 0x00000803 where 0x00000801 is right (IDX, unsigned bytes, 1 dimension)",
                 made_path("a/train-labels-idx1-ubyte"));
}

static void idx_refuses_a_truncated_plain_file(void **state)
{
    const char *images = "a/train-images-idx3-ubyte", *labels = "a/train-labels-idx1-ubyte";

    (void)state;
    made_idx("a", "train", 20, 20, 4, 3);
    made_truncate(images, 300);
    made_refused("idx", made_path("a"), -EINVAL,
                 "%s: its header promises 20 images of 4x4, 336 bytes in all, but the file holds at most 300",
                 made_path(images));
    made_truncate(images, 10);
    made_refused("idx", made_path("a"), -EINVAL, "%s: ends after 10 bytes, within its header of 16", made_path(images));
    made_truncate(images, 0);
    made_refused("idx", made_path("a"), -EINVAL, "%s: ends after 0 bytes, within its header of 16", made_path(images));
    made_idx("a", "train", 20, 20, 4, 3);
    made_truncate(labels, 27);
    made_refused("idx", made_path("a"), -EINVAL,
                 "%s: its header promises 20 labels, 28 bytes in all, but the file holds at most 27",
                 made_path(labels));
}

static void idx_refuses_every_truncation_of_a_gz_file(void **state)
{
    const char *packed = "a/train-images-idx3-ubyte.gz";
    char *bytes;
    size_t n;

    (void)state;
    made_idx("a", "train", 20, 20, 4, 3);
    made_gzip("a/train-images-idx3-ubyte", packed);
    made_read(packed, &bytes, &n);
    for (size_t cut = 2; cut < n; cut++) {
        made_write(packed, bytes, cut);
        made_refused("idx", made_path("a"), -EINVAL, "%s: the gzip data is truncated after %zu bytes",
                     made_path(packed), cut);
    }
    made_write(packed, bytes, n);
    dataset_close(made_open("idx", made_path("a")));
    free(bytes);
}

static void idx_refuses_gz_data_that_ends_early_goes_on_or_is_damaged(void **state)
{
    const char *plain = "a/train-images-idx3-ubyte", *packed = "a/train-images-idx3-ubyte.gz";
    char *bytes;
    size_t n;

    (void)state;
    made_idx("a", "train", 20, 20, 4, 3);
    made_truncate(plain, 300); /* 284 bytes of body: 17 images of 16 bytes are whole */
    made_gzip(plain, packed);
    made_refused("idx", made_path("a"), -EINVAL, "%s: record 17: ends within the 20 images that its header promises",
                 made_path(packed));
    made_idx("a", "train", 20, 20, 4, 3);
    made_read(plain, &bytes, &n);
    made_write(plain, bytes, n + 1); /* file_read puts a 0 behind */
    free(bytes);
    made_refused("idx", made_path("a"), -EINVAL, "%s: 1 byte follows the 20 images that its header promises",
                 made_path(plain));
    made_gzip(plain, packed);
    made_refused("idx", made_path("a"), -EINVAL, "%s: 1 byte follows the 20 images that its header promises",
                 made_path(packed));
    made_idx("a", "train", 20, 20, 4, 3);
    made_gzip(plain, packed);
    made_read(packed, &bytes, &n);
    bytes[n - 6] = (char)(bytes[n - 6] ^ 1); /* of the checksum */
    made_write(packed, bytes, n);
    made_refused("idx", made_path("a"), -EINVAL, "%s: the gzip data is damaged near byte %zu: incorrect data check",
                 made_path(packed), n - 4);
    free(bytes);
}

static void idx_refuses_counts_and_shapes_that_do_not_match(void **state)
{
    (void)state;
    made_idx("a", "train", 20, 19, 4, 3);
    made_refused("idx", made_path("a"), -EINVAL, "%s: 19 labels for the 20 images of %s",
                 made_path("a/train-labels-idx1-ubyte"), made_path("a/train-images-idx3-ubyte"));
    made_idx("a", "train", 20, 20, 4, 3);
    made_idx("a", "t10k", 5, 5, 3, 3);
    made_refused("idx", made_path("a"), -EINVAL, "%s: images of 3x3 where the training images are 4x4",
                 made_path("a/t10k-images-idx3-ubyte"));
    made_idx("a", "t10k", 5, 5, 4, 4);
    made_refused("idx", made_path("a"), -EINVAL, "%s: record 3: label 3 is not among the training labels 0..2",
                 made_path("a/t10k-labels-idx1-ubyte"));
    made_write("a/train-images-idx3-ubyte", "\0\0\x08\x03\0\0\0\x01\0\0\0\0\0\0\0\x04", 16);
    made_refused("idx", made_path("a"), -EINVAL, "%s: its header promises images of 0x4, which is not within 1..8192",
                 made_path("a/train-images-idx3-ubyte"));
    made_write("a/train-images-idx3-ubyte", "\0\0\x08\x03\0\0\0\0\0\0\0\x04\0\0\0\x04", 16);
    made_refused("idx", made_path("a"), -EINVAL, "%s: its header promises no images",
                 made_path("a/train-images-idx3-ubyte"));
}

static void idx_names_the_file_that_is_missing(void **state)
{
    (void)state;
    made_idx("a", "train", 6, 6, 2, 2);
    made_idx("a", "t10k", 6, 6, 2, 2);
    assert_int_equal(unlink(made_path("a/t10k-labels-idx1-ubyte")), 0);
    made_refused("idx", made_path("a"), -ENOENT,
                 "%s/t10k-labels-idx1-ubyte: no such file, nor with .gz or with . before idx", made_path("a"));
    made_refused(
        "idx", made_path("a/t10k-images-idx3-ubyte"), -ENOTDIR,
        "data.path: %s: source idx reads a folder with train-images-idx3-ubyte(.gz), train-labels-idx1-ubyte(.gz) and "
        "the same for t10k",
        made_path("a/t10k-images-idx3-ubyte"));
    made_refused("idx", made_path("none"), -ENOENT, "data.path: %s: No such file or directory", made_path("none"));
}

/* -- CIFAR-10 -- */

static const char *const BATCHES[] = {"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin",
                                      "data_batch_4.bin", "data_batch_5.bin", "test_batch.bin"};

static void make_batches(const char *folder)
{
    char name[128];

    for (size_t b = 0; b < 6; b++) {
        snprintf(name, sizeof name, "%s/%s", folder, BATCHES[b]);
        made_cifar(name, 3 + b);
    }
}

static void cifar_folder_is_five_batches_in_order_and_a_test_batch(void **state)
{
    struct dataset *dataset, *inner;
    size_t at = 0;

    (void)state;
    make_batches("a");
    make_batches("b/cifar-10-batches-bin");
    dataset = made_open("cifar10", made_path("a"));
    inner = made_open("cifar10", made_path("b"));
    assert_string_equal(dataset->hash, inner->hash);
    assert_int_equal(dataset->train.n, 3 + 4 + 5 + 6 + 7);
    assert_int_equal(dataset->test.n, 8);
    for (size_t b = 0; b < 5; b++)
        for (size_t i = 0; i < 3 + b; i++, at++) {
            assert_int_equal(dataset->train.labels[at], i);
            assert_memory_equal(dataset->train.images + at * 3072 + 3 * 1023,
                                ((const uint8_t[]){(uint8_t)i, (uint8_t)(50 + i), (uint8_t)(100 + i)}), 3);
        }
    check_shape("cifar10", made_path("a"), dataset);
    dataset_close(dataset);
    dataset_close(inner);
}

static void cifar_names_file_and_record_of_a_wrong_label(void **state)
{
    uint8_t *bytes = made_cifar_records(5);

    (void)state;
    bytes[3 * 3073] = 12;
    made_write("one.bin", bytes, 5 * 3073);
    made_refused("cifar10", made_path("one.bin"), -EINVAL, "%s: record 3: label 12 is not in 0..9 (byte 9219)",
                 made_path("one.bin"));
    make_batches("a");
    made_write("a/data_batch_3.bin", bytes, 5 * 3073);
    made_refused("cifar10", made_path("a"), -EINVAL, "%s: record 3: label 12 is not in 0..9 (byte 9219)",
                 made_path("a/data_batch_3.bin"));
    free(bytes);
}

static void cifar_refuses_a_size_that_is_not_a_multiple_of_3073(void **state)
{
    (void)state;
    make_batches("a");
    made_truncate("a/test_batch.bin", 2 * 3073 + 5);
    made_refused("cifar10", made_path("a"), -EINVAL,
                 "%s: record 2: truncated: the file's 6151 bytes are not a whole number of records of 3073 bytes",
                 made_path("a/test_batch.bin"));
    made_write("one.bin", "", 0);
    made_refused("cifar10", made_path("one.bin"), -EINVAL,
                 "%s: record 0: truncated: the file's 0 bytes are not a whole number of records of 3073 bytes",
                 made_path("one.bin"));
}

static void cifar_names_what_is_missing_or_of_another_kind(void **state)
{
    (void)state;
    make_batches("a");
    assert_int_equal(unlink(made_path("a/data_batch_4.bin")), 0);
    made_refused(
        "cifar10", made_path("a"), -ENOENT,
        "%s/data_batch_4.bin: no such file; CIFAR-10's binary version has data_batch_1.bin to data_batch_5.bin and "
        "test_batch.bin",
        made_path("a"));
    made_write("py/data_batch_1", "x", 1);
    made_refused(
        "cifar10", made_path("py"), -EINVAL,
        "data.path: %s: holds CIFAR-10's Python version; flexp reads the binary version (cifar-10-binary.tar.gz)",
        made_path("py"));
    made_refused("cifar10", made_path("py/data_batch_1"), -EINVAL,
                 "data.path: %s: source cifar10 reads a folder, a .bin file or a .tar.gz",
                 made_path("py/data_batch_1"));
    made_refused("cifar10", made_path("none"), -ENOENT, "data.path: %s: No such file or directory", made_path("none"));
}

/* -- archives: pairs of entry name and made file; a name ending in @ is a symbolic link, in # a hard link -- */

static void make_tar(const char *name, const char *const (*entries)[2], size_t n)
{
    struct archive *archive = archive_write_new();
    size_t length = strlen(name);

    if (!strcmp(name + length - 3, ".gz"))
        assert_int_equal(archive_write_add_filter_gzip(archive), ARCHIVE_OK);
    if (!strcmp(name + length - 3, ".xz"))
        assert_int_equal(archive_write_add_filter_xz(archive), ARCHIVE_OK);
    assert_int_equal(archive_write_set_format_pax_restricted(archive), ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(archive, made_path(name)), ARCHIVE_OK);
    for (size_t i = 0; i < n; i++) {
        struct archive_entry *entry = archive_entry_new();
        char path[128], *bytes = NULL, last;
        size_t bytes_n = 0;
        snprintf(path, sizeof path, "%s", entries[i][0]);
        last = path[strlen(path) - 1];
        archive_entry_set_filetype(entry, last == '@' ? AE_IFLNK : AE_IFREG);
        archive_entry_set_perm(entry, 0644);
        if (last == '@' || last == '#') {
            path[strlen(path) - 1] = 0;
            if (last == '@')
                archive_entry_set_symlink(entry, entries[i][1]);
            else
                archive_entry_set_hardlink(entry, entries[i][1]);
        } else {
            made_read(entries[i][1], &bytes, &bytes_n);
        }
        archive_entry_set_pathname(entry, path);
        archive_entry_set_size(entry, (la_int64_t)bytes_n);
        assert_int_equal(archive_write_header(archive, entry), ARCHIVE_OK);
        if (bytes_n)
            assert_int_equal(archive_write_data(archive, bytes, bytes_n), bytes_n);
        archive_entry_free(entry);
        free(bytes);
    }
    assert_int_equal(archive_write_close(archive), ARCHIVE_OK);
    archive_write_free(archive);
}
#define TAR(name, ...)                                                                                                 \
    do {                                                                                                               \
        const char *const entries_[][2] = {__VA_ARGS__};                                                               \
        make_tar(name, entries_, sizeof entries_ / sizeof *entries_);                                                  \
    } while (0)

static void cifar_archive_equals_its_folder(void **state)
{
    struct dataset *folder, *archive;

    (void)state;
    make_batches("a");
    TAR("c.tar.gz", {"x/test_batch.bin", "a/test_batch.bin"}, {"x/data_batch_2.bin", "a/data_batch_2.bin"},
        {"x/data_batch_1.bin", "a/data_batch_1.bin"}, {"x/readme.html", "a/data_batch_1.bin"},
        {"x/data_batch_5.bin", "a/data_batch_5.bin"}, {"x/data_batch_3.bin", "a/data_batch_3.bin"},
        {"x/data_batch_4.bin", "a/data_batch_4.bin"});
    folder = made_open("cifar10", made_path("a"));
    archive = made_open("cifar10", made_path("c.tar.gz"));
    assert_string_equal(folder->hash, archive->hash);
    dataset_close(folder);
    dataset_close(archive);
}

static void cifar_archive_refuses_a_missing_and_a_doubled_batch(void **state)
{
    (void)state;
    made_cifar("r", 2);
    TAR("c.tar", {"data_batch_1.bin", "r"}, {"x/data_batch_1.bin", "r"});
    made_refused("cifar10", made_path("c.tar"), -EINVAL,
                 "%s: entry x/data_batch_1.bin: data_batch_1.bin is there twice", made_path("c.tar"));
    TAR("c.tar", {"data_batch_1.bin", "r"}, {"data_batch_3.bin", "r"});
    made_refused("cifar10", made_path("c.tar"), -EINVAL, "%s: data_batch_2.bin is missing from the archive",
                 made_path("c.tar"));
}

/* -- images -- */

static void make_images(const char *folder)
{
    static const char *const NAMES[] = {"train/dog/2.png", "train/cat/1.png", "train/dog/1.png", "test/cat/1.png"};
    char name[128];

    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s/%s", folder, NAMES[i]);
        made_png(name, 6, 5, 3, 40 * i);
    }
}

static void images_come_in_the_order_of_names_from_folder_and_archive(void **state)
{
    struct dataset *folder, *archive, *inner;

    (void)state;
    make_images("a");
    made_write("a/README.txt", "beside the class folders", 24);
    made_write("a/train/dog/.hidden", "x", 1);
    folder = made_open("images", made_path("a"));
    assert_int_equal(folder->train.n, 3);
    assert_int_equal(folder->test.n, 1);
    assert_int_equal(folder->height, 5);
    assert_int_equal(folder->width, 6);
    assert_int_equal(folder->channels, 3);
    assert_string_equal(folder->class_names[0], "cat");
    assert_string_equal(folder->class_names[1], "dog");
    assert_memory_equal(folder->train.labels, ((const uint16_t[]){0, 1, 1}), 6);
    for (size_t i = 0; i < 3; i++) /* cat/1 was made with 40, dog/1 with 80, dog/2 with 0 */
        for (size_t p = 0; p < 90; p++)
            assert_int_equal(folder->train.images[i * 90 + p], (i == 2 ? 0 : 40 * (i + 1)) + p % 7);
    check_shape("images", made_path("a"), folder);
    TAR("i.tar.gz", {"./train/dog/2.png", "a/train/dog/2.png"}, {"./test/cat/1.png", "a/test/cat/1.png"},
        {"./train/dog/1.png", "a/train/dog/1.png"}, {"./train/cat/1.png", "a/train/cat/1.png"});
    archive = made_open("images", made_path("i.tar.gz"));
    assert_string_equal(archive->hash, folder->hash);
    check_shape("images", made_path("i.tar.gz"), archive);
    make_images("b/around");
    inner = made_open("images", made_path("b"));
    assert_string_equal(inner->hash, folder->hash);
    dataset_close(folder);
    dataset_close(archive);
    dataset_close(inner);
}

static void images_without_train_and_test_have_no_test_split(void **state)
{
    struct dataset *dataset;

    (void)state;
    made_jpeg("a/x/1.jpg", 8, 8, 1, 90);
    made_png("a/y/1.PNG", 8, 8, 1, 10);
    made_jpeg("a/y/2.jpeg", 8, 8, 1, 200);
    dataset = made_open("images", made_path("a"));
    assert_int_equal(dataset->channels, 1);
    assert_int_equal(dataset->train.n, 3);
    assert_int_equal(dataset->test.n, 0);
    for (size_t p = 0; p < 64; p++) /* quality 100: within a level or two */
        assert_in_range(dataset->train.images[p], 88, 97);
    for (size_t p = 0; p < 64; p++)
        assert_int_equal(dataset->train.images[64 + p], 10 + p % 7);
    check_shape("images", made_path("a"), dataset);
    dataset_close(dataset);
}

static void archives_that_would_write_elsewhere_are_refused(void **state)
{
    (void)state;
    make_images("a");
    TAR("i.tar", {"cat/1.png", "a/train/cat/1.png"}, {"../x", "a/train/cat/1.png"});
    made_refused("images", made_path("i.tar"), -EINVAL, "%s: entry ../x is refused: its name has a part \"..\"",
                 made_path("i.tar"));
    TAR("i.tar", {"cat/a/../../../1.png", "a/train/cat/1.png"});
    made_refused("images", made_path("i.tar"), -EINVAL,
                 "%s: entry cat/a/../../../1.png is refused: its name has a part \"..\"", made_path("i.tar"));
    TAR("i.tar", {"/cat/1.png", "a/train/cat/1.png"});
    made_refused("images", made_path("i.tar"), -EINVAL, "%s: entry /cat/1.png is refused: its name is absolute",
                 made_path("i.tar"));
    TAR("i.tar", {"cat/1.png", "a/train/cat/1.png"}, {"cat/2.png@", "/etc/passwd"});
    made_refused("images", made_path("i.tar"), -EINVAL, "%s: entry cat/2.png is refused: it is a symbolic link",
                 made_path("i.tar"));
    TAR("i.tar", {"cat/1.png", "a/train/cat/1.png"}, {"cat/2.png#", "cat/1.png"});
    made_refused("images", made_path("i.tar"), -EINVAL, "%s: entry cat/2.png is refused: it is a hard link",
                 made_path("i.tar"));
    assert_false(file_exists(made_path("x")));
    assert_false(file_exists(made_path("cat")));
}

static void images_of_unequal_sizes_and_colours_are_refused(void **state)
{
    (void)state;
    make_images("a");
    made_png("a/train/dog/0.png", 5, 6, 3, 0);
    made_refused("images", made_path("a"), -EINVAL,
                 "%s/train/dog/0.png: 5x6 pixels where test/cat/1.png has 6x5: all images must have one size, or data.resize gives them one",
                 made_path("a"));
    made_png("a/train/dog/0.png", 6, 5, 1, 0);
    made_refused("images", made_path("a"), -EINVAL,
                 "%s/train/dog/0.png: grey where test/cat/1.png is RGB: all images must be the same, or data.channels makes them so",
                 made_path("a"));
}

static void truncated_and_foreign_images_are_refused_by_name(void **state)
{
    char *bytes;
    size_t n;

    (void)state;
    make_images("a");
    made_jpeg("a/train/cat/0.jpg", 6, 5, 3, 7);
    dataset_close(made_open("images", made_path("a")));
    assert_int_equal(file_remove_tree(made_path("cache"), NULL), 0);
    made_read("a/train/cat/0.jpg", &bytes, &n);
    free(bytes);
    made_truncate("a/train/cat/0.jpg", n - 40);
    made_refused("images", made_path("a"), -EINVAL, "%s/train/cat/0.jpg: Premature end of JPEG file", made_path("a"));
    made_read("a/train/cat/1.png", &bytes, &n);
    free(bytes);
    made_truncate("a/train/cat/1.png", n - 20);
    made_refused("images", made_path("a"), -EINVAL,
                 "%s/train/cat/0.jpg: Premature end of JPEG file (and 1 more images cannot be decoded)",
                 made_path("a"));
    assert_int_equal(unlink(made_path("a/train/cat/0.jpg")), 0);
    made_refused("images", made_path("a"), -EINVAL, "%s/train/cat/1.png: premature end of PNG file", made_path("a"));
    made_truncate("a/train/cat/1.png", 0);
    made_refused("images", made_path("a"), -EINVAL, "%s/train/cat/1.png: an empty file", made_path("a"));
    made_write("a/train/cat/1.png", "GIF89a", 6);
    made_refused("images", made_path("a"), -EINVAL, "%s/train/cat/1.png: neither a JPEG nor a PNG by its first bytes",
                 made_path("a"));
}

static void a_truncated_archive_is_said_to_be_truncated(void **state)
{
    static const char *const NAMES[] = {"i.tar.gz", "i.tar.xz"};
    char *bytes;
    size_t n;

    (void)state;
    make_images("a");
    for (size_t i = 0; i < 2; i++) {
        TAR(NAMES[i], {"cat/1.png", "a/train/cat/1.png"}, {"dog/2.png", "a/train/dog/2.png"});
        made_read(NAMES[i], &bytes, &n);
        free(bytes);
        made_truncate(NAMES[i], n / 2);
        made_refused("images", made_path(NAMES[i]), -EINVAL,
                     "%s: not a tar archive that can be read: truncated %s input", made_path(NAMES[i]), i ? "xz" : "gzip");
    }
}

static void folders_that_are_not_what_they_should_be_are_refused(void **state)
{
    (void)state;
    assert_int_equal(file_make_folder(made_path("empty"), NULL), 0);
    made_refused("images", made_path("empty"), -EINVAL,
                 "%s: holds no .jpg, .jpeg or .png file (expected CLASS/NAME or {train,test}/CLASS/NAME)",
                 made_path("empty"));
    made_refused("images", made_path("none"), -ENOENT, "data.path: %s: No such file or directory", made_path("none"));
    made_write("note.txt", "x", 1);
    made_refused("images", made_path("note.txt"), -EINVAL,
                 "data.path: %s: source images reads a folder or a .tar, .tar.gz or "
                 ".tar.xz",
                 made_path("note.txt"));
    made_write("i.tar", "this is no archive at all", 25);
    made_refused("images", made_path("i.tar"), -EINVAL,
                 "%s: not a tar archive that can be read: Unrecognized archive format", made_path("i.tar"));
    make_images("a");
    assert_int_equal(file_make_folder(made_path("a/train/eel"), NULL), 0);
    made_refused("images", made_path("a"), -EINVAL, "%s/train/eel/: a folder without images", made_path("a"));
    made_png("a/test/eel/1.png", 6, 5, 3, 0);
    assert_int_equal(rmdir(made_path("a/train/eel")), 0);
    made_refused("images", made_path("a"), -EINVAL, "%s/test/eel/1.png: class eel is not in train/", made_path("a"));
    made_write("a/train/dog/notes.txt", "x", 1);
    made_refused("images", made_path("a"), -EINVAL,
                 "%s/train/dog/notes.txt: neither .jpg, .jpeg nor .png, in a class folder", made_path("a"));
    made_png("one/cat/1.png", 6, 5, 3, 0);
    made_refused("images", made_path("one"), -EINVAL,
                 "%s: 1 class folder where at least 2 are needed (expected CLASS/NAME or "
                 "{train,test}/CLASS/NAME)",
                 made_path("one"));
}

static void sections_without_a_known_source_or_path_are_refused(void **state)
{
    (void)state;
    made_refused("imagenet", "x", -EINVAL, "data.source: imagenet is not one of cifar10, idx, images, synthetic");
    made_refused("idx", "", -EINVAL, "data.path is missing: source idx reads a folder or file");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, made_setup, made_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(mnist_has_its_published_counts_and_first_labels),
        TEST(pneumoniamnist_has_two_unequal_classes),
        TEST(lossless_cifar_records_keep_every_pixel),
        TEST(cifar_as_jpeg_archive_gives_60000_images_of_ten_sorted_classes),
        TEST(idx_reads_plain_and_gz_alike),
        TEST(idx_without_test_files_has_no_test_split),
        TEST(idx_refuses_a_wrong_magic_number),
        TEST(idx_refuses_a_truncated_plain_file),
        TEST(idx_refuses_every_truncation_of_a_gz_file),
        TEST(idx_refuses_gz_data_that_ends_early_goes_on_or_is_damaged),
        TEST(idx_refuses_counts_and_shapes_that_do_not_match),
        TEST(idx_names_the_file_that_is_missing),
        TEST(cifar_folder_is_five_batches_in_order_and_a_test_batch),
        TEST(cifar_names_file_and_record_of_a_wrong_label),
        TEST(cifar_refuses_a_size_that_is_not_a_multiple_of_3073),
        TEST(cifar_names_what_is_missing_or_of_another_kind),
        TEST(cifar_archive_equals_its_folder),
        TEST(cifar_archive_refuses_a_missing_and_a_doubled_batch),
        TEST(images_come_in_the_order_of_names_from_folder_and_archive),
        TEST(images_without_train_and_test_have_no_test_split),
        TEST(archives_that_would_write_elsewhere_are_refused),
        TEST(images_of_unequal_sizes_and_colours_are_refused),
        TEST(truncated_and_foreign_images_are_refused_by_name),
        TEST(a_truncated_archive_is_said_to_be_truncated),
        TEST(folders_that_are_not_what_they_should_be_are_refused),
        TEST(sections_without_a_known_source_or_path_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
