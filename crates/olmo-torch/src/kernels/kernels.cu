// The memory-bound parts of a training step: everything but matrix products and attention. No header is included, so NVRTC alone
// compiles it; `emulate.h` in front makes it C++ for the CPU, where the tests run it.
//
// Set by the compiler's command line: ELEMENT_BF16 (1: activations and gradients of activations are bf16, 0: f32) and VECTOR (8 or 1: how
// many elements a thread moves at once; every row width and offset is a multiple of it). Arithmetic is f32. Sums have a fixed order:
// nothing is added atomically, so a result does not depend on how blocks are scheduled.
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

// VECTOR elements, moved as one.
struct __align__(sizeof(E) * VECTOR) Pack { E e[VECTOR]; };
struct __align__(VECTOR == 1 ? 4 : 16) Floats { float f[VECTOR == 1 ? 1 : 4]; };
#define FLOATS (VECTOR == 1 ? 1 : 4)
// As many elements as Floats has, moved as one.
struct __align__(sizeof(E) * FLOATS) Elements { E e[FLOATS]; };

__device__ __forceinline__ void load(const E* p, float* f) {
  Pack v = *(const Pack*)p;
  for (int i = 0; i < VECTOR; i++) f[i] = up(v.e[i]);
}
__device__ __forceinline__ void store(E* p, const float* f) {
  Pack v;
  for (int i = 0; i < VECTOR; i++) v.e[i] = down(f[i]);
  *(Pack*)p = v;
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

// Chunks of VECTOR that a thread keeps in registers: a row has at most CHUNKS * blockDim * VECTOR elements.
#define CHUNKS 4
// The same for pairs of chunks, one in each half of a head.
#define PAIRS 2

// out = (residual +) norm(x) * weight. layer: LayerNorm, else RMSNorm. mean (with layer) and rstd are kept, one a row.
KERNEL norm_forward(const E* x, const E* residual, const float* weight, E* out, float* mean, float* rstd, i64 rows, int d, float eps, int layer) {
  __shared__ float s[32];
  int n = d / VECTOR;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    float f[CHUNKS][VECTOR], a = 0, m = 0;
    int k = 0;
    for (int c = threadIdx.x; c < n; c += blockDim.x, k++) {
      load(x + row * d + c * VECTOR, f[k]);
      for (int e = 0; e < VECTOR; e++) a += f[k][e];
    }
    if (layer) m = block_sum(a, s) / d;
    float q = 0;
    k = 0;
    for (int c = threadIdx.x; c < n; c += blockDim.x, k++)
      for (int e = 0; e < VECTOR; e++) { f[k][e] -= m; q += f[k][e] * f[k][e]; }
    float r = rsqrtf(block_sum(q, s) / d + eps);
    if (threadIdx.x == 0) { rstd[row] = r; if (layer) mean[row] = m; }
    k = 0;
    for (int c = threadIdx.x; c < n; c += blockDim.x, k++) {
      float y[VECTOR];
      for (int e = 0; e < VECTOR; e++) y[e] = 0;
      if (residual) load(residual + row * d + c * VECTOR, y);
      for (int e = 0; e < VECTOR; e++) y[e] += f[k][e] * r * (weight ? weight[c * VECTOR + e] : 1.f);
      store(out + row * d + c * VECTOR, y);
    }
  }
}

// dx (+ residual) of norm_forward for the incoming dy; each block's part of the weight's gradient goes to part[block][d], if there is one.
KERNEL norm_backward(const E* dy, const E* x, const float* mean, const float* rstd, const float* weight, const E* residual, E* dx, float* part, i64 rows, int d, int layer) {
  __shared__ float s[32];
  int n = d / VECTOR;
  float dw[CHUNKS][VECTOR];
  for (int k = 0; k < CHUNKS; k++) for (int e = 0; e < VECTOR; e++) dw[k][e] = 0;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    float g[CHUNKS][VECTOR], f[CHUNKS][VECTOR], a = 0, b = 0, r = rstd[row], m = layer ? mean[row] : 0.f;
    int k = 0;
    for (int c = threadIdx.x; c < n; c += blockDim.x, k++) {
      load(dy + row * d + c * VECTOR, g[k]);
      load(x + row * d + c * VECTOR, f[k]);
      for (int e = 0; e < VECTOR; e++) {
        f[k][e] = (f[k][e] - m) * r;
        dw[k][e] += g[k][e] * f[k][e];
        if (weight) g[k][e] *= weight[c * VECTOR + e];
        a += g[k][e];
        b += g[k][e] * f[k][e];
      }
    }
    a = layer ? block_sum(a, s) / d : 0.f;
    b = block_sum(b, s) / d;
    k = 0;
    for (int c = threadIdx.x; c < n; c += blockDim.x, k++) {
      float y[VECTOR];
      for (int e = 0; e < VECTOR; e++) y[e] = 0;
      if (residual) load(residual + row * d + c * VECTOR, y);
      for (int e = 0; e < VECTOR; e++) y[e] += r * (g[k][e] - a - f[k][e] * b);
      store(dx + row * d + c * VECTOR, y);
    }
  }
  if (!part) return;
  int k = 0;
  for (int c = threadIdx.x; c < n; c += blockDim.x, k++)
    for (int e = 0; e < VECTOR; e++) part[(i64)blockIdx.x * d + c * VECTOR + e] = dw[k][e];
}

// out[c] (+)= the sum of part's column c, in the order of its rows.
KERNEL column_sum(const float* part, float* out, int rows, int d, int add) {
  int c = blockIdx.x * blockDim.x + threadIdx.x;
  if (c >= d) return;
  float a = add ? out[c] : 0.f;
  for (int i = 0; i < rows; i++) a += part[(i64)i * d + c];
  out[c] = a;
}

