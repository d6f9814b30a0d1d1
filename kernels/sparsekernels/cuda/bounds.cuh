// Page summaries: a new key taken in, the bounds of all pages.
#pragma once
#include "layout.cuh"

// The new key into the summary of its page, in place; by one warp.
__device__ void take_in(u16* store, const u16* key, i64 slot, int head) {
    u16* where = store + ((slot / PAGE) * KV_HEADS + head) * 2 * D;
    for (int d = 2 * (threadIdx.x % 32); d < D; d += 64) {
        u32 fresh = *(const u32*)(key + d);
        u32 *high = (u32*)(where + d), *low = (u32*)(where + D + d);
        if (slot % PAGE == 0) {
            *high = fresh;
            *low = fresh;
        } else {
            u32 h = *high, l = *low;
            *high = pack(fmaxf(low_half(h), low_half(fresh)), fmaxf(high_half(h), high_half(fresh)));
            *low = pack(fminf(low_half(l), low_half(fresh)), fminf(high_half(l), high_half(fresh)));
        }
    }
}

__device__ __forceinline__ u32 either(u32 x, bool below) {
    u32 positive = pack(fmaxf(low_half(x), 0.f), fmaxf(high_half(x), 0.f));
    u32 negative = pack(fminf(low_half(x), 0.f), fminf(high_half(x), 0.f));
    return below ? negative : positive;
}

// The group's queries 32 i … 32 i + 31, as a fragment; those of heads from GROUP on are zero.
__device__ __forceinline__ uint4 ask_queries(const u16* q, i64 stride_qh, int i) {
    int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
    uint4 none = {0, 0, 0, 0};
    return g < GROUP ? *(const uint4*)(q + g * stride_qh + 32 * i + 8 * j) : none;
}

// For all warps: the queries, and what summaries are multiplied with, their positive parts for the maxima and their
// negative ones for the minima.
__device__ __forceinline__ void leave_queries(Shared& shared, uint4 x, int i) {
    int lane = threadIdx.x % 32;
    shared.query[i][lane] = x;
    shared.parts[i][lane] = {either(x.x, 0), either(x.y, 0), either(x.z, 0), either(x.w, 0)};
    shared.parts[CHUNKS / 2 + i][lane] = {either(x.x, 1), either(x.y, 1), either(x.z, 1), either(x.w, 1)};
}

__device__ __forceinline__ int physical_page(const int* line, int page) {
    return line[page / RATIO] * RATIO + page % RATIO;
}

// A batch's summaries, those of pages g and g + 8 in a thread, whose physical pages are `pages`.
__device__ __forceinline__ void ask(uint4 (&words)[2 * CHUNKS], const u16* store, int2 pages, int head) {
    int j = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const u16* summary = store + ((i64)(half ? pages.y : pages.x) * KV_HEADS + head) * 2 * D + 8 * j;
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) words[2 * i + half] = stream(summary + 32 * i);
    }
}

// The bounds of pages g (x) and g + 8 (y), in every thread of a group of four.
__device__ __forceinline__ float2 bounds_of(const uint4 (&words)[2 * CHUNKS], const uint4 (&parts)[CHUNKS][32]) {
    float c[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}};
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) {
        const uint4 &a = words[2 * i], &b = words[2 * i + 1];
        uint4 part = parts[i][threadIdx.x % 32];
        multiply(c[0], a.x, b.x, a.y, b.y, part.x, part.y);
        multiply(c[1], a.z, b.z, a.w, b.w, part.z, part.w);
    }
    float2 sum = {c[0][0] + c[1][0] + (c[0][1] + c[1][1]), c[0][2] + c[1][2] + (c[0][3] + c[1][3])};
#pragma unroll
    for (int away = 1; away < 4; away *= 2) {
        sum.x += __shfl_xor_sync(~0u, sum.x, away);
        sum.y += __shfl_xor_sync(~0u, sum.y, away);
    }
    return sum;
}

// Tell all programs a number of pages g and g + 8 of a batch; each thread of a group of four tells some of them.
__device__ __forceinline__ void tell_pages(u32* place, int first, int current, u32 of_g, u32 of_g8) {
    int g = threadIdx.x % 32 / 4, j = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int page = first + g + 8 * half;
        if (page >= current) continue;
#pragma unroll
        for (int k = 0; k < (CLUSTER + 3) / 4; ++k) {
            if (j + 4 * k < CLUSTER) tell(place + page, j + 4 * k, half ? of_g8 : of_g);
        }
    }
}

// Tell the keys of a batch; the lowest and the highest so far are kept.
__device__ __forceinline__ void tell_bounds(float2 sum, Pages pages, int first, u32& low, u32& high) {
    int page = first + threadIdx.x % 32 / 4;
    u32 x = ordered(sum.x), y = ordered(sum.y);
    low = min(low, min(page < pages.current ? x : ~0u, page + 8 < pages.current ? y : ~0u));
    high = max(high, max(page < pages.current ? x : 0, page + 8 < pages.current ? y : 0));
    tell_pages(pages.keys, first, pages.current, x, y);
}

// The physical pages of g and g + 8 of a batch, zero from page `end` on.
__device__ __forceinline__ int2 find_batch(const int* line, int batch, int end) {
    int page = batch * BATCH + threadIdx.x % 32 / 4;
    return {page < end ? physical_page(line, page) : 0, page + 8 < end ? physical_page(line, page + 8) : 0};
}

constexpr int STEP = WARPS * CLUSTER;

// Bounds of this program's share of the pages into everybody's memory: batches `batch`, `batch` + STEP, …, of which the
// first two lie at `here` and `next`. `query` is for `leave_queries`.
__device__ void bound_pages(const u16* store, const int* line, Shared& shared, Pages pages, int head, int rank, int batch,
                            int2 here, int2 next, uint4 query) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int batches = (pages.current + BATCH - 1) / BATCH;
    u32 low = ~0u, high = 0;
    uint4 one[2 * CHUNKS], two[2 * CHUNKS];
    if (batch < batches) ask(one, store, here, head);
    if (warp < CHUNKS / 2) leave_queries(shared, query, warp);
    // Every program has begun, and may be written to; the queries are there.
    if (CLUSTER > 1) asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    __syncthreads();
    u32* places = (u32*)pages.physical;
    tell_pages(places, batch * BATCH, pages.current, here.x, here.y);
    // Two turns written out, for registers have no index: one's summaries are bounded while the other's are on their way.
    // As a function of both, the compiler orders it otherwise.
    while (batch < batches) {
        here = find_batch(line, batch + 2 * STEP, pages.current);
        if (batch + STEP < batches) {
            ask(two, store, next, head);
            tell_pages(places, (batch + STEP) * BATCH, pages.current, next.x, next.y);
        }
        tell_bounds(bounds_of(one, shared.parts), pages, batch * BATCH, low, high);
        batch += STEP;
        if (batch >= batches) break;
        next = find_batch(line, batch + 2 * STEP, pages.current);
        if (batch + STEP < batches) {
            ask(one, store, here, head);
            tell_pages(places, (batch + STEP) * BATCH, pages.current, here.x, here.y);
        }
        tell_bounds(bounds_of(two, shared.parts), pages, batch * BATCH, low, high);
        batch += STEP;
    }
    low = __reduce_min_sync(~0u, low);
    high = __reduce_max_sync(~0u, high);
    if (lane < CLUSTER) {
        tell(&shared.low[rank * WARPS + warp], lane, low);
        tell(&shared.high[rank * WARPS + warp], lane, high);
    }
}
