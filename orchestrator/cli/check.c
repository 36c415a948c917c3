/* check.c - see check.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/check.h"

#include "common/file.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (4u << 20) /* an experiment file has a few kilobytes; a data set given by mistake is not read whole */

static int read_stdin(char **ret, size_t *ret_length, struct error *err)
{
    size_t room = 65536, used = 0;
    char *text = malloc(room), *grown;

    while (text) {
        ssize_t n = read(0, text + used, room - used - 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            free(text);
            return fail(err, -EINVAL, "cannot read standard input: %s", strerror(errno));
        }
        if (n == 0) {
            text[used] = 0;
            *ret = text;
            *ret_length = used;
            return 0;
        }
        used += (size_t)n;
        if (used > FILE_MAX) {
            free(text);
            return fail(err, -EINVAL, "standard input is longer than %u MB: no experiment file", FILE_MAX >> 20);
        }
        if (used + 1 == room) {
            grown = realloc(text, room *= 2);
            if (!grown)
                free(text);
            text = grown;
        }
    }
    return fail(err, -ENOMEM, "out of memory");
}

static int read_input(const char *path, char **ret, size_t *ret_length, struct error *err)
{
    struct stat status;

    if (!strcmp(path, "-")) {
        if (isatty(0))
            fprintf(stderr, "flexp: reading the experiment file from the terminal, Ctrl-D ends it\n");
        return read_stdin(ret, ret_length, err);
    }
    if (stat(path, &status))
        return fail(err, -EINVAL, "%s: %s", path, errno == ENOENT ? "there is no such file" : strerror(errno));
    if (S_ISDIR(status.st_mode))
        return fail(err, -EINVAL, "%s is a folder; want an experiment file (YAML)", path);
    if (S_ISREG(status.st_mode) && status.st_size > FILE_MAX)
        return fail(err, -EINVAL, "%s is longer than %u MB: no experiment file", path, FILE_MAX >> 20);
    return file_read(path, ret, ret_length, err);
}

/* Reads FILE with the options; CLI_OK, whatever stands in it, or the exit code with what is wrong said. */
static int read_checked(struct cli *cli, struct checked *ret)
{
    const struct options *options = &cli->options;
    const char *data = options->value[OPT_DATA], *path = options->arguments[0];
    struct error err = {0};

    memset(ret, 0, sizeof *ret);
    ret->file = strcmp(path, "-") ? path : "<stdin>";
    if (data && !*data)
        return cli_fail(CLI_USAGE, "--data is empty; want a folder");
    if (!data)
        data = getenv("FLEXP_DATA");
    if (data && !*data)
        data = NULL;
    if (read_input(path, &ret->text, &ret->length, &err))
        return cli_fail(CLI_USAGE, "%s", err.text);
    config_read(ret->text, ret->length, options->config, options->config_n, data, &ret->config, &ret->problems);
    return CLI_OK;
}

/* Says all problems, once, and then err where that is set. */
static int conclude(struct cli *cli, const struct checked *checked, const struct error *err)
{
    char *text = config_problems_text(&checked->problems, checked->file);

    if (text && (err->code || !cli_json(cli) || strcmp(cli->verb->name, "validate") != 0))
        fputs(text, stderr);
    free(text);
    if (err->code)
        return cli_fail(err->code == -EINVAL ? CLI_USAGE : CLI_LOST, "%s", err->text);
    if (checked->problems.errors || !checked->config)
        return cli_fail(CLI_USAGE, "%s: %zu error%s%s", checked->file, checked->problems.errors,
                        checked->problems.errors == 1 ? "" : "s",
                        strcmp(cli->verb->name, "create") ? "" : "; nothing was created");
    return CLI_OK;
}

int check_file(struct cli *cli, bool ask_trainer, struct checked *ret)
{
    struct error err = {0};
    int code = read_checked(cli, ret);

    if (code)
        return code;
    if (ret->config && !ret->problems.errors && ask_trainer)
        err.code = plan_check(ret->config, cli->home, &ret->problems, &err); /* it is not the file's fault */
    return conclude(cli, ret, &err);
}

void checked_done(struct checked *checked)
{
    config_free(checked->config);
    config_problems_done(&checked->problems);
    free(checked->text);
}

int check_describe(struct cli *cli, const char *what, json_t **ret)
{
    struct error err = {0};
    struct checked checked;
    json_t *answer = NULL;
    int code = read_checked(cli, &checked);

    if (code == CLI_OK) {
        if (checked.config && !checked.problems.errors &&
            plan_describe(checked.config, cli->home, what, &answer, &checked.problems, &err) && checked.config->entrypoint)
            fail_prefix(&err, "%s", checked.file);
        code = conclude(cli, &checked, &err);
    }
    if (code == CLI_OK)
        *ret = json_incref(answer);
    json_decref(answer);
    checked_done(&checked);
    return code;
}
