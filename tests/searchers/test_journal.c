/* test_journal.c - events and operations as JSON, and searches that go on from a journal.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/json.h"
#include "tests/searchers/driver.h"

static struct searcher_event through_text(struct searcher_event event)
{
    json_t *encoded = searcher_event_encode(&event), *parsed = NULL;
    char *text = json_line(encoded);
    struct searcher_event decoded;
    struct error err;

    if (json_parse(text, strlen(text), &parsed, &err) || searcher_event_decode(parsed, &decoded, &err))
        fail_msg("%s: %s", text, err.text);
    json_decref(encoded);
    json_decref(parsed);
    free(text);
    return decoded;
}

static bool same_bits(double a, double b)
{
    return (isnan(a) && isnan(b)) || !memcmp(&a, &b, sizeof a);
}

static void events_come_back_exactly(void **state)
{
    static const double VALUES[] = {0.1,  1.0 / 3,       0,   -0.0,     1,        4, 1e300, 5e-324,
                                    1e22, 123456789.125, NAN, INFINITY, -INFINITY};

    (void)state;
    for (size_t i = 0; i < sizeof VALUES / sizeof VALUES[0]; i++) {
        struct searcher_event in = {.type = EVENT_VALIDATION, .trial = 3, .unit = fabs(VALUES[i]), .value = VALUES[i]},
                              out;
        out = through_text(in);
        assert_int_equal(out.type, EVENT_VALIDATION);
        assert_int_equal(out.trial, 3);
        assert_true(same_bits(out.unit, in.unit) && same_bits(out.value, in.value));
    }
    for (int exit = EXIT_CONVERGED; exit <= EXIT_KILLED; exit++) {
        struct searcher_event in = {.type = EVENT_EXITED, .trial = 8, .exit = (enum exit_kind)exit},
                              out = through_text(in);
        assert_true(out.type == EVENT_EXITED && out.trial == 8 && out.exit == in.exit && out.unit == 0);
        in.unit = 2.5;
        in.value = 0.3;
        out = through_text(in);
        assert_true(out.unit == 2.5 && out.value == 0.3);
    }
    assert_int_equal(through_text((struct searcher_event){.type = EVENT_START}).type, EVENT_START);
    assert_int_equal(through_text((struct searcher_event){.type = EVENT_CANCEL}).type, EVENT_CANCEL);
}

static void the_form_is_as_documented(void **state)
{
    struct searcher_event event = {.type = EVENT_VALIDATION, .trial = 3, .unit = 4, .value = 0.5};
    struct searcher_op list[] = {{.type = OP_TRAIN, .trial = 3, .until = 16},
                                 {.type = OP_PAUSE, .trial = 2},
                                 {.type = OP_CREATE, .trial = 4, .hyperparameters = json_pack("{s:f}", "lr", 0.25)},
                                 {.type = OP_DONE}};
    struct searcher_ops ops = {.list = list, .n = 4}, back;
    json_t *encoded = searcher_event_encode(&event), *encoded_ops = searcher_ops_encode(&ops), *again;
    char *text = json_line(encoded), *text_ops = json_line(encoded_ops), *text_again;

    (void)state;
    assert_string_equal(text, "{\"event\":\"validation\",\"trial\":3,\"unit\":4,\"value\":0.5}");
    assert_string_equal(text_ops,
                        "[{\"op\":\"train\",\"trial\":3,\"until\":16},{\"op\":\"pause\",\"trial\":2},"
                        "{\"op\":\"create\",\"trial\":4,\"hyperparameters\":{\"lr\":0.25}},{\"op\":\"done\"}]");
    assert_int_equal(searcher_ops_decode(encoded_ops, &back, NULL), 0);
    again = searcher_ops_encode(&back);
    text_again = json_line(again);
    assert_string_equal(text_again, text_ops);
    searcher_ops_done(&back);
    json_decref(list[2].hyperparameters);
    json_decref(encoded);
    json_decref(encoded_ops);
    json_decref(again);
    free(text);
    free(text_ops);
    free(text_again);
}

static void refuses_what_encoding_never_gave(void **state)
{
    static const char *const BAD_EVENTS[] = {
        "3",
        "{}",
        "{\"event\": \"finished\"}",
        "{\"event\": \"validation\", \"unit\": 1, \"value\": 1}",
        "{\"event\": \"validation\", \"trial\": 0, \"unit\": 1, \"value\": 1}",
        "{\"event\": \"validation\", \"trial\": 1, \"value\": 1}",
        "{\"event\": \"validation\", \"trial\": 1, \"unit\": 1, \"value\": \"nan\"}",
        "{\"event\": \"exited\", \"trial\": 1}",
        "{\"event\": \"exited\", \"trial\": 1, \"exit\": \"tired\"}",
        "{\"event\": \"exited\", \"trial\": 1, \"exit\": \"converged\", \"unit\": 3}"};
    static const char *const BAD_OPS[] = {"{}",
                                          "[{\"op\": \"dance\"}]",
                                          "[3]",
                                          "[{\"op\": \"done\"}, {\"op\": \"train\", \"trial\": 1}]",
                                          "[{\"op\": \"stop\"}]",
                                          "[{\"op\": \"create\", \"trial\": 1}]"};

    (void)state;
    for (size_t i = 0; i < sizeof BAD_EVENTS / sizeof *BAD_EVENTS; i++) {
        json_t *value = json_loads(BAD_EVENTS[i], JSON_DECODE_ANY, NULL);
        struct searcher_event event = {.trial = 55};
        struct error err = {0};
        assert_non_null(value);
        assert_int_equal(searcher_event_decode(value, &event, &err), -EINVAL);
        assert_true(event.trial == 55 && !strncmp(err.text, "journal: ", 9));
        json_decref(value);
    }
    for (size_t i = 0; i < sizeof BAD_OPS / sizeof *BAD_OPS; i++) {
        json_t *value = json_loads(BAD_OPS[i], JSON_DECODE_ANY, NULL);
        struct searcher_ops ops = {.n = 55};
        struct error err = {0};
        assert_non_null(value);
        assert_int_equal(searcher_ops_decode(value, &ops, &err), -EINVAL);
        assert_true(ops.n == 55 && !strncmp(err.text, "journal: ", 9));
        json_decref(value);
    }
}

/* The text of what each event of a search is answered by, event after event. */
static char **answers(const struct searcher_config *config, const struct space *space,
                      const struct searcher_event *events, size_t n, struct searcher **ret)
{
    char **texts = calloc(n + 1, sizeof *texts);
    struct searcher *searcher = driver_searcher(config, space);

    assert_non_null(texts);
    for (size_t i = 0; i < n; i++) {
        struct searcher_event event = through_text(events[i]);
        struct searcher_ops ops = {0};
        json_t *encoded;
        assert_int_equal(searcher_answer(searcher, &event, &ops, NULL), 0);
        encoded = searcher_ops_encode(&ops);
        texts[i] = json_line(encoded);
        json_decref(encoded);
        searcher_ops_done(&ops);
    }
    *ret = searcher;
    return texts;
}

