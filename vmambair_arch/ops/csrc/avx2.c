/* The workers for x86-64 with AVX2 and FMA: 8 lanes. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdlib.h>
#include <string.h>
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define ISA_AVX2
#define ISA_NAME "avx2"
#include "depthwise_worker.h"
#include "scan_worker.h"
#if defined(__clang__)
#pragma clang attribute pop
#endif
#endif
