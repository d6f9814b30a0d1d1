// One decode step of Quest in one launch: bounds of all pages, the best pages, attention over them.
//
// A cluster of CLUSTER programs serves one (request, KV head). Each program bounds its share of the pages and leaves
// the bounds in the shared memory of all; each finds the same cut, takes every CLUSTER-th of the chosen pages, attends
// to them, and the parts are merged through shared memory. Nothing is added up in an order that could change.
//
// Tiles are fragments of mma.sync.m16n8k16 that pass from global memory to registers without a detour: numbers of a row
// may be taken in any order as long as both factors take the same. Scores are pages × heads and tokens × heads, so that
// a group of at most eight query heads fills an instruction.
//
// Compiled with: D (head size, 64 or 128), GROUP (query heads of a KV head, at most 8), KV_HEADS, CLUSTER (1 to 16),
// RATIO (pages of 16 tokens in a cache page), HALF (1: float16, 0: bfloat16), SKIP_EMPTY (1: rows without tokens stay
// as they are), SHARED_BYTES (what the caller reserves for struct Shared).

typedef unsigned int u32;
typedef unsigned short u16;
typedef long long i64;

constexpr int PAGE = 16;
constexpr int WARPS = 12;
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

static_assert(sizeof(Shared) <= SHARED_BYTES, "the caller reserves too little shared memory");
static_assert(WARPS % 2 == 0, "a thread's numbers of a part belong to one head");
static_assert(WARPS <= 32 && CLUSTER <= 32 && GROUP <= HEADS, "one lane each");

__device__ __forceinline__ float low_half(u32 x) {
#if HALF
    float r;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(r) : "r"(x));
    return r;
#else
    return __uint_as_float(x << 16);
#endif
}

__device__ __forceinline__ float high_half(u32 x) {
#if HALF
    float r;
    asm("{ .reg .b16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }" : "=f"(r) : "r"(x));
    return r;
#else
    return __uint_as_float(x & 0xFFFF0000u);
#endif
}

__device__ __forceinline__ u32 pack(float low, float high) {
    u32 r;
#if HALF
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#else
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#endif
    return r;
}

__device__ __forceinline__ void multiply(float (&c)[4], u32 a0, u32 a1, u32 a2, u32 a3, u32 b0, u32 b1) {
#if HALF
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
#endif
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ u32 transpose(u32 x) {
    u32 r;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(x));
    return r;
}

// 16 bytes that are read once, and that nothing writes while this kernel runs.
__device__ __forceinline__ uint4 stream(const void* p) {
    uint4 r;
    asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
    return r;
}

__device__ __forceinline__ float power_of_2(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

__device__ __forceinline__ u32 ordered(float x) {
    u32 bits = __float_as_uint(x);
    return min(bits & 0x80000000u ? ~bits : bits | 0x80000000u, ~1u);  // one can be added to any
}

__device__ __forceinline__ u32 rank_in_cluster() {
    u32 r;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

__device__ __forceinline__ u32 shared_address(const void* p) {
    return (u32)__cvta_generic_to_shared(p);
}

__device__ __forceinline__ u32 address_at(u32 address, u32 rank) {
    u32 r;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(address), "r"(rank));
    return r;
}

__device__ __forceinline__ void tell(void* place, u32 rank, u32 x) {
    if (CLUSTER > 1) {
        asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address_at(shared_address(place), rank)), "r"(x) : "memory");
    } else {
        *(u32*)place = x;
    }
}

__device__ __forceinline__ void meet() {
    if (CLUSTER > 1) {
        asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
        asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    } else {
        __syncthreads();
    }
}

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

struct Pages {
    u32* keys;      // ordered bounds
    int* physical;  // where each page lies
    int current;    // so many, all before the current page
};

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

