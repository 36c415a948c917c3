/* download.c - see download.h.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/fetch/download.h"

#include "common/file.h"
#include "common/version.h"

#include <curl/curl.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <md5.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define TRIES 6 /* in a row without a new byte */
#define PAUSE_MS 1000
#define STALL_S 30

/* --- libcurl ------------------------------------------------------------------------------------------------------ */

static struct {
    __typeof__(curl_global_init) *global_init;
    __typeof__(curl_easy_init) *init;
    __typeof__(curl_easy_setopt) *setopt;
    __typeof__(curl_easy_perform) *perform;
    __typeof__(curl_easy_getinfo) *getinfo;
    __typeof__(curl_easy_strerror) *strerror;
    __typeof__(curl_easy_cleanup) *cleanup;
    __typeof__(curl_slist_append) *slist_append;
    __typeof__(curl_slist_free_all) *slist_free_all;
} lib; /* set once, by load */
/* The checks of curl.h's macro cannot be had through a pointer. */
#undef curl_easy_setopt
#undef curl_easy_getinfo

static int load(struct error *err)
{
    static const char *const NAMES[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};
    void *handle = NULL;

    if (lib.init)
        return 0;
    for (size_t i = 0; i < 2 && !handle; i++)
        handle = dlopen(NAMES[i], RTLD_NOW);
    if (!handle)
        return fail(err, -ENOENT, "fetching needs libcurl, which is not installed (Debian: libcurl4): %s", dlerror());
    *(void **)&lib.global_init = dlsym(handle, "curl_global_init");
    *(void **)&lib.setopt = dlsym(handle, "curl_easy_setopt");
    *(void **)&lib.perform = dlsym(handle, "curl_easy_perform");
    *(void **)&lib.getinfo = dlsym(handle, "curl_easy_getinfo");
    *(void **)&lib.strerror = dlsym(handle, "curl_easy_strerror");
    *(void **)&lib.cleanup = dlsym(handle, "curl_easy_cleanup");
    *(void **)&lib.slist_append = dlsym(handle, "curl_slist_append");
    *(void **)&lib.slist_free_all = dlsym(handle, "curl_slist_free_all");
    *(void **)&lib.init = dlsym(handle, "curl_easy_init");
    if (!lib.global_init || !lib.setopt || !lib.perform || !lib.getinfo || !lib.strerror || !lib.cleanup ||
        !lib.slist_append || !lib.slist_free_all || !lib.init)
        return fail(err, -ENOENT, "libcurl.so.4 lacks a function that every version has");
    lib.global_init(CURL_GLOBAL_DEFAULT);
    return 0;
}

/* --- one try ------------------------------------------------------------------------------------------------------ */

struct fetching {
    const struct download *download;
    int fd;
    char *part, *etag_path;
    int64_t have;  /* bytes of PATH.part */
    int64_t asked; /* where this try began */
    int64_t total; /* 0: not known */
    long status;   /* of the answer whose body comes */
    bool refused;  /* the body is of no use */
    int disk;      /* errno of a write */
    char etag[200], new_etag[200];
};

static void set_have(struct fetching *f, int64_t have)
{
    if (ftruncate(f->fd, have) || lseek(f->fd, have, SEEK_SET) < 0)
        f->disk = errno;
    f->have = have;
}

static void keep_etag(struct fetching *f)
{
    snprintf(f->etag, sizeof f->etag, "%s", f->new_etag);
    if (*f->etag)
        file_write(f->etag_path, f->etag, strlen(f->etag), NULL);
    else
        unlink(f->etag_path);
}

static size_t on_header(char *line, size_t size, size_t n, void *arg)
{
    struct fetching *f = arg;
    size_t length = size * n;
    long long from, to, all;
    char text[512];

    snprintf(text, sizeof text, "%.*s", (int)(length < sizeof text ? length : sizeof text - 1), line);
    text[strcspn(text, "\r\n")] = 0;
    if (!strncmp(text, "HTTP/", 5)) { /* of each answer on the way, redirects included */
        const char *space = strchr(text, ' ');
        f->status = space ? strtol(space, NULL, 10) : 0;
        *f->new_etag = 0;
        f->total = 0;
    } else if (!strncasecmp(text, "etag:", 5)) {
        const char *value = text + 5 + strspn(text + 5, " ");
        if (strncmp(value, "W/", 2)) /* a weak one says nothing about bytes */
            snprintf(f->new_etag, sizeof f->new_etag, "%s", value);
    } else if (!strncasecmp(text, "content-length:", 15) && f->status == 200) {
        f->total = strtoll(text + 15, NULL, 10);
    } else if (!strncasecmp(text, "content-range:", 14) &&
               sscanf(text + 14, " bytes %lld-%lld/%lld", &from, &to, &all) == 3) {
        f->total = all;
        f->refused = from != f->asked;
    } else if (!*text && f->status == 200) { /* the whole file, whatever was asked for */
        set_have(f, 0);
        keep_etag(f);
    } else if (!*text && f->status == 206 && !*f->etag && *f->new_etag) {
        keep_etag(f);
    }
    return length;
}

