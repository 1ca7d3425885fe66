"""The walk of a pen through ink, guess by guess: the inner loop of `follow`, compiled.

More than ten times faster than the same search in operations of NumPy, whose arrays would hold a few hundred numbers each.

Nothing here is random, and nothing looks at a clock: the same ink gives the same walk on a busy machine.
"""

import math

import numpy as np

from adapters.curves.kit import compiled
from adapters.curves.shapes import Floats, Ints, Mask

BENDS = np.array([0.0, 0.002, -0.002, 0.006, -0.006, 0.016, -0.016, 0.045, -0.045, 0.1, -0.1])
"""Changes of curvature tried at each step, in radians a pixel."""
BEND_COSTS = np.minimum(8000.0 * BENDS**2, 4.0 + 20.0 * np.abs(BENDS)) * (BENDS != 0)
KINKS = np.array([0.5, -0.5, 1.0, -1.0, 1.5, -1.5])
"""Sharp corners, tried where there is no ink ahead, in radians."""
STRIP_BEND = 16.0
"""What a radian a pixel of curvature costs more at each step where several strokes are one."""
MOST = 24
MOST_BLIND = 70
"""Guesses kept at each step of those on ink, of those off it, and of those where nothing at all has been seen for long."""


@compiled
def sink(heap: Ints, value: Floats, at: int, count: int) -> None:
    """Restore a heap whose best is at its top, from `at` downwards. Of equals the first made is the better."""
    moved = heap[at]
    while True:
        child = 2 * at + 1
        if child >= count:
            break
        one, other = heap[child], heap[child + 1] if child + 1 < count else heap[child]
        if value[other] > value[one] or (value[other] == value[one] and other < one):
            child += 1
        best = heap[child]
        if value[best] < value[moved] or (value[best] == value[moved] and best >= moved):
            break
        heap[at] = best
        at = child
    heap[at] = moved


@compiled
def whole(value: float, most: int) -> int:
    """The nearest pixel inside 0..most."""
    return min(max(math.floor(value + 0.5), 0), most)


