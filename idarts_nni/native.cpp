// Elementwise passes of the fused unroll, and of the softmax of the language model's head, for CPUs.
//
// One file without dependencies, built by native.py and called through ctypes. Names and meaning follow
// elementwise.py, which does the same in plain torch. T is the type of states (float or double), P the type of
// products (T, or bfloat16 kept as 16 bits). A NaN stays a NaN: no flag here assumes finite numbers.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>

namespace {

constexpr int kBlock = 64;       // columns handled at a time: their temporaries stay in the first-level cache
constexpr int kSmall = 8192;     // below this many elements a second thread costs more than it saves
constexpr int kMostOperations = 6;
// Loops only vectorise if what they call is inlined, and the compiler gives up on that in a file with many variants.
#define INLINE __attribute__((always_inline)) inline
enum Operation { kTanh = 1, kRelu = 2, kSigmoid = 4, kIdentity = 8, kGelu = 16, kSilu = 32 };
constexpr int kBasic = kTanh | kRelu | kSigmoid | kIdentity;

using BFloat16 = uint16_t;  // its bits; a struct would keep loops from being vectorised

INLINE float load(float x) { return x; }
INLINE double load(double x) { return x; }
INLINE float load(BFloat16 x) {
  uint32_t wide = static_cast<uint32_t>(x) << 16;
  float result;
  std::memcpy(&result, &wide, 4);
  return result;
}
INLINE void store(float* at, float x) { *at = x; }
INLINE void store(double* at, double x) { *at = x; }
INLINE void store(BFloat16* at, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *at = is_nan ? static_cast<uint16_t>(0x7fc0) : static_cast<uint16_t>(rounded);
}

// exp(x) - 1 for x <= 0, precise near 0: x = n ln 2 + r, then 2^n (exp(r) - 1) + (2^n - 1).
INLINE float expm1_negative(float x) {
  x = x < -87.0f ? -87.0f : x;  // written so that NaN passes
  float n = __builtin_nearbyintf(x * 1.44269504f);
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r;  // exp(r) - 1
  int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return power * p + (power - 1.0f);
}
INLINE float exp_negative(float x) { return expm1_negative(x) + 1.0f; }
INLINE double exp_negative(double x) { return std::exp(x); }

// tanh(x / 2): sigmoid and tanh both follow from it without loss of precision.
INLINE float half_tanh(float x) {
  float e = expm1_negative(-__builtin_fabsf(x));
  float t = -e / (2.0f + e);
  return __builtin_copysignf(t, x);
}
INLINE double half_tanh(double x) { return std::tanh(0.5 * x); }
template <typename T>
INLINE T sigmoid_of(T t) { return T(0.5) + T(0.5) * t; }
template <typename T>
INLINE T tanh_of(T t) { return (t + t) / (T(1) + t * t); }

template <typename T>
struct Coefficients {  // of one link
  T tanh = 0, relu = 0, sigmoid = 0, identity = 0, total = 0;
};

// Value and derivative of a mixture of the four basic operations; the others' terms fall away when compiled.
template <int kMask, typename T>
INLINE void mixture(const Coefficients<T>& a, T u, T& value, T& derivative, T& t_value, T& s_value) {
  value = 0;
  derivative = 0;
  if constexpr ((kMask & (kTanh | kSigmoid)) != 0) {
    T t = half_tanh(u);
    if constexpr ((kMask & kTanh) != 0) {
      t_value = tanh_of(t);
      value += a.tanh * t_value;
      derivative += a.tanh * (T(1) - t_value * t_value);
    }
    if constexpr ((kMask & kSigmoid) != 0) {
      s_value = sigmoid_of(t);
      value += a.sigmoid * s_value;
      derivative += a.sigmoid * s_value * (T(1) - s_value);
    }
  }
  if constexpr ((kMask & kRelu) != 0) {
    value += a.relu * (u <= T(0) ? T(0) : u);
    derivative += u > T(0) ? a.relu : T(0);
  }
  if constexpr ((kMask & kIdentity) != 0) {
    value += a.identity * u;
    derivative += a.identity;
  }
}

template <int kMask, bool kGated, typename T, typename P>
void spread_row(const Coefficients<T>& a, int n, const T* __restrict s, const P* __restrict gate,
                const P* __restrict update, T* __restrict total) {
#pragma omp simd
  for (int h = 0; h < n; ++h) {
    T value, derivative, t_value = 0, s_value = 0;
    mixture<kMask, T>(a, load(update[h]), value, derivative, t_value, s_value);
    if constexpr (kGated) {
      T c = sigmoid_of(half_tanh(T(load(gate[h]))));
      T carry = a.total * s[h];
      value = carry + c * (value - carry);
    }
    total[h] += value;
  }
}

template <int kMask, bool kGated, bool kGrad, typename T, typename P>
void spread_row_backward(const Coefficients<T>& a, int n, const T* __restrict s, P* __restrict gate,
                         P* __restrict update, const T* __restrict grad_total, T* __restrict grad_state,
                         double* __restrict grads) {
  T sum_tanh = 0, sum_relu = 0, sum_sigmoid = 0, sum_identity = 0, sum_carry = 0;
#pragma omp simd reduction(+ : sum_tanh, sum_relu, sum_sigmoid, sum_identity, sum_carry)
  for (int h = 0; h < n; ++h) {
    T u = load(update[h]), g = grad_total[h];
    T value, derivative, t_value = 0, s_value = 0, cg = g;
    mixture<kMask, T>(a, u, value, derivative, t_value, s_value);
    if constexpr (kGated) {
      T c = sigmoid_of(half_tanh(T(load(gate[h]))));
      cg = c * g;
      store(&gate[h], cg * (T(1) - c) * (value - a.total * s[h]));
      grad_state[h] += a.total * (g - cg);
      if constexpr (kGrad) sum_carry += (g - cg) * s[h];
    }
    store(&update[h], cg * derivative);
    if constexpr (kGrad) {
      if constexpr ((kMask & kTanh) != 0) sum_tanh += cg * t_value;
      if constexpr ((kMask & kSigmoid) != 0) sum_sigmoid += cg * s_value;
      if constexpr ((kMask & kRelu) != 0) sum_relu += cg * (u <= T(0) ? T(0) : u);
      if constexpr ((kMask & kIdentity) != 0) sum_identity += cg * u;
    }
  }
  if constexpr (kGrad) {
    grads[0] += double(sum_tanh) + sum_carry;
    grads[1] += double(sum_relu) + sum_carry;
    grads[2] += double(sum_sigmoid) + sum_carry;
    grads[3] += double(sum_identity) + sum_carry;
  }
}

template <typename T, typename P>
using SpreadRow = void (*)(const Coefficients<T>&, int, const T*, const P*, const P*, T*);
template <typename T, typename P>
using SpreadRowBackward = void (*)(const Coefficients<T>&, int, const T*, P*, P*, const T*, T*, double*);

template <typename T, typename P, int kMask = 15>
SpreadRow<T, P> spread_row_for(int mask, bool gated) {
  if (mask == kMask) return gated ? spread_row<kMask, true, T, P> : spread_row<kMask, false, T, P>;
  if constexpr (kMask > 1) return spread_row_for<T, P, kMask - 1>(mask, gated);
  return nullptr;
}

template <typename T, typename P, int kMask = 15>
SpreadRowBackward<T, P> spread_row_backward_for(int mask, bool gated, bool grad) {
  if (mask == kMask) {
    if (grad) return gated ? spread_row_backward<kMask, true, true, T, P> : spread_row_backward<kMask, false, true, T, P>;
    return gated ? spread_row_backward<kMask, true, false, T, P> : spread_row_backward<kMask, false, false, T, P>;
  }
  if constexpr (kMask > 1) return spread_row_backward_for<T, P, kMask - 1>(mask, gated, grad);
  return nullptr;
}

// Any operation, by number: values, and derivatives if wanted, of a block.
template <typename T>
void apply(int operation, int n, const T* __restrict u, T* __restrict value, T* __restrict derivative) {
  switch (operation) {
    case kTanh:
#pragma omp simd
      for (int h = 0; h < n; ++h) { T t = tanh_of(half_tanh(u[h])); value[h] = t; derivative[h] = T(1) - t * t; }
      break;
    case kSigmoid:
#pragma omp simd
      for (int h = 0; h < n; ++h) { T t = sigmoid_of(half_tanh(u[h])); value[h] = t; derivative[h] = t * (T(1) - t); }
      break;
    case kRelu:
#pragma omp simd
      for (int h = 0; h < n; ++h) { value[h] = u[h] <= T(0) ? T(0) : u[h]; derivative[h] = u[h] > T(0) ? T(1) : T(0); }
      break;
    case kIdentity:
#pragma omp simd
      for (int h = 0; h < n; ++h) { value[h] = u[h]; derivative[h] = T(1); }
      break;
    case kGelu:
      for (int h = 0; h < n; ++h) {
        T normal = T(0.5) * (T(1) + std::erf(u[h] * T(0.70710678118654752)));
        value[h] = u[h] * normal;
        derivative[h] = normal + u[h] * std::exp(T(-0.5) * u[h] * u[h]) * T(0.39894228040143268);
      }
      break;
    case kSilu:
#pragma omp simd
      for (int h = 0; h < n; ++h) {
        T gate = sigmoid_of(half_tanh(u[h]));
        value[h] = u[h] * gate;
        derivative[h] = gate + value[h] * (T(1) - gate);
      }
      break;
  }
}

// The links of one stage, as native.py describes them.
struct Stage {
  int64_t links, slots, gated, operations;
  const int64_t* targets;      // (links): row of the totals
  const int64_t* rows;         // (links): row of the coefficients
  const int64_t* masks;        // (links): operations in use, as bits
  const int64_t* codes;        // (operations): bit of each column of the coefficients
};

template <typename T>
Coefficients<T> coefficients_of(const Stage& stage, const T* row, int mask) {
  Coefficients<T> a;
  for (int k = 0; k < stage.operations; ++k) {
    if (!(stage.codes[k] & mask)) continue;
    a.total += row[k];
    if (stage.codes[k] == kTanh) a.tanh = row[k];
    if (stage.codes[k] == kRelu) a.relu = row[k];
    if (stage.codes[k] == kSigmoid) a.sigmoid = row[k];
    if (stage.codes[k] == kIdentity) a.identity = row[k];
  }
  return a;
}

// A slot that several links read, or that an operation outside the basic four reads: edge values first, then sums.
template <typename T, typename P>
struct General {
  T c[kBlock], u[kBlock], value[kMostOperations][kBlock], derivative[kMostOperations][kBlock];
  T sum[kMostOperations][kBlock], unused[kBlock];

