// The memory-bound parts of a training step: everything except matrix products and attention. No
// header is included, so NVRTC alone can compile it; with `emulate.h` in front, it is C++ for the
// CPU, where the tests run it.
//
// Set on the compiler's command line: ELEMENT_BF16 (1: activations and their gradients are bf16, 0:
// f32) and VECTOR (8 or 1: number of elements that a thread moves at once; every row width and
// offset is a multiple of it). Arithmetic is f32. Sums have a fixed order: there are no atomic
// additions, so results do not depend on how blocks are scheduled.
typedef long long i64;
#ifndef KERNEL
#define KERNEL extern "C" __global__ void
#endif

#if ELEMENT_BF16
typedef unsigned short E;
__device__ __forceinline__ float up(E x) { return __uint_as_float((unsigned)x << 16); }
__device__ __forceinline__ E down(float x) {
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
  E r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r) : "f"(x));
  return r;
#else
  unsigned u = __float_as_uint(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return (E)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
}
#else
typedef float E;
__device__ __forceinline__ float up(E x) { return x; }
__device__ __forceinline__ E down(float x) { return x; }
#endif

// VECTOR elements, moved at once.
struct __align__(sizeof(E) * VECTOR) Pack { E e[VECTOR]; };
struct __align__(VECTOR == 1 ? 4 : 16) Floats { float f[VECTOR == 1 ? 1 : 4]; };
#define FLOATS (VECTOR == 1 ? 1 : 4)
// As many elements as in Floats, moved at once.
struct __align__(sizeof(E) * FLOATS) Elements { E e[FLOATS]; };

__device__ __forceinline__ void load(const E* p, float* f) {
  Pack v = *(const Pack*)p;
  for (int i = 0; i < VECTOR; i++) f[i] = up(v.e[i]);
}
#if VECTOR == 8 && (defined(__CUDACC__) || defined(__CUDACC_RTC__))
// Without this, the compiler splits some of these into stores of 2 or 4 bytes.
__device__ __forceinline__ void store16(void* p, unsigned a, unsigned b, unsigned c, unsigned d) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" :: "l"(p), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}
#if ELEMENT_BF16
// a in the lower half.
__device__ __forceinline__ unsigned two(float a, float b) {
  unsigned r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
  return r;
}
__device__ __forceinline__ void store(E* p, const float* f) {
  store16(p, two(f[0], f[1]), two(f[2], f[3]), two(f[4], f[5]), two(f[6], f[7]));
}
#else
__device__ __forceinline__ void store(E* p, const float* f) {
  for (int i = 0; i < 8; i += 4)
    store16(p + i, __float_as_uint(f[i]), __float_as_uint(f[i + 1]), __float_as_uint(f[i + 2]), __float_as_uint(f[i + 3]));
}
#endif
#else
__device__ __forceinline__ void store(E* p, const float* f) {
  Pack v;
  for (int i = 0; i < VECTOR; i++) v.e[i] = down(f[i]);
  *(Pack*)p = v;
}
#endif
// VECTOR floats of a weight or a table.
__device__ __forceinline__ void floats(const float* p, float* f) {
  for (int i = 0; i < VECTOR; i += FLOATS) {
    Floats v = *(const Floats*)(p + i);
    for (int e = 0; e < FLOATS; e++) f[i + e] = v.f[e];
  }
}

// The sum over a block, the same in all its threads. `s` holds 32 floats of shared memory.
__device__ __forceinline__ float block_sum(float v, float* s) {
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  if ((threadIdx.x & 31) == 0) s[threadIdx.x >> 5] = v;
  __syncthreads();
  float r = 0;
  for (int i = 0; i < (int)(blockDim.x / 32); i++) r += s[i];
  __syncthreads();
  return r;
}
__device__ __forceinline__ float block_max(float v, float* s) {
  for (int o = 16; o; o >>= 1) v = fmaxf(v, __shfl_xor_sync(~0u, v, o));
  if ((threadIdx.x & 31) == 0) s[threadIdx.x >> 5] = v;
  __syncthreads();
  float r = s[0];
  for (int i = 1; i < (int)(blockDim.x / 32); i++) r = fmaxf(r, s[i]);
  __syncthreads();
  return r;
}

