/* The workers of depthwise.h for one instruction set; see vec.h.
 *
 * A block of PIXELS neighbours in a row is convolved together, W channels at a time, so that a tap's weight is loaded once
 * and an input pixel serves every output that it touches. Channels go in steps of W; the last step is moved back to end
 * with the last channel, and what it computes twice comes out the same.
 *
 * What the next block touches for the first time is fetched meanwhile: with many channels the lines of one vector lie so
 * far apart that the machine's own prefetching does not see the order in them.
 */
#include "depthwise.h"
#include "vec.h"

#define PIXELS 4

/* The channels that one step works on, from `j`: the last step ends at `end`. */
INLINE int64_t step_within(int64_t j, int64_t end) { return j + W <= end ? j : end - W; }

INLINE void convolve(const int count, const float *const (*taps)[PIXELS + 2], const float *weight, const float *bias,
                     int64_t c, int64_t j, vf *sum)
{
    for (int i = 0; i < count; i++) {
        sum[i] = bias ? v_load(bias + j) : v_zero();
        __builtin_prefetch(taps[2][i + 2] + PIXELS * c + j);
    }
    for (int dy = 0; dy < 3; dy++) {
        const vf left = v_load(weight + (dy * 3) * c + j), middle = v_load(weight + (dy * 3 + 1) * c + j),
                 right = v_load(weight + (dy * 3 + 2) * c + j);
        vf x[PIXELS + 2];
        for (int i = 0; i < count + 2; i++) x[i] = v_load(taps[dy][i] + j);
        for (int i = 0; i < count; i++) {
            sum[i] = v_fma(left, x[i], sum[i]);
            sum[i] = v_fma(middle, x[i + 1], sum[i]);
            sum[i] = v_fma(right, x[i + 2], sum[i]);
        }
    }
}

/* Phi(a), the normal distribution, and exp(-a^2 / 2), of `count` vectors.
 *
 * Phi(-|a|) = exp(-a^2 / 2) P(t) / 2 with t = 1 / (1 + 0.45 |a| / sqrt(2)), the form of Abramowitz and Stegun 7.1.26 with a
 * polynomial of degree 7 fitted here: 3e-9 of absolute error, and none of the cancellation of 1 + erf for a < 0.
 */
INLINE void v_normal_all(const int count, const vf *a, vf *phi, vf *bell)
{
    static const float c[] = {-0.48529371f, 0.83961055f, -0.35727052f, 0.44924531f,
                              0.20441921f, 0.25854964f};
    vf t[PIXELS], p[PIXELS];
    for (int i = 0; i < count; i++) bell[i] = a[i] * a[i] * v_set1(-0.5f * LOG2_E);
    v_exp2_all(count, bell, NULL);
    for (int i = 0; i < count; i++) t[i] = v_reciprocal(v_fma(v_abs(a[i]), v_set1(0.45f * 0.70710678118654752f), v_set1(1.0f)));
    for (int i = 0; i < count; i++) p[i] = v_set1(0.09073951f);
    for (int k = 0; k < 6; k++)
        for (int i = 0; i < count; i++) p[i] = v_fma(p[i], t[i], v_set1(c[k]));
    for (int i = 0; i < count; i++) {
        const vf tail = v_set1(0.5f) * bell[i] * p[i] * t[i];
        phi[i] = v_where_negative(a[i], tail, v_set1(1.0f) - tail);
    }
}

/* 1 / (1 + exp(-z)) of `count` vectors. */
INLINE void v_sigmoid_all(const int count, const vf *z, vf *s)
{
    for (int i = 0; i < count; i++) s[i] = z[i] * v_set1(-LOG2_E);
    v_exp2_all(count, s, NULL);
    for (int i = 0; i < count; i++) s[i] = v_set1(1.0f) / (v_set1(1.0f) + s[i]);
}

INLINE void store_all(const int count, float *to, int64_t c, int64_t j, const vf *v)
{
    for (int i = 0; i < count; i++) {
        v_store(to + i * c + j, v[i]);
        __builtin_prefetch(to + (i + PIXELS) * c + j, 1);
    }
}

/* What the outputs of `count` pixels from column x0 of a row are made of: the arguments as in depthwise_workers. */
INLINE void find_taps(const int count, const depthwise_problem *p, const float *const *lines, int64_t x0,
                      const float *(*taps)[PIXELS + 2])
{
    for (int dy = 0; dy < 3; dy++)
        for (int i = 0; i < count + 2; i++) {
            const int64_t tx = x0 + i - 1;
            taps[dy][i] = lines[dy] && tx >= 0 && tx < p->w ? lines[dy] + tx * p->c : p->zeros;
        }
}

