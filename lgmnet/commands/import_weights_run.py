"""The work of ``lgmnet import-weights``."""

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from lgmnet.build import Source, build_model
from lgmnet.config import Config, EvaluationConfig, ModelConfig
from lgmnet.files import write_text
from lgmnet.models import amp_net_tip, fista_net, ista_net, lgm_net, prl, usrnet
from lgmnet.models.base import OtherNetwork
from lgmnet.operators import BlockSamplingConfig, BlurDownConfig, FourierMaskConfig, kernels
from lgmnet.operators.blur_config import FORMULA
from lgmnet.operators.masks import load_mask
from lgmnet.operators.matrices import load_matrix, measurement_count
from lgmnet.weights.files import CheckpointError
from lgmnet.weights.foreign import load_foreign
from lgmnet.weights.published import TRANSLATORS, load_published
from lgmnet.weights.saved import save_weights
from lgmnet.weights.tensor_files import load_state

# Network -> function that translates (the authors' state, Φ, start); Φ and start may be None.
IMPORTERS = {
    "amp_net_tip": amp_net_tip.from_published,
    "fista_net": fista_net.from_published,
    "ista_net": ista_net.from_published,
    "ista_net_plus": ista_net.from_published,
    "lgm_net": lgm_net.from_published,
    "prl": prl.from_published,
}
# Networks whose authors use other rules of scoring.
PROTOCOLS = {"amp_net_tip": "amp21"}
# Errors of a translation if a tensor is missing or has another shape.
UNFIT = (LookupError, RuntimeError, TypeError)
IMPORTED_RATIOS = (0.01, 0.04, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5)


def run(arguments: argparse.Namespace) -> int:
    """Import one file, as the arguments say; returns the exit code."""
    check_step(arguments.network, arguments.step)
    check_blur(arguments)
    print(imported(arguments))
    return 0


def imported(arguments: argparse.Namespace) -> str:
    """Import one file; returns a description."""
    network, file, output = arguments.network, arguments.file, arguments.output
    if network == "usrnet":
        return import_usrnet(file, output, arguments.scale, arguments.kernels or FORMULA)
    if arguments.mask or network not in IMPORTERS:
        check_mask(arguments)
        return import_for_mask(network, file, output, arguments.mask)
    matrix = load_matrix(arguments.matrix) if arguments.matrix else None
    start = load_matrix(arguments.init) if arguments.init else None
    return import_weights(network, file, output, matrix, start)


def check_mask(arguments: argparse.Namespace) -> None:
    """Raise ValueError unless a mask is given for MRI weights, and no file of block sensing."""
    network = arguments.network
    if arguments.mask is None:
        raise ValueError(f"{network} is for MRI, and its file has no mask; give it with --mask")
    if network not in TRANSLATORS:
        raise ValueError(f"--mask is for MRI weights; there are none of {network}, leave it out")
    if arguments.matrix or arguments.init:
        raise ValueError("--matrix and --init are for block sensing, --mask for MRI; choose one")


def import_for_mask(network: str, file: Path, output: Path, mask: str) -> str:
    """Translate weights for MRI into ``output/model.safetensors``; returns a description."""
    source = Source()
    found = load_published(network, file, load_mask(source.find(mask)))
    config = Config(
        model=ModelConfig(name=network, options=found.options),
        sampling=FourierMaskConfig(mask=mask, complex=found.image_channels == 2),
        evaluation=EvaluationConfig(
            protocol="mri", color="bands" if found.image_channels == 2 else "luma"
        ),
    )
    model = build_model(config, source)
    load_state(model.network, found.state, str(file))
    metadata = {"training_data": f"published weights {file.name}"}
    save_weights(output / "model.safetensors", model, config, metadata)
    write_text(output / "config.yaml", config.as_yaml())
    facts = ", ".join(f"{key} = {value}" for key, value in found.options.items())
    kind = "complex" if found.image_channels == 2 else "real"
    return (
        f"{file}: {network} with {facts}, for {kind} images and the mask {mask}\n"
        f"written to {output}; score it with python test.py {output} --data <images>"
    )


def check_blur(arguments: argparse.Namespace) -> None:
    """Raise ValueError unless a scale is given for usrnet, and nothing of it for other networks."""
    if arguments.network != "usrnet":
        if arguments.scale is not None or arguments.kernels:
            raise ValueError(
                f"--scale and --kernels are for usrnet, not for {arguments.network}; leave them out"
            )
    elif arguments.mask or arguments.matrix or arguments.init:
        raise ValueError("--mask, --matrix and --init are not for usrnet; leave them out")
    elif arguments.scale is None:
        raise ValueError("the weights of usrnet serve several scales; give one with --scale 3")