// Maximum number of VECTOR chunks per thread: a row has at most CHUNKS * blockDim * VECTOR
// elements.
#define CHUNKS 4
// The same for pairs of chunks, one in each half of a head.
#define PAIRS 2
// Each body is instantiated twice: for one chunk per thread, with its arrays in registers, and for
// up to the maximum, indexed by k, with arrays in local memory. (If unrolled, the latter would take
// so many registers that fewer blocks of the former could run.)
template <int N> struct Most { static constexpr int value = N; };
#define MOST(m) constexpr int most = decltype(m)::value
#define EACH(n) _Pragma("unroll 1") for (int k = 0, c = threadIdx.x; k < most && c < (n); k++, c += blockDim.x)

// out = (residual +) norm(x) * weight. layer: LayerNorm, otherwise RMSNorm. mean (with layer) and
// rstd are kept, one per row.
KERNEL norm_forward(const E* x, const E* residual, const float* weight, E* out, float* mean, float* rstd, i64 rows, int d, float eps, int layer) {
  __shared__ float s[32];
  int n = d / VECTOR;
  auto walk = [&](auto chunks) {
    MOST(chunks);
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
      float f[most][VECTOR], a = 0, m = 0;
      EACH(n) {
        load(x + row * d + c * VECTOR, f[k]);
        for (int e = 0; e < VECTOR; e++) a += f[k][e];
      }
      if (layer) m = block_sum(a, s) / d;
      float q = 0;
      EACH(n) for (int e = 0; e < VECTOR; e++) { f[k][e] -= m; q += f[k][e] * f[k][e]; }
      float r = rsqrtf(block_sum(q, s) / d + eps);
      if (threadIdx.x == 0) { rstd[row] = r; if (layer) mean[row] = m; }
      EACH(n) {
        float y[VECTOR], w[VECTOR];
        for (int e = 0; e < VECTOR; e++) { y[e] = 0; w[e] = 1; }
        if (residual) load(residual + row * d + c * VECTOR, y);
        if (weight) floats(weight + c * VECTOR, w);
        for (int e = 0; e < VECTOR; e++) y[e] += f[k][e] * r * w[e];
        store(out + row * d + c * VECTOR, y);
      }
    }
  };
  if (n <= (int)blockDim.x) walk(Most<1>()); else walk(Most<CHUNKS>());
}

// dx (+ residual) of norm_forward for the incoming dy; each block's part of the weight's gradient
// goes to part[block][d], if there is one.
KERNEL norm_backward(const E* dy, const E* x, const float* mean, const float* rstd, const float* weight, const E* residual, E* dx, float* part, i64 rows, int d, int layer) {
  __shared__ float s[32];
  int n = d / VECTOR;
  auto walk = [&](auto chunks) {
    MOST(chunks);
    float dw[most][VECTOR];
    for (int k = 0; k < most; k++) for (int e = 0; e < VECTOR; e++) dw[k][e] = 0;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
      float g[most][VECTOR], f[most][VECTOR], a = 0, b = 0, r = rstd[row], m = layer ? mean[row] : 0.f;
      EACH(n) {
        float w[VECTOR];
        for (int e = 0; e < VECTOR; e++) w[e] = 1;
        load(dy + row * d + c * VECTOR, g[k]);
        load(x + row * d + c * VECTOR, f[k]);
        if (weight) floats(weight + c * VECTOR, w);
        for (int e = 0; e < VECTOR; e++) {
          f[k][e] = (f[k][e] - m) * r;
          dw[k][e] += g[k][e] * f[k][e];
          g[k][e] *= w[e];
          a += g[k][e];
          b += g[k][e] * f[k][e];
        }
      }
      a = layer ? block_sum(a, s) / d : 0.f;
      b = block_sum(b, s) / d;
      EACH(n) {
        float y[VECTOR];
        for (int e = 0; e < VECTOR; e++) y[e] = 0;
        if (residual) load(residual + row * d + c * VECTOR, y);
        for (int e = 0; e < VECTOR; e++) y[e] += r * (g[k][e] - a - f[k][e] * b);
        store(dx + row * d + c * VECTOR, y);
      }
    }
    if (part) EACH(n) for (int e = 0; e < VECTOR; e++) part[(i64)blockIdx.x * d + c * VECTOR + e] = dw[k][e];
  };
  if (n <= (int)blockDim.x) walk(Most<1>()); else walk(Most<CHUNKS>());
}

