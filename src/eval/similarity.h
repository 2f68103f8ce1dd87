/* Similarity of texts as two Python packages compute it: fuzzywuzzy (over difflib) and rouge. */
#ifndef LK_EVAL_SIMILARITY_H
#define LK_EVAL_SIMILARITY_H

#include <stdbool.h>
#include <stddef.h>

/* Round(100 * 2 M / T) / 100, M characters in the blocks that difflib's SequenceMatcher matches
 * (Ratcliff and Obershelp), T of both texts (UTF-8). Its heuristic is kept: of a second text of 200
 * characters and more, characters that are more than 1 % of it (and one) start no match. 1 of equal
 * texts, 0 where one is empty. False where memory is short. */
bool lk_fuzzy_ratio(const char *a, size_t n_a, const char *b, size_t n_b, double *out);

/* F of ROUGE-L as rouge 1.0.1 has it: sentences end at '.', words are compared as sets: those of
 * the longest common subsequences of all pairs of sentences, over all words of each text. 0 where
 * one is empty. False where memory is short. */
bool lk_rouge_l(const char *answer, const char *reference, double *out);

#endif
