/* The omni selective scan, forward and backward, at the vector width of one instruction set. See scan.h for the arrays.
 *
 *     delta_t = softplus(dt_weight dt_t + dt_bias)
 *     h_t     = exp(delta_t A) h_{t-1} + delta_t B_t x_t           N numbers a channel
 *     y_t     = <C_t, h_t> + D x_t
 *
 * 4 L d N exponentials a map: that is where the time goes, and everything else is arranged so as not to add to it.
 *
 * Directions. Nothing is flipped, transposed or gathered beforehand: a direction is the order in which pixels are
 * visited, and y is added to the pixel it belongs to.
 *
 * Lanes. W neighbouring channels share a vector. Channels lie together in memory, B and C are the same for all of them
 * (a broadcast, which x86 gets for free with a load), and y needs no sum across lanes. States in the lanes would need
 * one for every pixel.
 *
 * Tiles. CHUNK pixels x W channels: dt, B and C of the chunk are copied once into a compact array (this is also where
 * bfloat16, strides and the jumps of a column end) and serve all channels; delta, delta x and y of the tile stay in L1;
 * a few states of W channels live in registers while the chunk goes by, then the next few.
 *
 * Backward. With g_t the gradient of h_t, from the last pixel to the first:
 *
 *     g_t     = C_t grad_y_t + exp(delta_{t+1} A) g_{t+1}
 *     grad C_t = sum over channels of grad_y_t h_t            grad B_t = sum over channels of g_t delta_t x_t
 *     grad delta_t = sum over states of g_t (A a_t h_{t-1} + B_t x_t)       with a_t = exp(delta_t A)
 *     grad x_t = sum over states of g_t B_t delta_t + D grad_y_t            grad A = sum over pixels of g_t a_t h_{t-1} delta_t
 *
 * The forward pass keeps h before every chunk (64 / CHUNK) x the size of x for four directions of 16 states) and the chunk's a_t and h_t are computed again.
 * Sums over channels stay vectors until the chunk is done and are then added across the lanes, all at once.
 */
#include <stdlib.h>

#include "scan.h"
#include "vec.h"

/* States in registers at a time. */
#define FEW 4

typedef struct {
    int64_t x, x_dbl, flat; /* offsets in elements: into x, into x_dbl, and the number of the pixel */
} pixel;

INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* The pixels number start to start + count of a direction. */
static void visit(const scan_problem *p, int64_t image, int64_t k, int64_t start, int count, pixel *out)
{
    const int64_t direction = p->directions[k], last = p->h * p->w - 1, S = p->R + 2 * p->N;
    for (int i = 0; i < count; i++) {
        int64_t at = direction >= 2 ? last - start - i : start + i;
        int64_t row = direction & 1 ? at % p->h : at / p->w;
        int64_t column = direction & 1 ? at / p->h : at % p->w;
        out[i].x = image * p->x_stride[0] + row * p->x_stride[1] + column * p->x_stride[2];
        out[i].x_dbl = image * p->x_dbl_stride[0] + row * p->x_dbl_stride[1] + column * p->x_dbl_stride[2] + k * S;
        out[i].flat = row * p->w + column;
    }
}

INLINE vf load_lanes(const float *p, int lanes)
{
    if (lanes == W) return v_load(p);
    float v[W] = {0};
    for (int i = 0; i < lanes; i++) v[i] = p[i];
    return v_load(v);
}

INLINE void store_lanes(float *p, vf value, int lanes)
{
    if (lanes == W) {
        v_store(p, value);
        return;
    }
    float v[W];
    v_store(v, value);
    for (int i = 0; i < lanes; i++) p[i] = v[i];
}

INLINE vf load_x(const scan_problem *p, int64_t offset, int lanes)
{
    if (!p->x_bf16) return load_lanes((const float *)p->x + offset, lanes);
    const uint16_t *from = (const uint16_t *)p->x + offset;
    if (lanes == W) return v_load_bf16(from);
    float v[W] = {0};
    for (int i = 0; i < lanes; i++) v[i] = bf16_to_float(from[i]);
    return v_load(v);
}

