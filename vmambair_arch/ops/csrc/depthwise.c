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

/* The weight (c, 9) as the workers read it, (9, c); `turned` by half a circle. */
static void lay_out(const float *weight, int64_t c, int turned, float *taps)
{
    for (int64_t k = 0; k < 9; k++)
        for (int64_t j = 0; j < c; j++) taps[k * c + j] = weight[j * 9 + (turned ? 8 - k : k)];
}

/* Convolution and activation of a whole problem. Returns 0, or -1 without memory. */
EXPORT int vmambair_depthwise_forward(const depthwise_problem *problem)
{
    depthwise_problem p = *problem;
    const int64_t rows = p.b * p.h, size = p.w * (p.activation == ACTIVATION_GELU_GATE ? p.c / 2 : p.c);
    const depthwise_workers *workers = chosen_workers();
    float *memory = calloc(10 * p.c, sizeof *memory);
    if (!memory) return -1;
    lay_out(p.weight, p.c, 0, memory);
    p.weight = memory;
    p.zeros = memory + 9 * p.c;
    PARALLEL_FOR(p.threads, schedule(dynamic, ROWS_AT_A_TIME))
    for (int64_t row = 0; row < rows; row++) {
        const float *lines[3];
        lines_of(&p, p.x, row, lines);
        workers->row(&p, lines, p.out + row * size);
    }
    free(memory);
    return 0;
}

/* Everything that rows first to last - 1 contribute. The convolution of a row is computed again, and turned into its
 * gradient; of these only the three rows that a row of grad_x is a convolution of are there at a time, and stay in the
 * cache. `memory`: 3 rows. `partial`: (10, c), zeros.
 */
static void backward_rows(const depthwise_workers *workers, const depthwise_problem *p, const float *turned,
                          const float *grad, float *grad_x, int64_t first, int64_t last, float *memory, float *partial)
{
    const int64_t rows = p->b * p->h, size = p->w * p->c;
    const int64_t out_size = p->activation == ACTIVATION_GELU_GATE ? size / 2 : size;
    depthwise_problem back = *p;
    back.activation = ACTIVATION_NONE;
    back.weight = turned;
    back.bias = NULL;
    const float *lines[3];
    for (int64_t row = first > 0 ? first - 1 : 0; row <= last; row++) {
        if (row < rows) {
            lines_of(p, p->x, row, lines);
            float *of_row = memory + row % 3 * size;
            workers->row_backward(p, lines, grad + row * out_size, of_row);
            if (row >= first && row < last) workers->weight_backward(p, lines, of_row, partial);
        }
        const int64_t done = row - 1; /* has its neighbours now */
        if (done < first) continue;
        const int64_t y = done % p->h;
        for (int dy = 0; dy < 3; dy++) {
            const int64_t ty = y + dy - 1;
            lines[dy] = ty >= 0 && ty < p->h ? memory + (done + dy - 1) % 3 * size : NULL;
        }
        workers->row(&back, lines, grad_x + done * size);
    }
}

/* `problem` as in the forward pass. grad: of the output. grad_x: like x. grad_weight: (c, 9). grad_bias: (c). Returns 0,
 * or -1 without memory.
 */
EXPORT int vmambair_depthwise_backward(const depthwise_problem *problem, const float *grad, float *grad_x,
                                       float *grad_weight, float *grad_bias)
{
    depthwise_problem p = *problem;
    const int64_t c = p.c, rows = p.b * p.h, pieces = (rows + ROWS_A_PIECE - 1) / ROWS_A_PIECE;
    const depthwise_workers *workers = chosen_workers();
    float *memory = calloc((19 + 10 * pieces) * c, sizeof *memory);
    if (!memory) return -1;
    /* The gradient of a convolution is a convolution with the weights turned by half a circle. */
    float *taps = memory, *turned = taps + 9 * c, *partial = memory + 19 * c;
    lay_out(p.weight, c, 0, taps);
    lay_out(p.weight, c, 1, turned);
    p.weight = taps;
    p.zeros = turned + 9 * c;
    int failed = 0;
    PARALLEL_FOR(p.threads, schedule(dynamic, 1) reduction(| : failed))
    for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t first = piece * ROWS_A_PIECE, last = first + ROWS_A_PIECE < rows ? first + ROWS_A_PIECE : rows;
        float *of_rows = malloc(3 * p.w * c * sizeof *of_rows);
        if (of_rows) backward_rows(workers, &p, turned, grad, grad_x, first, last, of_rows, partial + 10 * piece * c);
        else failed = 1;
        free(of_rows);
    }
    for (int64_t piece = 1; piece < pieces; piece++)
        for (int64_t i = 0; i < 10 * c; i++) partial[i] += partial[10 * piece * c + i];
    for (int64_t j = 0; j < c; j++) {
        for (int64_t k = 0; k < 9; k++) grad_weight[j * 9 + k] = partial[k * c + j];
        grad_bias[j] = partial[9 * c + j];
    }
    free(memory);
    return -failed;
}
