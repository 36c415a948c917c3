/* verbs.c - the table of verbs. `help`, `--help`, the parser and the checks on arguments all come from these rows.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/cli/cli_private.h"

#include "orchestrator/cli/cli.h"
#include "orchestrator/cli/client.h"
#include "orchestrator/cli/home.h"
#include "orchestrator/launcher/supervise.h"

#include <stdlib.h>
#include <string.h>

#define O(id) (1u << (id))

const struct verb VERBS[] = {
    {"create", "FILE", 1, 1, O(OPT_FOLLOW) | O(OPT_CONFIG) | O(OPT_PAUSED), "Check an experiment file and start it",
     "FILE may be - for standard input. Nothing is stored unless all of it is right and the trainer can train it.\n"
     "An orchestrator is started where none runs. Ctrl-C while following leaves the experiment running.",
     "flexp create -f configs/quickstart.yaml\n"
     "flexp create night.yaml --config searcher.max_trials=64 --data /data", verb_create, false},
    {"list", "", 0, 0, O(OPT_ALL), "List experiments: the newest 50 and all that go on; with --all every one", NULL,
     "flexp list --all", verb_list, false},
    {"describe", "[ID]", 0, 1, 0, "Show the best trial, its hyperparameters, the top 5, failures and timings",
     "ID is a number or a name that only one experiment has; without it the latest experiment is shown.",
     "flexp describe 1\nflexp describe 1 --json | jq .best_validation_metrics", verb_describe, false},
    {"trials", "[ID]", 0, 1, O(OPT_SORT_BY) | O(OPT_GROUP_BY) | O(OPT_CSV),
     "Table of an experiment's trials, best first",
     "Without ID: the latest experiment. KEY is trial, state, best, best_unit, latest, trained, restarts, runs, seconds,\n"
     "created, started, ended, the name of a hyperparameter or of the experiment's metric. Grouped by a hyperparameter of\n"
     "many values, the trials fall into five ranges with about as many each.",
     "flexp trials 1 --sort-by lr\nflexp trials 1 --group-by batch\nflexp trials 1 --csv >trials.csv", verb_trials, false},
    {"metrics", "EXP/N", 1, 1, O(OPT_CLIENT) | O(OPT_CSV) | O(OPT_NAME),
     "Show what a trial reported, a line for each unit", "With --client, a line for each unit and client.",
     "flexp metrics 1/3 --name validation_accuracy\nflexp metrics 1/3 --client --csv >clients.csv", verb_metrics, false},
    {"trial describe", "EXP/N", 1, 1, 0, "Show one trial: hyperparameters, runs, best validation, checkpoints", NULL,
     "flexp trial describe 1/3", verb_trial_describe, false},
    {"trial logs", "EXP/N", 1, 1, O(OPT_FOLLOW), "Print the log of one trial", NULL, "flexp trial logs 1/3",
     verb_trial_logs, false},
    {"trial test", "EXP/N", 1, 1, 0, "Evaluate a trial's best model on the test split, and record it",
     "The test split is read by itself once, for the best trial when the experiment ends. What was computed for a model is\n"
     "not computed again.",
     "flexp trial test 1/3", verb_trial_test, false},
    {"trial kill", "EXP/N", 1, 1, 0, "End one trial now; the search goes on without it", NULL, "flexp trial kill 1/3",
     verb_trial_kill, false},
    {"logs", "[ID]", 0, 1, O(OPT_FOLLOW), "Print the logs of an experiment's trials",
     "Without ID: the latest experiment. With -f lines are printed as they come until the experiment ends;\n"
     "on a terminal live progress stands below them. With -f and --json each line is one JSON document.",
     "flexp logs 1 -f", verb_logs, false},
    {"wait", "ID", 1, 1, O(OPT_TIMEOUT) | O(OPT_FOLLOW),
     "Wait until an experiment ends; exit code 1 unless it completed",
     "With -f live progress is shown meanwhile.", "flexp wait 1 --timeout 3600 && flexp describe 1\nflexp wait 1 -f",
     verb_wait, false},
    {"pause", "ID", 1, 1, 0, "Checkpoint an experiment's trials at the round's end and give its slots back", NULL,
     "flexp pause 1", verb_change, false},
    {"activate", "ID", 1, 1, 0, "Let a paused experiment go on", NULL, "flexp activate 1", verb_change, false},
    {"cancel", "ID", 1, 1, 0, "End an experiment at its trials' next round; what is stored stays", NULL,
     "flexp cancel 1", verb_change, false},
    {"kill", "ID", 1, 1, 0, "End an experiment at once; what is stored stays", NULL, "flexp kill 1", verb_change,
     false},
    {"set priority", "ID N", 2, 2, 0, "Change an experiment's priority: lower first, 42 where the file says nothing",
     "What runs for an experiment of a higher number makes room, at the end of its round.", "flexp set priority 3 10",
     verb_set, false},
    {"set weight", "ID W", 2, 2, 0, "Change an experiment's share of the slots among those of its priority", NULL,
     "flexp set weight 3 2", verb_set, false},
    {"set max-slots", "ID N", 2, 2, 0, "Change how many slots an experiment may have at once", NULL,
     "flexp set max-slots 3 4", verb_set, false},
    {"set description", "ID TEXT", 2, 2, 0, "Change an experiment's description", NULL,
     "flexp set description 3 \"wider nets, second try\"", verb_set, false},
    {"archive", "ID...", 1, 64, 0, "Leave ended experiments out of `flexp list`; nothing is deleted",
     "All of them, or none where one cannot be.",
     "flexp archive 1 2\nflexp list --all", verb_archive, false},
    {"unarchive", "ID...", 1, 64, 0, "Take archived experiments into `flexp list` again", NULL, "flexp unarchive 1",
     verb_archive, false},
    {"delete", "ID", 1, 1, O(OPT_YES), "Delete an ended experiment with its numbers, models and checkpoints",
     "It asks first; without a terminal it wants --yes. The number is never given out again.", "flexp delete 3\n"
     "flexp delete 3 --yes", verb_delete, false},
    {"validate", "FILE", 1, 1, O(OPT_CONFIG), "Check an experiment file, all problems at once, without creating",
     "Needs no orchestrator. FILE may be - for standard input.", "flexp validate configs/quickstart.yaml",
     verb_validate, false},
    {"preview", "FILE", 1, 1, O(OPT_CONFIG), "Show how many trials of which length a search would train",
     "Needs no orchestrator. FILE may be - for standard input.", "flexp preview configs/quickstart.yaml",
     verb_preview, false},
    {"data fetch", "NAME", 1, 1, 0, "Download a data set from where it is published: cifar10, mnist or fashion_mnist",
     "Into --data or FLEXP_DATA, else the working directory, in a folder of its own. What was interrupted is resumed; checksums\n"
     "are verified before a file appears.",
     "flexp data fetch cifar10 --data ~/data", verb_data_fetch, false},
    {"data info", "FILE", 1, 1, O(OPT_CONFIG), "Show the data of an experiment file: classes, splits, what each client holds",
     "Decodes the data where that was not done before.", "flexp data info configs/quickstart.yaml", verb_data_info, false},
    {"model", "FILE", 1, 1, O(OPT_CONFIG) | O(OPT_SVG) | O(OPT_KERNELS), "Show the network of an experiment file: layers, shapes, parameters, FLOPs",
     "Where hyperparameters decide, each number is at its lower end and each choice the first; --config sets others.",
     "flexp model configs/quickstart.yaml --svg network.svg\nflexp model night.yaml --config hyperparameters.units=64",
     verb_model, false},
    {"plot", "[ID]", 0, 1, O(OPT_OUTPUT), "Draw an experiment: learning curves, best against time, parallel coordinates",
     "Without ID: the latest experiment. The picture is SVG; browsers show it, and which line is which trial.",
     "flexp plot 1\nflexp plot 1 -o night.svg", verb_plot, false},
    {"explain", "[KEY]", 0, 1, 0, "Explain a key of the experiment file: meaning, type, default, range, example",
     "Without KEY: all sections. docs/config.md is made from the same tables.",
     "flexp explain searcher.max_trials\nflexp explain federation", verb_explain, false},
    {"slots", "", 0, 0, 0, "Show the slots of the running orchestrator and what runs on them", NULL, "flexp slots",
     verb_slots, false},
    {"top", "[ID]", 0, 1, 0, "Live screen of experiments, slots, trials and their curves; q ends it",
     "Without a terminal one picture is printed. With ID: that experiment alone.", "flexp top", verb_top, false},
    {"up", "", 0, 0, O(OPT_SLOTS) | O(OPT_FOREGROUND) | O(OPT_READY_FD),
     "Start the orchestrator; experiments that were active go on",
     "Verbs that change something do this by themselves. Its log is HOME/orchestrator.log.", "flexp up --slots 4",
     verb_up, false},
    {"down", "", 0, 0, 0, "Stop the orchestrator; trials checkpoint and go on at the next `flexp up`", NULL,
     "flexp down", verb_down, false},
    {"status", "", 0, 0, 0, "Show the orchestrator: pid, home, slots, workers (exit code 3 when none runs)", NULL,
     "flexp status --json", verb_status, false},
    {"version", "", 0, 0, 0, "Print the version", NULL, "flexp version", verb_version, false},
    {"completion", "bash", 1, 1, 0, "Print a completion script for the shell",
     "make install puts it where bash looks for it.",
     "flexp completion bash >~/.local/share/bash-completion/completions/flexp", verb_completion, false},
    {"help", "[VERB]", 0, 2, 0, "This list, or help on one verb", NULL, "flexp help create", verb_help, false},
    {0},
};

const struct verb *verb_find(const char *const *words, size_t n, size_t *ret_words)
{
    for (const struct verb *verb = VERBS; verb->name; verb++) {
        const char *space = strchr(verb->name, ' ');
        size_t first = space ? (size_t)(space - verb->name) : strlen(verb->name);
        if (n < 1 || strlen(words[0]) != first || strncmp(verb->name, words[0], first) != 0)
            continue;
        if (space && (n < 2 || strcmp(space + 1, words[1]) != 0))
            continue;
        *ret_words = space ? 2 : 1;
        return verb;
    }
    return NULL;
}

static int run(struct cli *cli)
{
    struct error err = {0};
    int code;

    if (cli->options.given[OPT_VERSION])
        return verb_version(cli);
    if (cli->options.given[OPT_HELP]) {
        if (cli->verb)
            help_verb(stdout, &cli->out, cli->verb);
        else
            return verb_help(cli);
        return CLI_OK;
    }
    if (!cli->verb) {
        help_overview(stderr, &cli->err);
        return CLI_USAGE;
    }
    code = home_find(cli->options.value[OPT_HOME], &cli->home, &err);
    if (code)
        return cli_fail_error(&err);
    return cli->verb->run(cli);
}

int cli_main(int argc, char **argv)
{
    struct cli cli = {0};
    struct error err = {0};
    bool utf8;
    int code;

    if (argc > 1 && !strcmp(argv[1], "supervise")) /* hidden: its arguments are a worker's, not ours */
        return supervise_main(argc, argv);
    utf8 = term_locale();
    if (options_parse(argc, argv, &cli.verb, &cli.options, &err)) {
        options_done(&cli.options);
        return cli_fail(CLI_USAGE, "%s", err.text);
    }
    term_init(&cli.out, 1, utf8, cli.options.given[OPT_NO_COLOR]);
    term_init(&cli.err, 2, utf8, cli.options.given[OPT_NO_COLOR]);
    code = run(&cli);
    if ((fflush(stdout) || ferror(stdout)) && code == CLI_OK)
        code = cli_fail(CLI_LOST, "cannot write to standard output: %s", strerror(errno));
    options_done(&cli.options);
    client_close(cli.client);
    free(cli.home);
    return code;
}
