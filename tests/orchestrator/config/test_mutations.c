/* test_mutations.c - all our experiment files, damaged at random in 10,000 fixed ways: nothing crashes, hangs or leaks,
 * each is either accepted and reads back equal, or refused with at least one error that has words and a place. A
 * failure names seed, number, file and kinds of damage; FLEXP_SEED=N damages otherwise, FLEXP_MUTATION=N does that one
 * alone and prints the damaged file. SPDX-License-Identifier: Apache-2.0 */
#include "common/rng.h"
#include "tests/orchestrator/config/config_test.h"

#include <glob.h>
#include <signal.h>
#include <unistd.h>

#define MUTATIONS 10000
#define SEED 2026
#define ROOM ((size_t)1 << 18)
#define DAMAGES_MAX 3
#define DEADLINE_S 20

struct text {
    char bytes[ROOM];
    size_t n;
};

/* Written by a signal's handler: what was under way when it crashed or hung. */
static char under_way[1000];

static void say_what_was_under_way(int number)
{
    if (write(STDOUT_FILENO, under_way, strlen(under_way)) < 0)
        _exit(1);
    signal(number, SIG_DFL);
    raise(number);
}

/* -- damages -- */

/* Replaces `lose` bytes; nothing where there is no room. */
static void splice(struct text *text, size_t at, size_t lose, const char *by, size_t n)
{
    if (text->n - lose + n > ROOM)
        return;
    memmove(text->bytes + at + n, text->bytes + at + lose, text->n - at - lose);
    memcpy(text->bytes + at, by, n);
    text->n += n - lose;
}

struct span {
    size_t start, end;
};

/* A line drawn at random, its newline included. */
static struct span pick_line(const struct text *text, struct pcg32 *rng)
{
    size_t start = rng_below(rng, (uint32_t)text->n), end = start;

    while (start && text->bytes[start - 1] != '\n')
        start--;
    while (end < text->n && text->bytes[end++] != '\n')
        ;
    return (struct span){start, end};
}

/* What stands behind a ": " in a line drawn at random, up to the line's end; false where there is none. */
static bool pick_value(const struct text *text, struct pcg32 *rng, struct span *ret)
{
    for (int tries = 0; tries < 8; tries++) {
        struct span line = pick_line(text, rng);
        const char *colon = memmem(text->bytes + line.start, line.end - line.start, ": ", 2);
        if (!colon)
            continue;
        ret->start = (size_t)(colon - text->bytes) + 2;
        ret->end = line.end > ret->start && text->bytes[line.end - 1] == '\n' ? line.end - 1 : line.end;
        return true;
    }
    return false;
}

static const char *pick(const char *const *list, size_t n, struct pcg32 *rng)
{
    return list[rng_below(rng, (uint32_t)n)];
}
#define PICK(list, rng) pick(list, sizeof(list) / sizeof *(list), rng)

static void insert_anywhere(struct text *text, struct pcg32 *rng, const char *what, size_t n)
{
    splice(text, rng_below(rng, (uint32_t)text->n + 1), 0, what, n);
}

static void put_value(struct text *text, struct pcg32 *rng, const char *value)
{
    struct span span;

    if (pick_value(text, rng, &span))
        splice(text, span.start, span.end - span.start, value, strlen(value));
}

static void flip_a_bit(struct text *text, struct pcg32 *rng)
{
    size_t at = rng_below(rng, (uint32_t)text->n);

    text->bytes[at] = (char)(text->bytes[at] ^ (1 << rng_below(rng, 8)));
}

static void put_a_meaning_character(struct text *text, struct pcg32 *rng)
{
    static const char MEANING[] = "{}[]:,&*-#!|>'\"%@`$<?\t\n 0e.-~";

    text->bytes[rng_below(rng, (uint32_t)text->n)] = MEANING[rng_below(rng, sizeof MEANING - 1)];
}

static void lose_a_line(struct text *text, struct pcg32 *rng)
{
    struct span line = pick_line(text, rng);

    splice(text, line.start, line.end - line.start, "", 0);
}

