/* The scan as an operator of onnxruntime, `OmniScan` in the domain `vmambair`: RegisterCustomOps below is what
 * onnxruntime looks for in a library of operators.
 *
 *     x (b, h, w, d), x_dbl (b, h, w, K * (R + 2N)), dt_weight (K, d, R), dt_bias (K, d), A (K, d, N), D (K, d)
 *     -> y (b, h, w, d)
 *
 * all float32, directions 0 to K - 1; letters as in ../reference.py. Threads are OpenMP's (OMP_NUM_THREADS), not those
 * of the session.
 *
 * onnxruntime's interface is a table of functions whose order never changes, so nothing of it is needed to build this.
 * The numbers are the places in that table, from 0; all of them are there since its first version.
 */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "parallel.h"
#include "scan.h"

typedef void (*function)(void);
typedef struct status status; /* NULL: no error */

enum {
    CREATE_STATUS = 0,
    CREATE_DOMAIN = 26,
    ADD_OPERATOR = 27,
    ADD_DOMAIN = 28,
    DATA = 51,
    DIMENSIONS_COUNT = 61,
    DIMENSIONS = 62,
    SHAPE = 65,
    INPUT = 90,
    OUTPUT = 91,
    RELEASE_SHAPE = 99,
};

/* The first version of the interface in which an operator can say that it failed: onnxruntime 1.16. */
enum { API_VERSION = 16, INVALID_ARGUMENT = 2, FLOAT = 1, INPUTS = 6, LANES = 16 };

/* State updates below which another thread costs more than it brings; as in ../c_scan.py. */
#define WORK_PER_THREAD (1 << 17)

typedef struct {
    const function *(*get)(uint32_t version);
    const char *(*version)(void);
} api_base;

/* What an operator tells of itself; the order is onnxruntime's, and what is NULL is left to it. */
typedef struct operator {
    uint32_t version;
    void *(*create)(const struct operator *, const function *, const void *);
    const char *(*name)(const struct operator *);
    const char *(*provider)(const struct operator *);
    int (*input_type)(const struct operator *, size_t);
    size_t (*input_count)(const struct operator *);
    int (*output_type)(const struct operator *, size_t);
    size_t (*output_count)(const struct operator *);
    void (*compute)(void *, void *);
    void (*destroy)(void *);
    int (*input_kind)(const struct operator *, size_t);
    int (*output_kind)(const struct operator *, size_t);
    int (*input_memory)(const struct operator *, size_t);
    int (*fewest_inputs)(const struct operator *);
    int (*inputs_alike)(const struct operator *);
    int (*fewest_outputs)(const struct operator *);
    int (*outputs_alike)(const struct operator *);
    status *(*create_or_fail)(const struct operator *, const function *, const void *, void **);
    status *(*compute_or_fail)(void *, void *);
    function later[8];
} operator;

static const char *name(const operator *self) { return "OmniScan"; }
static const char *provider(const operator *self) { return NULL; /* the CPU */ }
static int type(const operator *self, size_t i) { return FLOAT; }
static size_t input_count(const operator *self) { return INPUTS; }
static size_t output_count(const operator *self) { return 1; }
static int required(const operator *self, size_t i) { return 0; }
static int usual_memory(const operator *self, size_t i) { return 0; }
static int one(const operator *self) { return 1; }
static void destroy(void *kernel) {}

static status *create(const operator *self, const function *api, const void *info, void **kernel)
{
    *kernel = (void *)api;
    return NULL;
}

#define TRY(call)                   \
    do {                            \
        status *failed = (call);    \
        if (failed) return failed;  \
    } while (0)

static status *error(const function *api, const char *message)
{
    return ((status * (*)(int, const char *)) api[CREATE_STATUS])(INVALID_ARGUMENT, message);
}

typedef struct {
    const float *data;
    size_t rank;
    int64_t size[4];
} array;

static status *read_input(const function *api, void *context, size_t i, array *out)
{
    typedef status *get_input(const void *, size_t, const void **);
    typedef status *get_shape(const void *, void **);
    typedef status *get_rank(const void *, size_t *);
    typedef status *get_sizes(const void *, int64_t *, size_t);
    typedef status *get_data(const void *, const float **);
    typedef void release(void *);
    const void *value;
    void *shape;
    TRY(((get_input *)api[INPUT])(context, i, &value));
    TRY(((get_shape *)api[SHAPE])(value, &shape));
    status *failed = ((get_rank *)api[DIMENSIONS_COUNT])(shape, &out->rank);
    if (!failed && out->rank <= 4) failed = ((get_sizes *)api[DIMENSIONS])(shape, out->size, out->rank);
    ((release *)api[RELEASE_SHAPE])(shape);
    TRY(failed);
    return ((get_data *)api[DATA])(value, &out->data);
}

