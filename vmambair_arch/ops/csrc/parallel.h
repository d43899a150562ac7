/* What the entry points share: threads where the compiler has OpenMP, and which functions the library shows. */
#ifndef VMAMBAIR_PARALLEL_H
#define VMAMBAIR_PARALLEL_H

#if defined(_OPENMP)
#define PARALLEL_FOR(threads, ...) PRAGMA(omp parallel for num_threads(threads) if (threads > 1) __VA_ARGS__)
#else
#define PARALLEL_FOR(threads, ...)
#endif
#define PRAGMA(text) _Pragma(#text)
#define EXPORT __attribute__((visibility("default")))

/* The instruction set in use; see scan.c. */
const char *vmambair_isa_name(int i);
int vmambair_isa_select(const char *name);
const char *vmambair_isa_selected(void);

#endif
