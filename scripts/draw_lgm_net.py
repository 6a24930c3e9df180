"""Draw the picture of LGM-Net's architecture: docs/lgm_net.svg."""

import argparse
import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone needs no installation

from lgmnet.files import write_text

STAGE, FUSION, OPERATOR, LAYER = "#dcedd6", "#fdf3dc", "#e3eefb", "#f4f4f6"
HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 800" role="img"
 font-family="system-ui, sans-serif" font-size="13" fill="#222">
<title>LGM-Net: a U-Net of unfolded stages on pairs of features X and Z</title>
<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"
 orient="auto"><path d="M0 0 8 4 0 8z" fill="#556"/></marker></defs>
<rect width="960" height="800" fill="#fff"/>"""


def text(x: float, y: float, words: str, anchor: str = "middle", style: str = "") -> str:
    """Words at a point; the lines are separated by a newline."""
    return "\n".join(
        f'<text x="{x}" y="{y + 16 * k}" text-anchor="{anchor}" {style}>{escape(line)}</text>'
        for k, line in enumerate(words.split("\n"))
    )


def box(x: float, y: float, width: float, height: float, words: str, fill: str = LAYER) -> str:
    lines = words.count("\n")
    frame = f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6"'
    middle = y + height / 2 + 4.5 - 8 * lines
    return f'{frame} fill="{fill}" stroke="#556"/>\n' + text(x + width / 2, middle, words)


def arrow(path: str, dashed: bool = False) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="M{path}" fill="none" stroke="#556"{dash} marker-end="url(#a)"/>'


def title(y: float, words: str) -> str:
    return text(20, y, words, "start", 'font-weight="700" font-size="15"')


def network() -> list[str]:
    """The U-Net: three scales, and what goes from one to the next."""
    note = 'fill="#556" font-size="12"'
    return [
        title(28, "LGM-Net: pairs of features (X, Z) at three scales"),
        box(20, 60, 62, 40, "Φᵀy", OPERATOR),
        arrow("82 80 H104"),
        box(104, 60, 96, 40, "z₀: conv 3×3\nconv 3×3"),
        arrow("200 80 H232"),
        text(216, 70, "X, Z", style=note),
        box(232, 60, 120, 40, "D × FDIM", STAGE),
        arrow("292 100 V140 H330"),
        box(330, 122, 62, 36, "AVF-D", FUSION),
        arrow("361 158 V190"),
        box(301, 190, 120, 40, "D × FDIM", STAGE),
        arrow("361 230 V262 H392"),
        box(392, 244, 62, 36, "AVF-D", FUSION),
        arrow("423 280 V310"),
        box(400, 310, 160, 40, "2D × FDIM", STAGE),
        arrow("537 310 V280"),
        box(506, 244, 62, 36, "AVF-U", FUSION),
        arrow("568 262 H599 V230"),
        box(539, 190, 120, 40, "D × FDIM", STAGE),
        arrow("659 210 H690"),
        box(690, 192, 36, 36, "+"),
        arrow("708 192 V158"),
        box(677, 122, 62, 36, "AVF-U", FUSION),
        arrow("708 122 V100"),
        box(648, 60, 120, 40, "D × FDIM", STAGE),
        arrow("768 80 H790"),
        box(790, 60, 84, 40, "RB, RB, + Z\nconv 3×3"),
        arrow("874 80 H906"),
        box(906, 60, 36, 40, "x̂", OPERATOR),
        arrow("216 88 V114 H832 V100", dashed=True),
        text(520, 109, "the first X is added before the last convolution", style=note),
        arrow("361 172 H760 V210 H726", dashed=True),
        text(500, 166, "X and Z are added", style=note),
        text(20, 150, "scale 1: C channels\nH × W pixels", "start", note),
        text(20, 206, "scale 2: 4C channels\nH/2 × W/2 pixels", "start", note),
        text(20, 326, "scale 3: 16C channels\nH/4 × W/4 pixels", "start", note),
        text(590, 326, "published: C = 8, D = 4: 24 stages,\n17,466,323 parameters without Φ",
             "start", note),
    ]  # fmt: skip


def stage() -> list[str]:
    """One FDIM stage: AEGR updates X, and NSM updates Z."""
    note = 'fill="#556" font-size="12"'
    return [
        title(398, "One stage (FDIM): a learned gradient (AEGR), then a learned prior (NSM)"),
        '<rect x="238" y="412" width="402" height="182" rx="8" fill="none" stroke="#7a9" '
        'stroke-dasharray="2 3"/>',
        text(250, 588, "AEGR", "start", 'font-weight="700" fill="#475"'),
        box(20, 424, 40, 30, "X"),
        box(20, 512, 40, 30, "Z"),
        box(20, 556, 62, 30, "Φᵀy", OPERATOR),
        arrow("60 439 H270"),
        arrow("100 439 V483 H126"),
        box(126, 468, 84, 30, "ΦᵀΦ", OPERATOR),
        arrow("210 483 H270"),
        arrow("60 527 H126"),
        box(126, 512, 84, 30, "RB"),
        arrow("210 527 H270"),
        arrow("82 571 H270"),
        box(270, 424, 40, 150, "con-\ncat"),
        arrow("310 500 H340"),
        box(340, 480, 110, 40, "conv 3×3\nconv 1×1", STAGE),
        arrow("450 500 H490"),
        box(490, 480, 74, 40, "RB, RB", STAGE),
        arrow("564 500 H594"),
        arrow("468 500 V450 H609 V485"),
        box(594, 485, 30, 30, "+"),
        arrow("624 500 H690"),
        arrow("660 500 V439 H906"),
        box(906, 424, 40, 30, "X⁺"),
        box(690, 480, 140, 40, "conv 1×1, RB, RB,\nconv 1×1", STAGE),
        text(760, 540, "NSM", "middle", 'font-weight="700" fill="#475"'),
        arrow("830 500 H856"),
        box(856, 485, 30, 30, "+"),
        arrow("871 439 V485"),
        arrow("886 500 H906"),
        box(906, 485, 40, 30, "Z⁺"),
        text(660, 562, "RB: v + conv(ReLU(conv(v))). Φ is applied to each\nchannel, at "
             "full resolution (pixel shuffle).", "start", note),
    ]  # fmt: skip


def fusions() -> list[str]:
    """AVF-D and AVF-U, which change the scale."""
    parts = [title(638, "From scale to scale: auxiliary variable fusion (AVF-D down, AVF-U up)")]
    parts += [box(20, 702, 66, 34, "X + Z"), arrow("86 719 H108 V668 H130")]
    branches = "max-pool 2×2", "conv 2×2, stride 2", "conv 4×4, stride 2", "conv 8×8, stride 2"
    for k, words in enumerate(branches):
        y = 654 + 34 * k
        parts += [box(130, y, 140, 28, words, FUSION), arrow(f"270 {y + 14} H300")]
        parts += [arrow(f"108 719 V{y + 14} H130")]
    parts += [
        box(300, 654, 40, 130, "con-\ncat"),
        arrow("340 719 H366"),
        box(366, 702, 80, 34, "conv 1×1", FUSION),
        arrow("446 719 H472"),
        box(472, 702, 84, 34, "X↓, Z↓"),
        box(620, 702, 66, 34, "X + Z"),
        arrow("686 719 H708"),
        box(708, 694, 130, 50, "transposed\nconv 2×2, stride 2", FUSION),
        arrow("838 719 H858"),
        box(858, 702, 84, 34, "X↑, Z↑"),
    ]
    return parts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("docs/lgm_net.svg"))
    arguments = parser.parse_args()
    picture = [HEAD, *network(), *stage(), *fusions(), "</svg>"]
    try:
        write_text(arguments.output, "\n".join(picture) + "\n")
    except OSError as error:
        print(f"draw_lgm_net.py: {error}", file=sys.stderr)
        return 1
    print(f"written to {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
