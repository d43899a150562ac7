/* The library's entry points: choose an instruction set, cut the problem into pieces for the threads, add the results.
 *
 * Pieces are (image, channels, directions). Sums over directions, channels and images are taken in one order whatever
 * the number of threads, so that equal input gives equal bits:
 *
 *     over directions   (0th + 1st) + (2nd + 3rd) of the list. An image is one piece, a piece for each bracket or one
 *                       for each direction, whatever the threads need. The one piece adds up bracket after bracket;
 *                       of several pieces each has a buffer to itself, and the buffers are added at the end: the same
 *                       additions, the same bits. A bracket holds a direction by rows and one by columns, the slower
 *                       ones in a large image, so that pieces take equally long.
 *     over channels     (gradients of B, C and dt) within a group of channels lane by lane, then group by group. The
 *                       groups belong to the problem, not to the threads.
 *     over images       (gradients of the parameters) one after the other.
 *
 * The OpenMP region is here and not in the workers: a function that is outlined for OpenMP loses its instruction set.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "parallel.h"
#include "scan.h"
#include "vec.h"

/* Fastest first. */
static const instruction_set *usable(int i)
{
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && count++ == i)
        return &isa_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && count++ == i) return &isa_avx2;
#elif defined(__aarch64__)
    if (count++ == i) return &isa_neon;
#endif
    return count == i ? &isa_portable : NULL;
}

static const instruction_set *chosen;

/* What this library was built from, by the hash that setup.py makes. */
EXPORT const char *vmambair_sources(void)
{
    return VMAMBAIR_SOURCES;
}

/* The name of the i-th instruction set that this machine has, fastest first; NULL past the last. */
EXPORT const char *vmambair_isa_name(int i)
{
    const instruction_set *isa = usable(i);
    return isa ? isa->name : NULL;
}

/* Use this one from now on, the fastest for "" or NULL; -1 where the machine has none of that name. The case of letters
 * and blanks around it do not count. */
EXPORT int vmambair_isa_select(const char *name)
{
    static const char blanks[] = " \t\n\v\f\r";
    if (!name) name = "";
    name += strspn(name, blanks);
    size_t length = strlen(name);
    while (length && strchr(blanks, name[length - 1])) length--;
    for (int i = 0; usable(i); i++) {
        const char *known = usable(i)->name;
        if (!length || (strlen(known) == length && !strncasecmp(known, name, length))) {
            chosen = usable(i);
            return 0;
        }
    }
    return -1;
}