static void have_a_line_twice(struct text *text, struct pcg32 *rng)
{
    static char copy[ROOM];
    struct span line = pick_line(text, rng), at = pick_line(text, rng);
    size_t n = line.end - line.start;

    memcpy(copy, text->bytes + line.start, n);
    splice(text, rng_below(rng, 2) ? at.end : line.end, 0, copy, n);
}

static void exchange_two_lines(struct text *text, struct pcg32 *rng)
{
    static char copy[ROOM];
    struct span a = pick_line(text, rng), b = pick_line(text, rng);
    struct span first = a.start < b.start ? a : b, second = a.start < b.start ? b : a;
    size_t n = second.end - second.start, m = first.end - first.start;

    if (first.start == second.start)
        return;
    memcpy(copy, text->bytes + second.start, n);
    memcpy(copy + n, text->bytes + first.start, m);
    splice(text, second.start, n, copy + n, m);
    splice(text, first.start, m, copy, n);
}

static void indent_otherwise(struct text *text, struct pcg32 *rng)
{
    static const char *const INDENTS[] = {" ", "  ", "        ", "\t", " \t", "- ", "? "};
    struct span line = pick_line(text, rng);
    const char *indent = PICK(INDENTS, rng);

    if (!rng_below(rng, 3) && text->bytes[line.start] == ' ')
        splice(text, line.start, 1, "", 0);
    else
        splice(text, line.start, 0, indent, strlen(indent));
}

static void lose_the_end(struct text *text, struct pcg32 *rng)
{
    text->n = rng_below(rng, (uint32_t)text->n) + 1;
}

static void change_a_type(struct text *text, struct pcg32 *rng)
{
    static const char *const VALUES[] = {"[]",
                                         "{}",
                                         "null",
                                         "~",
                                         "",
                                         "true",
                                         "no",
                                         "x",
                                         "''",
                                         "\"\"",
                                         "1",
                                         "-1",
                                         "0",
                                         "1.5",
                                         "[1, 2]",
                                         "[[]]",
                                         "{a: 1}",
                                         "{rounds: 1}",
                                         "$lr",
                                         "$nothing",
                                         "$$",
                                         "$",
                                         "classes",
                                         "2001-01-01",
                                         "1_000",
                                         "0x10",
                                         "0o7",
                                         "1:30",
                                         "!!str 1",
                                         "!!int x",
                                         "!!binary eA==",
                                         "!!python/object:a {}",
                                         "| ",
                                         ">-",
                                         "'",
                                         "\"\\e[31m\"",
                                         "\"\\ud800\"",
                                         "\"\\0\"",
                                         "[random, grid]",
                                         "{type: int}",
                                         "..",
                                         "/dev/zero",
                                         "~root/x",
                                         "{type: double, minval: 1, maxval: 0}",
                                         "{type: categorical, vals: []}",
                                         "{type: const, val: {}}"};

    put_value(text, rng, PICK(VALUES, rng));
}

static void put_a_huge_number(struct text *text, struct pcg32 *rng)
{
    static const char *const NUMBERS[] = {"9223372036854775807",
                                          "9223372036854775808",
                                          "-9223372036854775808",
                                          "-9223372036854775809",
                                          "18446744073709551616",
                                          "2147483647",
                                          "2147483648",
                                          "4294967296",
                                          "1e308",
                                          "1e309",
                                          "-1e309",
                                          "1e-308",
                                          "5e-324",
                                          "1e-400",
                                          ".inf",
                                          "-.inf",
                                          ".nan",
                                          "1e18",
                                          "-0",
                                          "-0.0",
                                          "0x7fffffffffffffff",
                                          "0xffffffffffffffffff",
                                          "99999999999999999999999999999999999999999999999999",
                                          "0.1e99999999999",
                                          "1048577",
                                          "{rounds: 9223372036854775807}",
                                          "{rounds: 1e300}",
                                          "[9223372036854775807, 9223372036854775807]"};

    put_value(text, rng, PICK(NUMBERS, rng));
}

