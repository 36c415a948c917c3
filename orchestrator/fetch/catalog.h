/* catalog.h - the data sets that `flexp data fetch` knows, where they are published, and their checksums.
 * CIFAR-10: https://www.cs.toronto.edu/~kriz/cifar.html (binary version). MNIST: http://yann.lecun.com/exdb/mnist/, whose files
 * lie at the two places named; Fashion-MNIST: https://github.com/zalandoresearch/fashion-mnist. MD5 as published there.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_CATALOG_H
#define FLEXP_ORCHESTRATOR_CATALOG_H

#define CATALOG_MIRRORS 2
#define CATALOG_FILES 4

struct catalog_row {
    const char *name;   /* also the folder's */
    const char *source; /* data.source that reads it */
    const char *bases[CATALOG_MIRRORS + 1];
    struct catalog_file {
        const char *name, *md5;
    } files[CATALOG_FILES + 1];
};
extern const struct catalog_row CATALOG[]; /* ends with name NULL */

#endif
