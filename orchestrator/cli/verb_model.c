/* verb_model.c - model: the network of an experiment file, as a table and as a drawing.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/check.h"
#include "orchestrator/cli/format.h"
#include "orchestrator/cli/svg.h"
#include "orchestrator/cli/table.h"

#include "common/file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static char *shape_text(const json_t *shape)
{
    if (json_array_size(shape) == 1)
        return format_text("%lld", (long long)json_integer_value(json_array_get(shape, 0)));
    return format_text("%lldx%lldx%lld", (long long)json_integer_value(json_array_get(shape, 0)),
                       (long long)json_integer_value(json_array_get(shape, 1)),
                       (long long)json_integer_value(json_array_get(shape, 2)));
}

/* "3x3, stride 2, padding 1": what is not as usual. */
static char *settings_text(const json_t *layer)
{
    const json_t *settings = json_object_get(layer, "settings"), *padding = json_object_get(settings, "padding");
    bool pool = json_object_get(settings, "size") != NULL;
    int64_t kernel = json_int_or(settings, pool ? "size" : "kernel", 0), stride = json_int_or(settings, "stride", 1);
    long long before = json_integer_value(json_array_get(padding, 0)), after = json_integer_value(json_array_get(padding, 2));
    char text[160] = "";
    size_t used = 0;

    if (kernel)
        used = (size_t)snprintf(text, sizeof text, "%lldx%lld", (long long)kernel, (long long)kernel);
    if (kernel && stride != (pool ? kernel : 1))
        used += (size_t)snprintf(text + used, sizeof text - used, ", stride %lld", (long long)stride);
    if (before != after)
        used += (size_t)snprintf(text + used, sizeof text - used, ", padding %lld before, %lld behind", before, after);
    else if (before)
        used += (size_t)snprintf(text + used, sizeof text - used, ", padding %lld", before);
    if (json_object_get(settings, "groups"))
        used += (size_t)snprintf(text + used, sizeof text - used, "%sgroups %lld", used ? ", " : "",
                                 (long long)json_int_or(settings, "groups", 1));
    if (json_object_get(settings, "rate"))
        snprintf(text + used, sizeof text - used, "%sp %g", used ? ", " : "", json_double_or(settings, "rate", 0));
    if (json_object_get(layer, "from"))
        snprintf(text + used, sizeof text - used, "with %lld", (long long)json_int_or(layer, "from", 0));
    return strdup(text);
}

static void count_text(char *ret, size_t room, double value)
{
    if (value >= 1e9)
        snprintf(ret, room, "%.2f G", value / 1e9);
    else if (value >= 1e6)
        snprintf(ret, room, "%.2f M", value / 1e6);
    else if (value >= 1e4)
        snprintf(ret, room, "%.1f k", value / 1e3);
    else
        snprintf(ret, room, "%.0f", value);
}

static void layer_table(struct cli *cli, const json_t *model)
{
    struct table *table = table_new();
    json_t *layer;
    size_t i;

    table_column(table, "LAYER", TABLE_RIGHT);
    table_column(table, "TYPE", TABLE_LEFT);
    table_column(table, "SETTINGS", TABLE_SHRINK | TABLE_OPTIONAL);
    table_column(table, "OUTPUT", TABLE_LEFT);
    table_column(table, "PARAMETERS", TABLE_RIGHT);
    table_column(table, "FLOPS", TABLE_RIGHT);
    json_array_foreach (json_object_get(model, "layers"), i, layer) {
        char *settings = settings_text(layer), *shape = shape_text(json_object_get(layer, "out")), flops[32];
        count_text(flops, sizeof flops, json_double_or(layer, "flops", 0));
        table_cell(table, STYLE_DIM, "%zu", i);
        table_cell(table, STYLE_BOLD, "%s", json_string_or(layer, "type", ""));
        table_cell(table, STYLE_NONE, "%s", settings ? settings : "");
        table_cell(table, STYLE_NONE, "%s", shape ? shape : "");
        table_cell(table, STYLE_NONE, "%.0f", json_double_or(layer, "parameters", 0));
        table_cell(table, STYLE_NONE, "%s", flops);
        free(settings);
        free(shape);
    }
    table_write(table, stdout, &cli->out, 0);
    table_free(table);
}

