/* The omni selective scan, forward and backward, at the vector width of one instruction set. See scan.h for the arrays.
 *
 *     delta_t = softplus(dt_weight dt_t + dt_bias)
 *     h_t     = exp(delta_t A) h_{t-1} + delta_t B_t x_t           N numbers a channel
 *     y_t     = <C_t, h_t> + D x_t
 *
 * K L d N exponentials a map: that is where the time goes, and everything else is arranged so as not to add to it.
 *
 * Directions. Nothing is flipped, transposed or gathered beforehand: a direction is the order in which pixels are
 * visited, and y is added to the pixel it belongs to.
 *
 * Lanes. W neighbouring channels share a vector. Channels lie together in memory, B and C are the same for all of them
 * (a broadcast, which x86 gets for free with a load), and y needs no sum across lanes. States in the lanes would need
 * one for every pixel. A channel scan with its 1 to 4 channels leaves lanes empty, but is a thousandth of the work.
 *
 * Tiles. CHUNK_PIXELS pixels x W channels: dt, B and C of the chunk are copied once into compact rows (this is where bfloat16,
 * strides and the jumps of a column end) and serve all channels; delta, delta x and y of the tile stay in L1; FEW
 * states of W channels live in registers while the chunk goes by, then the next FEW. Meanwhile the lines that the next
 * chunk will touch are fetched, each loop its share: column by column every pixel lies on another page, where the
 * machine's own prefetching stops, and all at once they would queue up. So a large image costs no more a pixel than a
 * small one.
 *
 * Backward. With g_t the gradient of h_t and a_t = exp(delta_t A), from the last pixel to the first:
 *
 *     g_t          = C_t grad_y_t + a_{t+1} g_{t+1}
 *     grad C_t     = sum over channels of grad_y_t h_t
 *     grad B_t     = sum over channels of g_t delta_t x_t
 *     grad delta_t = sum over states of g_t (A a_t h_{t-1} + B_t x_t)
 *     grad x_t     = sum over states of g_t B_t delta_t + D grad_y_t
 *     grad A       = sum over pixels of g_t a_t h_{t-1} delta_t
 *
 * The forward pass keeps h before every chunk (N K / CHUNK_PIXELS numbers for each of x); a_t and h_t of the chunk are
 * computed again. Sums over channels stay vectors until all channels of the piece have added to them, and are then
 * added across the lanes, eight vectors at a time. For these vectors to stay in L1, a chunk takes FEW states of all its
 * channels, then the next FEW: forward, where nothing is shared, it takes all states of W channels first.
 */
#include <stddef.h>
#include <stdlib.h>

#include "scan.h"
#include "vec.h"

/* States that are in registers at a time. */
#define FEW 4
/* Pixels whose step sizes are computed at a time: enough independent chains to fill the pipelines, few enough
 * registers.
 */
#define GROUP 4
#define AT(base, bytes) ((void *)((char *)(base) + (bytes)))

/* --- pixels ------------------------------------------------------------------------------------------------------- */

INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t x_size(const scan_problem *p) { return p->x_bf16 ? 2 : 4; }
INLINE int64_t x_dbl_size(const scan_problem *p) { return p->x_dbl_bf16 ? 2 : 4; }

/* Where a pixel lies, in bytes from the beginnings of a view, or how far it is to another one; map: `sum` and `grad_y`. */
typedef struct {
    int64_t x, x_dbl, map, grad_x_dbl;
} pixel;

/* The pixels that a direction reads one after the other, in lines (rows or columns), and the memory that belongs to
 * them: of x, y and their gradients the channels of a piece, of x_dbl the numbers of the direction.
 */
typedef struct {
    const void *x, *x_dbl;
    const float *grad_y;
    float *sum, *grad_x_dbl;
    const float *bracket; /* sums to be added to those of this direction first, or NULL */
    int add, backwards;   /* add: there are sums already */
    int64_t pixels, length; /* of a line */
    pixel line, place;      /* steps from line to line, and within one */
} view;