// out[c] (+)= the sum of column c of part, in row order.
KERNEL column_sum(const float* part, float* out, int rows, int d, int add) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= d) return;
  float a = add ? out[c] : 0.f;
  for (int i = 0; i < rows; i++) a += part[(i64)i * d + c];
  out[c] = a;
}

__device__ __forceinline__ float clamped(float x, float clip) { return clip > 0 ? fminf(fmaxf(x, -clip), clip) : x; }

// raw [rows, d + 2 kv]: clamp, norm of queries and of keys over their full widths (with wq),
// rotation by the token's position -> heads. stats [rows, 4]: mean and rstd of queries, then of
// keys.
KERNEL qkv_forward(const E* raw, const float* wq, const float* wk, const float* cosines, const float* sines, E* heads, float* stats, i64 rows, int d, int kv, int head, int sequence, float eps, int layer, float clip) {
  __shared__ float s[32];
  int width = d + 2 * kv, half = head / 2;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* cs = cosines + (row % sequence) * half;
    const float* sn = sines + (row % sequence) * half;
    for (int p = 0; p < 2; p++) {
      const E* from = raw + row * width + (p ? d : 0);
      E* to = heads + row * width + (p ? d : 0);
      const float* w = p ? wk : wq;
      int size = p ? kv : d;
      float m = 0, r = 1, f[VECTOR], g[VECTOR];
      if (w) {
        float a = 0;
        if (layer) {
          for (int c = threadIdx.x; c < size / VECTOR; c += blockDim.x) {
            load(from + c * VECTOR, f);
            for (int e = 0; e < VECTOR; e++) a += clamped(f[e], clip);
          }
          m = block_sum(a, s) / size;
        }
        a = 0;
        for (int c = threadIdx.x; c < size / VECTOR; c += blockDim.x) {
          load(from + c * VECTOR, f);
          for (int e = 0; e < VECTOR; e++) { float x = clamped(f[e], clip) - m; a += x * x; }
        }
        r = rsqrtf(block_sum(a, s) / size + eps);
        if (threadIdx.x == 0) { stats[row * 4 + 2 * p] = m; stats[row * 4 + 2 * p + 1] = r; }
      }
      for (int c = threadIdx.x; c < size / 2 / VECTOR; c += blockDim.x) {
        int at = c * VECTOR, h = at / half, j = at % half, i = h * head + j;
        float u[VECTOR], v[VECTOR], co[VECTOR], si[VECTOR];
        load(from + i, f);
        load(from + i + half, g);
        for (int e = 0; e < VECTOR; e++) u[e] = v[e] = 1;
        if (w) { floats(w + i, u); floats(w + i + half, v); }
        floats(cs + j, co);
        floats(sn + j, si);
        for (int e = 0; e < VECTOR; e++) {
          float x = (clamped(f[e], clip) - m) * r * u[e], y = (clamped(g[e], clip) - m) * r * v[e];
          f[e] = x * co[e] - y * si[e];
          g[e] = y * co[e] + x * si[e];
        }
        store(to + i, f);
        store(to + i + half, g);
      }
    }
    for (int c = threadIdx.x; c < kv / VECTOR; c += blockDim.x) {
      float f[VECTOR];
      load(raw + row * width + d + kv + c * VECTOR, f);
      for (int e = 0; e < VECTOR; e++) f[e] = clamped(f[e], clip);
      store(heads + row * width + d + kv + c * VECTOR, f);
    }
  }
}

