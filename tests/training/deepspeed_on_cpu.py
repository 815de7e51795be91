"""A plugin for the tests of several processes: DeepSpeed on the CPU, where accelerate does not start it."""

import importlib
import os
from typing import Any

from accelerate import PartialState
from accelerate.state import DistributedType

prepare_backend = PartialState._prepare_backend


def prepare_gloo(self: PartialState, cpu: bool = False, *args: Any, **kwargs: Any) -> Any:
    if int(os.environ.get("LOCAL_RANK", -1)) != -1 and not cpu:
        return "gloo", DistributedType.MULTI_CPU
    return prepare_backend(self, cpu, *args, **kwargs)


PartialState._prepare_backend = prepare_gloo
# a kernel that would be compiled at the first start, for minutes
backend: Any = importlib.import_module("deepspeed.comm.torch")
backend.build_shm_op = lambda: None
