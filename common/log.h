/* log.h - lines for whoever runs the program: "2026-11-21T01:02:03.456Z level text" on standard error.
 * Only the edge of a program logs; library code reports through struct error. Threads: any.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef FLEXP_COMMON_LOG_H
#define FLEXP_COMMON_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR };

/* Lines below this level are dropped; LOG_INFO at the start, or FLEXP_LOG=debug|info|warning|error. */
void log_set_level(enum log_level level);
void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warning(...) log_line(LOG_WARNING, __VA_ARGS__)
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)

#endif
