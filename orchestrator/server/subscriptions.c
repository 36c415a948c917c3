/* subscriptions.c - streams of an experiment's summary: whenever it changed, at most 5 a second, and always the last
 * one. A change only marks who is owed a summary; one timer pays, reading each experiment once. A client that has not
 * yet taken up the last one stays owed, and gets the latest when it has.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/server/server_private.h"

#include <stdlib.h>

#define PERIOD_MS 200
#define COST_SHARE 10 /* reading summaries takes at most a tenth of the loop's time, however large the experiment */

static void start_timer(struct server *server)
{
    uint64_t period = PERIOD_MS, now = clock_ms(), since = now - server->published_ms;

    if (COST_SHARE * server->publish_cost_ms > period)
        period = COST_SHARE * server->publish_cost_ms;
    if (server->state != SERVER_CLOSED && !uv_is_active((uv_handle_t *)&server->publish))
        uv_timer_start(&server->publish, subscriptions_on_time, since < period ? period - since : 0, 0);
}

void subscription_add(struct connection *connection, int64_t id, int64_t experiment)
{
    struct subscription *subscription = calloc(1, sizeof *subscription);

    if (!subscription)
        return;
    subscription->id = id;
    subscription->experiment = experiment;
    subscription->next = connection->subscriptions;
    connection->subscriptions = subscription;
}

void subscriptions_free(struct connection *connection)
{
    while (connection->subscriptions) {
        struct subscription *gone = connection->subscriptions;
        connection->subscriptions = gone->next;
        free(gone);
    }
}

void subscriptions_changed(struct server *server, int64_t experiment)
{
    bool owed = false;

    for (struct connection *connection = server->connections; connection; connection = connection->next)
        for (struct subscription *s = connection->subscriptions; s; s = s->next)
            if (s->experiment == experiment)
                owed = s->owed = true;
    if (owed)
        start_timer(server);
}

void subscriptions_retry(struct connection *connection)
{
    for (struct subscription *s = connection->subscriptions; s; s = s->next)
        if (s->owed) {
            start_timer(connection->server);
            return;
        }
}

/* The next experiment above `above` of which someone who can take it is owed a summary; 0: none. */
static int64_t next_owed(const struct server *server, int64_t above)
{
    int64_t found = 0;

    for (const struct connection *connection = server->connections; connection; connection = connection->next)
        for (const struct subscription *s = connection->subscriptions; s; s = s->next)
            if (s->owed && s->experiment > above && (!found || s->experiment < found) &&
                !connection_is_slow(connection))
                found = s->experiment;
    return found;
}

static void publish(struct server *server, int64_t experiment)
{
    json_t *summary;

    if (request_summary(server, server->store, experiment, &summary, NULL))
        return;
    for (struct connection *connection = server->connections, *next; connection; connection = next) {
        next = connection->next;
        if (connection->closing || connection_is_slow(connection))
            continue;
        for (struct subscription *s = connection->subscriptions; s; s = s->next)
            if (s->owed && s->experiment == experiment) {
                s->owed = false;
                connection_send(connection, json_pack("{s:I, s:O}", "id", (json_int_t)s->id, "event", summary));
                break; /* sending may have let it go; what else it is owed comes when this was taken up */
            }
    }
    json_decref(summary);
}

void subscriptions_on_time(uv_timer_t *timer)
{
    struct server *server = timer->data;
    int64_t experiment = 0;

    server->published_ms = clock_ms();
    while ((experiment = next_owed(server, experiment)) != 0)
        publish(server, experiment);
    server->publish_cost_ms = clock_ms() - server->published_ms;
    for (struct connection *connection = server->connections; connection; connection = connection->next)
        if (!connection_is_slow(connection))
            subscriptions_retry(connection);
}
