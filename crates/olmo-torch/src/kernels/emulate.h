// CUDA C++ on the CPU, as far as kernels.cu uses it: for tests; slow and strict. It precedes the
// kernels' source.
//
// A block's threads are fibers in the calling thread; each runs until it waits for others
// (__syncthreads, a shuffle) or ends. Blocks run one after another, those with an odd index from
// their last thread to their first, so that a missing __syncthreads changes the result. Anything
// that would make a GPU hang or return garbage ends the process with the kernel's name and the
// line: threads that wait at different places, a thread that ended while others wait for it, a
// shuffle from a missing lane, a stack overflow, and (by the compiler's checks) a misaligned
// address, an index beyond an array, or a division by zero.
//
// Not detected: addresses beyond an array passed by the caller, races between blocks, and rounding
// that differs on a GPU.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <utility>

#define __global__ __attribute__((visibility("default")))
#define __device__
#define __host__
#define __constant__ static const
#define __shared__ static thread_local
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __launch_bounds__(...)

struct Emulated3 { unsigned x, y, z; };
// State of the running thread.
extern "C" {
__attribute__((visibility("hidden"))) thread_local Emulated3 threadIdx, blockIdx, blockDim, gridDim;
}
static const int warpSize = 32;

namespace emulate {

enum State { READY, AT_BARRIER, AT_SHUFFLE, ENDED };
enum { STACK = 64 * 1024, CANARY = 0x5aa5c33c };

struct Fiber {
  void* at;             // its stack pointer while it waits
  char* stack;
  State state;
  int line;             // where it waits
  unsigned mask, from;  // of a shuffle
  unsigned width;       // bytes moved
  uint64_t value, got;
};

struct Block {
  const char* kernel;
  unsigned threads;
  unsigned running;
  void* scheduler;      // its stack pointer while a fiber runs
  void (*body)(void*);
  void* arguments;
  Fiber fibers[1024];
};
__attribute__((visibility("hidden"))) thread_local Block* block;

[[noreturn]] inline void refuse(const char* what) {
  std::fprintf(stderr, "kernel %s, block %u: %s\n", block ? block->kernel : "?", blockIdx.x, what);
  std::fflush(stderr);
  std::abort();
}

// Saves the registers that a call must preserve on the current stack, and switches to another
// stack.
extern "C" __attribute__((visibility("hidden"))) void emulate_switch(void** from, void* to);
extern "C" __attribute__((visibility("hidden"))) void emulate_start();
#if defined(__x86_64__)
asm(R"(
.text
.globl emulate_switch
.hidden emulate_switch
.type emulate_switch,@function
emulate_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulate_switch,.-emulate_switch
)");
enum { SAVED = 6 };
// Six registers, the return address, and padding that aligns the stack as after a call.
inline void* first(char* top) {
  void** at = (void**)top - 8;
  std::memset(at, 0, 8 * sizeof(void*));
  at[SAVED] = (void*)emulate_start;
  return at;
}
#elif defined(__aarch64__)
asm(R"(
.text
.globl emulate_switch
.hidden emulate_switch
.type emulate_switch,%function
emulate_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size emulate_switch,.-emulate_switch
)");
inline void* first(char* top) {
  void** at = (void**)top - 20;
  std::memset(at, 0, 20 * sizeof(void*));
  at[11] = (void*)emulate_start;
  return at;
}
#else
#error "kernels run on the CPU of x86-64 and aarch64 alone"
#endif

// Switches to the scheduler, until it resumes this fiber.
__attribute__((noinline)) inline void wait(State state, int line) {
  Fiber& fiber = block->fibers[block->running];
  fiber.state = state;
  fiber.line = line;
  emulate_switch(&fiber.at, block->scheduler);
}

extern "C" void emulate_start() {
  block->body(block->arguments);
  wait(ENDED, 0);
  std::abort();
}

inline void barrier(int line) { wait(AT_BARRIER, line); }

template <class T> inline T shuffle(unsigned mask, T value, unsigned from, int line) {
  static_assert(sizeof(T) <= 8, "a shuffle moves 8 bytes at most");
  Fiber& fiber = block->fibers[block->running];
  if (!(mask >> (block->running % 32) & 1)) refuse("a lane shuffles with a mask that it is not in");
  fiber.mask = mask;
  fiber.from = from;
  fiber.width = sizeof(T);
  std::memcpy(&fiber.value, &value, sizeof(T));
  wait(AT_SHUFFLE, line);
  T got;
  std::memcpy(&got, &block->fibers[block->running].got, sizeof(T));
  return got;
}

inline unsigned lane() { return threadIdx.x % 32; }

[[noreturn]] inline void stuck(unsigned first, unsigned last) {
  char text[512];
  int other = -1;
  for (unsigned i = first + 1; i < last && other < 0; i++) {
    const Fiber &a = block->fibers[first], &b = block->fibers[i];
    if (a.state != b.state || (a.state != ENDED && a.line != b.line) || (a.state == AT_SHUFFLE && a.mask != b.mask)) other = (int)i;
  }
  static const char* const at[] = {"", "waits at __syncthreads", "waits at a shuffle", "has ended"};
  auto place = [&](char* to, size_t size, unsigned thread) {
    const Fiber& fiber = block->fibers[thread];
    if (fiber.state == ENDED) std::snprintf(to, size, "thread %u has ended", thread);
    else if (fiber.state == AT_SHUFFLE) std::snprintf(to, size, "thread %u waits at a shuffle in line %d for lanes %#x", thread, fiber.line, fiber.mask);
    else std::snprintf(to, size, "thread %u %s in line %d", thread, at[fiber.state], fiber.line);
  };
  char one[160], two[160] = "";
  place(one, sizeof one, first);
  if (other >= 0) place(two, sizeof two, (unsigned)other);
  std::snprintf(text, sizeof text, "threads wait for each other: %s%s%s; a GPU would hang here or compute rubbish", one, other >= 0 ? ", " : "", two);
  refuse(text);
}

// Runs a warp until its lanes wait at a barrier or have ended.
inline void warp(unsigned first, unsigned last, bool backwards) {
  for (;;) {
    for (unsigned i = first; i < last; i++) {
      unsigned thread = backwards ? last - 1 - (i - first) : i;
      Fiber& fiber = block->fibers[thread];
      if (fiber.state != READY) continue;
      block->running = thread;
      threadIdx = {thread, 0, 0};
      emulate_switch(&block->scheduler, fiber.at);
      unsigned canary;
      std::memcpy(&canary, fiber.stack, sizeof canary);
      if (canary != CANARY) refuse("a thread's stack ran over");
    }
    bool shuffles = false, moved = false;
    for (unsigned i = first; i < last; i++) {
      Fiber& fiber = block->fibers[i];
      if (fiber.state != AT_SHUFFLE) continue;
      shuffles = true;
      bool all = true;
      for (unsigned j = first; j < last; j++) {
        const Fiber& other = block->fibers[j];
        if (fiber.mask >> (j - first) & 1)
          all = all && other.state == AT_SHUFFLE && other.line == fiber.line && other.mask == fiber.mask && other.width == fiber.width;
      }
      if (!all) continue;
      for (unsigned j = first; j < last; j++) {
        if (!(fiber.mask >> (j - first) & 1)) continue;
        Fiber& other = block->fibers[j];
        if (first + other.from >= last || !(fiber.mask >> other.from & 1)) refuse("a shuffle reads from a lane that takes no part");
        other.got = block->fibers[first + other.from].value;
      }
      // (After the exchange, because it reads the values of the others.)
      unsigned mask = fiber.mask;
      for (unsigned j = first; j < last; j++)
        if (mask >> (j - first) & 1) block->fibers[j].state = READY;
      moved = true;
    }
    if (!shuffles) return;
    if (!moved) stuck(first, last);
  }
}

inline void one_block(bool backwards) {
  unsigned threads = block->threads, warps = (threads + 31) / 32;
  for (unsigned i = 0; i < threads; i++) {
    Fiber& fiber = block->fibers[i];
    fiber.state = READY;
    fiber.at = first(fiber.stack + STACK);
  }
  for (;;) {
    for (unsigned w = 0; w < warps; w++) {
      unsigned which = backwards ? warps - 1 - w : w, from = which * 32;
      warp(from, from + 32 < threads ? from + 32 : threads, backwards);
    }
    unsigned ended = 0;
    for (unsigned i = 0; i < threads; i++) ended += block->fibers[i].state == ENDED;
    if (ended == threads) return;
    for (unsigned i = 1; i < threads; i++) {
      const Fiber &a = block->fibers[0], &b = block->fibers[i];
      if (a.state != b.state || a.line != b.line) stuck(0, threads);
    }
    for (unsigned i = 0; i < threads; i++) block->fibers[i].state = READY;
  }
}

// The stacks of this OS thread; created once.
inline Block* mine() {
  struct Owner {
    Block* block = nullptr;
    ~Owner() {
      if (!block) return;
      munmap(block->fibers[0].stack, (size_t)1024 * STACK);
      std::free(block);
    }
  };
  static thread_local Owner owner;
  if (!owner.block) {
    owner.block = (Block*)std::calloc(1, sizeof(Block));
    void* stacks = mmap(nullptr, (size_t)1024 * STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!owner.block || stacks == MAP_FAILED) {
      std::fprintf(stderr, "no memory for the stacks of a block's threads\n");
      std::abort();
    }
    for (unsigned i = 0; i < 1024; i++) owner.block->fibers[i].stack = (char*)stacks + (size_t)i * STACK;
  }
  return owner.block;
}

inline void run(const char* kernel, unsigned grid, unsigned threads, void (*body)(void*), void* arguments) {
  block = mine();
  block->kernel = kernel;
  block->threads = threads;
  block->body = body;
  block->arguments = arguments;
  const unsigned canary = CANARY;
  for (unsigned i = 0; i < threads; i++) std::memcpy(block->fibers[i].stack, &canary, sizeof canary);
  gridDim = {grid, 1, 1};
  blockDim = {threads, 1, 1};
  for (unsigned b = 0; b < grid; b++) {
    blockIdx = {b, 0, 0};
    one_block(b % 2 == 1);
  }
}

template <class... A, size_t... I> void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*(A*)arguments[I]...);
}
template <class... A> void launch(const char* name, void (*kernel)(A...), void** arguments, unsigned grid, unsigned threads) {
  struct Call { void (*kernel)(A...); void** arguments; } it{kernel, arguments};
  run(name, grid, threads, [](void* p) { auto* c = (Call*)p; call(c->kernel, c->arguments, std::index_sequence_for<A...>{}); }, &it);
}

}  // namespace emulate

