/* Words that keys are made of: adjective-noun. No adjective ends with another and no noun begins
 * with another, so that no key is found inside a different one. */
#ifndef LK_TEXT_WORD_LISTS_H
#define LK_TEXT_WORD_LISTS_H

enum { LK_N_WORDS = 150, LK_N_WORD_KEYS = LK_N_WORDS * LK_N_WORDS };

extern const char *const lk_adjectives[LK_N_WORDS];
extern const char *const lk_nouns[LK_N_WORDS];

#endif
