/* test_safetensors.c - what is written is read back, and nothing torn or altered gets through or crashes the reader.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "common/rng.h"
#include "trainer/artifact/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char folder[64], path[96];

static int setup(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/flexp-tensors-XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return file_remove_tree(folder, NULL);
}

static const float WEIGHTS[6] = {1.5f, -2, 0, 3e-42f, 1e30f, -0.0f};
static const double WIDE[2] = {0.1, -1e300};
static const int64_t COUNT[1] = {INT64_MIN};
static const uint8_t MASK[3] = {0, 255, 7};
static const struct tensor TENSORS[] = {
    {"mask", TENSOR_U8, {3}, 1, MASK, 3},
    {"layers.0.weight", TENSOR_F32, {2, 3}, 2, WEIGHTS, 24},
    {"wide", TENSOR_F64, {1, 2, 1, 1}, 4, WIDE, 16},
    {"count", TENSOR_I64, {0}, 0, COUNT, 8},
    {"none", TENSOR_F32, {0, 5}, 2, "", 0},
};
#define TENSORS_N (sizeof TENSORS / sizeof *TENSORS)

static void write_all(void)
{
    json_t *metadata = json_pack("{s:s, s:s}", "format", "pt", "note", "gr\xc3\xbc\xc3\x9f");

    assert_int_equal(safetensors_write(path, TENSORS, TENSORS_N, metadata, NULL), 0);
    json_decref(metadata);
}

static void what_is_written_is_read_back(void **state)
{
    struct tensor_file file = {0};

    (void)state;
    write_all();
    assert_int_equal(safetensors_read(path, &file, NULL), 0);
    assert_int_equal(file.n, TENSORS_N);
    assert_string_equal(json_string_or(file.metadata, "format", ""), "pt");
    assert_string_equal(json_string_or(file.metadata, "note", ""), "gr\xc3\xbc\xc3\x9f");
    for (size_t i = 0; i < TENSORS_N; i++) {
        const struct tensor *t = tensor_find(&file, TENSORS[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, TENSORS[i].dtype);
        assert_int_equal(t->dims, TENSORS[i].dims);
        assert_int_equal(t->bytes, TENSORS[i].bytes);
        for (int d = 0; d < t->dims; d++)
            assert_int_equal(t->shape[d], TENSORS[i].shape[d]);
        if (t->bytes)
            assert_memory_equal(t->data, TENSORS[i].data, t->bytes);
    }
    assert_null(tensor_find(&file, "bias"));
    tensor_file_done(&file);
}

static void a_file_without_tensors_or_metadata_is_read_back(void **state)
{
    struct tensor_file file = {0};

    (void)state;
    assert_int_equal(safetensors_write(path, NULL, 0, NULL, NULL), 0);
    assert_int_equal(safetensors_read(path, &file, NULL), 0);
    assert_int_equal(file.n, 0);
    assert_int_equal(json_object_size(file.metadata), 0);
    tensor_file_done(&file);
}

/* In a block of exactly this length, so that a read past its end is seen by the sanitizer. */
static int parse_copy(const char *bytes, size_t n, struct error *err)
{
    struct tensor_file file = {0};
    char *copy = malloc(n ? n : 1);
    int rc;

    assert_non_null(copy);
    memcpy(copy, bytes, n);
    rc = safetensors_parse(copy, n, &file, err);
    if (!rc) { /* then every byte of every tensor can be read */
        unsigned sum = 0;
        for (size_t i = 0; i < file.n; i++)
            for (size_t b = 0; b < file.tensors[i].bytes; b++)
                sum += ((const uint8_t *)file.tensors[i].data)[b];
        assert_true(sum < UINT32_MAX);
        tensor_file_done(&file);
    } else {
        assert_null(file.tensors);
        assert_null(file.metadata);
    }
    free(copy);
    return rc;
}

static void every_truncation_is_refused(void **state)
{
    struct error err;
    char *bytes;
    size_t n;

    (void)state;
    write_all();
    assert_int_equal(file_read(path, &bytes, &n, NULL), 0);
    for (size_t cut = 0; cut < n; cut++) {
        err = (struct error){0};
        assert_int_equal(parse_copy(bytes, cut, &err), -EINVAL);
        assert_true(*err.text);
    }
    assert_int_equal(parse_copy(bytes, n, NULL), 0);
    assert_int_equal(truncate(path, (off_t)n - 1), 0);
    {
        struct tensor_file file = {0};
        assert_int_equal(safetensors_read(path, &file, &err), -EINVAL);
        assert_non_null(strstr(err.text, path));
        assert_null(file.bytes);
    }
    free(bytes);
}

