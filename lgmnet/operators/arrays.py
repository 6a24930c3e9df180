"""Arrays in a file: .npy, .npz, .mat (also MATLAB 7.3) or .safetensors."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HDF5 = b"\x89HDF\r\n\x1a\n"
# Bytes of all arrays of a file once they are unpacked: Φ of 90 x 90 blocks, in double precision.
LARGEST = 2**30


def read_array(path: Path, names: Sequence[str], what: str, called: str) -> tuple[str, np.ndarray]:
    """The array of a file that has one of these names, or the only one; and its name.

    Args:
        what: a word for the array, in messages.
        called: the names that a message advises.

    Raises:
        ValueError: no file, damaged, or no such array.
    """
    if not path.is_file():
        raise ValueError(f"there is no {what} at {path}; give an existing file")
    try:
        arrays = read_arrays(path)
    except Exception as error:  # each reader raises types of its own for a damaged file
        raise ValueError(f"{path} cannot be read as a {what} ({error})") from None
    found = [name for name in names if name in arrays] or (list(arrays) if len(arrays) == 1 else [])
    if not found:
        held = ", ".join(sorted(arrays)) or "no array"
        raise ValueError(f"{path} holds {held}; name the {what} {called}")
    return found[0], np.asarray(arrays[found[0]])


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file by name; the one of a .npy is called ``matrix``.

    Raises:
        ValueError: the ending is unknown, the arrays are larger than `LARGEST`, or a MATLAB 7.3
            file needs h5py. Damaged files raise what their reader raises.
    """
    if path.suffix == ".npy":
        return {"matrix": np.load(path, allow_pickle=False)}
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as packed:
            _require_small(sum(member.file_size for member in packed.infolist()))
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    if path.suffix == ".mat":
        return _read_mat(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    raise ValueError(f"{path} is no .npy, .npz, .mat or .safetensors file")


def _require_small(size: int) -> None:
    """A few kilobytes that unpack to many gigabytes are refused before they do."""
    if size > LARGEST:
        raise ValueError(
            f"its arrays take {size / 2**30:.1f} GiB, more than {LARGEST / 2**30:g} GiB; save only "
            "the one that is needed"
        )


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(512 + len(HDF5))
    if start.startswith(HDF5) or start.endswith(HDF5):  # MATLAB puts 512 bytes of its own before it
        return _read_hdf5(path)
    from scipy.io import loadmat, whosmat

    _require_small(sum(8 * math.prod(shape) for _, shape, _ in whosmat(path)))
    return {name: v for name, v in loadmat(path).items() if not name.startswith("__")}


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """The arrays of numbers. MATLAB stores columns first, so the axes are turned round."""
    try:
        import h5py
    except ImportError:
        raise ValueError(
            "this MATLAB 7.3 file needs h5py: pip install -c constraints.txt -e '.[matlab]'"
        ) from None
    with h5py.File(path) as file:
        numeric = {k: v for k, v in file.items() if getattr(v, "dtype", None) is not None}
        _require_small(sum(v.size * v.dtype.itemsize for v in numeric.values()))
        return {k: v[()].T for k, v in numeric.items() if v.dtype.kind in "buif"}
