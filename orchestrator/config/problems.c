/* problems.c - the list of what is wrong with a file, and where things stand in it.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/config/config_private.h"

#include "common/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- places ---------------------------------------------------------------------------------------------------- */

void config_marks_free(struct config_marks *marks)
{
    if (!marks)
        return;
    for (size_t i = 0; i < marks->n; i++)
        free(marks->list[i].path);
    free(marks->list);
    free(marks);
}

int config_marks_add(struct config_marks *marks, const struct config_mark *mark)
{
    if (marks->n == marks->room) {
        size_t room = marks->room ? 2 * marks->room : 64;
        struct config_mark *grown = realloc(marks->list, room * sizeof *grown);
        if (!grown)
            return -ENOMEM;
        marks->list = grown;
        marks->room = room;
    }
    marks->list[marks->n] = *mark;
    marks->list[marks->n].path = strdup(mark->path);
    if (!marks->list[marks->n].path)
        return -ENOMEM;
    marks->n++;
    return 0;
}

static int compare_marks(const void *a, const void *b)
{
    return strcmp(((const struct config_mark *)a)->path, ((const struct config_mark *)b)->path);
}

void config_marks_sort(struct config_marks *marks)
{
    if (marks->n)
        qsort(marks->list, marks->n, sizeof *marks->list, compare_marks);
}

int config_marks_override(struct config_marks *marks, const char *path)
{
    struct config_mark mark = {.path = (char *)path, .scalar = true};
    size_t length = strlen(path), kept = 0;
    int rc;

    for (size_t i = 0; i < marks->n; i++) {
        const char *at = marks->list[i].path;
        if (!strncmp(at, path, length) && (!at[length] || at[length] == '.' || at[length] == '['))
            free(marks->list[i].path);
        else
            marks->list[kept++] = marks->list[i];
    }
    marks->n = kept;
    rc = config_marks_add(marks, &mark);
    config_marks_sort(marks);
    return rc;
}

static const struct config_mark *find_mark(const struct config_marks *marks, const char *path)
{
    struct config_mark key = {.path = (char *)path};

    return marks->n ? bsearch(&key, marks->list, marks->n, sizeof *marks->list, compare_marks) : NULL;
}

void config_marks_place(const struct config_marks *marks, const char *path, bool known_key, int *ret_line,
                        int *ret_column)
{
    char *at = strdup(path);
    const struct config_mark *mark = NULL;
    bool exact = true;

    *ret_line = *ret_column = marks ? 1 : 0;
    while (at && marks && !(mark = find_mark(marks, at)) && *at) {
        char *cut = at + strlen(at) - 1;
        while (cut > at && *cut != '.' && *cut != '[')
            cut--;
        *cut = 0;
        exact = false;
    }
    if (mark) {
        bool value = mark->scalar && (known_key || !exact);
        *ret_line = value ? mark->line : mark->key_line;
        *ret_column = value ? mark->column : mark->key_column;
    }
    free(at);
}

#define MAX_PROBLEMS 200

/* --- problems -------------------------------------------------------------------------------------------------- */

void config_problems_add(struct config_problems *problems, bool warning, const char *path, int line, int column,
                         const char *text)
{
    struct config_problem *grown;

    problems->errors += !warning;
    if (problems->n >= MAX_PROBLEMS) /* a person reads no more */
        return;
    grown = realloc(problems->list, (problems->n + 1) * sizeof *grown);
    if (!grown)
        return;
    problems->list = grown;
    grown += problems->n;
    *grown = (struct config_problem){warning, strdup(path), line, column, strdup(text)};
    if (grown->path && grown->text) {
        keys_clean_text(grown->path);
        keys_clean_text(grown->text);
        problems->n++;
        return;
    }
    free(grown->path);
    free(grown->text);
}

void config_problems_done(struct config_problems *problems)
{
    for (size_t i = 0; i < problems->n; i++) {
        free(problems->list[i].path);
        free(problems->list[i].text);
    }
    free(problems->list);
    memset(problems, 0, sizeof *problems);
}

static bool comes_after(const struct config_problem *a, const struct config_problem *b)
{
    return a->line != b->line ? a->line > b->line : a->column > b->column;
}

static bool is_same(const struct config_problem *a, const struct config_problem *b)
{
    return a->line == b->line && a->column == b->column && !strcmp(a->path, b->path) && !strcmp(a->text, b->text);
}

/* Insertion sort: stable, and a list of problems is short. */
void config_problems_sort(struct config_problems *problems)
{
    size_t kept = 0;

    for (size_t i = 0; i < problems->n; i++) {
        struct config_problem problem = problems->list[i];
        size_t at = kept;
        bool seen = false;
        for (size_t j = 0; j < kept && !seen; j++)
            seen = is_same(&problems->list[j], &problem);
        if (seen) {
            problems->errors -= !problem.warning;
            free(problem.path);
            free(problem.text);
            continue;
        }
        for (; at && comes_after(&problems->list[at - 1], &problem); at--)
            problems->list[at] = problems->list[at - 1];
        problems->list[at] = problem;
        kept++;
    }
    problems->n = kept;
}

/* Most texts go on the sentence that the path begins; others (of a trainer's plan) stand alone. */
static bool goes_on(const char *text)
{
    static const char *const VERBS[] = {"must", "is", "are", "takes", "needs", "has", "means", "cannot", "and"};

    for (size_t i = 0; i < sizeof VERBS / sizeof *VERBS; i++)
        if (!strncmp(text, VERBS[i], strlen(VERBS[i])) && text[strlen(VERBS[i])] == ' ')
            return true;
    return false;
}

char *config_problems_text(const struct config_problems *problems, const char *file)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);

    if (!out)
        return NULL;
    for (size_t i = 0; i < problems->n; i++) {
        const struct config_problem *problem = &problems->list[i];
        if (problem->line)
            fprintf(out, "%s:%d:%d: ", file, problem->line, problem->column);
        else
            fprintf(out, "--config: ");
        fprintf(out, "%s: ", problem->warning ? "warning" : "error");
        if (*problem->path)
            fprintf(out, "%s%s", problem->path, goes_on(problem->text) ? " " : ": ");
        fprintf(out, "%s\n", problem->text);
    }
    if (problems->n >= MAX_PROBLEMS)
        fprintf(out, "%s: and more: the first %d are shown\n", file, MAX_PROBLEMS);
    if (fclose(out)) {
        free(text);
        return NULL;
    }
    return text;
}

void config_say(struct config_check *check, bool warning, const char *path, const char *format, ...)
{
    char text[1000];
    int line, column;
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    config_marks_place(check->marks, path, true, &line, &column);
    config_problems_add(check->problems, warning, path, line, column, text);
}

void config_add_problem(struct config_problems *problems, const struct experiment_config *config, bool warning,
                        const char *path, const char *text)
{
    int line, column;

    config_marks_place(config->marks, path, true, &line, &column);
    config_problems_add(problems, warning, path, line, column, text);
    config_problems_sort(problems);
}
