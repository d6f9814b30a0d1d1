// Attention over listed pages, page by page and warp by warp, and the merge of the parts.
#pragma once
#include "layout.cuh"

// A part of the attention: for each thread 2 heads, 2 * (lane % 4) and the next.
struct State {
    float top[2], norm[2];
    float o[TILES][4];
};

// Which value column a thread's pair of row tile `tile` begins at.
__device__ __forceinline__ int column_of(int tile, int lane) {
    return 64 * (tile / 4) + 8 * (lane / 4) + 2 * (tile % 4);
}

__device__ __forceinline__ void ask_keys(uint4 (&k)[D / 16], const u16* keys, i64 stride_kt) {
    int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        k[2 * i] = stream(keys + g * stride_kt + 32 * i + 8 * j);
        k[2 * i + 1] = stream(keys + (g + 8) * stride_kt + 32 * i + 8 * j);
    }
}

__device__ __forceinline__ void ask_values(uint4 (&v)[D / 16], const u16* values, i64 stride_kt, int tokens) {
    int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < D / 64; ++i) {
#pragma unroll
        for (int t = 0; t < 4; ++t) {
            int token = 2 * j + (t % 2) + 8 * (t / 2);
            uint4 none = {0, 0, 0, 0};  // what is beyond the sequence may be anything, and nothing times NaN is NaN
            v[4 * i + t] = token < tokens ? stream(values + token * stride_kt + 64 * i + 8 * g) : none;
        }
    }
}

__device__ __forceinline__ u32 word(const uint4& x, int i) {
    return i == 0 ? x.x : i == 1 ? x.y : i == 2 ? x.z : x.w;
}

// The weights of a page's tokens, as fragments; what was gathered so far fades as the highest score rises.
__device__ __forceinline__ uint2 weigh(
    State& s, const uint4 (&k)[D / 16], const uint4 (&query)[D / 32][32], int tokens, float scale) {
    int lane = threadIdx.x % 32, g = lane / 4;
    float c[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
#pragma unroll
    for (int i = 0; i < D / 32; ++i) {
        uint4 q = query[i][lane];
        multiply(c[0], k[2 * i].x, k[2 * i + 1].x, k[2 * i].y, k[2 * i + 1].y, q.x, q.y);
        multiply(c[1], k[2 * i].z, k[2 * i + 1].z, k[2 * i].w, k[2 * i + 1].w, q.z, q.w);
    }
    float p[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) p[i] = g + 8 * (i / 2) < tokens ? (c[0][i] + c[1][i]) * scale : EMPTY;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float top = fmaxf(p[h], p[h + 2]);
#pragma unroll
        for (int away = 4; away < 32; away *= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, away));
        top = fmaxf(top, s.top[h]);
        float fade = power_of_2(s.top[h] - top);
        p[h] = power_of_2(p[h] - top);
        p[h + 2] = power_of_2(p[h + 2] - top);
        s.norm[h] = s.norm[h] * fade + p[h] + p[h + 2];
        s.top[h] = top;
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
            s.o[t][h] *= fade;
            s.o[t][h + 2] *= fade;
        }
    }
    return {transpose(pack(p[0], p[1])), transpose(pack(p[2], p[3]))};
}

__device__ __forceinline__ void gather(State& s, const uint4 (&v)[D / 16], uint2 weights) {
#pragma unroll
    for (int t = 0; t < TILES; ++t) {
        int i = t / 4;
        u32 w0 = word(v[4 * i], t % 4), w1 = word(v[4 * i + 1], t % 4);
        u32 w2 = word(v[4 * i + 2], t % 4), w3 = word(v[4 * i + 3], t % 4);
        multiply(s.o[t], __byte_perm(w0, w1, 0x5410), __byte_perm(w0, w1, 0x7632), __byte_perm(w2, w3, 0x5410),
                 __byte_perm(w2, w3, 0x7632), weights.x, weights.y);
    }
}

struct Listed {
    const int* pages;
    int count;
    int last;    // the current page's place, or −1
    int tokens;  // of the current page
    float scale;
};

// Attend to the pages at places i and i + WARPS of the list, where there is one.
__device__ __forceinline__ void attend_two(
    State& s, const Shared& shared, const Cache& cache, const Listed& l, int i) {
    uint4 k0[D / 16], v0[D / 16], k1[D / 16], v1[D / 16];
    bool two = i + WARPS < l.count;
    i64 first = cache.place_of(l.pages[i]), second = cache.place_of(l.pages[two ? i + WARPS : i]);
    int in_first = i == l.last ? l.tokens : PAGE, in_second = i + WARPS == l.last ? l.tokens : PAGE;
    ask_keys(k0, cache.keys + first, cache.stride_kt);
    if (two) ask_keys(k1, cache.keys + second, cache.stride_kt);
    ask_values(v0, cache.values + first, cache.stride_kt, in_first);
    if (two) ask_values(v1, cache.values + second, cache.stride_kt, in_second);
    gather(s, v0, weigh(s, k0, shared.query, in_first, l.scale));
    if (two) gather(s, v1, weigh(s, k1, shared.query, in_second, l.scale));
}

// Join the warps' parts, then the programs', and write the row.
__device__ void merge(State& s, Shared& shared, u16* out, i64 stride_oh, int rank) {
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int away = 4; away < 32; away *= 2) s.norm[h] += __shfl_xor_sync(~0u, s.norm[h], away);
        if (lane < 4) {
            shared.top[warp][2 * lane + h] = s.top[h];
            shared.norm[warp][2 * lane + h] = s.norm[h];
        }
    }
#pragma unroll
    for (int t = 0; t < TILES; ++t) {
#pragma unroll
        for (int i = 0; i < 4; ++i) shared.part[warp][(4 * t + i) * 32 + lane] = s.o[t][i];
    }
    __syncthreads();
    // All numbers of a thread belong to one head.
    int head = 2 * (lane % 4) + warp % 2;
    float top = EMPTY, norm = 0, weights[WARPS];
#pragma unroll
    for (int w = 0; w < WARPS; ++w) top = fmaxf(top, weights[w] = shared.top[w][head]);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
        weights[w] = power_of_2(weights[w] - top);
        norm += shared.norm[w][head] * weights[w];
    }
    if (warp < 2 && lane < 4) {
#pragma unroll
        for (int r = 0; r < CLUSTER; ++r) {
            tell(&shared.tops[rank][head], r, __float_as_uint(top));
            tell(&shared.norms[rank][head], r, __float_as_uint(norm));
        }
    }
    for (int n = thread; n < PART; n += THREADS) {
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += shared.part[w][n] * weights[w];
        tell(&shared.sums[rank][n % OWN], n / OWN, __float_as_uint(sum));
    }
    meet();
    for (int own = thread; own < OWN; own += THREADS) {
        int n = rank * OWN + own, tile = n / 128, e = n / 64 % 2;
        head = 2 * (n % 4) + n / 32 % 2;
        float sum = 0;
        top = EMPTY, norm = 0;
#pragma unroll
        for (int r = 0; r < CLUSTER; ++r) top = fmaxf(top, shared.tops[r][head]);
#pragma unroll
        for (int r = 0; r < CLUSTER; ++r) {
            float weight = power_of_2(shared.tops[r][head] - top);
            norm += shared.norms[r][head] * weight;
            sum += shared.sums[r][own] * weight;
        }
        if (head < GROUP && n < PART) out[head * stride_oh + column_of(tile, n % 32) + e] = (u16)pack(sum / norm, 0.f);
    }
}
