#include "formats/pickle.h"

#include <string.h>

#include "base/alloc.h"
#include "formats/printable.h"

/* Python appends to lists in batches of 1000; nesting adds little. 2^18 values are some 18,000
 * tensors: more than one for each head of any model. */
enum { MAX_STACK = 4096, MAX_VALUES = 1 << 18, MAX_PROTOCOL = 5 };
static const uint32_t mark = UINT32_MAX; /* on the stack; in the memo: empty; in a chain: the end */

typedef enum opcode {
  OP_MARK = '(',
  OP_STOP = '.',
  OP_BININT = 'J',
  OP_BININT1 = 'K',
  OP_BININT2 = 'M',
  OP_NONE = 'N',
  OP_BINPERSID = 'Q',
  OP_REDUCE = 'R',
  OP_BINUNICODE = 'X',
  OP_EMPTY_LIST = ']',
  OP_APPEND = 'a',
  OP_GLOBAL = 'c',
  OP_APPENDS = 'e',
  OP_BINGET = 'h',
  OP_LONG_BINGET = 'j',
  OP_BINPUT = 'q',
  OP_LONG_BINPUT = 'r',
  OP_TUPLE = 't',
  OP_EMPTY_TUPLE = ')',
  OP_PROTO = 0x80,
  OP_TUPLE1 = 0x85,
  OP_TUPLE2 = 0x86,
  OP_TUPLE3 = 0x87,
  OP_NEWTRUE = 0x88,
  OP_NEWFALSE = 0x89,
  OP_LONG1 = 0x8a,
  OP_SHORT_BINUNICODE = 0x8c,
  OP_STACK_GLOBAL = 0x93,
  OP_MEMOIZE = 0x94,
  OP_FRAME = 0x95
} opcode;

typedef struct machine {
  const unsigned char *data;
  size_t n_bytes, at;
  const char *name;
  lk_pickle out;
  uint32_t *stack, *memo;
  size_t depth, n_memo, capacity; /* capacity of values, cells and memo */
  leank_error *err;
} machine;

static const struct {
  const char *module, *name;
  lk_pickle_global global;
} globals[] = {
    {"torch._utils", "_rebuild_tensor_v2", LK_GLOBAL_REBUILD_TENSOR},
    {"collections", "OrderedDict", LK_GLOBAL_ORDERED_DICT},
    {"torch", "FloatStorage", LK_GLOBAL_FLOAT},
    {"torch", "DoubleStorage", LK_GLOBAL_DOUBLE},
    {"torch", "HalfStorage", LK_GLOBAL_HALF},
    {"torch", "BFloat16Storage", LK_GLOBAL_BFLOAT16},
    {"torch", "ByteStorage", LK_GLOBAL_BYTE},
    {"torch", "BoolStorage", LK_GLOBAL_BOOL},
};

static leank_status malformed(const machine *m, const char *what) {
  return lk_fail(m->err, LEANK_E_FORMAT, -1, "%s: bad pickle at its byte %zu: %s", m->name, m->at,
                 what);
}

static leank_status unsupported(const machine *m, const char *what) {
  return lk_fail(m->err, LEANK_E_UNSUPPORTED, -1, "%s: pickle, its byte %zu: %s", m->name, m->at,
                 what);
}

/* ---- operands, stack, memo ---- */

static leank_status take(machine *m, size_t n, const unsigned char **out) {
  if (n > m->n_bytes - m->at) return malformed(m, "it ends early");
  *out = m->data + m->at;
  m->at += n;
  return LEANK_OK;
}

/* An unsigned operand of n <= 8 bytes. */
static leank_status take_uint(machine *m, size_t n, uint64_t *out) {
  const unsigned char *p = NULL;
  leank_status status = take(m, n, &p);
  if (status != LEANK_OK) return status;
  *out = 0;
  for (size_t i = 0; i < n; i++) *out |= (uint64_t)p[i] << (8 * i);
  return LEANK_OK;
}

static leank_status push(machine *m, uint32_t value) {
  if (m->depth == MAX_STACK) return unsupported(m, "its stack is too deep");
  m->stack[m->depth++] = value;
  return LEANK_OK;
}

/* The index of a value (never a mark). */
static leank_status pop(machine *m, uint32_t *out) {
  if (m->depth == 0 || m->stack[m->depth - 1] == mark) return malformed(m, "the stack is empty");
  *out = m->stack[--m->depth];
  return LEANK_OK;
}

