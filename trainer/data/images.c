/* images.c - a folder or tar of JPEG or PNG files, labels from folder names.
 * {train,test}/CLASS/NAME, or CLASS/NAME (then there is no test split but for data.test_fraction); one folder around all of it is
 * looked through. With data.label_pattern the names of the files say the class, in any folder. Classes
 * are the sorted names of the training folders; samples are in the order of their names, whatever the archive's order. Files
 * beside the class folders and hidden files are not looked at; anything in a class folder that is no image is an error, as is
 * a folder without images, an image of another size, and grey among RGB: the caller's data is not what it is thought to be.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "trainer/data/data_private.h"
#include "trainer/data/decode_pool.h"
#include "trainer/data/image.h"
#include "trainer/data/image_names.h"
#include "trainer/data/tar.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX 5
#define IMAGE_BYTES_MAX ((size_t)256 << 20)

/* -- folders: every file below becomes a data_file whose role is its name; roles of folders end in / -- */

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* The visible names of a folder, sorted. */
static int list_folder(const char *path, char ***ret, size_t *ret_n, struct error *err)
{
    DIR *folder = opendir(path);
    struct dirent *entry;
    char **names = NULL;
    size_t n = 0, room = 0;
    int rc = 0;

    if (!folder)
        return fail(err, -errno, "%s: %s", path, strerror(errno));
    while (!rc && (errno = 0, entry = readdir(folder))) {
        if (entry->d_name[0] == '.')
            continue;
        if (n == room) {
            char **grown = realloc(names, (room = room ? 2 * room : 64) * sizeof *grown);
            if (!grown) {
                rc = fail(err, -ENOMEM, "out of memory");
                break;
            }
            names = grown;
        }
        names[n] = strdup(entry->d_name);
        rc = names[n] ? 0 : fail(err, -ENOMEM, "out of memory");
        n += !rc;
    }
    if (!rc && errno)
        rc = fail(err, -errno, "%s: %s", path, strerror(errno));
    closedir(folder);
    if (!rc && n)
        qsort(names, n, sizeof *names, by_text);
    *ret = names;
    *ret_n = n;
    return rc;
}

/* name: "" for the folder itself, else ending in /. Links are followed: the folder is the user's own. */
static int walk_folder(struct data_input *in, const char *name, int depth, struct error *err)
{
    char *path = format_text("%s/%s", in->path, name), **names = NULL;
    size_t n = 0;
    int rc;

    if (!path)
        return fail(err, -ENOMEM, "out of memory");
    rc = depth > DEPTH_MAX ? fail(err, -EINVAL, "%s: folders more than %d deep", path, DEPTH_MAX)
                           : list_folder(path, &names, &n, err);
    if (!rc && *name)
        rc = data_files_add(&in->files, name, err, "%s", path);
    for (size_t i = 0; i < n && !rc; i++) {
        char *inner = format_text("%s%s", name, names[i]), *at = format_text("%s%s", path, names[i]), *deeper = NULL;
        struct stat st;
        if (!inner || !at)
            rc = fail(err, -ENOMEM, "out of memory");
        else if (stat(at, &st))
            rc = fail(err, -errno, "%s: %s", at, strerror(errno));
        else if (S_ISDIR(st.st_mode))
            rc = (deeper = format_text("%s/", inner)) ? walk_folder(in, deeper, depth + 1, err)
                                                      : fail(err, -ENOMEM, "out of memory");
        else if (S_ISREG(st.st_mode))
            rc = data_files_add(&in->files, inner, err, "%s", at);
        else
            rc = fail(err, -EINVAL, "%s: neither a file nor a folder", at);
        free(inner);
        free(at);
        free(deeper);
    }
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    free(path);
    return rc;
}

