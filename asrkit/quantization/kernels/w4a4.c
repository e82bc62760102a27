// Products of quantized matrices with exact integer sums, and the LSTM that steps on them.
//
// Weights are unsigned codes: of 4 bits (two a byte) or 8. Activations are codes less half of their range, so that they
// are signed. Columns of the product stand in panels of 16, codes of a panel in groups of four along K:
//
//   8 bits: [N/16][K/4][16][4]      4 bits: [N/16][K/8][16][4], k .. k+3 in the low halves, k+4 .. k+7 in the high ones
//
// N is padded to panels and K to a multiple of 8, with codes of 0 for weights. One row of activations is a broadcast of
// four codes against 16 columns. AVX2 adds pairs of 4-bit products in 16 bits (a pair is at most 2 * 15 * 8 = 240, so
// 136 of them fit), which is what makes 4 bits faster than 8 there; AVX-512 VNNI adds four products in 32 bits; AMX
// multiplies blocks of 32 x 32. All give the same sums.
//
// With sums S = sum of codes over K, the product is  scale[n] * (p * S[m, n] + r * rowsum[m] + q[n]) + bias[n]:  p, r and
// q carry the zero points of both sides, in whole numbers.
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#define X86 1
#include <cpuid.h>
#include <immintrin.h>
#if __GNUC__ >= 11 && defined(__linux__)
#define AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#define PANEL 16
#define MAX_ROWS 16     // of a tile
#define MAX_PANELS 4    // of a tile
#define ROW_BYTES (1 << 18)  // of codes that stay in the second-level cache while all panels pass
#define MAX_THREADS 64
#define NOT_A_NUMBER INT32_MIN  // in the place of a row's sum: an input was none, so no result is
#define INLINE static inline __attribute__((always_inline))

enum { PLAIN, AVX2, VNNI, AMX_INT8 };

typedef struct {
  const int8_t *x;        // (m, k) codes, 64 readable bytes behind them
  const int32_t *sums;    // (m,) of each row's codes, or NOT_A_NUMBER
  const uint8_t *w;
  const float *scale;     // (n,)
  const int32_t *shift;   // (n,) q
  const float *bias;      // (n,) or none
  float *out;             // (m, n), rows ld apart
  long m, n, k, ld;
  int32_t p, r;
  int32_t bits;           // of the weights: 4 or 8
  int32_t add;            // to what is in out
} product_t;

typedef struct {
  float low, factor;      // code = round((x - low) * factor), within 0 .. top
  float top;
  int32_t half;           // taken off the code
} quantizer_t;

// ---------------------------------------------------------------------------------------------------------- threads
// Those of the OpenMP library that torch runs on, whose entry points are handed over: threads of our own would compete
// for the cores with torch's, which look for work for a while after each operation.

typedef void (*part_t)(void *job, int part, int parts);

static struct {
  void (*parallel)(void (*run)(void *), void *data, unsigned threads, unsigned flags);  // GOMP_parallel
  int (*thread)(void);                                                                  // omp_get_thread_num
  int (*threads)(void);                                                                 // omp_get_num_threads
} team;

void asrkit_use_team(void *parallel, void *thread, void *threads) {
  memcpy(&team.parallel, &parallel, sizeof parallel);
  memcpy(&team.thread, &thread, sizeof thread);
  memcpy(&team.threads, &threads, sizeof threads);
}

typedef struct {
  part_t run;
  void *job;
} call_t;

static void run_part(void *data) {
  const call_t *call = data;
  call->run(call->job, team.thread(), team.threads());
}

// Runs all parts of a job, each once and all at the same time; there may be fewer than were asked for.
static void run_parts(part_t run, void *job, int parts) {
  call_t call = {run, job};
  if (parts > MAX_THREADS) parts = MAX_THREADS;
  if (parts > 1 && team.parallel) team.parallel(run_part, &call, parts, 0);
  else run(job, 0, 1);
}

// ------------------------------------------------------------------------------------------------------------ tiles
// c[row][column] = sums of rows x panels; c has room for MAX_PANELS panels a row.

#define ROW (PANEL * MAX_PANELS)

