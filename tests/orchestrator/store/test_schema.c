/* test_schema.c - every query of docs/schema.md, word for word, on a filled store; what each must give is in
 * schema_queries.txt, under the query's heading. Neither file may have one that the other lacks.
 * SPDX-License-Identifier: Apache-2.0 */
#include "store_test.h"
#include "orchestrator/store/store_private.h"

#define DOC "docs/schema.md"
#define EXPECTED "tests/orchestrator/store/schema_queries.txt"

static void report(struct store_batch *batch, int trial, int run, int seq, int unit, const char *kind,
                   const char *metrics, const char *clients)
{
    char body[1500];

    snprintf(body, sizeof body, "{'kind':'%s','units':{'rounds':%d},'metrics':%s,'clients':%s}", kind, unit, metrics,
             clients);
    put_report(batch, 1, trial, run, seq, body);
}

/* Validations of a trial from unit 1 on; a checkpoint at the last one, which is its best. */
static void train(struct store_batch *batch, int trial, int run, int units, double start)
{
    char metrics[200];

    for (int unit = 1; unit <= units; unit++) {
        snprintf(metrics, sizeof metrics, "{'validation_accuracy':%g,'train_loss':%g}", start + unit / 16.0,
                 2.0 / unit);
        report(batch, trial, run, unit, unit, "validation", metrics, "[]");
    }
    put_checkpoint(batch, 1, trial, run, run, units + 1, units);
    store_put_trial_best(batch, (struct trial_ref){1, trial}, start + units / 16.0, units, run);
}

static void put_run_on(struct store_batch *batch, int64_t experiment, int trial, int run, int attempt,
                       const char *slots)
{
    json_t *list = json_of(slots);

    store_put_run(batch, run, (struct trial_ref){experiment, trial}, attempt, list, 100 + run, "avx2", 0,
                  T0 + run * 10 * SECOND);
    json_decref(list);
}

static void put_state(struct store_batch *batch, int trial, const char *state, const char *reason, const char *text)
{
    store_put_trial_state(batch, (struct trial_ref){1, trial}, state, reason, text, 0, T0 + 100 * SECOND);
}

static void put_body(struct store_batch *batch, int idx, const char *kind, int answers, const char *body)
{
    json_t *value = json_of(body);

    store_put_journal(batch, 1, idx, kind, answers, value, T0 + idx * SECOND);
    json_decref(value);
}

/* Trial 1: completed, its first run lost at round 4, its clients told; 2: stopped; 3: waits; 4, 5: in error; 6:
 * queued. */
