/* verb_data.c - data fetch, data info.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/check.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/rate.h"
#include "orchestrator/cli/render.h"
#include "orchestrator/cli/table.h"

#include "common/file.h"
#include "orchestrator/fetch/catalog.h"
#include "orchestrator/fetch/download.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- fetch -------------------------------------------------------------------------------------------------------- */

#define SHOW_S 0.1  /* on a terminal */
#define PLAIN_S 5.0 /* a line in a pipe */

struct progress {
    struct cli *cli;
    const char *name;
    struct rate rate;
    double shown;
    bool line; /* a line without its end stands on the terminal */
};

static double now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void clear_line(struct progress *progress)
{
    if (progress->line)
        fputs("\r\033[K", stderr);
    progress->line = false;
}

static void on_progress(void *arg, int64_t have, int64_t total)
{
    struct progress *progress = arg;
    const struct term *term = &progress->cli->err;
    double now = now_s(), speed;
    char *got, *of, *per, *left, *bar;

    rate_add(&progress->rate, now, (double)have);
    if (progress->cli->options.given[OPT_QUIET] || (now - progress->shown < (term->tty ? SHOW_S : PLAIN_S) && have != total))
        return;
    progress->shown = now;
    speed = rate_get(&progress->rate, now);
    got = format_bytes((double)have);
    of = format_bytes((double)total);
    per = format_bytes(speed > 0 ? speed : 0);
    left = total && speed > 0 ? format_seconds((double)(total - have) / speed) : NULL;
    bar = term->tty && total ? render_bar(term, (double)have / (double)total, 22) : NULL;
    fprintf(stderr, "%s%s%s%s  %s%s%s, %s/s%s%s%s", term->tty ? "\r" : "", progress->name, bar ? " " : "", bar ? bar : "", got,
            total ? " of " : "", total ? of : "", per, left ? ", " : "", left ? left : "", left ? " left" : "");
    fputs(term->tty ? "\033[K" : "\n", stderr);
    progress->line = term->tty;
    fflush(stderr);
    free(got);
    free(of);
    free(per);
    free(left);
    free(bar);
}

static void on_note(void *arg, const char *text)
{
    struct progress *progress = arg;

    clear_line(progress);
    cli_note(progress->cli, "%s", text);
}

/* The mirrors of a file, or what FLEXP_FETCH_BASE says in their place: BASE/NAME/FILE. */
static int make_urls(const struct catalog_row *row, const char *file, char *urls[CATALOG_MIRRORS + 1], struct error *err)
{
    const char *base = getenv("FLEXP_FETCH_BASE");

    for (size_t i = 0; base ? i < 1 : row->bases[i] != NULL; i++) {
        urls[i] = base ? format_text("%s/%s/%s", base, row->name, file) : format_text("%s/%s", row->bases[i], file);
        if (!urls[i])
            return fail(err, -ENOMEM, "out of memory");
    }
    return 0;
}

static int fetch_one(struct cli *cli, const struct catalog_row *row, const struct catalog_file *file, const char *folder,
                     json_t *files, struct error *err)
{
    struct progress progress = {.cli = cli, .name = file->name};
    char *urls[CATALOG_MIRRORS + 1] = {0}, *path = format_text("%s/%s", folder, file->name);
    struct download download = {.path = path, .md5 = file->md5, .urls = (const char *const *)urls, .progress = on_progress,
                                .note = on_note, .arg = &progress};
    bool there = false;
    int code = path ? make_urls(row, file->name, urls, err) : fail(err, -ENOMEM, "out of memory");

    rate_init(&progress.rate, 5);
    if (code == 0)
        code = download_file(&download, &there, err);
    clear_line(&progress);
    if (code == 0) {
        json_array_append_new(files, json_pack("{s:s, s:s, s:b}", "path", path, "md5", file->md5, "fetched", !there));
        cli_note(cli, there ? "%s is there already, and right" : "%s is fetched, its checksum is right", path);
    }
    for (size_t i = 0; i < CATALOG_MIRRORS; i++)
        free(urls[i]);
    free(path);
    return code;
}

static const struct catalog_row *find_row(const char *name, struct error *err)
{
    const char *names[16], *near;
    size_t n = 0;

    for (const struct catalog_row *row = CATALOG; row->name; row++) {
        if (!strcmp(row->name, name))
            return row;
        names[n++] = row->name;
    }
    names[n] = NULL;
    near = nearest_word(names, name);
    if (near)
        fail(err, -EINVAL, "there is no data set '%s' to fetch: did you mean '%s'?", name, near);
    else
        fail(err, -EINVAL, "there is no data set '%s' to fetch; there are cifar10, mnist and fashion_mnist", name);
    return NULL;
}

int verb_data_fetch(struct cli *cli)
{
    const char *root = cli->options.value[OPT_DATA] ? cli->options.value[OPT_DATA] : getenv("FLEXP_DATA");
    struct error err = {0};
    const struct catalog_row *row = find_row(cli->options.arguments[0], &err);
    json_t *files = json_array(), *answer;
    char *folder;
    int code;

    if (!row) {
        json_decref(files);
        return cli_fail_error(&err);
    }
    folder = format_text("%s/%s", root && *root ? root : ".", row->name);
    code = folder ? file_make_folder(folder, &err) : fail(&err, -ENOMEM, "out of memory");
    for (const struct catalog_file *file = row->files; code == 0 && file->name; file++)
        code = fetch_one(cli, row, file, folder, files, &err);
    if (code) {
        code = cli_fail(CLI_LOST, "%s", err.text);
    } else if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "name", json_string(row->name));
        json_object_set_new(answer, "folder", json_string(folder));
        json_object_set(answer, "files", files);
        code = cli_print_json(cli, answer);
    } else {
        printf("%s is in %s. In an experiment file: data: {source: %s, path: %s}\n", row->name, folder, row->source, row->name);
    }
    free(folder);
    json_decref(files);
    return code;
}

