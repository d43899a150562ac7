/* The omni selective scan on a CPU: what the library offers, and what a worker of one instruction set must provide.
 *
 * Letters as in ../reference.py: b batch, h w the map, d channels, N states a channel, R rank of dt, K directions.
 * Every array is row-major; x and x_dbl may have any strides over b, h and w.
 */
#ifndef VMAMBAIR_SCAN_H
#define VMAMBAIR_SCAN_H

#include <stdint.h>

/* Pixels between two states that the forward pass keeps for the backward pass, and that are worked on together. */
#define CHUNK_PIXELS 32

/* Directions whose sum is taken first; see scan.c. */
#define BRACKET 2

typedef struct {
    int64_t b, h, w, d, N, R, K;
    const int64_t *directions;  /* (K): 0 row-major, 1 column-major, 2 and 3 the same backwards */
    const void *x;              /* (b, h, w, d) */
    const void *x_dbl;          /* (b, h, w, K, R + 2N): dt, B, C */
    int64_t x_stride[3];        /* over b, h, w in elements; channels lie together */
    int64_t x_dbl_stride[3];
    const float *dt_weight;     /* (K, d, R) */
    const float *dt_bias;       /* (K, d) */
    const float *A;             /* (K, d, N) */
    const float *D;             /* (K, d) */
    float *states;              /* (b, K, chunks, N, d): before every chunk, in reading order; NULL: not kept */
    int32_t x_bf16, x_dbl_bf16; /* 1: bfloat16, 0: float32 */
    int32_t threads;
} scan_problem;

/* One piece of work: some channels of one image, read in some neighbouring directions of the list. Pieces that run at
 * the same time write to different places.
 */
typedef struct {
    int64_t image;
    int64_t direction, directions; /* number of the first in the list, how many */
    int64_t channel, channels;     /* the first is a multiple of 16 */
    float *sum;                    /* (h, w, d) of this image: y forward, the gradient of x backward */
    float *second;                 /* (h, w, d), for the second bracket of a piece of all directions; see scan.c */
    const float *grad_y;           /* backward only, (h, w, d) of this image */
    float *grad_x_dbl;             /* backward only, (h, w, K, R + 2N) of this image, from these channels alone */
    float *grad_parameters;        /* backward only, (K, N + R + 2, d) of this image: A, dt_weight, dt_bias, D */
} scan_piece;

/* Both return 0, or -1 without memory. */
typedef int scan_worker(const scan_problem *problem, const scan_piece *piece);

typedef struct {
    const char *name;
    scan_worker *forward, *backward;
    /* out = exp2(t * scale), count a multiple of 64 */
    void (*decay)(const float *t, float scale, float *out, int64_t count);
} instruction_set;

/* See scan.c. */
int vmambair_scan_forward(const scan_problem *p, float *const *sums, int64_t parts, int64_t group, void *y);

extern const instruction_set isa_avx512, isa_avx2, isa_neon, isa_portable;

#endif
