/* test_delays.c - how long a trial waits after its worker died, and that nobody asks for it after its end.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config.h"
#include "orchestrator/server/server_private.h"

#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static const char YAML[] = "name: delays\n"
                           "entrypoint: [./worker]\n"
                           "data: {}\n"
                           "hyperparameters: {lr: {type: double, minval: 0, maxval: 1, count: 3}}\n"
                           "searcher: {name: grid, metric: loss, smaller_is_better: true, time_metric: rounds,"
                           " max_time: 4}\n";

struct fixture {
    struct entry entry;
    struct server server;
    int64_t ids;
};

static int64_t next_id(void *arg)
{
    return ++*(int64_t *)arg;
}

/* An experiment whose turns nobody commits. */
static void set_up(struct fixture *f, uint64_t backoff_ms)
{
    struct config_problems problems = {0};
    struct experiment_config *config = NULL;
    struct id_source ids = {next_id, next_id, &f->ids};
    struct error err = {0};
    struct turn turn;

    memset(f, 0, sizeof *f);
    assert_int_equal(config_read(YAML, strlen(YAML), NULL, 0, NULL, &config, &problems), 0);
    config_problems_done(&problems);
    turn_init(&turn, 1);
    assert_int_equal(experiment_new(1, config, "/nowhere", &ids, false, &turn, &f->entry.experiment, &err), 0);
    turn_done(&turn);
    f->entry.id = 1;
    f->server.entries = &f->entry;
    f->server.limits.backoff = backoff_ms;
}

static void done(struct fixture *f)
{
    free(f->entry.delays);
    experiment_free(f->entry.experiment);
}

/* Its run says that it would fail the same way again. */
static void fail_for_good(struct fixture *f, int64_t trial)
{
    json_t *slots = json_pack("[s]", "cpu:0");
    char line[200];
    struct message message;
    struct error err = {0};
    struct turn turn;
    int64_t run;

    turn_init(&turn, 2);
    run = experiment_start_run(f->entry.experiment, trial, slots, 4711, "none", &turn);
    json_decref(slots);
    assert_true(run > 0);
    snprintf(line, sizeof line, "{\"op\":\"failed\",\"run\":%lld,\"seq\":1,\"reason\":\"non_finite\",\"text\":\"nan\"}",
             (long long)run);
    assert_int_equal(message_parse(line, strlen(line), true, &message, &err), 0);
    assert_int_equal(experiment_message(f->entry.experiment, &message, &turn, &err), 0);
    message_done(&message);
    turn_done(&turn);
}

static void a_trial_waits_twice_as_long_each_time_until_it_reports(void **state)
{
    struct fixture f;
    uint64_t before = clock_ms();

    (void)state;
    set_up(&f, 10000);
    delay_add(&f.server, 1, 2, true);
    assert_true(delay_holds(&f.entry, 2, before + 9999));
    assert_false(delay_holds(&f.entry, 2, clock_ms() + 10001));
    assert_false(delay_holds(&f.entry, 1, before) || delay_holds(&f.entry, 3, before));
    delay_add(&f.server, 1, 1, false);
    assert_int_equal(delays_hold(&f.entry, before), 2);
    delay_add(&f.server, 1, 2, true);
    assert_true(delay_holds(&f.entry, 2, before + 19999));
    assert_false(delay_holds(&f.entry, 1, clock_ms() + 10001));
    for (int i = 0; i < 10; i++)
        delay_add(&f.server, 1, 2, true);
    assert_true(delay_holds(&f.entry, 2, before + 59999));
    assert_false(delay_holds(&f.entry, 2, clock_ms() + 60001));
    delay_remove(&f.server, 1, 2);
    delay_remove(&f.server, 1, 99);
    delay_remove(&f.server, 2, 1); /* no such experiment */
    assert_int_equal(delays_hold(&f.entry, before), 1);
    delay_add(&f.server, 1, 2, true);
    assert_false(delay_holds(&f.entry, 2, clock_ms() + 10001));
    done(&f);
}

static void the_scheduler_is_asked_until_the_last_has_waited_and_once_more(void **state)
{
    struct fixture f;

    (void)state;
    set_up(&f, 10000);
    assert_false(delays_pending(&f.server, clock_ms()));
    delay_add(&f.server, 1, 1, true);
    assert_true(delays_pending(&f.server, clock_ms()));
    assert_true(delays_pending(&f.server, clock_ms()));
    assert_true(delays_pending(&f.server, clock_ms() + 10001));
    assert_false(delays_pending(&f.server, clock_ms() + 10001));
    assert_false(delays_pending(&f.server, clock_ms()));
    done(&f);
}

static void a_trial_that_has_ended_waits_for_nothing(void **state)
{
    struct fixture f;

    (void)state;
    set_up(&f, 10000);
    fail_for_good(&f, 1);
    delay_add(&f.server, 1, 1, true);
    assert_int_equal(delays_hold(&f.entry, 0), 0);
    assert_false(delays_pending(&f.server, clock_ms()));
    delay_add(&f.server, 1, 99, true); /* no such trial, no such experiment */
    delay_add(&f.server, 2, 1, true);
    assert_false(delays_pending(&f.server, clock_ms()));
    done(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trial_waits_twice_as_long_each_time_until_it_reports),
        cmocka_unit_test(the_scheduler_is_asked_until_the_last_has_waited_and_once_more),
        cmocka_unit_test(a_trial_that_has_ended_waits_for_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