static void put_trials(struct store_batch *batch)
{
    put_trial(batch, 1, 1, "{'lr':0.1,'batch':16,'net':{'layers':2}}");
    put_trial(batch, 1, 2, "{'lr':0.01,'batch':32,'net':{'layers':2}}");
    put_trial(batch, 1, 3, "{'lr':0.03,'batch':32,'net':{'layers':3}}");
    put_trial(batch, 1, 4, "{'lr':10,'batch':16,'net':{'layers':3}}");
    put_trial(batch, 1, 5, "{'lr':0.2,'batch':64,'net':{'layers':3}}");
    put_trial(batch, 1, 6, "{'lr':0.3,'batch':64,'net':{'layers':1}}");
    put_run_on(batch, 1, 1, 1, 1, "['cpu:0','cpu:1']");
    report(batch, 1, 1, 1, 1, "training", "{'train_loss':2.0}",
           "[{'client':4,'samples':900,'seconds':0.25,'status':'ok','metrics':{'train_loss':2.5}},"
           "{'client':7,'samples':100,'seconds':0.75,'status':'ok','metrics':{'train_loss':1.5}}]");
    report(batch, 1, 1, 2, 1, "validation", "{'validation_accuracy':0.25}",
           "[{'client':4,'metrics':{'client_validation_accuracy':0.5}},"
           "{'client':7,'metrics':{'client_validation_accuracy':0.25}}]");
    put_checkpoint(batch, 1, 1, 1, 1, 3, 1);
    report(batch, 1, 1, 4, 2, "training", "{'train_loss':1.75}", "[]"); /* lost with its run, and trained again */
    store_put_run_end(batch, 1, "signal", "killed by signal 9", T0 + 16 * SECOND);
    put_run_on(batch, 1, 1, 2, 2, "['cpu:0','cpu:1']");
    report(batch, 1, 2, 1, 2, "training", "{'train_loss':1.5}",
           "[{'client':4,'samples':900,'seconds':0.5,'status':'ok','metrics':{'train_loss':1.25}},"
           "{'client':9,'samples':50,'seconds':1.5,'status':'dropped','metrics':{}}]");
    report(batch, 1, 2, 2, 2, "validation", "{'validation_accuracy':0.75,'validation_loss':0.5}",
           "[{'client':4,'metrics':{'client_validation_accuracy':0.875}}]");
    put_checkpoint(batch, 1, 1, 2, 2, 3, 2);
    store_put_checkpoint_deleted(batch, 1, T0 + 25 * SECOND);
    store_put_trial_best(batch, (struct trial_ref){1, 1}, 0.75, 2, 2);
    store_put_run_end(batch, 2, "length", NULL, T0 + 40 * SECOND);
    store_put_usage(batch, 2, &(struct usage){1.5, 250000000, 0.25, 1 << 30}, T0 + 30 * SECOND);
    store_put_usage(batch, 2, &(struct usage){0.5, 300000000, 0.75, 1 << 30}, T0 + 40 * SECOND);
    put_state(batch, 1, "completed", "length", NULL);
    put_run_on(batch, 1, 2, 3, 1, "['cuda:0']");
    train(batch, 2, 3, 1, 0.125);
    store_put_usage(batch, 3, &(struct usage){1, 100000000, NAN, 0}, T0 + 36 * SECOND);
    store_put_run_end(batch, 3, "stopped", NULL, T0 + 36 * SECOND);
    put_state(batch, 2, "stopped", NULL, NULL);
    put_run_on(batch, 1, 3, 4, 1, "['cpu:2']");
    train(batch, 3, 4, 1, 0.375);
    store_put_run_end(batch, 4, "preempted", NULL, T0 + 50 * SECOND);
    put_state(batch, 3, "waiting", NULL, NULL);
    put_run_on(batch, 1, 4, 5, 1, "['cpu:2']");
    report(batch, 4, 5, 1, 1, "training", "{'train_loss':'Infinity'}", "[]");
    report(batch, 4, 5, 2, 2, "training", "{'train_loss':'NaN'}", "[]");
    store_put_run_end(batch, 5, "non_finite", "train_loss is NaN", T0 + 55 * SECOND);
    put_state(batch, 4, "error", "non_finite", "train_loss is NaN at round 2");
    put_run_on(batch, 1, 5, 6, 1, "['cpu:2']");
    store_put_run_end(batch, 6, "exit", "exit status 1", T0 + 61 * SECOND);
    store_put_log(batch, (struct trial_ref){1, 5}, 6, "error", "Traceback: no such module", T0 + 61 * SECOND);
    store_put_log(batch, (struct trial_ref){1, 5}, 6, "info", "bye", T0 + 61 * SECOND);
    put_state(batch, 5, "error", "exit", "exit status 1");
}

static void fill(const char *path)
{
    struct store *store = open_store(path, NULL);
    struct store_batch *batch = store_batch_new();
    json_t *metrics = json_of("{'validation_accuracy':0.75,'validation_loss':0.5}");
    json_t *test = json_of("{'test_accuracy':0.625,'test_loss':0.5}"), *second = json_of(CONFIG);

    put_experiment(batch, 1);
    put_trials(batch);
    store_put_experiment_best(batch, 1, 1, 2, metrics, 2);
    store_put_experiment_progress(batch, 1, 0.5);
    store_put_test(batch, (struct trial_ref){1, 1}, 2, 2, test, "best", T0 + 90 * SECOND);
    put_body(batch, 1, "event", 0, "{'event':'start'}");
    put_body(batch, 2, "operations", 1, "[{'op':'create','trial':1}]");
    put_body(batch, 3, "event", 0, "{'event':'validation','trial':1,'unit':1,'value':0.25}");
    put_body(batch, 4, "event", 0, "{'event':'validation','trial':2,'unit':1,'value':0.1875}");
    put_body(batch, 5, "operations", 3, "[{'op':'train','trial':1,'until':2}]");
    put_body(batch, 6, "event", 0, "{'event':'validation','trial':1,'unit':2,'value':0.75}");
    store_put_experiment(batch, 2, "second", "text", second, "active", T0 + 200 * SECOND);
    put_trial(batch, 2, 1, "{}");
    put_run_on(batch, 2, 1, 7, 1, "['cpu:0']");
    put_report(batch, 2, 1, 7, 1,
               "{'kind':'training','units':{'rounds':1},'metrics':{'train_loss':'-Infinity','a':1.5}}");
    put_trial(batch, 2, 2, "{}"); /* 2 and 3 share a slot for 10 of 36 seconds */
    put_trial(batch, 2, 3, "{}");
    put_run_on(batch, 2, 2, 8, 1, "['cuda:0']");
    put_run_on(batch, 2, 3, 9, 1, "['cuda:0']");
    store_put_run_end(batch, 8, "length", NULL, T0 + 100 * SECOND);
    store_put_run_end(batch, 9, "length", NULL, T0 + 116 * SECOND);
    commit(store, batch);
    store_close(store);
    json_decref(metrics);
    json_decref(test);
    json_decref(second);
}

