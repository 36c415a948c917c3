/* test_protocol.c - protocol lines, good and bad, from either side; damaged ones do not crash.
 * SPDX-License-Identifier: Apache-2.0 */
#include "common/protocol.h"
#include "common/rng.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* {from the worker, line, operation, run, seq} */
static const struct {
    bool from_worker;
    const char *line;
    enum message_op op;
    int64_t run, seq;
} GOOD[] = {
    {true, "{\"op\":\"hello\",\"version\":1,\"pid\":4711,\"rank\":0,\"size\":1}", MSG_HELLO, 0, 0},
    {true, "{\"op\":\"plan\",\"id\":3,\"ok\":false,\"errors\":[]}", MSG_PLAN_ANSWER, 0, 0},
    {true,
     "{\"op\":\"report\",\"run\":12,\"seq\":1,\"kind\":\"training\",\"units\":{\"rounds\":1},\"metrics\":{\"train_"
     "loss\":\"NaN\"},"
     "\"clients\":[{\"client\":4,\"samples\":900,\"metrics\":{\"train_loss\":2.0}}]}",
     MSG_REPORT, 12, 1},
    {true,
     "{\"op\":\"report\",\"run\":12,\"seq\":2,\"kind\":\"validation\",\"steps\":[{\"units\":{\"rounds\":1},\"metrics\":"
     "{}}]}",
     MSG_REPORT, 12, 2},
    {true, "{\"op\":\"progress\",\"run\":12,\"units\":{\"rounds\":1,\"epochs\":0.5}}", MSG_PROGRESS, 12, 0},
    {true, "{\"op\":\"checkpoint\",\"run\":1,\"seq\":3,\"units\":{\"rounds\":1},\"path\":\"a\",\"bytes\":5}",
     MSG_CHECKPOINT, 1, 3},
    {true, "{\"op\":\"log\",\"run\":1,\"level\":\"info\",\"text\":\"x\",\"unknown\":[]}", MSG_LOG, 1, 0},
    {true, "{\"op\":\"done\",\"run\":1,\"seq\":4,\"reason\":\"length\",\"units\":{}}", MSG_DONE, 1, 4},
    {true, "{\"op\":\"failed\",\"run\":1,\"seq\":4,\"reason\":\"error\",\"text\":\"why\"}", MSG_FAILED, 1, 4},
    {true, "{\"op\":\"heartbeat\",\"rank\":1}", MSG_HEARTBEAT, 0, 0},
    {false, "{\"op\":\"plan\",\"id\":3,\"hyperparameters\":{},\"sections\":{}}", MSG_PLAN, 0, 0},
    {false, "{\"op\":\"train_until\",\"run\":7,\"unit\":16}", MSG_TRAIN_UNTIL, 7, 0},
    {false, "{\"op\":\"ack\",\"run\":7,\"seq\":16}", MSG_ACK, 7, 16},
    {false, "{\"op\":\"release\",\"run\":7}", MSG_RELEASE, 7, 0},
};

static void reads_messages_of_both_sides(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof GOOD / sizeof *GOOD; i++) {
        struct message message;
        struct error err = {0};
        if (message_parse(GOOD[i].line, strlen(GOOD[i].line), GOOD[i].from_worker, &message, &err))
            fail_msg("%s: %s", GOOD[i].line, err.text);
        assert_int_equal(message.op, GOOD[i].op);
        assert_true(message.run == GOOD[i].run && message.seq == GOOD[i].seq);
        assert_string_equal(json_string_value(json_object_get(message.body, "op")), message_op_name(message.op));
        message_done(&message);
    }
}

