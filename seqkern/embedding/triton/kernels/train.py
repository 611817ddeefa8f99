"""word2vec's training loop in Triton: each program walks through a part of the windows and makes a
step of gradient descent for each before it looks at the next one.

A window is three small products: with A (contexts x d) and B (targets x d) the rows as they stand,
scores S = A B^T give errors E = lr (label - sigma(S)), and A gains E B while B gains E^T A. They
are computed in float32 without tensor cores: the products are too small to fill those, and what
three passes of TF32 want in registers is twice as much (tests/triton_resources.json). CBOW and
pairs with negatives of their own have one vector in the place of A, which needs no product.

Floor, skip-gram, a mean of 6 contexts and T targets of d float32 numbers: the window of a kept word
reads and adds to 6 + T rows, 8 (6 + T) d bytes, which is 9.6 kB at d = 100 and 5 negatives (28.8 kB
at d = 300, and half of that again, because rows of more than a chunk are read twice); the rows of a
vocabulary of 10^5 words are mostly in the L2 of a Hopper GPU. 36 T d FLOP, or
with tiles padded to 16 x 16 x 128 some 200 kFLOP at d = 100, take an SM less than a microsecond.
What one program waits for is latency: of the window's numbers, then of its rows. So several
programs share an SM, as many as the descent bears, because every window under way has not seen the
others' steps.

Float32 rows are added to by atomics, so no step is lost; they are not waited for. 16-bit rows are
read, added to and written, as word2vec.c does it: a step that another program writes over is lost.
Rows are read past the L1, which does not see what other SMs write.

Bags: a program composes a word's vector when the word comes within reach of a window, keeps it in
memory of its own, which is mostly in the L2, and gives the bag's rows what the
vector has gained when the word leaves; so a bag is read and added to once for a program's passage,
instead of once for each window around it (some 6, each of some 15 rows). RING is where they lie:
the word at a place is the row place % (2 reach + 1) of the program's. Single contexts with
negatives of their own still compose theirs anew.

With PROPOSE a program makes one window only, and writes its gains and the rows that they are for
beside the tables: the deterministic training adds them in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seqkern.embedding.triton.kernels.objective import loss_and_slope
from seqkern.embedding.triton.kernels.operands import Own, Table, Window

MOST_LOSS = tl.constexpr(87.0)  # of a term, as on the CPU


# In all of these `k` are the numbers of features, and `in_row` says which of them there are.


@triton.jit
def row_at(table, rows, k, mask):
    """Rows of a table at the features k with a mask, in float32; 0 beyond."""
    at = table.at + rows.to(tl.int64)[:, None] * table.stride + k[None, :]
    return tl.load(at, mask=mask, other=0.0, cache_modifier=".cg").to(tl.float32)


@triton.jit
def add_at(table, rows, k, mask, gains):
    """Adds to rows of a table, which others may be adding to as well."""
    at = table.at + rows.to(tl.int64)[:, None] * table.stride + k[None, :]
    if table.at.dtype.element_ty == tl.float32:
        tl.atomic_add(at, gains, mask=mask, sem="relaxed")
    else:
        now = tl.load(at, mask=mask, other=0.0, cache_modifier=".cg").to(tl.float32)
        tl.store(at, (now + gains).to(table.at.dtype.element_ty), mask=mask)


@triton.jit
def targets_at(window, first, terms, negatives, paths, TARGETS: tl.constexpr):
    """A tile of a window's targets: their rows, labels (as a condition), and weights, 0 where there
    is none."""
    t = first + tl.arange(0, TARGETS)
    if paths is not None:
        begin = tl.load(paths.offsets + window.target)
        inside = begin + t < tl.load(paths.offsets + window.target + 1)
        rows = tl.load(paths.nodes + begin + t, mask=inside, other=0)
        positive = tl.load(paths.codes + begin + t, mask=inside, other=0) == 0
        weight = inside.to(tl.float32)
    else:
        drawn = window.m * (terms - 1) + t - 1
        inside = (t > 0) & (t < terms)
        rows = tl.load(negatives.words + drawn, mask=inside, other=0)
        weight = tl.load(negatives.weights + drawn, mask=inside, other=0.0)
        rows = tl.where(t == 0, window.target, rows)
        weight = tl.where(t == 0, 1.0, weight)
        positive = t == 0
    return rows, positive, weight


@triton.jit
def add_one_by_one(table, rows, k, mask, gains, count, ROWS: tl.constexpr):
    """`add_at` for rows of which two may be one row: both gains are to stay."""
    if table.at.dtype.element_ty == tl.float32:
        add_at(table, rows, k, mask, gains)
    else:
        for one in range(0, count):
            own = (tl.arange(0, ROWS) == one)[:, None]
            add_at(table, rows, k, mask & own, gains)
            tl.debug_barrier()


@triton.jit
def product(x, y):
    return tl.dot(x, y, input_precision="ieee")


@triton.jit
def errors_and_loss(score, positive, weight, mask, lr):
    """lr (label - sigma(score)) and the loss, both times `weight`, where `mask` is true."""
    each, slope = loss_and_slope(score, positive, False)
    each = tl.where(each > MOST_LOSS, MOST_LOSS, each)
    loss = tl.sum(tl.where(mask, each * weight, 0.0))
    return tl.where(mask, -lr * slope * weight, 0.0), loss


@triton.jit
def bag_sum(table, bags, word, k, in_row, total, ROWS: tl.constexpr):
    """`total` and the rows of a word's bag."""
    end = tl.load(bags.offsets + word + 1)
    for first in range(tl.load(bags.offsets + word), end, ROWS):
        i = first + tl.arange(0, ROWS)
        rows = tl.load(bags.rows + i, mask=i < end, other=0)
        mask = (i < end)[:, None] & in_row[None, :]
        total += tl.sum(row_at(table, rows, k, mask), axis=0)
    return total


