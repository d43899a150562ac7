/* Vectors of float32 and the transcendental functions of the kernels, for one instruction set.
 *
 * The file of an instruction set (avx512.c, avx2.c, neon.c, portable.c) defines one of ISA_AVX512, ISA_AVX2, ISA_NEON
 * or ISA_PORTABLE and then includes this header and the workers, so that every worker exists once per instruction
 * set at the vector width that suits it. A width that the compiler has to split or to leave half empty costs a factor
 * of two here.
 *
 *     vf              W floats
 *     v_exp2, v_softplus, v_sigmoid   relative error below 2e-7, NaN stays NaN
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
INLINE vf v_abs(vf a) { return _mm512_abs_ps(a); }
INLINE vf v_where_negative(vf test, vf a, vf b) { return _mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)test), b, a); }
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
    return (vf)((vu){p[0], p[1], p[2], p[3]} << 16);
}
#endif

INLINE vf v_zero(void) { return v_set1(0.0f); }

/* 2^t. A polynomial of degree 5 on the fraction of t, then the exponent.
 *
 * p(0) is 1 exactly, so that a step of length 0 keeps the state as it is; fitted for the least relative error (9e-8).
 */
#if defined(ISA_AVX512)
/* Two instructions of AVX-512 do the range reduction: vreduceps takes the floor off, vscalefps puts 2^floor(t) on, for
 * any t, infinities and subnormal results included. The fraction lies in [0, 1), and p(1) is 2 exactly, so that nothing
 * jumps where it wraps around (a t just below 0 has the fraction 1 after rounding).
 */
INLINE vf v_exp2(vf t)
{
    vf r = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF);
    vf p = v_fma(v_set1(0x1.eca6f0p-10f), r, v_set1(0x1.269df0p-7f));
    p = v_fma(p, r, v_set1(0x1.c94440p-5f));
    p = v_fma(p, r, v_set1(0x1.ebd8a0p-3f));
    p = v_fma(p, r, v_set1(0x1.62e4c8p-1f));
    p = v_fma(p, r, v_set1(1.0f));
    return _mm512_scalef_ps(p, t);
}
#else
/* Adding 1.5 * 2^23 rounds t to an integer in the low bits of the sum; with 127 more these bits are the exponent field of
 * 2^n, one shift away. n = -127 gives the field 0, which is the number 0: underflow ends in 0.
 */
INLINE vf v_exp2(vf t)
{
    const vf magic = v_set1(0x1.8p23f + 127);
    t = v_min(v_set1(127.0f), v_max(v_set1(-127.0f), t));
    vf z = t + magic;
    vf r = t - (z - magic);
    vf p = v_fma(v_set1(0.0013264723820611835f), r, v_set1(0.009671512991189957f));
    p = v_fma(p, r, v_set1(0.05550733581185341f));
    p = v_fma(p, r, v_set1(0.24022242426872253f));
    p = v_fma(p, r, v_set1(0.6931470036506653f));
    p = v_fma(p, r, v_set1(1.0f));
    return p * v_shift_to_exponent(z);
}
#endif

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

/* exp(-a). What a * log2(e) loses by rounding, which grows with a, is put back to first order; without a fused
 * multiply-add (portable) it stays lost: 1e-6 at a = 14, 4e-6 at a = 80.
 */
INLINE vf v_exp_minus(vf a)
{
    const vf t = a * v_set1(-LOG2_E);
    const vf rest = v_fma(a, v_set1(-0x1.4ae0c0p-26f), v_fma(a, v_set1(-LOG2_E), v_zero() - t)); /* log2(e) past float32 */
    const vf e = v_exp2(t);
    return v_fma(e, rest * v_set1(LN_2), e);
}

/* log(1 + e) for e in [0, 1]: e times a polynomial with p(0) = 1, exact for the smallest e. */
INLINE vf v_log1p_unit(vf e)
{
    vf p = v_fma(v_set1(0.005364738870412111f), e, v_set1(-0.030065450817346573f));
    p = v_fma(p, e, v_set1(0.07920398563146591f));
    p = v_fma(p, e, v_set1(-0.13753755390644073f));
    p = v_fma(p, e, v_set1(0.1915363371372223f));
    p = v_fma(p, e, v_set1(-0.24857157468795776f));
    p = v_fma(p, e, v_set1(0.333213210105896f));
    p = v_fma(p, e, v_set1(-0.49999648332595825f));
    p = v_fma(p, e, v_set1(1.0f));
    return e * p;
}

/* log(1 + exp(z)) = max(z, 0) + log(1 + exp(-|z|)). */
INLINE vf v_softplus(vf z)
{
    return v_max(v_zero(), z) + v_log1p_unit(v_exp_minus(v_abs(z)));
}

/* 1 / (1 + exp(-z)), the derivative of softplus, exact at both ends. */
INLINE vf v_sigmoid(vf z)
{
    vf e = v_exp_minus(v_abs(z));
    return v_where_negative(z, e, v_set1(1.0f)) / (v_set1(1.0f) + e);
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

/* Subnormal numbers cost a hundred cycles each on x86, and a decaying state is made of them: flushed to 0 inside a worker.
 * Returns what float_mode_restore puts back.
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