static leank_status push_value(machine *m, lk_pickle_value value) {
  if (m->out.n_values == m->capacity) return unsupported(m, "too many values");
  m->out.values[m->out.n_values] = value;
  return push(m, m->out.n_values++);
}

static leank_status push_int(machine *m, int64_t number) {
  return push_value(m, (lk_pickle_value){.kind = LK_PICKLE_INT, .as.number = number});
}

static leank_status remember(machine *m, uint64_t index) {
  if (m->depth == 0 || m->stack[m->depth - 1] == mark) return malformed(m, "nothing to remember");
  if (index >= m->capacity) return malformed(m, "a memo index beyond its size");
  m->memo[index] = m->stack[m->depth - 1];
  if (index >= m->n_memo) m->n_memo = (size_t)index + 1;
  return LEANK_OK;
}

static leank_status recall(machine *m, uint64_t index) {
  if (index >= m->n_memo || m->memo[index] == mark) return malformed(m, "an unknown memo index");
  return push(m, m->memo[index]);
}

/* ---- lists ---- */

static leank_status append(machine *m, lk_pickle_list *list, uint32_t value) {
  if (m->out.n_cells == m->capacity) return unsupported(m, "too many values");
  const uint32_t cell = m->out.n_cells++;
  m->out.cells[cell] = (lk_pickle_cell){value, mark};
  if (list->n++ == 0)
    list->first = cell;
  else
    m->out.cells[list->last].next = cell;
  list->last = cell;
  return LEANK_OK;
}

/* Pops the topmost n values into *list, the lowest first. */
static leank_status collect(machine *m, size_t n, lk_pickle_list *list) {
  if (n > m->depth) return malformed(m, "the stack is empty");
  const uint32_t *values = m->stack + m->depth - n;
  for (size_t i = 0; i < n; i++) {
    if (values[i] == mark) return malformed(m, "a mark among values");
    leank_status status = append(m, list, values[i]);
    if (status != LEANK_OK) return status;
  }
  m->depth -= n;
  return LEANK_OK;
}

/* Pops everything down to the topmost mark, and the mark. */
static leank_status collect_to_mark(machine *m, lk_pickle_list *list) {
  size_t n = 0;
  while (n < m->depth && m->stack[m->depth - 1 - n] != mark) n++;
  if (n == m->depth) return malformed(m, "a mark is missing");
  leank_status status = collect(m, n, list);
  if (status == LEANK_OK) m->depth--;
  return status;
}

static leank_status push_tuple(machine *m, int n) {
  lk_pickle_value tuple = {.kind = LK_PICKLE_LIST, .as.list.is_tuple = true};
  leank_status status =
      n >= 0 ? collect(m, (size_t)n, &tuple.as.list) : collect_to_mark(m, &tuple.as.list);
  return status == LEANK_OK ? push_value(m, tuple) : status;
}

static leank_status append_to_top(machine *m, bool to_mark) {
  lk_pickle_list items = {0};
  leank_status status = to_mark ? collect_to_mark(m, &items) : collect(m, 1, &items);
  if (status != LEANK_OK) return status;
  if (m->depth == 0 || m->stack[m->depth - 1] == mark) return malformed(m, "no list to append to");
  lk_pickle_value *target = &m->out.values[m->stack[m->depth - 1]];
  if (target->kind != LK_PICKLE_LIST || target->as.list.is_tuple)
    return malformed(m, "no list to append to");
  if (items.n == 0) return LEANK_OK;
  lk_pickle_list *list = &target->as.list;
  if (list->n == 0)
    list->first = items.first;
  else
    m->out.cells[list->last].next = items.first;
  list->last = items.last;
  list->n += items.n;
  return LEANK_OK;
}

/* The first max elements of a tuple; returns its length, or SIZE_MAX where it is none. */
static size_t tuple_items(const machine *m, uint32_t tuple, size_t max,
                          const lk_pickle_value **items) {
  const lk_pickle_value *v = &m->out.values[tuple];
  if (v->kind != LK_PICKLE_LIST || !v->as.list.is_tuple) return SIZE_MAX;
  uint32_t cell = v->as.list.first;
  for (size_t i = 0; i < max && i < v->as.list.n; i++) {
    items[i] = &m->out.values[m->out.cells[cell].value];
    cell = m->out.cells[cell].next;
  }
  return v->as.list.n;
}

/* ---- objects ---- */

