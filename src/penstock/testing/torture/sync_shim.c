/*
 * Makes fdatasync and fsync hang for files below certain folders, as a dying disk would.
 *
 * The file named in PENSTOCK_SYNC_SHIM holds one folder a line; a sync of a file below one of them does not return
 * until the line is gone. Loaded with LD_PRELOAD.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_hung(const char *path)
{
    char text[8192];
    const char *name = getenv("PENSTOCK_SYNC_SHIM");
    int control = name == NULL ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    ssize_t count;
    char *line, *rest = text;

    if (control < 0)
        return 0;
    count = read(control, text, sizeof(text) - 1);
    close(control);
    if (count <= 0)
        return 0;
    text[count] = '\0';
    while ((line = strsep(&rest, "\n")) != NULL)
        if (*line != '\0' && strncmp(path, line, strlen(line)) == 0)
            return 1;
    return 0;
}

static void wait_for_disk(int descriptor)
{
    char link[64], path[PATH_MAX];
    ssize_t count;

    snprintf(link, sizeof(link), "/proc/self/fd/%d", descriptor);
    count = readlink(link, path, sizeof(path) - 1);
    if (count <= 0)
        return;
    path[count] = '\0';
    while (is_hung(path))
        usleep(20000);
}

int fdatasync(int descriptor)
{
    static int (*real)(int);

    if (real == NULL)
        real = (int (*)(int)) dlsym(RTLD_NEXT, "fdatasync");
    wait_for_disk(descriptor);
    return real(descriptor);
}

int fsync(int descriptor)
{
    static int (*real)(int);

    if (real == NULL)
        real = (int (*)(int)) dlsym(RTLD_NEXT, "fsync");
    wait_for_disk(descriptor);
    return real(descriptor);
}
