/* version.h - what both programs call themselves.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_VERSION_H
#define FLEXP_COMMON_VERSION_H

#define FLEXP_VERSION "0.1.0"
#define FLEXP_PROTOCOL_VERSION 1 /* of the trial protocol */

#endif
