/* Merge what standard input asks for, one merge a line, and answer with one line each: "ok" or "KIND<tab>TENSOR<tab>TEXT".
 *
 * plan<tab>OUT<tab>OPTIONS<tab>COUNT<tab>WEIGHT<tab>FILE<tab>CONFIG…   files in memory, through mwa_plan; CONFIG may be empty
 * run<tab>OUT<tab>OPTIONS<tab>INPUT                            a whole run, through mwa_merge
 * fail<tab>TIMES                                               so many failing calls */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mwa.h"

struct bytes {
    uint8_t *data;
    size_t size;
};

struct store {
    struct bytes inputs[16], output;
};

static struct bytes load(const char *path) {
    struct bytes bytes = {NULL, 0};
    FILE *file = fopen(path, "rb");
    if (!file) exit(3);
    fseek(file, 0, SEEK_END);
    bytes.size = (size_t)ftell(file);
    rewind(file);
    bytes.data = malloc(bytes.size + 1);
    if (fread(bytes.data, 1, bytes.size, file) != bytes.size) exit(3);
    fclose(file);
    return bytes;
}

static int read_bytes(void *user, size_t input, uint64_t offset, uint8_t *buffer, size_t size) {
    struct bytes from = ((struct store *)user)->inputs[input];
    if (offset + size > from.size) return 7;
    memcpy(buffer, from.data + offset, size);
    return 0;
}

static int write_bytes(void *user, uint64_t offset, const uint8_t *bytes, size_t size) {
    struct bytes *to = &((struct store *)user)->output;
    if (offset + size > to->size) {
        uint8_t *more = realloc(to->data, (size_t)offset + size);
        if (!more) return 8;
        to->data = more;
        to->size = (size_t)offset + size;
    }
    memcpy(to->data + offset, bytes, size);
    return 0;
}

static int refuse(void *user, uint64_t offset, const uint8_t *bytes, size_t size) {
    (void)user, (void)offset, (void)bytes, (void)size;
    return 9;
}

static int stop(void *user, uint64_t done, uint64_t total) {
    (void)done, (void)total;
    return ++*(int *)user;
}

static void answer(struct mwa_error *error) {
    if (!error) {
        puts("ok");
        return;
    }
    printf("%s\t%s\t%s\n", error->name, error->tensor ? error->tensor : "", error->detail);
    mwa_error_free(error);
}

static void plan(char **words, int count) {
    struct store store = {0};
    struct mwa_input inputs[16];
    double weights[16];
    size_t n = (size_t)atoi(words[3]);
    struct mwa_error *error = NULL;
    struct mwa_plan *plan = NULL;
    if (n > 16 || count != 4 + 3 * (int)n) exit(3);
    for (size_t i = 0; i < n; i++) {
        char **word = words + 4 + 3 * i;
        weights[i] = strtod(word[0], NULL);
        store.inputs[i] = load(word[1]);
        uint64_t size = 0;
        if (!error) error = mwa_header_size(store.inputs[i].data, store.inputs[i].size, store.inputs[i].size, &size);
        const char *config = *word[2] ? word[2] : NULL;
        inputs[i] = (struct mwa_input){word[1], store.inputs[i].data, (size_t)size, store.inputs[i].size, config};
    }
    if (!error) error = mwa_plan_new(inputs, weights, n, words[2], &plan);
    if (!error) {
        error = mwa_plan_run(plan, read_bytes, write_bytes, &store);
    }
    if (!error) {
        if (store.output.size != mwa_plan_file_size(plan)) exit(13);
        FILE *file = fopen(words[1], "wb");
        if (!file || fwrite(store.output.data, 1, store.output.size, file) != store.output.size) exit(3);
        fclose(file);
        size_t head = mwa_plan_head(plan, NULL, 0);
        uint8_t *again = malloc(head);
        if (mwa_plan_head(plan, again, head) != head || memcmp(again, store.output.data, head) != 0) exit(4);
        free(again);
        error = mwa_plan_run(plan, read_bytes, refuse, &store);
        if (!error || strcmp(error->name, "io") != 0) exit(5);
        mwa_error_free(error);
        error = mwa_plan_run(plan, read_bytes, write_bytes, &store);
    }
    if (!error) {
        struct mwa_text *report = NULL, *config = NULL;
        if (mwa_plan_report(plan, &report) || mwa_plan_config(plan, &config)) exit(10);
        char text[1 << 14];
        if (mwa_text_copy(report, text, sizeof text) < 100 || !strstr(text, "\"notes\"")) exit(11);
        if ((mwa_text_copy(config, NULL, 0) > 0) != (*words[6] != 0)) exit(12);
        mwa_text_free(report), mwa_text_free(config);
    }
    answer(error);
    mwa_plan_free(plan);
    for (size_t i = 0; i < n; i++) free(store.inputs[i].data);
    free(store.output.data);
}

static void run(char **words) {
    const char *inputs[] = {words[3]};
    struct mwa_text *report = NULL;
    int calls = 0;
    struct mwa_error *error = mwa_merge(inputs, 1, words[1], words[2], stop, &calls, NULL);
    if (!error || strcmp(error->name, "stopped") != 0 || calls < 1) exit(6);
    mwa_error_free(error);
    error = mwa_merge(inputs, 1, words[1], words[2], NULL, NULL, &report);
    if (!error) {
        char little[4];
        uint8_t good = 0;
        size_t size = mwa_text_copy(report, little, sizeof little);
        if (size < 100 || memcmp(little, "{\n ", 4) != 0) exit(7);
        error = mwa_verify(words[1], "{\"threads\": 2}", NULL, NULL, &good, NULL);
        if (!good) exit(8);
    }
    answer(error);
    mwa_text_free(report);
}

static void fail(int times) {
    const char *none[] = {NULL}, *nowhere[] = {"/nowhere/at/all"}, *latin[] = {"\xff"};
    for (int i = 0; i < times; i++) {
        struct mwa_error *errors[] = {
            mwa_weights(none, 1, NULL, NULL),
            mwa_weights(NULL, 1, NULL, NULL),
            mwa_weights(nowhere, 1, "{\"last\": 3}", NULL),
            mwa_weights(latin, 1, NULL, NULL),
            mwa_merge(nowhere, 1, "out", "{\"lst\": 3}", NULL, NULL, NULL),
            mwa_inspect(NULL, NULL, NULL),
            mwa_plan_new(NULL, NULL, 0, NULL, NULL),
            mwa_plan_run(NULL, read_bytes, write_bytes, NULL),
            mwa_header_size((const uint8_t *)"PK\3\4....", 8, 8, NULL),
        };
        for (size_t k = 0; k < sizeof errors / sizeof *errors; k++) {
            if (!errors[k] || !errors[k]->detail) exit(9);
            mwa_error_free(errors[k]);
        }
    }
    mwa_error_free(NULL), mwa_text_free(NULL), mwa_plan_free(NULL);
    puts("ok");
}

int main(void) {
    static char line[1 << 16];
    while (fgets(line, sizeof line, stdin)) {
        char *words[64];
        int count = 0;
        line[strcspn(line, "\n")] = 0;
        for (char *word = line; word && count < 64; count++) {
            words[count] = word;
            word = strchr(word, '\t');
            if (word) *word++ = 0;
        }
        if (strcmp(words[0], "plan") == 0) plan(words, count);
        if (strcmp(words[0], "run") == 0) run(words);
        if (strcmp(words[0], "fail") == 0) fail(atoi(words[1]));
    }
    return 0;
}