// draw [rows, d + 2 kv] from the gradients of heads, which have element strides between tokens (qt,
// kt, vt) and between heads (qh, kh, vh). raw is read only for clamps and norms. Parts of the norm
// weights' gradients go to part_q[block][d] and part_k[block][kv].
KERNEL qkv_backward(const E* dq, i64 qt, i64 qh, const E* dk, i64 kt, i64 kh, const E* dv, i64 vt, i64 vh, const E* raw, const float* wq, const float* wk, const float* cosines, const float* sines, const float* stats, E* draw, float* part_q, float* part_k, i64 rows, int d, int kv, int head, int sequence, int layer, float clip) {
  __shared__ float s[32];
  int width = d + 2 * kv, half = head / 2;
  auto walk = [&](auto pairs) {
    MOST(pairs);
    float dw[2][most][2][VECTOR];
#pragma unroll
    for (int p = 0; p < 2; p++) for (int k = 0; k < most; k++) for (int e = 0; e < VECTOR; e++) dw[p][k][0][e] = dw[p][k][1][e] = 0;
    for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
      const float* cs = cosines + (row % sequence) * half;
      const float* sn = sines + (row % sequence) * half;
#pragma unroll
      for (int p = 0; p < 2; p++) {
        const E* g = p ? dk + row * kt : dq + row * qt;
        i64 hs = p ? kh : qh;
        i64 start = row * width + (p ? d : 0);
        const float* w = p ? wk : wq;
        int size = p ? kv : d;
        float m = w ? stats[row * 4 + 2 * p] : 0.f, r = w ? stats[row * 4 + 2 * p + 1] : 1.f, a = 0, b = 0;
        float gf[most][2][VECTOR], xf[most][2][VECTOR];
        EACH(size / 2 / VECTOR) {
          int at = c * VECTOR, h = at / half, j = at % half, i = h * head + j;
          load(g + h * hs + j, gf[k][0]);
          load(g + h * hs + j + half, gf[k][1]);
          float co[VECTOR], si[VECTOR], u[VECTOR];
          floats(cs + j, co);
          floats(sn + j, si);
          for (int e = 0; e < VECTOR; e++) {
            float x = gf[k][0][e], y = gf[k][1][e];
            gf[k][0][e] = x * co[e] + y * si[e];
            gf[k][1][e] = y * co[e] - x * si[e];
          }
          if (w || clip > 0) { load(raw + start + i, xf[k][0]); load(raw + start + i + half, xf[k][1]); }
          if (w) {
            for (int z = 0; z < 2; z++) {
              floats(w + i + z * half, u);
              for (int e = 0; e < VECTOR; e++) {
                float x = (clamped(xf[k][z][e], clip) - m) * r, y = gf[k][z][e];
                dw[p][k][z][e] += y * x;
                y *= u[e];
                a += y;
                b += y * x;
                gf[k][z][e] = y;
              }
            }
          }
        }
        if (w) { a = layer ? block_sum(a, s) / size : 0.f; b = block_sum(b, s) / size; }
        EACH(size / 2 / VECTOR) {
          int at = c * VECTOR, h = at / half, j = at % half, i = h * head + j;
          for (int z = 0; z < 2; z++) {
            for (int e = 0; e < VECTOR; e++) {
              float y = gf[k][z][e];
              if (w) y = r * (y - a - (clamped(xf[k][z][e], clip) - m) * r * b);
              if (clip > 0 && fabsf(xf[k][z][e]) > clip) y = 0;
              gf[k][z][e] = y;
            }
            store(draw + start + i + z * half, gf[k][z]);
          }
        }
      }
      for (int c = threadIdx.x; c < kv / VECTOR; c += blockDim.x) {
        int i = c * VECTOR;
        i64 start = row * width + d + kv + i;
        float f[VECTOR], x[VECTOR];
        load(dv + row * vt + (i / head) * vh + i % head, f);
        if (clip > 0) {
          load(raw + start, x);
          for (int e = 0; e < VECTOR; e++) if (fabsf(x[e]) > clip) f[e] = 0;
        }
        store(draw + start, f);
      }
    }
    if (!wq) return;
#pragma unroll
    for (int p = 0; p < 2; p++) {
      int size = p ? kv : d;
      float* part = (p ? part_k : part_q) + (i64)blockIdx.x * size;
      EACH(size / 2 / VECTOR) {
        int at = c * VECTOR, i = (at / half) * head + at % half;
        for (int z = 0; z < 2; z++) for (int e = 0; e < VECTOR; e++) part[i + z * half + e] = dw[p][k][z][e];
      }
    }
  };
  if (d / 2 / VECTOR <= (int)blockDim.x) walk(Most<1>()); else walk(Most<PAIRS>());
}

