"""Read arrays from a file: .npy, .npz, .mat (also MATLAB 7.3) or .safetensors."""

import math
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HDF5 = b"\x89HDF\r\n\x1a\n"
COMPLEX = ("real", "imag")
# Bytes that the arrays of a file may always take in memory: Φ of 90 x 90 blocks, in double
# precision. A larger file may hold so many times its size.
LARGEST, LARGEST_RATIO = 2**30, 20


def read_array(path: Path, names: Sequence[str], what: str, called: str) -> tuple[str, np.ndarray]:
    """Name and array: the first of these names in the file, or the only array of the file.

    Args:
        what: a word for the array, for messages.
        called: the recommended names, for messages.

    Raises:
        ValueError: the file is missing or damaged, or has no such array.
    """
    if not path.is_file():
        raise ValueError(f"there is no {what} at {path}; give an existing file")
    try:
        arrays = read_arrays(path)
    except Exception as error:  # each reader has other error types for a damaged file
        raise ValueError(f"{path} cannot be read as a {what} ({error})") from None
    found = [name for name in names if name in arrays] or (list(arrays) if len(arrays) == 1 else [])
    if not found:
        held = ", ".join(sorted(arrays)) or "no array"
        raise ValueError(f"{path} contains {held}; name the {what} {called}")
    return found[0], np.asarray(arrays[found[0]])


def read_arrays(path: Path, mapped: bool = False) -> dict[str, np.ndarray]:
    """All arrays of the file by name. The array of a .npy file has the name ``matrix``.

    Args:
        mapped: the values of a .npy file are read from disk on first use and are read-only.

    Raises:
        ValueError: the ending is unknown, the arrays are too large (`LARGEST`), or a MATLAB 7.3
            file needs h5py. For a damaged file the error is that of its reader.
    """
    ending = path.suffix.lower()
    if ending == ".npy":
        array = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        return {"matrix": array}
    if ending == ".npz":
        with zipfile.ZipFile(path) as packed:
            require_small(path, sum(member.file_size for member in packed.infolist()))
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    if ending == ".mat":
        return _read_mat(path)
    if ending == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    raise ValueError(f"{path} is not a .npy, .npz, .mat or .safetensors file")


def require_small(path: Path, size: int) -> None:
    """Refuse a small file with huge arrays before they take memory.

    Args:
        size: bytes of all its arrays.

    Raises:
        ValueError: more than `LARGEST`, and more than `LARGEST_RATIO` times the file.
    """
    if size > max(LARGEST, LARGEST_RATIO * path.stat().st_size):
        raise ValueError(
            f"its arrays take {size / 2**30:.1f} GiB, more than {LARGEST / 2**30:g} GiB and more "
            f"than {LARGEST_RATIO} times the file; save only what is needed, as .npy"
        )


def _read_mat(path: Path) -> dict[str, np.ndarray]:
    with path.open("rb") as file:
        start = file.read(512 + len(HDF5))
    if start.startswith(HDF5) or start.endswith(HDF5):  # MATLAB writes 512 bytes before it
        return _read_hdf5(path)
    from scipy.io import loadmat, whosmat
    from scipy.sparse import issparse

    require_small(path, sum(8 * math.prod(shape) for _, shape, _ in whosmat(path)))
    found = {name: v for name, v in loadmat(path).items() if not name.startswith("__")}
    return {name: v.toarray() if issparse(v) else v for name, v in found.items()}


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    """The numeric arrays, and cell arrays of them. MATLAB stores columns first: axes reversed."""
    try:
        import h5py
    except ImportError:
        raise ValueError(
            "this MATLAB 7.3 file needs h5py: pip install -c constraints.txt -e '.[matlab]'"
        ) from None
    with h5py.File(path) as file:
        numeric = {k: v for k, v in file.items() if _is_numeric(getattr(v, "dtype", None))}
        require_small(path, sum(v.size * v.dtype.itemsize for v in numeric.values()))
        arrays = {k: _complex(v[()].T) for k, v in numeric.items()}
        cells = {k: v for k, v in file.items() if getattr(v, "dtype", None) == h5py.ref_dtype}
        held = {k: [file[reference] for reference in v[()].T.flat] for k, v in cells.items()}
        require_small(path, sum(c.size * c.dtype.itemsize for v in held.values() for c in v))
        return arrays | {k: _cells(v) for k, v in held.items()}


def _cells(held: Sequence[Any]) -> np.ndarray:
    """A cell array as a list of arrays, in an array of objects as `scipy.io.loadmat` gives it."""
    found = np.empty(len(held), dtype=object)
    for number, cell in enumerate(held):
        found[number] = _complex(cell[()].T)
    return found


def _is_numeric(dtype: np.dtype | None) -> bool:
    return dtype is not None and (dtype.kind in "buifc" or dtype.names == COMPLEX)


def _complex(array: np.ndarray) -> np.ndarray:
    """Complex numbers from the two fields in which MATLAB stores them; others unchanged."""
    if array.dtype.names != COMPLEX:
        return array
    return array["real"] + 1j * array["imag"]
