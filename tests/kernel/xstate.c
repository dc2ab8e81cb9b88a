// Lets User-Mode Linux 6.1 run on processors whose register state is larger than it expects.
//
// It keeps 2,696 bytes of a process's extended registers (enough for AVX-512), while the host's
// kernel takes them back only whole: 11,008 bytes on a processor with AMX, where every process of
// the guest would otherwise die of its first switch. Preloaded, this passes the missing tail on as
// zeros, which is its state in a process that has never asked for AMX; none can, in the guest.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

static char whole[1 << 16];

long ptrace(enum __ptrace_request request, ...) {
  static long (*next)(enum __ptrace_request, ...);
  if (!next) next = (long (*)(enum __ptrace_request, ...))dlsym(RTLD_NEXT, "ptrace");

  __builtin_va_list arguments;
  __builtin_va_start(arguments, request);
  int process = __builtin_va_arg(arguments, int);
  void *address = __builtin_va_arg(arguments, void *);
  void *data = __builtin_va_arg(arguments, void *);
  __builtin_va_end(arguments);

  if (request == PTRACE_SETREGSET && address == (void *)NT_X86_XSTATE) {
    const struct iovec *given = data;
    struct iovec state = {whole, sizeof whole};
    if (next(PTRACE_GETREGSET, process, address, &state) == 0 && state.iov_len > given->iov_len) {
      memset(whole, 0, state.iov_len);
      memcpy(whole, given->iov_base, given->iov_len);
      return next(request, process, address, &state);
    }
  }
  return next(request, process, address, data);
}
