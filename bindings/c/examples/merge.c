/* Merge a run as the command line does: merge RUN OUT [OPTIONS]
 * cc merge.c $(pkg-config --cflags --libs mwa) -o merge */
#include <stdio.h>
#include <stdlib.h>

#include "mwa.h"

static int show(void *user, uint64_t done, uint64_t total) {
    (void)user;
    fprintf(stderr, "\r%3u %%", total ? (unsigned)(100 * done / total) : 0);
    return 0; /* anything else stops the merge */
}

int main(int count, char **arguments) {
    if (count < 3) {
        fprintf(stderr, "usage: merge RUN OUT [OPTIONS]\n");
        return 2;
    }
    const char *inputs[] = {arguments[1]};
    struct mwa_text *report = NULL;
    struct mwa_error *error =
        mwa_merge(inputs, 1, arguments[2], count > 3 ? arguments[3] : NULL, show, NULL, &report);
    fprintf(stderr, "\n");
    if (error) {
        fprintf(stderr, "%s: %s: %s\n", error->name, error->path ? error->path : "merge", error->detail);
        if (error->help) fprintf(stderr, "help: %s\n", error->help);
        mwa_error_free(error);
        return 1;
    }
    size_t size = mwa_text_copy(report, NULL, 0) + 1;
    char *text = malloc(size);
    if (text && mwa_text_copy(report, text, size)) puts(text);
    free(text);
    mwa_text_free(report);
    return 0;
}