@triton.jit
def bag_add(table, bags, word, k, in_row, gain, WIDTH: tl.constexpr, ROWS: tl.constexpr):
    """Adds `gain` to every row of a word's bag; a row that stands there twice gets it twice."""
    end = tl.load(bags.offsets + word + 1)
    gains = tl.broadcast_to(gain[None, :], (ROWS, WIDTH))
    for first in range(tl.load(bags.offsets + word), end, ROWS):
        i = first + tl.arange(0, ROWS)
        rows = tl.load(bags.rows + i, mask=i < end, other=0)
        mask = (i < end)[:, None] & in_row[None, :]
        add_one_by_one(table, rows, k, mask, gains, ROWS, ROWS)


@triton.jit
def bag_size(bags, word):
    return tl.load(bags.offsets + word + 1) - tl.load(bags.offsets + word)


@triton.jit
def put_targets(
    outputs, scratch, own, rows, first, more, k, mask, gains, features,
    PROPOSE: tl.constexpr, TARGETS: tl.constexpr,
):  # fmt: skip
    """The gains of a tile of targets, to the table or aside; `more`: added to what lies there."""
    if PROPOSE:
        at = own.output + first + tl.arange(0, TARGETS)
        at = scratch.output_gains + at[:, None] * features + k[None, :]
        if more:
            gains += tl.load(at, mask=mask, other=0.0)
        tl.store(at, gains, mask=mask)
    else:
        add_at(outputs, rows, k, mask, gains)


