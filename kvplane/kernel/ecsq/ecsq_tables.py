#!/usr/bin/env python3
"""Prints ecsq_tables.h: how the stages ecsq and ternary use the class ladder (kvplane/codec/ecsq/spec.md).

    python3 kvplane/kernel/ecsq/ecsq_tables.py > kvplane/kernel/ecsq/ecsq_tables.h

ecsq_tables_test.cc derives the same numbers on its own. The model of the data is that of the class ladder:
7/8 Gaussian plus 1/8 Laplace of the same standard deviation.
"""
import math
import pathlib
import re
import struct

LAPLACE_SHARE = 1 / 8
# Bits that a squared error of one step^2 is worth: the slope of the rate-distortion line at high rate.
SLOPE = 12 / (2 * math.log(2))
LADDER = 33
COST_ROWS = 45  # deviations 2^(j / 4) / 4 steps
ESCAPE_BITS = 36  # position and value of one escape, about
# Levels beyond the range from which an escape pays. The squared error alone would say 2; on a model clipped
# outliers cost more than their squares (spec.md, section 6).
ESCAPE_EXCESS = 0.75
# Below this log2(deviation / step), in 1/64 octaves, a lane is left out. The squared error alone would say -94;
# lanes that lie idle on the calibration text carry what unfamiliar text needs.
DROP_BELOW = -160
COST_UNITS = 256  # per bit


def read_classes():
    text = (pathlib.Path(__file__).parent.parent / "rans" / "rans_class_tables.h").read_text()
    return [(int(m), [int(f) for f in table.split(",")])
            for m, table in re.findall(r"\{(\d+), \{([\d, ]+)\}\}", text)]


CLASSES = read_classes()