  void evaluate(const Stage& st, int used, int n, const P* gate, const P* update) {
    for (int h = 0; h < n; ++h) u[h] = load(update[h]);
#pragma omp simd
    for (int h = 0; h < n; ++h) c[h] = st.gated ? sigmoid_of(half_tanh(T(load(gate[h])))) : T(1);
    for (int k = 0; k < st.operations; ++k)
      if (st.codes[k] & used) apply(int(st.codes[k]), n, u, value[k], derivative[k]);
  }

  void forward(const Stage& st, int first, int last, int used, int n, const T* coefficients, const T* s, const P* gate,
               const P* update, T* const* totals) {
    evaluate(st, used, n, gate, update);
    for (int k = 0; k < st.operations; ++k) {
      if (!(st.codes[k] & used)) continue;
#pragma omp simd
      for (int h = 0; h < n; ++h) value[k][h] = st.gated ? s[h] + c[h] * (value[k][h] - s[h]) : value[k][h];
    }
    for (int link = first; link < last; ++link) {
      T* __restrict total = totals[link];
      for (int k = 0; k < st.operations; ++k) {
        if (!(st.codes[k] & st.masks[link])) continue;
        T a = coefficients[st.rows[link] * st.operations + k];
#pragma omp simd
        for (int h = 0; h < n; ++h) total[h] += a * value[k][h];
      }
    }
  }

