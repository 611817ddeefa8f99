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
vocabulary of 10^5 words are mostly in the second-level cache of a Hopper GPU. 36 T d FLOP, or
with tiles padded to 16 x 16 x 128 some 200 kFLOP at d = 100, take a multiprocessor less than a
microsecond. What one program
waits for is latency: of the window's numbers, then of its rows. So several programs share a
multiprocessor, as many as the descent bears, because every window under way has not seen the
others' steps.

Float32 rows are added to by atomics, so no step is lost; they are not waited for. 16-bit rows are
read, added to and written, as word2vec.c does it: a step that another program writes over is lost.
Rows are read past the first-level cache, which does not see what other multiprocessors write.

Bags: a program composes a word's vector when the word comes within reach of a window, keeps it in
memory of its own, which is mostly in the second-level cache, and gives the bag's rows what the
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

MOST_LOSS = tl.constexpr(87.0)  # of a term, as on the CPU


@triton.jit
def row_at(table, stride, rows, there, mask):
    """Rows of a table at the features that `there` names with a mask, in float32; 0 beyond."""
    at = table + rows.to(tl.int64)[:, None] * stride + there[None, :]
    return tl.load(at, mask=mask, other=0.0, cache_modifier=".cg").to(tl.float32)


@triton.jit
def add_at(table, stride, rows, there, mask, gains):
    """Adds to rows of a table, which others may be adding to as well."""
    at = table + rows.to(tl.int64)[:, None] * stride + there[None, :]
    if table.dtype.element_ty == tl.float32:
        tl.atomic_add(at, gains, mask=mask, sem="relaxed")
    else:
        now = tl.load(at, mask=mask, other=0.0, cache_modifier=".cg").to(tl.float32)
        tl.store(at, (now + gains).to(table.dtype.element_ty), mask=mask)


@triton.jit
def targets_at(
    m, word, first, terms, negatives, weights, path_offsets, path_nodes, path_codes,
    TREE: tl.constexpr, TARGETS: tl.constexpr,
):  # fmt: skip
    """A tile of a window's targets: their rows, labels (as a condition), and weights, 0 where there
    is none."""
    t = first + tl.arange(0, TARGETS)
    if TREE:
        begin = tl.load(path_offsets + word)
        inside = begin + t < tl.load(path_offsets + word + 1)
        rows = tl.load(path_nodes + begin + t, mask=inside, other=0)
        positive = tl.load(path_codes + begin + t, mask=inside, other=0) == 0
        weight = inside.to(tl.float32)
    else:
        drawn = m * (terms - 1) + t - 1
        inside = (t > 0) & (t < terms)
        rows = tl.load(negatives + drawn, mask=inside, other=0)
        weight = tl.load(weights + drawn, mask=inside, other=0.0)
        rows = tl.where(t == 0, word, rows)
        weight = tl.where(t == 0, 1.0, weight)
        positive = t == 0
    return rows, positive, weight


@triton.jit
def add_one_by_one(table, stride, rows, there, mask, gains, count, ROWS: tl.constexpr):
    """`add_at` for rows of which two may be one row: both gains are to stay."""
    if table.dtype.element_ty == tl.float32:
        add_at(table, stride, rows, there, mask, gains)
    else:
        for one in range(0, count):
            own = (tl.arange(0, ROWS) == one)[:, None]
            add_at(table, stride, rows, there, mask & own, gains)
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


# What the steps are handed beside their window: where everything lies.
# Tables: `rows` with their stride; bags: those of the input rows; `gains`, `composites`, `errors`:
# memory of the program (see `train.Scratch`), `slot` and `lane` the program's first row of
# input gains and of output gains. With RING: `ring` rows of the program, and in the place of the
# input gains the composites as they were when their words came within reach.


