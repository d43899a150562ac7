/* The workers for x86-64 with AVX-512 (F, BW, DQ, VL): 16 lanes. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif
#define ISA_AVX512
#define ISA_NAME "avx512"
#include "depthwise_worker.h"
#include "scan_worker.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
