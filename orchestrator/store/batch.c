/* batch.c - the bytes of a batch. An operation is its number followed by tagged values; everything is copied, so that
 * no JSON value and no pointer of the caller's crosses to the writer's thread. Text that is not UTF-8 (a worker's
 * output can be anything) gets U+FFFD for each wrong byte: what we store, every reader can read.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/batch_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct store_batch *store_batch_new(void)
{
    return calloc(1, sizeof(struct store_batch));
}

void store_batch_free(struct store_batch *batch)
{
    if (!batch)
        return;
    free(batch->bytes);
    free(batch);
}

bool store_batch_is_empty(const struct store_batch *batch)
{
    return !batch || (!batch->used && !batch->broken);
}

static void append(struct store_batch *batch, const void *data, size_t length)
{
    if (batch->broken || !length)
        return;
    if (batch->room - batch->used < length) {
        size_t room = batch->room ? batch->room : 512;
        unsigned char *grown;
        while (room - batch->used < length)
            room *= 2;
        grown = realloc(batch->bytes, room);
        if (!grown) {
            batch->broken = true;
            return;
        }
        batch->bytes = grown;
        batch->room = room;
    }
    memcpy(batch->bytes + batch->used, data, length);
    batch->used += length;
}

static void append_tag(struct store_batch *batch, unsigned char tag)
{
    append(batch, &tag, 1);
}

bool batch_op(struct store_batch *batch, enum op op)
{
    if (!batch)
        return false;
    append_tag(batch, (unsigned char)op);
    return true;
}

void batch_int(struct store_batch *batch, int64_t value)
{
    append_tag(batch, VALUE_INT);
    append(batch, &value, sizeof value);
}

void batch_id(struct store_batch *batch, int64_t value)
{
    if (value)
        batch_int(batch, value);
    else
        append_tag(batch, VALUE_NULL);
}

void batch_real(struct store_batch *batch, double value)
{
    append_tag(batch, isfinite(value) ? VALUE_REAL : VALUE_NULL);
    if (isfinite(value))
        append(batch, &value, sizeof value);
}

void batch_value(struct store_batch *batch, double value)
{
    batch_real(batch, value);
    batch_int(batch, value_status(value));
}

/* Length of the valid UTF-8 sequence at text, 0 where there is none. As Unicode's table 3-7: no overlong forms, no
 * surrogates, nothing past U+10FFFF. */
static size_t utf8_length(const unsigned char *text)
{
    unsigned char low = 0x80, high = 0xbf;
    size_t n;

    if (text[0] < 0x80)
        return 1;
    if (text[0] < 0xc2 || text[0] > 0xf4)
        return 0;
    n = text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
    if (text[0] == 0xe0)
        low = 0xa0;
    else if (text[0] == 0xed)
        high = 0x9f;
    else if (text[0] == 0xf0)
        low = 0x90;
    else if (text[0] == 0xf4)
        high = 0x8f;
    if (text[1] < low || text[1] > high)
        return 0;
    for (size_t i = 2; i < n; i++)
        if (text[i] < 0x80 || text[i] > 0xbf)
            return 0;
    return n;
}

void batch_text(struct store_batch *batch, const char *text)
{
    size_t at_length, start;
    uint64_t length = 0;

    if (!text) {
        append_tag(batch, VALUE_NULL);
        return;
    }
    append_tag(batch, VALUE_TEXT);
    at_length = batch->used;
    append(batch, &length, sizeof length);
    start = batch->used;
    for (const unsigned char *at = (const unsigned char *)text, *good = at;;) {
        size_t n = *at ? utf8_length(at) : 0;
        if (n) {
            at += n;
            continue;
        }
        append(batch, good, (size_t)(at - good));
        if (!*at)
            break;
        append(batch, "\xef\xbf\xbd", 3);
        good = ++at;
    }
    if (batch->broken)
        return;
    length = batch->used - start;
    memcpy(batch->bytes + at_length, &length, sizeof length);
}

void batch_json(struct store_batch *batch, const json_t *value)
{
    char *text = value ? json_line(value) : NULL;

    if (value && !text)
        batch->broken = true;
    batch_text(batch, text);
    free(text);
}

enum op cursor_op(struct cursor *cursor)
{
    return cursor->at < cursor->end ? (enum op) * cursor->at++ : OP_END;
}

struct value cursor_value(struct cursor *cursor)
{
    struct value value = {.type = (enum value_type) * cursor->at++};
    uint64_t length;

    if (value.type == VALUE_INT) {
        memcpy(&value.integer, cursor->at, sizeof value.integer);
        cursor->at += sizeof value.integer;
    } else if (value.type == VALUE_REAL) {
        memcpy(&value.real, cursor->at, sizeof value.real);
        cursor->at += sizeof value.real;
    } else if (value.type == VALUE_TEXT) {
        memcpy(&length, cursor->at, sizeof length);
        value.text = (const char *)cursor->at + sizeof length;
        value.length = (size_t)length;
        cursor->at += sizeof length + length;
    }
    return value;
}

int64_t cursor_int(struct cursor *cursor)
{
    return cursor_value(cursor).integer;
}

double cursor_real(struct cursor *cursor)
{
    struct value value = cursor_value(cursor);

    return value.type == VALUE_REAL ? value.real : value.type == VALUE_INT ? (double)value.integer : NAN;
}
