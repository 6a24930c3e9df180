"""Download or copy data sets to ``data/``, and verify every file.

The data sets are listed in ``data/checksums``; see ``data/README.md``.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.data.catalogue import DownloadError, dataset_names, find_dataset
from lgmnet.data.download import install
from lgmnet.data.images import printable

LISTS = Path(__file__).resolve().parents[1] / "data" / "checksums"

EXAMPLES = """examples:
  python scripts/prepare_data.py --list
  python scripts/prepare_data.py Set11 BSD68
  python scripts/prepare_data.py Set11 BSD68 --from ~/datasets
  python scripts/prepare_data.py --pack data/coco2017/train2017 data/coco2017.luma
"""


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
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
    options = parser.parse_args(arguments)
    if not (options.names or options.list or options.pack):
        parser.error("name a data set, or use --list or --pack")
    if options.source and not options.source.is_dir():
        parser.error(f"--from {options.source}: there is no such folder")
    return options


def print_list() -> int:
    for name in dataset_names(LISTS):
        print(f"{name:12} {find_dataset(name, LISTS).comments[0]}")
    return 0


def pack_folder(folder: Path, output: Path, color: str) -> int:
    from lgmnet.data.packed import pack  # only here: the other uses need no more than a download

    try:
        pack(folder, output, color)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(printable(f"packed {folder} into {output}"))
    return 0


def install_all(names: list[str], root: Path, source: Path | None) -> int:
    """Install the data sets one by one; after a failure, continue with the next."""
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


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        if options.list:
            return print_list()
        if options.pack:
            return pack_folder(options.pack[0], options.pack[1], options.color)
        return install_all(options.names, options.root, options.source)
    except KeyboardInterrupt:
        print("stopped; run the same command again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
