/* test_home.c - which home a command means, in temporary folders.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/home.h"

#include "common/file.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

struct place {
    char *top;   /* real path of a fresh folder */
    char *start; /* the working directory before */
};

static int set_up(void **state)
{
    struct place *place = calloc(1, sizeof *place);
    char name[] = "/tmp/flexp-home-XXXXXX";

    unsetenv("FLEXP_HOME");
    place->start = getcwd(NULL, 0);
    place->top = mkdtemp(name) ? realpath(name, NULL) : NULL;
    *state = place;
    return place->top && chdir(place->top) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    struct place *place = *state;
    int code = chdir(place->start);

    unsetenv("FLEXP_HOME");
    file_remove_tree(place->top, NULL);
    free(place->top);
    free(place->start);
    free(place);
    return code;
}

static void expect(const char *option, const char *top, const char *rest)
{
    char *home = NULL, *wanted = format_text("%s%s", top, rest);
    struct error err = {0};

    if (home_find(option, &home, &err))
        fail_msg("%s", err.text);
    assert_string_equal(home, wanted);
    free(home);
    free(wanted);
}

static void touch(const char *path)
{
    assert_int_equal(file_write(path, "", 0, NULL), 0);
}

static void without_anything_it_is_results_here(void **state)
{
    struct place *place = *state;

    expect(NULL, place->top, "/results");
    assert_false(file_exists("results")); /* looking makes nothing */
}

static void the_nearest_ancestor_with_a_store_is_found_from_a_deep_folder(void **state)
{
    struct place *place = *state;

    file_make_folder("results", NULL);
    touch("results/flexp.db");
    file_make_folder("a/b/c/d/e/f/g/h", NULL);
    assert_int_equal(chdir("a/b/c/d/e/f/g/h"), 0);
    expect(NULL, place->top, "/results");
    file_make_folder("../../results", NULL); /* without a store it does not count */
    expect(NULL, place->top, "/results");
    touch("../../results/flexp.db");
    expect(NULL, place->top, "/a/b/c/d/e/f/results");
}

static void inside_the_home_itself_it_is_found_too(void **state)
{
    struct place *place = *state;

    file_make_folder("results/experiments/1", NULL);
    touch("results/flexp.db");
    assert_int_equal(chdir("results/experiments/1"), 0);
    expect(NULL, place->top, "/results");
}

static void the_option_wins_over_the_environment_and_that_over_the_search(void **state)
{
    struct place *place = *state;

    file_make_folder("results", NULL);
    touch("results/flexp.db");
    setenv("FLEXP_HOME", "from-environment", 1);
    expect(NULL, place->top, "/from-environment");
    expect("from-option", place->top, "/from-option");
    setenv("FLEXP_HOME", "", 1); /* empty is unset */
    expect(NULL, place->top, "/results");
}

static void links_are_resolved_where_they_exist(void **state)
{
    struct place *place = *state;

    file_make_folder("real/deep", NULL);
    assert_int_equal(symlink("real", "link"), 0);
    expect("link/deep", place->top, "/real/deep");
    expect("link/new/home", place->top, "/real/new/home");
    expect("./link/../real/./x//y/", place->top, "/real/x/y");
}

static void what_cannot_be_a_home_is_refused(void **state)
{
    struct error err = {0};
    char *home = NULL;

    (void)state;
    assert_int_equal(home_find("", &home, &err), -EINVAL);
    assert_int_equal(home_find("absent/../x", &home, &err), -EINVAL);
    assert_non_null(strstr(err.text, ".."));
    touch("file");
    assert_true(home_find("file/x", &home, &err) < 0);
    assert_non_null(strstr(err.text, "file/x"));
    assert_null(home);
}

#define IN_A_FOLDER(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_FOLDER(without_anything_it_is_results_here),
        IN_A_FOLDER(the_nearest_ancestor_with_a_store_is_found_from_a_deep_folder),
        IN_A_FOLDER(inside_the_home_itself_it_is_found_too),
        IN_A_FOLDER(the_option_wins_over_the_environment_and_that_over_the_search),
        IN_A_FOLDER(links_are_resolved_where_they_exist),
        IN_A_FOLDER(what_cannot_be_a_home_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
