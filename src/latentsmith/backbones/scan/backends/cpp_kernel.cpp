// S6, fused: decays, states and outputs of 16 channels live in registers and the first-level cache.
//
// Channels are lanes (contiguous in memory, so no sums across lanes in the recurrence), states n are
// rows: a tile is [N][W]. Time goes in chunks of CHUNK positions; the tile's state before each chunk
// is kept by forward, and backward makes the chunk's states anew. Gradients of inward and outward
// are summed over tiles lane by lane and across lanes once a chunk. One thread has one "part": the
// tiles of one (sample, group), or a share of them; sums over parts are left to the caller.
//
// Formulas: chunk_s6.py. m = exp(z) - 1 is what is stored: a = 1 + m, w = m/A or the step.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int W = 16;
constexpr int CHUNK = 32;

inline double less_one(double z) { return std::expm1(z); }

// exp(z) - 1 for z <= 0 within 1 ulp of float arithmetic, in operations that vectorize:
// z = k ln 2 + r, p = exp(r) - 1 by its series (|r| <= 0.35), 2^k p + (2^k - 1).
inline float less_one(float z) {
    z = z < -87.0f ? -87.0f : z;
    const float shifted = z * 1.44269504f + 12582912.0f;  // rounds to an integer in the low bits
    const float k = shifted - 12582912.0f;
    const float r = (z - k * 0.693359375f) + k * 2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r * r + r;
    const int32_t bits = (static_cast<int32_t>(k) + 127) << 23;
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return scale * p + (scale - 1.0f);
}

template <typename T>
struct Args {
    int64_t batch, length, dim, groups, states, terms, splits, threads;
    const T *step, *decay, *outward, *x[2], *inward[2];  // [B, L, D], [D, N], [B, L, G, N]
    T *kept;                                             // [K, B, G, tiles, N, W]
    int64_t wide() const { return dim / groups; }
    int64_t tiles() const { return (wide() + W - 1) / W; }
    int64_t chunks() const { return (length + CHUNK - 1) / CHUNK; }
};

// One tile of one sample: where its channels are and how many of the lanes are real.
struct Tile {
    int64_t first, lanes;
};

template <typename T>
Tile tile_of(const Args<T> &s, int64_t g, int64_t i) {
    const int64_t left = s.wide() - i * W;
    return {g * s.wide() + i * W, left < W ? left : W};
}

template <typename T>
inline void load(T *to, const T *from, int64_t lanes) {
    if (lanes == W) {
        for (int j = 0; j < W; ++j) to[j] = from[j];
    } else {
        for (int j = 0; j < W; ++j) to[j] = j < lanes ? from[j] : T(0);
    }
}

template <typename T>
inline void store(T *to, const T *from, int64_t lanes) {
    for (int64_t j = 0; j < lanes; ++j) to[j] = from[j];
}

// [D, N] rows of the tile → [N][W]; absent lanes get `fill`.
template <typename T>
void gather(T *to, const T *from, const Tile &tile, int64_t states, T fill) {
    for (int64_t n = 0; n < states; ++n)
        for (int j = 0; j < W; ++j)
            to[n * W + j] = j < tile.lanes ? from[(tile.first + j) * states + n] : fill;
}

template <typename T>
void scatter(T *to, const T *from, const Tile &tile, int64_t states) {
    for (int64_t n = 0; n < states; ++n)
        for (int j = 0; j < tile.lanes; ++j) to[(tile.first + j) * states + n] = from[n * W + j];
}

// m and the state's next value at one position, for every state of a tile.
template <typename T, bool HOLD, int TERMS>
inline void advance(int64_t states, const T *step, const T (*x)[W], const T *const *inward,
                    const T *decay, const T *inverse, const T *h, T *next, T *m) {
    for (int64_t n = 0; n < states; ++n) {
        const T b0 = inward[0][n], b1 = TERMS > 1 ? inward[1][n] : T(0);
#pragma omp simd
        for (int j = 0; j < W; ++j) {
            const T less = less_one(step[j] * decay[n * W + j]);
            T u = x[0][j] * b0;
            if (TERMS > 1) u += x[1][j] * b1;
            const T weight = HOLD ? less * inverse[n * W + j] : step[j];
            m[n * W + j] = less;
            next[n * W + j] = h[n * W + j] + less * h[n * W + j] + weight * u;
        }
    }
}

