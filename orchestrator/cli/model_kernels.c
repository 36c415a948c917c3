/* model_kernels.c - model --kernels: what computes each layer of a network on this machine, and how fast.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/check.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/table.h"

#include "common/file.h"

#include <stdlib.h>
#include <string.h>

/* "conv2d + relu + max_pool2d" */
static char *types_text(const json_t *row)
{
    char *text = strdup(""), *longer;
    json_t *type;
    size_t i;

    json_array_foreach (json_object_get(row, "types"), i, type) {
        longer = format_text("%s%s%s", text ? text : "", i ? " + " : "", json_string_value(type));
        free(text);
        text = longer;
    }
    return text;
}

static void kernel_row(struct table *table, const json_t *row, double step_us)
{
    double flops = json_double_or(row, "flops", 0), forward = json_double_or(row, "forward_us", 0),
           backward = json_double_or(row, "backward_us", 0);
    char *types = types_text(row), *bytes = format_bytes(json_double_or(row, "bytes", 0));
    long long first = json_int_or(row, "first", 0), last = json_int_or(row, "last", 0);
    bool idle = !(forward + backward > 0);

    if (first == last)
        table_cell(table, STYLE_DIM, "%lld", first);
    else
        table_cell(table, STYLE_DIM, "%lld-%lld", first, last);
    table_cell(table, STYLE_BOLD, "%s", types ? types : "");
    table_cell(table, STYLE_NONE, "%s", json_string_or(row, "kernel", ""));
    if (flops > 0)
        table_cell(table, STYLE_NONE, "%.1f M", flops / 1e6);
    else
        table_cell(table, STYLE_NONE, "-");
    table_cell(table, STYLE_NONE, "%s", idle ? "-" : bytes ? bytes : "");
    if (idle) {
        for (int i = 0; i < 3; i++)
            table_cell(table, STYLE_NONE, "-");
    } else {
        table_cell(table, STYLE_NONE, "%.1f", forward);
        table_cell(table, STYLE_NONE, "%.1f", backward);
        table_cell(table, STYLE_NONE, "%.1f%%", step_us > 0 ? 100 * (forward + backward) / step_us : 0);
    }
    if (flops > 0)
        table_cell(table, STYLE_NONE, "%.0f%%", 100 * json_double_or(row, "peak_share", 0));
    else
        table_cell(table, STYLE_NONE, "-");
    free(types);
    free(bytes);
}

static void show(struct cli *cli, const json_t *kernels, const json_t *values)
{
    struct table *table = table_new();
    double step_us = json_double_or(kernels, "step_us", 0), batch = json_double_or(kernels, "batch", 0);
    char *used = format_hyperparameters(values);
    json_t *row;
    size_t i;

    if (json_object_size(values))
        printf("With %s\n", used);
    printf("A step on a batch of %.0f, one core, instructions %s, peak %.1f GFLOP/s\n\n", batch,
           json_string_or(kernels, "isa", ""), json_double_or(kernels, "peak_flops", 0) / 1e9);
    table_column(table, "LAYER", TABLE_RIGHT);
    table_column(table, "TYPE", TABLE_LEFT);
    table_column(table, "KERNEL", TABLE_LEFT);
    table_column(table, "FLOPS", TABLE_RIGHT);
    table_column(table, "BYTES", TABLE_RIGHT | TABLE_OPTIONAL);
    table_column(table, "FORWARD us", TABLE_RIGHT);
    table_column(table, "BACKWARD us", TABLE_RIGHT);
    table_column(table, "TIME", TABLE_RIGHT);
    table_column(table, "OF PEAK", TABLE_RIGHT);
    json_array_foreach (json_object_get(kernels, "rows"), i, row)
        kernel_row(table, row, step_us);
    table_write(table, stdout, &cli->out, 0);
    table_free(table);
    printf("\n%.0f us a step, %.0f images/s before data and the rest of the optimizer. FLOPs count convolutions as they are\n"
           "defined: a Winograd kernel does fewer, and can be past 100%% of the peak.\n",
           step_us, step_us > 0 ? 1e6 * batch / step_us : 0);
    free(used);
}

int model_kernels(struct cli *cli)
{
    json_t *answer = NULL, *whole;
    int code = check_describe(cli, "kernels", &answer);

    if (code)
        return code;
    if (cli_json(cli)) {
        whole = cli_json_answer();
        json_object_set(whole, "hyperparameters", json_object_get(answer, "hyperparameters"));
        json_object_update(whole, json_object_get(answer, "kernels"));
        code = cli_print_json(cli, whole);
    } else {
        show(cli, json_object_get(answer, "kernels"), json_object_get(answer, "hyperparameters"));
    }
    json_decref(answer);
    return code;
}