static void random_mutations_never_crash(void **state)
{
    struct pcg32 rng;
    char *bytes, *copy;
    size_t n, refused = 0;

    (void)state;
    write_all();
    assert_int_equal(file_read(path, &bytes, &n, NULL), 0);
    copy = malloc(n);
    assert_non_null(copy);
    pcg32_seed(&rng, 2024, 6);
    for (int i = 0; i < 5000; i++) {
        int rc;
        memcpy(copy, bytes, n);
        for (uint32_t k = 1 + rng_below(&rng, 4); k; k--) {
            uint32_t at = rng_below(&rng, (uint32_t)n);
            copy[at] = rng_below(&rng, 3) ? (char)rng_below(&rng, 256) : "0123456789[]{},:\""[rng_below(&rng, 17)];
        }
        rc = parse_copy(copy, n, NULL);
        assert_true(!rc || rc == -EINVAL);
        refused += rc != 0;
    }
    assert_true(refused > 3000);
    free(copy);
    free(bytes);
}

/* A header of this text before this many bytes of data, and what the reader says. */
static void refused(const char *header, size_t data_n, const char *text)
{
    size_t n = strlen(header), length = 8 + n + data_n;
    char *bytes = calloc(1, length);
    struct error err = {0};

    assert_non_null(bytes);
    bytes[0] = (char)n; /* below 256: aligned to 8 by the caller's choice of text where that matters */
    memcpy(bytes + 8, header, n);
    assert_int_equal(parse_copy(bytes, length, &err), -EINVAL);
    assert_string_equal(err.text, text);
    free(bytes);
}

static void wrong_headers_are_refused_with_what_is_wrong(void **state)
{
    (void)state;
    refused("[]", 0, "byte 8: the header does not begin with {");
    refused("{\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]}}", 2,
            "tensor a: dtype \"BF16\" is not one of F32, F64, I64, U8");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,3]}}", 2,
            "tensor a: data_offsets 0 to 3 are not within the file's 2 bytes of data");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2,
            "tensor a: its shape does not ask for the 2 bytes of its data_offsets");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
            "tensor a: its shape does not ask for the 0 bytes of its data_offsets");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,0]}}", 0, "tensor a: shape[0] is not a size");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
            "tensor a: has 5 dimensions where at most 4 are read");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2,
            "tensor a: begins at 1 where the data before it ends at 0");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 4, "3 bytes follow the last tensor");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
            "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
            3, "tensor b: begins at 1 where the data before it ends at 2");
    refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "tensor a: must have exactly dtype, shape and data_offsets");
    refused("{\"__metadata__\":{\"a\":1}}", 0, "__metadata__.a is not a string");
}

static void what_cannot_be_written_leaves_the_old_file(void **state)
{
    struct tensor twice[] = {TENSORS[0], TENSORS[0]}, wrong = TENSORS[1];
    json_t *metadata = json_pack("{s:i}", "epoch", 3);
    struct error err = {0};
    char *before, *after, text[256];
    size_t n, after_n;

    (void)state;
    write_all();
    assert_int_equal(file_read(path, &before, &n, NULL), 0);
    assert_int_equal(safetensors_write(path, twice, 2, NULL, &err), -EINVAL);
    snprintf(text, sizeof text, "%s: two tensors have one name", path);
    assert_string_equal(err.text, text);
    wrong.bytes = 20;
    assert_int_equal(safetensors_write(path, &wrong, 1, NULL, &err), -EINVAL);
    snprintf(text, sizeof text, "%s: tensor layers.0.weight: its shape does not ask for the 20 bytes given", path);
    assert_string_equal(err.text, text);
    assert_int_equal(safetensors_write(path, TENSORS, 1, metadata, &err), -EINVAL);
    snprintf(text, sizeof text, "%s: metadata epoch is not a string", path);
    assert_string_equal(err.text, text);
    assert_int_equal(file_read(path, &after, &after_n, NULL), 0);
    assert_int_equal(after_n, n);
    assert_memory_equal(after, before, n);
    free(before);
    free(after);
    json_decref(metadata);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read_back),
        TEST(a_file_without_tensors_or_metadata_is_read_back),
        TEST(every_truncation_is_refused),
        TEST(random_mutations_never_crash),
        TEST(wrong_headers_are_refused_with_what_is_wrong),
        TEST(what_cannot_be_written_leaves_the_old_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
