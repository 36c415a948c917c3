/* image_names.c - see image_names.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/image_names.h"
#include "trainer/data/data_private.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#define EXPECTED "expected CLASS/NAME or {train,test}/CLASS/NAME"

static enum image_name kind_of(const char *name)
{
    static const char *const IMAGES[] = {".jpg", ".jpeg", ".png"}, *const LEFT_BEHIND[] = {"Thumbs.db", "desktop.ini"};
    size_t n = strlen(name);
    const char *base;

    for (const char *at = name; at; at = strchr(at, '/')) {
        at += *at == '/';
        if (*at == '.' && at[1] != '/')
            return NAME_HIDDEN;
    }
    if (n && name[n - 1] == '/')
        return NAME_FOLDER;
    base = strrchr(name, '/');
    base = base ? base + 1 : name;
    for (size_t i = 0; i < 2; i++)
        if (!strcmp(base, LEFT_BEHIND[i]))
            return NAME_HIDDEN;
    for (size_t i = 0; i < 3; i++) {
        size_t end = strlen(IMAGES[i]);
        if (n > end && !strcasecmp(name + n - end, IMAGES[i]))
            return NAME_IMAGE;
    }
    return NAME_OTHER;
}

static int list_add(struct name_list *list, const char *text, size_t n, struct error *err)
{
    char *copy = strndup(text, n);

    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 64;
        char **grown = realloc(list->list, room * sizeof *grown);
        if (grown) {
            list->list = grown;
            list->room = room;
        }
    }
    if (!copy || list->n == list->room) {
        free(copy);
        return fail(err, -ENOMEM, "out of memory");
    }
    list->list[list->n++] = copy;
    return 0;
}

static void list_done(struct name_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->list[i]);
    free(list->list);
}

int image_names_add(struct image_names *names, const char *name, enum image_name *ret, struct error *err)
{
    *ret = kind_of(name);
    return *ret == NAME_HIDDEN ? 0 : list_add(&names->names[*ret], name, strlen(name), err);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static size_t depth_of(const char *name)
{
    size_t depth = 1;

    for (; *name; name++)
        depth += *name == '/' && name[1];
    return depth;
}

static size_t first_part(const char *name)
{
    return strcspn(name, "/");
}

/* SPLITS where the name does not begin with train/ or test/. */
static int split_of(const char *name)
{
    return !strncmp(name, "train/", 6) ? TRAIN : !strncmp(name, "test/", 5) ? TEST : SPLITS;
}

/* The one folder around everything, if there is such: all names begin with it and something is below its folders. */
static size_t find_strip(const struct name_list *images, size_t depth)
{
    size_t n = first_part(images->list[0]) + 1;

    if (split_of(images->list[0]) != SPLITS)
        return 0;
    for (size_t i = 0; i < images->n; i++)
        if (depth_of(images->list[i]) < depth || strncmp(images->list[i], images->list[0], n))
            return 0;
    return n;
}

/* *ret_n is 0 where the pattern does not fit. */
static const char *class_by_pattern(const struct image_names *names, const char *name, size_t *ret_n)
{
    const char *base = strrchr(name, '/');
    regmatch_t groups[2];

    base = base ? base + 1 : name;
    *ret_n = 0;
    if (regexec(names->pattern, base, 2, groups, 0) || groups[1].rm_so < 0 || groups[1].rm_eo == groups[1].rm_so)
        return base;
    *ret_n = (size_t)(groups[1].rm_eo - groups[1].rm_so);
    return base + groups[1].rm_so;
}

static const char *class_of(const struct image_names *names, const char *name, size_t *ret_n)
{
    if (names->pattern)
        return class_by_pattern(names, name, ret_n);
    name += names->strip;
    if (names->has_splits)
        name += first_part(name) + 1;
    *ret_n = first_part(name);
    return name;
}

