/* LeanK: long-context decoding with a statically pruned key cache.
 *
 * A model (model.h) and a mask (mask.h) are read once, are immutable and may be shared between
 * threads. A session (session.h) owns the paged key-value cache of some sequences and belongs to
 * one thread at a time. text.h turns text into tokens and back. learn.h learns masks, eval.h asks
 * what they cost. cpu.h and device.h say what this machine offers, bench.h measures it. Nothing
 * here exits, prints or reads the environment.
 *
 * A struct with a struct_size is filled by its _default first: the size ties it to this header, and
 * any but the library's own is LEANK_E_ARGUMENT. A call that fails says why in *err, which may be
 * NULL, and leaves *out as it was. A _close or _free takes the address of what it ends, sets it to
 * NULL, and passes over NULL.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef LEANK_LEANK_H
#define LEANK_LEANK_H

#include <leank/bench.h>
#include <leank/cpu.h>
#include <leank/device.h>
#include <leank/eval.h>
#include <leank/learn.h>
#include <leank/mask.h>
#include <leank/model.h>
#include <leank/session.h>
#include <leank/status.h>
#include <leank/text.h>
#include <leank/version.h>

#endif
