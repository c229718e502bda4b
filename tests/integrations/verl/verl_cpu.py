"""verl on a machine without an accelerator: a platform, a rollout engine, a probe. Tests only.

verl imports this module in each of its processes: VERL_USE_EXTERNAL_MODULES=verl_cpu. Ray is told
of GPUs that do not exist, so that verl's placement works as it is; all runs on the CPU over gloo.
"""

from __future__ import annotations

import functools
import types
from contextlib import contextmanager

import verl.utils.distributed
from verl.plugin.platform import PlatformBase, PlatformRegistry

_nothing = types.SimpleNamespace(
    is_available=lambda: False,
    current_device=lambda: "cpu",
    get_device_name=lambda *_: "CPU",
    empty_cache=lambda: None,
    synchronize=lambda *_: None,
    set_device=lambda *_: None,
    set_rng_state=lambda *_: None,
    max_memory_allocated=lambda *_: 0,
    max_memory_reserved=lambda *_: 0,
    memory_allocated=lambda *_: 0,
    memory_reserved=lambda *_: 0,
    mem_get_info=lambda *_: (0, 0),
)


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = property(lambda self: "cpu")
    vendor_name = property(lambda self: "nobody")
    device_module = property(lambda self: _nothing)
    is_available = lambda self: True  # noqa: E731
    current_device = lambda self: "cpu"  # noqa: E731
    device_count = lambda self: 1  # noqa: E731
    set_device = synchronize = manual_seed = manual_seed_all = lambda self, *_: None
    set_allocator_settings = empty_cache = profiler_start = profiler_stop = lambda self, *_: None
    get_device_capability = lambda self, *_: (None, None)  # noqa: E731
    communication_backend_name = lambda self: "gloo"  # noqa: E731
    visible_devices_envvar = lambda self: "CUDA_VISIBLE_DEVICES"  # noqa: E731
    ray_resource_name = lambda self: "GPU"  # noqa: E731
    ray_noset_envvars = lambda self: []  # noqa: E731
    is_ipc_supported = lambda self: False  # noqa: E731
    cudart = lambda self: None  # noqa: E731

    @contextmanager
    def nvtx_range(self, msg):
        yield


# "cpu:gloo,cpu:gloo", which verl would ask for, is not a backend.
verl.utils.distributed.initialize_global_process_group_ray = functools.partial(
    verl.utils.distributed.initialize_global_process_group_ray, backend="gloo"
)
