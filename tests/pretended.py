"""A second device, pretended: a GPU as far as torch and the trainer can tell, and no GPU.

What lies on it is a tensor of the main memory in disguise.  It refuses to be computed with what
lies elsewhere, as a GPU does, and notes whenever the host would have to wait for it.  It knows
autocast's casts for what the models of this project are made of.

It is made with torch's own means for backends in Python, which are younger than the oldest torch
that the trainer runs on: see `is_possible`.

Source: PyTorch's `torch/utils/backend_registration.py`, and "CUDA semantics" in its documentation
on what makes a host wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from torch.utils import backend_registration

from trainer.data import transfer

NAME = "pretended"
DEVICE = f"{NAME}:0"
LOWERED = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "conv2d")
LOWERED += ("scaled_dot_product_attention",)
RAISED = ("layer_norm", "group_norm", "softmax.int", "mse_loss", "pow.Tensor_Scalar", "sum", "exp")
"""Operations that autocast computes in half precision, and in fp32."""
ASKING = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal")
"""What asks the device for a number: `.item()`, `float()`, `bool()`, a mask as index."""
CROSSING = ("aten._to_copy", "aten.copy_")
AUTOCAST = "AutocastPrivateUse1"

_tensor, _data = torch.tensor, torch._C.TensorBase.data


def is_possible() -> bool:
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


class OnDevice(torch.Tensor):
    """A tensor that says it lies on the device, around one that lies in the main memory."""

    inside: torch.Tensor

    @staticmethod
    def __new__(cls, inside: torch.Tensor) -> OnDevice:
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            inside.size(),
            strides=inside.stride(),
            storage_offset=inside.storage_offset(),
            dtype=inside.dtype,
            device=torch.device(DEVICE),
        )
        made.inside = inside
        return made

    @classmethod
    def __torch_dispatch__(
        cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _compute(operation, args, kwargs or {})

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, list):  # torch would make the index where no dispatch sees it
            key = torch.tensor(key, device=DEVICE)
        return super().__getitem__(key)

    def tolist(self) -> Any:
        return self.cpu().tolist()


class Generator(torch.Generator):
    """Random numbers for one of the devices; those of the pretended one are those of the CPU."""

    def __new__(cls, device: object = "cpu") -> Generator:
        made = super().__new__(cls)
        made._where = torch.device(str(device))
        if made._where.type == NAME:
            _THERE.add(made._cdata)
        else:
            _THERE.discard(made._cdata)  # the address of one that is gone
        return made

    def __init__(self, device: object = "cpu") -> None:
        """Args: device: is taken by `__new__`."""

    @property
    def device(self) -> torch.device:
        return self._where


_THERE: set[int] = set()
"""Addresses of the generators of the device."""
WAITS: list[str] = []
"""Operations for which the host had to wait, as they came; to be cleared by who counts them."""


def _compute(operation: Any, args: Any, kwargs: Any) -> Any:
    """Does in the main memory what is asked of the device, or refuses what a GPU would refuse."""
    name = str(operation.overloadpacket)
    tensors: list[torch.Tensor] = []

    def inside(one: torch.Tensor) -> torch.Tensor:
        tensors.append(one)
        return one.inside if isinstance(one, OnDevice) else one

    given, options = args, kwargs
    args, kwargs = _mapped(given, inside), _mapped(options, inside)
    there = [one for one in tensors if isinstance(one, OnDevice)]
    target = _target(name, given, options, bool(there))
    _check(name, tensors, there, options.get("generator"), target)
    _note(name, tensors, there, given, options, target)
    disguised = {id(one.inside): one for one in there}
    kwargs.pop("pin_memory", None)
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")

    def disguise(made: torch.Tensor) -> torch.Tensor:
        if id(made) in disguised:  # changed in place
            return disguised[id(made)]
        return OnDevice(made) if target and not isinstance(made, OnDevice) else made

    return _mapped(operation(*args, **kwargs), disguise)


def _mapped(values: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Arguments or results of an operation with other tensors in them."""
    if isinstance(values, torch.Tensor):
        return change(values)
    if isinstance(values, (tuple, list)):
        return type(values)([_mapped(one, change) for one in values])
    if isinstance(values, dict):
        return {name: _mapped(one, change) for name, one in values.items()}
    return values


