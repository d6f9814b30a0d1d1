// The best pages, in order: by counting keys, no sort; ties go to the lower page.
#pragma once
#include "layout.cuh"

// The bin of `bins` that holds the cut, how many keys are in it and how many above it; the same in every thread.
__device__ void find_bin(const u32* bins, int want, int& bin, int& count, int& over) {
    // Each lane has eight bins, the highest first; the first bin by which `want` are reached holds the cut.
    int lane = threadIdx.x % 32;
    const uint4* own = (const uint4*)bins + BINS / 4 - 2 - 2 * lane;
    uint4 a = own[1], b = own[0];
    int counts[8] = {(int)a.w, (int)a.z, (int)a.y, (int)a.x, (int)b.w, (int)b.z, (int)b.y, (int)b.x};
    int sum = (counts[0] + counts[1]) + (counts[2] + counts[3]) + (counts[4] + counts[5]) + (counts[6] + counts[7]);
    int until = sum;
#pragma unroll
    for (int away = 1; away < 32; away *= 2) {
        int other = __shfl_up_sync(~0u, until, away);
        if (lane >= away) until += other;
    }
    int holder = __ffs(__ballot_sync(~0u, until >= want)) - 1;
    over = until - sum;
    bin = BINS - 1 - lane * 8;
    count = counts[0];
#pragma unroll
    for (int i = 1; i < 8; ++i) {
        if (over + count < want) {
            over += count;
            count = counts[i];
            bin -= 1;
        }
    }
    bin = __shfl_sync(~0u, bin, holder);
    count = __shfl_sync(~0u, count, holder);
    over = __shfl_sync(~0u, over, holder);
}

// Which keys are among the best, as far as counting tells: those from `sure` on are; of the `range` + 1 keys from `low`
// on `want` are, which are all of them, equal ones, or few.
struct Rough {
    u32 sure, low, range;
    int want;
    bool few;
};

// 0 < want < current. The same in every thread.
__device__ Rough count_keys(Pages pages, int want, Shared& shared) {
    int thread = threadIdx.x, lane = thread % 32;
    u32 low = ~0u, high = 0;
    for (int i = lane; i < CLUSTER * WARPS; i += 32) {
        low = min(low, shared.low[i]);
        high = max(high, shared.high[i]);
    }
    low = __reduce_min_sync(~0u, low);
    high = __reduce_max_sync(~0u, high);
    u32 range = high - low;
    int shift = max(0, 24 - __clz(range));
    for (int round = 0;; ++round) {
        u32* bins = shared.histogram[round];
#pragma unroll 4
        for (int i = thread; i < pages.current; i += THREADS) {
            u32 above = pages.keys[i] - low;
            if (above <= range) atomicAdd(&bins[above >> shift], 1);
        }
        __syncthreads();
        int bin, count, over;
        find_bin(bins, want, bin, count, over);
        want -= over;
        range = min(range - ((u32)bin << shift), (1u << shift) - 1);
        low += (u32)bin << shift;
        if (count == want) return {low, 0, 0, 0, false};
        if (shift == 0 || count <= FEW) return {low + range + 1, low, range, want, count <= FEW};
        shift = max(0, shift - 8);
    }
}

// This program's share of the chosen pages, in order, into `list`, the current page last; returns how many. `all` may be
// null.
__device__ int share_of_pages(
    Pages pages, const Cache& cache, int want, int current_page, int rank, int* list, int* all, bool call,
    Shared& shared) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, current = pages.current;
    Rough rough = {want > 0 ? 0 : ~0u, 0, 0, 0, false};
    if (want > 0 && want < current) rough = count_keys(pages, want, shared);
    // Each warp looks at pages of its own: how many are sure, how many tied; the few to compare go to all. What is sure is
    // called for at once, for memory has nothing else to do; by one of the programs, and if the cache holds it all.
    int each = (current + WARPS * 32 - 1) / (WARPS * 32) * 32;
    int begin = warp * each, stop = want > 0 ? min(begin + each, current) : 0;
    int sure = 0, tied = 0;
#pragma unroll 4
    for (int i = begin + lane; i - lane < stop; i += 32) {
        u32 key = i < stop ? pages.keys[i] : 0;
        bool open = i < stop && rough.want && key - rough.low <= rough.range;
        u32 sures = __ballot_sync(~0u, i < stop && key >= rough.sure);
        sure += __popc(sures);
        tied += __popc(__ballot_sync(~0u, open));
        for (u32 own = sures & __ballot_sync(~0u, call && i % CLUSTER == rank); own; own &= own - 1) {
            call_page(cache, pages.physical[i - lane + __ffs(own) - 1]);
        }
        if (open && rough.few) {
            int place = atomicAdd(&shared.num_few, 1);
            ((u32*)shared.few)[place] = key;
            shared.few_pages[place] = i;
        }
    }
    if (lane == 0) {
        shared.sure[warp] = sure;
        shared.tied[warp] = tied;
    }
    __syncthreads();
    sure = __reduce_add_sync(~0u, lane < warp ? shared.sure[lane] : 0);
    u32 sure_from = rough.sure, tie = rough.low;
    int ties = rough.want;
    if (rough.few) {
        u32 own = ((u32*)shared.few)[lane];  // zero, below every key, where there is none
        int greater = 0, equal = 0;
#pragma unroll
        for (int i = 0; i < FEW / 4; ++i) {
            uint4 other = shared.few[i];
            greater += (other.x > own) + (other.y > own) + (other.z > own) + (other.w > own);
            equal += (other.x == own) + (other.y == own) + (other.z == own) + (other.w == own);
        }
        int holder = __ffs(__ballot_sync(~0u, own && greater < ties && ties <= greater + equal)) - 1;
        tie = __shfl_sync(~0u, own, holder);
        ties -= __shfl_sync(~0u, greater, holder);
        sure_from = tie + 1;
        bool before = own && shared.few_pages[lane] < begin;
        sure += __popc(__ballot_sync(~0u, before && own > tie));
        tied = __popc(__ballot_sync(~0u, before && own == tie));
    } else {
        tied = __reduce_add_sync(~0u, lane < warp ? shared.tied[lane] : 0);
    }
#pragma unroll 4
    for (int i = begin + lane; i - lane < stop; i += 32) {
        u32 key = i < stop ? pages.keys[i] : 0;
        bool is_sure = i < stop && key >= sure_from, is_tied = i < stop && ties && key == tie;
        u32 sures = __ballot_sync(~0u, is_sure), tieds = __ballot_sync(~0u, is_tied), before = (1u << lane) - 1;
        if (!(sures | tieds)) continue;
        int ties_before = tied + __popc(tieds & before);
        if (is_sure || (is_tied && ties_before < ties)) {
            int place = sure + __popc(sures & before) + min(ties_before, ties);
            if (place % CLUSTER == rank) list[place / CLUSTER] = pages.physical[i];
            if (all && rank == 0) all[place] = pages.physical[i];
        }
        sure += __popc(sures);
        tied += __popc(tieds);
    }
    if (threadIdx.x == 0) {
        if (want % CLUSTER == rank) list[want / CLUSTER] = current_page;
        if (all && rank == 0) all[want] = current_page;
    }
    __syncthreads();
    return (want + CLUSTER - rank) / CLUSTER;
}
