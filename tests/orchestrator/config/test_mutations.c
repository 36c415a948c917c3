/* test_mutations.c - files, damaged at random in 2,000 fixed ways: nothing crashes or leaks, each is either accepted
 * and reads back equal, or refused with at least one error that has a place.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/rng.h"
#include "tests/orchestrator/config/config_test.h"

#define MUTATIONS 2000
#define ROOM 65536

static const char *const FILES[] = {
    "configs/quickstart.yaml",
    "configs/cifar10_fedavg_asha.yaml",
    "tests/golden/config/good_everything.yaml",
    "tests/golden/config/good_merge.yaml",
    "tests/golden/config/good_scalars.yaml",
    "tests/golden/config/good_determined.yaml",
    "tests/golden/config/bad_laughs.yaml",
    "tests/golden/config/bad_references.yaml",
    "tests/golden/config/bad_hyperparameters.yaml",
};
#define FILES_N (sizeof FILES / sizeof *FILES)

static const char INTERESTING[] = "{}[]:,&*-#!|>'\"%@`$<\t\n \x00\xff\xc3"
                                  "0e.-~";

/* The bounds of a line drawn at random, its newline included. */
static void pick_line(const char *text, size_t length, struct pcg32 *rng, size_t *ret_start, size_t *ret_end)
{
    size_t start = rng_below(rng, (uint32_t)length), end = start;

    while (start && text[start - 1] != '\n')
        start--;
    while (end < length && text[end++] != '\n')
        ;
    *ret_start = start;
    *ret_end = end;
}

static size_t mutate_once(char *text, size_t length, struct pcg32 *rng)
{
    size_t at = rng_below(rng, (uint32_t)length), start, end, line;

    pick_line(text, length, rng, &start, &end);
    line = end - start;
    switch (rng_below(rng, 6)) {
    case 0: /* flip a bit */
        text[at] = (char)(text[at] ^ (1 << rng_below(rng, 8)));
        return length;
    case 1: /* put a character that means something */
        text[at] = INTERESTING[rng_below(rng, sizeof INTERESTING - 1)];
        return length;
    case 2: /* lose a line */
        if (line >= length)
            return length;
        memmove(text + start, text + end, length - end);
        return length - line;
    case 3: /* have a line twice */
        if (length + line > ROOM)
            return length;
        memmove(text + end, text + start, length - start);
        return length + line;
    case 4: /* indent a line otherwise */
        if (length + 1 > ROOM)
            return length;
        memmove(text + start + 1, text + start, length - start);
        text[start] = ' ';
        return length + 1;
    default: /* lose the end */
        return rng_below(rng, 8) ? length : at + 1;
    }
}

static void check(const char *text, size_t length, size_t *accepted)
{
    struct experiment_config *config = NULL, *again = NULL;
    struct config_problems problems;
    struct error err = {0};
    json_t *as_json;
    char *shown;

    if (config_read(text, length, NULL, 0, DATA_ROOT, &config, &problems)) {
        assert_null(config);
        assert_true(problems.errors > 0 && problems.n > 0);
        for (size_t i = 0; i < problems.n; i++)
            assert_true(problems.list[i].line > 0 && problems.list[i].column > 0 && *problems.list[i].text);
        for (size_t i = 1; i < problems.n; i++)
            assert_true(problems.list[i - 1].line <= problems.list[i].line);
    } else {
        assert_int_equal(problems.errors, 0);
        if (config_from_resolved(config->resolved, &again, &err))
            fail_msg("%s\n%.*s", err.text, (int)length, text);
        assert_true(json_equal(config->resolved, again->resolved));
        ++*accepted;
    }
    shown = config_problems_text(&problems, "x.yaml");
    assert_non_null(shown);
    as_json = json_string(shown); /* so that it can go into an answer */
    assert_non_null(as_json);
    json_decref(as_json);
    free(shown);
    config_problems_done(&problems);
    config_free(config);
    config_free(again);
}

static void damaged_files_are_refused_with_a_place_or_are_good(void **state)
{
    static char text[ROOM + 1];
    char *originals[FILES_N];
    size_t lengths[FILES_N], accepted = 0;
    struct error err = {0};

    (void)state;
    for (size_t i = 0; i < FILES_N; i++)
        if (file_read(FILES[i], &originals[i], &lengths[i], &err))
            fail_msg("%s", err.text);
    for (uint64_t n = 0; n < MUTATIONS; n++) {
        struct pcg32 rng;
        size_t file = n % FILES_N, length = lengths[file];
        pcg32_seed(&rng, 2026, n);
        memcpy(text, originals[file], length);
        for (uint32_t times = 1 + rng_below(&rng, 4); times && length; times--)
            length = mutate_once(text, length, &rng);
        check(text, length, &accepted);
    }
    printf("# %zu of %d were accepted\n", accepted, MUTATIONS);
    assert_true(accepted > MUTATIONS / 50 && accepted < MUTATIONS / 2); /* the damage is neither total nor none */
    for (size_t i = 0; i < FILES_N; i++)
        free(originals[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(damaged_files_are_refused_with_a_place_or_are_good)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
