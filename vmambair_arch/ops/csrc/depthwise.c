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

/* Convolution and activation of a whole problem. */
EXPORT void vmambair_depthwise_forward(const depthwise_problem *p)
{
    const int64_t rows = p->b * p->h;
    const depthwise_workers *workers = chosen_workers();
    PARALLEL_FOR(p->threads, schedule(dynamic, ROWS_AT_A_TIME))
    for (int64_t row = 0; row < rows; row++) workers->row(p, row);
}

/* `p` as in the forward pass, with `convolved`. grad: of its output. grad_convolved: (b, h, w, c), to work in.
 * grad_weight: (10, c), the taps, then the bias. Returns 0, or -1 without memory.
 */
EXPORT int vmambair_depthwise_backward(const depthwise_problem *p, const float *grad, float *grad_convolved,
                                       float *grad_weight)
{
    const int64_t rows = p->b * p->h, pieces = (rows + ROWS_A_PIECE - 1) / ROWS_A_PIECE, size = 10 * p->c;
    const int64_t width = p->activation == ACTIVATION_GELU_GATE ? p->c / 2 : p->c;
    const depthwise_workers *workers = chosen_workers();
    float *partial = calloc(pieces * size, sizeof *partial);
    if (!partial) return -1;
    PARALLEL_FOR(p->threads, schedule(dynamic, 1))
    for (int64_t piece = 0; piece < pieces; piece++) {
        const int64_t first = piece * ROWS_A_PIECE, last = first + ROWS_A_PIECE < rows ? first + ROWS_A_PIECE : rows;
        for (int64_t row = first; row < last; row++) {
            const int64_t pixel = row * p->w;
            workers->activation_backward(p->activation, p->w, p->c, p->convolved + pixel * p->c, grad + pixel * width,
                                         grad_convolved + pixel * p->c);
            workers->weight_backward(p, grad_convolved, row, partial + piece * size);
        }
    }
    memcpy(grad_weight, partial, size * sizeof *partial);
    for (int64_t piece = 1; piece < pieces; piece++)
        for (int64_t i = 0; i < size; i++) grad_weight[i] += partial[piece * size + i];
    free(partial);
    return 0;
}
