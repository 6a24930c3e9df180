"""Download or copy data sets to ``data/``, and verify every file.

The data sets are listed in ``data/checksums``; see ``data/README.md``.
"""

import argparse
import sys
from pathlib import Path

from lgmnet.data.catalogue import DownloadError, dataset_names, find_dataset
from lgmnet.project import PROJECT

LISTS = PROJECT / "data" / "checksums"

EXAMPLES = """examples:
  python scripts/prepare_data.py --list
  python scripts/prepare_data.py Set11 BSD68
  python scripts/prepare_data.py Set11 BSD68 --from ~/datasets
  python scripts/prepare_data.py --pack data/coco2017/train2017 data/coco2017.luma
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Put data sets into data/: downloaded or copied, every file verified.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="data sets to install")
    parser.add_argument(
        "--from",
        dest="source",
        metavar="DIR",
        type=Path,
        help="copy from this folder instead of downloading",
    )
    parser.add_argument(
        "--to",
        dest="root",
        metavar="DIR",
        type=Path,
        default=Path("data"),
        help="folder that receives the data sets (default: %(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="list the data sets and stop")
    parser.add_argument(
        "--pack",
        nargs=2,
        metavar=("FOLDER", "OUT"),
        type=Path,
        help="put a folder of images into one file for training, and stop: OUT.luma holds luma of "
        "8 bits, OUT.packed any type of pixels, as --color says",
    )
    parser.add_argument(
        "--color", default="luma", choices=("luma", "color", "bands"), help="as data.color will be"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Install, list or pack, as the arguments say; returns the exit code."""
    if arguments.list:
        return print_list()
    if arguments.source and not arguments.source.is_dir():
        raise ValueError(f"--from {arguments.source}: there is no such folder")
    try:
        if arguments.pack:
            return pack_folder(arguments.pack[0], arguments.pack[1], arguments.color)
        if arguments.names:
            return install_all(arguments.names, arguments.root, arguments.source)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130
    raise ValueError("name a data set, or use --list or --pack")


def print_list() -> int:
    for name in dataset_names(LISTS):
        print(f"{name:12} {find_dataset(name, LISTS).comments[0]}")
    return 0


def pack_folder(folder: Path, output: Path, color: str) -> int:
    from lgmnet.data.images import printable
    from lgmnet.data.packed import pack  # imports PyTorch

    try:
        pack(folder, output, color)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(printable(f"packed {folder} into {output}"))
    return 0


def install_all(names: list[str], root: Path, source: Path | None) -> int:
    """Install the data sets one by one; after a failure, continue with the next."""
    from lgmnet.data.download import install  # imports OpenCV

    failed = []
    for name in dict.fromkeys(names):
        try:
            print(f"{name}: {install(find_dataset(name, LISTS), root, source)}", flush=True)
        except DownloadError as error:
            print(f"error: {name}: {error}", file=sys.stderr, flush=True)
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
