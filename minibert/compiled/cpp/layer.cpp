// One layer of BERT over packed tokens: `FastLayer` of fast/stack.py once more, for `minibert compile`.
//
//     T packed tokens    D hidden size    H heads    K head size    W = H K    F intermediate size    N rows wanted

#include <cstdlib>
#include <memory>

#include "attention.h"

namespace {

constexpr int TILE = 96;  // rows that go through a layer together, so that their values stay in the second cache

struct Layer {
    Product qkv, query, key_value, out, up, down;  // qkv; or where only first tokens are wanted, query and key_value
    Norm attention_norm, feed_forward_norm;
    int32_t heads, head_size;
    Activation activation;
    int32_t arithmetic;
};

class Memory {  // of one thread, kept from call to call
   public:
    bool reserve(int64_t floats) {
        used = 0;
        if (floats > size) {
            block.reset(static_cast<float*>(std::aligned_alloc(64, round_up(4 * floats, 64))));
            size = block ? floats : 0;
        }
        return block || !floats;
    }
    template <class T = float> T* take(int64_t floats) {
        float* here = block.get() + used;
        used += round_up(floats, 16);
        return reinterpret_cast<T*>(here);
    }
    float* start() const { return block.get(); }

   private:
    struct Free {
        void operator()(float* p) const { std::free(p); }
    };
    std::unique_ptr<float, Free> block;
    int64_t size = 0, used = 0;
};

thread_local Memory states, panels;

template <class A>
bool compute(const Layer& layer, const float* x, float* y, const int64_t* lengths, int texts, bool first_only,
             int threads) {
    using Value = typename A::Attention::Input;
    const int K = layer.head_size, parts = first_only ? 2 : 3;
    const int64_t D = layer.out.out, W = layer.out.in, F = round_up(layer.up.out, PANEL), D_wide = round_up(D, PANEL);
    int64_t T = 0, longest = 0;
    for (int text = 0; text < texts; T += lengths[text++]) longest = lengths[text] > longest ? lengths[text] : longest;
    const int64_t N = first_only ? texts : T, tile = TILE, widest = F > W ? F : W;
    const int64_t stride = round_up(parts * W, PANEL), q_stride = first_only ? round_up(W, PANEL) : stride;
    const int64_t sizes = T * stride + N * (W + D + q_stride) + tile * (D_wide + D + F + round_up(widest, PANEL) + D + 2);
    if (!states.reserve(sizes + 2 * texts + 16 * 10)) return false;
    auto* values = states.take<Value>(T * stride);  // queries, keys and values, or keys and values
    auto* queries = first_only ? states.take<Value>(N * q_stride) : values;
    auto* starts = states.take<int64_t>(2 * texts);
    float *attended = states.take(N * W), *first = states.take(first_only ? N * D : 0);
    float *added = states.take(tile * D_wide), *normed = states.take(tile * D), *raised = states.take(tile * F);
    const Space space = {states.take(tile * (round_up(widest, PANEL) + D)), states.take(tile), states.take(tile)};
    int64_t start = 0;
    for (int text = 0; text < texts; start += lengths[text++]) {
        starts[text] = start;
        if (first_only && lengths[text]) std::memcpy(first + text * D, x + start * D, D * sizeof *x);
        if (first_only && !lengths[text]) {  // no tokens: any numbers do, that are finite
            std::memset(first + text * D, 0, D * sizeof *x);
            std::memset(attended + text * W, 0, W * sizeof *x);
        }
    }
    const Value *keys = values + (first_only ? 0 : W), *below = keys + W;
    const float* residual = first_only ? first : x;
    bool enough = true;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        for (int64_t begin = 0; begin < T; begin += tile) {
            const int rows = T - begin < tile ? T - begin : tile;
            const auto in = factors<A>(x + begin * D, D, rows, D, space);
            linear<A>(first_only ? layer.key_value : layer.qkv, in, rows, values + begin * stride, stride);
        }
        for (int64_t begin = 0; first_only && begin < N; begin += tile) {
            const int rows = N - begin < tile ? N - begin : tile;
            const auto in = factors<A>(first + begin * D, D, rows, D, space);
            linear<A>(layer.query, in, rows, queries + begin * q_stride, q_stride);
        }
        if (!panels.reserve(attention_floats(longest, K))) {
#pragma omp atomic write
            enough = false;
        }
#pragma omp barrier
        if (enough) {
#pragma omp for collapse(2) schedule(dynamic)
            for (int text = 0; text < texts; ++text)
                for (int head = 0; head < layer.heads; ++head) {
                    const int64_t row = first_only ? text : starts[text], key = starts[text] * stride + head * K;
                    if (lengths[text])
                        attend<typename A::Attention>(queries + row * q_stride + head * K, q_stride,
                                                      first_only ? 1 : lengths[text], keys + key, below + key, stride,
                                                      lengths[text], K, attended + row * W + head * K, W, panels.start());
                }
            for (int64_t begin = 0; begin < N; begin += tile) {
                const int rows = N - begin < tile ? N - begin : tile;
                const auto out = factors<A>(attended + begin * W, W, rows, W, space);
                linear<A>(layer.out, out, rows, added, D_wide);
                add_and_normalize(added, D_wide, residual + begin * D, rows, D, layer.attention_norm, normed);
                const auto up = factors<A>(normed, D, rows, D, space);
                linear<A>(layer.up, up, rows, raised, F, layer.activation);
                const auto down = factors<A>(raised, F, rows, layer.down.in, space);
                linear<A>(layer.down, down, rows, added, D_wide);
                add_and_normalize(added, D_wide, normed, rows, D, layer.feed_forward_norm, y + begin * D);
            }
        }
    }
    return enough;
}

}  // namespace

extern "C" {

int minibert_panel() { return PANEL; }

// x (T, D) -> y (T, D), or (texts, D) of each text's first token. Returns 0 where memory ran out.
int minibert_layer(const Layer* layer, const float* x, float* y, const int64_t* lengths, int texts, int first_only,
                   int threads) {
    const auto with = layer->arithmetic == 0 ? compute<Float32> : layer->arithmetic == 1 ? compute<BFloat16> : compute<Int8>;
    return with(*layer, x, y, lengths, texts, first_only, threads);
}
}