  void backward(const Stage& st, int first, int last, int used, int n, const T* coefficients, const T* s, P* gate,
                P* update, const T* const* grad_totals, T* grad_state, double* grads) {
    evaluate(st, used, n, gate, update);
    for (int k = 0; k < st.operations; ++k) {
      if (!(st.codes[k] & used)) continue;
      std::fill(sum[k], sum[k] + n, T(0));
      for (int link = first; link < last; ++link) {
        if (!(st.codes[k] & st.masks[link])) continue;
        T a = coefficients[st.rows[link] * st.operations + k];
        const T* g = grad_totals[link];
#pragma omp simd
        for (int h = 0; h < n; ++h) sum[k][h] += a * g[h];
        if (grads == nullptr) continue;
        T dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int h = 0; h < n; ++h) dot += g[h] * (st.gated ? s[h] + c[h] * (value[k][h] - s[h]) : value[k][h]);
        grads[link * st.operations + k] += dot;
      }
    }
    T grad_gate[kBlock] = {}, grad_update[kBlock] = {};
    for (int k = 0; k < st.operations; ++k) {
      if (!(st.codes[k] & used)) continue;
#pragma omp simd
      for (int h = 0; h < n; ++h) {
        grad_update[h] += sum[k][h] * derivative[k][h];
        if (st.gated) {
          grad_gate[h] += sum[k][h] * (value[k][h] - s[h]);
          grad_state[h] += sum[k][h] * (T(1) - c[h]);
        }
      }
    }
    for (int h = 0; h < n; ++h) {
      if (st.gated) store(&gate[h], grad_gate[h] * c[h] * (T(1) - c[h]));
      store(&update[h], grad_update[h] * c[h]);
    }
  }
};