static view view_of(const scan_problem *p, const scan_piece *piece, int64_t k)
{
    const int64_t S = p->R + 2 * p->N, map = p->d * sizeof(float), grad = p->K * S * sizeof(float);
    const int by_column = p->directions[k] & 1;
    const int64_t number = k - piece->direction, last = piece->directions - 1;
    const int to_second = number >= BRACKET && number < last;
    return (view){
        .x = AT(p->x, (piece->image * p->x_stride[0] + piece->channel) * x_size(p)),
        .x_dbl = AT(p->x_dbl, (piece->image * p->x_dbl_stride[0] + k * S) * x_dbl_size(p)),
        .grad_y = piece->grad_y ? piece->grad_y + piece->channel : NULL,
        .sum = (to_second ? piece->second : piece->sum) + piece->channel,
        .bracket = number == last && last > BRACKET ? piece->second + piece->channel : NULL,
        .add = to_second ? number > BRACKET : number > 0,
        .grad_x_dbl = piece->grad_x_dbl ? piece->grad_x_dbl + k * S : NULL,
        .backwards = p->directions[k] >= 2,
        .pixels = p->h * p->w, .length = by_column ? p->h : p->w,
        .line = {p->x_stride[1 + by_column] * x_size(p), p->x_dbl_stride[1 + by_column] * x_dbl_size(p),
                 (by_column ? 1 : p->w) * map, (by_column ? 1 : p->w) * grad},
        .place = {p->x_stride[2 - by_column] * x_size(p), p->x_dbl_stride[2 - by_column] * x_dbl_size(p),
                  (by_column ? p->w : 1) * map, (by_column ? p->w : 1) * grad},
    };
}

/* Where the states that a piece keeps of direction k begin in `states`. */
INLINE int64_t kept_at(const scan_problem *p, const scan_piece *piece, int64_t k)
{
    return (piece->image * p->K + k) * ceil_div(p->h * p->w, CHUNK_PIXELS) * p->N * p->d + piece->channel;
}

/* The numbers of a pixel as one vector. Added up one by one, as plain numbers, GCC 12 makes vectors of two of them for
 * SSE2 and gives the second two the steps of the first.
 */
typedef int64_t four __attribute__((vector_size(sizeof(pixel))));

INLINE pixel pixel_at(const view *v, int64_t line, int64_t place)
{
    return (pixel){line * v->line.x + place * v->place.x, line * v->line.x_dbl + place * v->place.x_dbl,
                   line * v->line.map + place * v->place.map, line * v->line.grad_x_dbl + place * v->place.grad_x_dbl};
}

/* The pixels of a chunk in reading order. There are CHUNK_PIXELS of them wherever the view ends: places past the end repeat
 * the last pixel, a chunk that does not exist is the first or the last one.
 */
static void visit(const view *v, int64_t chunk, pixel *out)
{
    const int64_t last = v->pixels - 1;
    const int64_t start = chunk < 0 ? 0 : chunk > last / CHUNK_PIXELS ? last / CHUNK_PIXELS * CHUNK_PIXELS : chunk * CHUNK_PIXELS;
    const int64_t count = last + 1 - start < CHUNK_PIXELS ? last + 1 - start : CHUNK_PIXELS;
    const int64_t way = v->backwards ? -1 : 1, first = v->backwards ? last - start : start;
    const pixel step = {way * v->place.x, way * v->place.x_dbl, way * v->place.map, way * v->place.grad_x_dbl};
    int64_t line = first / v->length, place = first % v->length;

    for (int64_t i = 0; i < count; line += way, place = v->backwards ? v->length - 1 : 0) {
        const int64_t left = v->backwards ? place + 1 : v->length - place, end = i + left < count ? i + left : count;
        const pixel start_of_line = pixel_at(v, line, place);
        four at, further;
        memcpy(&at, &start_of_line, sizeof at);
        memcpy(&further, &step, sizeof further);
        for (; i < end; i++, at += further) memcpy(out + i, &at, sizeof at);
    }
    for (int64_t i = count; i < CHUNK_PIXELS; i++) out[i] = out[count - 1];
}

/* Lines to fetch while a loop over the pixels of a chunk has other things to do: of each pixel of another chunk those at
 * `base` plus the number `field` (an offsetof) of the pixel.
 */
#define MOST_LINES 6
typedef struct {
    const pixel *pixels;
    int count;
    struct {
        const void *base;
        size_t field;
    } of[MOST_LINES];
} ahead;

/* Lines of a pixel, `step` bytes apart. */
typedef struct {
    const void *base;
    size_t field;
    int64_t step, count;
} lines;

