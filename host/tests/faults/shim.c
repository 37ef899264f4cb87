/* Preloaded into a process: one of its system calls fails, is short, or never returns because a signal comes first.

   FAULT_AT     the number of the call, from 1 on; 0 only counts
   FAULT        an errno, `short`, or `kill:SIGNAL`
   FAULT_EVER   if set, every call from that one on fails
   FAULT_LOG    a file that gets a line for the call that was struck, and at the end one with the count of all and one with
                the most memory that was in use at a time, in kB

   Standard input, output and error are left alone: the caller reads them. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum verdict { GO_ON, FAIL, SHORT };

static atomic_long count;
static long at;
static int error, is_short, deadly, forever;
static const char *log_path;

static void tell(const char *text) {
  int fd = log_path ? (int)syscall(SYS_openat, AT_FDCWD, log_path, O_WRONLY | O_CREAT | O_APPEND, 0644) : -1;
  if (fd < 0) return;
  syscall(SYS_write, fd, text, strlen(text));
  syscall(SYS_close, fd);
}

__attribute__((constructor)) static void begin(void) {
  const char *number = getenv("FAULT_AT"), *fault = getenv("FAULT");
  log_path = getenv("FAULT_LOG");
  forever = getenv("FAULT_EVER") != NULL;
  if (fault && !strcmp(fault, "short")) is_short = 1;
  else if (fault && !strncmp(fault, "kill:", 5)) deadly = atoi(fault + 5);
  else if (fault) error = atoi(fault);
  if (number) at = atol(number);
}

__attribute__((destructor)) static void end(void) {
  char text[64];
  at = 0;
  snprintf(text, sizeof text, "calls %ld\n", (long)count);
  tell(text);
  char status[4096], *peak;
  int fd = (int)syscall(SYS_openat, AT_FDCWD, "/proc/self/status", O_RDONLY);
  ssize_t n = syscall(SYS_read, fd, status, sizeof status - 1);
  syscall(SYS_close, fd);
  status[n > 0 ? n : 0] = 0;
  if ((peak = strstr(status, "VmHWM:"))) {
    snprintf(text, sizeof text, "peak %ld\n", atol(peak + 6));
    tell(text);
  }
}

static enum verdict strike(const char *call) {
  long n = atomic_fetch_add(&count, 1) + 1;
  if (!at || (forever ? n < at : n != at)) return GO_ON;
  if (n == at) {
    char text[64];
    snprintf(text, sizeof text, "struck %s\n", call);
    tell(text);
  }
  if (deadly) {
    syscall(SYS_kill, syscall(SYS_getpid), deadly);
    return GO_ON;
  }
  if (is_short) return SHORT;
  errno = error;
  return FAIL;
}

static size_t half(size_t n) { return n > 1 ? (n + 1) / 2 : n; }
static int is_standard(int fd) { return fd >= 0 && fd <= 2; }

#define MODE \
  mode_t mode = 0; \
  if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }
#define FAILS(call) if (strike(call) == FAIL) return -1;

int open(const char *path, int flags, ...) { MODE FAILS("open") return syscall(SYS_openat, AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE FAILS("open") return syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dir, const char *path, int flags, ...) { MODE FAILS("openat") return syscall(SYS_openat, dir, path, flags, mode); }
int openat64(int dir, const char *path, int flags, ...) { MODE FAILS("openat") return syscall(SYS_openat, dir, path, flags | O_LARGEFILE, mode); }
ssize_t read(int fd, void *bytes, size_t n) {
  enum verdict verdict = is_standard(fd) ? GO_ON : strike("read");
  return verdict == FAIL ? -1 : syscall(SYS_read, fd, bytes, verdict == SHORT ? half(n) : n);
}
ssize_t pread64(int fd, void *bytes, size_t n, off64_t offset) {
  enum verdict verdict = strike("pread");
  return verdict == FAIL ? -1 : syscall(SYS_pread64, fd, bytes, verdict == SHORT ? half(n) : n, offset);
}
ssize_t pread(int fd, void *bytes, size_t n, off_t offset) { return pread64(fd, bytes, n, offset); }
ssize_t write(int fd, const void *bytes, size_t n) {
  enum verdict verdict = is_standard(fd) ? GO_ON : strike("write");
  return verdict == FAIL ? -1 : syscall(SYS_write, fd, bytes, verdict == SHORT ? half(n) : n);
}
ssize_t pwrite64(int fd, const void *bytes, size_t n, off64_t offset) {
  enum verdict verdict = strike("pwrite");
  return verdict == FAIL ? -1 : syscall(SYS_pwrite64, fd, bytes, verdict == SHORT ? half(n) : n, offset);
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t offset) { return pwrite64(fd, bytes, n, offset); }
ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t n, unsigned flags) {
  enum verdict verdict = strike("copy_file_range");
  return verdict == FAIL ? -1 : syscall(SYS_copy_file_range, from, a, to, b, verdict == SHORT ? half(n) : n, flags);
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t n) {
  enum verdict verdict = strike("sendfile");
  return verdict == FAIL ? -1 : syscall(SYS_sendfile, to, from, offset, verdict == SHORT ? half(n) : n);
}
int fsync(int fd) { FAILS("fsync") return syscall(SYS_fsync, fd); }
int fdatasync(int fd) { FAILS("fsync") return syscall(SYS_fdatasync, fd); }
int ftruncate64(int fd, off64_t n) { FAILS("ftruncate") return syscall(SYS_ftruncate, fd, n); }
int ftruncate(int fd, off_t n) { return ftruncate64(fd, n); }
int close(int fd) {
  if (is_standard(fd)) return syscall(SYS_close, fd);
  enum verdict verdict = strike("close");
  int wanted = errno, done = syscall(SYS_close, fd);
  if (verdict != FAIL) return done;
  errno = wanted;
  return -1;
}
int rename(const char *a, const char *b) { FAILS("rename") return syscall(SYS_rename, a, b); }
int renameat(int x, const char *a, int y, const char *b) { FAILS("rename") return syscall(SYS_renameat, x, a, y, b); }
int renameat2(int x, const char *a, int y, const char *b, unsigned flags) { FAILS("renameat2") return syscall(SYS_renameat2, x, a, y, b, flags); }
int mkdir(const char *path, mode_t mode) { FAILS("mkdir") return syscall(SYS_mkdir, path, mode); }
int unlink(const char *path) { FAILS("unlink") return syscall(SYS_unlink, path); }
int unlinkat(int dir, const char *path, int flags) { FAILS("unlinkat") return syscall(SYS_unlinkat, dir, path, flags); }
int rmdir(const char *path) { FAILS("rmdir") return syscall(SYS_rmdir, path); }
int chmod(const char *path, mode_t mode) { FAILS("chmod") return syscall(SYS_chmod, path, mode); }
int fchmod(int fd, mode_t mode) { FAILS("chmod") return syscall(SYS_fchmod, fd, mode); }
int flock(int fd, int how) { FAILS("flock") return syscall(SYS_flock, fd, how); }
/* the library declares the path as never null, and then takes a test for null as always false */
int statx(int dir, const char *restrict path, int flags, unsigned mask, struct statx *restrict found) {
  FAILS("statx") return syscall(SYS_statx, dir, path, flags, mask, found);
}
struct dirent64 *readdir64(DIR *dir) {
  static struct dirent64 *(*real)(DIR *);
  if (!real) real = (struct dirent64 *(*)(DIR *))dlsym(RTLD_NEXT, "readdir64");
  return strike("readdir") == FAIL ? NULL : real(dir);
}
char *realpath(const char *path, char *found) {
  static char *(*real)(const char *, char *);
  if (!real) real = (char *(*)(const char *, char *))dlsym(RTLD_NEXT, "realpath");
  return strike("realpath") == FAIL ? NULL : real(path, found);
}
