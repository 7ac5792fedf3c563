// All steps of a fused unroll in one call, between the passes of native.cpp and the matrix product of torch's own BLAS:
// at small sizes the Python loop of fused.py, which this follows line by line, takes longer than the arithmetic.

template <typename T>
using Gemm = void (*)(const char*, const char*, const int*, const int*, const int*, const T*, const T*, const int*,
                      const T*, const int*, const T*, T*, const int*);

// The buffers of one unroll, as native_loop.py describes them; names as in fused.py.
struct Loop {
  int64_t steps, batch, size, stages, kept, mode;  // kept: steps whose states and products are kept, all or one
  double eps, share;
  const void* gemm;
  const Stage* const* layout;     // (stages)
  const int64_t* widths;          // (stages): columns of a product, 0 without links
  const void* const* weights;     // (stages): (H, width)
  void* const* products;          // (stages): (kept, B, width); of stage 0 all steps
  const void *coefficients, *mask, *hidden;
  void *mean, *variance;          // (T, stages - 1, H), or (H) in mode 2
  void *states, *totals, *masked, *output;
  const void* grad_output;
  void *grad_step, *grad_masked, *grad_hidden;
  double* grad_coefficients;      // or null
};

template <typename T>
struct Walk {
  const Loop& l;
  const int64_t elements, nodes;
  const T* const mask;
  T* const masked;
  T* const totals;

  explicit Walk(const Loop& loop)
      : l(loop), elements(loop.batch * loop.size), nodes(loop.stages - 1), mask((const T*)loop.mask),
        masked((T*)loop.masked), totals((T*)loop.totals) {}

  // c (rows, columns) = a (rows, inner) b + beta c, all by rows: BLAS, which goes by columns, sees the transposes.
  void multiply(const T* a, const T* b, T beta, T* c, int rows, int inner, int columns) const {
    const T one = 1;
    ((Gemm<T>)l.gemm)("N", "N", &columns, &rows, &inner, &one, b, &columns, a, &inner, &beta, c, &columns);
  }
  // c (rows, columns) = a (rows, inner) b^T, with b (columns, inner).
  void multiply_transposed(const T* a, const T* b, T* c, int rows, int inner, int columns) const {
    const T one = 1, zero = 0;
    ((Gemm<T>)l.gemm)("T", "N", &columns, &rows, &inner, &one, b, &inner, a, &inner, &zero, c, &columns);
  }
  T* product(int64_t stage, int64_t step) const { return (T*)l.products[stage] + step * l.batch * l.widths[stage]; }
  T* state(int64_t stage, int64_t step) const { return (T*)l.states + ((stage - 1) * l.kept + step) * elements; }
  T* statistic(void* base, int64_t stage, int64_t step) const {
    return (T*)base + (l.mode == 2 ? 0 : (step * nodes + stage - 1) * l.size);
  }

  void forward() const {
    const T* hidden = (const T*)l.hidden;
    for (int64_t step = 0; step < l.steps; ++step) {
      T* output = (T*)l.output + step * elements;
      forward_step(step, l.kept == 1 ? 0 : step, hidden, output);
      hidden = output;
    }
  }

  void forward_step(int64_t step, int64_t kept, const T* hidden, T* output) const {
    std::fill(totals, totals + l.stages * elements, T(0));
    const T* left = hidden;
    if (mask) {
#pragma omp simd
      for (int64_t i = 0; i < elements; ++i) masked[i] = hidden[i] * mask[i];
      left = masked;
    }
    T* first = product(0, step);
    multiply(left, (const T*)l.weights[0], T(1), first, int(l.batch), int(l.size), int(l.widths[0]));
    spread<T, T>(*l.layout[0], l.batch, l.size, hidden, first, (const T*)l.coefficients, totals);
    for (int64_t stage = 1; stage < l.stages; ++stage) {
      const bool links = l.widths[stage] > 0;
      T *own = state(stage, kept), *copy = mask && links ? masked : nullptr;
      settle<T>(l.batch, l.size, l.mode, l.eps, l.share, totals + stage * elements, mask,
                statistic(l.mean, stage, step), statistic(l.variance, stage, step), own, copy,
                stage > 1 ? output : nullptr);
      if (!links) continue;
      T* next = product(stage, kept);
      multiply(copy ? copy : own, (const T*)l.weights[stage], T(0), next, int(l.batch), int(l.size),
               int(l.widths[stage]));
      spread<T, T>(*l.layout[stage], l.batch, l.size, own, next, (const T*)l.coefficients, totals);
    }
  }

  void backward() const {
    T *grad = (T*)l.grad_step, *grad_hidden = (T*)l.grad_hidden;
    for (int64_t step = l.steps - 1; step >= 0; --step) {
      const T* before = step ? (const T*)l.output + (step - 1) * elements : (const T*)l.hidden;
      const T* given = (const T*)l.grad_output + step * elements;
#pragma omp simd
      for (int64_t i = 0; i < elements; ++i) grad[i] = given[i] + grad_hidden[i];
      for (int64_t stage = l.stages - 1; stage > 0; --stage) backward_stage(stage, step, grad);
      backward_first(step, before);
    }
  }

  void backward_stage(int64_t stage, int64_t step, const T* grad) const {
    const T* own = state(stage, step);
    T* carry = masked;  // the gradient of the state that comes past the products
    const T* grad_masked = nullptr;
    if (l.widths[stage] > 0) {
      grad_masked = back(stage, step, own, carry);
    } else {
      std::fill(carry, carry + elements, T(0));
    }
    settle_backward<T>(l.batch, l.size, l.mode, l.eps, l.share, carry, grad_masked, mask, stage > 1 ? grad : nullptr,
                       own, statistic(l.variance, stage, step), totals + stage * elements);
  }

  void backward_first(int64_t step, const T* before) const {
    T* grad_hidden = (T*)l.grad_hidden;
    const T* grad_masked = back(0, step, before, grad_hidden);
#pragma omp simd
    for (int64_t i = 0; i < elements; ++i) grad_hidden[i] += mask ? grad_masked[i] * mask[i] : grad_masked[i];
  }

  // Turn a product into its gradient, write the carry's, and return that of the product's left side.
  const T* back(int64_t stage, int64_t step, const T* own, T* carry) const {
    T *from = product(stage, step), *grad_masked = (T*)l.grad_masked;
    spread_backward<T, T>(*l.layout[stage], l.batch, l.size, own, from, (const T*)l.coefficients, totals, carry,
                          l.grad_coefficients);
    multiply_transposed(from, (const T*)l.weights[stage], grad_masked, int(l.batch), int(l.widths[stage]),
                        int(l.size));
    return grad_masked;
  }
};