static leank_status push_text(machine *m, size_t n_length_bytes) {
  uint64_t n = 0;
  const unsigned char *p = NULL;
  leank_status status = take_uint(m, n_length_bytes, &n);
  if (status == LEANK_OK) status = take(m, (size_t)n, &p);
  if (status != LEANK_OK) return status;
  return push_value(
      m, (lk_pickle_value){.kind = LK_PICKLE_TEXT, .as.text = {(const char *)p, (uint32_t)n}});
}

static bool text_is(lk_pickle_text text, const char *expected) {
  return text.n_bytes == strlen(expected) && memcmp(text.bytes, expected, text.n_bytes) == 0;
}

static leank_status push_global(machine *m, lk_pickle_text module, lk_pickle_text name) {
  for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
    if (text_is(module, globals[i].module) && text_is(name, globals[i].name))
      return push_value(
          m, (lk_pickle_value){.kind = LK_PICKLE_GLOBAL, .as.global = globals[i].global});
  return lk_fail(
      m->err, LEANK_E_UNSUPPORTED, -1, "%s: the pickle names '%s.%s', which no mask needs", m->name,
      lk_printable(module.bytes, module.n_bytes).text, lk_printable(name.bytes, name.n_bytes).text);
}

static leank_status take_line(machine *m, lk_pickle_text *out) {
  const unsigned char *start = m->data + m->at;
  const unsigned char *end = memchr(start, '\n', m->n_bytes - m->at);
  if (!end) return malformed(m, "a line does not end");
  *out = (lk_pickle_text){(const char *)start, (uint32_t)(end - start)};
  m->at += out->n_bytes + 1;
  return LEANK_OK;
}

static leank_status global_by_lines(machine *m) {
  lk_pickle_text module = {0}, name = {0};
  leank_status status = take_line(m, &module);
  if (status == LEANK_OK) status = take_line(m, &name);
  return status == LEANK_OK ? push_global(m, module, name) : status;
}

static leank_status global_by_stack(machine *m) {
  uint32_t name = 0, module = 0;
  leank_status status = pop(m, &name);
  if (status == LEANK_OK) status = pop(m, &module);
  if (status != LEANK_OK) return status;
  if (m->out.values[name].kind != LK_PICKLE_TEXT || m->out.values[module].kind != LK_PICKLE_TEXT)
    return malformed(m, "a global without a name");
  return push_global(m, m->out.values[module].as.text, m->out.values[name].as.text);
}

/* ('storage', type, key, location, number of elements), as torch's serialization.py writes. */
static leank_status push_storage(machine *m) {
  const lk_pickle_value *v[5] = {NULL};
  uint32_t id = 0;
  leank_status status = pop(m, &id);
  if (status != LEANK_OK) return status;
  if (tuple_items(m, id, 5, v) != 5 || v[0]->kind != LK_PICKLE_TEXT ||
      !text_is(v[0]->as.text, "storage") || v[1]->kind != LK_PICKLE_GLOBAL ||
      v[1]->as.global < LK_GLOBAL_FLOAT || v[2]->kind != LK_PICKLE_TEXT ||
      v[3]->kind != LK_PICKLE_TEXT || v[4]->kind != LK_PICKLE_INT || v[4]->as.number < 0 ||
      v[4]->as.number > INT32_MAX)
    return malformed(m, "a persistent id that is no storage");
  return push_value(m, (lk_pickle_value){.kind = LK_PICKLE_STORAGE,
                                         .as.storage = {.key = v[2]->as.text.bytes,
                                                        .n_key_bytes = v[2]->as.text.n_bytes,
                                                        .n_elements = (uint32_t)v[4]->as.number,
                                                        .type = v[1]->as.global}});
}

static bool is_count(const lk_pickle_value *v) {
  return v->kind == LK_PICKLE_INT && v->as.number >= 0 && v->as.number <= INT32_MAX;
}

