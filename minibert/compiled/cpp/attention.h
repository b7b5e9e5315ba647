// Attention of one head in one text: keys and values are packed as panels, so it is two products and a softmax.

#pragma once

#include "products.h"

namespace {

template <int STEP = LANES / 2> inline void transpose(Words (&rows)[LANES]) {  // blocks change places, then halves
    Words upper, lower;
    for (uint32_t i = 0; i < LANES; ++i) {
        upper[i] = i & STEP ? i - STEP + LANES : i;
        lower[i] = i & STEP ? i + LANES : i + STEP;
    }
#pragma GCC unroll 16
    for (int i = 0; i < LANES; ++i)
        if (!(i & STEP)) {
            const Words a = rows[i], b = rows[i + STEP];
            rows[i] = __builtin_shuffle(a, b, upper);
            rows[i + STEP] = __builtin_shuffle(a, b, lower);
        }
    if constexpr (STEP > 1) transpose<STEP / 2>(rows);
}

// S keys of K numbers, GROUP of them in four bytes.
template <class A> void pack_keys(const typename A::Input* k, int64_t stride, int S, int K, typename A::Input* to) {
    const int units = K / A::GROUP;
    for (int key = 0; key < S; key += LANES)
        for (int unit = 0; unit < units; unit += LANES) {
            Words rows[LANES] = {};
            const int count = units - unit < LANES ? units - unit : LANES;
            for (int i = 0; i < LANES && key + i < S; ++i)
                std::memcpy(&rows[i], k + (key + i) * stride + unit * A::GROUP, count * 4);
            transpose(rows);
            auto* half = to + key / PANEL * PANEL * K + key % PANEL * A::GROUP;
            for (int i = 0; i < count; ++i) std::memcpy(half + (unit + i) * PANEL * A::GROUP, &rows[i], sizeof rows[i]);
        }
}

// S values of K numbers, GROUP keys together.
template <class A> void pack_values(const typename A::Input* v, int64_t stride, int S, int K, typename A::Input* to) {
    for (int panel = 0; panel < K; panel += PANEL) {
        const int count = K - panel < PANEL ? K - panel : PANEL;
        for (int key = 0; key < S; key += A::GROUP, to += PANEL * A::GROUP)
            for (int i = 0; i < A::GROUP; ++i) {
                const auto* row = v + (key + i) * stride + panel;
                for (int column = 0; column < count; ++column)
                    to[column * A::GROUP + i] = key + i < S ? row[column] : 0;
            }
    }
}

// Exponentials of a row of scores, minus the highest, as factors. Returns 1 / their sum.
template <class Input> inline float soften(float* scores, int S, int64_t keys, Input* to) {
    for (int64_t key = S; key < keys; ++key) scores[key] = -INFINITY;
    Floats high = load<Floats>(scores), sums = {};
    for (int64_t key = LANES; key < keys; key += LANES) {
        const Floats x = load<Floats>(scores + key);
        high = x > high ? x : high;
    }
    float highest = high[0], sum = 0;
    for (int i = 1; i < LANES; ++i) highest = high[i] > highest ? high[i] : highest;
    for (int64_t key = 0; key < keys; key += LANES) {
        const Floats e = exponential(load<Floats>(scores + key) - highest);
        sums += e;
        store(to + key, e);
    }
    for (int i = 0; i < LANES; ++i) sum += sums[i];
    return 1 / sum;
}

inline int64_t attention_floats(int64_t S, int64_t K) {  // that `attend` needs
    return round_up(S, PANEL) * (K + 2 * ROWS) + (S + 1) * round_up(K, PANEL);
}

// softmax(q k^T / sqrt(K)) v of Q queries and S keys
template <class A>
void attend(const typename A::Input* q, int64_t q_stride, int Q, const typename A::Input* k,
            const typename A::Input* v, int64_t stride, int S, int K, float* y, int64_t y_stride, float* scores) {
    const int64_t keys = round_up(S, PANEL), depth = round_up(S, A::GROUP) / A::GROUP;
    auto* weights = reinterpret_cast<typename A::Input*>(scores + ROWS * keys);
    auto *key_panels = weights + ROWS * keys, *value_panels = key_panels + keys * K;
    pack_keys<A>(k, stride, S, K, key_panels);
    pack_values<A>(v, stride, S, K, value_panels);
    const float scale = 1 / std::sqrt(static_cast<float>(K));
    for (int begin = 0; begin < Q; begin += ROWS) {
        const int rows = Q - begin < ROWS ? Q - begin : ROWS;
        for (int64_t panel = 0; panel < keys; panel += PANEL)
            multiply_rows<A>(rows, q + begin * q_stride, q_stride, key_panels + panel * K, K / A::GROUP,
                             [&](int r, Floats left, Floats right) {
                store(scores + r * keys + panel, left * scale);
                store(scores + r * keys + panel + LANES, right * scale);
            });
        float inverse[ROWS];
        for (int r = 0; r < rows; ++r) inverse[r] = soften(scores + r * keys, S, keys, weights + r * keys);
        for (int64_t panel = 0; panel < K; panel += PANEL)
            multiply_rows<A>(rows, weights, keys, value_panels + panel * depth * A::GROUP, depth,
                             [&](int r, Floats left, Floats right) {
                float both[PANEL];
                store(both, left * inverse[r]);
                store(both + LANES, right * inverse[r]);
                const int64_t count = K - panel < PANEL ? K - panel : PANEL;
                std::memcpy(y + (begin + r) * y_stride + panel, both, count * sizeof *y);
            });
    }
}

}  // namespace