static int images_files(struct data_input *in, struct error *err)
{
    struct stat st;

    if (stat(in->path, &st))
        return fail(err, -errno, "data.path: %s: %s", in->path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return walk_folder(in, "", 0, err);
    if (tar_has_name(in->path))
        return data_files_add(&in->files, "", err, "%s", in->path);
    return fail(err, -EINVAL, "data.path: %s: source images reads a folder or a .tar, .tar.gz or .tar.xz", in->path);
}

/* -- one way through both -- */

/* Called for each entry; images come with their bytes when they are wanted. */
struct visitor {
    struct image_names *names;
    struct decode_pool *pool; /* NULL: only the first image is looked at, and only its header */
    struct image first;
    bool has_first;
};

static int visit_image(struct visitor *visitor, const char *where, const char *name, const uint8_t *bytes, size_t n,
                       struct error *err)
{
    if (visitor->pool)
        return decode_pool_add(visitor->pool, name, bytes, n, err);
    visitor->has_first = true;
    if (image_size(&visitor->first, bytes, n))
        return fail(err, -EINVAL, "%s%s: %s", where, name, visitor->first.problem);
    return 0;
}

static bool wants_bytes(const struct visitor *visitor)
{
    return visitor->pool || !visitor->has_first;
}

static int through_folder(const struct data_input *in, struct visitor *visitor, struct error *err)
{
    char *where = format_text("%s/", in->path);
    int rc = where ? 0 : fail(err, -ENOMEM, "out of memory");

    for (size_t i = 0; i < in->files.n && !rc; i++) {
        const struct data_file *file = &in->files.list[i];
        enum image_name kind;
        char *bytes = NULL;
        size_t n;
        rc = image_names_add(visitor->names, file->role, &kind, err);
        if (rc || kind != NAME_IMAGE || !wants_bytes(visitor))
            continue;
        rc = file_read(file->path, &bytes, &n, err);
        if (!rc)
            rc = visit_image(visitor, where, file->role, (const uint8_t *)bytes, n, err);
        free(bytes);
    }
    free(where);
    return rc;
}

static int through_tar(const struct data_input *in, struct visitor *visitor, struct error *err)
{
    char *where = format_text("%s: ", in->path), *name = NULL;
    struct tar_reader *reader = NULL;
    struct tar_entry entry;
    uint8_t *bytes = NULL;
    size_t room = 0, n;
    int rc = where ? tar_open(in->path, &reader, err) : fail(err, -ENOMEM, "out of memory");

    while (!rc && (rc = tar_next(reader, &entry, err)) == 1) {
        enum image_name kind;
        rc = 0;
        if (!*entry.name || !strcmp(entry.name, "."))
            continue;
        free(name);
        name = format_text("%s%s", entry.name, entry.folder ? "/" : "");
        rc = name ? image_names_add(visitor->names, name, &kind, err) : fail(err, -ENOMEM, "out of memory");
        if (rc || kind != NAME_IMAGE || !wants_bytes(visitor))
            continue;
        rc = tar_read(reader, &bytes, &room, &n, IMAGE_BYTES_MAX, err);
        if (!rc)
            rc = visit_image(visitor, where, name, bytes, n, err);
    }
    tar_close(reader);
    free(bytes);
    free(name);
    free(where);
    return rc;
}

/* What errors put before a name: "FOLDER/" or "ARCHIVE: ". The caller frees. */
static char *prefix_of(const struct data_input *in)
{
    bool archive = in->files.n == 1 && !*in->files.list[0].role;

    return format_text("%s%s", in->path, archive ? ": " : "/");
}

static int through(const struct data_input *in, struct visitor *visitor, struct error *err)
{
    bool archive = in->files.n == 1 && !*in->files.list[0].role;
    char *where = prefix_of(in);
    int rc = where ? 0 : fail(err, -ENOMEM, "out of memory");

    if (!rc)
        rc = archive ? through_tar(in, visitor, err) : through_folder(in, visitor, err);
    if (!rc)
        rc = image_names_settle(visitor->names, where, err);
    free(where);
    return rc;
}

/* What other dialects have and POSIX reads as something else, so that images would be mislabelled without a word, is refused;
 * \d is understood. The caller frees *ret. */
static int translate_pattern(const char *text, char **ret, struct error *err)
{
    static const char *const FOREIGN[] = {"(?", "+?", "*?", "}?"};
    char *to = *ret = malloc(5 * strlen(text) + 1);

    if (!to)
        return fail(err, -ENOMEM, "out of memory");
    for (size_t i = 0; i < sizeof FOREIGN / sizeof *FOREIGN; i++)
        if (strstr(text, FOREIGN[i])) {
            free(to);
            return fail(err, -EINVAL, "data.label_pattern: %s has \"%s\", which POSIX regular expressions read as something else;"
                                      " write [^.]+ or the like in place of .+?", text, FOREIGN[i]);
        }
    for (; *text; text++) {
        if (text[0] == '\\' && text[1] == 'd') {
            to = stpcpy(to, "[0-9]");
            text++;
        } else {
            *to++ = *text;
            if (text[0] == '\\' && text[1])
                *to++ = *++text;
        }
    }
    *to = 0;
    return 0;
}

static int begin_names(const struct data_input *in, regex_t *pattern, struct image_names *ret, struct conversion *conversion,
                       struct error *err)
{
    const char *text = json_string_or(in->data, "label_pattern", NULL);
    char problem[200], *translated = NULL;
    int code, rc = conversion_from(in->data, conversion, err);

    if (rc)
        return rc;
    *ret = (struct image_names){.test_fraction = json_double_or(in->data, "test_fraction", 0)};
    if (!text)
        return 0;
    rc = translate_pattern(text, &translated, err);
    if (rc)
        return rc;
    code = regcomp(pattern, translated, REG_EXTENDED);
    free(translated);
    if (code) {
        regerror(code, pattern, problem, sizeof problem);
        return fail(err, -EINVAL, "data.label_pattern: %s is no regular expression: %s", text, problem);
    }
    if (!pattern->re_nsub) {
        regfree(pattern);
        return fail(err, -EINVAL, "data.label_pattern: %s has no group: the class goes in parentheses, as in ^([a-z]+)_", text);
    }
    ret->pattern = pattern;
    return 0;
}

static void end_names(struct image_names *names)
{
    if (names->pattern)
        regfree((regex_t *)names->pattern);
    image_names_done(names);
}

static char *images_settings(const struct data_input *in)
{
    struct conversion conversion;
    char *size, *text;

    if (conversion_from(in->data, &conversion, NULL))
        return strdup("");
    size = conversion_text(&conversion);
    text = size ? format_text("%s %.17g %s", size, json_double_or(in->data, "test_fraction", 0),
                              json_string_or(in->data, "label_pattern", ""))
                : NULL;
    free(size);
    return text;
}

static int images_shape(const struct data_input *in, struct data_shape *ret, struct error *err)
{
    struct image_names names;
    struct conversion conversion;
    regex_t pattern;
    struct visitor visitor = {.names = &names};
    int rc = begin_names(in, &pattern, &names, &conversion, err);

    if (rc)
        return rc;
    rc = through(in, &visitor, err);
    if (!rc) {
        *ret = (struct data_shape){visitor.first.channels, visitor.first.height, visitor.first.width, (int)names.classes_n,
                                   names.split_n[TRAIN], names.split_n[TEST]};
        conversion_shape(&conversion, ret);
    }
    image_done(&visitor.first);
    end_names(&names);
    return rc;
}

/* -- loading -- */

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct decoded *const *)a)->name, (*(const struct decoded *const *)b)->name);
}