/* The lines that `bytes` on a boundary of 4 may lie in. */
#define LINE_BYTES 64
INLINE lines lines_of_row(const void *base, size_t field, int64_t bytes)
{
    return (lines){base, field, LINE_BYTES, (bytes + LINE_BYTES - 5) / LINE_BYTES + 1};
}

/* Deals out the lines of a pixel to the loops over a chunk, as evenly as it goes. */
typedef struct {
    const pixel *pixels;
    const lines *at;
    int64_t number, owed, all, loops;
} dealer;

INLINE dealer deal(const pixel *pixels, const lines *of_pixel, int kinds, int64_t loops)
{
    dealer d = {.pixels = pixels, .at = of_pixel, .loops = loops};
    for (int i = 0; i < kinds; i++) d.all += of_pixel[i].count;
    return d;
}

static ahead next_lines(dealer *d)
{
    ahead a = {.pixels = d->pixels};
    for (d->owed += d->all; d->owed >= d->loops; d->owed -= d->loops) {
        if (a.count < MOST_LINES) {
            a.of[a.count].base = AT(d->at->base, d->number * d->at->step);
            a.of[a.count++].field = d->at->field;
        }
        if (++d->number == d->at->count) d->number = 0, d->at++;
    }
    return a;
}

/* Into the second level: the first is full of what is being worked on. */
INLINE void fetch(const ahead *a, int t)
{
    for (int i = 0; i < a->count; i++)
        __builtin_prefetch(AT(a->of[i].base, *(const int64_t *)AT(a->pixels + t, a->of[i].field)), 0, 2);
}

/* How many of W lanes are channels in a block of a piece. */
INLINE int lanes_of(const scan_piece *piece, int64_t block)
{
    const int64_t left = piece->channels - block * W;
    return left < W ? (int)left : W;
}

/* The first `lanes` floats, zeros after them. Fewer than W only in the last channels of a map. */
INLINE vf load_lanes(const float *p, int lanes)
{
    if (lanes == W) return v_load(p);
    float v[W] = {0};
    memcpy(v, p, lanes * sizeof *v);
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
    memcpy(p, v, lanes * sizeof *v);
}

INLINE vf load_x(const scan_problem *p, const void *from, int lanes)
{
    if (!p->x_bf16) return load_lanes(from, lanes);
    if (lanes == W) return v_load_bf16(from);
    float v[W] = {0};
    for (int i = 0; i < lanes; i++) v[i] = bf16_to_float(((const uint16_t *)from)[i]);
    return v_load(v);
}

/* Where the sums of a block of channels are, as in a view. A copy, so that a compiler need not fear for it at every
 * store, and asks what is the same for all pixels once.
 */
typedef struct {
    float *sum;
    const float *bracket;
    int add, lanes;
} block_sums;

INLINE block_sums sums_of(const view *v, int64_t block, int lanes)
{
    return (block_sums){v->sum + block * W, v->bracket ? v->bracket + block * W : NULL, v->add, lanes};
}

/* Add what a direction has for W channels of the pixel at `map` to what others have. */
INLINE void store_sum(block_sums s, int64_t map, vf value)
{
    float *to = AT(s.sum, map);
    if (s.bracket) value += load_lanes(AT(s.bracket, map), s.lanes);
    if (s.add) value += load_lanes(to, s.lanes);
    store_lanes(to, value, s.lanes);
}

/* dt, B and C of a chunk. A row starts on a boundary of 64 bytes. */
#define ROW(p) (ceil_div((p)->R + 2 * (p)->N, 16) * 16)

static void load_rows(const scan_problem *p, const view *v, const pixel *pixels, float *rows)
{
    const int64_t S = p->R + 2 * p->N, row = ROW(p);
    const void *const x_dbl = v->x_dbl;
    const int bf16 = p->x_dbl_bf16;
    for (int t = 0; t < CHUNK_PIXELS; t++, rows += row) {
        const void *from = AT(x_dbl, pixels[t].x_dbl);
        if (bf16)
            for (int64_t i = 0; i < S; i++) rows[i] = bf16_to_float(((const uint16_t *)from)[i]);
        else
            copy_floats(rows, from, S);
    }
}

/* --- parameters --------------------------------------------------------------------------------------------------- */

/* The parameters of one direction for the channels of a piece, W channels to a vector: for every block A by state
 * (scaled to base 2), dt_weight by rank, dt_bias and D. Channels past the end are zeros, which stay zeros. Gradients
 * likewise.
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

/* delta of W channels at GROUP pixels, and the slope of the softplus unless that is NULL. The bias, often the largest,
 * comes last into the sum: each rounding at its size is a relative error of a small step.
 */
