"""Export a model to one file for programs without this package: torch.export's .pt2, or ONNX.

The exported model is loaded again and compared with the model before the file is written.
"""

import copy
import io
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lgmnet.models import SensingModel
from lgmnet.weights.files import write_atomically

# Largest difference from the model, relative to the largest pixel (at least 1).
TOLERANCE = 1e-5

Run = Callable[[Tensor], Tensor]


class ExportError(ValueError):
    """A model that cannot be exported; the message says why and what to do."""


class Rebuild(nn.Module):
    """Image ``(batch, channels, H, W)`` from y, or from an image that is measured first."""

    def __init__(self, model: SensingModel, from_image: bool) -> None:
        super().__init__()
        self.model = model
        self.from_image = from_image
        # Height and width of the input are multiples of this.
        self.step = model.multiple // (1 if from_image else model.operator.multiple)

    def forward(self, given: Tensor) -> Tensor:
        operator = self.model.operator
        measurement = operator(given) if self.from_image else given
        return self.model.rebuild(measurement, operator).image

    def example(self, batch: int, rows: int, columns: int) -> Tensor:
        """An input for random images of ``rows x columns`` times the smallest size."""
        side, operator = self.model.multiple, self.model.operator
        height, width = operator.size or (rows * side, columns * side)
        image = torch.rand(batch, operator.channels, height, width)
        return image if self.from_image else self.model.operator(image)


@torch.no_grad()
def export_model(model: SensingModel, path: Path, from_image: bool = False) -> None:
    """Export the reconstruction of an image from y: ``.pt2`` for PyTorch, or ``.onnx``.

    Any batch size, height and width in whole blocks are possible; an image as input must have at
    least two blocks in each direction. The exported model runs on the CPU in float32, and measures
    without noise.

    Args:
        from_image: also export the measurement: image -> image, for a demonstration.

    Raises:
        ExportError: the format is unknown, PyTorch cannot export the network, ONNX is not
            installed, or the exported model gives other results.
    """
    formats = {".pt2": program_bytes, ".onnx": onnx_bytes}
    if path.suffix not in formats:
        raise ExportError(f"--output {path} has to end with .pt2 or .onnx")
    rebuild = Rebuild(copy.deepcopy(model).cpu().float().eval(), from_image)
    content, run = formats[path.suffix](trace(rebuild))
    compare(rebuild, run)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def trace(rebuild: Rebuild) -> ExportedProgram:
    """The operations of a model, for any number of images and, if sizes can vary, of blocks."""
    sides = {2: rebuild.step * Dim("rows"), 3: rebuild.step * Dim("columns")}
    sizes = ({0: Dim("batch"), **({} if rebuild.model.operator.size else sides)},)
    try:
        return torch.export.export(
            rebuild, (rebuild.example(2, 2, 3),), dynamic_shapes=sizes, strict=False
        )
    except Exception as error:  # torch raises many types
        reason = str(error).strip().partition("\n")[0]
        name = type(rebuild.model.network).__name__
        kind = type(error).__name__
        raise ExportError(f"PyTorch cannot export {name} ({kind}: {reason})") from None


def program_bytes(program: ExportedProgram) -> tuple[bytes, Run]:
    """The content of a .pt2 file, and the function that it loads as."""
    file = io.BytesIO()
    torch.export.save(program, file)
    content = file.getvalue()
    return content, torch.export.load(io.BytesIO(content)).module()


def onnx_bytes(program: ExportedProgram) -> tuple[bytes, Run]:
    """The content of an .onnx file, and its function in onnxruntime."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        raise ExportError(
            f"ONNX needs {error.name}: pip install -c constraints.txt -e '.[onnx]'"
        ) from None
    made = torch.onnx.export(program, dynamo=True, verbose=False)
    assert made is not None
    content = made.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return content, lambda given: torch.from_numpy(session.run(None, {name: given.numpy()})[0])


def compare(rebuild: Rebuild, run: Run) -> None:
    """Raise ExportError unless ``run`` gives the same result as the model, at another size."""
    given = rebuild.example(1, 3, 2)
    expected = rebuild(given)
    difference = float((run(given) - expected).abs().max())
    largest = TOLERANCE * max(1.0, float(expected.abs().max()))
    if not difference <= largest:
        raise ExportError(
            f"the exported model differs by {difference:.1e} from the model (at most {largest:.1e} "
            "is expected); nothing was written"
        )