static const char *colour(int channels)
{
    return channels == 1 ? "grey" : "RGB";
}

/* All of one size and colour; the first by name sets it. list is sorted. */
static int check_equal(const char *where, const struct decoded *const *list, size_t n, struct error *err)
{
    size_t more = 0, at = n;

    for (size_t i = n; i-- > 0;)
        if (list[i]->problem) {
            at = i;
            more++;
        }
    if (at < n && more > 1)
        return fail(err, -EINVAL, "%s%s: %s (and %zu more images cannot be decoded)", where, list[at]->name,
                    list[at]->problem, more - 1);
    if (at < n)
        return fail(err, -EINVAL, "%s%s: %s", where, list[at]->name, list[at]->problem);
    for (size_t i = 1; i < n; i++) {
        const struct decoded *first = list[0], *other = list[i];
        if (other->height != first->height || other->width != first->width)
            return fail(err, -EINVAL, "%s%s: %dx%d pixels where %s has %dx%d: all images must have one size, or data.resize gives them one", where,
                        other->name, other->width, other->height, first->name, first->width, first->height);
        if (other->channels != first->channels)
            return fail(err, -EINVAL, "%s%s: %s where %s is %s: all images must be the same, or data.channels makes them so", where, other->name,
                        colour(other->channels), first->name, colour(first->channels));
    }
    return 0;
}