INLINE long panel_bytes(const product_t *j) { return j->k * PANEL * j->bits / 8; }

INLINE void tile_plain(int rows, int bits, const int8_t *x, long k, const uint8_t *w, int32_t (*c)[ROW]) {
  for (int i = 0; i < rows; i++) {
    int32_t sum[PANEL] = {0};
    const int8_t *row = x + i * k;
    if (bits == 8) {
      for (long g = 0; g < k; g += 4)
        for (int n = 0; n < PANEL; n++)
          for (int q = 0; q < 4; q++) sum[n] += w[g * PANEL + 4 * n + q] * row[g + q];
    } else {
      for (long g = 0; g < k; g += 8)
        for (int n = 0; n < PANEL; n++)
          for (int q = 0; q < 4; q++) {
            uint8_t two = w[g * PANEL / 2 + 4 * n + q];
            sum[n] += (two & 15) * row[g + q] + (two >> 4) * row[g + 4 + q];
          }
    }
    memcpy(c[i], sum, sizeof sum);
  }
}

#ifdef X86
#define TARGET(...) __attribute__((target(__VA_ARGS__)))

INLINE int32_t four(const int8_t *x) {
  int32_t v;
  memcpy(&v, x, 4);
  return v;
}

TARGET("avx2,fma") INLINE void tile4_avx2(int rows, const int8_t *x, long k, const uint8_t *w, int32_t (*c)[ROW]) {
  const __m256i one = _mm256_set1_epi16(1), low = _mm256_set1_epi8(15);
  for (int i = 0; i < rows; i++) memset(c[i], 0, PANEL * sizeof(int32_t));
  for (long begin = 0; begin < k; begin += 512) {  // 128 pairs of at most 240 in each 16 bits
    long end = begin + 512 < k ? begin + 512 : k;
    __m256i a[6][2];
    for (int i = 0; i < rows; i++) a[i][0] = a[i][1] = _mm256_setzero_si256();
    for (long g = begin; g < end; g += 8) {
      const __m256i *two = (const __m256i *)(w + g * PANEL / 2);
      for (int half = 0; half < 2; half++) {
        __m256i b0 = _mm256_loadu_si256(two), b1 = _mm256_loadu_si256(two + 1);
        if (half) b0 = _mm256_srli_epi16(b0, 4), b1 = _mm256_srli_epi16(b1, 4);
        b0 = _mm256_and_si256(b0, low), b1 = _mm256_and_si256(b1, low);
        for (int i = 0; i < rows; i++) {
          __m256i v = _mm256_set1_epi32(four(x + i * k + g + 4 * half));
          a[i][0] = _mm256_add_epi16(a[i][0], _mm256_maddubs_epi16(b0, v));
          a[i][1] = _mm256_add_epi16(a[i][1], _mm256_maddubs_epi16(b1, v));
        }
      }
    }
    for (int i = 0; i < rows; i++)
      for (int h = 0; h < 2; h++) {
        __m256i *sum = (__m256i *)(c[i] + 8 * h);
        _mm256_storeu_si256(sum, _mm256_add_epi32(_mm256_loadu_si256(sum), _mm256_madd_epi16(a[i][h], one)));
      }
  }
}

TARGET("avx2,fma") INLINE void tile8_avx2(int rows, const int8_t *x, long k, const uint8_t *w, int32_t (*c)[ROW]) {
  __m256i a[2][4];  // four columns each, two sums a column
  for (int i = 0; i < rows; i++)
    for (int h = 0; h < 4; h++) a[i][h] = _mm256_setzero_si256();
  for (long g = 0; g < k; g += 4) {
    const __m128i *codes = (const __m128i *)(w + g * PANEL);
    __m256i v[2];
    for (int i = 0; i < rows; i++) v[i] = _mm256_broadcastq_epi64(_mm_cvtepi8_epi16(_mm_cvtsi32_si128(four(x + i * k + g))));
    for (int h = 0; h < 4; h++) {
      __m256i b = _mm256_cvtepu8_epi16(_mm_loadu_si128(codes + h));
      for (int i = 0; i < rows; i++) a[i][h] = _mm256_add_epi32(a[i][h], _mm256_madd_epi16(b, v[i]));
    }
  }
  for (int i = 0; i < rows; i++)
    for (int h = 0; h < 4; h += 2) {  // hadd leaves columns 0 1 4 5 | 2 3 6 7
      __m256i sums = _mm256_permute4x64_epi64(_mm256_hadd_epi32(a[i][h], a[i][h + 1]), 0xD8);
      _mm256_storeu_si256((__m256i *)(c[i] + 4 * h), sums);
    }
}

