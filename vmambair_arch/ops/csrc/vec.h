/* Vectors of float32 and the transcendental functions of the kernels, for one instruction set.
 *
 * The file of an instruction set (avx512.c, avx2.c, neon.c, portable.c) defines one of ISA_AVX512, ISA_AVX2, ISA_NEON
 * or ISA_PORTABLE and then includes this header and the workers, so that every worker exists once per instruction
 * set at the vector width that suits it. A width that the compiler has to split or to leave half empty costs a factor
 * of two here.
 *
 *     vf              W floats
 *     v_exp2_all, v_softplus_all     relative error below 3e-7, NaN stays NaN
 *
 * The operators + - * and / are the compiler's own on vector types (GCC and clang).
 */
#ifndef VMAMBAIR_VEC_H
#define VMAMBAIR_VEC_H

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(ISA_AVX512)
#include <immintrin.h>
#define W 16
#define NAME(f) f##_avx512
typedef __m512 vf;
INLINE vf v_set1(float s) { return _mm512_set1_ps(s); }
INLINE vf v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE void v_store(float *p, vf v) { _mm512_storeu_ps(p, v); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
/* The second argument where one is NaN. */
INLINE vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
INLINE vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
INLINE vf v_abs(vf a) { return _mm512_abs_ps(a); }
/* An estimate of 14 bits and a step of Newton's: a third of the time of a division. */
INLINE vf v_reciprocal(vf a)
{
    const vf r = _mm512_rcp14_ps(a);
    return _mm512_fmadd_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(1.0f)), r);
}
INLINE vf v_where_negative(vf test, vf a, vf b)
{
    return _mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)test), b, a);
}
INLINE vf v_load_bf16(const uint16_t *p)
{
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p)), 16);
}

#elif defined(ISA_AVX2)
#include <immintrin.h>
#define W 8
#define NAME(f) f##_avx2
typedef __m256 vf;
INLINE vf v_set1(float s) { return _mm256_set1_ps(s); }
INLINE vf v_load(const float *p) { return _mm256_loadu_ps(p); }
INLINE void v_store(float *p, vf v) { _mm256_storeu_ps(p, v); }
INLINE vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
INLINE vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
INLINE vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
INLINE vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE vf v_where_negative(vf test, vf a, vf b) { return _mm256_blendv_ps(b, a, test); }
INLINE vf v_shift_to_exponent(vf z) { return (vf)_mm256_slli_epi32((__m256i)z, 23); }
INLINE vf v_load_bf16(const uint16_t *p)
{
    return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16);
}

#elif defined(ISA_NEON)
#include <arm_neon.h>
#define W 4
#define NAME(f) f##_neon
typedef float32x4_t vf;
INLINE vf v_set1(float s) { return vdupq_n_f32(s); }
INLINE vf v_load(const float *p) { return vld1q_f32(p); }
INLINE void v_store(float *p, vf v) { vst1q_f32(p, v); }
INLINE vf v_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
INLINE vf v_max(vf a, vf b) { return vmaxq_f32(a, b); }
INLINE vf v_min(vf a, vf b) { return vminq_f32(a, b); }
INLINE vf v_abs(vf a) { return vabsq_f32(a); }
INLINE vf v_where_negative(vf test, vf a, vf b)
{
    return vbslq_f32(vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_f32(test), 31)), a, b);
}
INLINE vf v_shift_to_exponent(vf z) { return vreinterpretq_f32_u32(vshlq_n_u32(vreinterpretq_u32_f32(z), 23)); }
INLINE vf v_load_bf16(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }

#else /* four lanes in the compiler's generic vectors: SSE2 on any x86-64, whatever there is elsewhere */
#define W 4
#define NAME(f) f##_portable
typedef float vf __attribute__((vector_size(16)));
typedef int32_t vi __attribute__((vector_size(16)));
typedef uint32_t vu __attribute__((vector_size(16)));
INLINE vf v_set1(float s) { return (vf){s, s, s, s}; }
INLINE vf v_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
INLINE void v_store(float *p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vf v_fma(vf a, vf b, vf c) { return a * b + c; }
INLINE vf v_select(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
INLINE vf v_max(vf a, vf b) { return v_select(a > b, a, b); }
INLINE vf v_min(vf a, vf b) { return v_select(a < b, a, b); }
INLINE vf v_abs(vf a) { return (vf)((vi)a & 0x7fffffff); }
INLINE vf v_where_negative(vf test, vf a, vf b) { return v_select((vi)test >> 31, a, b); }
INLINE vf v_shift_to_exponent(vf z) { return (vf)((vu)z << 23); }
INLINE vf v_load_bf16(const uint16_t *p)
{
    uint16_t half __attribute__((vector_size(8)));
    memcpy(&half, p, sizeof half);
    return (vf)(__builtin_convertvector(half, vu) << 16);
}
#endif
#if !defined(ISA_AVX512)
INLINE vf v_reciprocal(vf a) { return v_set1(1.0f) / a; }
#endif

/* The sums over the lanes of 8 vectors that lie one after the other. */
#if defined(ISA_AVX512) || defined(ISA_AVX2)
INLINE void v_sum_lanes_of_8(const float *p, float *out)
{
    __m256 v[8];
    for (int i = 0; i < 8; i++) {
        v[i] = _mm256_loadu_ps(p + i * W);
        if (W == 16) v[i] = _mm256_add_ps(v[i], _mm256_loadu_ps(p + i * W + W / 2));
    }
    /* Each step adds neighbours: pairs of lanes, of pairs, then the two halves. */
    for (int i = 0; i < 4; i++) v[i] = _mm256_hadd_ps(v[2 * i], v[2 * i + 1]);
    for (int i = 0; i < 2; i++) v[i] = _mm256_hadd_ps(v[2 * i], v[2 * i + 1]);
    const __m256 low = _mm256_permute2f128_ps(v[0], v[1], 0x20), high = _mm256_permute2f128_ps(v[0], v[1], 0x31);
    _mm256_storeu_ps(out, _mm256_add_ps(low, high));
}
#elif defined(ISA_NEON)
INLINE void v_sum_lanes_of_8(const float *p, float *out)
{
    for (int i = 0; i < 8; i += 4, p += 4 * W)
        vst1q_f32(out + i, vpaddq_f32(vpaddq_f32(vld1q_f32(p), vld1q_f32(p + W)),
                                      vpaddq_f32(vld1q_f32(p + 2 * W), vld1q_f32(p + 3 * W))));
}
#else
INLINE void v_sum_lanes_of_8(const float *p, float *out)
{
    for (int i = 0; i < 8; i++, p += W) out[i] = (p[0] + p[1]) + (p[2] + p[3]);
}
#endif

INLINE void copy_floats(float *to, const float *from, int64_t count)
{
    int64_t i = 0;
    for (; i + W <= count; i += W) v_store(to + i, v_load(from + i));
    if (i < count && i) v_store(to + count - W, v_load(from + count - W)); /* the last ones overlap the ones before */
    else for (; i < count; i++) to[i] = from[i];
}

INLINE vf v_zero(void) { return v_set1(0.0f); }

/* 2^t for `count` vectors at once. A polynomial of degree 5 on the fraction of t, then the exponent.
 *
 * p(0) is 1 exactly, so that a step of length 0 keeps the state as it is; fitted for the least relative error (9e-8).
 * One exponential is a chain of a dozen dependent instructions: several are taken step by step together, because a core
 * that waits for a chain fills up with the instructions of the next ones. `count` is a constant where this is called.
 */
#if defined(ISA_AVX512)
/* Two instructions of AVX-512 do the range reduction: vreduceps takes the floor off, vscalefps puts 2^floor(t) on, for
 * any t, infinities and subnormal results included. The fraction lies in [0, 1), and p(1) is 2 exactly, so that nothing
 * jumps where it wraps around (a t just below 0 has the fraction 1 after rounding).
 */
INLINE void v_exp2_all(const int count, vf *t, const vf *rest)
{
    static const float c[] = {0x1.269df0p-7f, 0x1.c94440p-5f, 0x1.ebd8a0p-3f, 0x1.62e4c8p-1f, 1.0f};
    vf r[8], p[8];
    for (int j = 0; j < count; j++) r[j] = _mm512_reduce_ps(t[j], _MM_FROUND_TO_NEG_INF);
    if (rest)
        for (int j = 0; j < count; j++) r[j] += rest[j];
    for (int j = 0; j < count; j++) p[j] = v_set1(0x1.eca6f0p-10f);
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < count; j++) p[j] = v_fma(p[j], r[j], v_set1(c[i]));
    for (int j = 0; j < count; j++) t[j] = _mm512_scalef_ps(p[j], t[j]);
}
#else
/* Adding 1.5 * 2^23 rounds t to an integer in the low bits of the sum; with 127 more these bits are the exponent field
 * of 2^n, one shift away. n = -127 gives the field 0, which is the number 0: underflow ends in 0.
 */
INLINE void v_exp2_all(const int count, vf *t, const vf *rest)
{
    static const float c[] = {0x1.3cea88p-7f, 0x1.c6b752p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f, 1.0f};
    const vf magic = v_set1(0x1.8p23f + 127);
    vf z[8], p[8];
    for (int j = 0; j < count; j++) t[j] = v_min(v_set1(127.0f), v_max(v_set1(-127.0f), t[j]));
    for (int j = 0; j < count; j++) z[j] = t[j] + magic;
    for (int j = 0; j < count; j++) t[j] = t[j] - (z[j] - magic);
    if (rest)
        for (int j = 0; j < count; j++) t[j] += rest[j];
    for (int j = 0; j < count; j++) p[j] = v_set1(0x1.5bba0ep-10f);
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < count; j++) p[j] = v_fma(p[j], t[j], v_set1(c[i]));
    for (int j = 0; j < count; j++) t[j] = p[j] * v_shift_to_exponent(z[j]);
}
#endif

