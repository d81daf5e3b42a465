// Functions of libtorch that `tch` lacks: attention by cuDNN and by flash kernels with their
// backward passes, the current stream, and the switch for TF32.
//
// Tensors are passed as `at::Tensor*`, as in torch-sys; returned tensors are new and owned by the
// caller. Only libtorch's dispatcher is called, so this also links against the CPU build and needs
// no CUDA headers. A function returns null, or an error message for `olmo_free`: no exception
// escapes.
#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention.h>
#include <ATen/ops/_scaled_dot_product_cudnn_attention_backward.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <cstdlib>
#include <cstring>
#include <optional>

namespace {

using at::Tensor;

const Tensor& at_(const void* tensor) { return *static_cast<const Tensor*>(tensor); }
Tensor or_none(const void* tensor) { return tensor ? at_(tensor) : Tensor(); }

template <class Work> char* caught(Work work) {
  try {
    // Bypass libtorch's own autograd.
    at::AutoDispatchBelowADInplaceOrView guard;
    work();
    return nullptr;
  } catch (const c10::Error& error) {
    return strdup(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception of an unknown kind");
  }
}

void gives(void** to, std::initializer_list<Tensor> tensors) {
  for (const Tensor& tensor : tensors) *to++ = new Tensor(tensor);
}

std::optional<c10::SymInt> window_left(int64_t window) {
  return window > 0 ? std::make_optional(c10::SymInt(window - 1)) : std::nullopt;
}
std::optional<c10::SymInt> window_right(int64_t window) {
  return window > 0 ? std::make_optional(c10::SymInt(0)) : std::nullopt;
}

}  // namespace

extern "C" {

void olmo_free(char* text) { std::free(text); }

// q, k, v [batch, heads, sequence, head]; causal. kept: output (like q), log-sum-exp, seed, offset,
// two cumulative lengths (may be undefined). lengths: the longest sequences of queries and keys.
char* olmo_cudnn_forward(const void* q, const void* k, const void* v, double scale, void** kept, int64_t* lengths) {
  return caught([&] {
    auto made = at::_scaled_dot_product_cudnn_attention(at_(q), at_(k), at_(v), std::nullopt, true, 0.0, true, false, scale);
    lengths[0] = std::get<4>(made).guard_int(__FILE__, __LINE__);
    lengths[1] = std::get<5>(made).guard_int(__FILE__, __LINE__);
    gives(kept, {std::get<0>(made), std::get<1>(made), std::get<6>(made), std::get<7>(made), std::get<2>(made), std::get<3>(made)});
  });
}

// kept and lengths as returned by olmo_cudnn_forward; gradients: of q, k, v.
char* olmo_cudnn_backward(const void* doutput, const void* q, const void* k, const void* v, void* const* kept, const int64_t* lengths,
                          double scale, void** gradients) {
  return caught([&] {
    auto made = at::_scaled_dot_product_cudnn_attention_backward_symint(
        at_(doutput), at_(q), at_(k), at_(v), at_(kept[0]), at_(kept[1]), at_(kept[2]), at_(kept[3]), Tensor(), at_(kept[4]),
        at_(kept[5]), lengths[0], lengths[1], 0.0, true, scale);
    gives(gradients, {std::get<0>(made), std::get<1>(made), std::get<2>(made)});
  });
}

// Causal. Without `ends` (null): q [batch, sequence, heads, head], k and v [batch, sequence,
// kv_heads, head]. With it (i32, documents + 1): q [tokens, heads, head], k and v likewise, and
// `longest` is the longest document. window: number of keys that a query sees, including its own; 0
// for all. kept: output (like q), log-sum-exp, the generator's state and an unused tensor.
char* olmo_flash_forward(const void* q, const void* k, const void* v, const void* ends, int64_t longest, int64_t window, double scale,
                         void** kept) {
  return caught([&] {
    std::optional<Tensor> lengths = ends ? std::make_optional(at_(ends)) : std::nullopt;
    auto made = at::_flash_attention_forward_symint(at_(q), at_(k), at_(v), lengths, lengths, longest, longest, 0.0, true, false, scale,
                                                    window_left(window), window_right(window));
    gives(kept, {std::get<0>(made), std::get<1>(made), std::get<2>(made), std::get<3>(made)});
  });
}

char* olmo_flash_backward(const void* doutput, const void* q, const void* k, const void* v, void* const* kept, const void* ends,
                          int64_t longest, int64_t window, double scale, void** gradients) {
  return caught([&] {
    auto made = at::_flash_attention_backward_symint(at_(doutput), at_(q), at_(k), at_(v), at_(kept[0]), at_(kept[1]), or_none(ends),
                                                     or_none(ends), longest, longest, 0.0, true, at_(kept[2]), at_(kept[3]), scale,
                                                     window_left(window), window_right(window));
    gives(gradients, {std::get<0>(made), std::get<1>(made), std::get<2>(made)});
  });
}

// A copy in pinned memory, for asynchronous copies to a GPU. (tch passes a device, for which
// libtorch prints a warning.)
char* olmo_pinned(const void* tensor, void** copy) {
  return caught([&] { gives(copy, {at_(tensor).pin_memory()}); });
}

// The stream of this thread's libtorch operations on a GPU, as a driver handle; null (the default
// stream) if there is no GPU.
char* olmo_current_stream(int index, void** stream) {
  *stream = nullptr;
  return caught([&] {
    if (!at::globalContext().hasCUDA()) return;
    c10::impl::VirtualGuardImpl cuda(c10::DeviceType::CUDA);
    *stream = cuda.getStream(c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index))).native_handle();
  });
}

char* olmo_allow_tf32(int allow) {
  return caught([&] { at::globalContext().setAllowTF32CuBLAS(allow != 0); });
}

int olmo_tf32_allowed() {
  int allowed = -1;
  std::free(caught([&] { allowed = at::globalContext().allowTF32CuBLAS(); }));
  return allowed;
}
}