// up_gate [rows, 2 f]: up, then gate. activation = silu(gate) * up, [rows, f]. total: rows * f /
// VECTOR.
KERNEL swiglu_forward(const E* up_gate, E* activation, int f, i64 total) {
  i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x;
  if (i >= total) return;
  int per = f / VECTOR;
  i64 row = i / per;
  int c = (int)(i % per) * VECTOR;
  float u[VECTOR], g[VECTOR];
  load(up_gate + row * 2 * f + c, u);
  load(up_gate + row * 2 * f + f + c, g);
  for (int e = 0; e < VECTOR; e++) u[e] *= g[e] / (1 + __expf(-g[e]));
  store(activation + row * f + c, u);
}

// up_gate turns into its gradient; `activation` first holds its own gradient and is recomputed in
// place.
KERNEL swiglu_backward(E* up_gate, E* activation, int f, i64 total) {
  i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x;
  if (i >= total) return;
  int per = f / VECTOR;
  i64 row = i / per;
  int c = (int)(i % per) * VECTOR;
  float u[VECTOR], g[VECTOR], d[VECTOR], o[VECTOR];
  load(up_gate + row * 2 * f + c, u);
  load(up_gate + row * 2 * f + f + c, g);
  load(activation + row * f + c, d);
  for (int e = 0; e < VECTOR; e++) {
    float t = 1 / (1 + __expf(-g[e])), silu = g[e] * t;
    o[e] = u[e] * silu;
    g[e] = d[e] * u[e] * (t + silu * (1 - t));
    u[e] = d[e] * silu;
  }
  store(up_gate + row * 2 * f + c, u);
  store(up_gate + row * 2 * f + f + c, g);
  store(activation + row * f + c, o);
}

// One row of logits (stride elements apart) per block. losses[row]: negative log-likelihood and
// squared log partition function. With `gradient`, the row becomes the gradient of (nll + z_loss *
// lse^2) * scale. The largest logit and the sum come from one pass; the threads' values are merged
// at its end.
KERNEL cross_entropy(E* logits, i64 stride, const i64* targets, float* losses, int vocabulary, float scale, float z_loss, int gradient) {
  __shared__ float s[32];
  i64 row = blockIdx.x;
  E* p = logits + row * stride;
  int whole = vocabulary / VECTOR * VECTOR;
  float most = -1e30f, sum = 0, f[VECTOR];
  for (int i = threadIdx.x * VECTOR; i < vocabulary; i += blockDim.x * VECTOR) {
    int count = i < whole ? VECTOR : vocabulary - i;
    float largest = most;
    if (count == VECTOR) load(p + i, f); else for (int e = 0; e < count; e++) f[e] = up(p[i + e]);
    for (int e = 0; e < count; e++) largest = fmaxf(largest, f[e]);
    sum *= __expf(most - largest);
    for (int e = 0; e < count; e++) sum += __expf(f[e] - largest);
    most = largest;
  }
  float largest = block_max(most, s);
  sum = block_sum(sum * __expf(most - largest), s);
  float shifted = logf(sum), lse = shifted + largest;
  i64 target = targets[row];
  if (threadIdx.x == 0) {
    losses[row * 2] = shifted + (largest - up(p[target]));
    losses[row * 2 + 1] = lse * lse;
  }
  if (!gradient) return;
  __syncthreads();
  float factor = scale * (1 + 2 * z_loss * lse) / sum;
  for (int i = threadIdx.x * VECTOR; i < vocabulary; i += blockDim.x * VECTOR) {
    int count = i < whole ? VECTOR : vocabulary - i;
    if (count == VECTOR) load(p + i, f); else for (int e = 0; e < count; e++) f[e] = up(p[i + e]);
    for (int e = 0; e < count; e++) {
      f[e] = __expf(f[e] - largest) * factor;
      if (i + e == target) f[e] -= scale;
    }
    if (count == VECTOR) store(p + i, f); else for (int e = 0; e < count; e++) p[i + e] = down(f[e]);
  }
}

