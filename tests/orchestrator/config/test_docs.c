/* test_docs.c - docs/config.md says what the tables say.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_docs.h"
#include "tests/orchestrator/config/config_test.h"

static void docs_are_up_to_date(void **state)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    (void)state;
    config_write_docs(out);
    fclose(out);
    assert_golden("docs/config.md", text);
    free(text);
}

/* Keys come from two places; each must explain itself. */
static void check_rows(const struct key *table, int depth)
{
    for (; table->name; table++) {
        assert_non_null(table->doc);
        if (table->type == KEY_IGNORED)
            continue;
        if (!table->example || !strstr(table->example, table->name))
            fail_msg("%s needs an example that names it", table->name);
        if (table->type == KEY_MAP && depth < 6)
            check_rows(table->sub, depth + 1);
        if (table->def) {
            json_t *def = json_loads(table->def, JSON_DECODE_ANY, NULL);
            assert_non_null(def);
            json_decref(def);
        }
    }
}

static void every_key_has_a_sentence_and_an_example(void **state)
{
    (void)state;
    check_rows(CONFIG_KEYS, 0);
    check_rows(keys_find(CONFIG_KEYS, "model.layers")->sub->sub, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(docs_are_up_to_date),
        cmocka_unit_test(every_key_has_a_sentence_and_an_example),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