INLINE void step_sizes(const scan_problem *p, const float *packed, const float *rows, vf *delta, vf *slope)
{
    for (int j = 0; j < GROUP; j++) delta[j] = v_zero();
    for (int64_t r = 0; r < p->R; r++) {
        const vf weight = v_load(packed + (p->N + r) * W);
        for (int j = 0; j < GROUP; j++) delta[j] = v_fma(weight, v_set1(rows[j * ROW(p) + r]), delta[j]);
    }
    for (int j = 0; j < GROUP; j++) delta[j] += v_load(packed + (p->N + p->R) * W);
    v_softplus_all(GROUP, delta, slope);
}

/* 64-byte aligned, so that no vector straddles a cache line. */
static float *allocate(int64_t floats)
{
    void *memory;
    return posix_memalign(&memory, 64, floats * sizeof(float)) ? NULL : memory;
}

/* The next `floats` of a piece of memory. */
INLINE float *take(float **next, int64_t floats)
{
    float *taken = *next;
    *next += floats;
    return taken;
}

/* --- forward ------------------------------------------------------------------------------------------------------ */

/* `few` states of W channels through a chunk: y += <C, h>. delta, write (delta x) and y are `count` vectors. */
INLINE void advance(const int few, int count, int64_t row, const float *A, float *state, const float *B, const float *C,
                    const float *delta, const float *write, float *y, const ahead *next)
{
    vf h[FEW], a2[FEW], decay[FEW];
    for (int j = 0; j < few; j++) h[j] = v_load(state + j * W), a2[j] = v_load(A + j * W);
    for (int t = 0; t < count; t++, B += row, C += row) {
        const vf delta_t = v_load(delta + t * W), write_t = v_load(write + t * W);
        vf sum = v_load(y + t * W);
        for (int j = 0; j < few; j++) decay[j] = delta_t * a2[j];
        v_exp2_all(few, decay, NULL);
        for (int j = 0; j < few; j++) {
            h[j] = v_fma(decay[j], h[j], write_t * v_set1(B[j]));
            sum = v_fma(h[j], v_set1(C[j]), sum);
        }
        v_store(y + t * W, sum);
        fetch(next, t);
    }
    for (int j = 0; j < few; j++) v_store(state + j * W, h[j]);
}

/* What a forward piece works in. */
typedef struct {
    float *packed, *state;            /* blocks x PACKED, blocks x N vectors */
    float *delta, *write, *y, *rows;  /* CHUNK_PIXELS vectors each; CHUNK_PIXELS rows */
} forward_memory;

/* One direction. `kept`: where the states before the chunks go, or NULL. */
static void forward_direction(const scan_problem *p, const scan_piece *piece, const view *v, const forward_memory *m,
                              float *kept)
{
    const int64_t N = p->N, R = p->R, blocks = ceil_div(piece->channels, W), chunks = ceil_div(v->pixels, CHUNK_PIXELS);
    const lines of_pixel[] = {
        {v->x, offsetof(pixel, x), W * x_size(p), blocks},
        {v->sum, offsetof(pixel, map), W * sizeof(float), blocks},
        lines_of_row(v->x_dbl, offsetof(pixel, x_dbl), (R + 2 * N) * x_dbl_size(p)),
    };
    pixel both[2][CHUNK_PIXELS];
    visit(v, 0, both[0]);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
        const int count = chunk < chunks - 1 ? CHUNK_PIXELS : (int)(v->pixels - chunk * CHUNK_PIXELS);
        const pixel *pixels = both[chunk & 1], *next = both[~chunk & 1];
        visit(v, chunk + 1, both[~chunk & 1]);
        load_rows(p, v, pixels, m->rows);
        dealer wanted = deal(next, of_pixel, 3, blocks * (N / FEW + N % FEW));
        for (int64_t block = 0; block < blocks; block++) {
            const int lanes = lanes_of(piece, block);
            const float *par = m->packed + block * PACKED(p) * W;
            const vf skip = v_load(par + (N + R + 1) * W);
            float *h = m->state + block * N * W;
            if (kept)
                for (int64_t n = 0; n < N; n++)
                    store_lanes(kept + (chunk * N + n) * p->d + block * W, v_load(h + n * W), lanes);
            for (int t = 0; t < count; t += GROUP) {
                vf step[GROUP];
                step_sizes(p, par, m->rows + t * ROW(p), step, NULL);
                for (int j = 0; j < GROUP; j++) {
                    const vf x = load_x(p, AT(v->x, pixels[t + j].x + block * W * x_size(p)), lanes);
                    v_store(m->delta + (t + j) * W, step[j]);
                    v_store(m->write + (t + j) * W, step[j] * x);
                    v_store(m->y + (t + j) * W, skip * x);
                }
            }
            for (int64_t n = 0; n < N; n += n + FEW <= N ? FEW : 1) {
                const float *A = par + n * W, *B = m->rows + R + n, *C = B + N;
                const ahead fetched = next_lines(&wanted);
                if (n + FEW <= N) advance(FEW, count, ROW(p), A, h + n * W, B, C, m->delta, m->write, m->y, &fetched);
                else advance(1, count, ROW(p), A, h + n * W, B, C, m->delta, m->write, m->y, &fetched);
            }
            const block_sums sums = sums_of(v, block, lanes);
            for (int t = 0; t < count; t++) store_sum(sums, pixels[t].map, v_load(m->y + t * W));
        }
    }
}

