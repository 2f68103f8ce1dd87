/* Questions over documents about people who never lived: what SQuAD and HotpotQA ask of RULER, with
 * answers that no model has read. */
#include <stdio.h>

#include "base/alloc.h"
#include "eval/quiz.h"

/* Names are two parts of these; a person's number gives them, so that no two are alike. */
static const char *const first_parts[] = {
    "Al",  "Bren", "Cor", "Dal",  "El",  "Fen", "Gar", "Hol", "Ith", "Jor", "Kel", "Lor", "Mar",
    "Nor", "Or",   "Pel", "Quin", "Ros", "Sel", "Tor", "Ul",  "Ver", "Wil", "Yor", "Zan"};
static const char *const last_parts[] = {"bert", "dan",  "fax",  "gar",  "heim",  "ian", "kin",
                                         "lan",  "mond", "nell", "por",  "quist", "ric", "son",
                                         "ton",  "vay",  "win",  "wick", "yard",  "zell"};
static const char *const given_names[] = {
    "Ada",  "Bruno", "Clara", "Dora", "Emil", "Frida", "Georg", "Hanna", "Ivan",  "Julia",
    "Karl", "Lena",  "Marta", "Nils", "Olga", "Paul",  "Rita",  "Sven",  "Tilda", "Viktor"};
static const char *const town_parts[] = {
    "bridge", "brook", "burg", "cliff", "dale", "field", "ford",  "gate", "ham",    "haven",
    "hill",   "hurst", "mere", "mouth", "port", "shore", "stead", "stow", "thorpe", "vale"};
static const char *const trades[] = {
    "baker",   "botanist", "carpenter", "clockmaker", "cook",    "doctor", "engraver", "geographer",
    "glazier", "judge",    "librarian", "painter",    "printer", "sailor", "surveyor", "violinist"};
static const char *const fames[] = {
    "a map of the northern coast",    "a book of winter recipes",
    "the repair of old church bells", "a dictionary of river names",
    "songs for small choirs",         "drawings of mountain flowers",
    "a ferry that needed no crew",    "the first school for gardeners"};

#define COUNT(list) (sizeof(list) / sizeof *(list))
enum { N_FIRST = COUNT(first_parts), N_LAST = COUNT(last_parts), N_GIVEN = COUNT(given_names) };
/* People and towns that differ: 25 * 20 surnames with 20 given names each; 25 * 20 * 20 towns. */
enum { N_PEOPLE = N_FIRST * N_LAST * N_GIVEN, STEP = 7919 };

typedef struct person {
  char name[32], town[32];
} person;

/* Person i of a quiz; `first` is drawn once. STEP is prime and no divisor of N_PEOPLE: i up to
 * there give different people, of different towns. */
static person person_of(uint64_t first, uint64_t i) {
  const uint64_t a = (first + i * STEP) % N_PEOPLE;
  person p;
  snprintf(p.name, sizeof p.name, "%s %s%s", given_names[a % N_GIVEN],
           first_parts[a / N_GIVEN % N_FIRST], last_parts[a / N_GIVEN / N_FIRST]);
  const uint64_t b = (first / 3 + i * STEP) % N_PEOPLE;
  snprintf(p.town, sizeof p.town, "%s%s%s", first_parts[b / 20 % N_FIRST],
           last_parts[b / 20 / N_FIRST], town_parts[b % 20]);
  return p;
}

static void put_document(lk_text_buffer *out, lk_rng *rng, size_t number, const person *p,
                         const char *teacher) {
  lk_text_put_format(out, "Document %zu:\n%s was a %s who became known for %s. ", number, p->name,
                     trades[lk_rng_below(rng, COUNT(trades))],
                     fames[lk_rng_below(rng, COUNT(fames))]);
  lk_text_put_format(out, "Born in %s in %u, the youngest of %u children, ", p->town,
                     1700 + (unsigned)lk_rng_below(rng, 200), 2 + (unsigned)lk_rng_below(rng, 8));
  lk_text_put_format(out, "%s learned the trade from %s.\n\n", p->name, teacher);
}

