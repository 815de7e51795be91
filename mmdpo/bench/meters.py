"""Instruments of one process: seconds and memory of a step, rows through the encoder, gradients, matrix products."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from mmdpo.models.families import facts_of
from mmdpo.models.load import encoder_modules


class StepClock:
    """Seconds between two moments, with everything that was given to the device done."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.start = 0.0

    def begin(self) -> None:
        """Starts."""
        synchronize(self.device)
        self.start = time.perf_counter()

    def read(self) -> float:
        """Seconds since the start."""
        synchronize(self.device)
        return time.perf_counter() - self.start


class StepMemory:
    """Most memory that a step takes beyond what is there before it: weights and the optimizer's state.

    On a GPU this is the allocator's own peak. On a CPU, where the system gives pages back when it likes, torch's
    allocations are summed one by one as the profiler hears of them: the same count, free of noise.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.before = 0
        self._profile: Any = None

    def begin(self) -> None:
        """Starts; gradients and activations of earlier steps must be gone."""
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        self._profile = torch.profiler.profile(activities=activities, profile_memory=True)
        self._profile.start()

    def read(self) -> dict[str, int]:
        """``peak_bytes`` beyond the start; on a GPU ``at_rest_bytes`` too."""
        if self.device == "cuda":
            peak = torch.cuda.max_memory_allocated() - self.before
            return {"peak_bytes": peak, "at_rest_bytes": self.before}
        self._profile.stop()
        held = peak = 0
        for event in self._profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                peak = max(peak, held)
        return {"peak_bytes": peak}


class EncoderRows:
    """Counts rows through the encoder's first linear layer: recomputed passes are counted as well.

    Args:
        model: The Hugging Face model.
    """

    def __init__(self, model: Any) -> None:
        towers = encoder_modules(model, facts_of(model))
        first = next(module for tower in towers for module in tower.modules() if isinstance(module, nn.Linear))
        self.rows = 0
        first.register_forward_hook(self._count)

    def _count(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        del module, args
        self.rows += output.numel() // output.shape[-1]

    def read(self) -> int:
        """Rows since the last time."""
        rows, self.rows = self.rows, 0
        return rows


class GradientNorm:
    """The first step's gradient norm."""

    def __init__(self) -> None:
        self.value: float | None = None

    def take(self, model: nn.Module) -> None:
        """Reads it, once."""
        if self.value is None:
            squares = [p.grad.float().square().sum() for p in model.parameters() if p.grad is not None]
            self.value = float(torch.stack(squares).sum().sqrt())


def synchronize(device: str) -> None:
    """Waits until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def matrix_rate(device: str, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Floating-point operations a second of large matrix products, the best of several sizes.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: Precision.
        seconds: How long to try each size.
    """
    sizes = (1024, 2048) if device == "cpu" else (4096, 8192)
    return max(_rate(size, device, dtype, seconds) for size in sizes)


def _rate(size: int, device: str, dtype: torch.dtype, seconds: float) -> float:
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = left @ right
    clock, times = StepClock(device), 4 if device == "cpu" else 32
    best, spent = float("inf"), 0.0
    while spent < seconds:
        clock.begin()
        for _ in range(times):
            torch.mm(left, right, out=out)
        taken = clock.read()
        spent += taken
        best = min(best, taken / times)
    return 2.0 * size**3 / best
