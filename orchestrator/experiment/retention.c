/* retention.c - which checkpoints are kept: Determined AI's save_experiment_best, save_trial_best, save_trial_latest.
 * They are counted when the experiment ends. Until then a trial keeps its latest, from which it resumes, and its best; more
 * of either where the settings will want more at the end. A checkpoint without a finite value is never among the best.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/experiment/experiment_private.h"

#include <math.h>
#include <stdlib.h>

struct ranked {
    struct retained *at;
    double badness; /* smaller is better whatever the metric's direction */
    size_t place;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;

    if (x->badness != y->badness)
        return x->badness < y->badness ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

/* Keeps the best `count` of list; ties go to the lower trial, then to the older. */
static void keep_best(struct retained *list, size_t n, bool smaller_is_better, int64_t count)
{
    struct ranked *ranks = must(calloc(n ? n : 1, sizeof *ranks));
    size_t found = 0;

    for (size_t i = 0; i < n; i++)
        if (list[i].has_value && isfinite(list[i].value))
            ranks[found++] = (struct ranked){&list[i], smaller_is_better ? list[i].value : -list[i].value, i};
    qsort(ranks, found, sizeof *ranks, compare_ranked);
    for (size_t i = 0; i < found && (int64_t)i < count; i++)
        ranks[i].at->keep = true;
    free(ranks);
}

void retention_mark(struct retained *list, size_t n, bool smaller_is_better, int64_t experiment_best,
                    int64_t trial_best, int64_t trial_latest, int64_t winner)
{
    for (size_t i = 0; i < n; i++)
        list[i].keep = winner && list[i].id == winner;
    keep_best(list, n, smaller_is_better, experiment_best);
    for (size_t first = 0, end; first < n; first = end) {
        for (end = first; end < n && list[end].trial == list[first].trial; end++)
            ;
        keep_best(list + first, end - first, smaller_is_better, trial_best);
        for (size_t i = first; i < end; i++)
            if ((int64_t)(end - i) <= trial_latest)
                list[i].keep = true;
    }
}

static size_t fill(const struct trial *trial, struct retained *list)
{
    for (size_t i = 0; i < trial->checkpoints_n; i++) {
        const struct checkpoint *checkpoint = &trial->checkpoints[i];
        list[i] = (struct retained){.id = checkpoint->id, .trial = trial->number, .has_value = checkpoint->has_value,
                                    .value = checkpoint->value};
    }
    return trial->checkpoints_n;
}

/* list is the trial's checkpoints, marked. */
static void drop(struct experiment *experiment, struct trial *trial, const struct retained *list, struct turn *turn)
{
    for (size_t i = trial->checkpoints_n; i-- > 0;)
        if (!list[i].keep) {
            store_put_checkpoint_deleted(turn->writes, list[i].id, turn->now_us);
            if (trial->run)
                run_spend_path(trial->run, trial->checkpoints[i].path);
            turn_delete(turn, trial_path(experiment, trial, trial->checkpoints[i].path));
            trial_drop_checkpoint(trial, i);
        }
}

static int64_t at_least(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

void retention_while_active(struct experiment *experiment, struct trial *trial, struct turn *turn)
{
    const struct experiment_config *config = experiment->config;
    struct retained *list = must(calloc(trial->checkpoints_n + 1, sizeof *list));
    size_t n = fill(trial, list);

    retention_mark(list, n, config->smaller_is_better, 0,
                   at_least(1, at_least(config->save_trial_best, config->save_experiment_best)),
                   at_least(1, config->save_trial_latest), trial->has_best ? trial->best_checkpoint : 0);
    drop(experiment, trial, list, turn);
    free(list);
}

void retention_at_end(struct experiment *experiment, struct turn *turn)
{
    const struct experiment_config *config = experiment->config;
    const struct trial *best = experiment_trial(experiment, experiment->best_trial);
    struct retained *list;
    size_t n = 0;

    for (size_t i = 0; i < experiment->trials_n; i++)
        n += experiment->trials[i]->checkpoints_n;
    list = must(calloc(n + 1, sizeof *list));
    n = 0;
    for (size_t i = 0; i < experiment->trials_n; i++)
        n += fill(experiment->trials[i], list + n);
    retention_mark(list, n, config->smaller_is_better, config->save_experiment_best, config->save_trial_best,
                   config->save_trial_latest, best ? best->best_checkpoint : 0);
    n = 0;
    for (size_t i = 0; i < experiment->trials_n; i++) {
        size_t had = experiment->trials[i]->checkpoints_n;
        drop(experiment, experiment->trials[i], list + n, turn);
        n += had;
    }
    free(list);
}
