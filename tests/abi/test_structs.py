"""What Python packs is what the object means: sizes, offsets and numbers out of its BTF."""

from __future__ import annotations

import json
import re
import subprocess
from functools import cache
from pathlib import Path
from struct import Struct
from typing import Any

import pytest

from support import need_program
from viscum import names
from viscum.kernel.director import abi
from viscum.kernel.director.ebpf import OBJECT, default_sizes
from viscum.kernel.director.steps import LRU_SIZES
from viscum.model import SteerGeneration, SteerInstance, SteerService

pytestmark = pytest.mark.req("N13")
HEADER = Path(OBJECT).with_name("viscum.h")


@cache
def btf() -> tuple[dict[int, dict[str, Any]], dict[str, dict[str, Any]]]:
    """The object's types by number and by name."""
    need_program("bpftool")
    if not OBJECT.exists():
        pytest.skip("the BPF object is not built")
    done = subprocess.run(
        ["bpftool", "-j", "btf", "dump", "file", str(OBJECT)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    types = {t["id"]: t for t in json.loads(done.stdout)["types"]}
    return types, {t["name"]: t for t in types.values() if t["kind"] in ("STRUCT", "ENUM")}


def members(name: str) -> dict[str, tuple[int, int]]:
    """Of a struct: offset and size by member, in bytes."""
    types, by_name = btf()

    def size(number: int) -> int:
        kind = types[number]
        while kind["kind"] in ("TYPEDEF", "CONST", "VOLATILE"):
            kind = types[kind["type_id"]]
        if kind["kind"] == "ARRAY":
            return int(kind["nr_elems"]) * size(kind["type_id"])
        return int(kind["size"])

    return {
        m["name"]: (m["bits_offset"] // 8, size(m["type_id"])) for m in by_name[name]["members"]
    }


def offsets(struct: Struct) -> list[tuple[int, int]]:
    """Offset and size of each value of a format."""
    form = struct.format
    items = re.findall(r"(\d*)([a-zA-Z])", form)
    found, at = [], 0
    for count, letter in items:
        if letter in "sx":
            length = int(count or 1)
            if letter == "s":
                found.append((at, length))
            at += length
            continue
        length = Struct("=" + letter).size
        for _ in range(int(count or 1)):
            found.append((at, length))
            at += length
    assert at == struct.size
    return found


@pytest.mark.parametrize(
    ("name", "struct", "left_out"),
    [
        ("v_prefix", abi.PREFIX, ()),
        ("v_port", abi.PORT, ("pad",)),
        ("v_client", abi.CLIENT, ()),
        ("v_link", abi.LINK, ()),
        ("v_flow_key", abi.FLOW_KEY, ("pad",)),
        ("v_flow", abi.FLOW, ()),
        ("v_config", abi.CONFIG, ()),
        ("v_instance", abi.INSTANCE, ()),
    ],
)
def test_plain_structs(name: str, struct: Struct, left_out: tuple[str, ...]) -> None:
    there = [place for member, place in members(name).items() if member not in left_out]
    assert offsets(struct) == there
    assert struct.size == btf()[1][name]["size"]


def test_structs_with_arrays() -> None:
    service, generation = members("v_service"), members("v_generation")
    assert service["interfaces"] == (
        abi.SERVICE.size - 4 * abi.MAX_INTERFACES, 4 * abi.MAX_INTERFACES,
    )  # fmt: skip
    others = ("pad", "interfaces", "gen")
    scalars = [place for name, place in service.items() if name not in others]
    assert offsets(abi.SERVICE)[: len(scalars)] == scalars
    assert service["gen"][0] == abi.SERVICE.size
    assert btf()[1]["v_service"]["size"] == abi.SERVICE_SIZE
    assert generation["inst"] == (abi.GENERATION.size, abi.MAX_INSTANCES * abi.INSTANCE.size)
    assert btf()[1]["v_counters"]["size"] == abi.COUNTERS.size
    counters, histogram = members("v_counters"), members("v_histogram")
    sums = ["in_bytes", "out_bytes", "own_in_bytes", "own_out_bytes"]
    assert list(counters) == [*sums, "packets", "connect", "rtt"]
    assert counters["packets"] == (32, 8 * len(abi.REASONS))
    assert counters["connect"] == (32 + 8 * len(abi.REASONS), 8 + 8 * abi.BUCKETS)
    assert histogram == {"sum_us": (0, 8), "bucket": (8, 8 * abi.BUCKETS)}


def test_reasons() -> None:
    values = btf()[1]["v_reason"]["values"]
    in_order = [v["name"] for v in sorted(values, key=lambda v: v["val"])]
    assert in_order == [
        *("V_" + reason.upper().replace("-", "_") for reason in abi.REASONS), "V_REASONS",
    ]  # fmt: skip


def test_macros() -> None:
    """Macros are not in BTF: read from the header that both sides name."""
    text = HEADER.read_text()
    found = dict(re.findall(r"^#define (V_\w+)\s+\(?(0x[0-9a-f]+u?|1u << \d+|\d+)\)?", text, re.M))
    number = {k: eval(v.replace("u", "")) for k, v in found.items()}  # of our own header
    assert (number["V_ABI"], number["V_MARK"]) == (abi.ABI, names.MARK)
    limits = ("GENERATIONS", "INSTANCES", "INTERFACES")
    assert [number[f"V_MAX_{n}"] for n in limits] == [getattr(abi, f"MAX_{n}") for n in limits]
    assert [number[f"V_MAX_{n}"] for n in limits] == [getattr(names, f"MAX_{n}") for n in limits]
    flags = ("ENABLED", "DROP", "QUIC", "PING", "SHARE_FLOW", "HONOUR", "CLIENTS", "ACCEPTING")
    assert [number[f"V_{n}"] for n in flags] == [getattr(abi, n) for n in flags]
    assert tuple(number[f"V_DRY_RUN{n}"] for n in range(3)) == abi.DRY_RUN
    assert number["V_DRY_RUN_DONE"] == abi.DRY_RUN_DONE


def test_maps_that_the_shell_form_makes() -> None:
    sizes = {name: struct["size"] for name, struct in btf()[1].items() if "size" in struct}
    key = sizes["v_flow_key"]
    assert {
        "flows": (key, sizes["v_flow"]),
        "replies": (sizes["v_reply_key"], sizes["v_addr"]),
        "syns": (key, sizes["v_syn"]),
        "away": (key, 8),
        "frags": (sizes["v_frag_key"], sizes["v_frag"]),
    } == LRU_SIZES
    assert default_sizes().keys() == LRU_SIZES.keys()


def service(**changes: Any) -> SteerService:
    plain: dict[str, Any] = {
        "sid": 1, "name": "web", "enabled": True, "interfaces": (7,), "targets": (), "ports": (),
        "clients": (), "generations": (),
    }  # fmt: skip
    return SteerService(**(plain | changes))


def test_a_service_is_packed_where_the_struct_says() -> None:
    instance = SteerInstance(slot=5, ifindex=77, nsid=88)
    one = SteerGeneration(3, True, (instance,))
    two = SteerGeneration(2, False, (instance, instance))
    packed = abi.service(service(generations=(one, two), share=50, udp_epoch=9), seed=0xABCD)

    def field(name: str, size: int = 4, base: int = 0, of: str = "v_service") -> int:
        at = base + members(of)[name][0]
        return int.from_bytes(packed[at : at + size], "little")

    assert len(packed) == abi.SERVICE_SIZE
    assert field("sid") == 1
    assert field("flags") == abi.ENABLED
    assert field("share", 8) == 1 << 31
    assert (field("udp_epoch"), field("seed")) == (9, 0xABCD)
    assert (field("n_interfaces"), field("n_generations"), field("interfaces")) == (1, 2, 7)
    assert field("n_admitting") == 1
    generations = members("v_service")["gen"][0]
    step = btf()[1]["v_generation"]["size"]
    for index, (number, flags, n) in enumerate(((3, abi.ACCEPTING, 1), (2, 0, 2))):
        base = generations + index * step
        got = [field(f, base=base, of="v_generation") for f in ("number", "flags", "n")]
        assert got == [number, flags, n]
        inside = base + members("v_generation")["inst"][0]
        got = [field(f, base=inside, of="v_instance") for f in ("ifindex", "nsid", "slot")]
        assert got == [77, 88, 5]


def test_interfaces_that_were_given_up_come_last_as_far_as_they_fit() -> None:
    packed = abi.service(service(interfaces=(7, 8), held=tuple(range(20, 30))), 0)
    fields = abi.SERVICE.unpack_from(packed)
    assert fields[8:] == (0, 8, 2, 7, 8, 20, 21, 22, 23, 24, 25)


@pytest.mark.parametrize(
    "changes",
    [
        {"interfaces": tuple(range(1, 10))},
        {"generations": (SteerGeneration(1, True, ()),) * 5},
        {"generations": (SteerGeneration(1, True, (SteerInstance(1, 1, 1),) * 9),)},
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="too many"):
        abi.service(service(**changes), 0)
