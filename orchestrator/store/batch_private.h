/* batch_private.h - writing into a batch; put.c and put_report.c use it. Each does nothing more once the batch is
 * broken.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_ORCHESTRATOR_BATCH_PRIVATE_H
#define FLEXP_ORCHESTRATOR_BATCH_PRIVATE_H

#include "orchestrator/store/store_private.h"

bool batch_op(struct store_batch *batch, enum op op); /* false: there is no batch to write to */
void batch_int(struct store_batch *batch, int64_t value);
void batch_id(struct store_batch *batch, int64_t value);     /* 0 becomes NULL */
void batch_real(struct store_batch *batch, double value);    /* not finite becomes NULL */
void batch_value(struct store_batch *batch, double value);   /* value and status */
void batch_text(struct store_batch *batch, const char *text); /* NULL becomes NULL */
void batch_json(struct store_batch *batch, const json_t *value);

#endif