__device__ __forceinline__ float clamped(float x, float clip) { return clip > 0 ? fminf(fmaxf(x, -clip), clip) : x; }

// raw [rows, d + 2 kv]: clamp, norm of queries and of keys over their whole widths (with wq), rotation by the token's place -> heads.
// stats [rows, 4]: mean and rstd of queries, of keys.
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
        load(from + i, f);
        load(from + i + half, g);
        for (int e = 0; e < VECTOR; e++) {
          float x = (clamped(f[e], clip) - m) * r, y = (clamped(g[e], clip) - m) * r;
          if (w) { x *= w[i + e]; y *= w[i + half + e]; }
          f[e] = x * cs[j + e] - y * sn[j + e];
          g[e] = y * cs[j + e] + x * sn[j + e];
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

// draw [rows, d + 2 kv] from the gradients of heads. Those have strides in elements from token to token (qt, kt, vt) and head to head (qh, kh,
// vh). raw is read only for clamps and norms. Parts of the norm weights' gradients go to part_q[block][d] and part_k[block][kv].
KERNEL qkv_backward(const E* dq, i64 qt, i64 qh, const E* dk, i64 kt, i64 kh, const E* dv, i64 vt, i64 vh, const E* raw, const float* wq, const float* wk, const float* cosines, const float* sines, const float* stats, E* draw, float* part_q, float* part_k, i64 rows, int d, int kv, int head, int sequence, int layer, float clip) {
  __shared__ float s[32];
  int width = d + 2 * kv, half = head / 2;
  float dw[2][PAIRS][2][VECTOR];
  for (int p = 0; p < 2; p++) for (int k = 0; k < PAIRS; k++) for (int e = 0; e < VECTOR; e++) dw[p][k][0][e] = dw[p][k][1][e] = 0;
  for (i64 row = blockIdx.x; row < rows; row += gridDim.x) {
    const float* cs = cosines + (row % sequence) * half;
    const float* sn = sines + (row % sequence) * half;
    for (int p = 0; p < 2; p++) {
      const E* g = p ? dk + row * kt : dq + row * qt;
      i64 hs = p ? kh : qh;
      i64 start = row * width + (p ? d : 0);
      const float* w = p ? wk : wq;
      int size = p ? kv : d;
      float m = w ? stats[row * 4 + 2 * p] : 0.f, r = w ? stats[row * 4 + 2 * p + 1] : 1.f, a = 0, b = 0;
      float gf[PAIRS][2][VECTOR], xf[PAIRS][2][VECTOR];
      int k = 0;
      for (int c = threadIdx.x; c < size / 2 / VECTOR; c += blockDim.x, k++) {
        int at = c * VECTOR, h = at / half, j = at % half, i = h * head + j;
        load(g + h * hs + j, gf[k][0]);
        load(g + h * hs + j + half, gf[k][1]);
        for (int e = 0; e < VECTOR; e++) {
          float x = gf[k][0][e], y = gf[k][1][e];
          gf[k][0][e] = x * cs[j + e] + y * sn[j + e];
          gf[k][1][e] = y * cs[j + e] - x * sn[j + e];
        }
        if (w || clip > 0) { load(raw + start + i, xf[k][0]); load(raw + start + i + half, xf[k][1]); }
        if (w) {
          for (int z = 0; z < 2; z++) for (int e = 0; e < VECTOR; e++) {
            float x = (clamped(xf[k][z][e], clip) - m) * r, y = gf[k][z][e];
            dw[p][k][z][e] += y * x;
            y *= w[i + z * half + e];
            a += y;
            b += y * x;
            gf[k][z][e] = y;
          }
        }
      }
      if (w) { a = layer ? block_sum(a, s) / size : 0.f; b = block_sum(b, s) / size; }
      k = 0;
      for (int c = threadIdx.x; c < size / 2 / VECTOR; c += blockDim.x, k++) {
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
  for (int p = 0; p < 2; p++) {
    int size = p ? kv : d, k = 0;
    float* part = (p ? part_k : part_q) + (i64)blockIdx.x * size;
    for (int c = threadIdx.x; c < size / 2 / VECTOR; c += blockDim.x, k++) {
      int at = c * VECTOR, i = (at / half) * head + at % half;
      for (int z = 0; z < 2; z++) for (int e = 0; e < VECTOR; e++) part[i + z * half + e] = dw[p][k][z][e];
    }
  }
}

// up_gate [rows, 2 f]: up, then gate. activation = silu(gate) * up, [rows, f]. total: rows * f / VECTOR.
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

// up_gate becomes its gradient; `activation` holds its own gradient at first and is made again in its place.
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

// A row of logits (stride elements apart) a block. losses[row]: negative log-likelihood and squared log partition function. With `gradient` the
// row becomes the gradient of (nll + z_loss * lse^2) * scale. The largest logit and the sum come from one pass, each thread's merged at its end.
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

// gradient[ids[block]] += the rows of dx that order[starts[block]..starts[block + 1]] names, one after the other.
KERNEL embedding_backward(const E* dx, const i64* order, const i64* starts, const i64* ids, float* gradient, int d) {
  float* to = gradient + ids[blockIdx.x] * d;
  for (int c = threadIdx.x; c < d; c += blockDim.x) {
    float a = to[c];
    for (i64 i = starts[blockIdx.x]; i < starts[blockIdx.x + 1]; i++) a += up(dx[order[i] * d + c]);
    to[c] = a;
  }
}

// part[block]: squares of a part of g, added. total: length / FLOATS.
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

// AdamW as torch.optim.AdamW takes it, after clipping to max_norm (none if it is not above 0): weights, both moments, and the copy that
// products read. norm is that of all gradients; if it is not finite nothing changes. total: length / FLOATS.
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