#define VNNI_TARGET TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

VNNI_TARGET INLINE void tile_vnni(
    int rows, int panels, int bits, const int8_t *x, long k, const uint8_t *w, long stride, int32_t (*c)[ROW]) {
  const __m512i low = _mm512_set1_epi8(15);
  __m512i a[MAX_ROWS][MAX_PANELS];
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < panels; j++) a[i][j] = _mm512_setzero_si512();
  for (long g = 0; g < k; g += 8)
    for (int j = 0; j < panels; j++) {
      __m512i b0, b1;
      if (bits == 8) {
        b0 = _mm512_loadu_si512(w + j * stride + g * PANEL);
        b1 = _mm512_loadu_si512(w + j * stride + g * PANEL + 64);
      } else {
        const uint8_t *codes = w + j * stride + g * PANEL / 2;
        __m512i two = _mm512_loadu_si512(codes);
        if (rows <= 4) _mm_prefetch((const char *)(codes + 1024), _MM_HINT_T0);
        b0 = _mm512_and_si512(two, low), b1 = _mm512_and_si512(_mm512_srli_epi16(two, 4), low);
      }
      for (int i = 0; i < rows; i++) {
        const int8_t *row = x + i * k + g;
        a[i][j] = _mm512_dpbusd_epi32(a[i][j], b0, _mm512_set1_epi32(four(row)));
        a[i][j] = _mm512_dpbusd_epi32(a[i][j], b1, _mm512_set1_epi32(four(row + 4)));
      }
    }
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < panels; j++) _mm512_storeu_si512(c[i] + PANEL * j, a[i][j]);
}
#endif

// -------------------------------------------------------------------------------------- a tile's sums become a result

INLINE void finish_row(const product_t *j, float *out, const int32_t *c, int32_t of_row, long column, int columns) {
  const float *scale = j->scale + column;
  const int32_t *shift = j->shift + column;
  float value[ROW];
  if (j->p == 1)
    for (int n = 0; n < columns; n++) value[n] = scale[n] * (float)(c[n] + of_row + shift[n]);
  else
    for (int n = 0; n < columns; n++) value[n] = scale[n] * (float)(j->p * c[n] + of_row + shift[n]);
  if (j->bias)
    for (int n = 0; n < columns; n++) value[n] += j->bias[column + n];
  if (j->add)
    for (int n = 0; n < columns; n++) value[n] += out[n];
  memcpy(out, value, columns * sizeof(float));
}

INLINE void finish(const product_t *j, int rows, int columns, long row, long column, int32_t (*c)[ROW]) {
  for (int i = 0; i < rows; i++) {
    float *out = j->out + (row + i) * j->ld + column;
    int32_t of_row = j->r * j->sums[row + i];
    if (j->sums[row + i] == NOT_A_NUMBER) {
      for (int n = 0; n < columns; n++) out[n] = NAN;
      continue;
    }
    // Constants, so that the loops are unrolled.
    if (columns == 4 * PANEL) finish_row(j, out, c[i], of_row, column, 4 * PANEL);
    else if (columns == 2 * PANEL) finish_row(j, out, c[i], of_row, column, 2 * PANEL);
    else if (columns == PANEL) finish_row(j, out, c[i], of_row, column, PANEL);
    else finish_row(j, out, c[i], of_row, column, columns);
  }
}

INLINE int least(long a, long b) { return (int)(a < b ? a : b); }

// Rows [m0, m1) against panels [p0, p1), by path.

