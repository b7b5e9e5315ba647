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
    bool reserve(int64_t bytes) {
        used = 0;
        if (bytes > size) {
            block.reset(static_cast<char*>(std::aligned_alloc(64, round_up(bytes, 64))));
            size = block ? bytes : 0;
        }
        return block || !bytes;
    }
    template <class T> T* take(int64_t count) {
        char* here = block ? block.get() + used : nullptr;
        used += round_up(count * sizeof(T), 64);
        return reinterpret_cast<T*>(here);
    }
    int64_t taken() const { return used; }

   private:
    struct Free {
        void operator()(char* p) const { std::free(p); }
    };
    std::unique_ptr<char, Free> block;
    int64_t size = 0, used = 0;
};

thread_local Memory states, panels;

// One call of a layer. Its steps run in all threads, which share the loops inside.
template <class A> struct Call {
    using Value = typename A::Attention::Input;

    const Layer& layer;
    const float* x;
    float* y;
    const int64_t *lengths, *seen;
    const int texts;
    const bool first_only;
    int64_t T = 0, longest = 0;
    const int64_t D = layer.out.out, W = layer.out.in, F = round_up(layer.up.out, PANEL);
    int64_t N = 0, stride = 0, q_stride = 0;
    Value *values = nullptr, *queries = nullptr;  // keys and values; and with them queries, if all tokens are wanted
    float *attended = nullptr, *first = nullptr, *added = nullptr, *normed = nullptr, *raised = nullptr;
    int64_t* starts = nullptr;
    Space space = {};

    // Lay out the memory. Return false if there is not enough.
    bool prepare() {
        for (int text = 0; text < texts; ++text) {
            T += lengths[text];
            longest = lengths[text] > longest ? lengths[text] : longest;
        }
        N = first_only ? texts : T;
        stride = round_up((first_only ? 2 : 3) * W, PANEL);
        q_stride = first_only ? round_up(W, PANEL) : stride;
        Memory nowhere;
        lay_out(nowhere);
        if (!states.reserve(nowhere.taken())) return false;
        lay_out(states);
        int64_t start = 0;
        for (int text = 0; text < texts; start += lengths[text++]) {
            starts[text] = start;
            if (!first_only) continue;
            if (lengths[text]) {
                std::memcpy(first + text * D, x + start * D, D * sizeof *x);
            } else {  // any numbers do, that are finite
                std::memset(first + text * D, 0, D * sizeof *x);
                std::memset(attended + text * W, 0, W * sizeof *x);
            }
        }
        return true;
    }

    void lay_out(Memory& memory) {
        const int64_t tile = TILE < T ? TILE : T, widest = round_up(F > W ? (F > D ? F : D) : (W > D ? W : D), PANEL);
        values = memory.take<Value>(T * stride);
        queries = first_only ? memory.take<Value>(N * q_stride) : values;
        attended = memory.take<float>(N * W);
        first = memory.take<float>(first_only ? N * D : 0);
        added = memory.take<float>(tile * round_up(D, PANEL));
        normed = memory.take<float>(tile * D);
        raised = memory.take<float>(tile * F);
        starts = memory.take<int64_t>(texts);
        space = {memory.take<typename A::Input>(tile * widest), memory.take<float>(tile), memory.take<float>(tile)};
    }

    template <class Step> void tiles(int64_t rows, Step step) {
        for (int64_t begin = 0; begin < rows; begin += TILE) step(begin, rows - begin < TILE ? rows - begin : TILE);
    }

    void project() {
        tiles(T, [&](int64_t begin, int rows) {
            const auto in = factors<A>(x + begin * D, D, rows, D, space);
            linear<A>(first_only ? layer.key_value : layer.qkv, in, rows, values + begin * stride, stride);
        });
        if (first_only)
            tiles(N, [&](int64_t begin, int rows) {
                const auto in = factors<A>(first + begin * D, D, rows, D, space);
                linear<A>(layer.query, in, rows, queries + begin * q_stride, q_stride);
            });
    }

    void attend_all() {
        const int K = layer.head_size;
        const Value *keys = values + (first_only ? 0 : W), *after_keys = keys + W;
#pragma omp for collapse(2) schedule(dynamic)
        for (int text = 0; text < texts; ++text)
            for (int head = 0; head < layer.heads; ++head) {
                const int64_t S = lengths[text], row = first_only ? text : starts[text];
                const int64_t key = starts[text] * stride + head * K;
                float* to = attended + row * W + head * K;
                const Value* q = queries + row * q_stride + head * K;
                if (S)
                    attend<typename A::Attention>(q, q_stride, first_only ? 1 : S, keys + key, after_keys + key, stride,
                                                  seen[text], K, to, W, panels.take<float>(0));
            }
    }

    void finish() {
        const int64_t D_wide = round_up(D, PANEL);
        tiles(N, [&](int64_t begin, int rows) {
            const auto out = factors<A>(attended + begin * W, W, rows, W, space);
            linear<A>(layer.out, out, rows, added, D_wide);
            const float* residual = (first_only ? first : x) + begin * D;
            add_and_normalize(added, D_wide, residual, rows, D, layer.attention_norm, normed);
            const auto up = factors<A>(normed, D, rows, D, space);
            linear<A>(layer.up, up, rows, raised, F, layer.activation);
            const auto down = factors<A>(raised, F, rows, layer.down.in, space);
            linear<A>(layer.down, down, rows, added, D_wide);
            add_and_normalize(added, D_wide, normed, rows, D, layer.feed_forward_norm, y + begin * D);
        });
    }
};

template <class A>
bool compute(const Layer& layer, const float* x, float* y, const int64_t* lengths, const int64_t* seen, int texts,
             bool first_only, int threads) {
    Call<A> call = {layer, x, y, lengths, seen, texts, first_only};
    if (!call.prepare()) return false;
    bool enough = true;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (!panels.reserve(attention_floats(call.longest, layer.head_size) * sizeof(float))) {
#pragma omp atomic write
            enough = false;
        }
        call.project();
#pragma omp barrier
        if (enough) {
            call.attend_all();
            call.finish();
        }
    }
    return enough;
}

}  // namespace

extern "C" {

int minibert_panel() { return PANEL; }

// x (T, D) -> y (T, D), or (texts, D) of each text's first token. Of each text only the tokens `seen` are attended to,
// its first ones. Returns 0 where memory ran out.
int minibert_layer(const Layer* layer, const float* x, float* y, const int64_t* lengths, const int64_t* seen, int texts,
                   int first_only, int threads) {
    constexpr decltype(&compute<Float32>) with[] = {compute<Float32>, compute<BFloat16>, compute<Int8>};
    return with[layer->arithmetic](*layer, x, y, lengths, seen, texts, first_only, threads);
}
}