static int NAME(scan_forward)(const scan_problem *p, const scan_piece *piece)
{
    const int64_t N = p->N, blocks = ceil_div(piece->channels, W);
    float *memory = allocate(blocks * (PACKED(p) + N) * W + CHUNK_PIXELS * (ROW(p) + 3 * W)), *next = memory;
    if (!memory) return -1;
    const forward_memory m = {
        .packed = take(&next, blocks * PACKED(p) * W), .state = take(&next, blocks * N * W),
        .delta = take(&next, CHUNK_PIXELS * W), .write = take(&next, CHUNK_PIXELS * W), .y = take(&next, CHUNK_PIXELS * W),
        .rows = take(&next, CHUNK_PIXELS * ROW(p)),
    };
    const uint64_t mode = float_mode_flush();
    for (int64_t k = piece->direction; k < piece->direction + piece->directions; k++) {
        const view v = view_of(p, piece, k);
        pack_parameters(p, piece, k, m.packed);
        memset(m.state, 0, blocks * N * W * sizeof(float));
        forward_direction(p, piece, &v, &m, p->states ? p->states + kept_at(p, piece, k) : NULL);
    }
    float_mode_restore(mode);
    free(memory);
    return 0;
}

/* --- backward ----------------------------------------------------------------------------------------------------- */

/* What one block of channels keeps of a chunk. */
typedef struct {
    float delta[CHUNK_PIXELS * W], write[CHUNK_PIXELS * W], grad_y[CHUNK_PIXELS * W], slope[CHUNK_PIXELS * W];
    float grad_delta[CHUNK_PIXELS * W]; /* by A alone, and in units of the base-2 A */
    float grad_write[CHUNK_PIXELS * W];
} tile;

/* What a backward piece works in. */
typedef struct {
    tile *tiles;                       /* one a block */
    float *packed, *grads;             /* blocks x PACKED vectors each */
    float *adjoint;                    /* blocks x N vectors: a g of the pixel after */
    float *over, *over_dt;             /* to be summed over channels: CHUNK_PIXELS x 2 FEW vectors, CHUNK_PIXELS x R */
    float *decays, *states;            /* CHUNK_PIXELS x FEW vectors */
    float *rows, *grad_rows, *grad_dt; /* CHUNK_PIXELS rows; CHUNK_PIXELS x R */
} backward_memory;

/* `few` states of a block of channels through a chunk and back; `n`: the first of them, `kept`: before the chunk.
 * `over` takes, pixel by pixel, vectors for the gradients of FEW B and then FEW C.
 */
