// Rows times weights, and the passes over rows between products. Threads share panels, or rows.

#pragma once

#include "vectors.h"

namespace {

// A panel has the weights of PANEL outputs, input by input, so that it is read once from front to back.
constexpr int PANEL = 2 * LANES;
constexpr int AHEAD = 64 * PANEL * 4;  // bytes that are fetched early: the processor itself stops at pages

// R rows times one panel, `depth` groups of inputs deep. `take` gets each row's two vectors of sums.
template <class A, int R, class Take>
inline void multiply(const typename A::Input* x, int64_t stride, const typename A::Weight* w, int64_t depth,
                     Take take) {
    typename A::Sum sums[R][2] = {};
    for (int64_t i = 0; i < depth; ++i, x += A::GROUP, w += PANEL * A::GROUP) {
        __builtin_prefetch(reinterpret_cast<const char*>(w) + AHEAD);
        __builtin_prefetch(reinterpret_cast<const char*>(w) + AHEAD + 4 * LANES);
        const auto left = load<typename A::Factors>(w), right = load<typename A::Factors>(w + LANES * A::GROUP);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            A::add(sums[r][0], x + r * stride, left);
            A::add(sums[r][1], x + r * stride, right);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) take(r, sums[r][0], sums[r][1]);
}

template <class A, int R, class Take>
inline void multiply_block(int rows, const typename A::Input* x, int64_t stride, const typename A::Weight* w,
                           int64_t depth, Take take) {
    if (rows == R) return multiply<A, R>(x, stride, w, depth, take);
    if constexpr (R > 1) multiply_block<A, R - 1>(rows, x, stride, w, depth, take);
}

// Any number of rows, in even blocks of at most ROWS.
template <class A, class Take>
inline void multiply_rows(int rows, const typename A::Input* x, int64_t stride, const typename A::Weight* w,
                          int64_t depth, Take take) {
    const int blocks = (rows + ROWS - 1) / ROWS;
    for (int block = 0; block < blocks; ++block) {
        const int begin = rows * block / blocks, end = rows * (block + 1) / blocks;
        multiply_block<A, ROWS>(end - begin, x + begin * stride, stride, w, depth,
                                [&](int r, auto left, auto right) { take(begin + r, left, right); });
    }
}

struct Product {  // a linear layer, packed; biases, scales and shifts are filled up to whole panels
    const void* weight;
    const float *bias, *scale, *shift;
    int64_t out, in;
};

template <class A> struct Inputs {  // rows as factors: x = factor * step + lowest
    const typename A::Input* x;
    int64_t stride;
    const float *step, *lowest;
};

inline Floats rescale(Floats sum, const Product&, int64_t, const float*, const float*, int) { return sum; }

inline Floats rescale(Ints sum, const Product& p, int64_t column, const float* step, const float* lowest, int row) {
    return __builtin_convertvector(sum, Floats) * (load<Floats>(p.scale + column) * step[row]) +
           load<Floats>(p.shift + column) * lowest[row];
}

// y = activation(x W^T + b)
template <class A, class Out>
void linear(const Product& p, const Inputs<A>& in, int rows, Out* y, int64_t y_stride, Activation activation = NONE) {
    const int64_t depth = round_up(p.in, A::GROUP) / A::GROUP, panels = round_up(p.out, PANEL) / PANEL;
#pragma omp for schedule(static)
    for (int64_t panel = 0; panel < panels; ++panel) {
        const int64_t column = panel * PANEL;
        const auto* w = static_cast<const typename A::Weight*>(p.weight) + panel * depth * A::GROUP * PANEL;
        const Floats bias[2] = {load<Floats>(p.bias + column), load<Floats>(p.bias + column + LANES)};
        multiply_rows<A>(rows, in.x, in.stride, w, depth, [&](int row, auto left, auto right) {
            const Floats a = rescale(left, p, column, in.step, in.lowest, row) + bias[0];
            const Floats b = rescale(right, p, column + LANES, in.step, in.lowest, row) + bias[1];
            store(y + row * y_stride + column, activate(a, activation));
            store(y + row * y_stride + column + LANES, activate(b, activation));
        });
    }
}

// ---- passes over rows -----------------------------------------------------------------------------------------------

struct Space {  // for a tile's rows as factors
    void* x;
    float *step, *lowest;
};

inline void convert(const float* x, int64_t n, uint16_t* to, float*, float*) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) store(to + i, load<Floats>(x + i));
    Floats rest = {};
    uint16_t rounded[LANES];
    std::memcpy(&rest, x + i, (n - i) * sizeof *x);
    store(rounded, rest);
    std::memcpy(to + i, rounded, (n - i) * sizeof *to);
}

inline void convert(const float* x, int64_t n, uint8_t* to, float* step, float* lowest) {  // one range a row
    float low = x[0], high = x[0], sum = 0;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sum += x[i];
    }
    const float size = (high - low) / 255, inverse = size > 0 ? 1 / size : 0;
    *step = size;
    *lowest = std::isfinite(sum) ? low : NAN;  // levels would lose it
    for (int64_t i = 0; i < n; ++i) to[i] = static_cast<uint8_t>(static_cast<int32_t>((x[i] - low) * inverse + 0.5f));
}

template <class A> Inputs<A> factors(const float* x, int64_t stride, int rows, int64_t n, const Space& space) {
    const int64_t width = round_up(n, A::GROUP);
    auto* to = static_cast<typename A::Input*>(space.x);
#pragma omp for schedule(static)
    for (int row = 0; row < rows; ++row) {
        convert(x + row * stride, n, to + row * width, space.step + row, space.lowest + row);
        for (int64_t i = n; i < width; ++i) to[row * width + i] = 0;
    }
    return {to, width, space.step, space.lowest};
}

template <> inline Inputs<Float32> factors(const float* x, int64_t stride, int, int64_t, const Space&) {
    return {x, stride, nullptr, nullptr};
}

struct Norm {
    const float *weight, *bias;
    float eps;
};

// y = layer_norm(x + residual)
void add_and_normalize(const float* x, int64_t stride, const float* residual, int rows, int64_t D, const Norm& norm,
                       float* y) {
#pragma omp for schedule(static)
    for (int row = 0; row < rows; ++row) {
        const float *a = x + row * stride, *b = residual + row * D;
        float *to = y + row * D, sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = 0; i < D; ++i) sum += to[i] = a[i] + b[i];
        const float mean = sum / D;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < D; ++i) squares += (to[i] - mean) * (to[i] - mean);
        const float factor = 1 / std::sqrt(squares / D + norm.eps);
        for (int64_t i = 0; i < D; ++i) to[i] = (to[i] - mean) * factor * norm.weight[i] + norm.bias[i];
    }
}

}  // namespace