// One for each kernel, after its source: arguments point to the values, as for cuLaunchKernel.
#define EMULATE(name) \
  extern "C" __attribute__((visibility("default"))) void emulated_##name(void** arguments, unsigned grid, unsigned threads) { \
    emulate::launch(#name, &name, arguments, grid, threads); \
  }

#define __syncthreads() emulate::barrier(__LINE__)
#define __syncwarp(...) ((void)emulate::shuffle(~0u, 0, emulate::lane(), __LINE__))
#define __shfl_sync(mask, value, from) emulate::shuffle(mask, value, (from) & 31, __LINE__)
#define __shfl_xor_sync(mask, value, bits) emulate::shuffle(mask, value, emulate::lane() ^ (bits), __LINE__)
#define __shfl_down_sync(mask, value, by) emulate::shuffle(mask, value, emulate::lane() + (by) < 32 ? emulate::lane() + (by) : emulate::lane(), __LINE__)
#define __shfl_up_sync(mask, value, by) emulate::shuffle(mask, value, emulate::lane() >= (unsigned)(by) ? emulate::lane() - (by) : emulate::lane(), __LINE__)

static inline float __uint_as_float(unsigned x) { float f; std::memcpy(&f, &x, 4); return f; }
static inline unsigned __float_as_uint(float x) { unsigned u; std::memcpy(&u, &x, 4); return u; }
static inline float __int_as_float(int x) { float f; std::memcpy(&f, &x, 4); return f; }
static inline int __float_as_int(float x) { int i; std::memcpy(&i, &x, 4); return i; }
// (Names that the C library defines itself.)
#define __expf(x) std::exp((float)(x))
#define __logf(x) std::log((float)(x))
static inline float __fdividef(float x, float y) { return x / y; }
static inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
template <class T> static inline T __ldg(const T* p) { return *p; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
// Blocks run one after another, so this is a plain addition.
static inline float atomicAdd(float* p, float x) { float was = *p; *p += x; return was; }
static inline int atomicAdd(int* p, int x) { int was = *p; *p += x; return was; }

// Called by the compiler's checks (-fsanitize), so that their library is not needed.
struct EmulatedPlace { const char* file; unsigned line, column; };
extern "C" {
[[noreturn]] __attribute__((visibility("hidden"))) inline void emulated_fault(const EmulatedPlace* place, const char* what) {
  char text[256];
  std::snprintf(text, sizeof text, "%s in line %u (thread %u)", what, place->line, threadIdx.x);
  emulate::refuse(text);
}
#define EMULATED_CHECK(name, what, ...) \
  [[noreturn]] __attribute__((visibility("hidden"), used)) void __ubsan_handle_##name##_abort(EmulatedPlace* place, ##__VA_ARGS__) { emulated_fault(place, what); }
[[noreturn]] __attribute__((visibility("hidden"), used)) void __ubsan_handle_type_mismatch_v1_abort(EmulatedPlace* place, uintptr_t address) {
  emulated_fault(place, address == 0 ? "a null pointer is read or written" : "an address is not aligned to what is read or written there");
}
EMULATED_CHECK(out_of_bounds, "an index is beyond its array", uintptr_t)
EMULATED_CHECK(divrem_overflow, "a division by zero", uintptr_t, uintptr_t)
}