template <typename T, bool HOLD, int TERMS>
void forward(const Args<T> &s, const T *initial, T *y, T *last) {
    const int64_t N = s.states, size = N * W, tiles = s.tiles();
    const int64_t share = (tiles + s.splits - 1) / s.splits;
#pragma omp parallel for num_threads(s.threads) schedule(dynamic)
    for (int64_t part = 0; part < s.batch * s.groups * s.splits; ++part) {
        const int64_t split = part % s.splits, g = part / s.splits % s.groups;
        const int64_t b = part / s.splits / s.groups;
        const int64_t from = split * share, to = from + share < tiles ? from + share : tiles;
        if (from >= to) continue;
        std::vector<T> state((to - from) * size, T(0)), decay((to - from) * size);
        std::vector<T> inverse((to - from) * size), m(size);
        for (int64_t i = from; i < to; ++i) {
            const Tile tile = tile_of(s, g, i);
            T *A = &decay[(i - from) * size];
            gather(A, s.decay, tile, N, T(-1));
            for (int64_t e = 0; e < size; ++e) inverse[(i - from) * size + e] = 1 / A[e];
            if (initial) gather(&state[(i - from) * size], initial + b * s.dim * N, tile, N, T(0));
        }
        for (int64_t k = 0; k < s.chunks(); ++k) {
            const int64_t end = (k + 1) * CHUNK < s.length ? (k + 1) * CHUNK : s.length;
            for (int64_t i = from; i < to; ++i) {
                const Tile tile = tile_of(s, g, i);
                T *h = &state[(i - from) * size];
                const T *A = &decay[(i - from) * size], *inv = &inverse[(i - from) * size];
                std::memcpy(s.kept + (((k * s.batch + b) * s.groups + g) * tiles + i) * size, h,
                            size * sizeof(T));
                for (int64_t t = k * CHUNK; t < end; ++t) {
                    const int64_t at = (b * s.length + t) * s.dim + tile.first;
                    const int64_t row = ((b * s.length + t) * s.groups + g) * N;
                    alignas(64) T dt[W], x[2][W], out[W] = {};
                    const T *inward[2] = {};
                    load(dt, s.step + at, tile.lanes);
                    for (int e = 0; e < TERMS; ++e) {
                        load(x[e], s.x[e] + at, tile.lanes);
                        inward[e] = s.inward[e] + row;
                    }
                    advance<T, HOLD, TERMS>(N, dt, x, inward, A, inv, h, h, m.data());
                    for (int64_t n = 0; n < N; ++n) {
                        const T c = s.outward[row + n];
#pragma omp simd
                        for (int j = 0; j < W; ++j) out[j] += c * h[n * W + j];
                    }
                    store(y + at, out, tile.lanes);
                }
            }
        }
        for (int64_t i = from; i < to; ++i)
            scatter(last + b * s.dim * N, &state[(i - from) * size], tile_of(s, g, i), N);
    }
}

template <typename T>
struct Grads {
    const T *y, *state;            // given [B, L, D], [B, D, N]
    T *initial, *step, *x[2];      // [B, D, N], [B, L, D]
    T *decay;                      // [B, D, N], to be summed over B
    T *inward[2], *outward;        // [splits, B, L, G, N], to be summed over splits
};