static size_t on_body(char *bytes, size_t size, size_t n, void *arg)
{
    struct fetching *f = arg;
    size_t length = size * n;

    if (f->status != 200 && f->status != 206)
        return length; /* the page of an error */
    if (f->refused || f->disk)
        return 0;
    f->disk = -fd_write_all(f->fd, bytes, length);
    if (f->disk)
        return 0;
    f->have += (int64_t)length;
    if (f->download->progress)
        f->download->progress(f->download->arg, f->have, f->total);
    return length;
}

/* The text of what went wrong; NULL: the file is whole. The caller frees. *ret_retry: the same place may do better later. */
static char *try_once(struct fetching *f, const char *url, bool *ret_retry)
{
    const char *stall = getenv("FLEXP_FETCH_STALL_S");
    struct curl_slist *headers = NULL;
    char range[40], header[260], *text = NULL;
    CURL *curl = lib.init();
    CURLcode code;

    *ret_retry = true;
    if (!curl)
        return strdup("out of memory");
    f->asked = f->have;
    f->status = 0;
    f->refused = false;
    f->total = 0;
    lib.setopt(curl, CURLOPT_URL, url);
    lib.setopt(curl, CURLOPT_USERAGENT, "flexp/" FLEXP_VERSION);
    lib.setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
    lib.setopt(curl, CURLOPT_MAXREDIRS, 8L);
    lib.setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    lib.setopt(curl, CURLOPT_NOSIGNAL, 1L);
    lib.setopt(curl, CURLOPT_CONNECTTIMEOUT, 30L);
    lib.setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    lib.setopt(curl, CURLOPT_LOW_SPEED_TIME, stall && atol(stall) > 0 ? atol(stall) : (long)STALL_S);
    lib.setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
    lib.setopt(curl, CURLOPT_HEADERDATA, (void *)f);
    lib.setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
    lib.setopt(curl, CURLOPT_WRITEDATA, (void *)f);
    if (f->have) {
        snprintf(range, sizeof range, "%lld-", (long long)f->have);
        lib.setopt(curl, CURLOPT_RANGE, range);
        if (*f->etag) {
            snprintf(header, sizeof header, "If-Range: %s", f->etag);
            headers = lib.slist_append(headers, header);
            lib.setopt(curl, CURLOPT_HTTPHEADER, headers);
        }
    }
    code = lib.perform(curl);
    if (f->disk) {
        *ret_retry = false;
        text = format_text("%s: %s", f->part, strerror(f->disk));
    } else if (f->refused) {
        set_have(f, 0);
        text = strdup("the server answered with another part than was asked for");
    } else if (f->status == 416) { /* what we have is longer than the file, or is all of it */
        set_have(f, 0);
        text = strdup("the server has no more bytes: starting anew");
    } else if (code == CURLE_OPERATION_TIMEDOUT) {
        text = strdup("the server sent nothing for too long");
    } else if (f->status >= 400) {
        *ret_retry = f->status >= 500 || f->status == 429 || f->status == 408;
        text = format_text("the server answered %ld", f->status);
    } else if (code) {
        *ret_retry = code != CURLE_UNSUPPORTED_PROTOCOL && code != CURLE_URL_MALFORMAT;
        text = strdup(lib.strerror(code));
    } else if (f->status != 200 && f->status != 206) {
        text = format_text("the server answered %ld", f->status);
    } else if (f->total && f->have != f->total) {
        text = format_text("the server sent %lld of %lld bytes", (long long)f->have, (long long)f->total);
    }
    lib.slist_free_all(headers);
    lib.cleanup(curl);
    return text;
}

/* --- until it is there -------------------------------------------------------------------------------------------- */

static bool has_md5(const char *path, const char *md5, char found[33])
{
    found[0] = 0;
    return MD5File(path, found) && !strcasecmp(found, md5);
}

static void say(const struct fetching *f, const char *url, const char *text, const char *more)
{
    char *line = format_text("%s: %s%s", url, text, more);

    if (line && f->download->note)
        f->download->note(f->download->arg, line);
    free(line);
}

