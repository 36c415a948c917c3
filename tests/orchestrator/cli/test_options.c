/* test_options.c - command lines, what becomes of them, and the nearest verb; help names all there is.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* Splits at blanks; quotes are not needed here. */
static int parse(const char *line, const struct verb **verb, struct options *options, struct error *err, char **copy)
{
    char *argv[32], *rest, *word;
    int argc = 0;

    *copy = rest = strdup(line);
    while ((word = strsep(&rest, " ")))
        argv[argc++] = word;
    argv[argc] = NULL;
    return options_parse(argc, argv, verb, options, err);
}

static void good_lines_are_taken_apart(void **state)
{
    static const struct {
        const char *line, *verb;
        size_t arguments;
        uint32_t given;
    } ROWS[] = {
        {"flexp", NULL, 0, 0},
        {"flexp --help", NULL, 0, 1u << OPT_HELP},
        {"flexp -V", NULL, 0, 1u << OPT_VERSION},
        {"flexp list", "list", 0, 0},
        {"flexp list --all --json", "list", 0, 1u << OPT_ALL | 1u << OPT_JSON},
        {"flexp --json --home /x list -a", "list", 0, 1u << OPT_ALL | 1u << OPT_JSON | 1u << OPT_HOME},
        {"flexp create -f a.yaml", "create", 1, 1u << OPT_FOLLOW},
        {"flexp create a.yaml -f", "create", 1, 1u << OPT_FOLLOW},
        {"flexp create a.yaml --foll", "create", 1, 1u << OPT_FOLLOW},
        {"flexp create -", "create", 1, 0},
        {"flexp create -- -f", "create", 1, 0},
        {"flexp -q create --config a.b=1 --config=c=2 x --paused", "create", 1,
         1u << OPT_QUIET | 1u << OPT_CONFIG | 1u << OPT_PAUSED},
        {"flexp trial describe 1/3 --json", "trial describe", 1, 1u << OPT_JSON},
        {"flexp trial --json describe 1/3", NULL, 0, 0},
        {"flexp describe", "describe", 0, 0},
        {"flexp describe --no-color 3", "describe", 1, 1u << OPT_NO_COLOR},
        {"flexp wait 1 --timeout=3", "wait", 1, 1u << OPT_TIMEOUT},
        {"flexp create --help", "create", 0, 1u << OPT_HELP},
        {"flexp help trial logs", "help", 2, 0},
        {"flexp trial --help", NULL, 1, 1u << OPT_HELP},
        {"flexp --help data", NULL, 1, 1u << OPT_HELP},
        {"flexp set --json -h", NULL, 1, 1u << OPT_HELP},
        {"flexp set priority --help", "set priority", 0, 1u << OPT_HELP},
        {"flexp up --slots 4 --foreground", "up", 0, 1u << OPT_SLOTS | 1u << OPT_FOREGROUND},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        const struct verb *verb;
        struct options options;
        struct error err = {0};
        char *copy;
        int code = parse(ROWS[i].line, &verb, &options, &err, &copy);
        if (!strcmp(ROWS[i].line, "flexp trial --json describe 1/3")) { /* the two words of a verb stand together */
            assert_int_equal(code, -EINVAL);
        } else {
            assert_int_equal(code, 0);
            if (ROWS[i].verb)
                assert_string_equal(verb->name, ROWS[i].verb);
            else
                assert_null(verb);
            assert_int_equal(options.arguments_n, ROWS[i].arguments);
            for (int id = 0; id < OPT_COUNT; id++)
                assert_int_equal(options.given[id], (ROWS[i].given >> id) & 1);
        }
        options_done(&options);
        free(copy);
    }
}

static void values_are_kept_and_config_may_be_repeated(void **state)
{
    const struct verb *verb;
    struct options options;
    struct error err = {0};
    char *copy;

    (void)state;
    assert_int_equal(parse("flexp --home /a create x --config a.b=1 --config=c==2 --home /b", &verb, &options, &err,
                           &copy), 0);
    assert_string_equal(options.value[OPT_HOME], "/b");
    assert_int_equal(options.config_n, 2);
    assert_string_equal(options.config[0], "a.b=1");
    assert_string_equal(options.config[1], "c==2");
    assert_string_equal(options.arguments[0], "x");
    options_done(&options);
    free(copy);
}

