/* The transformer layers of Swin2SR on the CPU, for windows of 8 x 8 pixels.
 *
 * Features are stored in blocks of 4 x 4 pixels, (N, H / 4, W / 4, C, 16) float: the 16
 * pixels of a channel fill one vector of AVX-512, two of AVX or four of 128 bits. A window
 * is made of four such blocks, shifted or not, so nothing has to be rolled or rearranged;
 * everywhere below "column" means one of the 64 pixels of a window, and matrices have one
 * row per channel (or key). Every matrix product is `rows of weights` x `columns of a
 * window`.
 *
 * A vector is as long as the processor's registers: compilers keep longer ones in memory.
 *
 * Compiled twice: with HALF the operands of the products are pairs of bfloat16, and sums
 * are float; without, everything is float. Vectors are GCC's and Clang's portable ones,
 * but for the maximum and the square root, which these would take apart into numbers.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#include <malloc.h>
#define free _aligned_free
#endif

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__)
#define LANES 16
#define MAXIMUM(a, b) _mm512_max_ps((__m512)(a), (__m512)(b))
#define SQUARE_ROOT(x) _mm512_sqrt_ps((__m512)(x))
#elif defined(__AVX__)
#define LANES 8
#define MAXIMUM(a, b) _mm256_max_ps((__m256)(a), (__m256)(b))
#define SQUARE_ROOT(x) _mm256_sqrt_ps((__m256)(x))
#elif defined(__x86_64__)
#define LANES 4
#define MAXIMUM(a, b) _mm_max_ps((__m128)(a), (__m128)(b))
#define SQUARE_ROOT(x) _mm_sqrt_ps((__m128)(x))
#elif defined(__aarch64__)
#define LANES 4
#define MAXIMUM(a, b) vmaxq_f32((float32x4_t)(a), (float32x4_t)(b))
#define SQUARE_ROOT(x) vsqrtq_f32((float32x4_t)(x))
#else
#error "no vectors are known for this processor"
#endif

#define COLUMNS 64 /* pixels of a window */
#define BLOCKS 4   /* of 16 pixels each */
#define PARTS (16 / LANES) /* vectors of a block */
#define VECTORS (BLOCKS * PARTS)

/* A product keeps ROWS x WIDE sums in registers, of which it needs some for operands. */
#if defined(__AVX512F__) /* 32 registers */
#define ROWS 6
#define WIDE 4
#elif defined(__aarch64__) /* 32, but GCC loads the weights of all rows at once */
#define ROWS 5
#define WIDE 4
#else /* 16 */
#define ROWS 6
#define WIDE 2
#endif
#define INLINE static inline __attribute__((always_inline))

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));
typedef vec row[VECTORS]; /* one channel of a window */

/* Clang keeps so many sums in registers only where loops are unrolled early. */
#if defined(__clang__) && defined(__AVX512F__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

/* Four vectors are worked on at once where one would wait for its own last sum. */
#define EACH for (int j = 0; j < 4; j++)

/* -- arithmetic on vectors -------------------------------------------------------- */

INLINE vec splat(float x) { return x - (vec){0}; }
INLINE vec larger(vec a, vec b) { return (vec)MAXIMUM(a, b); }
INLINE vec square_root(vec x) { return (vec)SQUARE_ROOT(x); }

/* The polynomial of degree 5, in chains that are shorter than Horner's */
INLINE vec polynomial(vec x, float c0, float c1, float c2, float c3, float c4, float c5)
{
    vec square = x * x;
    return (c1 * x + c0) + square * ((c3 * x + c2) + square * (c5 * x + c4));
}

/* 2 to the x, within 1e-7 of it; x is at least -126 and less than 128 */
INLINE vec power_of_two(vec x)
{
    const vec round = splat(12582912.f); /* 1.5 * 2^23: its last bits are whole numbers */
    vec whole = x + round, f = x - (whole - round);
    vec p = polynomial(f, 1.0000001f, 6.9314694e-1f, 2.4022120e-1f, 5.5507135e-2f,
                       9.6755410e-3f, 1.3276456e-3f);
    return (vec)((ivec)p + ((ivec)whole << 23));
}

/* x * Phi(x), within 1e-8 * x: Phi(-|x|) is t * polynomial(t) * exp(-x * x / 2) */
INLINE vec gelu(vec x)
{
    vec positive = larger(x, splat(0.f)), size = larger(x, -x);
    vec t = 1.f / (1.f + 0.4f * size);
    vec p = polynomial(t, 1.5652111e-1f, 1.9004701e-1f, 9.3436046e-3f, 3.4514344e-1f,
                       -2.5848684e-1f, 5.7432052e-2f);
    return positive - size * t * p * power_of_two(larger(x * x * -0.72134752f, splat(-100.f)));
}