template <typename T, typename P>
void spread(const Stage& st, int64_t batch, int64_t size, const T* state, const P* product, const T* coefficients,
            T* totals) {
  const int64_t parts = st.gated ? 2 : 1, width = st.slots * parts * size;
  const bool shared = st.slots < st.links;
#pragma omp parallel for schedule(static) if (batch * size * st.links > kSmall)
  for (int64_t b = 0; b < batch; ++b) {
    const T* s = state + b * size;
    General<T, P> general;
    std::vector<T*> into(st.links);
    for (int64_t slot = 0; slot < st.slots; ++slot) {
      const P* gate = product + b * width + slot * parts * size;
      const P* update = gate + (parts - 1) * size;
      int first = shared ? 0 : int(slot), last = shared ? int(st.links) : int(slot) + 1, used = 0;
      for (int link = first; link < last; ++link) used |= int(st.masks[link]);
      if (last - first == 1 && !(used & ~kBasic)) {
        auto a = coefficients_of(st, coefficients + st.rows[first] * st.operations, used);
        spread_row_for<T, P>(used, st.gated)(a, int(size), s, gate, update, totals + (st.targets[first] * batch + b) * size);
        continue;
      }
      for (int64_t h = 0; h < size; h += kBlock) {
        for (int link = first; link < last; ++link) into[link] = totals + (st.targets[link] * batch + b) * size + h;
        int n = int(std::min<int64_t>(kBlock, size - h));
        general.forward(st, first, last, used, n, coefficients, s + h, gate + h, update + h, into.data());
      }
    }
  }
}

template <typename T, typename P>
void spread_backward(const Stage& st, int64_t batch, int64_t size, const T* state, P* product, const T* coefficients,
                     const T* grad_totals, T* grad_state, double* grads) {
  const int64_t parts = st.gated ? 2 : 1, width = st.slots * parts * size;
  const bool shared = st.slots < st.links;
#pragma omp parallel if (batch * size * st.links > kSmall)
  {
    General<T, P> general;
    std::vector<const T*> from(st.links);
    std::vector<double> own(grads ? st.links * std::max<int64_t>(st.operations, 4) : 0, 0.0);
    std::vector<double> basic(grads ? st.links * 4 : 0, 0.0);
#pragma omp for schedule(static)
    for (int64_t b = 0; b < batch; ++b) {
      const T* s = state + b * size;
      T* grad = grad_state + b * size;
      std::fill(grad, grad + size, T(0));
      for (int64_t slot = 0; slot < st.slots; ++slot) {
        P* gate = product + b * width + slot * parts * size;
        P* update = gate + (parts - 1) * size;
        int first = shared ? 0 : int(slot), last = shared ? int(st.links) : int(slot) + 1, used = 0;
        for (int link = first; link < last; ++link) used |= int(st.masks[link]);
        if (last - first == 1 && !(used & ~kBasic)) {
          auto a = coefficients_of(st, coefficients + st.rows[first] * st.operations, used);
          spread_row_backward_for<T, P>(used, st.gated, grads != nullptr)(
              a, int(size), s, gate, update, grad_totals + (st.targets[first] * batch + b) * size, grad,
              grads ? basic.data() + 4 * first : nullptr);
          continue;
        }
        for (int64_t h = 0; h < size; h += kBlock) {
          for (int link = first; link < last; ++link) from[link] = grad_totals + (st.targets[link] * batch + b) * size + h;
          int n = int(std::min<int64_t>(kBlock, size - h));
          general.backward(st, first, last, used, n, coefficients, s + h, gate + h, update + h, from.data(), grad + h,
                           grads ? own.data() : nullptr);
        }
      }
    }
    if (grads) {
#pragma omp critical
      for (int link = 0; link < st.links; ++link)
        for (int k = 0; k < st.operations; ++k) {
          int64_t code = st.codes[k];
          if (!(code & st.masks[link])) continue;
          double sum = own[link * st.operations + k];
          if (code == kTanh) sum += basic[4 * link];
          if (code == kRelu) sum += basic[4 * link + 1];
          if (code == kSigmoid) sum += basic[4 * link + 2];
          if (code == kIdentity) sum += basic[4 * link + 3];
          grads[st.rows[link] * st.operations + k] += sum;
        }
    }
  }
}

