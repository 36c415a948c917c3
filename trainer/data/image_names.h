/* image_names.h - what the names in a folder or archive of images say: split, class, order; and what is wrong with them.
 * Names are added in any order ("train/cat/1.jpg"; folders end in "/"), then settled once.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_TRAINER_IMAGE_NAMES_H
#define FLEXP_TRAINER_IMAGE_NAMES_H

#include "common/error.h"

#include <regex.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum image_name {
    NAME_IMAGE,  /* ends in .jpg, .jpeg or .png */
    NAME_FOLDER,
    NAME_OTHER,  /* an error if it turns out to lie in a class folder */
    NAME_HIDDEN  /* or a file that systems leave behind; not looked at */
};

struct name_list {
    char **list;
    size_t n, room;
};

struct image_names {
    const regex_t *pattern;    /* set before: the class is its first group in a file's name, wherever the file lies; or NULL */
    double test_fraction;      /* set before: of each class, where there is no test folder */
    struct name_list names[3]; /* by enum image_name */
    /* settled: */
    size_t strip;              /* bytes of the one folder around all */
    bool has_splits;
    char **classes;            /* sorted */
    size_t classes_n;
    size_t split_n[2];
    bool *is_test;             /* of each image, where test_fraction decides; else NULL */
};

int image_names_add(struct image_names *names, const char *name, enum image_name *ret, struct error *err);
/* where: put before a name in errors. */
int image_names_settle(struct image_names *names, const char *where, struct error *err);
/* Split (0 train, 1 test) and label of an image that was settled. */
int image_names_label(const struct image_names *names, const char *name, uint16_t *ret_label);
void image_names_done(struct image_names *names);

#endif
