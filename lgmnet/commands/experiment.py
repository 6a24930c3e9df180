"""Train and score every run of an experiment, and write its table.

An experiment is a YAML file: axes with choices, and the arguments of train.py that each choice
adds. `grid:` is the short form: keys of the config, each with a list of values. Every combination
is trained once for each seed into runs/experiments/, as by train.py, and its final weights are
scored. Finished runs are not repeated, and stopped runs continue. Several processes may work on one
experiment: start the same command again. Each run is locked while a process makes it.
Rows of other machines stay in the table: a row is identified by its command.

KEY=VALUE changes all runs, such as data.train=BSDS500. The changed experiment has its own name,
runs and table. {seed} in an argument is the seed of the run, {runs} the folder of all runs. A
network for a range is scored at every published ratio in it; with `name_ratios: true` the test sets
of all networks are called "Set11 at 10 %". `fast: bf16` scores with
`lgmnet.optimize_for_inference`. `validation` is the last value in the log.
"""

import argparse
from pathlib import Path

EXAMPLES = """examples:
  python scripts/experiment.py configs/experiments/gin.yaml
  python scripts/experiment.py configs/experiments/gin.yaml data.train=BSDS500 --list
  python scripts/experiment.py configs/experiments/gin.yaml & python scripts/experiment.py \\
      configs/experiments/gin.yaml    # two processes share the runs
  python scripts/experiment.py configs/experiments/gin.yaml --part 1/2    # 2/2 on another machine
"""


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path, help="YAML file under configs/experiments/")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="change entries of the config in all runs, as a new experiment",
    )
    parser.add_argument(
        "--part", default="1/1", help="k/n: only every n-th run, starting with the k-th"
    )
    parser.add_argument("--list", action="store_true", help="print the commands and stop")
    parser.add_argument(
        "--finished",
        action="store_true",
        help="write the table of the finished runs, without training",
    )
    parser.add_argument(
        "--speed",
        type=Path,
        help="benchmark.json of the runs' weights, for the columns `speed` and `latency`",
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="default: docs/experiments/<name>.json; with KEY=VALUE in results/experiments/",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    return parser


def run(arguments: argparse.Namespace) -> int:
    from lgmnet.commands.experiment_run import run  # imports PyTorch

    return run(arguments)