// Columns are independent here, batch statistics included: every thread takes a range of them.
template <typename Body>
void by_columns(int64_t batch, int64_t size, Body body) {
#pragma omp parallel if (batch * size > kSmall)
  {
    int64_t threads = omp_get_num_threads(), chunk = ((size + threads - 1) / threads + 15) / 16 * 16;
    int64_t begin = std::min<int64_t>(size, chunk * omp_get_thread_num()), end = std::min<int64_t>(size, begin + chunk);
    for (int64_t h = begin; h < end; h += kBlock) body(h, int(std::min<int64_t>(kBlock, end - h)));
  }
}

// mode 0: none; 1: by the batch, whose statistics are written; 2: by given mean and 1 / deviation.
template <typename T>
void settle(int64_t batch, int64_t size, int64_t mode, double eps, double share, const T* total, const T* mask, T* mean,
            T* variance, T* state, T* masked, T* output) {
  by_columns(batch, size, [&](int64_t begin, int n) {
    T centre[kBlock] = {}, scale[kBlock];
    std::fill(scale, scale + kBlock, T(1));
    if (mode == 1) {
      T spread[kBlock] = {};
      for (int64_t b = 0; b < batch; ++b) {
        const T* row = total + b * size + begin;
#pragma omp simd
        for (int h = 0; h < n; ++h) centre[h] += row[h];
      }
      for (int h = 0; h < n; ++h) centre[h] /= T(batch);
      for (int64_t b = 0; b < batch; ++b) {
        const T* row = total + b * size + begin;
#pragma omp simd
        for (int h = 0; h < n; ++h) spread[h] += (row[h] - centre[h]) * (row[h] - centre[h]);
      }
      for (int h = 0; h < n; ++h) {
        spread[h] /= T(batch);
        scale[h] = T(1) / std::sqrt(spread[h] + T(eps));
        mean[begin + h] = centre[h];
        variance[begin + h] = spread[h];
      }
    } else if (mode == 2) {
      std::copy(mean + begin, mean + begin + n, centre);
      std::copy(variance + begin, variance + begin + n, scale);
    }
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t at = b * size + begin;
#pragma omp simd
      for (int h = 0; h < n; ++h) state[at + h] = (total[at + h] - centre[h]) * scale[h];
      if (masked) {
#pragma omp simd
        for (int h = 0; h < n; ++h) masked[at + h] = state[at + h] * mask[at + h];
      }
      if (output) {
#pragma omp simd
        for (int h = 0; h < n; ++h) output[at + h] += T(share) * state[at + h];
      }
    }
  });
}

template <typename T>
void settle_backward(int64_t batch, int64_t size, int64_t mode, double eps, double share, const T* grad_state,
                     const T* grad_masked, const T* mask, const T* grad_output, const T* state, const T* variance,
                     T* grad_total) {
  by_columns(batch, size, [&](int64_t begin, int n) {
    T sum[kBlock] = {}, dot[kBlock] = {}, scale[kBlock];
    std::fill(scale, scale + kBlock, T(1));
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t at = b * size + begin;
      T* grad = grad_total + at;
      std::copy(grad_state + at, grad_state + at + n, grad);
      if (grad_masked && mask) {
#pragma omp simd
        for (int h = 0; h < n; ++h) grad[h] += grad_masked[at + h] * mask[at + h];
      } else if (grad_masked) {
#pragma omp simd
        for (int h = 0; h < n; ++h) grad[h] += grad_masked[at + h];
      }
      if (grad_output) {
#pragma omp simd
        for (int h = 0; h < n; ++h) grad[h] += T(share) * grad_output[at + h];
      }
      if (mode == 1) {
#pragma omp simd
        for (int h = 0; h < n; ++h) {
          sum[h] += grad[h];
          dot[h] += grad[h] * state[at + h];
        }
      }
    }
    if (mode == 0) return;
    if (mode == 1) {
      for (int h = 0; h < n; ++h) {
        sum[h] /= T(batch);
        dot[h] /= T(batch);
        scale[h] = T(1) / std::sqrt(variance[begin + h] + T(eps));
      }
    } else {
      std::copy(variance + begin, variance + begin + n, scale);
    }
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t at = b * size + begin;
#pragma omp simd
      for (int h = 0; h < n; ++h) grad_total[at + h] = (grad_total[at + h] - sum[h] - state[at + h] * dot[h]) * scale[h];
    }
  });
}

