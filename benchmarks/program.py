"""Reads kernels, the bytes that they move through memory, and collectives from the HLO text of a compiled program."""

import collections
import math
import re
from collections.abc import Iterable

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
FREE = {"parameter", "get-tuple-element", "tuple", "bitcast", "constant", "after-all", "partition-id", "iota"}
SLICES = {"slice", "dynamic-slice", "gather"}
# "bf16[256,384]{1,0:T(8,128)S(1)}": dtype, shape, layout; S(1) and above is on-chip memory.
SHAPE = re.compile(r"\b([a-z]+[0-9]*)\[([0-9,]*)\](?:\{([^}]*)\})?")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
INSTRUCTION = re.compile(r"(?:ROOT )?%([\w.\-]+) = (.*?) ([a-z][\w\-]*)\((.*)$")
ON_CHIP = re.compile(r"S\([1-9]")

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# "%name = (f32[8,4]{1,0}, s32[]) all-reduce-start(...)"; the result's shapes, and the kind.
COLLECTIVE = re.compile(rf"= (\(?[a-z0-9]+\[.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(")

Kernel = collections.namedtuple("Kernel", "name kind op bytes")


def size(text: str, on_chip: bool = False) -> int:
    """Return the bytes of all shapes in a text; those in on-chip memory count only with `on_chip`."""
    return sum(
        BYTES[dtype] * math.prod(int(n) for n in sides.split(",") if n)
        for dtype, sides, layout in SHAPE.findall(text)
        if dtype in BYTES and (on_chip or not ON_CHIP.search(layout))
    )


def collectives(text: str) -> dict[str, list[int]]:
    """Return the collectives of a program, `{kind: [count, bytes of their results]}`."""
    found = {}
    for line in text.splitlines():
        match = COLLECTIVE.search(line)
        if match:
            entry = found.setdefault(match.group(2), [0, 0])
            entry[0], entry[1] = entry[0] + 1, entry[1] + size(match.group(1), on_chip=True)
    return found


def kernels(text: str) -> list[Kernel]:
    """Return the kernels that a program launches, `[Kernel]`.

    Loops count as often as their known trip count, conditionals with their largest branch. `bytes` are those of a
    kernel's results and of what it reads of its operands.
    """
    computations, entry = _computations(text)
    return _of(computations, entry)


def _computations(text: str) -> tuple[dict[str, list[tuple]], str]:
    found, current, entry = {}, None, None
    for line in text.splitlines():
        head = COMPUTATION.match(line)
        if head:
            current = found.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif current is not None:
            match = INSTRUCTION.match(line.strip())
            if match:
                current.append((*match.groups(), line))
    if entry is None:
        raise ValueError("the text of the program has no ENTRY computation")
    return found, entry


def _of(computations: dict[str, list[tuple]], name: str) -> list[Kernel]:
    instructions, rows = computations[name], []
    types = {name: result for name, result, *_ in instructions}
    for name, result, opcode, rest, line in instructions:
        if opcode in FREE or opcode.endswith("-done"):
            continue
        if opcode == "conditional":
            branches = re.search(r"branch_computations=\{(.*?)\}", line) or re.search(r"true_computation=.*", line)
            bodies = [_of(computations, b) for b in re.findall(r"%([\w.\-]+)", branches.group(0)) if b in computations]
            rows += max(bodies, key=lambda body: sum(k.bytes for k in body))
        elif opcode in ("while", "call"):
            body = re.search(r"(?:body|to_apply)=%([\w.\-]+)", line).group(1)
            rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            rows += _of(computations, body) * (int(rounds.group(1)) if rounds else 1)
        else:
            called = re.search(r"calls=%([\w.\-]+)", line)
            read = _read(computations.get(called.group(1), ())) if called else {}
            operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
            # A library's scratch memory is not traffic.
            result = re.sub(r"s8\[\d+\]", "", result) if opcode == "custom-call" else result
            moved = size(result)
            moved += sum(read.get(i, size(types.get(operand, ""))) for i, operand in enumerate(operands))
            op = re.search(r'op_name="([^"]*)"', line)
            rows.append(Kernel(name, _kind(opcode, line), op.group(1) if op else "", moved))
    return rows


def _read(instructions: Iterable[tuple]) -> dict[int, int]:
    """Return `{parameter number: bytes}` of the parameters that a fused computation only reads slices of."""
    users, numbers, found = {}, {}, {}
    for name, result, opcode, rest, _ in instructions:
        if opcode == "parameter":
            numbers[name] = int(rest.split(")")[0])
        for operand in re.findall(r"%([\w.\-]+)", rest.split("), ")[0]):
            users.setdefault(operand, []).append((name, result, opcode))

    def parts(name):
        for user, result, opcode in users.get(name, ()):
            if opcode == "bitcast":
                yield from parts(user)
            else:
                yield size(result) if opcode in SLICES else None

    for name, number in numbers.items():
        sizes = list(parts(name))
        if sizes and None not in sizes:
            found[number] = sum(sizes)
    return found


def _kind(opcode: str, line: str) -> str:
    called = re.search(r'custom_call_target="([^"]+)"', line)
    if called:
        return called.group(1)
    if opcode != "fusion":
        return opcode.removesuffix("-start")
    product = re.search(r'"kind":"_*(\w*gemm\w*)"', line)
    return "matrix product" if product else "fusion, " + re.search(r"kind=k(\w+)", line).group(1).lower()
