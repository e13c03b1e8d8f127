"""Products of matrices that are too small to be shared among threads."""

from __future__ import annotations

import numpy as np

# OpenBLAS wakes its threads for more multiplications than these.
_ONE_THREAD = 250_000


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``left @ right`` in float32 by the calling thread alone.

    A product of a tenth of a millisecond that is dealt out to threads waits for the last of them: on cores
    that a loader's workers use, for tens of milliseconds. So it is made in pieces below the library's limit.

    Args:
        left: float32 ``(M, K)``.
        right: float32 ``(K, N)``.

    Returns:
        float32 ``(M, N)``.
    """
    rows, inner = left.shape
    columns = right.shape[1]
    result = np.zeros((rows, columns), np.float32)
    if not (rows and inner and columns):
        return result
    if rows >= columns:
        step = max(_ONE_THREAD // (inner * columns), 1)
        for start in range(0, rows, step):
            np.matmul(left[start : start + step], right, out=result[start : start + step])
    else:
        step = max(_ONE_THREAD // (inner * rows), 1)
        for start in range(0, columns, step):
            np.matmul(left, right[:, start : start + step], out=result[:, start : start + step])
    return result