@triton.jit
def bag_sum(
    rows, stride, bag_offsets, bag_rows, word, k, there, total, ROWS: tl.constexpr
):  # fmt: skip
    """`total` and the rows of a word's bag."""
    end = tl.load(bag_offsets + word + 1)
    for first in range(tl.load(bag_offsets + word), end, ROWS):
        i = first + tl.arange(0, ROWS)
        own = tl.load(bag_rows + i, mask=i < end, other=0)
        mask = (i < end)[:, None] & there[None, :]
        total += tl.sum(row_at(rows, stride, own, k, mask), axis=0)
    return total


@triton.jit
def bag_add(
    rows, stride, bag_offsets, bag_rows, word, k, there, gain, WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Adds `gain` to every row of a word's bag; a row that stands there twice gets it twice."""
    end = tl.load(bag_offsets + word + 1)
    gains = tl.broadcast_to(gain[None, :], (ROWS, WIDTH))
    for first in range(tl.load(bag_offsets + word), end, ROWS):
        i = first + tl.arange(0, ROWS)
        own = tl.load(bag_rows + i, mask=i < end, other=0)
        mask = (i < end)[:, None] & there[None, :]
        add_one_by_one(rows, stride, own, k, mask, gains, ROWS, ROWS)


@triton.jit
def bag_size(bag_offsets, word):
    return tl.load(bag_offsets + word + 1) - tl.load(bag_offsets + word)


@triton.jit
def put_targets(
    output_rows, output_stride, output_gains, lane, rows, first, more, k, mask, gains, features,
    PROPOSE: tl.constexpr, TARGETS: tl.constexpr,
):  # fmt: skip
    """The gains of a tile of targets, to the table or aside; `more`: added to what lies there."""
    if PROPOSE:
        at = lane + first + tl.arange(0, TARGETS)
        at = output_gains + at[:, None] * features + k[None, :]
        if more:
            gains += tl.load(at, mask=mask, other=0.0)
        tl.store(at, gains, mask=mask)
    else:
        add_at(output_rows, output_stride, rows, k, mask, gains)


@triton.jit
def hidden(
    input_rows, input_stride, words, low, high, skipped, bag_offsets, bag_rows, composites, slot,
    ring, k, there, features,
    BAGS: tl.constexpr, RING: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The sum of the rows of a window's contexts, or of their bags."""
    total = tl.zeros((WIDTH,), tl.float32)
    if BAGS and not RING:
        for place in range(low, high):
            if place != skipped:
                word = tl.load(words + place)
                total = bag_sum(
                    input_rows, input_stride, bag_offsets, bag_rows, word, k, there, total, ROWS
                )
    else:
        for first in range(low, high, ROWS):
            place = first + tl.arange(0, ROWS)
            real = (place < high) & (place != skipped)
            mask = real[:, None] & there[None, :]
            if RING:
                rows = slot + place % ring
                total += tl.sum(row_at(composites, features, rows, k, mask), axis=0)
            else:
                rows = tl.load(words + place, mask=real, other=0)
                total += tl.sum(row_at(input_rows, input_stride, rows, k, mask), axis=0)
    return total


@triton.jit
def put_hidden(
    input_rows, input_stride, words, low, high, skipped, bag_offsets, bag_rows, composites,
    input_gains, slot, ring, k, there, gain, features,
    BAGS: tl.constexpr, RING: tl.constexpr, PROPOSE: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """The same gain for all those rows."""
    if PROPOSE:
        tl.store(input_gains + slot * features + k, gain, mask=there)
    elif BAGS and not RING:
        for place in range(low, high):
            if place != skipped:
                word = tl.load(words + place)
                bag_add(
                    input_rows, input_stride, bag_offsets, bag_rows, word, k, there, gain, WIDTH,
                    ROWS,
                )  # fmt: skip
    else:
        gains = tl.broadcast_to(gain[None, :], (ROWS, WIDTH))
        for first in range(low, high, ROWS):
            place = first + tl.arange(0, ROWS)
            real = (place < high) & (place != skipped)
            rows = tl.load(words + place, mask=real, other=0)
            mask = real[:, None] & there[None, :]
            if RING:
                # The sum of a bag gains what each of its rows does.
                sizes = tl.load(bag_offsets + rows + 1) - tl.load(bag_offsets + rows)
                own = slot + place % ring
                gain_rows(composites, own, k, mask, sizes.to(tl.float32)[:, None] * gains, features)
            else:
                add_one_by_one(input_rows, input_stride, rows, k, mask, gains, ROWS, ROWS)


@triton.jit
def gain_rows(composites, own, k, mask, gains, features):
    """Adds to different rows of the program's own memory, once all its threads have read them."""
    tl.debug_barrier()
    at = composites + own[:, None] * features + k[None, :]
    tl.store(at, tl.load(at, mask=mask, other=0.0, cache_modifier=".cg") + gains, mask=mask)


@triton.jit
def enter(
    input_rows, input_stride, words, bag_offsets, bag_rows, composites, before, row, place,
    features, MEAN: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The word at a place comes within reach: the mean of its bag, or the sum, becomes a row of
    the program's."""
    k = tl.arange(0, WIDTH)
    word = tl.load(words + place)
    scale = 1.0
    if MEAN:
        scale = 1.0 / tl.maximum(bag_size(bag_offsets, word), 1).to(tl.float32)
    for start in range(0, features, WIDTH):
        there = start + k < features
        total = scale * bag_sum(
            input_rows, input_stride, bag_offsets, bag_rows, word, start + k, there,
            tl.zeros((WIDTH,), tl.float32), ROWS,
        )  # fmt: skip
        at = row * features + start + k
        tl.store(composites + at, total, mask=there)
        tl.store(before + at, total, mask=there)


@triton.jit
def leave(
    input_rows, input_stride, words, bag_offsets, bag_rows, composites, before, row, place,
    features, MEAN: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The word at a place is out of reach: every row of its bag gains what the mean has gained, or
    the sum's part of it."""
    k = tl.arange(0, WIDTH)
    word = tl.load(words + place)
    scale = 1.0
    if not MEAN:
        scale = 1.0 / tl.maximum(bag_size(bag_offsets, word), 1).to(tl.float32)
    for start in range(0, features, WIDTH):
        there = start + k < features
        at = row * features + start + k
        new = tl.load(composites + at, mask=there, other=0.0, cache_modifier=".cg")
        old = tl.load(before + at, mask=there, other=0.0, cache_modifier=".cg")
        bag_add(
            input_rows, input_stride, bag_offsets, bag_rows, word, start + k, there,
            scale * (new - old), WIDTH, ROWS,
        )  # fmt: skip


@triton.jit
def vector_step(
    input_rows, input_stride, output_rows, output_stride, words, negatives, weights,
    path_offsets, path_nodes, path_codes, bag_offsets, bag_rows, composites, input_gains,
    output_gains, errors, slot, ring, lane, m, word, low, high, skipped, lr, terms, features,
    TREE: tl.constexpr, MEAN: tl.constexpr, BAGS: tl.constexpr, RING: tl.constexpr,
    PROPOSE: tl.constexpr, ONE_CHUNK: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The step of a window whose contexts are one vector: CBOW, or a single context. Returns its
    loss."""
    count = high - low - (skipped >= 0).to(tl.int32)
    if BAGS:
        count = count * 0
        for place in range(low, high):
            if place != skipped:
                count += bag_size(bag_offsets, tl.load(words + place)).to(tl.int32)
    inverse = tl.where(count > 0, 1.0 / tl.maximum(count, 1).to(tl.float32), 0.0)
    scale = inverse
    back = inverse * 0.0 + 1.0
    if not MEAN:
        scale = back
        back = inverse
    loss = inverse * 0.0
    k = tl.arange(0, WIDTH)
    t = tl.arange(0, ROWS)
    if ONE_CHUNK:
        there = k < features
        h = scale * hidden(
            input_rows, input_stride, words, low, high, skipped, bag_offsets, bag_rows, composites,
            slot, ring, k, there, features, BAGS, RING, WIDTH, ROWS,
        )  # fmt: skip
        gain = tl.zeros((WIDTH,), tl.float32)
        for first in range(0, terms, ROWS):
            rows, positive, weight = targets_at(
                m, word, first, terms, negatives, weights, path_offsets, path_nodes, path_codes,
                TREE, ROWS,
            )  # fmt: skip
            mask = (weight > 0)[:, None] & there[None, :]
            b = row_at(output_rows, output_stride, rows, k, mask)
            score = tl.sum(b * h[None, :], axis=1)
            e, part = errors_and_loss(score, positive, weight, weight > 0, lr)
            loss += part
            gain += tl.sum(e[:, None] * b, axis=0)
            put_targets(
                output_rows, output_stride, output_gains, lane, rows, first, False, k, mask,
                e[:, None] * h[None, :], features, PROPOSE, ROWS,
            )  # fmt: skip
        put_hidden(
            input_rows, input_stride, words, low, high, skipped, bag_offsets, bag_rows, composites,
            input_gains, slot, ring, k, there, gain * back, features, BAGS, RING, PROPOSE, WIDTH,
            ROWS,
        )  # fmt: skip
    else:
        # All scores before any change; rows are read again, from the second-level cache, with them.
        for first in range(0, terms, ROWS):
            rows, positive, weight = targets_at(
                m, word, first, terms, negatives, weights, path_offsets, path_nodes, path_codes,
                TREE, ROWS,
            )  # fmt: skip
            score = tl.zeros((ROWS,), tl.float32)
            for start in range(0, features, WIDTH):
                there = start + k < features
                h = scale * hidden(
                    input_rows, input_stride, words, low, high, skipped, bag_offsets, bag_rows,
                    composites, slot, ring, start + k, there, features, BAGS, RING, WIDTH, ROWS,
                )  # fmt: skip
                mask = (weight > 0)[:, None] & there[None, :]
                b = row_at(output_rows, output_stride, rows, start + k, mask)
                score += tl.sum(b * h[None, :], axis=1)
            e, part = errors_and_loss(score, positive, weight, weight > 0, lr)
            loss += part
            tl.store(errors + first + t, e, mask=first + t < terms)
        tl.debug_barrier()
        for start in range(0, features, WIDTH):
            there = start + k < features
            h = scale * hidden(
                input_rows, input_stride, words, low, high, skipped, bag_offsets, bag_rows,
                composites, slot, ring, start + k, there, features, BAGS, RING, WIDTH, ROWS,
            )  # fmt: skip
            gain = tl.zeros((WIDTH,), tl.float32)
            for first in range(0, terms, ROWS):
                rows, positive, weight = targets_at(
                    m, word, first, terms, negatives, weights, path_offsets, path_nodes,
                    path_codes, TREE, ROWS,
                )  # fmt: skip
                mask = (weight > 0)[:, None] & there[None, :]
                b = row_at(output_rows, output_stride, rows, start + k, mask)
                e = tl.load(errors + first + t, mask=first + t < terms, other=0.0)
                gain += tl.sum(e[:, None] * b, axis=0)
                put_targets(
                    output_rows, output_stride, output_gains, lane, rows, first, False,
                    start + k, mask, e[:, None] * h[None, :], features, PROPOSE, ROWS,
                )  # fmt: skip
            put_hidden(
                input_rows, input_stride, words, low, high, skipped, bag_offsets, bag_rows,
                composites, input_gains, slot, ring, start + k, there, gain * back, features, BAGS,
                RING, PROPOSE, WIDTH, ROWS,
            )  # fmt: skip
    return loss


@triton.jit
def compose(
    input_rows, input_stride, words, bag_offsets, bag_rows, composites, slot, low, high, skipped,
    first_context, features, WIDTH: tl.constexpr, ROWS: tl.constexpr, CONTEXTS: tl.constexpr,
):  # fmt: skip
    """The means of the contexts' bags, into the program's own memory."""
    k = tl.arange(0, WIDTH)
    for c in range(0, CONTEXTS):
        place = low + first_context + c
        place += (place >= skipped).to(tl.int32)
        if place < high:
            word = tl.load(words + place)
            scale = 1.0 / tl.maximum(bag_size(bag_offsets, word), 1).to(tl.float32)
            for start in range(0, features, WIDTH):
                there = start + k < features
                total = bag_sum(
                    input_rows, input_stride, bag_offsets, bag_rows, word, start + k, there,
                    tl.zeros((WIDTH,), tl.float32), ROWS,
                )  # fmt: skip
                at = composites + (slot + first_context + c) * features + start + k
                tl.store(at, total * scale, mask=there)
    tl.debug_barrier()


@triton.jit
def places_of(low, skipped, first_context, CONTEXTS: tl.constexpr):
    """Where the words of a tile of contexts stand."""
    place = low + first_context + tl.arange(0, CONTEXTS)
    return place + (place >= skipped).to(tl.int32)


@triton.jit
def own_rows(
    slot, ring, low, skipped, first_context, RING: tl.constexpr, CONTEXTS: tl.constexpr
):  # fmt: skip
    """The program's rows of a tile of contexts. Computed where they are needed: kept, they cost
    registers."""
    if RING:
        rows = slot + places_of(low, skipped, first_context, CONTEXTS) % ring
    else:
        rows = slot + first_context + tl.arange(0, CONTEXTS)
    return rows


@triton.jit
def put_contexts(
    input_rows, input_stride, composites, input_gains, slot, ring, low, skipped, first_context,
    rows, k, mask, gains, count, features,
    RING: tl.constexpr, PROPOSE: tl.constexpr, CONTEXTS: tl.constexpr,
):  # fmt: skip
    """The gains of a tile of contexts: to the table, to the composites, or aside."""
    if PROPOSE:
        own = own_rows(slot, ring, low, skipped, first_context, RING, CONTEXTS)
        tl.store(input_gains + own[:, None] * features + k[None, :], gains, mask=mask)
    elif RING:
        own = own_rows(slot, ring, low, skipped, first_context, RING, CONTEXTS)
        gain_rows(composites, own, k, mask, gains, features)
    else:
        add_one_by_one(input_rows, input_stride, rows, k, mask, gains, count, CONTEXTS)


@triton.jit
def contexts_at(
    input_rows, input_stride, composites, slot, ring, low, skipped, first_context, rows, k, mask,
    features, BAGS: tl.constexpr, RING: tl.constexpr, CONTEXTS: tl.constexpr,
):  # fmt: skip
    """The rows of a tile of contexts, or what was composed of their bags."""
    if BAGS:
        own = own_rows(slot, ring, low, skipped, first_context, RING, CONTEXTS)
        a = row_at(composites, features, own, k, mask)
    else:
        a = row_at(input_rows, input_stride, rows, k, mask)
    return a


@triton.jit
def window_step(
    input_rows, input_stride, output_rows, output_stride, words, negatives, weights,
    path_offsets, path_nodes, path_codes, bag_offsets, bag_rows, composites, input_gains,
    output_gains, errors, slot, ring, lane, m, word, low, high, skipped, first_context, lr, terms,
    features,
    TREE: tl.constexpr, BAGS: tl.constexpr, RING: tl.constexpr, PROPOSE: tl.constexpr,
    ONE_CHUNK: tl.constexpr, CONTEXTS: tl.constexpr, TARGETS: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """The step of skip-gram for up to CONTEXTS contexts of a window, from the first_context-th on,
    which share its targets. Returns its loss."""
    if BAGS and not RING:
        compose(
            input_rows, input_stride, words, bag_offsets, bag_rows, composites, slot, low, high,
            skipped, first_context, features, WIDTH, ROWS, CONTEXTS,
        )  # fmt: skip
    c = tl.arange(0, CONTEXTS)
    place = places_of(low, skipped, first_context, CONTEXTS)
    real = place < high
    inputs = tl.load(words + place, mask=real, other=0)
    count = tl.minimum(high - low - 1 - first_context, CONTEXTS)
    more = first_context > 0
    loss = lr * 0.0
    k = tl.arange(0, WIDTH)
    t = tl.arange(0, TARGETS)
    if ONE_CHUNK:
        there = k < features
        a_mask = real[:, None] & there[None, :]
        a = contexts_at(
            input_rows, input_stride, composites, slot, ring, low, skipped, first_context, inputs,
            k, a_mask, features, BAGS, RING, CONTEXTS,
        )  # fmt: skip
        gain = tl.zeros((CONTEXTS, WIDTH), tl.float32)
        for first in range(0, terms, TARGETS):
            rows, positive, weight = targets_at(
                m, word, first, terms, negatives, weights, path_offsets, path_nodes, path_codes,
                TREE, TARGETS,
            )  # fmt: skip
            b_mask = (weight > 0)[:, None] & there[None, :]
            b = row_at(output_rows, output_stride, rows, k, b_mask)
            e, part = errors_and_loss(
                product(a, tl.trans(b)), positive[None, :], weight[None, :],
                real[:, None] & (weight > 0)[None, :], lr,
            )  # fmt: skip
            loss += part
            gain += product(e, b)
            put_targets(
                output_rows, output_stride, output_gains, lane, rows, first, more, k, b_mask,
                product(tl.trans(e), a), features, PROPOSE, TARGETS,
            )  # fmt: skip
        put_contexts(
            input_rows, input_stride, composites, input_gains, slot, ring, low, skipped,
            first_context, inputs, k, a_mask, gain, count, features, RING, PROPOSE, CONTEXTS,
        )  # fmt: skip
    else:
        # All scores before any change; rows are read again, from the second-level cache, with them.
        for first in range(0, terms, TARGETS):
            rows, positive, weight = targets_at(
                m, word, first, terms, negatives, weights, path_offsets, path_nodes, path_codes,
                TREE, TARGETS,
            )  # fmt: skip
            score = tl.zeros((CONTEXTS, TARGETS), tl.float32)
            for start in range(0, features, WIDTH):
                there = start + k < features
                a = contexts_at(
                    input_rows, input_stride, composites, slot, ring, low, skipped, first_context,
                    inputs, start + k, real[:, None] & there[None, :], features, BAGS, RING,
                    CONTEXTS,
                )  # fmt: skip
                b_mask = (weight > 0)[:, None] & there[None, :]
                b = row_at(output_rows, output_stride, rows, start + k, b_mask)
                score += product(a, tl.trans(b))
            e, part = errors_and_loss(
                score, positive[None, :], weight[None, :],
                real[:, None] & (weight > 0)[None, :], lr,
            )  # fmt: skip
            loss += part
            at = errors + c[:, None] * terms + first + t[None, :]
            tl.store(at, e, mask=(first + t < terms)[None, :])
        tl.debug_barrier()
        for start in range(0, features, WIDTH):
            there = start + k < features
            a_mask = real[:, None] & there[None, :]
            a = contexts_at(
                input_rows, input_stride, composites, slot, ring, low, skipped, first_context,
                inputs, start + k, a_mask, features, BAGS, RING, CONTEXTS,
            )  # fmt: skip
            gain = tl.zeros((CONTEXTS, WIDTH), tl.float32)
            for first in range(0, terms, TARGETS):
                rows, positive, weight = targets_at(
                    m, word, first, terms, negatives, weights, path_offsets, path_nodes,
                    path_codes, TREE, TARGETS,
                )  # fmt: skip
                b_mask = (weight > 0)[:, None] & there[None, :]
                b = row_at(output_rows, output_stride, rows, start + k, b_mask)
                at = errors + c[:, None] * terms + first + t[None, :]
                e = tl.load(at, mask=(first + t < terms)[None, :], other=0.0)
                gain += product(e, b)
                put_targets(
                    output_rows, output_stride, output_gains, lane, rows, first, more, start + k,
                    b_mask, product(tl.trans(e), a), features, PROPOSE, TARGETS,
                )  # fmt: skip
            put_contexts(
                input_rows, input_stride, composites, input_gains, slot, ring, low, skipped,
                first_context, inputs, start + k, a_mask, gain, count, features, RING, PROPOSE,
                CONTEXTS,
            )  # fmt: skip
    return loss


@triton.jit(do_not_specialize=["each", "start", "count", "windows", "slots", "places", "reach"])
def train_windows_kernel(
    input_rows, input_stride, output_rows, output_stride, words, targets, low, high, skipped,
    negatives, weights, path_offsets, path_nodes, path_codes, bag_offsets, bag_rows, composites,
    input_gains, output_gains, errors, losses, each: tl.int64, start: tl.int64, count: tl.int64,
    windows: tl.int64, slots: tl.int64, places: tl.int32, reach: tl.int32, lr, lr_step, terms,
    features,
    TREE: tl.constexpr, VECTOR: tl.constexpr, MEAN: tl.constexpr, BAGS: tl.constexpr,
    RING: tl.constexpr, PROPOSE: tl.constexpr, ONE_CHUNK: tl.constexpr, CONTEXTS: tl.constexpr,
    TARGETS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """Program p makes the steps of `count` windows from p * each + start on, of those up to
    (p + 1) * each, at learning rates from lr on in steps of lr_step; adds their loss to
    losses[p]."""
    input_stride = input_stride * UNIT
    output_stride = output_stride * UNIT
    features = features * UNIT
    p = tl.program_id(0).to(tl.int64)
    begin = p * each + start
    end = tl.minimum(tl.minimum(begin + count, (p + 1) * each), windows)
    loss = tl.load(losses + p)
    slot = p * slots
    lane = p * terms
    ring = 2 * reach + 1
    # The places whose words the program holds.
    held = reach * 0
    held_end = held
    for m in range(begin, end):
        own_lr = lr + lr_step * (m - p * each).to(tl.float32)
        word = tl.load(targets + m)
        first = tl.load(low + m)
        last = tl.load(high + m)
        out = tl.load(skipped + m)
        if RING:
            nearest = tl.maximum(out - reach, 0)
            for place in range(held, tl.minimum(held_end, nearest)):
                leave(
                    input_rows, input_stride, words, bag_offsets, bag_rows, composites,
                    input_gains, slot + place % ring, place, features, not VECTOR, WIDTH, ROWS,
                )  # fmt: skip
            held = nearest
            tl.debug_barrier()
            entered = tl.maximum(held_end, nearest)
            held_end = tl.minimum(out + reach + 1, places)
            for place in range(entered, held_end):
                enter(
                    input_rows, input_stride, words, bag_offsets, bag_rows, composites,
                    input_gains, slot + place % ring, place, features, not VECTOR, WIDTH, ROWS,
                )  # fmt: skip
            tl.debug_barrier()
        if VECTOR:
            loss += vector_step(
                input_rows, input_stride, output_rows, output_stride, words, negatives, weights,
                path_offsets, path_nodes, path_codes, bag_offsets, bag_rows, composites,
                input_gains, output_gains, errors + lane, slot if RING else p, ring, lane, m, word,
                first, last, out, own_lr, terms, features,
                TREE, MEAN, BAGS, RING, PROPOSE, ONE_CHUNK, WIDTH, ROWS,
            )  # fmt: skip
        else:
            for context in range(0, last - first - 1, CONTEXTS):
                loss += window_step(
                    input_rows, input_stride, output_rows, output_stride, words, negatives,
                    weights, path_offsets, path_nodes, path_codes, bag_offsets, bag_rows,
                    composites, input_gains, output_gains, errors + lane * CONTEXTS, slot, ring,
                    lane, m, word, first, last, out, context, own_lr, terms, features,
                    TREE, BAGS, RING, PROPOSE, ONE_CHUNK, CONTEXTS, TARGETS, WIDTH, ROWS,
                )  # fmt: skip
                tl.debug_barrier()
        # The next window is to see this one's step.
        tl.debug_barrier()
    if RING:
        for place in range(held, held_end):
            leave(
                input_rows, input_stride, words, bag_offsets, bag_rows, composites, input_gains,
                slot + place % ring, place, features, not VECTOR, WIDTH, ROWS,
            )  # fmt: skip
    tl.store(losses + p, loss)
