/* inputs.c - runs a fuzz target on the files of tests/fuzz/corpus/NAME and tests/fuzz/regressions/NAME, or on those
 * named as arguments, and prints TAP. NAME is the program's without "test_". Each input has DEADLINE_S seconds and,
 * where no sanitizer needs more, MEMORY_BYTES of memory. An input that crashes the target ends the program: the line "#
 * NAME" above says which. SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <limits.h>
#include <sys/resource.h>
#include <unistd.h>

#define DEADLINE_S 20
#define MEMORY_BYTES ((rlim_t)512 << 20)

static int run_file(const char *path)
{
    struct error err = {0};
    char *bytes;
    size_t length;
    uint8_t *exact;

    if (file_read(path, &bytes, &length, &err)) {
        printf("# %s\n", err.text);
        return 1;
    }
    exact = malloc(length ? length : 1); /* no byte more, for the sanitizer */
    must(exact);
    memcpy(exact, bytes, length);
    free(bytes);
    printf("# %s\n", path);
    fflush(stdout);
    alarm(DEADLINE_S);
    LLVMFuzzerTestOneInput(exact, length);
    alarm(0);
    free(exact);
    return 0;
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* Counts the inputs; a folder that is not there has none. */
static int run_folder(const char *folder, size_t *n)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, visible, alphasort), failed = 0;

    for (int i = 0; i < count; i++) {
        char *path = format_text("%s/%s", folder, entries[i]->d_name);
        must(path);
        failed += run_file(path);
        free(path);
        free(entries[i]);
        ++*n;
    }
    if (count >= 0)
        free(entries);
    return failed;
}

int main(int argc, char **argv)
{
    static const char *const FOLDERS[] = {"corpus", "regressions"};
    const char *slash = strrchr(argv[0], '/'), *name = slash ? slash + 1 : argv[0];
    int failed = 0;

    name += !strncmp(name, "test_", 5) ? 5 : 0;
#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__
    setrlimit(RLIMIT_DATA, &(struct rlimit){MEMORY_BYTES, MEMORY_BYTES});
#endif
    if (argc > 1) {
        for (int i = 1; i < argc; i++)
            failed += run_file(argv[i]);
        return failed ? 1 : 0;
    }
    printf("1..2\n");
    for (int i = 0; i < 2; i++) {
        char *folder = format_text("tests/fuzz/%s/%s", FOLDERS[i], name);
        size_t n = 0;
        int bad;
        must(folder);
        bad = run_folder(folder, &n) || (!i && !n); /* seeds there must be */
        printf("%sok %d - every input of %s is refused with words or good\n# %zu inputs\n", bad ? "not " : "", i + 1,
               folder, n);
        failed += bad;
        free(folder);
    }
    return failed ? 1 : 0;
}