/* dt, B and C of a chunk, one row of S a pixel. */
static void load_rows(const scan_problem *p, const pixel *pixels, int count, float *rows)
{
    const int64_t S = p->R + 2 * p->N;
    for (int t = 0; t < count; t++, rows += S) {
        if (p->x_dbl_bf16) {
            const uint16_t *from = (const uint16_t *)p->x_dbl + pixels[t].x_dbl;
            for (int64_t i = 0; i < S; i++) rows[i] = bf16_to_float(from[i]);
        } else {
            memcpy(rows, (const float *)p->x_dbl + pixels[t].x_dbl, S * sizeof *rows);
        }
    }
}

/* The parameters of one direction for the channels of a piece, W channels to a vector: for every block A by state (scaled
 * to base 2), dt_weight by rank, dt_bias and D. Channels past the end are zeros, which stay zeros.
 */
#define PACKED(p) ((p)->N + (p)->R + 2)

static void pack_parameters(const scan_problem *p, const scan_piece *piece, int64_t k, float *out)
{
    const int64_t N = p->N, R = p->R;
    memset(out, 0, ceil_div(piece->channels, W) * PACKED(p) * W * sizeof *out);
    for (int64_t i = 0; i < piece->channels; i++) {
        const int64_t c = k * p->d + piece->channel + i;
        float *lane = out + i / W * PACKED(p) * W + i % W;
        for (int64_t n = 0; n < N; n++) lane[n * W] = p->A[c * N + n] * LOG2_E;
        for (int64_t r = 0; r < R; r++) lane[(N + r) * W] = p->dt_weight[c * R + r];
        lane[(N + R) * W] = p->dt_bias[c];
        lane[(N + R + 1) * W] = p->D[c];
    }
}

/* dt_weight dt + dt_bias of W channels at one pixel. The bias, often the largest, comes last: each rounding of a sum of its
 * size is a relative error of a small step.
 */
INLINE vf project_dt(const scan_problem *p, const float *packed, const float *dt)
{
    vf z = v_zero();
    for (int64_t r = 0; r < p->R; r++) z = v_fma(v_load(packed + (p->N + r) * W), v_set1(dt[r]), z);
    return z + v_load(packed + (p->N + p->R) * W);
}

/* `few` states of W channels through a chunk: y += <C, h>. */
INLINE void advance(const int few, int count, int64_t S, const float *A, float *state, const float *B, const float *C,
                    const float *delta, const float *write, float *y)
{
    vf h[FEW], a2[FEW];
    for (int j = 0; j < few; j++) {
        h[j] = v_load(state + j * W);
        a2[j] = v_load(A + j * W);
    }
    for (int t = 0; t < count; t++) {
        const vf delta_t = v_load(delta + t * W), write_t = v_load(write + t * W);
        vf sum = v_load(y + t * W);
        for (int j = 0; j < few; j++) {
            h[j] = v_fma(v_exp2(delta_t * a2[j]), h[j], write_t * v_set1(B[t * S + j]));
            sum = v_fma(h[j], v_set1(C[t * S + j]), sum);
        }
        v_store(y + t * W, sum);
    }
    for (int j = 0; j < few; j++) v_store(state + j * W, h[j]);
}

/* 64-byte aligned, so that no vector straddles a cache line. */
static float *allocate(int64_t floats)
{
    void *memory;
    return posix_memalign(&memory, 64, floats * sizeof(float)) ? NULL : memory;
}