def _target(name: str, args: Any, kwargs: Any, some_there: bool) -> bool:
    """Whether the result lies on the device."""
    if name == "aten.copy_":
        return isinstance(args[0], OnDevice)
    device = kwargs.get("device")
    return some_there if device is None else torch.device(device).type == NAME


def _check(
    name: str, tensors: list[Any], there: list[OnDevice], generator: Any, target: bool
) -> None:
    here = [one for one in tensors if not isinstance(one, OnDevice) and one.dim() > 0]
    if there and here and name not in CROSSING:
        raise RuntimeError(f"{name} of tensors on two devices: {[one.shape for one in tensors]}")
    if generator is not None and (generator._cdata in _THERE) is not target:
        raise RuntimeError(f"{name} on one device with the generator of another")


def _note(
    name: str, tensors: list[Any], there: list[OnDevice], args: Any, kwargs: Any, target: bool
) -> None:
    """Notes what a host waits for: numbers, and copies that are not asked to go by themselves."""
    by_itself = kwargs.get("non_blocking", False) or (name == "aten.copy_" and True in args[2:])
    back = bool(there) and not target
    forth = name in CROSSING and target and len(there) < len(tensors) and not by_itself
    if name in ASKING or back or forth:
        WAITS.append(name)


@cache
def begin() -> tuple[torch.library.Library, ...]:
    """Tells torch of the device, before the first backward pass of the process.

    Then it counts the devices there are, for good.
    """
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    fallbacks, aten = (torch.library.Library(name, "IMPL") for name in ("_", "aten"))
    fallbacks.fallback(
        lambda operation, *args, **kwargs: _compute(operation, args, kwargs), "PrivateUse1"
    )
    fallbacks.fallback(torch.library.fallthrough_kernel, AUTOCAST)
    for name in (*LOWERED, *RAISED):
        packet, _, overload = name.partition(".")
        operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
        aten.impl(operation, _casting(operation, lowered=name in LOWERED), AUTOCAST)
    return fallbacks, aten


def _casting(operation: Any, *, lowered: bool) -> Callable[..., Any]:
    without = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, AUTOCAST))

    def kernel(*args: Any, **kwargs: Any) -> Any:
        dtype = torch.get_autocast_dtype(NAME) if lowered else torch.float32

        def cast(one: torch.Tensor) -> torch.Tensor:
            return one.to(dtype) if isinstance(one, OnDevice) and one.is_floating_point() else one

        with torch._C._ExcludeDispatchKeyGuard(without):
            return operation(*_mapped(args, cast), **_mapped(kwargs, cast))

    return kernel


class _Module:
    """What torch asks of `torch.cuda` and its like."""

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """The seed of what draws without a generator, which nothing here does."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


def _made(data: Any, *, device: Any = None, **kwargs: Any) -> torch.Tensor:
    """As `torch.tensor`, which copies to a device where no dispatch sees it."""
    made = _tensor(data, **kwargs)
    return made if device is None else made.to(device)


def _set_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """As assigning `data`, which torch refuses between a tensor and one in disguise."""
    if isinstance(tensor, OnDevice) or isinstance(value, OnDevice):
        other = torch.nn.Parameter(value.detach(), requires_grad=tensor.requires_grad)
        torch.utils.swap_tensors(tensor, other)
    else:
        _data.__set__(tensor, value)


@contextmanager
def pretended_device() -> Iterator[None]:
    """For a `with` block torch has a device `DEVICE`."""
    begin()
    with pytest.MonkeyPatch.context() as patched:
        data = property(lambda tensor: _data.__get__(tensor), _set_data)
        patched.setattr(torch.Tensor, "data", data, raising=False)
        patched.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        patched.setattr(torch, "tensor", _made)
        patched.setattr(torch, "Generator", Generator)
        patched.setattr(transfer, "PINS", (*transfer.PINS, NAME))
        yield