extern "C" __global__ void __launch_bounds__(THREADS, 1) quest_step(
    const u16* q, u16* store, const u16* keys, const u16* values, const int* block_table, const int* seq_lens,
    const int* budgets, u16* out, const u16* new_keys, const i64* slots, int* table, int* lengths,
    i64 stride_qb, i64 stride_qh, i64 stride_ob, i64 stride_oh, i64 stride_kp, i64 stride_kt, i64 stride_kh,
    i64 stride_nb, i64 stride_nh, int stride_bt, int num_pages, int padded_pages, int width, int call, float scale) {
    extern __shared__ __align__(16) char memory[];
    u32* keys_of_pages = (u32*)memory;
    int* physical = (int*)(keys_of_pages + padded_pages);
    Shared& shared = *(Shared*)(physical + padded_pages);
    int* list = (int*)(&shared + 1);

    int rank = CLUSTER > 1 ? rank_in_cluster() : 0;
    int row = blockIdx.x / CLUSTER, batch = row / KV_HEADS, head = row % KV_HEADS;
    int thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    for (int i = thread; i < ROUNDS * BINS; i += THREADS) (&shared.histogram[0][0])[i] = 0;
    if (thread <= FEW) ((u32*)shared.few)[thread] = 0;  // and num_few, which follows
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
    // A program may write into another's shared memory only when that one has begun.
    if (CLUSTER > 1) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");

    // All that the first reads depend on is asked for at once.
    const int* line = block_table + (i64)batch * stride_bt;
    const u16* queries = q + batch * stride_qb + head * GROUP * stride_qh;
    u16* own_out = out + batch * stride_ob + head * GROUP * stride_oh;
    int seq_len = seq_lens[batch], budget = budgets[batch], first_batch = warp * CLUSTER + rank;
    int2 here = find_batch(line, first_batch, num_pages), next = find_batch(line, first_batch + STEP, num_pages);
    uint4 query = ask_queries(queries, stride_qh, warp % (CHUNKS / 2));
    if (new_keys && rank == 0 && warp == WARPS - 1) {
        // The new key belongs to the current page, which is read in any case: no bound here needs its summary.
        i64 slot = slots[batch];
        if (slot >= 0) take_in(store, new_keys + batch * stride_nb + head * stride_nh, slot, head);
    }
    if (seq_len <= 0) {
        if (!SKIP_EMPTY && rank == 0) {
            for (int n = thread; n < GROUP * D; n += THREADS) own_out[n / D * stride_oh + n % D] = 0;
        }
        if (lengths && rank == 0 && thread == 0) lengths[row] = 0;
        if (CLUSTER > 1) asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
        return;
    }
    int current = (seq_len - 1) / PAGE, tokens = seq_len - current * PAGE;
    int want = max(0, min(min(budget / PAGE, current), width - 1));
    int current_page = physical_page(line, current);
    int page = first_batch * BATCH + lane / 4;
    here = {page < current ? here.x : 0, page + 8 < current ? here.y : 0};
    page += STEP * BATCH;
    next = {page < current ? next.x : 0, page + 8 < current ? next.y : 0};
    Pages pages = {keys_of_pages, physical, current};
    bound_pages(store, line, shared, pages, head, rank, first_batch, here, next, query);
    meet();

    Cache cache = {keys + head * stride_kh, values + head * stride_kh, stride_kp, stride_kt};
    int count = share_of_pages(
        pages, cache, want, current_page, rank, list, table ? table + (i64)row * width : 0, call, shared);
    if (lengths && rank == 0 && thread == 0) lengths[row] = want * PAGE + tokens;

    State s;
    s.top[0] = s.top[1] = EMPTY;
    s.norm[0] = s.norm[1] = 0;
#pragma unroll
    for (int t = 0; t < TILES; ++t) s.o[t][0] = s.o[t][1] = s.o[t][2] = s.o[t][3] = 0;
    Listed listed = {list, count, want % CLUSTER == rank ? want / CLUSTER : -1, tokens, scale};
    // The first turn stands alone, for its result needs no registers while its keys and values do.
    if (warp < count) attend_two(s, shared, cache, listed, warp);
    for (int i = warp + 2 * WARPS; i < count; i += 2 * WARPS) attend_two(s, shared, cache, listed, i);
    merge(s, shared, own_out, stride_oh, rank);
}