INLINE void retreat(const int few, const scan_problem *p, const backward_memory *m, int64_t block, int64_t n, int count,
                    const vf *kept, const ahead *next, const ahead *next_back)
{
    const int first_block = block == 0, first_states = n == 0; /* nothing is in `over`, in the tile's gradients yet */
    const int64_t row = ROW(p);
    const float *A = m->packed + (block * PACKED(p) + n) * W, *B = m->rows + p->R + n, *C = B + p->N;
    float *adjoint = m->adjoint + (block * p->N + n) * W, *grad_A = m->grads + (block * PACKED(p) + n) * W;
    float *restrict over = m->over, *restrict decays = m->decays, *restrict states = m->states;
    tile *restrict at = m->tiles + block;
    vf h[FEW], a2[FEW], decay[FEW], sum_A[FEW];
    for (int j = 0; j < few; j++) h[j] = kept[j], a2[j] = v_load(A + j * W);
    for (int t = 0; t < count; t++) {
        const vf delta = v_load(at->delta + t * W), write = v_load(at->write + t * W);
        const vf grad_y = v_load(at->grad_y + t * W);
        for (int j = 0; j < few; j++) decay[j] = delta * a2[j];
        v_exp2_all(few, decay, NULL);
        for (int j = 0; j < few; j++) {
            float *to_C = over + (t * 2 * FEW + FEW + j) * W;
            v_store(decays + (t * FEW + j) * W, decay[j]);
            v_store(states + (t * FEW + j) * W, h[j]);
            h[j] = v_fma(decay[j], h[j], write * v_set1(B[t * row + j]));
            v_store(to_C, v_fma(grad_y, h[j], first_block ? v_zero() : v_load(to_C)));
        }
        fetch(next, t);
    }
    vf ag[FEW];
    for (int j = 0; j < few; j++) ag[j] = v_load(adjoint + j * W), sum_A[j] = v_load(grad_A + j * W);
    for (int t = count - 1; t >= 0; t--) {
        const vf delta = v_load(at->delta + t * W), write = v_load(at->write + t * W);
        const vf grad_y = v_load(at->grad_y + t * W);
        vf grad_delta = first_states ? v_zero() : v_load(at->grad_delta + t * W);
        vf grad_write = first_states ? v_zero() : v_load(at->grad_write + t * W);
        for (int j = 0; j < few; j++) {
            float *to_B = over + (t * 2 * FEW + j) * W;
            const vf g = v_fma(v_set1(C[t * row + j]), grad_y, ag[j]);
            v_store(to_B, v_fma(g, write, first_block ? v_zero() : v_load(to_B)));
            grad_write = v_fma(g, v_set1(B[t * row + j]), grad_write);
            ag[j] = g * v_load(decays + (t * FEW + j) * W);
            const vf through = ag[j] * v_load(states + (t * FEW + j) * W);
            sum_A[j] = v_fma(through, delta, sum_A[j]);
            grad_delta = v_fma(through, a2[j], grad_delta);
        }
        v_store(at->grad_delta + t * W, grad_delta);
        v_store(at->grad_write + t * W, grad_write);
        fetch(next_back, t);
    }
    for (int j = 0; j < few; j++) v_store(adjoint + j * W, ag[j]), v_store(grad_A + j * W, sum_A[j]);
}

/* The gradients of `few` B and C out of `over`. */
INLINE void sum_channels(const int few, int count, const float *over, int64_t row, float *grad_B, float *grad_C)
{
    for (int t = 0; t < count; t++) {
        float sums[2 * FEW];
        v_sum_lanes_of_8(over + t * 2 * FEW * W, sums);
        memcpy(grad_B + t * row, sums, few * sizeof *sums);
        memcpy(grad_C + t * row, sums + FEW, few * sizeof *sums);
    }
}

/* Step sizes and whatever else a chunk needs before its states; the gradient of D. */
static void begin_tiles(const scan_problem *p, const scan_piece *piece, const view *v, const backward_memory *m,
                        const pixel *pixels, int count)
{
    const int64_t P = PACKED(p), blocks = ceil_div(piece->channels, W);
    for (int64_t block = 0; block < blocks; block++) {
        const int lanes = lanes_of(piece, block);
        float *grad_D = m->grads + (block * P + p->N + p->R + 1) * W;
        tile *at = m->tiles + block;
        vf sum = v_zero();
        for (int t = 0; t < count; t += GROUP) {
            vf step[GROUP], slope[GROUP];
            step_sizes(p, m->packed + block * P * W, m->rows + t * ROW(p), step, slope);
            for (int j = 0; j < GROUP; j++) {
                const vf x = load_x(p, AT(v->x, pixels[t + j].x + block * W * x_size(p)), lanes);
                const vf grad_y = load_lanes((const float *)AT(v->grad_y, pixels[t + j].map) + block * W, lanes);
                v_store(at->delta + (t + j) * W, step[j]);
                v_store(at->slope + (t + j) * W, slope[j]);
                v_store(at->write + (t + j) * W, step[j] * x);
                v_store(at->grad_y + (t + j) * W, grad_y);
                if (t + j < count) sum = v_fma(grad_y, x, sum);
            }
        }
        v_store(grad_D, v_load(grad_D) + sum);
    }
}