static void block_plain(const product_t *j, long m0, long m1, long p0, long p1) {
  int32_t c[MAX_ROWS][ROW];
  for (long p = p0; p < p1; p++)
    for (long m = m0; m < m1; m += MAX_ROWS) {
      int rows = least(m1 - m, MAX_ROWS);
      tile_plain(rows, j->bits, j->x + m * j->k, j->k, j->w + p * panel_bytes(j), c);
      finish(j, rows, least(j->n - p * PANEL, PANEL), m, p * PANEL, c);
    }
}

#ifdef X86
#define EACH(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15) X(16)

TARGET("avx2,fma") static void block_avx2(const product_t *j, long m0, long m1, long p0, long p1) {
  int32_t c[MAX_ROWS][ROW];
  for (long p = p0; p < p1; p++) {
    const uint8_t *w = j->w + p * panel_bytes(j);
    for (long m = m0; m < m1;) {
      const int8_t *x = j->x + m * j->k;
      int rows = least(m1 - m, j->bits == 8 ? 2 : 6);
      if (j->bits == 8) {
        if (rows == 2) tile8_avx2(2, x, j->k, w, c);
        else tile8_avx2(1, x, j->k, w, c);
      } else {
        switch (rows) {
          case 1: tile4_avx2(1, x, j->k, w, c); break;
          case 2: tile4_avx2(2, x, j->k, w, c); break;
          case 3: tile4_avx2(3, x, j->k, w, c); break;
          case 4: tile4_avx2(4, x, j->k, w, c); break;
          case 5: tile4_avx2(5, x, j->k, w, c); break;
          default: tile4_avx2(6, x, j->k, w, c);
        }
      }
      finish(j, rows, least(j->n - p * PANEL, PANEL), m, p * PANEL, c);
      m += rows;
    }
  }
}

VNNI_TARGET INLINE void block_vnni_of(int bits, const product_t *j, long m0, long m1, long p0, long p1) {
  int32_t c[MAX_ROWS][ROW];
  long stride = panel_bytes(j);
  for (long p = p0; p < p1;) {
    const uint8_t *w = j->w + p * stride;
    // As many sums as there are registers, or a sum waits for the one before it.
    int wide = m1 - m0 <= 4 ? 4 : m1 - m0 <= 8 ? 2 : 1;
    int panels = least(p1 - p, wide) == wide ? wide : 1;
    for (long m = m0; m < m1;) {
      const int8_t *x = j->x + m * j->k;
      int rows = least(m1 - m, MAX_ROWS);
#define CASE(R)                                                                     \
  case R:                                                                           \
    if (R <= 4 && panels == 4) tile_vnni(R, 4, bits, x, j->k, w, stride, c);        \
    else if (R > 4 && R <= 8 && panels == 2) tile_vnni(R, 2, bits, x, j->k, w, stride, c); \
    else tile_vnni(R, 1, bits, x, j->k, w, stride, c);                              \
    break;
      switch (rows) { EACH(CASE) }
#undef CASE
      finish(j, rows, least(j->n - p * PANEL, panels * PANEL), m, p * PANEL, c);
      m += rows;
    }
    p += panels;
  }
}

VNNI_TARGET static void block_vnni(const product_t *j, long m0, long m1, long p0, long p1) {
  if (j->bits == 8) block_vnni_of(8, j, m0, m1, p0, p1);
  else block_vnni_of(4, j, m0, m1, p0, p1);
}
#endif

#ifdef AMX
#define AMX_TARGET TARGET("amx-tile,amx-int8,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma")

// Codes [begin, begin + size) of a panel, a byte each, and zeros past the last.
AMX_TARGET INLINE void unpack(const product_t *j, long panel, long begin, long size, uint8_t *to) {
  const uint8_t *w = j->w + panel * panel_bytes(j) + begin * PANEL * j->bits / 8;
  long real = least(j->k - begin, size);
  if (j->bits == 8) memcpy(to, w, real * PANEL);
  else
    for (long g = 0; g < real; g += 8) {
      const __m512i low = _mm512_set1_epi8(15);
      __m512i two = _mm512_loadu_si512(w + g * PANEL / 2);
      _mm_prefetch((const char *)(w + g * PANEL / 2 + 2048), _MM_HINT_T0);
      _mm512_store_si512(to + g * PANEL, _mm512_and_si512(two, low));
      _mm512_store_si512(to + g * PANEL + 64, _mm512_and_si512(_mm512_srli_epi16(two, 4), low));
    }
  memset(to + real * PANEL, 0, (size - real) * PANEL);
}

