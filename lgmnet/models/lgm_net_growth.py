"""Give a larger LGM-Net the weights of a trained smaller one, so that both compute the same image.

Source:
    T. Chen et al., "Net2Net: accelerating learning via knowledge transfer", ICLR 2016.
"""

import re
from itertools import accumulate

import torch
from torch import Tensor, nn

from lgmnet.models.lgm_net_options import AEGR
from lgmnet.models.lgm_net_stages import FDIM, Chain

# Sizes of the groups of channels on one axis of a kernel, such as X and Z.
Groups = tuple[int, ...]
# The convolutions whose outputs are X and Z, if there are two variables.
MAKES_PAIR = re.compile(r"lift|(down|up)_fusions\.\d+(\.\d+|\.merge)?")


@torch.no_grad()
def grow(large: nn.Module, small: nn.Module, variables: int) -> None:
    """Copy the weights of ``small`` to the first channels and first stages of ``large``.

    Old channels do not read new ones, which keep their initial weights. New stages, at the end of a
    chain, hand on X and Z.

    Args:
        variables: 2 for X and Z, 1 for one variable.

    Raises:
        ValueError: ``large`` lacks a module or is narrower, or cannot hand on X and Z.
    """
    ours, theirs = dict(large.named_modules()), dict(small.named_modules())
    if missing := theirs.keys() - ours.keys():
        raise ValueError(f"it has no {min(missing)}")
    for name, module in theirs.items():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            _widen(name, ours, theirs, variables if MAKES_PAIR.fullmatch(name) else 1)
        else:
            for key, value in module.named_parameters(recurse=False):
                ours[name].get_parameter(key).copy_(value)
    for name, chain in theirs.items():
        if isinstance(chain, Chain):
            _deepen(name, ours[name], chain)


def _widen(name: str, ours: dict[str, nn.Module], theirs: dict[str, nn.Module], parts: int) -> None:
    """Copy a convolution whose outputs are ``parts`` equal groups."""
    kernels, groups = [], []
    for modules in (ours, theirs):
        layer = modules[name]
        weight = layer.get_parameter("weight")
        kernel = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight
        outputs, inputs = kernel.shape[:2]
        kernels.append(kernel)
        groups.append(((outputs // parts,) * parts, _read_by(name, modules, inputs)))
    (large, small), (our_groups, their_groups) = kernels, groups
    if large.shape[2:] != small.shape[2:]:
        raise ValueError(f"the kernel of {name} has another size")
    rows, columns = (_places(name, *both) for both in zip(our_groups, their_groups, strict=True))
    large[rows] = 0
    large[rows[:, None], columns] = small
    ours[name].get_parameter("bias")[rows] = theirs[name].get_parameter("bias")


def _read_by(name: str, modules: dict[str, nn.Module], inputs: int) -> Groups:
    """The groups of a convolution's inputs: one, unless a module around it concatenates several."""
    while name:
        name = name.rpartition(".")[0]
        reads: Groups = getattr(modules[name], "reads", ())
        if sum(reads) == inputs:
            return reads
    return (inputs,)


def _places(name: str, large: Groups, small: Groups) -> Tensor:
    """Places of the channels of the small groups among those of the large groups."""
    if len(large) != len(small) or any(map(int.__lt__, large, small)):
        raise ValueError(f"{name} has {list(large)} channels there, and {list(small)} here")
    starts = accumulate(large, initial=0)
    pairs = zip(starts, small, strict=False)  # the last sum starts no group
    return torch.cat([torch.arange(start, start + count) for start, count in pairs])


def _deepen(name: str, large: nn.Module, small: nn.Module) -> None:
    assert isinstance(large, Chain)
    assert isinstance(small, Chain)
    old = len(small.iterations)
    if large.count - small.count != len(large.iterations) - old:
        raise ValueError(f"the stages of {name} share their weights")
    for stage in large.iterations[old:]:
        last = large.iterations[old - 1]
        assert isinstance(stage, FDIM)
        assert isinstance(last, FDIM)
        if not isinstance(stage.data_step, AEGR) or "x" not in stage.data_step.inputs:
            raise ValueError(f"a new stage of {name} cannot hand on X without AEGR, which reads X")
        _hand_on(stage, stage.data_step, last)


def _hand_on(stage: FDIM, step: AEGR, last: FDIM) -> None:
    """Make the X and Z of a stage those of the last one: X unchanged, and Z by the same prior."""
    for layer in step.fuse:
        nn.init.zeros_(layer.get_parameter("weight"))
        nn.init.zeros_(layer.get_parameter("bias"))
    channels = step.reads[0]
    each = torch.arange(channels)  # X comes first
    first, second = (layer.get_parameter("weight") for layer in step.fuse)
    # Residual blocks that change nothing double their input.
    first[each, each, 1, 1] = 1.0 if stage.refine_x is None else 0.5
    second[each, each, 0, 0] = 1.0
    for block in stage.refine_x or ():
        _silence(block.get_submodule("body.2"))
    if stage.aegr_skip:
        first.zero_()
    if stage.prior is not None and last.prior is not None:
        stage.prior.load_state_dict(last.prior.state_dict())
        if stage.single:
            _silence(stage.prior[-1])


def _silence(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