INLINE void convolve_pixels(const int count, const depthwise_problem *p, const float *const *lines, int64_t x0,
                            float *out_row)
{
    const int64_t c = p->c, half = c / 2;
    const float *taps[3][PIXELS + 2];
    find_taps(count, p, lines, x0, taps);
    vf sum[PIXELS], s[PIXELS];
    if (p->activation == ACTIVATION_GELU_GATE) {
        for (int64_t j0 = 0; j0 < half; j0 += W) {
            const int64_t j = step_within(j0, half);
            vf bell[PIXELS], gate[PIXELS];
            convolve(count, taps, p->weight, p->bias, c, j, sum);
            convolve(count, taps, p->weight, p->bias, c, half + j, gate);
            v_normal_all(count, sum, s, bell);
            for (int i = 0; i < count; i++) sum[i] = sum[i] * s[i] * gate[i];
            store_all(count, out_row + x0 * half, half, j, sum);
        }
        return;
    }
    for (int64_t j0 = 0; j0 < c; j0 += W) {
        const int64_t j = step_within(j0, c);
        convolve(count, taps, p->weight, p->bias, c, j, sum);
        if (p->activation == ACTIVATION_SILU) {
            v_sigmoid_all(count, sum, s);
            for (int i = 0; i < count; i++) sum[i] *= s[i];
        }
        store_all(count, out_row + x0 * c, c, j, sum);
    }
}

static void NAME(depthwise_row)(const depthwise_problem *p, const float *const *lines, float *out)
{
    int64_t x = 0;
    for (; x + PIXELS <= p->w; x += PIXELS) convolve_pixels(PIXELS, p, lines, x, out);
    for (; x < p->w; x++) convolve_pixels(1, p, lines, x, out);
}

INLINE void backward_pixels(const int count, const depthwise_problem *p, const float *const *lines, int64_t x0,
                            const float *grad_row, float *grad_convolved_row)
{
    const int64_t c = p->c, half = c / 2;
    const float *taps[3][PIXELS + 2];
    find_taps(count, p, lines, x0, taps);
    float *grad_convolved = grad_convolved_row + x0 * c;
    vf a[PIXELS], s[PIXELS];
    if (p->activation == ACTIVATION_GELU_GATE) {
        for (int64_t j0 = 0; j0 < half; j0 += W) {
            const int64_t j = step_within(j0, half);
            vf bell[PIXELS], gate[PIXELS];
            convolve(count, taps, p->weight, p->bias, c, j, a);
            convolve(count, taps, p->weight, p->bias, c, half + j, gate);
            v_normal_all(count, a, s, bell);
            for (int i = 0; i < count; i++) {
                const vf up = v_load(grad_row + (x0 + i) * half + j);
                __builtin_prefetch(grad_row + (x0 + i + PIXELS) * half + j);
                /* d/da a Phi(a) = Phi(a) + a exp(-a^2 / 2) / sqrt(2 pi) */
                gate[i] = up * gate[i] * v_fma(a[i] * v_set1(0.3989422804014327f), bell[i], s[i]);
                a[i] = up * a[i] * s[i];
            }
            store_all(count, grad_convolved, c, j, gate);
            store_all(count, grad_convolved, c, half + j, a);
        }
        return;
    }
    for (int64_t j0 = 0; j0 < c; j0 += W) {
        const int64_t j = step_within(j0, c);
        convolve(count, taps, p->weight, p->bias, c, j, a);
        v_sigmoid_all(count, a, s);
        for (int i = 0; i < count; i++)
            a[i] = v_load(grad_row + (x0 + i) * c + j) * s[i] * v_fma(a[i], v_set1(1.0f) - s[i], v_set1(1.0f));
        store_all(count, grad_convolved, c, j, a);
    }
}

static void NAME(depthwise_row_backward)(const depthwise_problem *p, const float *const *lines, const float *grad,
                                         float *grad_convolved)
{
    int64_t x = 0;
    for (; x + PIXELS <= p->w; x += PIXELS) backward_pixels(PIXELS, p, lines, x, grad, grad_convolved);
    for (; x < p->w; x++) backward_pixels(1, p, lines, x, grad, grad_convolved);
}

static void NAME(depthwise_weight_backward)(const depthwise_problem *p, const float *const *lines,
                                            const float *grad_convolved, float *grad_weight)
{
    const int64_t c = p->c, w = p->w;
    for (int64_t j0 = 0; j0 < c; j0 += W) {
        const int64_t j = step_within(j0, c), repeated = j0 - j; /* channels that the step before has already added */
        const float *g = grad_convolved + j, *taps[3];
        vf sum[10], x[3][3];
        for (int k = 0; k < 10; k++) sum[k] = v_zero();
        for (int dy = 0; dy < 3; dy++) {
            taps[dy] = lines[dy] ? lines[dy] + j : NULL;
            x[dy][0] = v_zero();
            x[dy][1] = taps[dy] ? v_load(taps[dy]) : v_zero();
        }
        for (int64_t i = 0; i < w; i++) {
            const vf up = v_load(g + i * c);
            for (int dy = 0; dy < 3; dy++) {
                x[dy][2] = taps[dy] && i + 1 < w ? v_load(taps[dy] + (i + 1) * c) : v_zero();
                for (int dx = 0; dx < 3; dx++) sum[dy * 3 + dx] = v_fma(up, x[dy][dx], sum[dy * 3 + dx]);
                x[dy][0] = x[dy][1];
                x[dy][1] = x[dy][2];
            }
            sum[9] += up;
        }
        for (int k = 0; k < 10; k++) {
            float *to = grad_weight + k * c + j, lanes[W];
            v_store(lanes, sum[k]);
            for (int64_t i = repeated; i < W; i++) to[i] += lanes[i];
        }
    }
}

const depthwise_workers NAME(depthwise) = {NAME(depthwise_row), NAME(depthwise_row_backward),
                                           NAME(depthwise_weight_backward)};
