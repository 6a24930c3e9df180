"""Score weights on test sets: PSNR and SSIM per image, beside the published values.

Writes metrics.json, metrics.csv and, on request, the reconstructions.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from lgmnet import report
from lgmnet.config import require_choice
from lgmnet.data.datasets import TestSet, open_test_set
from lgmnet.data.images import ImageError, to_uint8, write_image
from lgmnet.engine import runtime
from lgmnet.engine.checkpoint import Weights, find_weights
from lgmnet.engine.evaluation import Result, Rules, evaluate
from lgmnet.engine.log import provenance
from lgmnet.engine.untrained import Untrained
from lgmnet.metrics import PROTOCOLS, find_protocol, summarise

EXAMPLES = """examples:
  python test.py
  python test.py checkpoints/lgm_net_tiny_r0.10 --data Set11 BSD68 --save-images
  python test.py runs/quickstart_r0.10 --data path/to/folder --output results/mine
  python test.py configs/fista.yaml sampling.ratio=0.25 --data Set11
"""


def main() -> int:
    arguments = parse()
    try:
        weights = find_weights(arguments.weights, arguments.overrides)
        require_choice("--color", arguments.color, ("luma", "rgb"))
        require_choice("--padding", arguments.padding, ("zeros", "replicate"))
        arguments.protocol = arguments.protocol or weights.config.evaluation.protocol
        rules = Rules(
            find_protocol(arguments.protocol),
            arguments.color,
            arguments.padding,
            arguments.consistency,
        )
        sets = [open_test_set(name, runtime.data_roots()) for name in arguments.data]
        output = arguments.output or Path("results") / weights.name
        results = score(weights, sets, rules, arguments, output)
    except (ValueError, FileNotFoundError) as error:
        print(f"test.py: {error}", file=sys.stderr)
        return 1
    report.write_results(output, results)
    print(report.comparison(results))
    print(f"written to {output / 'metrics.json'}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights",
        nargs="?",
        default="lgm_net_tiny_r0.10",
        help="name, folder or file; or the YAML of an algorithm without trained values",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="override entries of that YAML"
    )
    parser.add_argument(
        "--data", nargs="+", default=["builtin"], help="test sets by name, folder or image"
    )
    parser.add_argument("--output", type=Path, help="folder (default: results/<weights>)")
    parser.add_argument("--save-images", action="store_true", help="save reconstructions as PNG")
    parser.add_argument(
        "--protocol", help=f"one of {', '.join(PROTOCOLS)} (default: what the weights name)"
    )
    parser.add_argument("--color", default="luma", help="luma, or rgb: each channel by itself")
    parser.add_argument("--padding", default="zeros", help="zeros (as published) or replicate")
    parser.add_argument(
        "--noise-std", type=float, default=0.0, help="measurement noise, in the unit of y"
    )
    parser.add_argument(
        "--consistency",
        action="store_true",
        help="also ‖Φx̂ − y‖ / ‖y‖, and PSNR after projection onto Φx = y",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser.parse_intermixed_args()


def score(
    weights: Weights | Untrained,
    sets: list[TestSet],
    rules: Rules,
    arguments: argparse.Namespace,
    output: Path,
) -> dict:
    """The content of metrics.json."""
    model = weights.load()
    model.noise_std = arguments.noise_std
    datasets = {}
    with runtime.start(arguments.device) as here:
        model.to(here.device)
        for images in sets:
            results = []
            samples = tqdm(images, total=len(images), desc=images.name, unit="image", leave=False)
            for result in evaluate(model, samples, here, rules):
                results.append(result)
                if arguments.save_images:
                    path = output / images.name / f"{result.name}.png"
                    write_image(path, to_uint8(result.pixels / 255))
            datasets[images.name] = entries(results, rules)
    return {
        "protocol": arguments.protocol,
        "network": weights.config.model.name,
        "ratio": weights.config.sampling.ratio,
        "weights": weights.name,
        "phi_sha256": weights.metadata["phi_sha256"],
        "color": rules.color,
        "padding": rules.padding,
        "noise_std": arguments.noise_std,
        **provenance(),
        "datasets": datasets,
    }


def entries(results: list[Result], rules: Rules) -> dict:
    """One test set of metrics.json."""
    if len({result.name for result in results}) < len(results):
        raise ImageError("two images of a test set have the same name; rename one of them")
    total = summarise([result.score for result in results], rules.protocol)
    images = {
        r.name: {"psnr": r.score.psnr, "ssim": r.score.ssim, "seconds": round(r.seconds, 4)}
        for r in results
    }
    means = {"psnr": total.psnr, "ssim": total.ssim}
    for r in results:
        if r.consistency is not None:
            images[r.name] |= {"residual": r.consistency.residual, "psnr_on_y": r.consistency.psnr}
    if rules.consistency:
        for key in ("residual", "psnr_on_y"):
            means[key] = sum(image[key] for image in images.values()) / len(images)
    return {**means, "images": images}


if __name__ == "__main__":
    sys.exit(main())