static void show(struct cli *cli, const json_t *model, const json_t *values)
{
    char *input = shape_text(json_object_get(model, "input")), *used = format_hyperparameters(values), flops[32];
    char *bytes = format_bytes(json_double_or(model, "weight_bytes", 0));

    if (json_object_size(values))
        printf("With %s\n", used);
    printf("Images %s, %lld classes\n\n", input ? input : "", (long long)json_int_or(model, "classes", 0));
    layer_table(cli, model);
    count_text(flops, sizeof flops, json_double_or(model, "flops_forward", 0));
    printf("\n%.0f parameters, %s as 32-bit floats; %s FLOPs forward an image (a multiplication and an addition are two)\n",
           json_double_or(model, "parameters", 0), bytes ? bytes : "", flops);
    free(input);
    free(used);
    free(bytes);
}

/* --- the drawing ------------------------------------------------------------------------------------------------- */

#define CENTER 300.0
#define BOX 36.0
#define STEP 58.0
#define WIDEST 380.0
#define LETTER 7.0 /* about what one is wide */

static const struct {
    const char *type, *fill;
} COLOURS[] = {
    {"conv2d", "#9ecae1"},     {"dense", "#fdae6b"},      {"max_pool2d", "#c7e9c0"}, {"avg_pool2d", "#c7e9c0"},
    {"global_avg_pool2d", "#c7e9c0"}, {"batch_norm", "#dadaeb"}, {"group_norm", "#dadaeb"}, {"dropout", "#eeeeee"},
    {"relu", "#eeeeee"},       {"flatten", "#eeeeee"},    {"add", "#fcbba1"},
};

static double values_of(const json_t *shape)
{
    double n = 1;

    for (size_t i = 0; i < json_array_size(shape); i++)
        n *= json_number_value(json_array_get(shape, i));
    return n;
}

/* "conv2d 3x3, padding 1"; the caller frees. */
static char *label_of(const json_t *layer)
{
    char *settings = settings_text(layer);
    char *text = format_text("%s%s%s", json_string_or(layer, "type", ""), settings && *settings ? " " : "",
                             settings ? settings : "");

    free(settings);
    return text;
}

/* Of the box of a layer, or of the image (-1): it grows with the logarithm of how many values flow out, and there is room
 * for its text. */
static double width_of(const json_t *model, int number, double most)
{
    const json_t *layer = number < 0 ? NULL : json_array_get(json_object_get(model, "layers"), (size_t)number);
    const json_t *shape = layer ? json_object_get(layer, "out") : json_object_get(model, "input");
    double share = most > 1 ? log(fmax(values_of(shape), 2)) / log(most) : 1;
    char *label = layer ? label_of(layer) : NULL;
    double text = label ? LETTER * (double)strlen(label) + 24 : 0;

    free(label);
    return fmax(WIDEST * fmin(fmax(share, 0.3), 1), fmin(text, WIDEST));
}

static void draw_box(FILE *out, double y, double width, const char *fill, const char *text, const char *beside)
{
    char style[80];

    snprintf(style, sizeof style, "rx=\"5\" fill=\"%s\" stroke=\"#555555\"", fill);
    svg_rect(out, CENTER - width / 2, y, width, BOX, style);
    svg_text(out, CENTER, y + BOX / 2 + 4, "class=\"middle\"", text);
    svg_text(out, CENTER + WIDEST / 2 + 24, y + BOX / 2 + 4, "class=\"small\"", beside);
}

/* From layer `from` to `to`, past those between, on the left. */
static void draw_skip(FILE *out, const json_t *model, double most, double top, int from, int to)
{
    double x = CENTER - WIDEST / 2 - 20 - 14 * (to - from), y1 = top + STEP * (from + 1) + BOX / 2,
           y2 = top + STEP * (to + 1) + BOX / 2;

    fprintf(out, "<path d=\"M%.1f,%.1fC%.1f,%.1f %.1f,%.1f %.1f,%.1f\" stroke=\"#d55e00\" stroke-width=\"1.5\"/>\n",
            CENTER - width_of(model, from, most) / 2, y1, x, y1, x, y2, CENTER - width_of(model, to, most) / 2, y2);
}

