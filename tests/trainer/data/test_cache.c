/* test_cache.c - a data set is decoded once by whoever comes first, found again by content, and made again when
 * damaged.
 * SPDX-License-Identifier: Apache-2.0 */
#include "trainer/data/data_private.h"
/* After it: cmocka has a macro fail. */
#include "tests/trainer/data/made_files.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/wait.h>

#define PROCESSES 4

/* The one file in the cache folder that ends so; "" where there is none. */
static int find_files(const char *end, char *ret_name, size_t room)
{
    DIR *folder = opendir(made_path("cache"));
    struct dirent *entry;
    int n = 0;

    assert_non_null(folder);
    *ret_name = 0;
    while ((entry = readdir(folder))) {
        size_t length = strlen(entry->d_name);
        if (length > strlen(end) && !strcmp(entry->d_name + length - strlen(end), end)) {
            snprintf(ret_name, room, "cache/%s", entry->d_name);
            n++;
        }
    }
    closedir(folder);
    return n;
}

static int count_files(const char *end)
{
    char name[300];

    return find_files(end, name, sizeof name);
}

static ino_t inode_of(const char *name)
{
    struct stat st;

    assert_int_equal(stat(made_path(name), &st), 0);
    return st.st_ino;
}

/* -- processes -- */

/* What a process found. inode: of the file that it has mapped, which tells one made cache from the next. */
struct finding {
    char hash[33];
    unsigned long inode;
    int rc;
};

static unsigned long mapped_inode(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[600];
    unsigned long inode = 0;

    while (maps && fgets(line, sizeof line, maps))
        if (strstr(line, "/cache/") && strstr(line, ".data"))
            sscanf(line, "%*s %*s %*s %*s %lu", &inode);
    if (maps)
        fclose(maps);
    return inode;
}

/* In the child: waits until the other end of `start` is closed, opens, tells, and stays mapped until `stop` is closed,
 * so that no inode is used twice. */
static void child(const char *path, int start, int answer, int stop)
{
    struct finding finding = {0};
    struct dataset *dataset = NULL;
    char byte;

    (void)!read(start, &byte, 1);
    finding.rc = made_try("images", path, &dataset, NULL);
    if (!finding.rc) {
        memcpy(finding.hash, dataset->hash, sizeof finding.hash);
        finding.inode = mapped_inode();
    }
    (void)!write(answer, &finding, sizeof finding);
    (void)!read(stop, &byte, 1);
    _exit(0);
}

static void open_at_once(const char *path, struct finding findings[PROCESSES])
{
    int start[2], answer[2], stop[2];

    assert_int_equal(pipe(start) | pipe(answer) | pipe(stop), 0);
    for (int i = 0; i < PROCESSES; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (!pid) {
            close(start[1]);
            close(stop[1]);
            child(path, start[0], answer[1], stop[0]);
        }
    }
    close(start[1]);
    close(answer[1]);
    for (int i = 0; i < PROCESSES; i++)
        assert_int_equal(read(answer[0], &findings[i], sizeof *findings), sizeof *findings);
    close(stop[1]);
    for (int i = 0; i < PROCESSES; i++)
        assert_true(wait(NULL) > 0);
    close(start[0]);
    close(answer[0]);
    close(stop[0]);
}

static void make_many_images(const char *folder)
{
    char name[64];

    for (int i = 0; i < 60; i++) {
        snprintf(name, sizeof name, "%s/%s/%02d.png", folder, i % 2 ? "cat" : "dog", i);
        made_png(name, 20, 20, 3, i);
    }
}

static void processes_at_once_decode_once_and_agree(void **state)
{
    struct finding findings[PROCESSES];

    (void)state;
    make_many_images("a");
    for (int round = 0; round < 10; round++) {
        assert_int_equal(file_remove_tree(made_path("cache"), NULL), 0);
        open_at_once(made_path("a"), findings);
        for (int i = 0; i < PROCESSES; i++) {
            assert_int_equal(findings[i].rc, 0);
            assert_int_equal(strlen(findings[i].hash), 32);
            assert_string_equal(findings[i].hash, findings[0].hash);
            assert_true(findings[i].inode);
            assert_int_equal(findings[i].inode, findings[0].inode);
        }
        assert_int_equal(count_files(".data"), 1);
        assert_int_equal(count_files(".tmp"), 0);
        assert_int_equal(count_files(".lock"), 0);
    }
}

/* -- damage -- */

/* Opens again after damage: the same data set, and the file as it was. */
static void check_remade(const char *hash, const char *name, const char *bytes, size_t n)
{
    struct dataset *dataset = made_open("idx", made_path("a"));
    char *again;
    size_t again_n;

    assert_string_equal(dataset->hash, hash);
    assert_int_equal(dataset->train.n, 30);
    assert_int_equal(dataset->train.labels[29], 29 % 3);
    dataset_close(dataset);
    made_read(name, &again, &again_n);
    assert_int_equal(again_n, n);
    assert_memory_equal(again, bytes, n);
    assert_int_equal(count_files(".data"), 1);
    assert_int_equal(count_files(".tmp"), 0);
    free(again);
}

/* Makes a small data set and reads its cache. */
static void prepare(char hash[33], char *name, size_t room, char **ret_bytes, size_t *ret_n)
{
    struct dataset *dataset;

    made_idx("a", "train", 30, 30, 6, 3);
    made_idx("a", "t10k", 9, 9, 6, 3);
    dataset = made_open("idx", made_path("a"));
    memcpy(hash, dataset->hash, 33);
    dataset_close(dataset);
    assert_int_equal(find_files(".data", name, room), 1);
    made_read(name, ret_bytes, ret_n);
}

