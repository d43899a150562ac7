/* The workers for 64-bit ARM, where NEON is always there: 4 lanes. */
#if defined(__aarch64__)
#define ISA_NEON
#define ISA_NAME "neon"
#include "depthwise_worker.h"
#include "scan_worker.h"
#endif
