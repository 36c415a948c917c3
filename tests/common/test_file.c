/* test_file.c - writing files: a file is replaced whole; what is no file is written to and stays what it is.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/file.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static void what_is_no_file_is_written_to_and_stays(void **state)
{
    char folder[] = "/tmp/flexp-test-file-XXXXXX", path[100], text[10] = "";
    struct error err = {0};
    struct stat st;
    int fd;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/pipe", folder);
    assert_int_equal(mkfifo(path, 0600), 0);
    fd = open(path, O_RDWR | O_NONBLOCK);
    assert_true(fd >= 0);
    assert_int_equal(file_write(path, "hello", 5, &err), 0);
    assert_int_equal(read(fd, text, sizeof text), 5);
    assert_string_equal(text, "hello");
    assert_int_equal(stat(path, &st), 0);
    assert_true(S_ISFIFO(st.st_mode));
    close(fd);
    unlink(path);
    /* a folder is neither */
    assert_true(file_write(folder, "x", 1, &err) < 0);
    assert_non_null(strstr(err.text, folder));
    rmdir(folder);
}

static void a_file_is_replaced_whole(void **state)
{
    char folder[] = "/tmp/flexp-test-file-XXXXXX", path[100], text[10] = "";
    struct error err = {0};
    FILE *old, *now;

    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/file", folder);
    assert_int_equal(file_write(path, "first", 5, &err), 0);
    old = fopen(path, "r");
    assert_int_equal(file_write(path, "2nd", 3, &err), 0);
    assert_int_equal(fread(text, 1, sizeof text, old), 5); /* who reads the old one reads it to its end */
    assert_memory_equal(text, "first", 5);
    now = fopen(path, "r");
    assert_int_equal(fread(text, 1, sizeof text, now), 3);
    assert_memory_equal(text, "2nd", 3);
    fclose(old);
    fclose(now);
    unlink(path);
    assert_int_equal(rmdir(folder), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_file_is_written_to_and_stays),
        cmocka_unit_test(a_file_is_replaced_whole),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
