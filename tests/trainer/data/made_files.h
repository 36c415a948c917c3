/* made_files.h - for the tests of this folder: a temporary folder, small data sets written into it, and opening them.
 * Everything asserts, so that a test reads as what it is about.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TESTS_MADE_FILES_H
#define FLEXP_TESTS_MADE_FILES_H

#include "common/file.h"
#include "common/json.h"
#include "trainer/data/dataset.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jpeglib.h>
#include <png.h>
#include <zlib.h>

#include <cmocka.h>

static char made_root[64]; /* removed after each test */

static inline int made_setup(void **state)
{
    (void)state;
    strcpy(made_root, "/tmp/flexp-data-XXXXXX");
    return mkdtemp(made_root) ? 0 : -1;
}

static inline int made_teardown(void **state)
{
    (void)state;
    return file_remove_tree(made_root, NULL);
}

/* ROOT/NAME; the last few answers stay valid. */
static inline const char *made_path(const char *name)
{
    static char paths[8][256];
    static unsigned at;
    char *path = paths[at++ % 8];

    snprintf(path, sizeof paths[0], "%s/%s", made_root, name);
    return path;
}

static inline void made_write(const char *name, const void *bytes, size_t n)
{
    char path[256], *slash;

    snprintf(path, sizeof path, "%s/%s", made_root, name);
    slash = strrchr(path, '/');
    *slash = 0;
    assert_int_equal(file_make_folder(path, NULL), 0);
    *slash = '/';
    assert_int_equal(file_write(path, bytes, n, NULL), 0);
}

static inline void made_read(const char *name, char **ret, size_t *ret_n)
{
    assert_int_equal(file_read(made_path(name), ret, ret_n, NULL), 0);
}

/* In place. */
static inline void made_truncate(const char *name, size_t n)
{
    assert_int_equal(truncate(made_path(name), (off_t)n), 0);
}

static inline void made_gzip(const char *from, const char *to)
{
    char *bytes;
    size_t n;
    gzFile file = gzopen(made_path(to), "wb");

    made_read(from, &bytes, &n);
    assert_non_null(file);
    assert_int_equal(gzwrite(file, bytes, (unsigned)n), (int)n);
    assert_int_equal(gzclose(file), Z_OK);
    assert_int_equal(unlink(made_path(from)), 0);
    free(bytes);
}

/* -- IDX: n images of side x side; pixel p of image i is (i * 7 + p) mod 256, label i mod classes -- */

static inline size_t made_big_endian(uint8_t *to, const uint32_t *numbers, size_t n)
{
    for (size_t i = 0; i < 4 * n; i++)
        to[i] = (uint8_t)(numbers[i / 4] >> (24 - 8 * (i % 4)));
    return 4 * n;
}

static inline void made_idx(const char *folder, const char *stem, unsigned images, unsigned labels, unsigned side,
                            unsigned classes)
{
    size_t body = (size_t)images * side * side;
    uint8_t *bytes = malloc(16 + body + labels);
    char name[128];

    assert_non_null(bytes);
    made_big_endian(bytes, (uint32_t[]){0x803, images, side, side}, 4);
    for (size_t p = 0; p < body; p++)
        bytes[16 + p] = (uint8_t)(p / (side * side) * 7 + p % (side * side));
    snprintf(name, sizeof name, "%s/%s-images-idx3-ubyte", folder, stem);
    made_write(name, bytes, 16 + body);
    made_big_endian(bytes, (uint32_t[]){0x801, labels}, 2);
    for (unsigned i = 0; i < labels; i++)
        bytes[8 + i] = (uint8_t)(i % classes);
    snprintf(name, sizeof name, "%s/%s-labels-idx1-ubyte", folder, stem);
    made_write(name, bytes, 8 + labels);
    free(bytes);
}

/* -- CIFAR: records of label i mod 10, plane c all of value 50 * c + i -- */

