/* verb_delete.c - delete: asks first, with what would go.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "common/file.h"
#include "orchestrator/cli/format.h"

#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* nftw has no argument: this is the command line, of one thread. */
static double total_bytes;

static int add_bytes(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)path, (void)ftw;
    total_bytes += kind == FTW_F ? (double)st->st_size : 0;
    return 0;
}

static char *size_of(const char *folder)
{
    total_bytes = 0;
    nftw(folder, add_bytes, 16, FTW_PHYS);
    return format_bytes(total_bytes);
}

/* True when a person has said yes. */
static bool ask(struct cli *cli, int64_t id, const json_t *described)
{
    char *folder = format_text("%s/experiments/%lld", cli->home, (long long)id), *size = folder ? size_of(folder) : NULL;
    char *name = text_clean(json_string_or(described, "name", ""));
    int64_t trials = json_int_or(json_object_get(described, "trials"), "total", 0);
    char answer[16] = "";

    fprintf(stderr, "Delete experiment %lld \"%s\" with %lld trial%s and %s of files? [y/N] ", (long long)id,
            name ? name : "", (long long)trials, trials == 1 ? "" : "s", size ? size : "0 B");
    fflush(stderr);
    free(folder);
    free(size);
    free(name);
    if (!fgets(answer, sizeof answer, stdin))
        fputc('\n', stderr);
    return answer[0] == 'y' || answer[0] == 'Y';
}

int verb_delete(struct cli *cli)
{
    struct error err = {0};
    json_t *answer = NULL;
    bool sure = cli->options.given[OPT_YES];
    int64_t id;
    int code = cli_existing(cli, cli->options.arguments[0], &id, &answer, &err);

    if (code)
        return cli_fail_error(&err);
    if (!sure && !isatty(STDIN_FILENO)) {
        json_decref(answer);
        return cli_fail(CLI_USAGE, "delete asks before it deletes, and there is no terminal to ask on: flexp delete %lld --yes",
                        (long long)id);
    }
    sure = sure || ask(cli, id, answer);
    json_decref(answer);
    answer = NULL;
    if (!sure)
        return cli_fail(CLI_USAGE, "experiment %lld stays", (long long)id);
    code = cli_ask(cli, true, "delete", json_pack("{s:I}", "experiment", (json_int_t)id), &answer, &err);
    json_decref(answer);
    if (code)
        return cli_fail_error(&err);
    if (cli_json(cli)) {
        answer = cli_json_answer();
        json_object_set_new(answer, "id", json_integer(id));
        return cli_print_json(cli, answer);
    }
    if (!cli->options.given[OPT_QUIET])
        printf("Deleted experiment %lld\n", (long long)id);
    return CLI_OK;
}
