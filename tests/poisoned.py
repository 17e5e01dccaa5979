"""Results of kernels inside of arrays whose borders must not change."""

import numpy as np


class Poisoned:
    """`empty` for results: an array inside of another, whose borders must not change."""

    def __init__(self):
        self.arrays = []

    def __call__(self, shape, dtype):
        n = int(np.prod(shape))
        whole = np.full(n + 64, -7, dtype)
        self.arrays.append((whole, n))
        return whole[32 : 32 + n].reshape(shape)

    def check(self):
        for whole, n in self.arrays:
            assert (whole[:32] == -7).all() and (whole[32 + n :] == -7).all()