static int NAME(scan_forward)(const scan_problem *p, const scan_piece *piece)
{
    const int64_t N = p->N, R = p->R, S = R + 2 * N, d = p->d, L = p->h * p->w;
    const int64_t blocks = ceil_div(piece->channels, W), chunks = ceil_div(L, CHUNK);
    float *memory = allocate(blocks * (PACKED(p) + N) * W + CHUNK * (S + 3 * W) + W);
    if (!memory) return -1;
    float *packed = memory, *state = packed + blocks * PACKED(p) * W, *delta = state + blocks * N * W;
    float *write = delta + CHUNK * W, *y = write + CHUNK * W, *rows = y + CHUNK * W;
    pixel pixels[CHUNK];
    const uint64_t mode = float_mode_flush();

    for (int64_t k = piece->first; k < p->K; k += piece->step) {
        pack_parameters(p, piece, k, packed);
        memset(state, 0, blocks * N * W * sizeof *state);
        for (int64_t chunk = 0; chunk < chunks; chunk++) {
            const int count = chunk < chunks - 1 ? CHUNK : (int)(L - chunk * CHUNK);
            visit(p, piece->image, k, chunk * CHUNK, count, pixels);
            load_rows(p, pixels, count, rows);
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t left = piece->channels - block * W, channel = piece->channel + block * W;
                const int lanes = left < W ? (int)left : W;
                const float *par = packed + block * PACKED(p) * W;
                float *h = state + block * N * W;
                if (p->states) {
                    float *kept = p->states + ((piece->image * p->K + k) * chunks + chunk) * N * d + channel;
                    for (int64_t n = 0; n < N; n++) store_lanes(kept + n * d, v_load(h + n * W), lanes);
                }
                for (int t = 0; t < count; t++) {
                    const vf x = load_x(p, pixels[t].x + channel, lanes);
                    const vf step = v_softplus(project_dt(p, par, rows + t * S));
                    v_store(delta + t * W, step);
                    v_store(write + t * W, step * x);
                    v_store(y + t * W, v_load(par + (N + R + 1) * W) * x);
                }
                int64_t n = 0;
                for (; n + FEW <= N; n += FEW)
                    advance(FEW, count, S, par + n * W, h + n * W, rows + R + n, rows + R + N + n, delta, write, y);
                for (; n < N; n++)
                    advance(1, count, S, par + n * W, h + n * W, rows + R + n, rows + R + N + n, delta, write, y);
                for (int t = 0; t < count; t++) {
                    float *to = piece->sum + pixels[t].flat * d + channel;
                    vf value = v_load(y + t * W);
                    if (k != piece->first) value += load_lanes(to, lanes);
                    store_lanes(to, value, lanes);
                }
            }
        }
    }
    float_mode_restore(mode);
    free(memory);
    return 0;
}

/* What the gradient of a tile needs besides the states; every pointer is CHUNK vectors. */
typedef struct {
    const float *delta, *write, *grad_y;
    float *grad_delta; /* in units of the base-2 A: times ln 2 when done */
    float *grad_write;
} tile_gradients;

/* Backward of `advance`. `over_B` and `over_C` collect vectors (S of them a pixel) for the sums over channels; `first`:
 * nothing is in there yet. `adjoint` is exp(delta A) g of the pixel after the chunk on entry, of the first one on return.
 */
INLINE void retreat(const int few, const int first, int count, int64_t S, const float *A, const float *state, float *adjoint,
                    float *grad_A, const float *B, const float *C, const tile_gradients *tile, float *over_B, float *over_C,
                    float *decays, float *states)
{
    vf h[FEW], a2[FEW], sum_A[FEW];
    for (int j = 0; j < few; j++) {
        h[j] = v_load(state + j * W);
        a2[j] = v_load(A + j * W);
        v_store(states + j * W, h[j]);
    }
    for (int t = 0; t < count; t++) {
        const vf delta_t = v_load(tile->delta + t * W), write_t = v_load(tile->write + t * W);
        for (int j = 0; j < few; j++) {
            const vf decay = v_exp2(delta_t * a2[j]);
            h[j] = v_fma(decay, h[j], write_t * v_set1(B[t * S + j]));
            v_store(decays + (t * FEW + j) * W, decay);
            v_store(states + ((t + 1) * FEW + j) * W, h[j]);
        }
    }
    for (int j = 0; j < few; j++) {
        h[j] = v_load(adjoint + j * W);
        sum_A[j] = v_load(grad_A + j * W);
    }
    for (int t = count - 1; t >= 0; t--) {
        const vf delta_t = v_load(tile->delta + t * W), write_t = v_load(tile->write + t * W);
        const vf grad_y = v_load(tile->grad_y + t * W);
        vf grad_delta = v_load(tile->grad_delta + t * W), grad_write = v_load(tile->grad_write + t * W);
        for (int j = 0; j < few; j++) {
            float *to_B = over_B + (t * S + j) * W, *to_C = over_C + (t * S + j) * W;
            const vf g = v_fma(v_set1(C[t * S + j]), grad_y, h[j]);
            const vf after = v_load(states + ((t + 1) * FEW + j) * W), before = v_load(states + (t * FEW + j) * W);
            v_store(to_C, v_fma(grad_y, after, first ? v_zero() : v_load(to_C)));
            v_store(to_B, v_fma(g, write_t, first ? v_zero() : v_load(to_B)));
            grad_write = v_fma(g, v_set1(B[t * S + j]), grad_write);
            h[j] = g * v_load(decays + (t * FEW + j) * W);
            const vf through = h[j] * before;
            sum_A[j] = v_fma(through, delta_t, sum_A[j]);
            grad_delta = v_fma(through, a2[j], grad_delta);
        }
        v_store(tile->grad_delta + t * W, grad_delta);
        v_store(tile->grad_write + t * W, grad_write);
    }
    for (int j = 0; j < few; j++) {
        v_store(adjoint + j * W, h[j]);
        v_store(grad_A + j * W, sum_A[j]);
    }
}