/* Slots of the scratch file to their places, in the order of names. */
static int place(const struct data_input *in, const struct image_names *names, const struct decoded *const *list, size_t n,
                 int scratch, struct cache_build *build, struct error *err)
{
    size_t bytes = (size_t)list[0]->height * (size_t)list[0]->width * (size_t)list[0]->channels, at[SPLITS] = {0};
    struct data_shape shape = {list[0]->channels, list[0]->height, list[0]->width, (int)names->classes_n,
                               names->split_n[TRAIN], names->split_n[TEST]};
    const uint8_t *slots;
    int rc = cache_build_shape(build, &shape, (const char *const *)names->classes, err);

    if (rc)
        return rc;
    slots = mmap(NULL, n * bytes, PROT_READ, MAP_SHARED, scratch, 0);
    if (slots == MAP_FAILED)
        return fail(err, -errno, "%s: decoded images cannot be mapped: %s", in->path, strerror(errno));
    for (size_t i = 0; i < n; i++) {
        uint16_t label;
        int s = image_names_label(names, list[i]->name, &label);
        build->labels[s][at[s]] = label;
        memcpy(build->images[s] + at[s]++ * bytes, slots + list[i]->slot * bytes, bytes);
    }
    munmap((void *)slots, n * bytes);
    return 0;
}

static int images_load(const struct data_input *in, struct cache_build *build, struct error *err)
{
    struct image_names names;
    struct conversion conversion;
    regex_t pattern;
    struct visitor visitor = {.names = &names};
    const struct decoded *const *list, **sorted = NULL;
    char *where;
    int scratch, rc = begin_names(in, &pattern, &names, &conversion, err);
    size_t n = 0;

    if (rc)
        return rc;
    where = prefix_of(in);
    scratch = cache_build_scratch(build, err);
    rc = scratch < 0 ? scratch : 0;
    if (!rc && !where)
        rc = fail(err, -ENOMEM, "out of memory");
    if (!rc)
        rc = decode_pool_new(scratch, &conversion, &visitor.pool, err);
    if (!rc)
        rc = through(in, &visitor, err);
    if (!rc)
        rc = decode_pool_finish(visitor.pool, &list, &n, err);
    if (rc)
        goto out;
    sorted = malloc(n * sizeof *sorted);
    if (!sorted) {
        rc = fail(err, -ENOMEM, "out of memory");
        goto out;
    }
    memcpy(sorted, list, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, by_name);
    rc = check_equal(where, sorted, n, err);
    if (!rc)
        rc = place(in, &names, sorted, n, scratch, build, err);
out:
    free(sorted);
    free(where);
    decode_pool_free(visitor.pool);
    end_names(&names);
    if (scratch >= 0)
        close(scratch);
    return rc;
}

const struct data_source SOURCE_IMAGES = {.name = "images", .version = 1, .needs_path = true, .converts = true,
                                          .files = images_files, .settings = images_settings, .shape = images_shape, .load = images_load};
