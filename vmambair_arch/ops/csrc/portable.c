/* The workers for any machine: 4 lanes of the compiler's generic vectors. */
#define ISA_PORTABLE
#define ISA_NAME "portable"
#include "depthwise_worker.h"
#include "scan_worker.h"
