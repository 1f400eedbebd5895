"""A model's batch norm layers become ghost layers, and back, in place: same parameters, buffers and hooks.

Only `nn.BatchNorm1d/2d/3d` themselves are converted: a subclass may do more in its forward pass (an activation,
quantisation) that a ghost layer would drop. Order with SyncBatchNorm: a layer is one or the other. PyTorch's
`SyncBatchNorm.convert_sync_batchnorm` turns ghost layers into SyncBatchNorm without a word, so call it never after
`convert_ghost_batchnorm`, or before it for the layers that shall be synchronised.
"""

import logging
import warnings
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _LazyNormBase

from distillaw.errors import ConfigError, DistillawWarning
from distillaw.large_batch.ghost import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    GhostSettings,
    Remainder,
    StatsUpdate,
    _GhostBatchNorm,
)

Layer = TypeVar("Layer", bound=nn.Module)

log = logging.getLogger(__name__)

GHOST_OF: dict[type[nn.Module], type[_GhostBatchNorm]] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}
PLAIN_OF: dict[type[nn.Module], type[nn.Module]] = {ghost: plain for plain, ghost in GHOST_OF.items()}


def convert_ghost_batchnorm(
    module: nn.Module,
    ghost_batch_size: int,
    *,
    stats_update: StatsUpdate = "sequential",
    remainder: Remainder = "keep",
) -> nn.Module:
    """The module with every `nn.BatchNorm1d/2d/3d` inside it replaced by its ghost layer, in place.

    Parameters, buffers, hooks, modes, devices and dtypes are the very same objects, so optimisers stay valid and a
    layer used at two places stays one. InstanceNorm, SyncBatchNorm, ghost layers and subclasses of `nn.BatchNorm`
    are left. The numbers of layers are logged.

    Args:
        module: a model, or a batch norm layer itself (then a new object is returned).
        ghost_batch_size: samples per ghost; under data parallelism at most the batch of one rank.
        stats_update: as in `GhostBatchNorm1d`.
        remainder: as in `GhostBatchNorm1d`.

    Returns:
        The module.

    Raises:
        ConfigError: impossible settings; lazy layers that have not seen a batch.

    Warns:
        DistillawWarning: nothing to convert (LayerNorm and RMSNorm models have no batch statistics); layers left
            that are SyncBatchNorm, subclasses, or ghost layers of other settings.
    """
    ghost = GhostSettings(ghost_batch_size=ghost_batch_size, stats_update=stats_update, remainder=remainder)
    _refuse_lazy(module)
    for left in _left(module, ghost):
        _warn(left)
    layers = [layer for layer in module.modules() if type(layer) in GHOST_OF]
    if not layers and not any(isinstance(layer, _BatchNorm) for layer in module.modules()):
        _warn(
            f"{type(module).__name__} has no batch statistics: no BatchNorm layer in it, so there is nothing for ghost "
            "batch norm to do (LayerNorm, RMSNorm, GroupNorm and InstanceNorm treat each sample by itself)"
        )
    replaced = _replace(module, {layer: _as_ghost(layer, ghost) for layer in layers})
    log.info("%d batch norm layers are ghost layers now (%s)", len(layers), ghost)
    return replaced


def revert_ghost_batchnorm(module: nn.Module) -> nn.Module:
    """The module with every ghost layer inside it turned back into `nn.BatchNorm1d/2d/3d`, in place.

    Parameters, buffers and hooks are the very same objects. The number of layers is logged.

    Args:
        module: a model, or a ghost layer itself (then a new object is returned).

    Returns:
        The module.

    Warns:
        DistillawWarning: there is no ghost layer in it.
    """
    layers = [layer for layer in module.modules() if type(layer) in PLAIN_OF]
    if not layers:
        _warn(f"{type(module).__name__} has no ghost batch norm layer: nothing was reverted")
    replaced = _replace(module, {layer: _as_plain(layer) for layer in layers})
    log.info("%d ghost layers are plain batch norm now", len(layers))
    return replaced


def _as_ghost(layer: nn.Module, ghost: GhostSettings) -> nn.Module:
    made = _same_state(layer, GHOST_OF[type(layer)])
    made.ghost = ghost
    return made


def _as_plain(layer: nn.Module) -> nn.Module:
    made = _same_state(layer, PLAIN_OF[type(layer)])
    del made.__dict__["ghost"]
    return made


def _same_state(layer: nn.Module, kind: type[Layer]) -> Layer:
    """A module of another class that shares all of a layer's state: also its hooks, which a new layer would lose."""
    made = kind.__new__(kind)
    made.__dict__.update(layer.__dict__)
    return made


def _replace(module: nn.Module, exchange: dict[nn.Module, nn.Module]) -> nn.Module:
    for name, layer in list(module.named_modules(remove_duplicate=False)):
        if name and layer in exchange:
            parent, _, child = name.rpartition(".")
            module.get_submodule(parent).register_module(child, exchange[layer])
    return exchange.get(module, module)


def _refuse_lazy(module: nn.Module) -> None:
    lazy = [
        name or "the layer itself"
        for name, layer in module.named_modules()
        if isinstance(layer, _LazyNormBase)
    ]
    if lazy:
        raise ConfigError(
            f"ghost batch norm: {', '.join(lazy)}: a lazy batch norm layer that has not seen a batch, its number of "
            "features is unknown; run one batch through the model, then convert"
        )


def _left(module: nn.Module, ghost: GhostSettings) -> list[str]:
    """What stays as it is though it may have been meant."""
    left = [
        layer for layer in module.modules() if isinstance(layer, _BatchNorm) and type(layer) not in GHOST_OF
    ]
    said = []
    synced = sum(isinstance(layer, nn.SyncBatchNorm) for layer in left)
    if synced:
        said.append(
            f"{synced} SyncBatchNorm layers were left: they take statistics over the batches of all ranks, the "
            "opposite of ghosts; build the model without convert_sync_batchnorm to have ghosts there"
        )
    ghosts = [layer.ghost for layer in left if isinstance(layer, _GhostBatchNorm)]
    others = sorted({str(other) for other in ghosts if other != ghost})
    if others:
        said.append(
            f"ghost layers were left with their settings ({'; '.join(others)}), other than asked for now ({ghost}); "
            "call revert_ghost_batchnorm first to change them"
        )
    foreign = sorted(
        {type(layer).__name__ for layer in left if not isinstance(layer, nn.SyncBatchNorm | _GhostBatchNorm)}
    )
    if foreign:
        said.append(
            f"subclasses of BatchNorm were left ({', '.join(foreign)}): a ghost layer would drop what their forward "
            "pass adds"
        )
    return said


def _warn(message: str) -> None:
    warnings.warn(f"ghost batch norm: {message}", DistillawWarning, stacklevel=3)
