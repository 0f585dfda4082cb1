// Resampling on one thread of a CPU, with the bits of the XLA programs.
//
// Whatever decides about an ancestor is an integer, or a float64 that is rounded where
// exponential.py and offspring.py round it. So compile without contraction of products and sums.
// Loops over a block are plain, for the compiler to make vector instructions of them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// Numbers handled at a time: they stay in the nearest cache.
constexpr int64_t kBlock = 1024;
// Independent running values of a reduction, some vectors of them.
constexpr int64_t kLanes = 32;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The constants of exponential.py.
constexpr double kScale = BAYESKIT_SCALE;
constexpr double kLargestStep = BAYESKIT_LARGEST_EXPONENT * 4294967296.0;
constexpr uint64_t kCoefficients[] = {BAYESKIT_COEFFICIENTS};
constexpr int kShifts[] = {BAYESKIT_SHIFTS};
constexpr int kNumCoefficients = sizeof(kCoefficients) / sizeof(uint64_t);

inline uint64_t low32(uint64_t x) { return x & 0xFFFFFFFFu; }

template <typename Function>
void for_blocks(int64_t n, Function function) {
  for (int64_t start = 0; start < n; start += kBlock) {
    function(start, std::min(kBlock, n - start));
  }
}

// ---------------------------------------------------------------- weights

// The largest value, and whether a row with these values is usable.
bool largest(const float* x, int64_t n, float* maximum) {
  float top[kLanes];
  int32_t bad[kLanes] = {};
  std::fill(top, top + kLanes, -kInfinity);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const float value = x[i + j];
      top[j] = value > top[j] ? value : top[j];
      bad[j] |= !(value < kInfinity);  // NaN as well
    }
  }
  for (; i < n; ++i) {
    top[0] = x[i] > top[0] ? x[i] : top[0];
    bad[0] |= !(x[i] < kInfinity);
  }
  *maximum = *std::max_element(top, top + kLanes);
  const bool any_bad = std::any_of(bad, bad + kLanes, [](int32_t b) { return b != 0; });
  return !any_bad && *maximum > -kInfinity;
}

void relative_weights(const float* __restrict x, int64_t n, double maximum,
                      double* __restrict weights) {
  for (int64_t i = 0; i < n; ++i) {
    double step = (maximum - static_cast<double>(x[i])) * kScale;
    step = step < kLargestStep ? step : kLargestStep;
    const int64_t steps = static_cast<int64_t>(step);
    const uint64_t fraction = low32(steps);
    uint64_t value = kCoefficients[kNumCoefficients - 1];
#pragma GCC unroll 8
    for (int k = kNumCoefficients - 2; k >= 0; --k) {
      value = low32(kCoefficients[k] - ((value * fraction) >> kShifts[k]));
    }
    const int64_t significand =
        (int64_t{1} << 35) - static_cast<int64_t>((fraction << 2) + ((value * fraction) >> 31));
    const int64_t power = (1023 - 35 - (steps >> 32)) << 52;
    weights[i] = static_cast<double>(significand) * __builtin_bit_cast(double, power);
  }
}

// ---------------------------------------------------------------- cumulative weights

struct Scaling {
  double total_unit;  // steps to one, for each of the three roundings
  double unit;
  double grid;
  double num;
};

// Whole numbers below 2^53 as float64: their sum is exact in any order.
double sum_rounded_up(const double* weights, int64_t n, double unit) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) lanes[j] += std::ceil(weights[i + j] * unit);
  }
  for (; i < n; ++i) lanes[0] += std::ceil(weights[i] * unit);
  double total = 0;
  for (double lane : lanes) total += lane;
  return total;
}

// Replaces weights, whose sum rounded up to `total_unit` is `total`, by scaled_cdf.
void weights_to_cdf(double* row, int64_t n, double total, const Scaling& scaling) {
  const double scale = scaling.num * scaling.unit / (total * (1 / scaling.total_unit));
  int64_t last = 0;
  for (int64_t i = 0; i < n; ++i) last += static_cast<int64_t>(row[i] * scale);
  const double num = scaling.num, per_unit = num / static_cast<double>(last);
  const double grid = scaling.grid, grid_step = 1 / grid;
  // Adding it to a number below 2^51 rounds that to a whole one, the even one of two.
  const double rounder = 6755399441055744.0;  // 1.5 * 2^52
  int64_t units[kBlock];
  int64_t running = 0;
  for_blocks(n, [&](int64_t start, int64_t size) {
    double* __restrict cdf = row + start;
    for (int64_t i = 0; i < size; ++i) units[i] = static_cast<int64_t>(cdf[i] * scale);
    for (int64_t i = 0; i < size; ++i) units[i] = running += units[i];
    for (int64_t i = 0; i < size; ++i) {
      double value = static_cast<double>(units[i]) * per_unit;
      value = ((value * grid + rounder) - rounder) * grid_step;
      value = value < num ? value : num;
      cdf[i] = units[i] == last ? num : value;
    }
  });
}