/* From the gradients of delta and of delta x to those of x, dt, dt_weight and dt_bias. */
static void finish_tiles(const scan_problem *p, const scan_piece *piece, const view *v, const backward_memory *m,
                         const pixel *pixels, int count)
{
    const int64_t N = p->N, R = p->R, P = PACKED(p), blocks = ceil_div(piece->channels, W);
    for (int64_t block = 0; block < blocks; block++) {
        const int lanes = lanes_of(piece, block);
        const float *par = m->packed + block * P * W;
        const vf skip = v_load(par + (N + R + 1) * W);
        const block_sums sums = sums_of(v, block, lanes);
        float *grad = m->grads + block * P * W;
        tile *at = m->tiles + block;
        vf sum = v_zero();
        for (int t = 0; t < count; t++) {
            const vf x = load_x(p, AT(v->x, pixels[t].x + block * W * x_size(p)), lanes);
            const vf delta = v_load(at->delta + t * W), grad_write = v_load(at->grad_write + t * W);
            const vf grad_delta = v_fma(v_load(at->grad_delta + t * W), v_set1(LN_2), grad_write * x);
            const vf grad_z = grad_delta * v_load(at->slope + t * W); /* of the softplus' argument */
            v_store(at->grad_delta + t * W, grad_z);
            sum += grad_z;
            const vf grad_x = v_fma(grad_write, delta, skip * v_load(at->grad_y + t * W));
            store_sum(sums, pixels[t].map, grad_x);
        }
        v_store(grad + (N + R) * W, v_load(grad + (N + R) * W) + sum);
        for (int64_t r = 0; r < R; r++) {
            const vf weight = v_load(par + (N + r) * W);
            sum = v_zero();
            for (int t = 0; t < count; t++) {
                const vf grad_z = v_load(at->grad_delta + t * W);
                float *to = m->over_dt + (t * R + r) * W;
                v_store(to, v_fma(grad_z, weight, block == 0 ? v_zero() : v_load(to)));
                sum = v_fma(grad_z, v_set1(m->rows[t * ROW(p) + r]), sum);
            }
            v_store(grad + (N + r) * W, v_load(grad + (N + r) * W) + sum);
        }
    }
    for (int64_t i = 0; i < count * R; i += 8) v_sum_lanes_of_8(m->over_dt + i * W, m->grad_dt + i);
    for (int t = 0; t < count; t++)
        for (int64_t r = 0; r < R; r++) m->grad_rows[t * ROW(p) + r] = m->grad_dt[t * R + r];
}

