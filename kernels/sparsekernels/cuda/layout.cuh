// Sizes, and what lies where in shared and in global memory.
#pragma once
#include "fragments.cuh"

constexpr int PAGE = 16;
constexpr int THREADS = 32 * WARPS;
constexpr int HEADS = 8;                     // heads of a matrix instruction; those from GROUP on are zero
constexpr int BATCH = 16;                    // pages that a warp bounds at once
constexpr int CHUNKS = D / 16;               // of 32 numbers, in a summary
constexpr int BINS = 256;
constexpr int ROUNDS = 5;                    // of 8 bits each; 32 bits need four, and the first may be a partial one
constexpr int FEW = 32;                      // keys that a warp ranks by comparing each with each
constexpr int TILES = D / 16;                // of 16 value columns
constexpr int PART = D * HEADS;              // numbers of a part of the result
constexpr int OWN = (PART + CLUSTER - 1) / CLUSTER;  // of them, those that a program joins and writes
constexpr float EMPTY = -1e30f;              // the highest score of nothing

// What lies in shared memory: keys and physical pages [padded_pages] each, then this, then the list of pages.
struct Shared {
    uint4 parts[CHUNKS][32];
    uint4 query[D / 32][32];
    u32 histogram[ROUNDS][BINS];
    u32 low[CLUSTER * WARPS], high[CLUSTER * WARPS];
    uint4 few[FEW / 4];
    int num_few, few_pages[FEW];
    u32 sure[WARPS], tied[WARPS];
    float top[WARPS][HEADS], norm[WARPS][HEADS];
    float tops[CLUSTER][HEADS], norms[CLUSTER][HEADS];
    float sums[CLUSTER][OWN];
    float part[WARPS][PART];
};

static_assert(sizeof(Shared) == SHARED_BYTES, "the caller knows another struct");
static_assert(WARPS % 2 == 0, "a thread's numbers of a part belong to one head");
static_assert(WARPS <= 32 && CLUSTER <= 32 && GROUP <= HEADS, "one lane each");

struct Pages {
    u32* keys;      // ordered bounds
    int* physical;  // where each page lies
    int current;    // so many, all before the current page
};

// One head's keys and values.
struct Cache {
    const u16 *keys, *values;
    i64 stride_kp, stride_kt;

    __device__ __forceinline__ i64 place_of(int physical) const {
        return (i64)(physical / RATIO) * stride_kp + (physical % RATIO) * PAGE * stride_kt;
    }
};

// A page on its way into the L2 cache; by a warp.
__device__ __forceinline__ void call_page(const Cache& cache, int physical) {
    constexpr int LINES = D / 64;  // of 128 bytes, that a token has
    int lane = threadIdx.x % 32;
    if (lane < PAGE * LINES) {
        i64 place = cache.place_of(physical) + lane / LINES * cache.stride_kt + lane % LINES * 64;
        asm volatile("prefetch.global.L2 [%0];" ::"l"(cache.keys + place));
        asm volatile("prefetch.global.L2 [%0];" ::"l"(cache.values + place));
    }
}