ffi::Error scaled_cdf(ffi::Buffer<ffi::F32> log_weights, ffi::ResultBuffer<ffi::F64> cdf,
                      ffi::ResultBuffer<ffi::PRED> ok, double total_unit, double unit,
                      double grid, double num) {
  const Scaling scaling{total_unit, unit, grid, num};
  const int64_t n = log_weights.dimensions().back();
  for (int64_t r = 0; r < static_cast<int64_t>(ok->element_count()); ++r) {
    const float* x = log_weights.typed_data() + r * n;
    double* row = cdf->typed_data() + r * n;
    float maximum;
    const bool usable = largest(x, n, &maximum);
    ok->typed_data()[r] = usable;
    double total = 0;
    for_blocks(n, [&](int64_t start, int64_t size) {
      if (usable) {
        relative_weights(x + start, size, maximum, row + start);
      } else {
        std::fill(row + start, row + start + size, 1.0);
      }
      total += sum_rounded_up(row + start, size, total_unit);
    });
    weights_to_cdf(row, n, total, scaling);
  }
  return ffi::Error::Success();
}

// The same for weights in [0, 1], which are given.
ffi::Error cdf_of_weights(ffi::Buffer<ffi::F64> weights, ffi::ResultBuffer<ffi::F64> cdf,
                          double total_unit, double unit, double grid, double num) {
  const Scaling scaling{total_unit, unit, grid, num};
  const int64_t n = weights.dimensions().back();
  const int64_t rows = static_cast<int64_t>(weights.element_count()) / n;
  for (int64_t r = 0; r < rows; ++r) {
    const double* w = weights.typed_data() + r * n;
    double* row = cdf->typed_data() + r * n;
    if (row != w) std::copy(w, w + n, row);
    double total = 0;
    for_blocks(n, [&](int64_t start, int64_t size) {
      total += sum_rounded_up(row + start, size, total_unit);
    });
    weights_to_cdf(row, n, total, scaling);
  }
  return ffi::Error::Success();
}

// ---------------------------------------------------------------- ancestors

// Copies of a particle's number that are stored at once, though most particles have fewer
// offspring: the next particle overwrites what is too much, and no branch is mispredicted.
constexpr int64_t kCopies = 8;

// Fills the places [begin, ends[0]), [ends[0], ends[1]), ... of `index` with first, first + 1, ...
// and returns the last of `ends`, which must not decrease, nor exceed `num`.
int64_t place(const int32_t* __restrict ends, int64_t n, int64_t begin, int64_t first, int64_t num,
              int32_t* __restrict index) {
  int64_t num_quick = n;  // what is too much must not reach beyond the end
  while (num_quick > 0 && ends[num_quick - 1] + kCopies > num) --num_quick;
  int64_t i = 0;
  for (; i < num_quick; ++i) {
    const int32_t particle = static_cast<int32_t>(first + i);
    const int64_t end = ends[i];
    for (int64_t j = 0; j < kCopies; ++j) index[begin + j] = particle;
    if (__builtin_expect(end - begin > kCopies, 0)) {
      for (int64_t start = begin + kCopies; start < end; start += kCopies) {
        for (int64_t j = 0; j < kCopies; ++j) index[start + j] = particle;
      }
    }
    begin = end;
  }
  for (; i < n; ++i) {
    std::fill(index + begin, index + ends[i], static_cast<int32_t>(first + i));
    begin = ends[i];
  }
  return begin;
}