/* One direction, from its last pixel to its first. */
static void backward_direction(const scan_problem *p, const scan_piece *piece, const view *v, const backward_memory *m,
                               const float *all_kept)
{
    const int64_t N = p->N, R = p->R, d = p->d;
    const int64_t blocks = ceil_div(piece->channels, W), chunks = ceil_div(v->pixels, CHUNK_PIXELS);
    const int64_t loops = blocks * (N / FEW + N % FEW);
    const lines of_pixel[] = {
        {v->x, offsetof(pixel, x), W * x_size(p), blocks},
        {v->grad_y, offsetof(pixel, map), W * sizeof(float), blocks},
        lines_of_row(v->x_dbl, offsetof(pixel, x_dbl), (R + 2 * N) * x_dbl_size(p)),
    };
    const lines of_gradients[] = {
        {v->sum, offsetof(pixel, map), W * sizeof(float), blocks},
        lines_of_row(v->grad_x_dbl, offsetof(pixel, grad_x_dbl), (R + 2 * N) * sizeof(float)),
    };
    pixel both[2][CHUNK_PIXELS];
    visit(v, chunks - 1, both[~chunks & 1]);
    for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
        const int count = chunk < chunks - 1 ? CHUNK_PIXELS : (int)(v->pixels - chunk * CHUNK_PIXELS);
        const pixel *pixels = both[chunk & 1], *next = both[~chunk & 1];
        const float *kept = all_kept + chunk * N * d;
        visit(v, chunk - 1, both[~chunk & 1]);
        load_rows(p, v, pixels, m->rows);
        begin_tiles(p, piece, v, m, pixels, count);
        dealer wanted = deal(next, of_pixel, 3, loops), wanted_back = deal(next, of_gradients, 2, loops);
        for (int64_t n = 0; n < N; n += n + FEW <= N ? FEW : 1) {
            const int few = n + FEW <= N ? FEW : 1;
            for (int64_t block = 0; block < blocks; block++) {
                const ahead there = next_lines(&wanted), back = next_lines(&wanted_back);
                vf h[FEW];
                for (int j = 0; j < few; j++) {
                    h[j] = load_lanes(kept + (n + j) * d + block * W, lanes_of(piece, block));
                    if (chunk) __builtin_prefetch(kept + (n + j - N) * d + block * W, 0, 2);
                }
                if (few == FEW) retreat(FEW, p, m, block, n, count, h, &there, &back);
                else retreat(1, p, m, block, n, count, h, &there, &back);
            }
            float *to = m->grad_rows + R + n;
            if (few == FEW) sum_channels(FEW, count, m->over, ROW(p), to, to + N);
            else sum_channels(1, count, m->over, ROW(p), to, to + N);
        }
        finish_tiles(p, piece, v, m, pixels, count);
        for (int t = 0; t < count; t++)
            copy_floats(AT(v->grad_x_dbl, pixels[t].grad_x_dbl), m->grad_rows + t * ROW(p), R + 2 * N);
    }
}

static int NAME(scan_backward)(const scan_problem *p, const scan_piece *piece)
{
    const int64_t N = p->N, P = PACKED(p), blocks = ceil_div(piece->channels, W);
    const int64_t tile_floats = sizeof(tile) / sizeof(float);
    float *memory = allocate(blocks * (tile_floats + (2 * P + N) * W) +
                             CHUNK_PIXELS * ((4 * FEW + p->R) * W + 2 * ROW(p) + p->R));
    if (!memory) return -1;
    float *next = memory;
    const backward_memory m = {
        .tiles = (tile *)take(&next, blocks * tile_floats), .packed = take(&next, blocks * P * W),
        .grads = take(&next, blocks * P * W), .adjoint = take(&next, blocks * N * W),
        .over = take(&next, CHUNK_PIXELS * 2 * FEW * W), .over_dt = take(&next, CHUNK_PIXELS * p->R * W),
        .decays = take(&next, CHUNK_PIXELS * FEW * W), .states = take(&next, CHUNK_PIXELS * FEW * W),
        .rows = take(&next, CHUNK_PIXELS * ROW(p)), .grad_rows = take(&next, CHUNK_PIXELS * ROW(p)),
        .grad_dt = take(&next, CHUNK_PIXELS * p->R),
    };
    const uint64_t mode = float_mode_flush();
    for (int64_t k = piece->direction; k < piece->direction + piece->directions; k++) {
        const view v = view_of(p, piece, k);
        pack_parameters(p, piece, k, m.packed);
        memset(m.grads, 0, blocks * P * W * sizeof(float));
        memset(m.adjoint, 0, blocks * N * W * sizeof(float));
        backward_direction(p, piece, &v, &m, p->states + kept_at(p, piece, k));
        for (int64_t i = 0; i < piece->channels; i++)
            for (int64_t j = 0; j < P; j++)
                piece->grad_parameters[(k * P + j) * p->d + piece->channel + i] = m.grads[(i / W * P + j) * W + i % W];
    }
    float_mode_restore(mode);
    free(memory);
    return 0;
}

/* --- the limit ---------------------------------------------------------------------------------------------------- */

/* The scan's own exponential with nothing around it: what a benchmark calls the limit. */
static void NAME(decay)(const float *t, float scale, float *out, int64_t count)
{
    for (int64_t i = 0; i < count; i += FEW * W) {
        vf v[FEW];
        for (int j = 0; j < FEW; j++) v[j] = v_load(t + i + j * W) * v_set1(scale);
        v_exp2_all(FEW, v, NULL);
        for (int j = 0; j < FEW; j++) v_store(out + i + j * W, v[j]);
    }
}

const instruction_set NAME(isa) = {.name = ISA_NAME, .forward = NAME(scan_forward), .backward = NAME(scan_backward),
                                   .decay = NAME(decay)};