static char *draw(const json_t *model, const char *title, size_t *ret_length)
{
    const json_t *layers = json_object_get(model, "layers");
    size_t n = json_array_size(layers), i;
    double top = 84, most = values_of(json_object_get(model, "input")), height = top + STEP * (double)(n + 1) + 40;
    char *text = NULL, *shape, *line, *beside, flops[32];
    FILE *out = open_memstream(&text, ret_length);
    json_t *layer;

    if (!out)
        return NULL;
    json_array_foreach ((json_t *)layers, i, layer)
        most = fmax(most, values_of(json_object_get(layer, "out")));
    svg_begin(out, 760, height, title);
    svg_text(out, 40, 34, "class=\"title\"", title);
    count_text(flops, sizeof flops, json_double_or(model, "flops_forward", 0));
    line = format_text("%.0f parameters, %s FLOPs forward an image", json_double_or(model, "parameters", 0), flops);
    svg_text(out, 40, 54, "class=\"small\"", line ? line : "");
    free(line);
    json_array_foreach ((json_t *)layers, i, layer) {
        int sources[] = {(int)json_int_or(layer, "input", (json_int_t)i - 1), (int)json_int_or(layer, "from", (json_int_t)i - 1)};
        for (int s = 0; s < (json_object_get(layer, "from") ? 2 : 1); s++)
            if (sources[s] == (int)i - 1)
                svg_line(out, CENTER, top + STEP * (double)i + BOX, CENTER, top + STEP * (double)(i + 1), "stroke=\"#555555\"");
            else
                draw_skip(out, model, most, top, sources[s], (int)i);
    }
    shape = shape_text(json_object_get(model, "input"));
    draw_box(out, top, width_of(model, -1, most), "#ffffff", "image", shape ? shape : "");
    free(shape);
    json_array_foreach ((json_t *)layers, i, layer) {
        const char *type = json_string_or(layer, "type", ""), *fill = "#ffffff";
        double parameters = json_double_or(layer, "parameters", 0);
        for (size_t c = 0; c < sizeof COLOURS / sizeof *COLOURS; c++)
            if (!strcmp(COLOURS[c].type, type))
                fill = COLOURS[c].fill;
        line = label_of(layer);
        shape = shape_text(json_object_get(layer, "out"));
        beside = parameters > 0 ? format_text("%s, %.0f parameters", shape ? shape : "", parameters) : strdup(shape ? shape : "");
        draw_box(out, top + STEP * (double)(i + 1), width_of(model, (int)i, most), fill, line ? line : "",
                 beside ? beside : "");
        free(beside);
        free(shape);
        free(line);
    }
    svg_end(out);
    fclose(out);
    return text;
}

static int write_drawing(struct cli *cli, const json_t *model)
{
    const char *path = cli->options.value[OPT_SVG], *file = cli->options.arguments[0];
    const char *slash = strrchr(file, '/');
    struct error err = {0};
    size_t length = 0;
    char *text = draw(model, slash ? slash + 1 : file, &length);
    int code = text ? 0 : fail(&err, -ENOMEM, "out of memory");

    if (text && !strcmp(path, "-"))
        fwrite(text, 1, length, stdout);
    else if (text)
        code = file_write(path, text, length, &err);
    free(text);
    return code ? cli_fail(CLI_USAGE, "%s", err.text) : CLI_OK;
}

int verb_model(struct cli *cli)
{
    bool on_stdout = cli->options.given[OPT_SVG] && !strcmp(cli->options.value[OPT_SVG], "-");
    json_t *answer = NULL, *whole;
    int code;

    if (cli->options.given[OPT_KERNELS] && cli->options.given[OPT_SVG])
        return cli_fail(CLI_USAGE, "--kernels is a table, --svg a drawing of the network: give one of them");
    if (cli->options.given[OPT_KERNELS])
        return model_kernels(cli);

    if (on_stdout && cli_json(cli))
        return cli_fail(CLI_USAGE, "--json and --svg - are both for standard output: choose one");
    code = check_describe(cli, "model", &answer);
    if (code)
        return code;
    if (cli->options.given[OPT_SVG])
        code = write_drawing(cli, json_object_get(answer, "model"));
    if (code == CLI_OK && cli_json(cli)) {
        whole = cli_json_answer();
        json_object_set(whole, "hyperparameters", json_object_get(answer, "hyperparameters"));
        json_object_update(whole, json_object_get(answer, "model"));
        code = cli_print_json(cli, whole);
    } else if (code == CLI_OK && !on_stdout) {
        show(cli, json_object_get(answer, "model"), json_object_get(answer, "hyperparameters"));
    }
    json_decref(answer);
    return code;
}