static void truncated_cache_is_made_again(void **state)
{
    char hash[33], name[300], *bytes;
    size_t n;

    (void)state;
    prepare(hash, name, sizeof name, &bytes, &n);
    {
        const size_t cuts[] = {0, 1, 60, 150, 4095, 4096, 4100, n / 2, n - 1};
        for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
            made_truncate(name, cuts[i]);
            check_remade(hash, name, bytes, n);
        }
    }
    made_truncate(name, n + 1); /* longer is no better */
    check_remade(hash, name, bytes, n);
    free(bytes);
}

static void altered_cache_is_made_again(void **state)
{
    char hash[33], name[300], *bytes;
    size_t n;

    (void)state;
    prepare(hash, name, sizeof name, &bytes, &n);
    for (size_t at = 0; at < n; at += at < 128 ? 1 : at < 4096 ? 4096 - at : 97) {
        bytes[at] = (char)(bytes[at] ^ 0x10);
        made_write(name, bytes, n);
        bytes[at] = (char)(bytes[at] ^ 0x10);
        check_remade(hash, name, bytes, n);
    }
    free(bytes);
}

/* A process that was killed while it made the cache leaves these two behind. */
static void what_a_killed_process_left_is_no_hindrance(void **state)
{
    char hash[33], name[300], left[320], *bytes;
    size_t n;

    (void)state;
    prepare(hash, name, sizeof name, &bytes, &n);
    assert_int_equal(unlink(made_path(name)), 0);
    snprintf(left, sizeof left, "%s.tmp", name);
    made_write(left, "half of it", 10);
    snprintf(left, sizeof left, "%.*s.lock", (int)(strlen(name) - strlen(".data")), name);
    made_write(left, "", 0);
    check_remade(hash, name, bytes, n);
    assert_int_equal(count_files(".lock"), 0);
    free(bytes);
}

/* -- content -- */

static void equal_content_in_another_folder_shares_the_cache(void **state)
{
    struct dataset *a, *b;
    char name[300];
    ino_t inode;

    (void)state;
    make_many_images("a");
    make_many_images("elsewhere/b");
    a = made_open("images", made_path("a"));
    assert_int_equal(find_files(".data", name, sizeof name), 1);
    inode = inode_of(name);
    b = made_open("images", made_path("elsewhere/b"));
    assert_string_equal(a->hash, b->hash);
    assert_int_equal(count_files(".data"), 1);
    assert_int_equal(inode_of(name), inode);
    dataset_close(a);
    dataset_close(b);
}

static void content_that_changed_is_read_anew(void **state)
{
    const struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
    struct dataset *before, *after;
    char name[300];

    (void)state;
    make_many_images("a");
    assert_int_equal(utimensat(AT_FDCWD, made_path("a/cat/01.png"), times, 0), 0);
    before = made_open("images", made_path("a"));
    made_png("a/cat/01.png", 20, 20, 3, 99);
    assert_int_equal(utimensat(AT_FDCWD, made_path("a/cat/01.png"), times, 0), 0);
    after = made_open("images", made_path("a"));
    assert_string_not_equal(before->hash, after->hash);
    assert_int_equal(before->train.images[0], 1); /* an open data set stays what it was */
    assert_int_equal(after->train.images[0], 99);
    assert_int_equal(find_files(".data", name, sizeof name), 2);
    dataset_close(before);
    dataset_close(after);
}

/* A class's name and a file's place are part of the content. */
static void renamed_class_is_another_data_set(void **state)
{
    struct dataset *before, *after;

    (void)state;
    make_many_images("a");
    before = made_open("images", made_path("a"));
    assert_int_equal(rename(made_path("a/cat"), made_path("a/eel")), 0);
    after = made_open("images", made_path("a"));
    assert_string_not_equal(before->hash, after->hash);
    assert_string_equal(before->class_names[0], "cat");
    assert_string_equal(after->class_names[0], "dog");
    assert_string_equal(after->class_names[1], "eel");
    dataset_close(before);
    dataset_close(after);
}

static void memory_of_content_takes_the_last_whole_line(void **state)
{
    const struct hash128 stamp = {1, 2}, other = {3, 4}, first = {5, 6}, last = {UINT64_MAX, 0x8000000000000001};
    struct hash128 found = {0, 0};
    const char *cache;
    char *text;
    size_t n;

    (void)state;
    cache = made_path("cache");
    assert_int_equal(file_make_folder(cache, NULL), 0);
    assert_false(content_recall(cache, stamp, &found));
    content_remember(cache, stamp, first);
    content_remember(cache, other, first);
    content_remember(cache, stamp, last);
    assert_true(content_recall(cache, stamp, &found));
    assert_true(found.high == last.high && found.low == last.low);
    made_read("cache/content-index", &text, &n);
    assert_int_equal(n, 3 * 66);
    made_truncate("cache/content-index", n - 1); /* torn */
    assert_true(content_recall(cache, stamp, &found));
    assert_true(found.high == first.high && found.low == first.low);
    free(text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, made_setup, made_teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(processes_at_once_decode_once_and_agree),
        TEST(truncated_cache_is_made_again),
        TEST(altered_cache_is_made_again),
        TEST(what_a_killed_process_left_is_no_hindrance),
        TEST(equal_content_in_another_folder_shares_the_cache),
        TEST(content_that_changed_is_read_anew),
        TEST(renamed_class_is_another_data_set),
        TEST(memory_of_content_takes_the_last_whole_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