// gradient[ids[n]] += the rows of dx at order[starts[n]..starts[n + 1]], one after another. Each id
// has as many blocks as the columns of a row need.
KERNEL embedding_backward(const E* dx, const i64* order, const i64* starts, const i64* ids, float* gradient, int d) {
  int pieces = (d + blockDim.x - 1) / blockDim.x, n = blockIdx.x / pieces, c = blockIdx.x % pieces * blockDim.x + threadIdx.x;
  if (c >= d) return;
  float a = gradient[ids[n] * d + c];
  for (i64 i = starts[n]; i < starts[n + 1]; i++) a += up(dx[order[i] * d + c]);
  gradient[ids[n] * d + c] = a;
}

// part[block]: sum of squares of a part of g. total: length / FLOATS.
KERNEL square_sum(const float* g, i64 total, float* part) {
  __shared__ float s[32];
  float a = 0;
  for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < total; i += (i64)gridDim.x * blockDim.x) {
    Floats v = ((const Floats*)g)[i];
    for (int e = 0; e < FLOATS; e++) a += v.f[e] * v.f[e];
  }
  a = block_sum(a, s);
  if (threadIdx.x == 0) part[blockIdx.x] = a;
}

// AdamW as in torch.optim.AdamW, after clipping to max_norm (no clipping unless it is above 0):
// updates weights, both moments, and the copy that products read. norm is that of all gradients; if
// it is not finite, nothing changes. total: length / FLOATS.
KERNEL adamw(const float* g, E* copy, float* w, float* m, float* v, i64 total, float keep, float one_minus_beta1, float beta2, float one_minus_beta2, float root_correction2, float eps, float step_size, const double* norm, float max_norm) {
  double length = *norm;
  if (!(length < 1e300)) return;
  float scale = max_norm > 0 ? (float)fmin(1.0, max_norm / (length + 1e-6)) : 1.f;
  for (i64 i = blockIdx.x * (i64)blockDim.x + threadIdx.x; i < total; i += (i64)gridDim.x * blockDim.x) {
    Floats G = ((const Floats*)g)[i], W = ((Floats*)w)[i], M = ((Floats*)m)[i], Q = ((Floats*)v)[i];
    Elements C;
    for (int e = 0; e < FLOATS; e++) {
      float x = G.f[e] * scale;
      W.f[e] *= keep;
      M.f[e] += (x - M.f[e]) * one_minus_beta1;
      Q.f[e] = Q.f[e] * beta2 + one_minus_beta2 * x * x;
      W.f[e] -= step_size * (M.f[e] / (sqrtf(Q.f[e]) / root_correction2 + eps));
      C.e[e] = down(W.f[e]);
    }
    if (copy) ((Elements*)copy)[i] = C;
    ((Floats*)w)[i] = W;
    ((Floats*)m)[i] = M;
    ((Floats*)v)[i] = Q;
  }
}