static inline uint8_t *made_cifar_records(size_t n)
{
    uint8_t *bytes = malloc(n * 3073);

    assert_non_null(bytes);
    for (size_t i = 0; i < n; i++) {
        bytes[i * 3073] = (uint8_t)(i % 10);
        for (size_t c = 0; c < 3; c++)
            memset(bytes + i * 3073 + 1 + c * 1024, (int)(50 * c + i), 1024);
    }
    return bytes;
}

static inline void made_cifar(const char *name, size_t n)
{
    uint8_t *bytes = made_cifar_records(n);

    made_write(name, bytes, n * 3073);
    free(bytes);
}

/* -- images: every pixel has one value -- */

static inline void made_jpeg(const char *name, unsigned width, unsigned height, int channels, int value)
{
    struct jpeg_compress_struct info;
    struct jpeg_error_mgr errors;
    unsigned char *bytes = NULL, row[3 * 256];
    unsigned long n = 0;
    JSAMPROW line = row;

    info.err = jpeg_std_error(&errors);
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, &bytes, &n);
    info.image_width = width;
    info.image_height = height;
    info.input_components = channels;
    info.in_color_space = channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, 100, TRUE);
    jpeg_start_compress(&info, TRUE);
    for (unsigned y = 0; y < height; y++) {
        for (unsigned x = 0; x < width * (unsigned)channels; x++)
            row[x] = (unsigned char)(value + (int)((x + y) % 5));
        jpeg_write_scanlines(&info, &line, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    made_write(name, bytes, n);
    free(bytes);
}

static inline void made_png(const char *name, unsigned width, unsigned height, int channels, int value)
{
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = width,
                       .height = height,
                       .format = channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB};
    uint8_t *pixels = malloc((size_t)width * height * (size_t)channels), *bytes;
    png_alloc_size_t n = 0;

    assert_non_null(pixels);
    for (size_t p = 0; p < (size_t)width * height * (size_t)channels; p++)
        pixels[p] = (uint8_t)((size_t)value + p % 7);
    assert_true(png_image_write_to_memory(&image, NULL, &n, 0, pixels, 0, NULL));
    bytes = malloc(n);
    assert_non_null(bytes);
    assert_true(png_image_write_to_memory(&image, bytes, &n, 0, pixels, 0, NULL));
    made_write(name, bytes, n);
    free(bytes);
    free(pixels);
}

/* -- opening -- */

static inline json_t *made_section(const char *source, const char *path)
{
    return json_pack("{s:s, s:s}", "source", source, "path", path);
}

static inline int made_try(const char *source, const char *path, struct dataset **ret, struct error *err)
{
    json_t *data = made_section(source, path);
    int rc = dataset_open(data, 1, made_path("cache"), ret, err);

    json_decref(data);
    return rc;
}

static inline struct dataset *made_open(const char *source, const char *path)
{
    struct dataset *dataset = NULL;
    struct error err = {0};

    if (made_try(source, path, &dataset, &err))
        fail_msg("%s", err.text);
    return dataset;
}

/* It fails with this code and text, leaves *ret alone, and leaves no file in the cache folder. */
static inline void made_refused(const char *source, const char *path, int code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static inline void made_refused(const char *source, const char *path, int code, const char *format, ...)
{
    struct dataset *dataset = NULL;
    struct error err = {0};
    char text[1000];
    va_list args;
    int rc = made_try(source, path, &dataset, &err);

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    assert_string_equal(err.text, text);
    assert_int_equal(rc, code);
    assert_int_equal(err.code, code);
    assert_null(dataset);
    if (file_exists(made_path("cache")))
        assert_int_equal(rmdir(made_path("cache")), 0);
}

/* The folder of real data, or NULL (which the test then skips for, with this reason printed). */
static inline const char *shared_data(const char *name)
{
    static char path[512];
    const char *shared = getenv("FLEXP_SHARED");

    snprintf(path, sizeof path, "%s/data/%s", shared ? shared : "../shared", name);
    if (file_exists(path))
        return path;
    printf("# because: no data in %s\n", path);
    return NULL;
}

#endif