/* Up to some thousands of levels. */
static void nest_deeply(struct text *text, struct pcg32 *rng)
{
    static const char *const OPENINGS[] = {"[", "{a: ", "- ", "? ", "[{a: ", "!!seq [", "&a ["};
    const char *opening = PICK(OPENINGS, rng);
    uint32_t levels = 1u << rng_below(rng, 13);
    struct span span;

    if (!pick_value(text, rng, &span))
        return;
    if (rng_below(rng, 2) && *opening == '[' && !opening[1]) /* well-formed */
        for (uint32_t i = 0; i < levels; i++)
            splice(text, span.start, 0, "]", 1);
    for (uint32_t i = 0; i < levels; i++)
        splice(text, span.start, 0, opening, strlen(opening));
}

static void put_aliases(struct text *text, struct pcg32 *rng)
{
    static const char *const ALIASES[] = {
        "*a", "[*a, *a, *a]", "&a [*a]",  "{<<: *a}",    "{<<: [*a, *a]}", "*",
        "&",  "&a &b 1",      "{*a : 1}", "&a {<<: *a}", "*nothing",       "&a {x: *a}"};
    struct span span;

    if (pick_value(text, rng, &span) && rng_below(rng, 4))
        splice(text, span.start, 0, "&a ", 3);
    for (uint32_t times = 1 + rng_below(rng, 3); times; times--)
        put_value(text, rng, PICK(ALIASES, rng));
}

/* Every level has the one before ten times: little text, a great tree. */
static void laugh(struct text *text, struct pcg32 *rng)
{
    char line[100];
    uint32_t levels = 2 + rng_below(rng, rng_below(rng, 4) ? 4 : 20); /* where it is refused it has cost 20 ms */
    bool by_merge = rng_below(rng, 2);
    size_t at = 0;

    for (uint32_t i = 0; i < levels; i++) {
        int n = !i         ? snprintf(line, sizeof line, "l0: &l0 %s\n", by_merge ? "{a: 1}" : "[x, x]")
                : by_merge ? snprintf(line, sizeof line, "l%u: &l%u {<<: *l%u, a%u: *l%u, b: *l%u}\n", i, i, i - 1, i,
                                      i - 1, i - 1)
                           : snprintf(line, sizeof line, "l%u: &l%u [*l%u, *l%u, *l%u, *l%u]\n", i, i, i - 1, i - 1,
                                      i - 1, i - 1);
        splice(text, at, 0, line, (size_t)n);
        at += (size_t)n;
    }
}

static void put_a_tab(struct text *text, struct pcg32 *rng)
{
    for (size_t i = 0, wanted = rng_below(rng, (uint32_t)text->n); i < text->n; i++)
        if (text->bytes[i] == ' ' && i >= wanted) {
            text->bytes[i] = '\t';
            return;
        }
}

static void put_a_mark(struct text *text, struct pcg32 *rng)
{
    static const char *const MARKS[] = {"\xef\xbb\xbf", "\xff\xfe", "\xfe\xff",         "\xff\xfe\x00\x00",
                                        "---\n",        "...\n",    "%YAML 9.9\n---\n", "%TAG ! x\n"};
    const char *mark = PICK(MARKS, rng);

    if (rng_below(rng, 2))
        splice(text, 0, 0, mark, strlen(mark));
    else
        splice(text, pick_line(text, rng).start, 0, mark, strlen(mark));
}

static void put_a_zero_byte(struct text *text, struct pcg32 *rng)
{
    insert_anywhere(text, rng, "", 1);
}

static void put_strange_characters(struct text *text, struct pcg32 *rng)
{
    static const char *const STRANGE[] = {"\xff",
                                          "\xc3",
                                          "\xc3\x28",
                                          "\xc0\x80",
                                          "\xe2\x82",
                                          "\xed\xa0\x80",
                                          "\xf4\x90\x80\x80",
                                          "\xf8\x88\x80\x80\x80",
                                          "\x80",
                                          "\x1b[31m",
                                          "\x7f",
                                          "\xc2\x85",
                                          "\xe2\x80\xa8",
                                          "\xe2\x80\xae",
                                          "\xef\xbf\xbe",
                                          "\xf0\x9f\x99\x82",
                                          "\xc2\xa0",
                                          "\x07",
                                          "\x0c",
                                          "\xe2\x81\xa6"};
    const char *strange = PICK(STRANGE, rng);

    insert_anywhere(text, rng, strange, strlen(strange));
}