/* --- info --------------------------------------------------------------------------------------------------------- */

static void class_table(struct cli *cli, const json_t *data)
{
    const json_t *train = json_object_get(data, "train_per_class"), *test = json_object_get(data, "test_per_class");
    struct table *table = table_new();
    json_t *name;
    size_t i;

    table_column(table, "CLASS", TABLE_SHRINK);
    table_column(table, "TRAINING", TABLE_RIGHT);
    table_column(table, "TEST", TABLE_RIGHT);
    json_array_foreach (json_object_get(data, "class_names"), i, name) {
        table_cell(table, STYLE_NONE, "%s", json_string_value(name));
        table_cell(table, STYLE_NONE, "%lld", (long long)json_integer_value(json_array_get(train, i)));
        table_cell(table, STYLE_NONE, "%lld", (long long)json_integer_value(json_array_get(test, i)));
    }
    table_write(table, stdout, &cli->out, 2);
    table_free(table);
}

static size_t labels_of(const json_t *client)
{
    size_t n = 0, i;
    json_t *count;

    json_array_foreach (json_object_get(client, "per_class"), i, count)
        n += json_integer_value(count) > 0;
    return n;
}

#define CLIENTS_SHOWN 20

static void client_table(struct cli *cli, const json_t *clients)
{
    struct table *table = table_new();
    json_t *client;
    size_t i;

    table_column(table, "CLIENT", TABLE_RIGHT);
    table_column(table, "SAMPLES", TABLE_RIGHT);
    table_column(table, "HELD OUT", TABLE_RIGHT);
    table_column(table, "CLASSES", TABLE_RIGHT);
    table_column(table, "PER CLASS", TABLE_SHRINK);
    json_array_foreach ((json_t *)clients, i, client) {
        char *counts = i < CLIENTS_SHOWN ? json_dumps(json_object_get(client, "per_class"), JSON_COMPACT) : NULL;
        if (i == CLIENTS_SHOWN)
            break;
        table_cell(table, STYLE_NONE, "%zu", i);
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(client, "samples", 0));
        table_cell(table, STYLE_NONE, "%lld", (long long)json_int_or(client, "held_out", 0));
        table_cell(table, STYLE_NONE, "%zu", labels_of(client));
        table_cell(table, STYLE_DIM, "%s", counts ? counts : "");
        free(counts);
    }
    table_write(table, stdout, &cli->out, 2);
    table_free(table);
    if (json_array_size(clients) > CLIENTS_SHOWN)
        printf("  and %zu more: --json has all\n", json_array_size(clients) - CLIENTS_SHOWN);
}

static int by_number(const void *a, const void *b)
{
    json_int_t x = *(const json_int_t *)a, y = *(const json_int_t *)b;

    return (x > y) - (x < y);
}

static void client_summary(const json_t *clients)
{
    size_t n = json_array_size(clients), i;
    json_int_t *samples = calloc(n + 1, sizeof *samples);
    json_t *client;

    json_array_foreach ((json_t *)clients, i, client)
        if (samples)
            samples[i] = json_int_or(client, "samples", 0);
    if (samples && n) {
        qsort(samples, n, sizeof *samples, by_number);
        printf("%zu client%s, %lld to %lld training samples each, median %lld\n", n, n == 1 ? "" : "s", (long long)samples[0],
               (long long)samples[n - 1], (long long)samples[n / 2]);
    }
    free(samples);
}

static void show_info(struct cli *cli, const json_t *data)
{
    const json_t *clients = json_object_get(data, "clients"), *mean = json_object_get(data, "mean");
    const char *on = term_on(&cli->out, STYLE_BOLD), *off = term_off(&cli->out, STYLE_BOLD);

    printf("%s%s%s  %lld images to train on, %lld of them for validation, %lld to test on; %lldx%lldx%lld, %zu classes\n", on,
           json_string_or(data, "source", ""), off, (long long)json_int_or(data, "train", 0),
           (long long)json_int_or(data, "validation", 0), (long long)json_int_or(data, "test", 0),
           (long long)json_int_or(data, "channels", 0), (long long)json_int_or(data, "height", 0),
           (long long)json_int_or(data, "width", 0), json_array_size(json_object_get(data, "class_names")));
    printf("mean");
    for (size_t c = 0; c < json_array_size(mean); c++)
        printf(" %.4f", json_number_value(json_array_get(mean, c)));
    printf(", standard deviation");
    for (size_t c = 0; c < json_array_size(mean); c++)
        printf(" %.4f", json_number_value(json_array_get(json_object_get(data, "std"), c)));
    printf(" (of the training part, in 0..1)\ncontent %s\n\n", json_string_or(data, "hash", ""));
    class_table(cli, data);
    putchar('\n');
    client_summary(clients);
    if (json_array_size(clients) > 1)
        client_table(cli, clients);
}

int verb_data_info(struct cli *cli)
{
    json_t *answer = NULL, *whole;
    int code = check_describe(cli, "data", &answer);

    if (code)
        return code;
    if (cli_json(cli)) {
        whole = cli_json_answer();
        json_object_update(whole, json_object_get(answer, "data"));
        code = cli_print_json(cli, whole);
    } else {
        show_info(cli, json_object_get(answer, "data"));
    }
    json_decref(answer);
    return code;
}
