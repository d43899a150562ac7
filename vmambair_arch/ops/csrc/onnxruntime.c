/* The scan as an operator of onnxruntime, `OmniScan` in the domain `vmambair`: RegisterCustomOps below is what
 * onnxruntime looks for in a library of operators.
 *
 *     x (b, h, w, d), x_dbl (b, h, w, K * (R + 2N)), dt_weight (K, d, R), dt_bias (K, d), A (K, d, N), D (K, d)
 *     -> y (b, h, w, d)
 *
 * all float32, directions 0 to K - 1; letters as in ../reference.py. The work is done by the session's own threads: a
 * second pool beside them would only be in their way.
 *
 * onnxruntime's interface is a table of functions whose order never changes, so nothing of it is needed to build this.
 * The numbers are the places in that table, from 0.
 */
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

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
    PARALLEL_FOR_EACH = 274,
};

/* The first version of the interface that lends the session's threads: onnxruntime 1.17. */
enum { API_VERSION = 17, INVALID_ARGUMENT = 2, FLOAT = 1, INPUTS = 6, LANES = 16 };

/* State updates below which another thread costs more than it brings; as in ../c_scan.py. */
#define WORK_PER_THREAD (1 << 17)

/* Directions that share a piece of the work: two for two processors, for then there are two pieces an image. */
static int64_t together(int64_t K)
{
    return sysconf(_SC_NPROCESSORS_ONLN) <= 2 && K > 1 ? 2 : 1;
}

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

/* An image and some neighbouring directions are a piece, with an array of its own to add into. */
typedef struct {
    const scan_problem *all;
    int64_t each;   /* directions of a piece */
    float **sums;   /* by piece of an image: (b, h, w, d) */
    float *second;  /* (b, h, w, d), for a piece of more than three directions */
    int failed;
} pieces;

static void do_piece(void *data, size_t i)
{
    pieces *work = data;
    const scan_problem *all = work->all;
    const int64_t count = (all->K + work->each - 1) / work->each, image = i / count, part = i % count;
    const int64_t first = part * work->each, map = all->h * all->w * all->d, K = all->K - first;
    scan_problem p = *all;
    p.b = 1;
    p.K = K < work->each ? K : work->each;
    p.threads = 1;
    p.directions += first;
    p.x = (const float *)all->x + image * all->x_stride[0];
    p.x_dbl = (const float *)all->x_dbl + image * all->x_dbl_stride[0] + first * (all->R + 2 * all->N);
    p.dt_weight += first * all->d * all->R;
    p.dt_bias += first * all->d;
    p.A += first * all->d * all->N;
    p.D += first * all->d;
    float *sums[] = {work->sums[part] + image * map, work->second ? work->second + image * map : NULL};
    if (vmambair_scan_forward(&p, sums, 1, (all->d + LANES - 1) / LANES * LANES, sums[0])) work->failed = 1;
}

static status *compute(void *kernel, void *context)
{
    typedef status *get_output(void *, size_t, const int64_t *, size_t, void **);
    typedef status *get_data(void *, float **);
    typedef status *parallel_for(const void *, void (*)(void *, size_t), size_t, size_t, void *);
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

    const scan_problem problem = {
        .b = b, .h = h, .w = w, .d = d, .N = N, .R = R, .K = K, .directions = directions,
        .x = x->data, .x_dbl = x_dbl->data,
        .x_stride = {h * w * d, w * d, d}, .x_dbl_stride = {h * w * row, w * row, row},
        .dt_weight = dt_weight->data, .dt_bias = dt_bias->data, .A = A->data, .D = D->data, .threads = 1,
    };
    const int64_t each = elements * K * N / b < 2 * WORK_PER_THREAD ? K : together(K), count = (K + each - 1) / each;
    const int64_t arrays = count > 1 ? count : 2;
    float *scratch = malloc((arrays - 1) * elements * sizeof *scratch);
    if (!scratch) return error(api, "OmniScan: no memory");
    float *sums[4] = {y};
    for (int64_t i = 1; i < arrays; i++) sums[i] = scratch + (i - 1) * elements;
    pieces work = {.all = &problem, .each = each, .sums = sums, .second = count == 1 ? sums[1] : NULL};
    status *failed = ((parallel_for *)api[PARALLEL_FOR_EACH])(context, do_piece, b * count, 0, &work);
    for (int64_t i = 1; i < count; i++)
        for (int64_t e = 0; e < elements; e++) y[e] += sums[i][e];
    free(scratch);
    if (!failed && work.failed) failed = error(api, "OmniScan: no memory");
    return failed;
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
        if (vmambair_isa_select(getenv("VMAMBAIR_SCAN_ISA")))
            return error(api, "VMAMBAIR_SCAN_ISA names an instruction set that this machine does not have");
    }
    static void *domain; /* for all sessions: none of them owns it */
    if (!domain) {
        TRY(((create_domain *)api[CREATE_DOMAIN])("vmambair", &domain));
        TRY(((add *)api[ADD_OPERATOR])(domain, &omni_scan));
    }
    return ((add *)api[ADD_DOMAIN])(options, domain);
}
