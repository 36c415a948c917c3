/* test_protocol.c - a stream of protocol lines of hostile bytes, arriving in pieces, from a worker or from an
 * orchestrator. SPDX-License-Identifier: Apache-2.0 */
#include "common/lines.h"
#include "common/protocol.h"
#include "tests/fuzz/fuzz.h"

static void parse(const char *line, size_t length, bool from_worker)
{
    struct message message = {0}, again = {0};
    struct error err = {0};
    int rc = message_parse(line, length, from_worker, &message, &err);
    char *text;

    if (rc) {
        must_be_refusal(rc, &err);
        return;
    }
    must((unsigned)message.op < MSG_OP_COUNT && message_op_name(message.op) && json_is_object(message.body));
    text = json_line(message.body);
    must(text && !message_parse(text, strlen(text), from_worker, &again, &err));
    must(again.op == message.op && again.run == message.run && again.seq == message.seq);
    free(text);
    message_done(&again);
    message_done(&message);
}

static void stream(const uint8_t *data, size_t size, size_t piece, bool from_worker)
{
    struct lines lines;
    size_t length, n = 0, newlines = 0;
    char *line;

    lines_init(&lines);
    must(!lines_next(&lines, &length));
    for (size_t at = 0; at < size; at += piece) {
        must(!lines_push(&lines, data + at, piece < size - at ? piece : size - at));
        while ((line = lines_next(&lines, &length))) {
            must(!line[length] && !memchr(line, '\n', length));
            parse(line, length, from_worker);
            n++;
        }
    }
    for (size_t i = 0; i < size; i++)
        newlines += data[i] == '\n';
    must(n == newlines);
    lines_done(&lines);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t piece = 1 + size % 61;

    stream(data, size, piece, true);
    stream(data, size, piece, false);
    return 0;
}