@triton.jit
def hidden(
    inputs, text, window, bags, scratch, own, k, in_row, features,
    RING: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The sum of the rows of a window's contexts, or of their bags."""
    total = tl.zeros((WIDTH,), tl.float32)
    if bags is not None and not RING:
        for place in range(window.low, window.high):
            if place != window.skipped:
                word = tl.load(text.words + place)
                total = bag_sum(inputs, bags, word, k, in_row, total, ROWS)
    else:
        for first in range(window.low, window.high, ROWS):
            place = first + tl.arange(0, ROWS)
            real = (place < window.high) & (place != window.skipped)
            mask = real[:, None] & in_row[None, :]
            if RING:
                rows = own.input + place % own.ring
                composites = Table(scratch.composites, features)
                total += tl.sum(row_at(composites, rows, k, mask), axis=0)
            else:
                rows = tl.load(text.words + place, mask=real, other=0)
                total += tl.sum(row_at(inputs, rows, k, mask), axis=0)
    return total


@triton.jit
def put_hidden(
    inputs, text, window, bags, scratch, own, k, in_row, gain, features,
    RING: tl.constexpr, PROPOSE: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The same gain for all those rows."""
    if PROPOSE:
        tl.store(scratch.input_gains + own.input * features + k, gain, mask=in_row)
    elif bags is not None and not RING:
        for place in range(window.low, window.high):
            if place != window.skipped:
                word = tl.load(text.words + place)
                bag_add(inputs, bags, word, k, in_row, gain, WIDTH, ROWS)
    else:
        gains = tl.broadcast_to(gain[None, :], (ROWS, WIDTH))
        for first in range(window.low, window.high, ROWS):
            place = first + tl.arange(0, ROWS)
            real = (place < window.high) & (place != window.skipped)
            rows = tl.load(text.words + place, mask=real, other=0)
            mask = real[:, None] & in_row[None, :]
            if RING:
                # The sum of a bag gains what each of its rows does.
                sizes = tl.load(bags.offsets + rows + 1) - tl.load(bags.offsets + rows)
                gains_of_sums = sizes.to(tl.float32)[:, None] * gains
                gain_rows(scratch, own.input + place % own.ring, k, mask, gains_of_sums, features)
            else:
                add_one_by_one(inputs, rows, k, mask, gains, ROWS, ROWS)


@triton.jit
def gain_rows(scratch, rows, k, mask, gains, features):
    """Adds to different composites of the program's own, once all its threads have read them."""
    tl.debug_barrier()
    at = scratch.composites + rows[:, None] * features + k[None, :]
    tl.store(at, tl.load(at, mask=mask, other=0.0, cache_modifier=".cg") + gains, mask=mask)


@triton.jit
def enter(
    inputs, text, bags, scratch, own, place, features,
    MEAN: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The word at a place comes within reach: the mean of its bag, or the sum, becomes a row of
    the program's."""
    k = tl.arange(0, WIDTH)
    word = tl.load(text.words + place)
    row = own.input + place % own.ring
    scale = 1.0
    if MEAN:
        scale = 1.0 / tl.maximum(bag_size(bags, word), 1).to(tl.float32)
    for start in range(0, features, WIDTH):
        in_row = start + k < features
        total = scale * bag_sum(
            inputs, bags, word, start + k, in_row, tl.zeros((WIDTH,), tl.float32), ROWS
        )
        at = row * features + start + k
        tl.store(scratch.composites + at, total, mask=in_row)
        tl.store(scratch.input_gains + at, total, mask=in_row)


@triton.jit
def leave(
    inputs, text, bags, scratch, own, place, features,
    MEAN: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The word at a place is out of reach: every row of its bag gains what the mean has gained, or
    the sum's part of it."""
    k = tl.arange(0, WIDTH)
    word = tl.load(text.words + place)
    row = own.input + place % own.ring
    scale = 1.0
    if not MEAN:
        scale = 1.0 / tl.maximum(bag_size(bags, word), 1).to(tl.float32)
    for start in range(0, features, WIDTH):
        in_row = start + k < features
        at = row * features + start + k
        new = tl.load(scratch.composites + at, mask=in_row, other=0.0, cache_modifier=".cg")
        old = tl.load(scratch.input_gains + at, mask=in_row, other=0.0, cache_modifier=".cg")
        gain = scale * (new - old)
        bag_add(inputs, bags, word, start + k, in_row, gain, WIDTH, ROWS)


@triton.jit
def vector_step(
    inputs, outputs, text, negatives, paths, bags, scratch, own, window, lr, terms, features,
    MEAN: tl.constexpr, RING: tl.constexpr, PROPOSE: tl.constexpr, ONE_CHUNK: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The step of a window whose contexts are one vector: CBOW, or a single context. Returns its
    loss."""
    count = window.high - window.low - (window.skipped >= 0).to(tl.int32)
    if bags is not None:
        count = count * 0
        for place in range(window.low, window.high):
            if place != window.skipped:
                count += bag_size(bags, tl.load(text.words + place)).to(tl.int32)
    inverse = tl.where(count > 0, 1.0 / tl.maximum(count, 1).to(tl.float32), 0.0)
    scale = inverse
    back = inverse * 0.0 + 1.0
    if not MEAN:
        scale = back
        back = inverse
    loss = inverse * 0.0
    errors = scratch.errors + own.output
    k = tl.arange(0, WIDTH)
    t = tl.arange(0, ROWS)
    if ONE_CHUNK:
        in_row = k < features
        h = scale * hidden(
            inputs, text, window, bags, scratch, own, k, in_row, features, RING, WIDTH, ROWS
        )
        gain = tl.zeros((WIDTH,), tl.float32)
        for first in range(0, terms, ROWS):
            rows, positive, weight = targets_at(window, first, terms, negatives, paths, ROWS)
            mask = (weight > 0)[:, None] & in_row[None, :]
            b = row_at(outputs, rows, k, mask)
            score = tl.sum(b * h[None, :], axis=1)
            e, part = errors_and_loss(score, positive, weight, weight > 0, lr)
            loss += part
            gain += tl.sum(e[:, None] * b, axis=0)
            put_targets(
                outputs, scratch, own, rows, first, False, k, mask, e[:, None] * h[None, :],
                features, PROPOSE, ROWS,
            )  # fmt: skip
        put_hidden(
            inputs, text, window, bags, scratch, own, k, in_row, gain * back, features, RING,
            PROPOSE, WIDTH, ROWS,
        )  # fmt: skip
    else:
        # All scores before any change; rows are read again, from the L2, with them.
        for first in range(0, terms, ROWS):
            rows, positive, weight = targets_at(window, first, terms, negatives, paths, ROWS)
            score = tl.zeros((ROWS,), tl.float32)
            for start in range(0, features, WIDTH):
                in_row = start + k < features
                h = scale * hidden(
                    inputs, text, window, bags, scratch, own, start + k, in_row, features, RING,
                    WIDTH, ROWS,
                )  # fmt: skip
                mask = (weight > 0)[:, None] & in_row[None, :]
                b = row_at(outputs, rows, start + k, mask)
                score += tl.sum(b * h[None, :], axis=1)
            e, part = errors_and_loss(score, positive, weight, weight > 0, lr)
            loss += part
            tl.store(errors + first + t, e, mask=first + t < terms)
        tl.debug_barrier()
        for start in range(0, features, WIDTH):
            in_row = start + k < features
            h = scale * hidden(
                inputs, text, window, bags, scratch, own, start + k, in_row, features, RING, WIDTH,
                ROWS,
            )  # fmt: skip
            gain = tl.zeros((WIDTH,), tl.float32)
            for first in range(0, terms, ROWS):
                rows, positive, weight = targets_at(window, first, terms, negatives, paths, ROWS)
                mask = (weight > 0)[:, None] & in_row[None, :]
                b = row_at(outputs, rows, start + k, mask)
                e = tl.load(errors + first + t, mask=first + t < terms, other=0.0)
                gain += tl.sum(e[:, None] * b, axis=0)
                put_targets(
                    outputs, scratch, own, rows, first, False, start + k, mask,
                    e[:, None] * h[None, :], features, PROPOSE, ROWS,
                )  # fmt: skip
            put_hidden(
                inputs, text, window, bags, scratch, own, start + k, in_row, gain * back, features,
                RING, PROPOSE, WIDTH, ROWS,
            )  # fmt: skip
    return loss


@triton.jit
def compose(
    inputs, text, window, bags, scratch, own, first_context, features,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, CONTEXTS: tl.constexpr,
):  # fmt: skip
    """The means of the contexts' bags, into the program's own memory."""
    k = tl.arange(0, WIDTH)
    for c in range(0, CONTEXTS):
        place = window.low + first_context + c
        place += (place >= window.skipped).to(tl.int32)
        if place < window.high:
            word = tl.load(text.words + place)
            scale = 1.0 / tl.maximum(bag_size(bags, word), 1).to(tl.float32)
            for start in range(0, features, WIDTH):
                in_row = start + k < features
                total = bag_sum(
                    inputs, bags, word, start + k, in_row, tl.zeros((WIDTH,), tl.float32), ROWS
                )
                at = scratch.composites + (own.input + first_context + c) * features + start + k
                tl.store(at, total * scale, mask=in_row)
    tl.debug_barrier()


@triton.jit
def places_of(window, first_context, CONTEXTS: tl.constexpr):
    """Where the words of a tile of contexts stand."""
    place = window.low + first_context + tl.arange(0, CONTEXTS)
    return place + (place >= window.skipped).to(tl.int32)


@triton.jit
def own_rows(own, window, first_context, RING: tl.constexpr, CONTEXTS: tl.constexpr):
    """The program's rows of a tile of contexts. Computed where they are needed: kept, they cost
    registers."""
    if RING:
        rows = own.input + places_of(window, first_context, CONTEXTS) % own.ring
    else:
        rows = own.input + first_context + tl.arange(0, CONTEXTS)
    return rows


@triton.jit
def put_contexts(
    inputs, scratch, own, window, first_context, rows, k, mask, gains, count, features,
    RING: tl.constexpr, PROPOSE: tl.constexpr, CONTEXTS: tl.constexpr,
):  # fmt: skip
    """The gains of a tile of contexts: to the table, to the composites, or aside."""
    if PROPOSE:
        at = own_rows(own, window, first_context, RING, CONTEXTS)
        tl.store(scratch.input_gains + at[:, None] * features + k[None, :], gains, mask=mask)
    elif RING:
        at = own_rows(own, window, first_context, RING, CONTEXTS)
        gain_rows(scratch, at, k, mask, gains, features)
    else:
        add_one_by_one(inputs, rows, k, mask, gains, count, CONTEXTS)


@triton.jit
def contexts_at(
    inputs, bags, scratch, own, window, first_context, rows, k, mask, features,
    RING: tl.constexpr, CONTEXTS: tl.constexpr,
):  # fmt: skip
    """The rows of a tile of contexts, or what was composed of their bags."""
    if bags is not None:
        at = own_rows(own, window, first_context, RING, CONTEXTS)
        a = row_at(Table(scratch.composites, features), at, k, mask)
    else:
        a = row_at(inputs, rows, k, mask)
    return a


@triton.jit
def window_step(
    inputs, outputs, text, negatives, paths, bags, scratch, own, window, first_context, lr, terms,
    features,
    RING: tl.constexpr, PROPOSE: tl.constexpr, ONE_CHUNK: tl.constexpr, CONTEXTS: tl.constexpr,
    TARGETS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The step of skip-gram for up to CONTEXTS contexts of a window, from the first_context-th on,
    which share its targets. Returns its loss."""
    if bags is not None and not RING:
        compose(
            inputs, text, window, bags, scratch, own, first_context, features, WIDTH, ROWS, CONTEXTS
        )
    errors = scratch.errors + own.output * CONTEXTS
    c = tl.arange(0, CONTEXTS)
    place = places_of(window, first_context, CONTEXTS)
    real = place < window.high
    words = tl.load(text.words + place, mask=real, other=0)
    count = tl.minimum(window.high - window.low - 1 - first_context, CONTEXTS)
    more = first_context > 0
    loss = lr * 0.0
    k = tl.arange(0, WIDTH)
    t = tl.arange(0, TARGETS)
    if ONE_CHUNK:
        in_row = k < features
        a_mask = real[:, None] & in_row[None, :]
        a = contexts_at(
            inputs, bags, scratch, own, window, first_context, words, k, a_mask, features, RING,
            CONTEXTS,
        )  # fmt: skip
        gain = tl.zeros((CONTEXTS, WIDTH), tl.float32)
        for first in range(0, terms, TARGETS):
            rows, positive, weight = targets_at(window, first, terms, negatives, paths, TARGETS)
            b_mask = (weight > 0)[:, None] & in_row[None, :]
            b = row_at(outputs, rows, k, b_mask)
            e, part = errors_and_loss(
                product(a, tl.trans(b)), positive[None, :], weight[None, :], real[:, None] & (weight
                > 0)[None, :], lr,
            )  # fmt: skip
            loss += part
            gain += product(e, b)
            put_targets(
                outputs, scratch, own, rows, first, more, k, b_mask, product(tl.trans(e), a),
                features, PROPOSE, TARGETS,
            )  # fmt: skip
        put_contexts(
            inputs, scratch, own, window, first_context, words, k, a_mask, gain, count, features,
            RING, PROPOSE, CONTEXTS,
        )  # fmt: skip
    else:
        # All scores before any change; rows are read again, from the L2, with them.
        for first in range(0, terms, TARGETS):
            rows, positive, weight = targets_at(window, first, terms, negatives, paths, TARGETS)
            score = tl.zeros((CONTEXTS, TARGETS), tl.float32)
            for start in range(0, features, WIDTH):
                in_row = start + k < features
                a = contexts_at(
                    inputs, bags, scratch, own, window, first_context, words, start + k, real[:,
                    None] & in_row[None, :], features, RING, CONTEXTS,
                )  # fmt: skip
                b_mask = (weight > 0)[:, None] & in_row[None, :]
                b = row_at(outputs, rows, start + k, b_mask)
                score += product(a, tl.trans(b))
            e, part = errors_and_loss(
                score, positive[None, :], weight[None, :], real[:, None] & (weight > 0)[None, :], lr
            )
            loss += part
            at = errors + c[:, None] * terms + first + t[None, :]
            tl.store(at, e, mask=(first + t < terms)[None, :])
        tl.debug_barrier()
        for start in range(0, features, WIDTH):
            in_row = start + k < features
            a_mask = real[:, None] & in_row[None, :]
            a = contexts_at(
                inputs, bags, scratch, own, window, first_context, words, start + k, a_mask,
                features, RING, CONTEXTS,
            )  # fmt: skip
            gain = tl.zeros((CONTEXTS, WIDTH), tl.float32)
            for first in range(0, terms, TARGETS):
                rows, positive, weight = targets_at(window, first, terms, negatives, paths, TARGETS)
                b_mask = (weight > 0)[:, None] & in_row[None, :]
                b = row_at(outputs, rows, start + k, b_mask)
                at = errors + c[:, None] * terms + first + t[None, :]
                e = tl.load(at, mask=(first + t < terms)[None, :], other=0.0)
                gain += product(e, b)
                put_targets(
                    outputs, scratch, own, rows, first, more, start + k, b_mask,
                    product(tl.trans(e), a), features, PROPOSE, TARGETS,
                )  # fmt: skip
            put_contexts(
                inputs, scratch, own, window, first_context, words, start + k, a_mask, gain, count,
                features, RING, PROPOSE, CONTEXTS,
            )  # fmt: skip
    return loss


@triton.jit(do_not_specialize=["each", "start", "count", "windows", "slots", "places", "reach"])
def train_windows_kernel(
    input_table, output_table, text, negatives, paths, bags, scratch, losses,
    each: tl.int64, start: tl.int64, count: tl.int64, windows: tl.int64, slots: tl.int64,
    places: tl.int32, reach: tl.int32, lr, lr_step, terms, features,
    VECTOR: tl.constexpr, MEAN: tl.constexpr, RING: tl.constexpr, PROPOSE: tl.constexpr,
    ONE_CHUNK: tl.constexpr, CONTEXTS: tl.constexpr, TARGETS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Program p makes the steps of `count` windows from p * each + start on, of those up to
    (p + 1) * each, at learning rates from lr on in steps of lr_step; adds their loss to
    losses[p]."""
    inputs = Table(input_table.at, input_table.stride * UNIT)
    outputs = Table(output_table.at, output_table.stride * UNIT)
    features = features * UNIT
    p = tl.program_id(0).to(tl.int64)
    begin = p * each + start
    end = tl.minimum(tl.minimum(begin + count, (p + 1) * each), windows)
    loss = tl.load(losses + p)
    own = Own(p if VECTOR and not RING else p * slots, p * terms, 2 * reach + 1)
    # The places whose words the program holds.
    held = reach * 0
    held_end = held
    for m in range(begin, end):
        own_lr = lr + lr_step * (m - p * each).to(tl.float32)
        window = Window(
            m, tl.load(text.targets + m), tl.load(text.low + m), tl.load(text.high + m),
            tl.load(text.skipped + m),
        )  # fmt: skip
        if RING:
            nearest = tl.maximum(window.skipped - reach, 0)
            for place in range(held, tl.minimum(held_end, nearest)):
                leave(inputs, text, bags, scratch, own, place, features, not VECTOR, WIDTH, ROWS)
            held = nearest
            tl.debug_barrier()
            entered = tl.maximum(held_end, nearest)
            held_end = tl.minimum(window.skipped + reach + 1, places)
            for place in range(entered, held_end):
                enter(inputs, text, bags, scratch, own, place, features, not VECTOR, WIDTH, ROWS)
            tl.debug_barrier()
        if VECTOR:
            loss += vector_step(
                inputs, outputs, text, negatives, paths, bags, scratch, own, window, own_lr, terms,
                features, MEAN, RING, PROPOSE, ONE_CHUNK, WIDTH, ROWS,
            )  # fmt: skip
        else:
            for context in range(0, window.high - window.low - 1, CONTEXTS):
                loss += window_step(
                    inputs, outputs, text, negatives, paths, bags, scratch, own, window, context,
                    own_lr, terms, features, RING, PROPOSE, ONE_CHUNK, CONTEXTS, TARGETS, WIDTH,
                    ROWS,
                )  # fmt: skip
                tl.debug_barrier()
        # The next window is to see this one's step.
        tl.debug_barrier()
    if RING:
        for place in range(held, held_end):
            leave(inputs, text, bags, scratch, own, place, features, not VECTOR, WIDTH, ROWS)
    tl.store(losses + p, loss)