def ladder_rung(k):
    """RansLadderRung() of kernel/rans/rans.h: class and bypass count."""
    bypass = 0 if k < 14 else min((k - 10) // 4, 4)
    return k - 4 * bypass, bypass


def tail_moments(a, sigma):
    """Integrals of 1, x and x^2 times the density over (a, inf), a >= 0."""
    z = a / sigma
    p = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    q = 0.5 * math.erfc(z / math.sqrt(2))
    gauss = (q, sigma * p, sigma * sigma * (q + z * p))
    b = sigma / math.sqrt(2)
    e = 0.5 * math.exp(-a / b)
    laplace = (e, e * (a + b), e * (a * a + 2 * a * b + 2 * b * b))
    return [(1 - LAPLACE_SHARE) * g + LAPLACE_SHARE * l for g, l in zip(gauss, laplace)]


def cost(sigma, k, slope=SLOPE):
    """Bits per value, distortion included at `slope`, of coding deviation `sigma` (in steps) with ladder rung k.
    What lies ESCAPE_EXCESS beyond its range is escaped."""
    rans_class, bypass = ladder_rung(k)
    m, frequency = CLASSES[rans_class]
    half = (1 << bypass) >> 1
    highest = (m << bypass) + max(half - 1, 0)
    lowest = -(m << bypass) - half
    limit = highest + ESCAPE_EXCESS
    total = 0.0
    for side in (1, -1):
        end = highest if side > 0 else -lowest
        for n in range(end + 1):
            begin = 0.0 if n == 0 else n - 0.5
            upper = tail_moments(n + 0.5 if n < end else limit, sigma)
            p0, p1, p2 = [x - y for x, y in zip(tail_moments(begin, sigma), upper)]
            total += slope * (p2 - 2 * n * p1 + n * n * p0)
            symbol = ((side * n + half) >> bypass) + m
            total += p0 * (7 - math.log2(frequency[symbol]) + bypass)
        beyond = tail_moments(limit, sigma)[0]
        symbol = ((side * end + half) >> bypass) + m
        total += beyond * (ESCAPE_BITS + 7 - math.log2(frequency[symbol]) + bypass)
    return total


def sigma_of(j):
    return 0.25 * 2 ** (j / 4)


def costs():
    rows = []
    for j in range(COST_ROWS):
        row = [cost(sigma_of(j), k) for k in range(LADDER)]
        rows.append([min(65535, round(c * COST_UNITS)) for c in row])
    return rows


def level_size(sigma):
    """Mean magnitude of the levels."""
    return 2 * sum(tail_moments(n - 0.5, sigma)[0] for n in range(1, math.ceil(40 * sigma) + 40))


def ternary(sigma):
    """Frequencies of the folded symbols -1, 0, 1 below a parent level of magnitude 0, 1, 2 and more."""
    contexts = []
    for parents in ([0], [1], range(2, 400)):
        mass = [0.0, 0.0, 0.0]
        for p in parents:
            for r in (-1, 0, 1):
                centre = p + r / 3
                lower, upper = centre - 1 / 6, centre + 1 / 6
                if lower < 0:
                    mass[r + 1] += tail_moments(max(0.0, -upper), sigma)[0] - tail_moments(-lower, sigma)[0]
                    if upper > 0:
                        mass[r + 1] += 1 - 2 * tail_moments(0, sigma)[0]
                        mass[r + 1] += 2 * (tail_moments(0, sigma)[0] - tail_moments(upper, sigma)[0])
                        mass[r + 1] -= tail_moments(0, sigma)[0] - tail_moments(upper, sigma)[0]
                else:
                    mass[r + 1] += tail_moments(lower, sigma)[0] - tail_moments(upper, sigma)[0]
        total = sum(mass)
        share = [x / total for x in mass] if total > 1e-30 else [1 / 3] * 3
        best = None
        for f0 in range(1, 127):
            for f1 in range(1, 128 - f0):
                f = (f0, f1, 128 - f0 - f1)
                if len(parents) == 1 and parents[0] == 0 and f[0] != f[2]:
                    continue
                bits = -sum(s * math.log2(x / 128) for s, x in zip(share, f))
                if best is None or bits < best[0] - 1e-12:
                    best = (bits, f)
        contexts.append(best[1])
    return contexts


def hex_float(x):
    """A binary32 literal: x rounded to nearest."""
    rounded = struct.unpack("f", struct.pack("f", x))[0]
    mantissa, exponent = rounded.hex().split("p")
    return mantissa[:-7] + "p" + exponent.lstrip("+") + "f"


def main():
    print("""// Generated by ecsq_tables.py; do not edit. Constants of the stages ecsq and ternary
// (kvplane/codec/ecsq/spec.md): kEcsqDropBelow, kEcsqForetoldRung and the frequencies are normative, a change
// is another codec; the rest is the encoder's choice.
#pragma once

#include <cstdint>

namespace kvplane::kernel {

constexpr uint32_t kEcsqLadder = 33;    // rungs: RansLadderRung(k)
constexpr uint32_t kEcsqCostRows = 45;  // deviations 2^(j / 4) / 4 steps
constexpr uint32_t kEcsqCostUnits = 256;
constexpr float kEcsqEscapeExcess = 0.75f;  // levels beyond a rung's range from which escapes pay
constexpr uint32_t kEcsqEscapeBits = 36;    // what one costs, about

// Below this log2(deviation / step), in 1/64 octaves, a lane is left out.
constexpr int32_t kEcsqDropBelow = %d;
""" % DROP_BELOW)
    rows = costs()
    foretold = ", ".join(str(min(range(LADDER), key=row.__getitem__)) for row in rows[:LADDER])
    exp2 = "\n".join("    " + ", ".join(hex_float(2 ** ((first + k) / 64)) for k in range(4)) + ","
                     for first in range(0, 64, 4))
    print("""// clang-format off
// The rung foretold for a group whose mean of that logarithm is 16 j - 128.
inline constexpr uint8_t kEcsqForetoldRung[kEcsqLadder] = {%s};

// 2^(k / 64), rounded to binary32.
constexpr uint32_t kExp2Steps = 64;
inline constexpr float kExp2[kExp2Steps] = {
%s
};

// Bits of a value of deviation 2^(j / 4) / 4 steps coded by rung k, in 1/256, squared error included at
// 6 / ln 2 bits a squared step.
inline constexpr uint16_t kEcsqCost[kEcsqCostRows][kEcsqLadder] = {""" % (foretold, exp2))
    for row in rows:
        print("    {" + ", ".join(map(str, row)) + "},")
    sizes = ", ".join(str(round(level_size(sigma_of(j)) * COST_UNITS)) for j in range(COST_ROWS))
    print("""};

// The mean magnitude of the levels of such values, in 1/256.
inline constexpr uint32_t kEcsqLevelSize[kEcsqCostRows] = {%s};""" % sizes)
    print("""
// Bits alone: what the base of `ternary` takes.
inline constexpr uint16_t kTernaryCost[kEcsqCostRows][kEcsqLadder] = {""")
    for j in range(COST_ROWS):
        row = [cost(sigma_of(j), k, 0) for k in range(LADDER)]
        print("    {" + ", ".join(str(min(65535, round(c * COST_UNITS))) for c in row) + "},")
    print("""};

// Frequencies, of 128, of the refinement symbols -1, 0, 1 (folded by the parent's sign) below parent levels of
// magnitude 0, 1, 2 and more, where the parents' deviation is 2^(k / 4) / 4 of their steps.
constexpr uint32_t kTernaryTables = 17;
inline constexpr uint8_t kTernaryFrequency[kTernaryTables][3][3] = {""")
    for k in range(17):
        print("    {" + ", ".join("{%d, %d, %d}" % f for f in ternary(sigma_of(k))) + "},")
    print("""};
// clang-format on

}  // namespace kvplane::kernel""")


main()