/* -- operands of the products ------------------------------------------------------- */

#ifdef HALF
typedef uint32_t weight; /* two bfloat16 that follow each other along the sum */
typedef __m512i operand; /* the same, for 16 columns */
#define DEPTH(n) (((n) + 1) / 2)

INLINE vec multiply_add(vec sum, weight a, operand b)
{
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
}

INLINE operand pair(vec first, vec second)
{
    static const uint16_t order[32] __attribute__((aligned(64))) = {
        0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return _mm512_permutexvar_epi16(*(const __m512i *)order, both);
}

/* The k-th operand of a block of n channels */
INLINE void block_operand(const vec *x, int k, int n, operand *out)
{
    *out = pair(x[2 * k], 2 * k + 1 < n ? x[2 * k + 1] : splat(0.f));
}

/* Store rows i and i + 1 as an operand. */
INLINE void put(operand *out, int i, int v, vec first, vec second)
{
    out[i / 2 * VECTORS + v] = pair(first, second);
}

/* Make an operand of n rows; `space` holds DEPTH(n) rows. */
INLINE const operand *as_operand(int n, const row *x, void *space)
{
    for (int i = 0; i < n; i += 2)
        for (int v = 0; v < VECTORS; v++)
            put(space, i, v, x[i][v], i + 1 < n ? x[i + 1][v] : splat(0.f));
    return space;
}

/* Make weights of n rows, to be summed along their columns. */
INLINE const weight *as_weight(int n, const row *x, void *space)
{
    __m256i *out = space;
    for (int i = 0; i < n; i++)
        for (int v = 0; v < VECTORS; v++)
            *out++ = (__m256i)_mm512_cvtneps_pbh((__m512)x[i][v]);
    return space;
}
#else
typedef float weight;
typedef vec operand;
#define DEPTH(n) (n)

INLINE vec multiply_add(vec sum, weight a, operand b) { return sum + a * b; }
INLINE void block_operand(const vec *x, int k, int n, operand *out)
{
    for (int j = 0; j < PARTS; j++) out[j] = x[k * PARTS + j];
}
INLINE void put(operand *out, int i, int v, vec first, vec second)
{
    out[i * VECTORS + v] = first;
    out[(i + 1) * VECTORS + v] = second;
}
INLINE const operand *as_operand(int n, const row *x, void *space) { return (const operand *)x; }
INLINE const weight *as_weight(int n, const row *x, void *space) { return (const weight *)x; }
#endif

/* -- products ----------------------------------------------------------------------- */

struct product {
    int rows, depth;      /* of the result, and of the sum */
    const weight *a;      /* (row, depth) */
    long row_step, step;  /* between its rows, and along the sum */
    const operand *b;     /* (depth, VECTORS) */
    const float *bias;    /* (row), or NULL */
    const row *start;     /* (row) to add to, or NULL */
    row *out;             /* (row) */
};

/* `count` rows from `m` on, WIDE vectors from `v` on */
INLINE void product_block(const struct product *p, int m, int count, int v)
{
    vec sum[ROWS][WIDE];
    UNROLL for (int i = 0; i < count; i++)
        UNROLL for (int j = 0; j < WIDE; j++)
            sum[i][j] = p->start ? p->start[m + i][v + j] : splat(p->bias ? p->bias[m + i] : 0.f);
    const weight *a = p->a + m * p->row_step;
    const operand *b = p->b + v;
    for (int k = 0; k < p->depth; k++, a += p->step, b += VECTORS)
        UNROLL for (int i = 0; i < count; i++)
            UNROLL for (int j = 0; j < WIDE; j++)
                sum[i][j] = multiply_add(sum[i][j], a[i * p->row_step], b[j]);
    UNROLL for (int i = 0; i < count; i++)
        UNROLL for (int j = 0; j < WIDE; j++) p->out[m + i][v + j] = sum[i][j];
}

static void multiply(const struct product *p)
{
    int m = 0;
    for (; m + ROWS <= p->rows; m += ROWS)
        for (int v = 0; v < VECTORS; v += WIDE) product_block(p, m, ROWS, v);
    for (int v = 0; v < VECTORS; v += WIDE)
        switch (p->rows - m) {
        case 1: product_block(p, m, 1, v); break;
        case 2: product_block(p, m, 2, v); break;
        case 3: product_block(p, m, 3, v); break;
        case 4: product_block(p, m, 4, v); break;
        case 5: product_block(p, m, 5, v); break;
        }
}

/* -- a layer ------------------------------------------------------------------------ */

struct layer {
    int channels, heads, hidden, shift;
    float epsilon;
    const float *scale;                      /* (heads), for powers of two */
    const row *position;                     /* (heads, keys), for powers of two */
    const row *mask;                         /* (4 kinds of windows, keys) */
    const weight *qkv, *project, *expand, *reduce; /* qkv: (heads, q k v, C / heads, C) */
    const float *qkv_bias, *project_bias, *expand_bias, *reduce_bias;
    const float *norm1, *norm2;              /* (weight or bias, C) */
};

struct space { /* of one thread */
    row *x, *y, *head, *mixed, *hidden, *weights;
    void *operand, *query, *key, *value, *probability;
};

/* Scale the columns of n rows to length `scale`. */
INLINE void normalize_columns(int n, row *x, float scale)
{
    for (int v = 0; v < VECTORS; v += 4) {
        vec sum[4];
        EACH sum[j] = splat(1e-24f);
        for (int i = 0; i < n; i++) EACH sum[j] += x[i][v + j] * x[i][v + j];
        EACH sum[j] = scale / square_root(sum[j]);
        for (int i = 0; i < n; i++) EACH x[i][v + j] *= sum[j];
    }
}

/* x += layer norm of the columns of y */
static void add_norm(int n, row *x, const row *y, const float *gain, float epsilon)
{
    for (int v = 0; v < VECTORS; v += 4) {
        vec mean[4] = {0}, square[4];
        for (int i = 0; i < n; i++) EACH mean[j] += y[i][v + j];
        EACH mean[j] /= (float)n;
        EACH square[j] = splat(epsilon * (float)n);
        for (int i = 0; i < n; i++)
            EACH square[j] += (y[i][v + j] - mean[j]) * (y[i][v + j] - mean[j]);
        EACH square[j] = 1.f / square_root(square[j] / (float)n);
        for (int i = 0; i < n; i++)
            EACH x[i][v + j] += (y[i][v + j] - mean[j]) * square[j] * gain[i] + gain[n + i];
    }
}

/* Attention weights of a head, and the sums that they are to be divided by. */
static void attention_weights(const struct layer *l, int head, int kind, struct space *s, vec *sums)
{
    int d = l->channels / l->heads;
    const row *start = l->position + head * COLUMNS, *mask = l->mask + kind * COLUMNS;
    row *x = s->weights;
    if (kind) {
        for (int i = 0; i < COLUMNS; i++)
            for (int v = 0; v < VECTORS; v++) x[i][v] = start[i][v] + mask[i][v];
        start = (const row *)x;
    }
    multiply(&(struct product){
        COLUMNS, DEPTH(d), (const weight *)as_operand(d, (const row *)s->head + d, s->key), 1,
        COLUMNS, as_operand(d, (const row *)s->head, s->query), NULL, start, x});
    for (int v = 0; v < VECTORS; v++) {
        vec largest = x[0][v], other = x[1][v], sum = splat(0.f);
        for (int i = 2; i < COLUMNS; i += 2) {
            largest = larger(largest, x[i][v]);
            other = larger(other, x[i + 1][v]);
        }
        largest = larger(largest, other);
        for (int i = 0; i < COLUMNS; i += 2) {
            vec first = power_of_two(larger(x[i][v] - largest, splat(-126.f)));
            vec second = power_of_two(larger(x[i + 1][v] - largest, splat(-126.f)));
            put(s->probability, i, v, first, second);
            sum += first + second;
        }
        sums[v] = sum;
    }
}

static void attend(const struct layer *l, int kind, struct space *s)
{
    int c = l->channels, d = c / l->heads;
    const operand *x = as_operand(c, (const row *)s->x, s->operand);
    for (int head = 0; head < l->heads; head++) {
        multiply(&(struct product){3 * d, DEPTH(c), l->qkv + (long)head * 3 * d * DEPTH(c), DEPTH(c),
                                 1, x, l->qkv_bias + head * 3 * d, NULL, s->head});
        normalize_columns(d, s->head, l->scale[head]);
        normalize_columns(d, s->head + d, 1.f);
        vec sums[VECTORS];
        attention_weights(l, head, kind, s, sums);
        row *mixed = s->mixed + head * d;
        multiply(&(struct product){d, DEPTH(COLUMNS), as_weight(d, (const row *)s->head + 2 * d, s->value),
                                 DEPTH(COLUMNS), 1,
                                 s->probability, NULL, NULL, mixed});
        for (int v = 0; v < VECTORS; v++) {
            vec factor = 1.f / sums[v];
            for (int i = 0; i < d; i++) mixed[i][v] *= factor;
        }
    }
    multiply(&(struct product){c, DEPTH(c), l->project, DEPTH(c), 1,
                             as_operand(c, (const row *)s->mixed, s->operand), l->project_bias,
                               NULL, s->y});
}

static void window(const struct layer *l, int kind, struct space *s)
{
    int c = l->channels, h = l->hidden;
    attend(l, kind, s);
    add_norm(c, s->x, (const row *)s->y, l->norm1, l->epsilon);
    multiply(&(struct product){h, DEPTH(c), l->expand, DEPTH(c), 1,
                               as_operand(c, (const row *)s->x, s->operand), l->expand_bias,
                               NULL, s->hidden});
    for (int i = 0; i < h; i++)
        for (int v = 0; v < VECTORS; v++) s->hidden[i][v] = gelu(s->hidden[i][v]);
    multiply(&(struct product){c, DEPTH(h), l->reduce, DEPTH(h), 1,
                             as_operand(h, (const row *)s->hidden, s->operand), l->reduce_bias,
                               NULL, s->y});
    add_norm(c, s->x, (const row *)s->y, l->norm2, l->epsilon);
}

/* -- windows of images -------------------------------------------------------------- */

struct grid { /* images of tall x wide windows, and those of each that are needed: */
    int tall, wide, top, left, rows, columns; /* from -1, which is the last one */
};

struct place { /* of a window that is needed */
    long image;
    int y, x;
};

INLINE struct place find_window(const struct grid *g, long w)
{
    return (struct place){w / g->columns / g->rows, g->top + (int)(w / g->columns % g->rows),
                          g->left + (int)(w % g->columns)};
}

/* The block of a window at line y and column x (of its neighbors: from -1 to 2), as an
 * index in blocks; -1 outside of the image, unless it comes around. */
INLINE long find_block(const struct grid *g, long w, int y, int x, int shift, int around)
{
    int blocks = 2 * g->wide, lines = 2 * g->tall;
    struct place at = find_window(g, w);
    y += 2 * at.y + shift;
    x += 2 * at.x + shift;
    if (!around && (y < 0 || y >= lines || x < 0 || x >= blocks)) return -1;
    return (at.image * lines + (y + lines) % lines) * blocks + (x + blocks) % blocks;
}

INLINE void load(const struct grid *g, long w, int shift, int channels, const vec *in, row *x)
{
    for (int b = 0; b < BLOCKS; b++) {
        const vec *from = in + find_block(g, w, b / 2, b % 2, shift, 1) * channels * PARTS;
        for (int k = 0; k < channels; k++)
            for (int j = 0; j < PARTS; j++) x[k][b * PARTS + j] = from[k * PARTS + j];
    }
}

INLINE void store(const struct grid *g, long w, int shift, int channels, const row *x, vec *out)
{
    for (int b = 0; b < BLOCKS; b++) {
        vec *to = out + find_block(g, w, b / 2, b % 2, shift, 1) * channels * PARTS;
        for (int k = 0; k < channels; k++)
            for (int j = 0; j < PARTS; j++) to[k * PARTS + j] = x[k][b * PARTS + j];
    }
}

static row *rows(char **next, int n)
{
    row *result = (row *)*next;
    *next += (size_t)n * sizeof(row);
    return result;
}

static char *allocate(int n)
{
#ifdef _WIN32
    return _aligned_malloc((size_t)n * sizeof(row), 64);
#else
    void *memory = NULL;
    return posix_memalign(&memory, 64, (size_t)n * sizeof(row)) ? NULL : memory;
#endif
}

/* Each of these works on windows `first` to `last`, and returns 1 if there is no memory. */

/* A layer, from `in` to `out`, which may be the same. */
int swin_layer(const struct layer *l, const struct grid *g, const vec *in, vec *out, long first,
               long last)
{
    int c = l->channels, d = c / l->heads, deep = l->hidden > c ? l->hidden : c;
    char *memory = allocate(3 * c + 6 * d + 3 + l->hidden + deep + 2 * COLUMNS), *next = memory;
    if (!memory) return 1;
    struct space s = {rows(&next, c), rows(&next, c), rows(&next, 3 * d), rows(&next, c),
                      rows(&next, l->hidden), rows(&next, COLUMNS), rows(&next, deep),
                      rows(&next, d + 1), rows(&next, d + 1), rows(&next, d + 1),
                      rows(&next, COLUMNS)};
    for (long w = first; w < last; w++) {
        struct place at = find_window(g, w);
        int bottom = at.y < 0 || at.y == g->tall - 1, right = at.x < 0 || at.x == g->wide - 1;
        load(g, w, l->shift, c, in, s.x);
        window(l, l->shift ? 2 * bottom + right : 0, &s);
        store(g, w, l->shift, c, (const row *)s.x, out);
    }
    free(memory);
    return 0;
}

struct norm { /* of a product, or of the input itself if there are no weights */
    int channels;
    float epsilon;
    const weight *a;
    const float *bias, *norm;
};

/* A layer norm, from `in` to `out`, which may be the same. */
int swin_norm(const struct norm *l, const struct grid *g, const vec *in, vec *out, long first,
              long last)
{
    int c = l->channels;
    char *memory = allocate(4 * c + 1), *next = memory;
    if (!memory) return 1;
    row *x = rows(&next, c), *y = rows(&next, c), *sum = rows(&next, c);
    for (long w = first; w < last; w++) {
        load(g, w, 0, c, in, x);
        if (l->a)
            multiply(&(struct product){c, DEPTH(c), l->a, DEPTH(c), 1,
                                       as_operand(c, (const row *)x, next), l->bias, NULL, y});
        memset(sum, 0, (size_t)c * sizeof(row));
        add_norm(c, sum, (const row *)(l->a ? y : x), l->norm, l->epsilon);
        store(g, w, 0, c, (const row *)sum, out);
    }
    free(memory);
    return 0;
}

struct convolution { /* 3 x 3, zeros outside of the image */
    int in_channels, out_channels;
    float slope;      /* below zero, for a leaky ReLU; or 1 */
    const weight *a;  /* (3, 3, out channel, in channel) */
    const float *bias;
};

#define PATCH 10 /* lines of a window and its neighbors; of 4 + 8 + 4 pixels */

typedef struct { /* numbers, or pairs of bfloat16 */
    char pixel[16][4];
} line;

/* Gather a window and its neighbors as operands: (DEPTH(channels), PATCH). */
static void load_patch(const struct grid *g, long w, int channels, const vec *in, line *patch)
{
    for (int place = 0; place < 16; place++) {
        int y = place / 4 - 1, x = place % 4 - 1;
        long from = find_block(g, w, y, x, 0, 0);
        for (int k = 0; k < DEPTH(channels); k++) {
            operand pixels[PARTS] = {0};
            if (from >= 0) block_operand(in + from * channels * PARTS, k, channels, pixels);
            for (int i = 0; i < 4; i++) {
                int to = 4 * y + i + 1;
                if (to < 0 || to >= PATCH) continue;
                memcpy(patch[k * PATCH + to].pixel[4 * (x + 1)], (char *)pixels + 16 * i, 16);
            }
        }
    }
}

/* A convolution from `in`, with `add` added unless it is NULL, to `out`, not `in`. */
int swin_convolution(const struct convolution *l, const struct grid *g, const vec *in,
                     const vec *add, vec *out, long first, long last)
{
    int c = l->in_channels, n = l->out_channels, depth = DEPTH(c);
    char *memory = allocate(depth + 2 * n + depth * PATCH / BLOCKS + 1), *next = memory;
    if (!memory) return 1;
    operand *x = (operand *)rows(&next, depth);
    row *sum = rows(&next, n), *added = rows(&next, n);
    line *patch = (line *)next;
    for (long w = first; w < last; w++) {
        load_patch(g, w, c, in, patch);
        for (int tap = 0; tap < 9; tap++) {
            for (int k = 0; k < depth; k++)
                for (int b = 0; b < BLOCKS; b++)
                    for (int i = 0; i < 4; i++) {
                        const line *from = &patch[k * PATCH + 4 * (b / 2) + i + tap / 3];
                        memcpy((char *)&x[k * VECTORS + b * PARTS] + 16 * i,
                               from->pixel[4 * (b % 2) + tap % 3 + 3], 16);
                    }
            multiply(&(struct product){n, depth, l->a + (long)tap * n * depth, depth, 1, x, l->bias,
                                       tap ? (const row *)sum : NULL, sum});
        }
        if (add) load(g, w, 0, n, add, added);
        for (int k = 0; k < n; k++)
            for (int v = 0; v < VECTORS; v++) {
                vec y = larger(sum[k][v], l->slope * sum[k][v]);
                sum[k][v] = add ? y + added[k][v] : y;
            }
        store(g, w, 0, n, (const row *)sum, out);
    }
    free(memory);
    return 0;
}