/* The text of the part that begins with `begin` and a heading, up to `end`; *at moves behind it. NULL at the end. */
static char *next_part(const char **at, const char *begin, const char *end, char *heading, size_t room)
{
    const char *start = strstr(*at, begin), *stop;
    char *text;

    if (!start)
        return NULL;
    start += strlen(begin);
    snprintf(heading, room, "%.*s", (int)strcspn(start, "\n"), start);
    start += strcspn(start, "\n") + 1;
    stop = strstr(start, end);
    stop = stop ? stop : start + strlen(start);
    text = strndup(start, (size_t)(stop - start));
    *at = stop;
    return text;
}

/* What the file of expected results has under the heading. */
static char *expected_of(const char *expected, const char *heading)
{
    char name[200], *text;

    while ((text = next_part(&expected, "== ", "\n== ", name, sizeof name))) {
        size_t n = strlen(text);
        if (!strcmp(name, heading)) {
            if (n && text[n - 1] == '\n')
                text[n - 1] = 0;
            return text;
        }
        free(text);
    }
    return NULL;
}

static size_t count(const char *text, const char *what)
{
    size_t n = 0;

    for (; (text = strstr(text, what)); text += strlen(what))
        n++;
    return n;
}

static void every_query_of_the_page_gives_what_it_says(void **state)
{
    struct home *home = *state;
    char *doc, *expected, *part, heading[200];
    const char *at;
    size_t wrong = 0, n = 0;

    assert_int_equal(file_read(DOC, &doc, NULL, NULL), 0);
    assert_int_equal(file_read(EXPECTED, &expected, NULL, NULL), 0);
    fill(home->path);
    at = doc;
    while ((part = next_part(&at, "\n### ", "\n### ", heading, sizeof heading))) {
        char *sql = strstr(part, "```sql\n"), *want = expected_of(expected, heading), *got;
        if (!sql)
            fail_msg("no query below the heading \"%s\"", heading);
        *strstr(sql, "\n```\n") = 0;
        got = query(home->path, sql + 7);
        if (!want || strcmp(got ? got : "", want)) {
            print_message("== %s\n%s\n", heading, got ? got : "");
            wrong++;
        }
        n++;
        free(got);
        free(want);
        free(part);
    }
    assert_int_equal(n, count(doc, "```sql\n"));
    assert_int_equal(n, count(expected, "== "));
    if (wrong)
        fail_msg("%zu of %zu queries give what is printed above, which %s does not say", wrong, n, EXPECTED);
    free(doc);
    free(expected);
}

/* The page describes every view, and every column of it. */
static void the_page_names_every_view_and_column(void **state)
{
    struct home *home = *state;
    char *doc, sql[200], *columns, name[80];

    assert_int_equal(file_read(DOC, &doc, NULL, NULL), 0);
    store_close(open_store(home->path, NULL));
    for (const struct view *view = VIEWS; view->name; view++) {
        snprintf(name, sizeof name, "**%s**", view->name);
        if (!strstr(doc, name))
            fail_msg("docs/schema.md does not describe %s", view->name);
        snprintf(sql, sizeof sql, "SELECT name FROM pragma_table_info('%s')", view->name);
        columns = query(home->path, sql);
        for (char *rest, *column = strtok_r(columns, "\n", &rest); column; column = strtok_r(NULL, "\n", &rest)) {
            assert_null(strpbrk(column, "(:.")); /* each has a name of its own */
            if (!strstr(doc, column))
                fail_msg("docs/schema.md does not name column %s of %s", column, view->name);
        }
        free(columns);
    }
    free(doc);
}

/* A curve is read along its rows, not by going through all trials. */
static void a_curve_is_found_by_keys_alone(void **state)
{
    struct home *home = *state;
    char *plan;

    store_close(open_store(home->path, NULL));
    plan = query(home->path, "EXPLAIN QUERY PLAN SELECT unit, value FROM v_metrics WHERE experiment = 1 AND trial = 1"
                             " AND name = 'validation_accuracy' ORDER BY unit");
    if (strstr(plan, "SCAN") || !strstr(plan, "SEARCH m USING PRIMARY KEY (trial=? AND name=? AND client=?)") ||
        strstr(plan, "reports"))
        fail_msg("%s", plan);
    free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        test_in_home(every_query_of_the_page_gives_what_it_says),
        test_in_home(the_page_names_every_view_and_column),
        test_in_home(a_curve_is_found_by_keys_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
