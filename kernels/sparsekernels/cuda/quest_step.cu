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
// as they are), WARPS (of a program), SHARED_BYTES (what the caller reserves for struct Shared).

#include "attention.cuh"
#include "bounds.cuh"
#include "ranking.cuh"

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