static void mistakes_say_what_would_be_right(void **state)
{
    static const char *const ROWS[][2] = {
        {"flexp craete x", "there is no verb 'craete': did you mean 'create'?"},
        {"flexp desc 1", "there is no verb 'desc': did you mean 'describe'?"},
        {"flexp lits", "did you mean 'list'?"},
        {"flexp ls", "did you mean 'list'?"},
        {"flexp resume 1", "did you mean 'activate'?"},
        {"flexp frobnicate", "there is no verb 'frobnicate'; `flexp help` lists them all"},
        {"flexp trial", "trial what?"},
        {"flexp trial desribe 1/1", "trial what?"},
        {"flexp create", "create wants FILE"},
        {"flexp create a b", "create takes one FILE, and 'b' is too much"},
        {"flexp list 1", "list takes no argument, got '1'"},
        {"flexp create x --folow", "create has no option --folow: did you mean --follow?"},
        {"flexp create --folow x", "create has no option --folow: did you mean --follow?"},
        {"flexp create x --no-colour y", "did you mean --no-color?"},
        {"flexp list --paused", "list has no option --paused"},
        {"flexp list -z", "list has no option -z"},
        {"flexp set weight 1 -1", "set weight takes no negative number"},
        {"flexp set description 1 -5deg", "before a text that begins with - write --"},
        {"flexp --josn list", "did you mean --json?"},
        {"flexp create x --config", "--config wants a value: --config KEY=VALUE"},
        {"flexp create x --config lr", "--config lr: want KEY=VALUE"},
        {"flexp create x --config =3", "want KEY=VALUE"},
        {"flexp list --json=1", "--json takes no value"},
        {"flexp --home", "--home wants a value"},
        {"flexp wait --timeout", "--timeout wants a value"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof ROWS / sizeof *ROWS; i++) {
        const struct verb *verb;
        struct options options;
        struct error err = {0};
        char *copy;
        int code = parse(ROWS[i][0], &verb, &options, &err, &copy);
        if (code != -EINVAL || !strstr(err.text, ROWS[i][1]))
            print_error("%s: %d: %s\n", ROWS[i][0], code, err.text);
        assert_int_equal(code, -EINVAL);
        assert_non_null(strstr(err.text, ROWS[i][1]));
        assert_null(strchr(err.text, '\n'));
        options_done(&options);
        free(copy);
    }
}

static void nearest_word_allows_a_third_of_the_length(void **state)
{
    static const char *const WORDS[] = {"create", "list", "cancel", "describe", NULL};

    (void)state;
    assert_string_equal(nearest_word(WORDS, "creat"), "create");
    assert_string_equal(nearest_word(WORDS, "lsit"), "list"); /* neighbours swapped */
    assert_string_equal(nearest_word(WORDS, "cancle"), "cancel");
    assert_string_equal(nearest_word(WORDS, "descirbe"), "describe");
    assert_null(nearest_word(WORDS, "up"));
    assert_null(nearest_word(WORDS, "banana"));
    assert_null(nearest_word(WORDS, "a word that is much longer than any that we know of"));
}

static void every_verb_has_help_with_usage_options_example_and_exit_codes(void **state)
{
    static const struct term PIPE = {0};

    (void)state;
    for (const struct verb *verb = VERBS; verb->name; verb++) {
        char *text = NULL, usage[128];
        size_t length = 0;
        FILE *out = open_memstream(&text, &length);
        help_verb(out, &PIPE, verb);
        fclose(out);
        snprintf(usage, sizeof usage, "  flexp %s", verb->name);
        assert_non_null(strstr(text, usage));
        assert_non_null(strstr(text, "Example"));
        assert_non_null(strstr(text, "Exit codes"));
        assert_null(strstr(text, "--ready-fd"));
        for (int id = 0; id < OPT_COUNT; id++) {
            char option[64];
            snprintf(option, sizeof option, "--%s", OPTION_ROWS[id].name);
            if (OPTION_ROWS[id].doc && (id < OPT_GLOBALS || verb->options & 1u << id))
                assert_non_null(strstr(text, option));
        }
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_lines_are_taken_apart),
        cmocka_unit_test(values_are_kept_and_config_may_be_repeated),
        cmocka_unit_test(mistakes_say_what_would_be_right),
        cmocka_unit_test(nearest_word_allows_a_third_of_the_length),
        cmocka_unit_test(every_verb_has_help_with_usage_options_example_and_exit_codes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