// Up to 32 rows x 2 panels: tiles 0-3 are sums, 4 and 5 rows, 6 and 7 panels, whose groups of four stand as AMX wants.
AMX_TARGET static void rows_amx(const product_t *j, long m0, long m1, long p0, long p1, uint8_t *codes, long k) {
  struct __attribute__((packed)) { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } layout;
  int all = least(m1 - m0, 32), above = least(all, 16), below = all - above;
  memset(&layout, 0, sizeof layout);
  layout.palette = 1;
  for (int t = 0; t < 8; t++) layout.bytes[t] = 64, layout.rows[t] = 16;
  layout.rows[0] = layout.rows[1] = layout.rows[4] = above;
  layout.rows[2] = layout.rows[3] = layout.rows[5] = below ? below : 1;
  _tile_loadconfig(&layout);
  int32_t c[32][ROW];
  // What one pass over the rows needs of the panels stays in the first-level cache; several passes unpack all at once.
  long step = m1 - m0 <= 32 && k > 256 ? 256 : k;
  for (long p = p0; p < p1; p += 2) {
    int panels = least(p1 - p, 2);
    for (long m = m0; m < m1; m += all) {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (long begin = 0; begin < k; begin += step) {
        long size = least(k - begin, step);
        if (m == m0)
          for (int half = 0; half < panels; half++) unpack(j, p + half, begin, size, codes + half * step * PANEL);
        for (long g = 0; g < size; g += 64) {  // past the end of a row its codes meet zeros
          const int8_t *x = j->x + m * j->k + begin + g;
          _tile_loadd(4, x, j->k);
          _tile_loadd(6, codes + g * PANEL, 64);
          _tile_loadd(7, codes + (step + g) * PANEL, 64);
          _tile_dpbsud(0, 4, 6);
          _tile_dpbsud(1, 4, 7);
          if (below) {
            _tile_loadd(5, x + 16 * j->k, j->k);
            _tile_dpbsud(2, 5, 6);
            _tile_dpbsud(3, 5, 7);
          }
        }
      }
      _tile_stored(0, c[0], sizeof c[0]);
      _tile_stored(1, c[0] + PANEL, sizeof c[0]);
      if (below) {
        _tile_stored(2, c[16], sizeof c[0]);
        _tile_stored(3, c[16] + PANEL, sizeof c[0]);
      }
      finish(j, all, least(j->n - p * PANEL, panels * PANEL), m, p * PANEL, c);
    }
  }
  _tile_release();
}

AMX_TARGET static void block_amx(const product_t *j, long m0, long m1, long p0, long p1) {
  long whole = m0 + (m1 - m0) / 32 * 32, k = (j->k + 63) / 64 * 64;
  // Few rows are not worth the unpacking.
  uint8_t *codes = m1 - m0 >= 8 ? aligned_alloc(64, 2 * k * PANEL) : NULL;
  if (!codes) {
    block_vnni(j, m0, m1, p0, p1);
    return;
  }
  memset(codes, 0, 2 * k * PANEL);  // of a panel that is not there too
  if (whole > m0) rows_amx(j, m0, whole, p0, p1, codes, k);
  if (m1 - whole >= 8) rows_amx(j, whole, m1, p0, p1, codes, k);
  else if (m1 > whole) block_vnni(j, whole, m1, p0, p1);
  free(codes);
}
#endif

static void block(int path, const product_t *j, long m0, long m1, long p0, long p1) {
  switch (path) {
#ifdef AMX
    case AMX_INT8: block_amx(j, m0, m1, p0, p1); return;
#endif
#ifdef X86
    case VNNI: block_vnni(j, m0, m1, p0, p1); return;
    case AVX2: block_avx2(j, m0, m1, p0, p1); return;
#endif
    default: block_plain(j, m0, m1, p0, p1);
  }
}