/* Fills shape and strides and checks that they stay inside n_elements. */
static leank_status set_shape(machine *m, lk_pickle_tensor *t, uint32_t sizes, uint32_t strides,
                              uint64_t n_elements) {
  const lk_pickle_value *size[LK_PICKLE_MAX_DIMS], *stride[LK_PICKLE_MAX_DIMS];
  const size_t n_dims = tuple_items(m, sizes, LK_PICKLE_MAX_DIMS, size);
  if (tuple_items(m, strides, LK_PICKLE_MAX_DIMS, stride) != n_dims || n_dims == SIZE_MAX)
    return malformed(m, "a tensor without shape");
  if (n_dims == 0 || n_dims > LK_PICKLE_MAX_DIMS)
    return unsupported(m, "a tensor of other than 1 to 3 dimensions");
  uint64_t last = t->first, n = 1;
  for (size_t i = 0; i < n_dims; i++) {
    if (!is_count(size[i]) || !is_count(stride[i]) || size[i]->as.number == 0)
      return malformed(m, "a tensor of impossible shape");
    t->shape[i] = (uint32_t)size[i]->as.number;
    t->strides[i] = (uint32_t)stride[i]->as.number;
    last += (uint64_t)(t->shape[i] - 1) * t->strides[i]; /* 3 x 2^62 and 2^31: no overflow */
    if (n > n_elements / t->shape[i]) return unsupported(m, "a tensor larger than its storage");
    n *= t->shape[i];
  }
  if (last >= n_elements) return malformed(m, "a tensor that reaches beyond its storage");
  t->n_dims = (uint32_t)n_dims;
  return LEANK_OK;
}

/* _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]) */
static leank_status push_tensor(machine *m, uint32_t args) {
  const lk_pickle_value *v[7] = {NULL};
  const size_t n = tuple_items(m, args, 7, v);
  if ((n != 6 && n != 7) || v[0]->kind != LK_PICKLE_STORAGE || !is_count(v[1]) ||
      v[4]->kind != LK_PICKLE_BOOL || v[5]->kind != LK_PICKLE_DICT)
    return malformed(m, "a tensor without storage or offset");
  if (n == 7 && v[6]->kind != LK_PICKLE_NONE) return unsupported(m, "a tensor with attributes");
  lk_pickle_value value = {.kind = LK_PICKLE_TENSOR};
  value.as.tensor.storage = (uint32_t)(v[0] - m->out.values);
  value.as.tensor.first = (uint32_t)v[1]->as.number;
  leank_status status = set_shape(m, &value.as.tensor, (uint32_t)(v[2] - m->out.values),
                                  (uint32_t)(v[3] - m->out.values), v[0]->as.storage.n_elements);
  return status == LEANK_OK ? push_value(m, value) : status;
}

/* The only two calls there are. */
static leank_status reduce(machine *m) {
  uint32_t args = 0, callable = 0;
  leank_status status = pop(m, &args);
  if (status == LEANK_OK) status = pop(m, &callable);
  if (status != LEANK_OK) return status;
  const lk_pickle_value *f = &m->out.values[callable];
  if (f->kind == LK_PICKLE_GLOBAL && f->as.global == LK_GLOBAL_REBUILD_TENSOR)
    return push_tensor(m, args);
  if (f->kind == LK_PICKLE_GLOBAL && f->as.global == LK_GLOBAL_ORDERED_DICT &&
      tuple_items(m, args, 0, NULL) == 0)
    return push_value(m, (lk_pickle_value){.kind = LK_PICKLE_DICT});
  return unsupported(m, "a call that a tensor does not need");
}

/* ---- the machine ---- */

static leank_status push_signed(machine *m, size_t n) {
  uint64_t u = 0;
  if (n > 8) return unsupported(m, "an integer of more than 64 bits");
  leank_status status = take_uint(m, n, &u);
  if (status != LEANK_OK) return status;
  if (n > 0 && n < 8 && u >> (8 * n - 1)) u |= ~(uint64_t)0 << (8 * n);
  return push_int(m, (int64_t)u);
}

/* Opcodes whose operand is one unsigned number. */
static leank_status run_numbered(machine *m, unsigned op) {
  const bool one =
      op == OP_BINGET || op == OP_BINPUT || op == OP_BININT1 || op == OP_LONG1 || op == OP_PROTO;
  uint64_t u = 0;
  leank_status status = take_uint(m, one ? 1 : op == OP_BININT2 ? 2 : op == OP_FRAME ? 8 : 4, &u);
  if (status != LEANK_OK) return status;
  switch (op) {
  case OP_PROTO: return u <= MAX_PROTOCOL ? LEANK_OK : unsupported(m, "a newer pickle protocol");
  case OP_BININT1:
  case OP_BININT2: return push_int(m, (int64_t)u);
  case OP_LONG1: return push_signed(m, (size_t)u);
  case OP_BINGET:
  case OP_LONG_BINGET: return recall(m, u);
  case OP_BINPUT:
  case OP_LONG_BINPUT: return remember(m, u);
  default: return LEANK_OK; /* a frame only tells how far to read ahead */
  }
}