static void lengthen_a_line(struct text *text, struct pcg32 *rng)
{
    static const char *const PIECES[] = {"x", " ", "9", "a, ", "\\n", "#", "a.", "[], ", "\xc3\xa9", "$"};
    const char *piece = PICK(PIECES, rng);
    size_t n = strlen(piece), at = rng_below(rng, (uint32_t)text->n + 1), times = (size_t)1 << rng_below(rng, 16);
    static char many[ROOM];

    if (times * n > sizeof many)
        return;
    for (size_t i = 0; i < times; i++)
        memcpy(many + i * n, piece, n);
    splice(text, at, 0, many, times * n);
}

/* All line ends, or every second. */
static void end_lines_otherwise(struct text *text, struct pcg32 *rng)
{
    static const char *const ENDS[] = {"\r\n", "\r", "\n\n", "\xe2\x80\xa8", " \n", "\n\r"};
    const char *end = PICK(ENDS, rng);
    size_t n = strlen(end);
    bool all = rng_below(rng, 2);

    for (size_t i = 0, line = 0; i < text->n; i++)
        if (text->bytes[i] == '\n' && (all || line++ % 2)) {
            splice(text, i, 1, end, n);
            i += n - 1;
        }
}

static void misspell(struct text *text, struct pcg32 *rng)
{
    struct span line = pick_line(text, rng);
    size_t at = line.start + rng_below(rng, (uint32_t)(line.end - line.start));

    if (at + 1 < line.end) {
        char kept = text->bytes[at];
        text->bytes[at] = text->bytes[at + 1];
        text->bytes[at + 1] = kept;
    }
}

static void lose_a_stretch(struct text *text, struct pcg32 *rng)
{
    size_t at = rng_below(rng, (uint32_t)text->n), most = text->n - at;

    splice(text, at, 1 + rng_below(rng, (uint32_t)(most < 80 ? most : 80)), "", 0);
}

#define DAMAGE(name)                                                                                                   \
    {                                                                                                                  \
#name, name                                                                                                    \
    }
static const struct {
    const char *name;
    void (*act)(struct text *text, struct pcg32 *rng);
} DAMAGES[] = {
    DAMAGE(flip_a_bit),         DAMAGE(put_a_meaning_character),
    DAMAGE(lose_a_line),        DAMAGE(have_a_line_twice),
    DAMAGE(exchange_two_lines), DAMAGE(indent_otherwise),
    DAMAGE(lose_the_end),       DAMAGE(change_a_type),
    DAMAGE(put_a_huge_number),  DAMAGE(nest_deeply),
    DAMAGE(put_aliases),        DAMAGE(laugh),
    DAMAGE(put_a_tab),          DAMAGE(put_a_mark),
    DAMAGE(put_a_zero_byte),    DAMAGE(put_strange_characters),
    DAMAGE(lengthen_a_line),    DAMAGE(end_lines_otherwise),
    DAMAGE(misspell),           DAMAGE(lose_a_stretch),
};
#define DAMAGES_N (sizeof DAMAGES / sizeof *DAMAGES)

/* -- what must be so -- */

#define must(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            fail_msg("%s: not so: %s", under_way, #condition);                                                         \
    } while (0)

static void check(const char *text, size_t length, size_t *accepted)
{
    struct experiment_config *config = NULL, *again = NULL;
    struct config_problems problems;
    struct error err = {0};
    json_t *as_json;
    char *shown;

    if (config_read(text, length, NULL, 0, DATA_ROOT, &config, &problems)) {
        must(!config);
        must(problems.errors > 0 && problems.n > 0);
        for (size_t i = 0; i < problems.n; i++)
            must(problems.list[i].line > 0 && problems.list[i].column > 0 && *problems.list[i].text);
        for (size_t i = 1; i < problems.n; i++)
            must(problems.list[i - 1].line <= problems.list[i].line);
    } else {
        must(!problems.errors);
        if (config_from_resolved(config->resolved, &again, &err))
            fail_msg("%s: accepted, but does not read back: %s", under_way, err.text);
        must(json_equal(config->resolved, again->resolved));
        ++*accepted;
    }
    shown = config_problems_text(&problems, "x.yaml");
    must(shown);
    as_json = json_string(shown); /* so that it can go into an answer */
    must(as_json);
    for (const char *at = shown; *at; at++)
        must((unsigned char)*at >= ' ' || *at == '\n');
    json_decref(as_json);
    free(shown);
    config_problems_done(&problems);
    config_free(config);
    config_free(again);
}

