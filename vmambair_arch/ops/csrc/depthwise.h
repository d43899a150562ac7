/* Depthwise 3x3 convolutions with the activation that follows them, channels last.
 *
 * Both convolutions of an OSS block are a few multiplications between long trips through memory: taken with their
 * activation in one pass they cost about as much as reading their input.
 *
 * Every array is row-major and contiguous: a map is (b, h, w, c), pixels beyond the border count as 0.
 */
#ifndef VMAMBAIR_DEPTHWISE_H
#define VMAMBAIR_DEPTHWISE_H

#include <stdint.h>

enum { ACTIVATION_NONE, ACTIVATION_SILU, ACTIVATION_GELU_GATE };

/* Rows of the backward pass that are one piece of work and add up one partial gradient of the weights: belongs to the
 * problem, not to the threads. The rows above and below a piece are computed once more for it.
 */
#define ROWS_A_PIECE 16

typedef struct {
    int64_t b, h, w, c;
    const float *x;         /* (b, h, w, c) */
    const float *weight;    /* (c, 9), taps row by row; for the workers (9, c) */
    const float *bias;      /* (c) or NULL */
    const float *zeros;     /* for the workers, (c): what lies beyond the border */
    float *out;             /* (b, h, w, c), or (b, h, w, c / 2) with gelu(first half) * second half */
    int32_t activation;
    int32_t threads;
} depthwise_problem;

typedef struct {
    /* One row, plain or with its activation. lines: the rows above, at and below it, NULL beyond the border. out: the
     * row (w, c), or (w, c / 2) with a gate. c, and c / 2 with a gate, must be at least DEPTHWISE_MIN_CHANNELS.
     */
    void (*row)(const depthwise_problem *problem, const float *const *lines, float *out);
    /* The gradient of the convolution, (w, c), from that of the output, `grad`, of one row. */
    void (*row_backward)(const depthwise_problem *problem, const float *const *lines, const float *grad,
                         float *grad_convolved);
    /* Add the gradients of weight and bias, (10, c), that come from one row. */
    void (*weight_backward)(const depthwise_problem *problem, const float *const *lines, const float *grad_convolved,
                            float *grad_weight);
} depthwise_workers;

extern const depthwise_workers depthwise_avx512, depthwise_avx2, depthwise_neon, depthwise_portable;

#define DEPTHWISE_MIN_CHANNELS 16

#endif