// --------------------------------------------------------------------------------------------------------- the product

typedef struct {
  const product_t *product;
  int path;
} product_job_t;

static void product_part(void *argument, int part, int parts) {
  const product_job_t *job = argument;
  const product_t *j = job->product;
  long panels = (j->n + PANEL - 1) / PANEL, p0 = panels * part / parts, p1 = panels * (part + 1) / parts;
  long rows = ROW_BYTES / j->k / 96 * 96;  // whole tiles of every path
  if (rows < 96) rows = 96;
  for (long m = 0; m < j->m; m += rows) block(job->path, j, m, m + least(j->m - m, rows), p0, p1);
}

void asrkit_product(int path, int threads, const product_t *j) {
  product_job_t job = {j, path};
  // Waking another core costs as much as a few hundred thousand products.
  if ((double)j->m * j->n * j->k < 3e5) threads = 1;
  run_parts(product_part, &job, threads);
}

// --------------------------------------------------------------------------------------------------- codes of activations

INLINE int8_t code(const quantizer_t *q, float x) {
  float z = (x - q->low) * q->factor;
  z = z > 0.0f ? z : 0.0f;
  z = z < q->top ? z : q->top;
  // The nearest whole number, ties to even: of floats above 2^23 only those are left.
  return (int8_t)((int32_t)((z + 12582912.0f) - 12582912.0f) - q->half);
}

INLINE int32_t codes_of(const quantizer_t *q, const float *x, long n, int8_t *codes) {
  int32_t sum = 0, numbers = 1;
  for (long i = 0; i < n; i++) codes[i] = code(q, x[i]);
  for (long i = 0; i < n; i++) sum += codes[i];
  for (long i = 0; i < n; i++) numbers &= x[i] == x[i];
  return numbers ? sum : NOT_A_NUMBER;
}

INLINE void rows_of(const quantizer_t *q, const float *x, long m, long k, long padded, int8_t *codes, int32_t *sums) {
  for (long i = 0; i < m; i++) {
    sums[i] = codes_of(q, x + i * k, k, codes + i * padded);
    for (long g = k; g < padded; g++) codes[i * padded + g] = 0;
  }
}

#ifdef X86
VNNI_TARGET static void rows_vnni(
    const quantizer_t *q, const float *x, long m, long k, long padded, int8_t *codes, int32_t *sums) {
  rows_of(q, x, m, k, padded, codes, sums);
}
TARGET("avx2,fma") static void rows_avx2(
    const quantizer_t *q, const float *x, long m, long k, long padded, int8_t *codes, int32_t *sums) {
  rows_of(q, x, m, k, padded, codes, sums);
}
#endif

static void rows_by_path(
    int path, const quantizer_t *q, const float *x, long m, long k, long padded, int8_t *codes, int32_t *sums) {
#ifdef X86
  if (path >= VNNI) { rows_vnni(q, x, m, k, padded, codes, sums); return; }
  if (path == AVX2) { rows_avx2(q, x, m, k, padded, codes, sums); return; }
#endif
  rows_of(q, x, m, k, padded, codes, sums);
}

typedef struct {
  int path;
  const quantizer_t *q;
  const float *x;
  long m, k, padded;
  int8_t *codes;
  int32_t *sums;
} codes_job_t;

static void codes_part(void *argument, int part, int parts) {
  const codes_job_t *j = argument;
  long m0 = j->m * part / parts, m1 = j->m * (part + 1) / parts;
  rows_by_path(j->path, j->q, j->x + m0 * j->k, m1 - m0, j->k, j->padded, j->codes + m0 * j->padded, j->sums + m0);
}

// x (m, k) to codes (m, padded) and their sums (m,).
void asrkit_codes(
    int path, int threads, const quantizer_t *q, const float *x, long m, long k, long padded, int8_t *codes,
    int32_t *sums) {
  codes_job_t job = {path, q, x, m, k, padded, codes, sums};
  run_parts(codes_part, &job, m * k < 50000 ? 1 : threads);
}

