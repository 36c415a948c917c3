/* filesystem.c - which file systems a database may not lie on. SQLite's write-ahead log needs memory shared by all who
 * have the file open and locks that hold; over a network neither is true, and the damage shows weeks later.
 * SPDX-License-Identifier: Apache-2.0 */
#include "orchestrator/store/store_private.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define FUSE_MAGIC 0x65735546

/* Magic numbers as in linux/magic.h, statfs(2), and the file systems' own sources. */
static const struct {
    unsigned int magic;
    const char *name;
} NETWORK[] = {
    {0x6969, "NFS"},         {0x517b, "SMB"},          {0xff534d42, "CIFS (SMB)"}, {0xfe534d42, "SMB2"},
    {0x5346414f, "AFS"},     {0x6b414653, "AFS"},      {0x73757245, "Coda"},       {0x564c, "NCP"},
    {0x00c36400, "Ceph"},    {0x01021997, "9p"},       {0x0bd00bd0, "Lustre"},     {0x47504653, "GPFS"},
    {0x7461636f, "OCFS2"},   {0x01161970, "GFS2"},     {0x19830326, "BeeGFS"},     {0x20030528, "OrangeFS"},
    {0xaad7aaea, "PanFS"},   {0x786f4256, "VirtualBox shared folders"}, {0xbacbacbc, "VMware shared folders"},
};

/* FUSE has one magic number for all; the mount's type tells them apart. Those not named here (ntfs-3g, fuse-overlayfs,
 * encfs ...) keep their files on a local disk. */
static const struct {
    const char *type, *name;
} NETWORK_FUSE[] = {
    {"fuse.sshfs", "sshfs"},         {"fuse.glusterfs", "GlusterFS"}, {"fuse.ceph", "Ceph"},
    {"fuse.ceph-fuse", "Ceph"},      {"fuse.s3fs", "s3fs"},           {"fuse.rclone", "rclone"},
    {"fuse.gcsfuse", "gcsfuse"},     {"fuse.davfs", "davfs"},         {"fuse.davfs2", "davfs"},
    {"fuse.curlftpfs", "curlftpfs"}, {"fuse.juicefs", "JuiceFS"},     {"fuse.JuiceFS", "JuiceFS"},
    {"fuse.moosefs", "MooseFS"},     {"fuse.mfs", "MooseFS"},         {"fuse.lizardfs", "LizardFS"},
    {"fuse.goofys", "goofys"},       {"fuse.blobfuse", "blobfuse"},   {"fuse.blobfuse2", "blobfuse"},
    {"fuse.mount-s3", "Mountpoint for S3"}, {"fuse.nfs", "NFS"},      {"fuse.fuse-nfs", "NFS"},
    {"fuse.smbnetfs", "smbnetfs"},   {"fuse.seaweedfs", "SeaweedFS"}, {"fuse.alluxio", "Alluxio"},
    {"fuse.beegfs", "BeeGFS"},       {"fuse.onedriver", "onedriver"}, {"fuse.google-drive-ocamlfuse", "Google Drive"},
};

const char *network_filesystem(long magic, const char *mount_type)
{
    /* statfs's field is signed on some machines: only its low 32 bits count. */
    unsigned int bits = (unsigned int)magic;

    for (size_t i = 0; i < sizeof NETWORK / sizeof *NETWORK; i++)
        if (NETWORK[i].magic == bits)
            return NETWORK[i].name;
    for (size_t i = 0; bits == FUSE_MAGIC && mount_type && i < sizeof NETWORK_FUSE / sizeof *NETWORK_FUSE; i++)
        if (!strcmp(NETWORK_FUSE[i].type, mount_type))
            return NETWORK_FUSE[i].name;
    return NULL;
}

/* The type of the mount with this device number, from lines such as
 * "36 35 98:0 /root /mnt rw,noatime shared:1 - ext3 /dev/root rw". */
static void find_mount_type(dev_t device, char *ret, size_t room)
{
    FILE *file = fopen("/proc/self/mountinfo", "re");
    char *line = NULL;
    size_t line_room = 0;

    ret[0] = 0;
    while (file && getline(&line, &line_room, file) > 0) {
        unsigned int major_n, minor_n;
        char *type = strstr(line, " - ");
        if (!type || sscanf(line, "%*d %*d %u:%u", &major_n, &minor_n) != 2 || makedev(major_n, minor_n) != device)
            continue;
        type += 3;
        snprintf(ret, room, "%.*s", (int)strcspn(type, " \n"), type);
        break;
    }
    free(line);
    if (file)
        fclose(file);
}

int refuse_network_filesystem(const char *path, struct error *err)
{
    char copy[PATH_MAX], type[64];
    const char *at = path, *name;
    struct statfs fs;
    struct stat st;

    if (stat(path, &st)) {
        snprintf(copy, sizeof copy, "%s", path);
        at = dirname(copy);
    }
    if (stat(at, &st) || statfs(at, &fs))
        return fail(err, -errno, "%s: %s", at, strerror(errno));
    find_mount_type(st.st_dev, type, sizeof type);
    name = network_filesystem((long)fs.f_type, type);
    if (name)
        return fail(err, -EREMOTE,
                    "%s lies on a network file system (%s), where SQLite's locks and shared memory do not hold:"
                    " choose a home on a local disk with --home or FLEXP_HOME",
                    path, name);
    return 0;
}