static void free_texts(char **texts)
{
    for (size_t i = 0; texts[i]; i++)
        free(texts[i]);
    free(texts);
}

/* A search dies after every one of its events; each time a fresh one is fed the journal and must answer the next event
 * as the one that lived on did. */
static void a_searcher_restored_at_any_event_answers_the_next_alike(void **state)
{
    struct space *spaces[] = {driver_space(LR_SPACE),
                              driver_space("{\"n\": {\"type\": \"int\", \"minval\": 1, \"maxval\": 7, \"count\": 7}}")};
    static const struct searcher_config CONFIGS[] = {
        {.scheduler = "adaptive_asha", .sampler = "random", .stop_once = true, .logical_order = true},
        {.scheduler = "adaptive_asha", .sampler = "random", .mode = MODE_CONSERVATIVE, .stop_once = false},
        {.scheduler = "async_halving", .sampler = "grid", .num_rungs = 3, .stop_once = true},
        {.scheduler = "async_halving",
         .sampler = "random",
         .num_rungs = 3,
         .accumulate_rungs = true,
         .logical_order = true},
        {.scheduler = "single", .sampler = "random", .logical_order = true},
    };

    (void)state;
    for (size_t c = 0; c < sizeof CONFIGS / sizeof *CONFIGS; c++)
        for (uint64_t seed = 0; seed < 4; seed++) {
            struct searcher_config config = CONFIGS[c];
            const struct space *space = spaces[!strcmp(config.sampler, "grid") || seed % 2];
            struct world world = {
                .value = curve_value, .converges = curve_converges, .fails = curve_fails, .seed = seed};
            struct searcher *whole, *part;
            struct play play;
            char **want;

            config.max_units = 40;
            config.max_trials = 25;
            config.max_concurrent_trials = 5;
            config.divisor = 3;
            config.seed = seed;
            play_init(&play, driver_searcher(&config, space), &world);
            play_at_random(&play, seed, 3);
            want = answers(&config, space, play.told, play.told_n, &whole);
            assert_true(searcher_progress(whole, 0) == 1);
            for (size_t n = 0; n < play.told_n; n++) {
                char **got = answers(&config, space, play.told, n + 1, &part);
                assert_string_equal(got[n], want[n]);
                searcher_free(part);
                free_texts(got);
            }
            free_texts(want);
            searcher_free(whole);
            play_done(&play);
        }
    space_free(spaces[0]);
    space_free(spaces[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(events_come_back_exactly),
        cmocka_unit_test(the_form_is_as_documented),
        cmocka_unit_test(refuses_what_encoding_never_gave),
        cmocka_unit_test(a_searcher_restored_at_any_event_answers_the_next_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
