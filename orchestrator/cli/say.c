/* say.c - what goes to stderr, and JSON on stdout.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int cli_fail(enum cli_exit code, const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fputs("flexp: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return (int)code;
}

int cli_fail_error(const struct error *err)
{
    static const int INPUT[] = {-EINVAL, -ENOENT, -EBUSY, -EISDIR, -EACCES, -ENOTDIR, -ENAMETOOLONG, -ELOOP};

    for (size_t i = 0; i < sizeof INPUT / sizeof *INPUT; i++)
        if (err->code == INPUT[i])
            return cli_fail(CLI_USAGE, "%s", err->text);
    return cli_fail(CLI_LOST, "%s", err->text);
}

void cli_note(const struct cli *cli, const char *format, ...)
{
    va_list args;

    if (cli->options.given[OPT_QUIET])
        return;
    fflush(stdout);
    fputs("flexp: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

bool cli_json(const struct cli *cli)
{
    return cli->options.given[OPT_JSON];
}

json_t *cli_json_answer(void)
{
    return json_pack("{s:i}", "schema_version", CLI_SCHEMA_VERSION);
}

int cli_print_json(const struct cli *cli, json_t *value)
{
    size_t flags = JSON_REAL_PRECISION(17) | (cli->out.tty ? (size_t)JSON_INDENT(2) : 0);
    int code = value ? json_dumpf(value, stdout, flags) : -1;

    fputc('\n', stdout);
    json_decref(value);
    return code ? cli_fail(CLI_LOST, "out of memory, or standard output does not take the answer") : CLI_OK;
}
