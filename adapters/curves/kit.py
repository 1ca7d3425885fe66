"""The few functions of SciPy, scikit-image, OpenCV and onnxruntime that have no types, given types here."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import cv2
import numpy as np

from adapters.curves.shapes import Floats, Ints, Labels, Mask


def connected(mask: Mask) -> tuple[int, Labels, Ints, Floats]:
    """Pieces of a mask (8 neighbours): how many with the background, labels, rows of x, y, width, height, area, centres."""
    # The mask's own bytes, and labels as OpenCV makes them: copies of whole pictures would cost as much as the work.
    count, labels, stats, centres = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(mask).view(np.uint8), connectivity=8
    )
    return int(count), np.asarray(labels, np.int32), np.asarray(stats, np.int64), np.asarray(centres, np.float64)


def seen_along(mask: Mask, axis: int) -> Mask:
    """For each column (axis 0) or row (axis 1): is any pixel of it set?"""
    return np.asarray(mask.any(axis=axis), np.bool_)


def strongest(pixels: Any) -> Any:
    """The largest of three channels. (NumPy's own maximum along so short an axis takes ten times as long.)"""
    return np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def weakest(pixels: Any) -> Any:
    """The smallest of three channels."""
    return np.minimum(np.minimum(pixels[..., 0], pixels[..., 1]), pixels[..., 2])


def nearest(points: Floats, others: Floats, limit: float) -> Floats:
    """Distance of each point to the nearest of the others; infinite beyond the limit."""
    spatial: Any = import_module("scipy.spatial")
    distance, _ = spatial.cKDTree(others).query(points, distance_upper_bound=limit)
    return np.asarray(distance, np.float64)


def nearest_of(points: Floats, others: Floats) -> tuple[Floats, Ints]:
    """Distance of each point to the nearest of the others, and which one that is."""
    spatial: Any = import_module("scipy.spatial")
    distance, index = spatial.cKDTree(others).query(points)
    return np.asarray(distance, np.float64), np.asarray(index, np.int64)


def skeleton_of(mask: Mask) -> Mask:
    morphology: Any = import_module("skimage.morphology")
    return np.asarray(morphology.skeletonize(mask), np.bool_)


def gaussian_along(points: Floats, sigma: float) -> Floats:
    """Smoothed along the first axis, the ends repeated outwards."""
    ndimage: Any = import_module("scipy.ndimage")
    return np.asarray(ndimage.gaussian_filter1d(points, sigma, axis=0, mode="nearest"), np.float64)


def peaks(profile: Floats, prominence: float, height: float) -> list[tuple[int, float, float]]:
    """(place, left, right) of each peak; left and right where it has fallen by `height` of its prominence."""
    signal: Any = import_module("scipy.signal")
    found, _ = signal.find_peaks(profile, prominence=prominence)
    if len(found) == 0:
        return []
    _, _, left, right = signal.peak_widths(profile, found, rel_height=height)
    return [(int(p), float(a), float(b)) for p, a, b in zip(found, left, right, strict=True)]


def pairs(cost: Floats) -> list[tuple[int, int]]:
    """Rows and columns paired one to one at the least total cost."""
    optimize: Any = import_module("scipy.optimize")
    rows, columns = optimize.linear_sum_assignment(cost)
    return [(int(r), int(c)) for r, c in zip(rows, columns, strict=True)]


P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """Plain Python over plain arrays, which numba turns into machine code at the first use (some seconds, once a machine).

    The code is kept in the package's `__pycache__` or in the user's cache folder; where neither can be written, each process
    makes its own.
    """
    numba: Any = untyped("numba")
    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        # Nowhere to keep the code: every folder is read-only. It is made anew in each process.
        return numba.njit(**options)(function)


def untyped(module: str) -> Any:
    return import_module(module)