/* Damages text as this number says, and notes how. */
static void damage(struct text *text, uint64_t seed, uint64_t number, const char *file, size_t used[DAMAGES_N])
{
    struct pcg32 rng;
    size_t at = (size_t)snprintf(under_way, sizeof under_way,
                                 "FLEXP_SEED=%llu FLEXP_MUTATION=%llu (%s:", (unsigned long long)seed,
                                 (unsigned long long)number, file);

    pcg32_seed(&rng, seed, number);
    for (uint32_t times = 1 + rng_below(&rng, DAMAGES_MAX); times && text->n; times--) {
        size_t kind = rng_below(&rng, DAMAGES_N);
        at += (size_t)snprintf(under_way + at, sizeof under_way - at, " %s", DAMAGES[kind].name);
        DAMAGES[kind].act(text, &rng);
        used[kind]++;
    }
    snprintf(under_way + at, sizeof under_way - at, ")\n");
}

static uint64_t number_from(const char *variable, uint64_t absent)
{
    const char *text = getenv(variable);

    return text ? strtoull(text, NULL, 10) : absent;
}

static void damaged_files_are_refused_with_a_place_or_are_good(void **state)
{
    static struct text text;
    uint64_t seed = number_from("FLEXP_SEED", SEED), only = number_from("FLEXP_MUTATION", MUTATIONS);
    size_t accepted = 0, used[DAMAGES_N] = {0}, good;
    struct error err = {0};
    glob_t files;

    (void)state;
    assert_int_equal(glob("configs/*.yaml", 0, NULL, &files), 0);
    assert_int_equal(glob("tests/golden/config/good_*.yaml", GLOB_APPEND, NULL, &files), 0);
    good = files.gl_pathc; /* every second time one of these, which damage may leave good */
    assert_int_equal(glob("tests/golden/config/bad_*.yaml", GLOB_APPEND, NULL, &files), 0);
    assert_true(files.gl_pathc > 20);
    signal(SIGALRM, say_what_was_under_way);
    signal(SIGABRT, say_what_was_under_way);
    for (uint64_t n = only < MUTATIONS ? only : 0; n < (only < MUTATIONS ? only + 1 : MUTATIONS); n++) {
        const char *file = files.gl_pathv[n / 2 % (n % 2 ? files.gl_pathc : good)];
        char *original, *exact;
        if (file_read(file, &original, &text.n, &err))
            fail_msg("%s", err.text);
        assert_true(text.n < ROOM);
        memcpy(text.bytes, original, text.n);
        free(original);
        damage(&text, seed, n, file, used);
        if (only < MUTATIONS)
            printf("# %s%.*s\n", under_way, (int)text.n, text.bytes);
        exact = malloc(text.n ? text.n : 1); /* no byte more, for the sanitizer */
        assert_non_null(exact);
        memcpy(exact, text.bytes, text.n);
        alarm(DEADLINE_S);
        check(exact, text.n, &accepted);
        alarm(0);
        free(exact);
    }
    globfree(&files);
    if (only < MUTATIONS)
        return;
    printf("# %zu of %d were accepted\n", accepted, MUTATIONS);
    assert_true(accepted > MUTATIONS / 50 && accepted < MUTATIONS / 2); /* the damage is neither total nor none */
    for (size_t i = 0; i < DAMAGES_N; i++)
        assert_true(used[i] > MUTATIONS / 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(damaged_files_are_refused_with_a_place_or_are_good)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
