"""A plugin for the tests of several processes: every rank writes its weights, and FSDP is allowed on the CPU.

`accelerate` 1.15 turns FSDP on for accelerators only and silently trains with DDP on the CPU, although FSDP2 itself
works there.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState, DistributedType
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule

from mmdpo.runs import training

initialise, save_trained = AcceleratorState.__init__, training.save_trained


def initialise_with_fsdp(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    shared = PartialState._shared_state
    if fsdp_plugin is not None and shared.get("distributed_type") is DistributedType.MULTI_CPU:
        shared["distributed_type"] = DistributedType.MULTI_GPU
    initialise(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)


def save_every_rank(trainer: Any, loaded: Any, out: Path) -> Path:
    weights = {}
    for name, parameter in loaded.model.named_parameters():
        if parameter.requires_grad:
            whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            weights[name] = whole.detach().clone()
    sharded = torch.tensor(sum(isinstance(module, FSDPModule) for module in loaded.model.modules()))
    save_file(weights | {"sharded": sharded}, out / f"rank{PartialState().process_index}.safetensors")
    return save_trained(trainer, loaded, out)


AcceleratorState.__init__ = initialise_with_fsdp  # type: ignore[method-assign]
training.save_trained = save_every_rank