static int find_class(const struct image_names *names, const char *text, size_t n)
{
    size_t low = 0, high = names->classes_n;

    while (low < high) {
        size_t middle = (low + high) / 2;
        const char *name = names->classes[middle];
        int order = strncmp(text, name, n);
        if (!order && name[n])
            order = -1;
        if (!order)
            return (int)middle;
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return -1;
}

/* `where` as the name of the whole, without the "/" or ": " that joins it to a name. */
static int whole(const char *where)
{
    size_t n = strlen(where);

    while (n > 1 && strchr("/: ", where[n - 1]))
        n--;
    return (int)n;
}

static int make_classes(struct image_names *names, const char *where, struct error *err)
{
    const struct name_list *images = &names->names[NAME_IMAGE];
    struct name_list classes = {0};
    size_t n, used = 0;
    int rc = 0;

    /* Neighbours of one class are one, so that the list to be sorted is short. */
    for (size_t i = 0; i < images->n && !rc; i++) {
        const char *name = class_of(names, images->list[i], &n);
        if (names->has_splits && split_of(images->list[i] + names->strip) != TRAIN)
            continue;
        if (!classes.n || strlen(classes.list[classes.n - 1]) != n || strncmp(classes.list[classes.n - 1], name, n))
            rc = list_add(&classes, name, n, err);
    }
    if (classes.n)
        qsort(classes.list, classes.n, sizeof *classes.list, by_text);
    for (size_t i = 0; i < classes.n; i++) {
        if (used && !strcmp(classes.list[used - 1], classes.list[i]))
            free(classes.list[i]);
        else
            classes.list[used++] = classes.list[i];
    }
    names->classes = classes.list;
    names->classes_n = used;
    if (!rc && used < 2)
        rc = names->pattern ? fail(err, -EINVAL, "%.*s: data.label_pattern finds %zu class%s where at least 2 are needed",
                                   whole(where), where, used, used == 1 ? "" : "es")
                            : fail(err, -EINVAL, "%.*s: %zu class folder%s where at least 2 are needed (" EXPECTED ")",
                                   whole(where), where, used, used == 1 ? "" : "s");
    if (!rc && used > DATA_CLASSES_MAX)
        rc = fail(err, -EINVAL, "%.*s: %zu class folders where at most %d can be", whole(where), where, used,
                  DATA_CLASSES_MAX);
    return rc;
}

static int check_depths(struct image_names *names, const char *where, struct error *err)
{
    const struct name_list *images = &names->names[NAME_IMAGE], *others = &names->names[NAME_OTHER];
    size_t depth = names->has_splits ? 3 : 2, n = 1;

    for (size_t i = 0; i < images->n; i++) {
        const char *name = images->list[i];
        if (names->pattern)
            class_by_pattern(names, name, &n);
        if (!n)
            return fail(err, -EINVAL, "%s%s: data.label_pattern does not fit its name", where, name);
        if (!names->pattern &&
            (depth_of(name + names->strip) != depth || (names->has_splits && split_of(name + names->strip) == SPLITS)))
            return fail(err, -EINVAL, "%s%s: " EXPECTED "%s", where, name,
                        names->has_splits ? ", the latter because of train/ and test/" : "");
        if (i && !strcmp(name, images->list[i - 1]))
            return fail(err, -EINVAL, "%s%s: is there twice", where, name);
    }
    for (size_t i = 0; i < others->n && !names->pattern; i++) {
        const char *name = others->list[i];
        if (!strncmp(name, images->list[0], names->strip) && depth_of(name + names->strip) >= depth)
            return fail(err, -EINVAL, "%s%s: neither .jpg, .jpeg nor .png, in a class folder", where, name);
    }
    return 0;
}

/* Every folder has an image somewhere below it. images are sorted. */
static int check_folders(const struct image_names *names, const char *where, struct error *err)
{
    const struct name_list *images = &names->names[NAME_IMAGE], *folders = &names->names[NAME_FOLDER];

    for (size_t f = 0; f < folders->n; f++) {
        const char *folder = folders->list[f];
        size_t low = 0, high = images->n;
        while (low < high) {
            size_t middle = (low + high) / 2;
            if (strcmp(images->list[middle], folder) < 0)
                low = middle + 1;
            else
                high = middle;
        }
        if (low == images->n || strncmp(images->list[low], folder, strlen(folder)))
            return fail(err, -EINVAL, "%s%s: a folder without images", where, folder);
    }
    return 0;
}

/* With a pattern, what lies beside train/ and test/ is training data. */
static int split_by_folder(const struct image_names *names, const char *name)
{
    int split = names->has_splits ? split_of(name + names->strip) : TRAIN;

    return split == SPLITS ? TRAIN : split;
}

/* The place of a settled image among the sorted names. */
static size_t place_of(const struct image_names *names, const char *name)
{
    const struct name_list *images = &names->names[NAME_IMAGE];
    size_t low = 0, high = images->n;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (strcmp(images->list[middle], name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct drawn {
    int class;
    uint64_t hash;
    size_t image;
};

static int by_class_and_hash(const void *a, const void *b)
{
    const struct drawn *x = a, *y = b;

    if (x->class != y->class)
        return x->class < y->class ? -1 : 1;
    if (x->hash != y->hash)
        return x->hash < y->hash ? -1 : 1;
    return x->image < y->image ? -1 : x->image > y->image;
}

/* The first of each class, in the order of the hashes of their names. */
static int draw_test(struct image_names *names, const char *where, struct error *err)
{
    const struct name_list *images = &names->names[NAME_IMAGE];
    struct drawn *list;

    if (names->split_n[TEST])
        return fail(err, -EINVAL, "%.*s: data.test_fraction is for data without a test folder; here there is one", whole(where),
                    where);
    list = calloc(images->n, sizeof *list);
    names->is_test = calloc(images->n, sizeof *names->is_test);
    if (!list || !names->is_test) {
        free(list);
        return fail(err, -ENOMEM, "out of memory");
    }
    for (size_t i = 0; i < images->n; i++) {
        const char *name = images->list[i] + names->strip, *class;
        size_t n;
        class = class_of(names, images->list[i], &n);
        list[i] = (struct drawn){find_class(names, class, n), XXH3_64bits(name, strlen(name)), i};
    }
    qsort(list, images->n, sizeof *list, by_class_and_hash);
    for (size_t first = 0, end; first < images->n; first = end) {
        size_t wanted;
        for (end = first; end < images->n && list[end].class == list[first].class; end++)
            ;
        wanted = (size_t)((double)(end - first) * names->test_fraction + 0.5);
        for (size_t i = first; i < first + wanted && i + 1 < end; i++) { /* at least one is left to train on */
            names->is_test[list[i].image] = true;
            names->split_n[TRAIN]--;
            names->split_n[TEST]++;
        }
    }
    free(list);
    return 0;
}

int image_names_settle(struct image_names *names, const char *where, struct error *err)
{
    struct name_list *images = &names->names[NAME_IMAGE];
    int rc;

    if (!images->n)
        return fail(err, -EINVAL, "%.*s: holds no .jpg, .jpeg or .png file (" EXPECTED ")", whole(where), where);
    for (int kind = 0; kind < 3; kind++)
        if (names->names[kind].n)
            qsort(names->names[kind].list, names->names[kind].n, sizeof(char *), by_text);
    names->strip = find_strip(images, names->pattern ? 2 : 3);
    for (size_t i = 0; i < images->n; i++) {
        const char *name = images->list[i] + names->strip;
        names->has_splits = names->has_splits || (split_of(name) != SPLITS && (names->pattern || depth_of(name) == 3));
    }
    rc = check_depths(names, where, err);
    if (!rc)
        rc = check_folders(names, where, err);
    if (!rc)
        rc = make_classes(names, where, err);
    for (size_t i = 0; i < images->n && !rc; i++) {
        size_t n;
        const char *name = images->list[i], *class = class_of(names, name, &n);
        if (find_class(names, class, n) < 0)
            rc = fail(err, -EINVAL, "%s%s: class %.*s is not in train/", where, name, (int)n, class);
        names->split_n[split_by_folder(names, name)]++;
    }
    if (!rc && names->test_fraction > 0)
        rc = draw_test(names, where, err);
    return rc;
}

int image_names_label(const struct image_names *names, const char *name, uint16_t *ret_label)
{
    size_t n;
    const char *class = class_of(names, name, &n);

    *ret_label = (uint16_t)find_class(names, class, n);
    return names->is_test && names->is_test[place_of(names, name)] ? TEST : split_by_folder(names, name);
}

void image_names_done(struct image_names *names)
{
    for (int kind = 0; kind < 3; kind++)
        list_done(&names->names[kind]);
    for (size_t k = 0; k < names->classes_n; k++)
        free(names->classes[k]);
    free(names->classes);
    free(names->is_test);
    *names = (struct image_names){0};
}
