// Vectors of LANES numbers, the functions of a layer, and the three arithmetics of its products.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

namespace {

// ROWS x 2 sums, two vectors of weights and one of inputs fill the processor's registers.
#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 12;
#elif defined(__AVX2__)
constexpr int LANES = 8, ROWS = 6;
#else
constexpr int LANES = 4, ROWS = 6;
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

template <class Vector, class T> inline Vector load(const T* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Floats v) { std::memcpy(to, &v, sizeof v); }

inline void store(uint16_t* to, Floats v) {  // as bfloat16, rounded to even; NaN stays NaN
#if defined(__AVX512BF16__)
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
#else
    const Words bits = (Words)v, even = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const Halves rounded = __builtin_convertvector(v != v ? Words{} + 0x7fc0u : even, Halves);
#endif
    std::memcpy(to, &rounded, sizeof rounded);
}

inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

// ---- functions ------------------------------------------------------------------------------------------------------

inline Floats exponential(Floats x) {  // to 1e-7, between -87 and 87
    x = x < -87.f ? Floats{} - 87.f : x > 87.f ? Floats{} + 87.f : x;
    const Floats n = x * 1.44269504f + 12582912.f - 12582912.f;  // rounded to whole: x = n log(2) + r
    const Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats e = Floats{} + 1.f / 5040;
    for (float factor : {1.f / 720, 1.f / 120, 1.f / 24, 1.f / 6, .5f, 1.f, 1.f}) e = e * r + factor;
    return e * (Floats)((__builtin_convertvector(n, Ints) + 127) << 23);
}

inline Floats gelu(Floats x) {  // with erf to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26
    const Floats size = x < 0.f ? -x : x, z = size * 0.707106781f, t = 1.f / (1.f + 0.3275911f * z);
    Floats p = Floats{} + 1.061405429f;
    for (float factor : {-1.453152027f, 1.421413741f, -0.284496736f, 0.254829592f}) p = p * t + factor;
    return (x > 0.f ? x : Floats{}) - size * 0.5f * (p * t * exponential(-z * z));
}

inline Floats gelu_tanh(Floats x) { return x / (1.f + exponential(-1.59576912f * (x + 0.044715f * x * x * x))); }

enum Activation : int32_t { NONE, GELU, GELU_TANH, RELU };

inline Floats activate(Floats x, Activation name) {
    return name == GELU ? gelu(x) : name == GELU_TANH ? gelu_tanh(x) : name == RELU ? (x < 0.f ? Floats{} : x) : x;
}

// ---- arithmetics ----------------------------------------------------------------------------------------------------
// `add` takes GROUP inputs (four bytes) and the weights of LANES outputs into LANES sums. Attention is never in int8.

struct Float32 {
    using Input = float;
    using Weight = float;
    using Factors = Floats;
    using Sum = Floats;
    using Attention = Float32;
    static constexpr int GROUP = 1;
    static void add(Sum& sum, const Input* x, Factors w) { sum += w * x[0]; }
};

struct BFloat16 {
    using Input = uint16_t;
    using Weight = uint16_t;
    using Factors = Words;
    using Sum = Floats;
    using Attention = BFloat16;
    static constexpr int GROUP = 2;
    static void add(Sum& sum, const Input* x, Factors w) {
        uint32_t pair;
        std::memcpy(&pair, x, sizeof pair);
#if defined(__AVX512BF16__)
        sum = (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(pair), (__m512bh)w);
#else
        sum += (Floats)(w << 16) * (Floats)(Words{} + (pair << 16));
        sum += (Floats)(w & 0xffff0000u) * (Floats)(Words{} + (pair & 0xffff0000u));
#endif
    }
};

struct Int8 {
    using Input = uint8_t;
    using Weight = int8_t;
    using Factors = Ints;
    using Sum = Ints;
    using Attention = BFloat16;
    static constexpr int GROUP = 4;
    static void add(Sum& sum, const Input* x, Factors w) {
#if defined(__AVX512VNNI__)
        int32_t four;
        std::memcpy(&four, x, sizeof four);
        sum = (Ints)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(four), (__m512i)w);
#else
        sum += (w << 24 >> 24) * x[0] + (w << 16 >> 24) * x[1] + (w << 8 >> 24) * x[2] + (w >> 24) * x[3];
#endif
    }
};

}  // namespace