static void wait_before(int tries)
{
    const char *text = getenv("FLEXP_BACKOFF_MS");
    int ms = text && atoi(text) > 0 ? atoi(text) : PAUSE_MS;

    for (int i = 1; i < tries && ms < 16000; i++)
        ms *= 2;
    poll(NULL, 0, ms);
}

static size_t count(const char *const *list)
{
    size_t n = 0;

    while (list[n])
        n++;
    return n;
}

/* A whole file in PATH.part, whatever its content. from: the mirror that begins. */
static int receive(struct fetching *f, size_t from, struct error *err)
{
    const char *const *urls = f->download->urls;
    size_t n = count(urls), gone = 0;
    char *last = NULL;
    int in_vain = 0;

    for (size_t at = from; in_vain < TRIES && gone < n; at++) {
        const char *url = urls[at % n];
        int64_t before = f->have;
        bool retry, more;
        char *text = try_once(f, url, &retry);
        if (!text) {
            free(last);
            return 0;
        }
        if (f->disk) {
            fail(err, -f->disk, "%s", text);
            free(text);
            free(last);
            return -f->disk;
        }
        gone = retry ? 0 : gone + 1;
        in_vain = f->have > before ? 1 : in_vain + 1;
        more = in_vain < TRIES && gone < n;
        say(f, url, text, more ? f->have ? "; going on from where it was" : "; trying again" : "");
        free(last);
        last = format_text("%s: %s", url, text);
        free(text);
        if (more && retry)
            wait_before(in_vain);
        if (retry && n > 1 && f->have > before)
            at--; /* it gave something: the same mirror first */
    }
    fail(err, -EIO, "%s", last ? last : "out of memory");
    free(last);
    return -EIO;
}

static int finish(struct fetching *f, struct error *err)
{
    const char *path = f->download->path;

    if (fsync(f->fd) || rename(f->part, path))
        return fail(err, -errno, "%s: %s", path, strerror(errno));
    unlink(f->etag_path);
    return 0;
}

static int fetch(struct fetching *f, struct error *err)
{
    char found[33];

    for (size_t mirror = 0; mirror < 2; mirror++) { /* a wrong file is fetched once more, from the next place */
        int rc = receive(f, mirror, err);
        if (rc)
            return rc;
        if (has_md5(f->part, f->download->md5, found))
            return finish(f, err);
        set_have(f, 0);
        unlink(f->etag_path);
        *f->etag = 0;
        fail(err, -EIO, "%s: what the server sent is not the file: its MD5 is %s, not %s",
             f->download->urls[mirror % count(f->download->urls)], found, f->download->md5);
        if (!mirror)
            say(f, f->download->path, "what the server sent is not the file", "; fetching it once more");
    }
    unlink(f->part);
    return -EIO;
}

static int open_part(struct fetching *f, struct error *err)
{
    struct stat st;
    char *etag = NULL;

    f->fd = open(f->part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (f->fd < 0)
        return fail(err, -errno, "%s: %s", f->part, strerror(errno));
    if (flock(f->fd, LOCK_EX | LOCK_NB))
        return fail(err, -EBUSY, "%s: another process is fetching it", f->part);
    if (fstat(f->fd, &st))
        return fail(err, -errno, "%s: %s", f->part, strerror(errno));
    if (st.st_size && !file_read(f->etag_path, &etag, NULL, NULL))
        snprintf(f->etag, sizeof f->etag, "%s", etag);
    free(etag);
    set_have(f, st.st_size);
    return f->disk ? fail(err, -f->disk, "%s: %s", f->part, strerror(f->disk)) : 0;
}

int download_file(const struct download *download, bool *ret_there, struct error *err)
{
    struct fetching f = {.download = download, .fd = -1};
    char found[33];
    int rc;

    *ret_there = false;
    if (file_exists(download->path)) {
        if (has_md5(download->path, download->md5, found)) {
            *ret_there = true;
            return 0;
        }
        say(&f, download->path, "is there, but is not the published file", "; fetching it again");
    }
    rc = load(err);
    if (rc)
        return rc;
    f.part = format_text("%s.part", download->path);
    f.etag_path = format_text("%s.part.etag", download->path);
    rc = f.part && f.etag_path ? open_part(&f, err) : fail(err, -ENOMEM, "out of memory");
    if (!rc)
        rc = fetch(&f, err);
    if (f.fd >= 0)
        close(f.fd);
    free(f.part);
    free(f.etag_path);
    return rc;
}