static leank_status run_one(machine *m, unsigned op) {
  switch (op) {
  case OP_PROTO:
  case OP_BININT1:
  case OP_BININT2:
  case OP_LONG1:
  case OP_BINGET:
  case OP_LONG_BINGET:
  case OP_BINPUT:
  case OP_LONG_BINPUT:
  case OP_FRAME: return run_numbered(m, op);
  case OP_MEMOIZE: return remember(m, m->n_memo);
  case OP_MARK: return push(m, mark);
  case OP_BININT: return push_signed(m, 4);
  case OP_NONE: return push_value(m, (lk_pickle_value){.kind = LK_PICKLE_NONE});
  case OP_NEWTRUE:
  case OP_NEWFALSE:
    return push_value(m, (lk_pickle_value){.kind = LK_PICKLE_BOOL, .as.number = op == OP_NEWTRUE});
  case OP_BINUNICODE: return push_text(m, 4);
  case OP_SHORT_BINUNICODE: return push_text(m, 1);
  case OP_EMPTY_LIST: return push_value(m, (lk_pickle_value){.kind = LK_PICKLE_LIST});
  case OP_APPEND: return append_to_top(m, false);
  case OP_APPENDS: return append_to_top(m, true);
  case OP_EMPTY_TUPLE: return push_tuple(m, 0);
  case OP_TUPLE1: return push_tuple(m, 1);
  case OP_TUPLE2: return push_tuple(m, 2);
  case OP_TUPLE3: return push_tuple(m, 3);
  case OP_TUPLE: return push_tuple(m, -1);
  case OP_GLOBAL: return global_by_lines(m);
  case OP_STACK_GLOBAL: return global_by_stack(m);
  case OP_BINPERSID: return push_storage(m);
  case OP_REDUCE: return reduce(m);
  default:
    return lk_fail(m->err, LEANK_E_UNSUPPORTED, -1,
                   "%s: pickle, its byte %zu: opcode 0x%02x, which no mask needs", m->name,
                   m->at - 1, op);
  }
}

static leank_status run(machine *m) {
  for (;;) {
    const unsigned char *op = NULL;
    leank_status status = take(m, 1, &op);
    if (status == LEANK_OK && *op == OP_STOP) break;
    if (status == LEANK_OK) status = run_one(m, *op);
    if (status != LEANK_OK) return status;
  }
  if (m->depth != 1 || m->stack[0] == mark || m->at != m->n_bytes)
    return malformed(m, "it ends with other than one value");
  m->out.root = m->stack[0];
  return LEANK_OK;
}

leank_status lk_pickle_read(const unsigned char *bytes, size_t n_bytes, const char *name,
                            lk_pickle *out, leank_error *err) {
  leank_status status = LEANK_OK;
  machine m = {.data = bytes, .n_bytes = n_bytes, .name = name, .err = err};
  LK_FAIL_IF(n_bytes > LK_PICKLE_MAX_BYTES, err, LEANK_E_UNSUPPORTED, -1,
             "%s: a pickle of %zu bytes", name, n_bytes);
  /* Every opcode makes at most one value, one cell and one memo entry, and has at least a byte. */
  m.capacity = n_bytes < MAX_VALUES ? n_bytes : MAX_VALUES;
  m.out.values = lk_alloc(LK_MEM_OTHER, m.capacity, sizeof *m.out.values);
  m.out.cells = lk_alloc(LK_MEM_OTHER, m.capacity, sizeof *m.out.cells);
  m.memo = lk_alloc(LK_MEM_OTHER, m.capacity, sizeof *m.memo);
  m.stack = lk_alloc(LK_MEM_OTHER, MAX_STACK, sizeof *m.stack);
  LK_FAIL_IF(!m.out.values || !m.out.cells || !m.memo || !m.stack, err, LEANK_E_MEMORY, -1,
             "%s: out of memory", name);
  memset(m.memo, 0xff, m.capacity * sizeof *m.memo);
  LK_TRY(run(&m));
  *out = m.out;
cleanup:
  if (status != LEANK_OK) lk_pickle_free(&m.out);
  lk_free(m.stack);
  lk_free(m.memo);
  return status;
}

void lk_pickle_free(lk_pickle *pickle) {
  lk_free(pickle->values);
  lk_free(pickle->cells);
  *pickle = (lk_pickle){0};
}