static const char instruction[] = "Answer the question based on the given documents. Only give me "
                                  "the answer and do not output any other words.";

/* Units: documents, each of one person, who learned from somebody else. Person 0 is asked about;
 * person 1, who stands anywhere else, taught person 0. */
void lk_qa_like_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out) {
  lk_rng rng = source->rng;
  const uint64_t first = lk_rng_below(&rng, N_PEOPLE);
  const size_t pupil = (size_t)(lk_rng_double(&rng) * (double)n);
  const size_t step = 1 + (size_t)(lk_rng_double(&rng) * (double)(n - 1));
  const size_t master = (pupil + step) % n;
  const person asked = person_of(first, 0), taught = person_of(first, 1);
  lk_text_put_format(&out->message, "%s\n\nThe following are given documents.\n\n", instruction);
  for (size_t i = 0; i < n; i++) {
    const person p = i == pupil ? asked : i == master ? taught : person_of(first, 2 + i);
    const person teacher = i == pupil ? taught : person_of(first, 2 + n + i);
    put_document(&out->message, &rng, i + 1, &p, teacher.name);
  }
  lk_text_put_format(&out->message, "%s\n\nQuestion: In which town was %s%s born?", instruction,
                     kind == 2 ? "the teacher of " : "", asked.name);
  lk_text_put_str(&out->begin, "Answer:");
  lk_quiz_add_reference(out, kind == 2 ? taught.town : asked.town);
}

/* ---- over the user's documents ---- */

static void shuffle(lk_rng *rng, uint32_t *list, size_t n) {
  for (size_t i = n; i > 1; i--) {
    const size_t j = (size_t)lk_rng_below(rng, i);
    const uint32_t kept = list[i - 1];
    list[i - 1] = list[j];
    list[j] = kept;
  }
}

/* The question's documents, then those near them, then any others, up to `most` in all. Returns how
 * many there are. */
static size_t choose_documents(const lk_qa_data *data, const lk_qa_question *q, lk_rng *rng,
                               size_t most, uint32_t *out) {
  const size_t own_end = q->first + q->n_documents, near_end = q->near + q->n_near;
  size_t n = 0, begin;
  for (size_t i = q->first; i < own_end; i++) out[n++] = (uint32_t)i;
  begin = n;
  for (size_t i = q->near; i < near_end; i++)
    if (i < q->first || i >= own_end) out[n++] = (uint32_t)i;
  shuffle(rng, out + begin, n - begin);
  begin = n;
  for (size_t i = 0; i < data->n_documents; i++)
    if (i < q->near || i >= near_end) out[n++] = (uint32_t)i;
  shuffle(rng, out + begin, n - begin);
  return n < most ? n : most;
}

/* Units: documents beside the question's own, and one. */
void lk_qa_write(const lk_quiz_source *source, int kind, size_t n, lk_quiz *out) {
  (void)kind;
  const lk_qa_data *data = source->qa;
  lk_rng rng = source->rng;
  const lk_qa_question *q = &data->questions[lk_rng_below(&rng, data->n_questions)];
  uint32_t *list = lk_alloc(LK_MEM_OTHER, data->n_documents, sizeof *list);
  if (!list) {
    out->message.failed = true;
    return;
  }
  n = choose_documents(data, q, &rng, q->n_documents + n - 1, list);
  shuffle(&rng, list, n);
  lk_text_put_format(&out->message, "%s\n\nThe following are given documents.\n\n", instruction);
  for (size_t i = 0; i < n; i++) {
    lk_text_put_format(&out->message, "%sDocument %zu:\n", i ? "\n\n" : "", i + 1);
    lk_text_put_str(&out->message, data->documents[list[i]]);
  }
  lk_text_put_format(&out->message, "\n\n%s\n\nQuestion: ", instruction);
  lk_text_put_str(&out->message, q->text);
  lk_text_put_str(&out->begin, "Answer:");
  for (size_t i = 0; i < q->n_answers; i++) lk_quiz_add_reference(out, q->answers[i]);
  lk_free(list);
}
