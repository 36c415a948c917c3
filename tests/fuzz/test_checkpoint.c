/* test_checkpoint.c - a checkpoint of hostile bytes: as a safetensors file, then as that of a small model.
 * The checksum would hide all that is read after it: where it alone is wrong, it is corrected (the error names the
 * right one) and the file is read again. SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "tests/fuzz/fuzz.h"
#include "trainer/artifact/checkpoint.h"
#include "trainer/artifact/safetensors.h"

#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#define MODEL "{\"layers\": [\"flatten\", {\"dense\": {\"units\": \"classes\"}}]}"
#define OPTIMIZER_N 4
#define HEX 32 /* digits of a checksum */

static void parse(const char *bytes, size_t size)
{
    struct tensor_file file = {0};
    struct error err = {0};
    int rc = safetensors_parse(bytes, size, &file, &err);
    size_t total = 0;

    if (rc) {
        must_be_refusal(rc, &err);
        return;
    }
    for (size_t i = 0; i < file.n; i++) {
        const struct tensor *tensor = &file.tensors[i];
        const char *from = tensor->data;
        must(from >= bytes && tensor->bytes <= size && from + tensor->bytes <= bytes + size);
        must(tensor->dims >= 0 && tensor->dims <= 4 && tensor_find(&file, tensor->name));
        total += tensor->bytes;
    }
    must(total <= size && json_is_object(file.metadata));
    tensor_file_done(&file);
}

/* 0, or the error's code; the error's text in *err. */
static int read_as_checkpoint(const struct model *model, const char *bytes, size_t size, struct error *err)
{
    float weights[64], optimizer[OPTIMIZER_N];
    struct checkpoint checkpoint = {
        .model = model, .seed = 7, .trial = 3, .weights = weights, .optimizer = optimizer, .optimizer_n = OPTIMIZER_N};
    char path[64];
    int fd = memfd_create("checkpoint", MFD_CLOEXEC), rc;

    must(model->weights_n <= sizeof weights / sizeof *weights);
    must(fd >= 0 && !fd_write_all(fd, bytes, size));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    *err = (struct error){0};
    rc = checkpoint_read(path, &checkpoint, err);
    close(fd);
    if (rc) {
        must(rc == -EUCLEAN);
        must_be_refusal(rc, err);
    } else {
        must(checkpoint.state);
        json_decref(checkpoint.state);
    }
    return rc;
}

/* A file whose model is 0000000000000000 means this one, whatever its hash is today. */
static void set_model(char *bytes, size_t size, const struct model *model)
{
    static const char MARK[] = "\"model\":\"0000000000000000\"";
    char *at = memmem(bytes, size, MARK, sizeof MARK - 1), hash[17];

    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)XXH3_64bits(model->key, strlen(model->key)));
    if (at)
        memcpy(at + 9, hash, 16);
}

/* Puts the checksum that the error names over the one that the file has. */
static bool correct(char *bytes, size_t size, const struct error *err)
{
    const char *right = strstr(err->text, ": checksum ");
    char *written = memmem(bytes, size, "\"checksum\":\"", 12);

    if (!right || !written || (size_t)(written + 12 + HEX - bytes) > size)
        return false;
    memcpy(written + 12, right + 11, HEX);
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct data_shape shape = {1, 2, 2, 2, 4, 0};
    struct model *model = NULL;
    struct error err = {0};
    json_t *section = NULL;
    char *bytes = malloc(size + 1);

    must(bytes);
    memcpy(bytes, data, size);
    must(!json_parse(MODEL, strlen(MODEL), &section, &err) && !model_new(section, &shape, &model, &err));
    set_model(bytes, size, model);
    parse(bytes, size);
    if (read_as_checkpoint(model, bytes, size, &err) && correct(bytes, size, &err))
        read_as_checkpoint(model, bytes, size, &err);
    model_free(model);
    json_decref(section);
    free(bytes);
    return 0;
}