static int is(const array *a, size_t rank, int64_t s0, int64_t s1, int64_t s2, int64_t s3)
{
    const int64_t wanted[] = {s0, s1, s2, s3};
    if (a->rank != rank) return 0;
    for (size_t i = 0; i < rank; i++)
        if (a->size[i] != wanted[i]) return 0;
    return 1;
}

static status *compute(void *kernel, void *context)
{
    typedef status *get_output(void *, size_t, const int64_t *, size_t, void **);
    typedef status *get_data(void *, float **);
    static const int64_t directions[] = {0, 1, 2, 3};
    const function *api = kernel;
    array in[INPUTS];
    for (size_t i = 0; i < INPUTS; i++) TRY(read_input(api, context, i, in + i));
    const array *x = in, *x_dbl = in + 1, *dt_weight = in + 2, *dt_bias = in + 3, *A = in + 4, *D = in + 5;
    if (x->rank != 4 || dt_weight->rank != 3 || A->rank != 3)
        return error(api, "OmniScan: x must be (b, h, w, d), dt_weight (K, d, R) and A (K, d, N)");
    const int64_t b = x->size[0], h = x->size[1], w = x->size[2], d = x->size[3];
    const int64_t K = dt_weight->size[0], R = dt_weight->size[2], N = A->size[2], row = K * (R + 2 * N);
    if (K < 1 || K > 4 || N < 1 || !is(dt_weight, 3, K, d, R, 0) || !is(A, 3, K, d, N, 0) ||
        !is(dt_bias, 2, K, d, 0, 0) || !is(D, 2, K, d, 0, 0) || !is(x_dbl, 4, b, h, w, row))
        return error(api, "OmniScan: the shapes of the inputs do not fit together");

    void *out;
    float *y;
    TRY(((get_output *)api[OUTPUT])(context, 0, x->size, 4, &out));
    TRY(((get_data *)api[DATA])(out, &y));
    const int64_t elements = b * h * w * d;
    if (!elements) return NULL;

    int64_t threads = 1;
#if defined(_OPENMP)
    threads = omp_get_max_threads();
#endif
    const int64_t useful = elements * K * N / WORK_PER_THREAD;
    if (threads > useful) threads = useful > 1 ? useful : 1;
    const int64_t pairs = (K + 1) / 2;
    const int64_t parts = b % threads == 0 || b > 4 * threads ? 1 : threads > b * pairs ? K : pairs;
    const int64_t pieces = b * parts, blocks = (d + LANES - 1) / LANES;
    int64_t groups = pieces % threads == 0 ? 1 : (4 * threads + pieces - 1) / pieces;
    if (groups > blocks) groups = blocks;

    float *sums[4] = {y};
    const int64_t arrays = parts > 2 ? parts : 2;
    float *work = malloc((arrays - 1) * elements * sizeof *work);
    if (!work) return error(api, "OmniScan: no memory");
    for (int64_t i = 1; i < arrays; i++) sums[i] = work + (i - 1) * elements;
    const scan_problem problem = {
        .b = b, .h = h, .w = w, .d = d, .N = N, .R = R, .K = K, .directions = directions,
        .x = x->data, .x_dbl = x_dbl->data,
        .x_stride = {h * w * d, w * d, d}, .x_dbl_stride = {h * w * row, w * row, row},
        .dt_weight = dt_weight->data, .dt_bias = dt_bias->data, .A = A->data, .D = D->data, .threads = (int32_t)threads,
    };
    const int failed = vmambair_scan_forward(&problem, sums, parts, (blocks + groups - 1) / groups * LANES, y);
    free(work);
    return failed ? error(api, "OmniScan: no memory") : NULL;
}

static const operator omni_scan = {
    .version = API_VERSION,
    .name = name,
    .provider = provider,
    .input_type = type,
    .input_count = input_count,
    .output_type = type,
    .output_count = output_count,
    .destroy = destroy,
    .input_kind = required,
    .output_kind = required,
    .input_memory = usual_memory,
    .fewest_inputs = one,
    .inputs_alike = one,
    .fewest_outputs = one,
    .outputs_alike = one,
    .create_or_fail = create,
    .compute_or_fail = compute,
};

EXPORT status *RegisterCustomOps(void *options, const api_base *base)
{
    typedef status *create_domain(const char *, void **);
    typedef status *add(void *, const void *);
    const function *api = base->get(API_VERSION);
    if (!api) return NULL; /* too old: the session will say that it does not know the operator */
    if (!vmambair_isa_selected()) {
        const char *wanted = getenv("VMAMBAIR_SCAN_ISA");
        if (vmambair_isa_select(wanted && *wanted ? wanted : vmambair_isa_name(0)))
            return error(api, "VMAMBAIR_SCAN_ISA names an instruction set that this machine does not have");
    }
    static void *domain; /* for all sessions: none of them owns it */
    if (!domain) {
        TRY(((create_domain *)api[CREATE_DOMAIN])("vmambair", &domain));
        TRY(((add *)api[ADD_OPERATOR])(domain, &omni_scan));
    }
    return ((add *)api[ADD_DOMAIN])(options, domain);
}
