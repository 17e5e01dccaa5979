"""Make `agog/compiler/polynomials.py`: interpolate each kernel's smooth part at Chebyshev nodes with 200 digits.

Run by hand, with mpmath installed (the tests do not need it):

    python tests/compiler/fit_polynomials.py > agog/compiler/polynomials.py

Interpolation at Chebyshev nodes is within a small factor of the minimax polynomial, and unlike Remez it cannot fail
to converge. Every function is divided by its leading behaviour first, so that the error of the fit is a *relative*
error of the small correction, and the leading terms (1 + r, x, f - f*f/2, ...) stay exact in the kernel.
"""

import struct

import mpmath as mp

mp.mp.dps = 200

HEADER = '''"""Coefficients of the vector mathematics, lowest power first. Made by `tests/compiler/fit_polynomials.py`.

Each table maps a dtype to the polynomial of the *correction* named beside it; `vecmath` adds the leading terms, which
are exact. The polynomials interpolate at Chebyshev nodes in 200-digit arithmetic, so they are nearly minimax.
"""

__all__ = [
    "ASIN",
    "ATAN",
    "ATANH_TAIL",
    "COS",
    "ERF",
    "EXP",
    "EXP2",
    "EXP_FOR_POW",
    "LOG",
    "LOG_FOR_POW",
    "LOG_RATIO",
    "MILLS",
    "SIN",
]
'''


def chebyshev_interpolant(fn, low, high, terms):
    """Monomial coefficients (lowest first) of the interpolant of `fn` on [low, high] at `terms` Chebyshev nodes."""
    low, high = mp.mpf(low), mp.mpf(high)
    nodes = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * (2 * i + 1) / (2 * terms)) for i in range(terms)]
    # Newton's divided differences, then expansion: stable enough with 200 digits for these degrees.
    tiny = mp.mpf("1e-40")  # a node at the removable singularity is moved by far less than a float64 can tell
    table = [fn(x if abs(x) > tiny else tiny) for x in nodes]
    for level in range(1, terms):
        for i in range(terms - 1, level - 1, -1):
            table[i] = (table[i] - table[i - 1]) / (nodes[i] - nodes[i - level])
    poly = [table[-1]]
    for i in range(terms - 2, -1, -1):
        shifted = [mp.mpf(0), *poly]
        for j, c in enumerate(poly):
            shifted[j] -= nodes[i] * c
        shifted[0] += table[i]
        poly = shifted
    return poly


def round_to(value, dtype):
    """The nearest float32 or float64, written so that Python reads it back exactly."""
    value = float(value)
    return struct.unpack("f", struct.pack("f", value))[0] if dtype == "float32" else value


def root(fn):
    """A function of z = x*x from a function of x."""
    return lambda z: fn(mp.sqrt(z))


#: Takes a >= 0 to t = 1/(a + shift).
SHIFT = 3


def mills(q):
    """e^(a^2/2) ndtr(-a) / t, which is Mills' ratio up to simple factors."""
    t = (q + 1) / (2 * SHIFT)
    a = 1 / t - SHIFT
    return mp.exp(a * a / 2) * mp.erfc(a / mp.sqrt(2)) / (2 * t)


#: Where q ends: e^(-a^2/2) is below e^-107 or e^-750 beyond.
MILLS = {k: (2 * SHIFT / (mp.sqrt(2 * far) + SHIFT) - 1, 1) for k, far in {"float32": 107, "float64": 750}.items()}

HALF_LN2 = mp.log(2) / 2 * mp.mpf("1.001")
PI4 = (mp.pi / 4 * mp.mpf("1.001")) ** 2
SMAX2 = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1) * mp.mpf("1.001")) ** 2
S0, S1 = mp.sqrt(2) / 2 - 1, mp.sqrt(2) - 1

TABLES = [
    # name, comment, function, interval, terms for float32, terms for float64
    (
        "EXP",
        "(exp(r) - 1 - r) / r^2, |r| <= ln(2)/2",
        lambda r: (mp.exp(r) - 1 - r) / r**2,
        (-HALF_LN2, HALF_LN2),
        5,
        11,
    ),
    ("EXP2", "(2^r - 1) / r, |r| <= 1/2", lambda r: (mp.mpf(2) ** r - 1) / r, (-0.5, 0.5), 6, 12),
    (
        "LOG",
        "(log(1+f) - f + f^2/2) / f^3, sqrt(1/2) <= 1+f <= sqrt(2)",
        lambda f: (mp.log1p(f) - f + f * f / 2) / f**3,
        (S0 * mp.mpf("1.001"), S1 * mp.mpf("1.001")),
        9,
        None,
    ),
    (
        "LOG_FOR_POW",
        "the same, for float32's pow, which is computed in float64 to some 35 bits",
        lambda f: (mp.log1p(f) - f + f * f / 2) / f**3,
        (S0 * mp.mpf("1.001"), S1 * mp.mpf("1.001")),
        None,
        14,
    ),
    (
        "EXP_FOR_POW",
        "(exp(r) - 1 - r) / r^2, |r| <= ln(2)/2, to some 35 bits",
        lambda r: (mp.exp(r) - 1 - r) / r**2,
        (-HALF_LN2, HALF_LN2),
        None,
        7,
    ),
    (
        "LOG_RATIO",
        "(log((1+s)/(1-s)) - 2s) / s^3 in s^2, s = f/(2+f)",
        root(lambda s: (mp.log((1 + s) / (1 - s)) - 2 * s) / s**3),
        (0, SMAX2),
        None,
        8,
    ),
    (
        "ATANH_TAIL",
        "(atanh(s)/s - 1 - s^2/3) / s^4 in s^2, s = f/(2+f): the tail of pow's double-double log",
        root(lambda s: (mp.atanh(s) / s - 1 - s * s / 3) / s**4),
        (0, SMAX2),
        None,
        11,
    ),
    ("SIN", "(sin(r) - r) / r^3 in r^2, |r| <= pi/4", root(lambda r: (mp.sin(r) - r) / r**3), (0, PI4), 4, 7),
    (
        "COS",
        "(cos(r) - 1 + r^2/2) / r^4 in r^2, |r| <= pi/4",
        root(lambda r: (mp.cos(r) - 1 + r * r / 2) / r**4),
        (0, PI4),
        4,
        7,
    ),
    ("ERF", "(erf(x) - x) / x in x^2, |x| <= 1", root(lambda x: mp.erf(x) / x - 1), (0, 1), 8, 15),
    ("MILLS", "e^(a^2/2) ndtr(-a) / t in q = 6 t - 1, t = 1/(a + 3), a >= 0", mills, MILLS, 9, 25),
    ("ATAN", "(atan(x) - x) / x^3 in x^2, |x| <= 1", root(lambda x: (mp.atan(x) - x) / x**3), (0, 1), 11, 23),
    (
        "ASIN",
        "(asin(x) - x) / x^3 in x^2, |x| <= 1/2",
        root(lambda x: (mp.asin(x) - x) / x**3),
        (0, mp.mpf("0.2501")),
        7,
        14,
    ),
]

if __name__ == "__main__":
    print(HEADER)
    for name, comment, fn, interval, *terms in TABLES:
        print(f"#: {comment}")
        print(f"{name} = {{")
        for dtype, count in zip(("float32", "float64"), terms, strict=True):
            if count:
                low, high = interval[dtype] if isinstance(interval, dict) else interval
                print(f'    "{dtype}": (')
                for c in chebyshev_interpolant(fn, low, high, count):
                    print(f"        {round_to(c, dtype)!r},")
                print("    ),")
        print("}\n")