// Ancestors of a row for cumulative numbers of offspring that `ends_of_block` writes. Numbers
// that no caller should give must not make it write elsewhere.
template <typename Ends>
void ancestors_of_row(int64_t n, int64_t num, int32_t* index, Ends ends_of_block) {
  int32_t ends[kBlock];
  int64_t begin = 0;
  for_blocks(n, [&](int64_t start, int64_t size) {
    ends_of_block(start, size, ends);
    int32_t highest = static_cast<int32_t>(begin);
    int32_t in_order = ends[0] >= highest && ends[size - 1] <= num;
    for (int64_t i = 1; i < size; ++i) in_order &= ends[i] >= ends[i - 1];
    for (int64_t i = 0; !in_order && i < size; ++i) {
      const int32_t within = static_cast<int32_t>(std::min<int64_t>(ends[i], num));
      ends[i] = highest = std::max(highest, within);
    }
    begin = place(ends, size, begin, start, num, index);
  });
  std::fill(index + begin, index + num, static_cast<int32_t>(n));
}

ffi::Error offspring_to_ancestors(ffi::Buffer<ffi::S32> cumulative,
                                  ffi::ResultBuffer<ffi::S32> index) {
  const int64_t n = cumulative.dimensions().back(), num = index->dimensions().back();
  const int64_t rows = static_cast<int64_t>(cumulative.element_count()) / n;
  for (int64_t r = 0; r < rows; ++r) {
    const int32_t* row = cumulative.typed_data() + r * n;
    ancestors_of_row(n, num, index->typed_data() + r * num,
                     [&](int64_t start, int64_t size, int32_t* ends) {
                       std::copy(row + start, row + start + size, ends);
                     });
  }
  return ffi::Error::Success();
}

// Systematic resampling with one uniform a row, stratified with `num`.
ffi::Error ancestors_at_levels(ffi::Buffer<ffi::F64> cdf, ffi::Buffer<ffi::F64> uniforms,
                               ffi::ResultBuffer<ffi::S32> index) {
  const int64_t n = cdf.dimensions().back(), num = index->dimensions().back();
  const int64_t num_uniforms = uniforms.dimensions().back();
  const int64_t rows = static_cast<int64_t>(cdf.element_count()) / n;
  const double highest = static_cast<double>(num);
  for (int64_t r = 0; r < rows; ++r) {
    const double* row = cdf.typed_data() + r * n;
    const double* u = uniforms.typed_data() + r * num_uniforms;
    const auto ends_at = [=](double value, auto uniform_of) {
      value = value < highest ? value : highest;  // NaN as well
      const int32_t whole = static_cast<int32_t>(value > 0 ? value : 0.0);
      return whole + static_cast<int32_t>(uniform_of(whole) < value - whole);
    };
    ancestors_of_row(n, num, index->typed_data() + r * num,
                     [=](int64_t start, int64_t size, int32_t* __restrict ends) {
                       const double* __restrict values = row + start;
                       if (num_uniforms == 1) {
                         const double only = *u;
                         for (int64_t i = 0; i < size; ++i)
                           ends[i] = ends_at(values[i], [=](int32_t) { return only; });
                       } else {
                         const int32_t last = static_cast<int32_t>(num - 1);
                         for (int64_t i = 0; i < size; ++i)
                           ends[i] = ends_at(values[i],
                                             [=](int32_t k) { return u[std::min(k, last)]; });
                       }
                     });
  }
  return ffi::Error::Success();
}

}  // namespace

#define BAYESKIT_SCALING(binding) \
  binding.Attr<double>("total_unit").Attr<double>("unit").Attr<double>("grid").Attr<double>("num")

XLA_FFI_DEFINE_HANDLER_SYMBOL(bayeskit_scaled_cdf, scaled_cdf,
                              BAYESKIT_SCALING(ffi::Ffi::Bind()
                                                   .Arg<ffi::Buffer<ffi::F32>>()
                                                   .Ret<ffi::Buffer<ffi::F64>>()
                                                   .Ret<ffi::Buffer<ffi::PRED>>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(bayeskit_cdf_of_weights, cdf_of_weights,
                              BAYESKIT_SCALING(ffi::Ffi::Bind()
                                                   .Arg<ffi::Buffer<ffi::F64>>()
                                                   .Ret<ffi::Buffer<ffi::F64>>()));
XLA_FFI_DEFINE_HANDLER_SYMBOL(bayeskit_offspring_to_ancestors, offspring_to_ancestors,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::S32>>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(bayeskit_ancestors_at_levels, ancestors_at_levels,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::Buffer<ffi::F64>>()
                                  .Arg<ffi::Buffer<ffi::F64>>()
                                  .Ret<ffi::Buffer<ffi::S32>>());
