"""Parts b, e and f: what a step costs, how much memory it takes, where it waits for the device."""

import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from accelerate.state import AcceleratorState

from benchmarks import step_cost
from benchmarks.gpu.scene import Scene
from benchmarks.step_cost import OFFICIAL, ONLINE, PLAIN, PRECOMPUTED, Step, World
from drtune.base.numeric import set_numeric_state

PRECISIONS = ("bf16", "no")
QUICK: dict[str, dict[str, object]] = {"delta": {"channel_weights": "uniform"}}
"""What spares a method a long preparation and leaves its step as it is."""
PROJECT = Path(__file__).resolve().parents[2]


def worlds(scene: Scene) -> Iterator[tuple[str, World]]:
    """Every network, precision and number of classes; the most wanted first."""
    set_numeric_state(0, torch.get_num_threads(), deterministic=True)
    for precision in PRECISIONS:
        for name, kwargs, size in scene.networks:
            backbone = scene.backbone(name, kwargs, size)
            for classes in scene.classes:
                AcceleratorState._reset_state(True)  # another precision needs another accelerator
                params = scene.settings()
                shape = scene.bank, precision, scene.batch
                kind = "float32" if precision == "no" else precision
                title = f"{name}, {kind}, C = {classes}"
                yield title, World(params, backbone, classes, scene.device, *shape)


def builders(world: World) -> dict[str, Callable[[], Step]]:
    """The four contenders, not yet built."""
    ring: dict[str, object] = {"bank_size": world.bank_size}
    return {
        PLAIN: lambda: step_cost.ours("finetune", {}, world),
        PRECOMPUTED: lambda: step_cost.ours("dr_tune", ring | {"bank": "precomputed"}, world),
        ONLINE: lambda: step_cost.ours("dr_tune", ring | {"bank": "online"}, world),
        OFFICIAL: lambda: step_cost.official(world.contiguous()),
    }


def cost(scene: Scene) -> dict[str, Any]:
    """Milliseconds of a step and its ratio to a plain one, over rounds of one rotation period."""
    found: dict[str, Any] = {}
    for title, world in worlds(scene):
        if found and time.monotonic() > scene.until:
            break
        steps = {name: build() for name, build in builders(world).items()}
        rounds = step_cost.measure(world, scene.rounds, steps, scene.until)
        found[title] = {
            name: {
                "milliseconds": round(1000 * median(times[name] for times in rounds), 3),
                "of_plain": spread([times[name] / times[PLAIN] for times in rounds]),
                "rounds": len(rounds),
            }
            for name in steps
        }
        ratios = [times[OFFICIAL] / times[PRECOMPUTED] for times in rounds]
        found[title]["official cost / ours"] = spread(ratios)
        scene.save(found)
    return found


def spread(values: list[float]) -> list[float]:
    """First quartile, median, third quartile."""
    if len(values) < 2:
        return [round(values[0], 4)] * 3
    return [round(value, 4) for value in quantiles(values, method="inclusive")]


def memory(scene: Scene) -> dict[str, Any]:
    """Most memory of three steps of each contender alone, in MiB."""
    if scene.device.type != "cuda":
        return {"skipped": "the allocator counts on CUDA alone"}
    found: dict[str, Any] = {}
    for title, world in worlds(scene):
        if time.monotonic() > scene.until:
            break
        found[title] = {}
        for name, build in builders(world).items():
            torch.cuda.empty_cache()
            before = torch.cuda.memory_allocated()
            step = build()
            torch.cuda.reset_peak_memory_stats()
            for number in range(3):
                step(number)
            torch.cuda.synchronize()
            found[title][name] = round((torch.cuda.max_memory_allocated() - before) / 2**20, 1)
            del step
        scene.save(found)
    return found


def waits(scene: Scene) -> dict[str, Any]:
    """Where the step of each method waits for the device: file, line and how often in one rotation period."""
    if scene.device.type != "cuda":
        return {"skipped": "PyTorch watches for waits on CUDA alone"}
    found: dict[str, Any] = {}
    name, kwargs, size = scene.networks[0]
    set_numeric_state(0, torch.get_num_threads(), deterministic=True)
    backbone = scene.backbone(name, kwargs, size)
    shape = scene.bank, "bf16", scene.batch
    world = World(scene.settings(), backbone, scene.classes[-1], scene.device, *shape)
    for method in scene.methods:
        if time.monotonic() > scene.until:
            break
        try:
            change = QUICK.get(method, {})
            found[method] = waits_of(step_cost.ours(method, change, world), world.every)
        except Exception:
            found[method] = {"fault": traceback.format_exc()[-1500:]}
        torch.cuda.empty_cache()
        scene.save(found)
    return found


def waits_of(step: Step, every: int) -> dict[str, int]:
    """Place -> number of waits in a rotation period, after one that warms up."""
    for number in range(every):
        step(number)
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for number in range(every):
                step(number)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    places: dict[str, int] = {}
    for one in heard:
        if "called a synchronizing CUDA operation" in str(one.message):
            path = Path(one.filename)
            shown = path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else Path(*path.parts[-3:])
            place = f"{shown}:{one.lineno}"
            places[place] = places.get(place, 0) + 1
    return places