@compiled
def walk(
    ridge: Floats,
    hidden: Mask,
    worth: Floats,
    strip: Mask,
    rim: float,
    start: tuple[float, float, float, float],
    pen: tuple[float, float, float, int],
    budget: int,
) -> tuple[Floats, Mask, float, int]:
    """Points, which of them had ink, doubt, and how many guesses were looked at (never many more than `budget`).

    `start` is place, direction and curvature; `pen` what a pixel of bare paper costs, how much of it is crossed at once, the step, and
    the steps after which ways that parted are decided.
    """
    x, y, heading, bend = start
    gap, reach, step, lag = pen
    h, w = ridge.shape
    longest = int(3.2 * (h + w) / step)
    places = MOST + MOST_BLIND
    n = 5
    # The guesses that go on: place, direction, curvature, points won, bare paper behind, and which way along x each has gone (0 until
    # it has gone either way clearly).
    px, py, theta, kappa = np.empty(places), np.empty(places), np.empty(places), np.empty(places)
    score, bare, way = np.empty(places), np.empty(places), np.empty(places)
    for i in range(n):
        px[i], py[i], score[i], bare[i], way[i] = x, y, 0.0, 0.0, 0.0
        theta[i] = heading + (0.06 if i == 3 else -0.06 if i == 4 else 0.0)
        kappa[i] = bend * (0.5 if i == 1 else 0.0 if i == 2 else 1.0)
    # What each guess came from, step by step.
    past_x, past_y = np.empty((longest + 1, places)), np.empty((longest + 1, places))
    past_parent = np.empty((longest + 1, places), np.int16)
    past_ink = np.empty((longest + 1, places), np.bool_)
    for i in range(n):
        past_x[0, i], past_y[0, i], past_parent[0, i], past_ink[0, i] = x, y, i, True
    # What each could do next.
    most = places * (len(BENDS) + len(KINKS))
    new_x, new_y, new_theta, new_kappa = np.empty(most), np.empty(most), np.empty(most), np.empty(most)
    new_score, new_bare, new_way = np.empty(most), np.empty(most), np.empty(most)
    new_ink, new_parent = np.empty(most, np.bool_), np.empty(most, np.int64)
    heap, cells = np.empty(most, np.int64), np.empty(places, np.int64)
    origin = np.empty(places, np.int64)
    doubt, peak_step, peak, covered, looked = 0.0, 0, 0.0, 0.0, 0
    for now in range(1, longest):
        if looked > budget:
            break
        made, top = 0, -math.inf
        for i in range(n):
            # A corner is turned where the stroke ends, not a step later.
            ax = whole(px[i] + 1.6 * step * math.cos(theta[i]), w - 1)
            ay = whole(py[i] + 1.6 * step * math.sin(theta[i]), h - 1)
            blind = ridge[ay, ax] < 0.2 and bare[i] <= step + 0.1
            options = len(BENDS) + (len(KINKS) if blind else 0)
            looked += options
            for j in range(options):
                corner = j >= len(BENDS)
                if corner:
                    kink = KINKS[j - len(BENDS)]
                    k, t = 0.0, theta[i] + kink
                    cost = 8.0 + 8.0 * abs(kink)
                else:
                    k = 0.99 * kappa[i] + BENDS[j]
                    t = theta[i] + step * k
                    cost = BEND_COSTS[j] + 4.0 * abs(k)
                    if abs(k) >= 0.25:
                        continue
                c, s = math.cos(t), math.sin(t)
                dx, dy = step * c, step * s
                nx, ny = px[i] + dx, py[i] + dy
                # Beside the frame nothing is seen, and a way along it would join what has nothing to do with each other.
                if nx <= rim or ny <= rim or nx >= w - 1 - rim or ny >= h - 1 - rim:
                    continue
                # Curves of plots are functions: what comes back along x has turned into another curve.
                course = way[i]
                if c * course < -0.4:
                    cost += 1.3 * step
                if course == 0.0 and abs(c) > 0.5:
                    course = 1.0 if c > 0 else -1.0
                ix, iy = whole(nx, w - 1), whole(ny, h - 1)
                # In broad ink a pen could turn about for ever.
                if strip[iy, ix]:
                    cost += STRIP_BEND * abs(k)
                seen = 0.5 * (ridge[iy, ix] + ridge[whole(ny - 0.5 * dy, h - 1), whole(nx - 0.5 * dx, w - 1)])
                ink = seen > 0.2
                # Only ink can tell of a turn; a corner must show two steps of it.
                if not ink and (corner or abs(k - 0.99 * kappa[i]) > 0.007):
                    continue
                if corner and ridge[whole(ny + dy, h - 1), whole(nx + dx, w - 1)] <= 0.2:
                    continue
                if ink:
                    gain, paper = seen * worth[iy, ix], 0.0
                elif hidden[iy, ix]:
                    gain, paper = -0.06, bare[i] + 0.12 * step
                else:
                    gain, paper = -gap, bare[i] + step
                total = score[i] + gain * step - cost
                top = max(top, total)
                if paper > reach:
                    continue
                new_x[made], new_y[made], new_theta[made], new_kappa[made] = nx, ny, t, k
                new_score[made], new_bare[made], new_way[made] = total, paper, course
                new_ink[made], new_parent[made] = ink, i
                made += 1
        count, inked = 0, 0
        for i in range(made):
            if new_score[i] > top - 40.0:
                heap[count] = i
                count += 1
                inked += new_ink[i]
        if count == 0:
            break
        bared = count - inked
        for i in range(count // 2 - 1, -1, -1):
            sink(heap, new_score, i, count)
        # Each kind has its own places: a corner costs much at first, and many cheap ways lead off the ink just there. Of guesses that
        # are nearly the same only the best goes on; over a long gap small differences of direction matter: nothing else tells the
        # guesses apart.
        far = covered > 5 * step
        fine, free_seen, free_lost = 2.0 if far else 1.0, MOST, MOST_BLIND if far else MOST
        n = 0
        while (inked > 0 and free_seen > 0) or (bared > 0 and free_lost > 0):
            best = heap[0]
            count -= 1
            heap[0] = heap[count]
            sink(heap, new_score, 0, count)
            if new_ink[best]:
                inked -= 1
                if free_seen == 0:
                    continue
            else:
                bared -= 1
                if free_lost == 0:
                    continue
            cell = (
                (int(new_x[best] / 2 + 0.5) * 4096 + int(new_y[best] / 2 + 0.5)) * 256
                + int((new_theta[best] % (2 * math.pi)) * 10 * fine + 0.5)
            ) * 256 + whole(float(new_kappa[best]) * 110 * fine + 128, 255)
            known = False
            for i in range(n):
                known |= cells[i] == cell
            if known:
                continue
            cells[n] = cell
            past_x[now, n], past_y[now, n] = new_x[best], new_y[best]
            past_parent[now, n], past_ink[now, n] = new_parent[best], new_ink[best]
            px[n], py[n], theta[n], kappa[n] = new_x[best], new_y[best], new_theta[best], new_kappa[best]
            score[n], bare[n], way[n] = new_score[best], new_bare[best], new_way[best]
            n += 1
            if new_ink[best]:
                free_seen -= 1
            else:
                free_lost -= 1
        covered = 0.0 if past_ink[now, 0] else covered + step
        if score[0] > peak:
            peak_step, peak = now, score[0]
        # Ways that parted long ago are decided now; while nothing is seen, none is.
        if now > lag and covered == 0.0 and n > 1:
            for i in range(n):
                at = i
                for back in range(lag):
                    at = past_parent[now - back, at]
                origin[i] = at
            kept, second = 0, -math.inf
            for i in range(n):
                if origin[i] != origin[0]:
                    second = max(second, score[i])
                    continue
                px[kept], py[kept], theta[kept], kappa[kept] = px[i], py[i], theta[i], kappa[i]
                score[kept], bare[kept], way[kept] = score[i], bare[i], way[i]
                past_x[now, kept], past_y[now, kept] = past_x[now, i], past_y[now, i]
                past_parent[now, kept], past_ink[now, kept] = past_parent[now, i], past_ink[now, i]
                kept += 1
            if kept < n:
                doubt = max(doubt, 1.0 / (1.0 + 0.5 * (score[0] - second)))
                n = kept
    # The way ends where its score was highest: what came after was bare paper.
    points, on_ink = np.empty((peak_step + 1, 2)), np.empty(peak_step + 1, np.bool_)
    at = 0
    for i in range(peak_step, -1, -1):
        points[i, 0], points[i, 1], on_ink[i] = past_x[i, at], past_y[i, at], past_ink[i, at]
        at = past_parent[i, at]
    return points, on_ink, doubt, looked
