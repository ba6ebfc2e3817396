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
ESCAPE_EXCESS = 2.0  # levels beyond the range from which an escape is cheaper than clipping
COST_UNITS = 256  # per bit
SCALE_UNITS = 64


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


def cost(sigma, k, narrow, shrink, slope=SLOPE):
    """Bits per value, distortion included at `slope`, of coding deviation `sigma` (in steps) with ladder rung k.
    Levels are rint(x * narrow) and decode as level * shrink; what lies ESCAPE_EXCESS beyond is escaped."""
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
            begin = 0.0 if n == 0 else (n - 0.5) / narrow
            upper = tail_moments((n + 0.5) / narrow if n < end else limit, sigma)
            p0, p1, p2 = [x - y for x, y in zip(tail_moments(begin, sigma), upper)]
            point = n * shrink
            total += slope * (p2 - 2 * point * p1 + point * point * p0)
            symbol = ((side * n + half) >> bypass) + m
            total += p0 * (7 - math.log2(frequency[symbol]) + bypass)
        beyond = tail_moments(limit, sigma)[0]
        symbol = ((side * end + half) >> bypass) + m
        total += beyond * (ESCAPE_BITS + 7 - math.log2(frequency[symbol]) + bypass)
    return total


def sigma_of(j):
    return 0.25 * 2 ** (j / 4)


def best_scales(k, deviations):
    """The pair (narrow, shrink), in SCALE_UNITS, of least mean cost over the deviations: coordinate descent."""
    narrow = shrink = SCALE_UNITS - 8

    def total(n, s):
        return sum(cost(sigma_of(j), k, n / SCALE_UNITS, s / SCALE_UNITS) for j in deviations)

    best = total(narrow, shrink)
    while True:
        moves = [(narrow + dn, shrink + ds) for dn in (-1, 0, 1) for ds in (-1, 0, 1) if (dn, ds) != (0, 0)]
        found = min((total(n, s), n, s) for n, s in moves if 16 <= n <= SCALE_UNITS and 16 <= s)
        if found[0] >= best:
            return narrow, shrink
        best, narrow, shrink = found


def scales():
    """Each class without bypass is fitted to the deviations that it codes best."""
    table = []
    for k in range(LADDER):
        if ladder_rung(k)[1] > 0 or k > 10:
            table.append((SCALE_UNITS, SCALE_UNITS))
            continue
        # Classes of less than half a step code data that is somewhat wider than the class was made for.
        centre = k + max(0.0, 2.5 - k / 2)
        table.append(best_scales(k, [centre - 0.5, centre, centre + 0.5]))
    return table


def costs(table):
    rows = []
    for j in range(COST_ROWS):
        row = [cost(sigma_of(j), k, n / SCALE_UNITS, s / SCALE_UNITS) for k, (n, s) in enumerate(table)]
        rows.append([min(65535, round(c * COST_UNITS)) for c in row])
    return rows


def drop_threshold():
    """The least deviation, in 1/64 octaves of a step, that is worth coding with rung 0."""
    narrow, shrink = TABLE[0]
    ratio = -160
    while True:
        sigma = 2 ** (ratio / 64)
        if cost(sigma, 0, narrow / SCALE_UNITS, shrink / SCALE_UNITS) < SLOPE * sigma * sigma:
            return ratio
        ratio += 1


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


TABLE = scales()


def main():
    print("""// Generated by ecsq_tables.py; do not edit. Constants of the stages ecsq and ternary
// (kvplane/codec/ecsq/spec.md): `shrink` and the frequencies are normative, a change is another codec; the
// rest is the encoder's choice.
#pragma once

#include <cstdint>

namespace kvplane::kernel {

constexpr uint32_t kEcsqLadder = 33;   // rungs: RansLadderRung(k)
constexpr uint32_t kEcsqCostRows = 45;  // deviations 2^(j / 4) / 4 steps
constexpr uint32_t kEcsqCostUnits = 256;
constexpr float kEcsqEscapeExcess = 2.0f;  // levels beyond a rung's range from which escapes pay
constexpr uint32_t kEcsqEscapeBits = 36;   // what one costs, about

// In 1/64: levels are rint(x * narrow / step), values are level * step * shrink.
struct EcsqRungScale {
  uint8_t narrow;
  uint8_t shrink;
};
// clang-format off
inline constexpr EcsqRungScale kEcsqRungScale[kEcsqLadder] = {""")
    rows = costs(TABLE)
    foretold = ", ".join(str(min(range(LADDER), key=row.__getitem__)) for row in rows[:LADDER])
    exp2 = "\n".join("    " + ", ".join(hex_float(2 ** ((first + k) / 64)) for k in range(4)) + ","
                     for first in range(0, 64, 4))
    for first in range(0, LADDER, 11):
        print("    " + " ".join(f"{{{n}, {s}}}," for n, s in TABLE[first:first + 11]))
    print("""};

// Below this log2(deviation / step), in 1/64 octaves, a lane is cheaper left out than coded.
constexpr int32_t kEcsqDropBelow = %d;

// The rung foretold for a group whose mean of that logarithm is 16 j - 128.
inline constexpr uint8_t kEcsqForetoldRung[kEcsqLadder] = {%s};

// 2^(k / 64), rounded to binary32.
constexpr uint32_t kExp2Steps = 64;
inline constexpr float kExp2[kExp2Steps] = {
%s
};

// Bits of a value of deviation 2^(j / 4) / 4 steps coded by rung k, in 1/256, squared error included at
// 6 / ln 2 bits a squared step.
inline constexpr uint16_t kEcsqCost[kEcsqCostRows][kEcsqLadder] = {""" % (drop_threshold(), foretold, exp2))
    for row in rows:
        print("    {" + ", ".join(map(str, row)) + "},")
    print("""};

// Bits alone, levels neither narrowed nor shrunk: what the base of `ternary` takes.
inline constexpr uint16_t kTernaryCost[kEcsqCostRows][kEcsqLadder] = {""")
    for j in range(COST_ROWS):
        row = [cost(sigma_of(j), k, 1, 1, 0) for k in range(LADDER)]
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