// Replace rows of logits by (softmax - one-hot) * scale where wanted; return the rows' negative log-likelihoods.
template <typename T>
void softmax_nll(int64_t rows, int64_t classes, double scale, int64_t want_grad, T* logits, const int64_t* targets,
                 double* losses) {
#pragma omp parallel for schedule(static) if (rows * classes > kSmall)
  for (int64_t r = 0; r < rows; ++r) {
    T* row = logits + r * classes;
    T target = row[targets[r]], most = row[0];
#pragma omp simd reduction(max : most)
    for (int64_t v = 0; v < classes; ++v) most = row[v] > most ? row[v] : most;
    double total = 0;
    for (int64_t v = 0; v < classes; v += 1024) {
      int64_t end = std::min(classes, v + 1024);
      T part = 0;
      if (want_grad) {
#pragma omp simd reduction(+ : part)
        for (int64_t w = v; w < end; ++w) part += row[w] = exp_negative(row[w] - most);
      } else {
#pragma omp simd reduction(+ : part)
        for (int64_t w = v; w < end; ++w) part += exp_negative(row[w] - most);
      }
      total += part;
    }
    losses[r] = std::log(total) + double(most) - double(target);
    if (!want_grad) continue;
    T factor = T(scale / total);
#pragma omp simd
    for (int64_t v = 0; v < classes; ++v) row[v] *= factor;
    row[targets[r]] -= T(scale);
  }
}

#include "native_loop.h"

}  // namespace

#define IDARTS_SPREAD(NAME, T, P)                                                                                    \
  extern "C" void spread_##NAME(const Stage* stage, int64_t batch, int64_t size, const void* state,                  \
                                const void* product, const void* coefficients, void* totals) {                       \
    spread<T, P>(*stage, batch, size, (const T*)state, (const P*)product, (const T*)coefficients, (T*)totals);       \
  }                                                                                                                  \
  extern "C" void spread_backward_##NAME(const Stage* stage, int64_t batch, int64_t size, const void* state,         \
                                         void* product, const void* coefficients, const void* grad_totals,           \
                                         void* grad_state, double* grads) {                                          \
    spread_backward<T, P>(*stage, batch, size, (const T*)state, (P*)product, (const T*)coefficients,                 \
                          (const T*)grad_totals, (T*)grad_state, grads);                                             \
  }
IDARTS_SPREAD(f32, float, float)
IDARTS_SPREAD(f64, double, double)
IDARTS_SPREAD(f32_bf16, float, BFloat16)

#define IDARTS_SETTLE(NAME, T)                                                                                       \
  extern "C" void settle_##NAME(int64_t batch, int64_t size, int64_t mode, double eps, double share,                 \
                                const void* total, const void* mask, void* mean, void* variance, void* state,        \
                                void* masked, void* output) {                                                        \
    settle<T>(batch, size, mode, eps, share, (const T*)total, (const T*)mask, (T*)mean, (T*)variance, (T*)state,     \
              (T*)masked, (T*)output);                                                                               \
  }                                                                                                                  \
  extern "C" void settle_backward_##NAME(int64_t batch, int64_t size, int64_t mode, double eps, double share,        \
                                         const void* grad_state, const void* grad_masked, const void* mask,          \
                                         const void* grad_output, const void* state, const void* variance,           \
                                         void* grad_total) {                                                         \
    settle_backward<T>(batch, size, mode, eps, share, (const T*)grad_state, (const T*)grad_masked, (const T*)mask,   \
                       (const T*)grad_output, (const T*)state, (const T*)variance, (T*)grad_total);                  \
  }                                                                                                                  \
  extern "C" void softmax_nll_##NAME(int64_t rows, int64_t classes, double scale, int64_t want_grad, void* logits,   \
                                     const int64_t* targets, double* losses) {                                       \
    softmax_nll<T>(rows, classes, scale, want_grad, (T*)logits, targets, losses);                                    \
  }
IDARTS_SETTLE(f32, float)
IDARTS_SETTLE(f64, double)

#define IDARTS_LOOP(NAME, T)                                                                                         \
  extern "C" void loop_forward_##NAME(const Loop* loop) { Walk<T>(*loop).forward(); }                                \
  extern "C" void loop_backward_##NAME(const Loop* loop) { Walk<T>(*loop).backward(); }
IDARTS_LOOP(f32, float)
IDARTS_LOOP(f64, double)
