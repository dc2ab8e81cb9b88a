// Lets User-Mode Linux 6.1 run on processors whose register state is larger than it expects.
//
// It keeps 2,696 bytes of a process's extended registers (enough for AVX-512), while the host's
// kernel takes them back only whole: 11,008 bytes on a processor with AMX, where every process of
// the guest would otherwise die of its first switch. Preloaded, this passes the missing tail on as
// zeros, which is its state in a process that has never asked for AMX; none can, in the guest.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

typedef long ptrace_function(enum __ptrace_request, ...);

static char whole[1 << 16];
static size_t whole_len;

long ptrace(enum __ptrace_request request, ...) {
  static ptrace_function *host;
  if (!host) host = (ptrace_function *)dlsym(RTLD_NEXT, "ptrace");

  va_list arguments;
  va_start(arguments, request);
  int process = va_arg(arguments, int);
  void *kind = va_arg(arguments, void *);
  void *data = va_arg(arguments, void *);
  va_end(arguments);

  if (request != PTRACE_SETREGSET || kind != (void *)NT_X86_XSTATE)
    return host(request, process, kind, data);

  if (whole_len == 0) {
    struct iovec all = {whole, sizeof whole};
    if (host(PTRACE_GETREGSET, process, kind, &all) == 0) whole_len = all.iov_len;
    memset(whole, 0, sizeof whole);
  }
  const struct iovec *given = data;
  if (given->iov_len >= whole_len) return host(request, process, kind, data);
  memcpy(whole, given->iov_base, given->iov_len);
  struct iovec padded = {whole, whole_len};
  return host(request, process, kind, &padded);
}