// Everything of one position of a tile in backward: gradients of its inputs, and lambda carried on.
template <typename T, bool HOLD, int TERMS>
inline void retreat(int64_t states, const T *step, const T (*x)[W], const T *const *inward,
                    const T *outward, const T *dy, const T *decay, const T *inverse, const T *h,
                    const T *next, const T *m, T *lambda, T *d_step, T (*d_x)[W], T *d_decay,
                    T *const *d_inward, T *d_outward) {
    for (int64_t n = 0; n < states; ++n) {
        const T b0 = inward[0][n], b1 = TERMS > 1 ? inward[1][n] : T(0), c = outward[n];
#pragma omp simd
        for (int j = 0; j < W; ++j) {
            const int64_t e = n * W + j;
            const T l = lambda[e] + c * dy[j];
            d_outward[e] += next[e] * dy[j];
            T u = x[0][j] * b0;
            if (TERMS > 1) u += x[1][j] * b1;
            const T kept = l + l * m[e];  // a lambda
            const T weighted = l * (HOLD ? m[e] * inverse[e] : step[j]);
            const T k = HOLD ? kept * (decay[e] * h[e] + u) : kept * h[e];
            d_step[j] += HOLD ? k : k * decay[e] + l * u;
            d_decay[e] += HOLD ? (step[j] * k - weighted * u) * inverse[e] : step[j] * k;
            d_x[0][j] += weighted * b0;
            d_inward[0][e] += weighted * x[0][j];
            if (TERMS > 1) {
                d_x[1][j] += weighted * b1;
                d_inward[1][e] += weighted * x[1][j];
            }
            lambda[e] = kept;
        }
    }
}

// Sums over lanes of [rows][N][W] into [rows], rows `stride` apart.
template <typename T>
void across(T *to, const T *from, int64_t rows, int64_t states, int64_t stride) {
    for (int64_t t = 0; t < rows; ++t)
        for (int64_t n = 0; n < states; ++n) {
            T sum = 0;
            for (int j = 0; j < W; ++j) sum += from[(t * states + n) * W + j];
            to[t * stride + n] = sum;
        }
}

template <typename T, bool HOLD, int TERMS>
void backward(const Args<T> &s, const Grads<T> &d) {
    const int64_t N = s.states, size = N * W, tiles = s.tiles();
    const int64_t share = (tiles + s.splits - 1) / s.splits;
#pragma omp parallel for num_threads(s.threads) schedule(dynamic)
    for (int64_t part = 0; part < s.batch * s.groups * s.splits; ++part) {
        const int64_t split = part % s.splits, g = part / s.splits % s.groups;
        const int64_t b = part / s.splits / s.groups;
        const int64_t from = split * share, to = from + share < tiles ? from + share : tiles;
        const int64_t mine = to > from ? to - from : 0;
        std::vector<T> lambda(mine * size), decay(mine * size), inverse(mine * size);
        std::vector<T> d_decay(mine * size, T(0)), h((CHUNK + 1) * size), m(CHUNK * size);
        std::vector<T> d_in[2], d_out(CHUNK * size);
        for (int e = 0; e < TERMS; ++e) d_in[e].resize(CHUNK * size);
        for (int64_t i = from; i < to; ++i) {
            const Tile tile = tile_of(s, g, i);
            T *A = &decay[(i - from) * size];
            gather(A, s.decay, tile, N, T(-1));
            for (int64_t e = 0; e < size; ++e) inverse[(i - from) * size + e] = 1 / A[e];
            gather(&lambda[(i - from) * size], d.state + b * s.dim * N, tile, N, T(0));
        }
        for (int64_t k = s.chunks() - 1; k >= 0; --k) {
            const int64_t begin = k * CHUNK;
            const int64_t rows = begin + CHUNK < s.length ? CHUNK : s.length - begin;
            std::fill(d_out.begin(), d_out.end(), T(0));
            for (int e = 0; e < TERMS; ++e) std::fill(d_in[e].begin(), d_in[e].end(), T(0));
            for (int64_t i = from; i < to; ++i) {
                const Tile tile = tile_of(s, g, i);
                const int64_t o = (i - from) * size;
                std::memcpy(h.data(),
                            s.kept + (((k * s.batch + b) * s.groups + g) * tiles + i) * size,
                            size * sizeof(T));
                alignas(64) T dt[CHUNK][W], x[CHUNK][2][W];
                const T *inward[CHUNK][2] = {};
                for (int64_t r = 0; r < rows; ++r) {
                    const int64_t at = (b * s.length + begin + r) * s.dim + tile.first;
                    load(dt[r], s.step + at, tile.lanes);
                    for (int e = 0; e < TERMS; ++e) {
                        load(x[r][e], s.x[e] + at, tile.lanes);
                        inward[r][e] = s.inward[e] + ((b * s.length + begin + r) * s.groups + g) * N;
                    }
                    advance<T, HOLD, TERMS>(N, dt[r], x[r], inward[r], &decay[o], &inverse[o],
                                            &h[r * size], &h[(r + 1) * size], &m[r * size]);
                }
                for (int64_t r = rows - 1; r >= 0; --r) {
                    const int64_t at = (b * s.length + begin + r) * s.dim + tile.first;
                    const int64_t row = ((b * s.length + begin + r) * s.groups + g) * N;
                    alignas(64) T dy[W], d_step[W] = {}, d_x[2][W] = {};
                    load(dy, d.y + at, tile.lanes);
                    T *into[2] = {&d_in[0][r * size], TERMS > 1 ? &d_in[1][r * size] : nullptr};
                    retreat<T, HOLD, TERMS>(N, dt[r], x[r], inward[r], s.outward + row, dy,
                                            &decay[o], &inverse[o], &h[r * size],
                                            &h[(r + 1) * size], &m[r * size], &lambda[o], d_step,
                                            d_x, &d_decay[o], into, &d_out[r * size]);
                    store(d.step + at, d_step, tile.lanes);
                    for (int e = 0; e < TERMS; ++e) store(d.x[e] + at, d_x[e], tile.lanes);
                }
            }
            const int64_t first = ((split * s.batch + b) * s.length + begin) * s.groups * N + g * N;
            across(d.outward + first, d_out.data(), rows, N, s.groups * N);
            for (int e = 0; e < TERMS; ++e)
                across(d.inward[e] + first, d_in[e].data(), rows, N, s.groups * N);
        }
        for (int64_t i = from; i < to; ++i) {
            const Tile tile = tile_of(s, g, i);
            scatter(d.initial + b * s.dim * N, &lambda[(i - from) * size], tile, N);
            scatter(d.decay + b * s.dim * N, &d_decay[(i - from) * size], tile, N);
        }
    }
}

