/* Text to measure on where the user names none. */
#ifndef LEANK_CLI_SAMPLE_TEXT_H
#define LEANK_CLI_SAMPLE_TEXT_H

/* What it is, for the metadata of a mask. */
extern const char sample_text_name[];
/* Paragraphs of English prose, NULL-terminated list. */
extern const char *const sample_text[];

#endif
