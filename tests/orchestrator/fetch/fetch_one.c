/* fetch_one.c - download_file as a program, for tests/integration/test_fetch.py: fetch_one PATH MD5 URL...
 * Prints "there" or "fetched", notes as they come, and the error.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/fetch/download.h"

#include <stdio.h>

static void on_note(void *arg, const char *text)
{
    (void)arg;
    printf("note: %s\n", text);
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct download download = {.path = argv[1], .md5 = argv[2], .urls = (const char *const *)argv + 3, .note = on_note};
    struct error err = {0};
    bool there;

    if (argc < 4)
        return 2;
    if (download_file(&download, &there, &err)) {
        printf("error: %s\n", err.text);
        return 1;
    }
    puts(there ? "there" : "fetched");
    return 0;
}
