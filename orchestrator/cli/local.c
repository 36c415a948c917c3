/* local.c - read requests without an orchestrator: the same handlers, in this process, on a read-only store.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "common/file.h"
#include "orchestrator/server/requests.h"
#include "orchestrator/store/store.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int without_store(const char *home, const char *request, const json_t *arguments, json_t **ret,
                         struct error *err)
{
    if (!strcmp(request, "list")) {
        *ret = json_pack("{s:i, s:[]}", "schema_version", CLI_SCHEMA_VERSION, "experiments");
        return 0;
    }
    return fail(err, -ENOENT, "there is no experiment %lld: nothing was created in %s yet",
                (long long)json_int_or(arguments, "experiment", 0), home);
}

int local_request(const char *home, const char *request, const json_t *arguments, json_t **ret, struct error *err)
{
    char *path = format_text("%s/flexp.db", home);
    struct store_high high;
    struct store *store = NULL;
    int code;

    if (!path)
        return fail(err, -ENOMEM, "out of memory");
    if (access(path, F_OK) && errno != ENOENT) {
        code = fail(err, -errno, "%s: %s", path, strerror(errno));
    } else if (!file_exists(path)) {
        code = without_store(home, request, arguments, ret, err);
    } else {
        code = store_open(path, true, NULL, NULL, &store, &high, err);
        if (code == 0)
            code = request_run(NULL, store, request, arguments, ret, err);
    }
    if (store)
        store_close(store);
    free(path);
    return code;
}

void local_waiting(const char *home, char **ret_text)
{
    json_t *arguments = json_pack("{s:b}", "all", 0), *answer = NULL, *row;
    char *text = NULL;
    size_t i;

    *ret_text = NULL;
    if (local_request(home, "list", arguments, &answer, NULL) == 0) {
        json_array_foreach(json_object_get(answer, "experiments"), i, row) {
            const char *state = json_string_or(row, "state", "");
            char *longer;
            if (strcmp(state, "active") != 0 && strcmp(state, "stopping") != 0)
                continue;
            longer = format_text("%s%s%lld", text ? text : "", text ? ", " : "", (long long)json_int_or(row, "id", 0));
            free(text);
            text = longer;
        }
    }
    json_decref(arguments);
    json_decref(answer);
    *ret_text = text;
}