/* Adds the lanes of `count` vectors. */
static void sum_lanes(const float *vectors, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++, vectors += W) {
        float v[W];
        memcpy(v, vectors, sizeof v);
        for (int half = W / 2; half; half /= 2)
            for (int j = 0; j < half; j++) v[j] += v[j + half];
        out[i] = v[0];
    }
}

static int NAME(scan_backward)(const scan_problem *p, const scan_piece *piece)
{
    const int64_t N = p->N, R = p->R, S = R + 2 * N, d = p->d, L = p->h * p->w;
    const int64_t blocks = ceil_div(piece->channels, W), chunks = ceil_div(L, CHUNK), P = PACKED(p);
    float *memory = allocate(blocks * (2 * P + 2 * N) * W + CHUNK * (S + (8 + S + 2 * FEW) * W) + FEW * W + 2 * W);
    if (!memory) return -1;
    float *next = memory;
#define TAKE(floats) (next += (floats), next - (floats))
    float *packed = TAKE(blocks * P * W), *grads = TAKE(blocks * P * W), *adjoint = TAKE(blocks * N * W);
    float *state = TAKE(N * W), *over = TAKE(CHUNK * S * W);
    float *decays = TAKE(CHUNK * FEW * W), *states = TAKE((CHUNK + 1) * FEW * W);
    float *delta = TAKE(CHUNK * W), *write = TAKE(CHUNK * W), *xs = TAKE(CHUNK * W), *slope = TAKE(CHUNK * W);
    float *grad_y = TAKE(CHUNK * W), *grad_delta = TAKE(CHUNK * W), *grad_write = TAKE(CHUNK * W), *rows = TAKE(CHUNK * S);
#undef TAKE
    const tile_gradients tile = {delta, write, grad_y, grad_delta, grad_write};
    pixel pixels[CHUNK];
    const uint64_t mode = float_mode_flush();

    for (int64_t k = piece->first; k < p->K; k += piece->step) {
        pack_parameters(p, piece, k, packed);
        memset(grads, 0, blocks * P * W * sizeof *grads);
        memset(adjoint, 0, blocks * N * W * sizeof *adjoint);
        for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
            const int count = chunk < chunks - 1 ? CHUNK : (int)(L - chunk * CHUNK);
            visit(p, piece->image, k, chunk * CHUNK, count, pixels);
            load_rows(p, pixels, count, rows);
            for (int64_t block = 0; block < blocks; block++) {
                const int64_t left = piece->channels - block * W, channel = piece->channel + block * W;
                const int lanes = left < W ? (int)left : W;
                const float *par = packed + block * P * W;
                const float *kept = p->states + ((piece->image * p->K + k) * chunks + chunk) * N * d + channel;
                float *grad = grads + block * P * W, *g = adjoint + block * N * W;
                const vf skip = v_load(par + (N + R + 1) * W);
                vf grad_D = v_zero();
                for (int64_t n = 0; n < N; n++) v_store(state + n * W, load_lanes(kept + n * d, lanes));
                for (int t = 0; t < count; t++) {
                    const vf x = load_x(p, pixels[t].x + channel, lanes);
                    const vf gy = load_lanes(piece->grad_y + pixels[t].flat * d + channel, lanes);
                    const vf z = project_dt(p, par, rows + t * S), step = v_softplus(z);
                    v_store(delta + t * W, step);
                    v_store(slope + t * W, v_sigmoid(z));
                    v_store(write + t * W, step * x);
                    v_store(xs + t * W, x);
                    v_store(grad_y + t * W, gy);
                    v_store(grad_delta + t * W, v_zero());
                    v_store(grad_write + t * W, v_zero());
                    grad_D = v_fma(gy, x, grad_D);
                }
                v_store(grad + (N + R + 1) * W, v_load(grad + (N + R + 1) * W) + grad_D);
#define RETREAT(few, first)                                                                                              \
    retreat(few, first, count, S, par + n * W, state + n * W, g + n * W, grad + n * W, rows + R + n, rows + R + N + n,   \
            &tile, over + (R + n) * W, over + (R + N + n) * W, decays, states)
                int64_t n = 0;
                if (block == 0) {
                    for (; n + FEW <= N; n += FEW) RETREAT(FEW, 1);
                    for (; n < N; n++) RETREAT(1, 1);
                } else {
                    for (; n + FEW <= N; n += FEW) RETREAT(FEW, 0);
                    for (; n < N; n++) RETREAT(1, 0);
                }
#undef RETREAT
                vf grad_bias = v_zero();
                for (int t = 0; t < count; t++) {
                    const vf x = v_load(xs + t * W), gw = v_load(grad_write + t * W);
                    const vf grad_step = v_fma(v_load(grad_delta + t * W), v_set1(LN_2), gw * x);
                    const vf grad_z = grad_step * v_load(slope + t * W);
                    v_store(grad_delta + t * W, grad_z);
                    grad_bias += grad_z;
                    float *to = piece->sum + pixels[t].flat * d + channel;
                    vf value = v_fma(gw, v_load(delta + t * W), skip * v_load(grad_y + t * W));
                    if (k != piece->first) value += load_lanes(to, lanes);
                    store_lanes(to, value, lanes);
                }
                v_store(grad + (N + R) * W, v_load(grad + (N + R) * W) + grad_bias);
                for (int64_t r = 0; r < R; r++) {
                    const vf weight = v_load(par + (N + r) * W);
                    vf grad_weight = v_zero();
                    for (int t = 0; t < count; t++) {
                        const vf grad_z = v_load(grad_delta + t * W);
                        float *to = over + (t * S + r) * W;
                        v_store(to, v_fma(grad_z, weight, block == 0 ? v_zero() : v_load(to)));
                        grad_weight = v_fma(grad_z, v_set1(rows[t * S + r]), grad_weight);
                    }
                    v_store(grad + (N + r) * W, v_load(grad + (N + r) * W) + grad_weight);
                }
            }
            for (int t = 0; t < count; t++)
                sum_lanes(over + t * S * W, S, piece->grad_x_dbl + (pixels[t].flat * p->K + k) * S);
        }
        for (int64_t i = 0; i < piece->channels; i++)
            for (int64_t j = 0; j < P; j++)
                piece->grad_parameters[(k * P + j) * d + piece->channel + i] = grads[(i / W * P + j) * W + i % W];
    }
    float_mode_restore(mode);
    free(memory);
    return 0;
}

/* The scan's own exponential with nothing around it: what a benchmark calls the limit. */
static void NAME(decay)(const float *t, float scale, float *out, int64_t count)
{
    const vf s = v_set1(scale);
    for (int64_t i = 0; i < count; i += 4 * W)
        for (int j = 0; j < 4; j++) v_store(out + i + j * W, v_exp2(v_load(t + i + j * W) * s));
}

const instruction_set NAME(isa) = {.name = ISA_NAME, .forward = NAME(scan_forward), .backward = NAME(scan_backward),
                                   .decay = NAME(decay)};