/* 0 where this library was built without OpenMP: it computes on one thread, whatever it is told. */
EXPORT int vmambair_has_threads(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* NULL: none so far */
EXPORT const char *vmambair_isa_selected(void) { return chosen ? chosen->name : NULL; }

/* out = 2^(t * scale), the exponential of the scan, `times` times over; count must be a multiple of 64. */
EXPORT void vmambair_decay(const float *t, float scale, float *out, int64_t count, int64_t times)
{
    while (times-- > 0) chosen->decay(t, scale, out, count);
}

/* out = (the first `bracket` of `count` arrays) + (the others), each sum from the left to the right. */
static void add_parts(float *const *parts, int64_t count, int64_t bracket, int64_t elements, void *out, int out_bf16,
                      int threads)
{
    if (count == 1 && parts[0] == out) return;
    enum { BLOCK = 4096 };
    const int64_t blocks = (elements + BLOCK - 1) / BLOCK;
    PARALLEL_FOR(threads, schedule(dynamic, 4))
    for (int64_t i = 0; i < blocks; i++) {
        const int64_t start = i * BLOCK, size = elements - start < BLOCK ? elements - start : BLOCK;
        float sum[BLOCK], others[BLOCK];
        for (int64_t part = 0; part < count; part++) {
            float *to = part < bracket ? sum : others;
            if (part == 0 || part == bracket) memcpy(to, parts[part] + start, size * sizeof *to);
            else
                for (int64_t e = 0; e < size; e++) to[e] += parts[part][start + e];
        }
        if (count > bracket)
            for (int64_t e = 0; e < size; e++) sum[e] += others[e];
        if (out_bf16)
            for (int64_t e = 0; e < size; e++) ((uint16_t *)out)[start + e] = float_to_bf16(sum[e]);
        else
            memcpy((float *)out + start, sum, size * sizeof *sum);
    }
}

static int run(const scan_problem *p, scan_worker *worker, const scan_piece *pieces, int64_t count)
{
    int failed = 0;
    PARALLEL_FOR(p->threads, schedule(dynamic, 1) reduction(| : failed))
    for (int64_t i = 0; i < count; i++) failed |= worker(p, pieces + i);
    return failed;
}

/* What all pieces share: number `part` of `parts` of an image, which is 1, a bracket each, or K. */
static scan_piece piece_of(const scan_problem *p, int64_t image, int64_t part, int64_t parts, int64_t channel,
                           int64_t group, float *const *sums)
{
    const int64_t each = parts == 1 ? p->K : parts < p->K ? BRACKET : 1, first = part * each;
    const int64_t offset = image * p->h * p->w * p->d;
    return (scan_piece){
        .image = image, .direction = first, .directions = p->K - first < each ? p->K - first : each,
        .channel = channel, .channels = p->d - channel < group ? p->d - channel : group,
        .sum = sums[part] + offset, .second = parts == 1 && p->K > BRACKET + 1 ? sums[1] + offset : NULL,
    };
}

/* y (b, h, w, d) in the dtype of x. An image is cut into `parts`: 1, a bracket each, or K. `sums`: so many arrays
 * (b, h, w, d) to work in, or two for one part, of which the first may be y itself. `group`: channels of one piece, a
 * multiple of 16. Returns 0, or -1 without memory.
 */
EXPORT int vmambair_scan_forward(const scan_problem *p, float *const *sums, int64_t parts, int64_t group, void *y)
{
    const int64_t groups = (p->d + group - 1) / group, count = p->b * parts * groups;
    scan_piece *pieces = malloc(count * sizeof *pieces), *piece = pieces;
    if (!pieces) return -1;
    for (int64_t image = 0; image < p->b; image++)
        for (int64_t part = 0; part < parts; part++)
            for (int64_t i = 0; i < groups; i++) *piece++ = piece_of(p, image, part, parts, i * group, group, sums);
    const int failed = run(p, chosen->forward, pieces, count);
    free(pieces);
    add_parts(sums, parts, parts < p->K ? 1 : BRACKET, p->b * p->h * p->w * p->d, y, p->x_bf16, p->threads);
    return failed;
}

/* Gradients of all inputs; those of the parameters are float32.
 *
 * grad_y: (b, h, w, d) float32. grad_x, grad_x_dbl: dtypes of x and x_dbl. `parts` and `sums` as in the forward pass;
 * the first of `sums` may be grad_x. `partial`: one array (b, h, w, K, R + 2N) for every group of `group` channels, of
 * which the first may be grad_x_dbl. `per_image`: (b, K, N + R + 2, d). Returns 0, or -1 without memory.
 */
EXPORT int vmambair_scan_backward(const scan_problem *p, const float *grad_y, float *const *sums, int64_t parts,
                                  float *const *partial, int64_t group, float *per_image, void *grad_x,
                                  void *grad_x_dbl, float *grad_dt_weight, float *grad_dt_bias, float *grad_A,
                                  float *grad_D)
{
    const int64_t N = p->N, R = p->R, P = N + R + 2, d = p->d, image_size = p->h * p->w * d;
    const int64_t row_size = p->h * p->w * p->K * (R + 2 * N);
    const int64_t groups = (d + group - 1) / group, count = p->b * parts * groups;
    scan_piece *pieces = malloc(count * sizeof *pieces), *piece = pieces;
    if (!pieces) return -1;
    for (int64_t image = 0; image < p->b; image++)
        for (int64_t part = 0; part < parts; part++)
            for (int64_t i = 0; i < groups; i++, piece++) {
                *piece = piece_of(p, image, part, parts, i * group, group, sums);
                piece->grad_y = grad_y + image * image_size;
                piece->grad_x_dbl = partial[i] + image * row_size;
                piece->grad_parameters = per_image + image * p->K * P * d;
            }
    const int failed = run(p, chosen->backward, pieces, count);
    free(pieces);
    add_parts(sums, parts, parts < p->K ? 1 : BRACKET, p->b * image_size, grad_x, p->x_bf16, p->threads);
    add_parts(partial, groups, groups, p->b * row_size, grad_x_dbl, p->x_dbl_bf16, p->threads);
    PARALLEL_FOR(p->threads, schedule(static))
    for (int64_t i = 0; i < p->K * d; i++) {
        const float *from = per_image + i / d * P * d + i % d;
        for (int64_t j = 0; j < P; j++) {
            float sum = 0;
            for (int64_t image = 0; image < p->b; image++) sum += from[(image * p->K * P + j) * d];
            if (j < N) grad_A[i * N + j] = sum;
            else if (j < N + R) grad_dt_weight[i * R + j - N] = sum;
            else *(j == N + R ? grad_dt_bias + i : grad_D + i) = sum;
        }
    }
    return failed;
}
