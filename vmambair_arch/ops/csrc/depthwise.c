/* Entry points of depthwise.h: threads take rows as they get on; sums have one order whatever the number of threads. */
#include <stdlib.h>
#include <string.h>

#include "depthwise.h"
#include "parallel.h"

/* Rows that a thread takes before it asks for more: a thread whose core is busy with something else leaves the rest to
 * the others. Fewer would read the rows at the edges of a cut too often.
 */
#define ROWS_AT_A_TIME 4

/* The workers for the instruction set that the scan was told to use. */
static const depthwise_workers *chosen_workers(void)
{
    const char *name = vmambair_isa_selected();
#if defined(__x86_64__)
    if (!strcmp(name, "avx512")) return &depthwise_avx512;
    if (!strcmp(name, "avx2")) return &depthwise_avx2;
#elif defined(__aarch64__)
    if (!strcmp(name, "neon")) return &depthwise_neon;
#endif
    return &depthwise_portable;
}

/* The rows of `map` above, at and below a row that is counted over all images. */
static void lines_of(const depthwise_problem *p, const float *map, int64_t row, const float **lines)
{
    const int64_t y = row % p->h, size = p->w * p->c;
    for (int dy = 0; dy < 3; dy++) {
        const int64_t ty = y + dy - 1;
        lines[dy] = ty >= 0 && ty < p->h ? map + (row + dy - 1) * size : NULL;
    }
}

/* Convolution and activation of a whole problem. */
EXPORT void vmambair_depthwise_forward(const depthwise_problem *p)
{
    const int64_t rows = p->b * p->h, size = p->w * (p->activation == ACTIVATION_GELU_GATE ? p->c / 2 : p->c);
    const depthwise_workers *workers = chosen_workers();
    PARALLEL_FOR(p->threads, schedule(dynamic, ROWS_AT_A_TIME))
    for (int64_t row = 0; row < rows; row++) {
        const float *lines[3];
        lines_of(p, p->x, row, lines);
        workers->row(p, lines, NULL, p->out + row * size);
    }
}

/* Everything that rows first to last - 1 contribute. The convolution of a row is computed again, and turned into its
 * gradient; of these only the three rows that a row of grad_x is a convolution of are there at a time, and stay in the
 * cache. `memory`: 4 rows. `partial`: (10, c), zeros.
 */
static void backward_rows(const depthwise_workers *workers, const depthwise_problem *p, const float *turned,
                          const float *grad, float *grad_x, int64_t first, int64_t last, float *memory, float *partial)
{
    const int64_t rows = p->b * p->h, size = p->w * p->c;
    const int64_t out_size = p->activation == ACTIVATION_GELU_GATE ? size / 2 : size;
    depthwise_problem plain = *p, back = *p;
    plain.activation = back.activation = ACTIVATION_NONE;
    back.weight = turned;
    back.bias = NULL;
    float *convolved = memory + 3 * size;
    const float *lines[3];
    for (int64_t row = first > 0 ? first - 1 : 0; row <= last; row++) {
        if (row < rows) {
            float *of_row = memory + row % 3 * size;
            lines_of(p, p->x, row, lines);
            workers->row(&plain, lines, convolved, NULL);
            workers->activation_backward(p->activation, p->w, p->c, convolved, grad + row * out_size, of_row);
            if (row >= first && row < last) workers->weight_backward(p, lines, of_row, partial);
        }
        const int64_t done = row - 1; /* has its neighbours now */
        if (done < first) continue;
        const int64_t y = done % p->h;
        for (int dy = 0; dy < 3; dy++) {
            const int64_t ty = y + dy - 1;
            lines[dy] = ty >= 0 && ty < p->h ? memory + (done + dy - 1) % 3 * size : NULL;
        }
        workers->row(&back, lines, grad_x + done * size, NULL);
    }
}

/* `p` as in the forward pass. turned: (9, c), its weight turned by half a circle. grad: of the output. grad_x: like x.
 * grad_weight: (10, c), the taps, then the bias. Returns 0, or -1 without memory.
 */
EXPORT int vmambair_depthwise_backward(const depthwise_problem *p, const float *turned, const float *grad, float *grad_x,
                                       float *grad_weight)
{
    const int64_t rows = p->b * p->h, pieces = (rows + ROWS_A_PIECE - 1) / ROWS_A_PIECE, size = 10 * p->c;
    const depthwise_workers *workers = chosen_workers();
    float *partial = calloc(pieces * size, sizeof *partial);
    if (!partial) return -1;
    int failed = 0;
    PARALLEL_FOR(p->threads, schedule(dynamic, 1) reduction(| : failed))
    for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t first = piece * ROWS_A_PIECE, last = first + ROWS_A_PIECE < rows ? first + ROWS_A_PIECE : rows;
        float *memory = malloc(4 * p->w * p->c * sizeof *memory);
        if (memory) backward_rows(workers, p, turned, grad, grad_x, first, last, memory, partial + piece * size);
        else failed = 1;
        free(memory);
    }
    memcpy(grad_weight, partial, size * sizeof *partial);
    for (int64_t piece = 1; piece < pieces; piece++)
        for (int64_t i = 0; i < size; i++) grad_weight[i] += partial[piece * size + i];
    free(partial);
    return -failed;
}