static const struct {
    bool from_worker;
    const char *line, *text;
} BAD[] = {
    {true, "{\"op\":", "not JSON at line 1"},
    {true, "[]", "a message is an object with a string \"op\""},
    {true, "{\"op\":3}", "a message is an object with a string \"op\""},
    {true, "{\"op\":\"dance\"}", "unknown operation \"dance\""},
    {true, "{\"op\":\"ack\",\"run\":1,\"seq\":1}", "unknown operation \"ack\""}, /* the other side's */
    {false, "{\"op\":\"hello\",\"version\":1,\"pid\":1}", "unknown operation \"hello\""},
    {true, "{\"op\":\"hello\",\"pid\":1}", "operation hello needs the field \"version\" (an integer)"},
    {true, "{\"op\":\"hello\",\"version\":\"1\",\"pid\":1}", "operation hello: field \"version\" must be an integer"},
    {true, "{\"op\":\"done\",\"seq\":1,\"reason\":\"x\"}", "operation done needs the field \"run\" (an integer)"},
    {true, "{\"op\":\"done\",\"run\":1,\"reason\":\"x\"}", "operation done needs the field \"seq\" (an integer)"},
    {true, "{\"op\":\"done\",\"run\":1.5,\"seq\":1,\"reason\":\"x\"}",
     "operation done: field \"run\" must be an integer"},
    {true, "{\"op\":\"report\",\"run\":1,\"seq\":1,\"kind\":\"guess\"}",
     "operation report: kind must be training, validation or test, not \"guess\""},
    {true, "{\"op\":\"report\",\"run\":1,\"seq\":1,\"kind\":\"test\"}",
     "operation report needs the field \"units\" (an object such as {\"rounds\": 3})"},
    {true, "{\"op\":\"report\",\"run\":1,\"seq\":1,\"kind\":\"test\",\"units\":{},\"metrics\":{\"a\":\"high\"}}",
     "operation report: metrics.a must be a number or one of \"NaN\", \"Infinity\", \"-Infinity\""},
    {true, "{\"op\":\"report\",\"run\":1,\"seq\":1,\"kind\":\"test\",\"units\":{},\"metrics\":[]}",
     "operation report: field \"metrics\" must be an object"},
    {true, "{\"op\":\"report\",\"run\":1,\"seq\":1,\"kind\":\"test\",\"units\":{},\"clients\":[{\"samples\":1}]}",
     "operation report: clients[0].client must be an integer"},
    {true, "{\"op\":\"report\",\"run\":1,\"seq\":1,\"kind\":\"test\",\"steps\":{}}",
     "operation report: field \"steps\" must be a list"},
    {true, "{\"op\":\"progress\",\"run\":1,\"units\":{\"rounds\":\"x\"}}",
     "operation progress: units.rounds must be a number or one of \"NaN\", \"Infinity\", \"-Infinity\""},
    {false, "{\"op\":\"train_until\",\"run\":1,\"unit\":\"far\"}",
     "operation train_until: field \"unit\" must be a number"},
};

static void refuses_with_field_and_what_would_be_right(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++) {
        struct message message;
        struct error err = {0};
        assert_int_equal(message_parse(BAD[i].line, strlen(BAD[i].line), BAD[i].from_worker, &message, &err), -EINVAL);
        if (strncmp(err.text, BAD[i].text, strlen(BAD[i].text)))
            fail_msg("%s: %s", BAD[i].line, err.text);
    }
}

static void damaged_lines_do_no_harm(void **state)
{
    size_t refused = 0;

    (void)state;
    for (uint64_t n = 0; n < 5000; n++) {
        size_t which = n % (sizeof GOOD / sizeof *GOOD), length = strlen(GOOD[which].line);
        struct message message;
        struct error err = {0};
        struct pcg32 rng;
        char *line = malloc(length); /* without a 0 behind it: reading past the end shows under asan */
        memcpy(line, GOOD[which].line, length);
        pcg32_seed(&rng, 7, n);
        for (uint32_t times = 1 + rng_below(&rng, 3); times; times--)
            line[rng_below(&rng, (uint32_t)length)] = (char)pcg32_next(&rng);
        if (message_parse(line, rng_below(&rng, 4) ? length : rng_below(&rng, (uint32_t)length),
                          GOOD[which].from_worker, &message, &err)) {
            assert_true(*err.text);
            refused++;
        } else {
            message_done(&message);
        }
        free(line);
    }
    assert_true(refused > 2500);
}

static void units_have_names(void **state)
{
    enum unit_kind kind = UNIT_SECONDS;

    (void)state;
    for (int i = 0; i < UNIT_KINDS; i++) {
        assert_int_equal(unit_kind_parse(UNIT_NAMES[i], &kind), 0);
        assert_int_equal(kind, i);
    }
    assert_int_equal(unit_kind_parse("round", &kind), -EINVAL);
    assert_int_equal(kind, UNIT_SECONDS);
}

static void a_misspelt_reason_is_known(void **state)
{
    char meant[40];

    (void)state;
    assert_true(message_reason_misspelt("memory-in-use", meant, sizeof meant));
    assert_string_equal(meant, "memory_in_use");
    assert_true(message_reason_misspelt("out_of_memroy", meant, sizeof meant));
    assert_string_equal(meant, "out_of_memory");
    assert_false(message_reason_misspelt("memory_in_use", meant, sizeof meant));
    assert_false(message_reason_misspelt("no_licence", meant, sizeof meant));
    assert_false(message_reason_misspelt("", meant, sizeof meant));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_messages_of_both_sides),
        cmocka_unit_test(refuses_with_field_and_what_would_be_right),
        cmocka_unit_test(damaged_lines_do_no_harm),
        cmocka_unit_test(units_have_names),
        cmocka_unit_test(a_misspelt_reason_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