def import_usrnet(file: Path, output: Path, scale: int, held: str = FORMULA) -> str:
    """Translate weights for super-resolution into ``output``; returns a description.

    Args:
        held: the file of kernels, by path or below the folder of the data; or ``gaussian``.
    """
    source, tensors = Source(), load_foreign(file)
    try:
        options, state = usrnet.from_published(tensors)
        channels = len(state["denoiser.last.weight"])
    except UNFIT as error:
        raise CheckpointError(
            f"{file} is not a complete usrnet file ({type(error).__name__}: {error})"
        ) from None
    found = kernels.gaussians() if held == FORMULA else kernels.load_kernels(source.find(held))
    numbers = tuple(range(1, len(found) + 1))
    config = Config(
        model=ModelConfig(name="usrnet", options=options),
        sampling=BlurDownConfig(
            scale=scale, kernels=held, kernel_numbers=numbers, channels=channels
        ),
        evaluation=EvaluationConfig(
            protocol=f"usr{max(scale, 2)}",
            color="color" if channels == 3 else "luma",
            padding="crop",
        ),
    )
    model = build_model(config, source)
    load_state(model.network, state, str(file))
    metadata = {"training_data": f"published weights {file.name}"}
    save_weights(output / "model.safetensors", model, config, metadata)
    write_text(output / "config.yaml", config.as_yaml())
    facts = ", ".join(f"{key} = {value}" for key, value in options.items())
    return (
        f"{file}: usrnet with {facts}, for x{scale} and {len(numbers)} kernels of {held}\n"
        f"written to {output}; score it with python test.py {output} --at x{scale}_k1 "
        "--data <images>"
    )


def check_step(network: str, step: str | None) -> None:
    """Raise ValueError unless the data step of a FISTA-Net is given and supported."""
    if network != "fista_net":
        if step is not None:
            raise ValueError(f"--step is for fista_net; {network} has one data step, leave it out")
    elif step is None:
        raise ValueError(
            "the authors have FISTA-Nets with the same tensors and different data steps; give the "
            "step of the training: --step gradient, v - μΦᵀ(Φv - y), or preconditioned (M5FISTANet)"
        )
    elif step == "preconditioned":
        raise ValueError(
            "weights of the preconditioned step (M5FISTANet) cannot be imported: this step needs "
            "the Laplacian of the disc of pixels of the authors' tomograph. The file does not "
            "contain it, and blocks have no such disc; only --step gradient can be used here"
        )


def import_weights(
    network: str,
    file: Path,
    output: Path,
    matrix: Tensor | None = None,
    start: Tensor | None = None,
) -> str:
    """Translate ``file`` into ``output/model.safetensors``; returns a description."""
    tensors = load_foreign(file)
    try:
        options, matrix, state = IMPORTERS[network](tensors, matrix, start)
        m, block_size = len(matrix), round(matrix.shape[1] ** 0.5)
    except OtherNetwork as error:
        found = looks_like(tensors)
        hint = f"; it looks like one of {' or '.join(found)}" if found else ""
        raise ValueError(f"{error}{hint}") from None
    except UNFIT as error:
        raise ValueError(
            f"{file} is not a complete {network} file ({type(error).__name__}: {error})"
        ) from None
    ratio, rounding = likely_ratio(m, block_size)
    fallback = "ista33" if block_size == 33 else "paper"
    config = Config(
        model=ModelConfig(name=network, options=options),
        sampling=BlockSamplingConfig(ratio=ratio, rounding=rounding, block_size=block_size),
        evaluation=EvaluationConfig(protocol=PROTOCOLS.get(network, fallback)),
    )
    model = build_model(config, Source({"matrix": matrix}))
    load_state(model.network, state, str(file))
    metadata = {"training_data": f"published weights {file.name}"}
    save_weights(output / "model.safetensors", model, config, metadata)
    write_text(output / "config.yaml", config.as_yaml())
    facts = ", ".join(f"{key} = {value}" for key, value in options.items())
    for key, claimed, value in false_claims(file, {"ratio": ratio, **options}):
        facts += f" (the path has {key} = {claimed}, but the tensors have {value})"
    return (
        f"{file}: {network} with {facts}; Φ measures {m} numbers per {block_size} x {block_size} "
        f"block, ratio {ratio:g}\nwritten to {output}; score it with "
        f"python test.py {output} --data Set11"
    )


def looks_like(tensors: Mapping[str, Tensor]) -> list[str]:
    """The networks whose weights files have such tensors."""
    found = []
    for network, translate in IMPORTERS.items():
        try:
            translate(tensors, None, None)
        except OtherNetwork:
            continue
        except (ValueError, *UNFIT):
            pass  # a file of this network, but incomplete, or Φ or the start is not given
        found.append(network)
    return found


def false_claims(file: Path, found: dict[str, object]) -> list[tuple[str, str, object]]:
    """Settings in the authors' path (``ratio_0.10_D_4_dim_8``) that differ from the weights."""
    said = re.findall(r"(ratio|D|dim)_(\d+(?:\.\d+)?)(?=_|$)", file.parent.name)
    return [
        (key, claimed, found[key])
        for key, claimed in said
        if isinstance(value := found.get(key), int | float) and float(claimed) != value
    ]


def likely_ratio(m: int, block_size: int) -> tuple[float, str]:
    """The published ratio and rounding that give m, else m per pixel."""
    for rounding in ("table33", "round") if block_size == 33 else ("ceil",):
        for ratio in IMPORTED_RATIOS:
            if measurement_count(ratio, block_size, rounding) == m:
                return ratio, rounding
    return m / block_size**2, "round"