#define LOG2_E 1.4426950408889634f
#define LOG2_E_REST 0x1.4ae0c0p-26f /* what float32 cuts off log2(e) */
#define LN_2 0.6931471805599453f

/* softplus, log(1 + exp(z)) = max(z, 0) + log(1 + e) with e = exp(-|z|), of `count` vectors at once, and its derivative
 * 1 / (1 + exp(-z)) into `slope` unless that is NULL.
 *
 * What |z| log2(e) loses by rounding grows with |z|; it is put back to first order. Without a fused multiply-add
 * (portable) it stays lost: 1e-6 of a step of 1e-6, 4e-6 of one of 1e-35. log(1 + e) is e times a polynomial that is 1
 * at 0, so that the smallest steps are as exact as any.
 */
INLINE void v_softplus_all(const int count, vf *z, vf *slope)
{
    static const float c[] = {-0.030065450817346573f, 0.07920398563146591f, -0.13753755390644073f, 0.1915363371372223f,
                              -0.24857157468795776f, 0.333213210105896f, -0.49999648332595825f, 1.0f};
    vf e[8], rest[8], p[8];
    /* Beyond 200, where exp(-|z|) has long been 0, the rest would grow without end. A NaN stays one. */
    for (int j = 0; j < count; j++) rest[j] = v_min(v_set1(200.0f), v_abs(z[j]));
    for (int j = 0; j < count; j++) e[j] = rest[j] * v_set1(-LOG2_E);
    for (int j = 0; j < count; j++)
        rest[j] = v_fma(rest[j], v_set1(-LOG2_E_REST), v_fma(rest[j], v_set1(-LOG2_E), -e[j]));
    v_exp2_all(count, e, rest);
    if (slope)
        for (int j = 0; j < count; j++)
            slope[j] = v_where_negative(z[j], e[j], v_set1(1.0f)) * v_reciprocal(v_set1(1.0f) + e[j]);
    for (int j = 0; j < count; j++) p[j] = v_set1(0.005364738870412111f);
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < count; j++) p[j] = v_fma(p[j], e[j], v_set1(c[i]));
    for (int j = 0; j < count; j++) z[j] = v_fma(e[j], p[j], v_max(v_zero(), z[j]));
}

/* bf16 is the upper half of a float32; rounded to the nearest, ties to even. */
INLINE float bf16_to_float(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint16_t float_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* NaN */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Subnormal numbers cost a hundred cycles each on x86, and a decaying state is made of them: flushed to 0 inside a
 * worker. Returns what float_mode_restore puts back.
 */
#if defined(__SSE__)
#include <xmmintrin.h>
INLINE uint64_t float_mode_flush(void)
{
    unsigned int old = _mm_getcsr();
    _mm_setcsr(old | 0x8040); /* FTZ and DAZ */
    return old;
}
INLINE void float_mode_restore(uint64_t old) { _mm_setcsr((unsigned int)old); }
#elif defined(__aarch64__)
INLINE uint64_t float_mode_flush(void)
{
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" ::"r"(old | 1 << 24));
    return old;
}
INLINE void float_mode_restore(uint64_t old) { __asm__ volatile("msr fpcr, %0" ::"r"(old)); }
#else
INLINE uint64_t float_mode_flush(void) { return 0; }
INLINE void float_mode_restore(uint64_t old) { (void)old; }
#endif

#endif