// sizes: batch, length, dim, groups, states, terms, splits, threads, hold.
// inputs: step, decay, outward, x0, inward0, x1, inward1, kept.
template <typename T>
Args<T> args_of(const int64_t *n, void *const *p) {
    Args<T> s{n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]};
    auto at = [p](int i) { return static_cast<T *>(p[i]); };
    s.step = at(0), s.decay = at(1), s.outward = at(2), s.kept = at(7);
    s.x[0] = at(3), s.inward[0] = at(4), s.x[1] = at(5), s.inward[1] = at(6);
    return s;
}

template <typename T>
void run_forward(const int64_t *n, void *const *in, void *const *out) {
    const Args<T> s = args_of<T>(n, in);
    const T *initial = static_cast<T *>(out[0]);
    T *y = static_cast<T *>(out[1]), *last = static_cast<T *>(out[2]);
    if (s.terms == 2) {
        forward<T, true, 2>(s, initial, y, last);
    } else if (n[8]) {
        forward<T, true, 1>(s, initial, y, last);
    } else {
        forward<T, false, 1>(s, initial, y, last);
    }
}

template <typename T>
void run_backward(const int64_t *n, void *const *in, void *const *out) {
    const Args<T> s = args_of<T>(n, in);
    auto at = [out](int i) { return static_cast<T *>(out[i]); };
    const Grads<T> d{at(0), at(1), at(2), at(3), {at(4), at(5)}, at(6), {at(7), at(8)}, at(9)};
    if (s.terms == 2) {
        backward<T, true, 2>(s, d);
    } else if (n[8]) {
        backward<T, true, 1>(s, d);
    } else {
        backward<T, false, 1>(s, d);
    }
}

}  // namespace

extern "C" {

void s6_forward_float(const int64_t *n, void *const *in, void *const *out) {
    run_forward<float>(n, in, out);
}
void s6_forward_double(const int64_t *n, void *const *in, void *const *out) {
    run_forward<double>(n, in, out);
}
void s6_backward_float(const int64_t *n, void *const *in, void *const *out) {
    run_backward<float>(n, in, out);
}
void s6_backward_double(const int64_t *n, void *const *in, void *const *out) {
    run_backward<double>(n, in, out);
}
}