// ---------------------------------------------------------------------------------------------------------------- LSTM

INLINE float exponential(float x) {  // relative error below 2e-7
  x = x > 88.0f ? 88.0f : x;  // in this order NaN stays
  x = x < -87.0f ? -87.0f : x;
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  union { int32_t i; float f; } power = {(int32_t)((uint32_t)((int32_t)n + 127) << 23)};
  return y * power.f;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE float hyperbolic(float x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

// One row: gates (4, hidden) in the order input, forget, cell, output; units [u0, u1).
INLINE void cells_of(const float *gates, float *h, float *c, long hidden, long u0, long u1) {
  for (long u = u0; u < u1; u++) {
    float of_input = sigmoid(gates[u]), forget = sigmoid(gates[hidden + u]);
    float cell = hyperbolic(gates[2 * hidden + u]), output = sigmoid(gates[3 * hidden + u]);
    c[u] = forget * c[u] + of_input * cell;
    h[u] = output * hyperbolic(c[u]);
  }
}

#ifdef X86
VNNI_TARGET static void cells_vnni(const float *gates, float *h, float *c, long hidden, long u0, long u1) {
  cells_of(gates, h, c, hidden, u0, u1);
}
TARGET("avx2,fma") static void cells_avx2(const float *gates, float *h, float *c, long hidden, long u0, long u1) {
  cells_of(gates, h, c, hidden, u0, u1);
}
#endif

static void cells(int path, const float *gates, float *h, float *c, long hidden, long u0, long u1) {
#ifdef X86
  if (path >= VNNI) { cells_vnni(gates, h, c, hidden, u0, u1); return; }
  if (path == AVX2) { cells_avx2(gates, h, c, hidden, u0, u1); return; }
#endif
  cells_of(gates, h, c, hidden, u0, u1);
}

typedef struct {
  int path;
  const float *gates;
  float *h, *c;
  long rows, hidden;
} cells_job_t;

static void cells_part(void *argument, int part, int parts) {
  const cells_job_t *j = argument;
  for (long i = j->rows * part / parts; i < j->rows * (part + 1) / parts; i++)
    cells(j->path, j->gates + i * 4 * j->hidden, j->h + i * j->hidden, j->c + i * j->hidden, j->hidden, 0, j->hidden);
}

// gates (rows, 4 * hidden) and c (rows, hidden) to h and c, (rows, hidden) each.
void asrkit_cells(int path, int threads, const float *gates, float *h, float *c, long rows, long hidden) {
  cells_job_t job = {path, gates, h, c, rows, hidden};
  run_parts(cells_part, &job, rows * hidden < 4000 ? 1 : threads);
}

typedef struct {
  product_t of_hidden;    // hidden codes to gates; x, sums, out and m are set here
  quantizer_t quantizer;  // of the hidden state
  float *gates;           // (time, rows, 4 * hidden): what the inputs add; overwritten
  const float *h;         // (rows, hidden) before the first step
  float *c;               // (rows, hidden) before it, and after the last
  float *out;             // (time, rows, hidden)
  long time, rows, hidden;
  int path;
  int8_t *codes[2];       // (rows, k) each
  int32_t *sums[2];       // (rows, threads) each
  int32_t *of_rows;       // (threads, rows): their totals
  atomic_int arrived, turn;
} lstm_t;

static void relax(int turn) {
#ifdef X86
  _mm_pause();
#endif
  if (turn > 4000) sched_yield();
}

static void wait_for_all(lstm_t *j, int parts) {
  int turn = atomic_load(&j->turn);
  if (atomic_fetch_add(&j->arrived, 1) == parts - 1) {
    atomic_store(&j->arrived, 0);
    atomic_fetch_add(&j->turn, 1);
  } else {
    for (int spin = 0; atomic_load(&j->turn) == turn; spin++) relax(spin);
  }
}

// A thread has the same hidden units in all four gates, so that one wait a step is enough.
static void lstm_part(void *argument, int part, int parts) {
  lstm_t *j = argument;
  long panels = j->hidden / PANEL, k = j->of_hidden.k, u0, u1;
  if (j->hidden % PANEL) {  // gates share panels: one thread does all
    if (part) return;
    parts = 1;
  }
  u0 = j->hidden % PANEL ? 0 : panels * part / parts * PANEL;
  u1 = j->hidden % PANEL ? j->hidden : panels * (part + 1) / parts * PANEL;
  int32_t *sums = j->of_rows + part * j->rows;
  for (long t = 0; t < j->time; t++) {
    const float *h = t ? j->out + (t - 1) * j->rows * j->hidden : j->h;
    int side = t & 1;
    for (long b = 0; b < j->rows; b++)
      rows_by_path(j->path, &j->quantizer, h + b * j->hidden + u0, 1, u1 - u0, u1 - u0, j->codes[side] + b * k + u0,
                   j->sums[side] + b * MAX_THREADS + part);
    if (parts > 1) wait_for_all(j, parts);
    for (long b = 0; b < j->rows; b++) {
      sums[b] = 0;
      for (int other = 0; other < parts && sums[b] != NOT_A_NUMBER; other++) {
        int32_t sum = j->sums[side][b * MAX_THREADS + other];
        sums[b] = sum == NOT_A_NUMBER ? sum : sums[b] + sum;
      }
    }
    product_t product = j->of_hidden;
    product.x = j->codes[side], product.sums = sums, product.m = j->rows, product.add = 1;
    product.out = j->gates + t * j->rows * 4 * j->hidden, product.ld = 4 * j->hidden;
    if (parts == 1) block(j->path, &product, 0, j->rows, 0, (product.n + PANEL - 1) / PANEL);
    else
      for (int gate = 0; gate < 4; gate++)
        block(j->path, &product, 0, j->rows, (gate * j->hidden + u0) / PANEL, (gate * j->hidden + u1) / PANEL);
    for (long b = 0; b < j->rows; b++)
      cells(j->path, product.out + b * 4 * j->hidden, j->out + (t * j->rows + b) * j->hidden, j->c + b * j->hidden,
            j->hidden, u0, u1);
  }
}

// Runs an LSTM over a sequence; returns 0, or -1 where there is no memory.
int asrkit_lstm(
    int path, int threads, const product_t *of_hidden, const quantizer_t *quantizer, float *gates, const float *h, float *c,
    float *out, long time, long rows, long hidden) {
  lstm_t job = {.of_hidden = *of_hidden, .quantizer = *quantizer, .gates = gates, .h = h, .c = c, .out = out,
                .time = time, .rows = rows, .hidden = hidden, .path = path};
  long codes = rows * of_hidden->k + 64, sums = rows * MAX_THREADS;
  int8_t *memory = calloc(2 * codes + 3 * sums * sizeof(int32_t) + 64, 1);
  if (!memory) return -1;
  job.sums[0] = (int32_t *)memory, job.sums[1] = job.sums[0] + sums;
  job.of_rows = job.sums[1] + sums;
  job.codes[0] = memory + 3 * sums * sizeof(int32_t), job.codes[1] = job.codes[0] + codes;
  if (threads > hidden / PANEL) threads = hidden / PANEL ? (int)(hidden / PANEL) : 1;
  if (rows * hidden < 64) threads = 1;
  if (threads > MAX_THREADS) threads = MAX_THREADS;
  run_parts(lstm_part, &job, threads);
  free(memory);
  return 0;
}

// ------------------------------------------------------------------------------------------------------------ what there is

// Changes whenever a caller has to.
int asrkit_interface(void) { return 1000 * (int)sizeof(product_t) + 1; }

// Bit n is set where path n can be taken here.
int asrkit_paths(void) {
  int paths = 1 << PLAIN;
#ifdef X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) paths |= 1 << AVX2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && (paths & 1 << AVX2)) {
    paths |= 1 << VNNI;
#ifdef AMX
    unsigned a, b, c, d;
    // AMX-TILE and AMX-INT8, and the system's permission to use the tiles.
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 24 & 3) == 3 && !syscall(SYS_arch_prctl, 0x1023, 18))
      paths |= 1 << AMX_INT8;
#endif
  }
#endif
  return paths;
}
