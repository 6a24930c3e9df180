"""Figures for papers: what is drawn, and that labels, units and fonts are in the file."""

import json

import cv2
import numpy as np
import pytest

from lgmnet import metrics
from lgmnet.commands import main
from lgmnet.papers import crops, curves, figure, style
from lgmnet.papers.collect import Column, collect
from tests.conftest import PROJECT, smooth_image
from tests.test_papers import write_run


@pytest.fixture
def image(tmp_path):
    """A photograph of 48 x 64 pixels, and a saved reconstruction that is 2 brighter."""
    pixels = smooth_image(48, 64, 1).clip(0, 200)
    for name, shift in (("truth", 0), ("brighter", 2)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), (pixels + shift).astype(np.uint8))
    return tmp_path / "truth.png"


def test_a_figure_of_weights_and_saved_images_embeds_its_fonts(image, weights, tmp_path, capsys):
    out = tmp_path / "out.pdf"
    words = ["figure", "crops", image, weights, tmp_path / "brighter.png", "--box", "4,8,16"]
    assert main([*map(str, words), "--output", str(out), "--device", "cpu"]) == 0
    content = out.read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content  # TrueType: fonttype 42
    assert b"/Type3" not in content
    assert f"written to {out}" in capsys.readouterr().out


def test_columns_show_truth_and_scores_and_zooms_their_own_pixels(image, tmp_path):
    truth = crops.truth(image)
    other = crops.reconstruct(str(tmp_path / "brighter.png"), image, None)
    assert other.score.psnr == pytest.approx(metrics.psnr(4.0))
    assert other.title.startswith("brighter\n42.11 / 0.99")
    assert truth.title == "truth\nPSNR (dB) / SSIM"
    box, region = crops.Box(10, 20, 8), crops.Box(4, 16, 32)
    with style.plotting() as plt:
        figure = crops.draw(plt, [[truth, other]], [[box]], [region])
        shown = [axis.images[0].get_array() for part in figure.subfigs for axis in part.axes]
        frame = figure.subfigs[0].axes[0].patches[0]
    np.testing.assert_array_equal(shown[0], truth.pixels[4:36, 16:48])
    np.testing.assert_array_equal(shown[3], other.pixels[10:18, 20:28])
    assert (frame.get_x(), frame.get_y(), frame.get_width()) == (3.5, 5.5, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--box", "1,2"], "the box is '1,2', expected top,left,side"),
        (["--box", "40,8,16"], "ends at row 56 and column 24, outside the shown rows 0 to 48"),
        (["--region", "0,0,16", "--box", "8,8,16"], "outside the shown rows 0 to 16"),
        (["--labels", "A"], "1 labels for 2 reconstructions"),
        (["--box", "0,0,4", "8,8,4"], "'8,8,4' is a box; write --box before each box"),
        (["--width", "0"], "--width is 0.0 inches"),
        (["--box", "0,0,4"] * 4, "4 boxes, expected at most 3"),
        (["--output", "x.txt"], "--output is 'x.txt', expected .pdf, .png, .svg"),
    ],
)
def test_wrong_options_are_named(image, tmp_path, options, message, capsys):
    names = [image, tmp_path / "brighter.png", tmp_path / "brighter.png"]
    words = ["figure", "crops", *map(str, names), "--output", str(tmp_path / "o.png"), *options]
    assert main(words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()


def test_wrong_images_are_named(image, image_folder, tmp_path, capsys):
    def fails(*names):
        assert main(["figure", "crops", *map(str, names), "--output", f"{tmp_path}/o.png"]) == 1
        return capsys.readouterr().err

    assert "name weights or saved images after the image" in fails(image)
    assert "images; name one: a file, or Set11[3:4]" in fails(image_folder, image)
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((8, 8), np.uint8))
    assert "has (8, 8) pixels, but the truth (48, 64)" in fails(image, tmp_path / "small.png")
    assert "no weights 'none'" in fails(image, "none")


def test_psnr_over_the_ratio_has_units_and_bars_over_seeds(tmp_path):
    names = [("a_r0.10_seed1", 0.1, 0, 1), ("a_r0.10_seed2", 0.1, 1, 2), ("a_r0.25", 0.25, 3, 1)]
    paths = [write_run(tmp_path / n, shift, seed, ratio=r) for n, r, shift, seed in names]
    with style.plotting() as plt:
        figure = curves.over_ratio(plt, collect(paths), "Set11")
        [axes] = figure.axes
        line = axes.lines[0]
        assert list(line.get_xdata()) == [10, 25]
        assert np.diff(line.get_ydata()) == pytest.approx(2.5)
        assert axes.get_xlabel() == "sampling ratio (%)"
        assert axes.get_ylabel() == "PSNR (dB)"
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a"]
        with pytest.raises(ValueError, match="no result is of 'BSD68' at a sampling ratio"):
            curves.over_ratio(plt, collect(paths), "BSD68")


def test_the_area_of_a_disc_is_the_number_of_flops(tmp_path):
    """LGM-Net, small: 142,559 parameters and 6.37 GFLOP, as README's table says."""
    names = ["lgm_net_tiny_all_ratios", "lgm_net_tiny_r0.10", "ista_net_plus_5_r0.10"]
    methods = collect(names)
    with style.plotting() as plt:
        figure = curves.over_cost(plt, methods, Column("Set11", 0.1))
        discs = figure.axes[0].collections
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert [float(disc.get_offsets()[0, 0]) for disc in discs] == [142559, 142559, 187210]
        assert texts[1] == "lgm_net_tiny: 6.37 GFLOP"
        flops = float(texts[2].split()[1])
        areas = [disc.get_sizes()[0] for disc in discs]
        assert "Area of a disc: FLOPs" in figure.axes[0].get_xlabel()
    # The marks of the legend have one size; the sizes of the discs were set before.
    assert areas[1] / areas[2] == pytest.approx(6.37 / flops, rel=0.01)


def test_a_result_without_weights_has_no_size(tmp_path, capsys):
    words = ["figure", "cost", write_run(tmp_path / "a"), "--output", f"{tmp_path}/o.png"]
    assert main(words) == 1
    assert "no weights are beside" in capsys.readouterr().err
    assert main([*words, "--data", "BSD68"]) == 1
    assert "there are Set11 at 10 %" in capsys.readouterr().err


def test_rows_of_an_experiment_are_numbered_with_one_colour_for_a_group(tmp_path, capsys):
    def run(network, parameters, seed, psnr):
        scores = {"validation": {"psnr": psnr}}
        return {"choices": {"network": network}, "seed": seed, "parameters": parameters,
                "scores": scores}  # fmt: skip

    runs = [run("step: a", 100, 1, 20), run("step: a", 100, 2, 21), run("step: b", 200, 1, 23),
            run("other", 300, 1, 24)]  # fmt: skip
    content = {"columns": ["parameters", "validation psnr"], "runs": runs}
    with style.plotting() as plt:
        drawn = curves.over_parameters(plt, content, "validation")
        lines = [bars.lines[0] for bars in drawn.axes[0].containers]
        points = [(line.get_xdata()[0], line.get_ydata()[0]) for line in lines]
        assert points == [(100, 20.5), (200, 23), (300, 24)]
        colours = [line.get_color() for line in lines]
        assert colours[0] == colours[1] != colours[2]
        labels = [text.get_text() for text in drawn.legends[0].get_texts()]
        assert labels == ["1  step: a", "2  step: b", "3  other"]
        with pytest.raises(ValueError, match="no run of the experiment was scored on 'Set11'"):
            curves.over_parameters(plt, content, "Set11")
    file, picture = tmp_path / "e.json", tmp_path / "e.png"
    file.write_text(json.dumps(content))
    assert main(["figure", "experiment", str(file), "--output", str(picture)]) == 0
    assert picture.stat().st_size > 10_000
    file.write_text(json.dumps(content | {"columns": ["speed"]}))  # no set is named
    assert main(["figure", "experiment", str(file), "--output", str(picture)]) == 0
    words = ["figure", "experiment", str(file), str(file), "--output", str(picture)]
    assert main(words) == 1
    assert "is no experiment; name one file" in capsys.readouterr().err


def test_psnr_over_stages_ends_with_the_score(tmp_path, image_folder, monkeypatch):
    drawn = {}
    monkeypatch.setattr(curves, "over_stages", lambda plt, found, name: drawn.update(found))
    monkeypatch.setattr(figure, "save", lambda *_: None)
    names = ["ista_net_plus_5_r0.10", "lgm_net_tiny_r0.10"]
    words = ["figure", "stages", *names, "--labels", "ISTA-Net⁺", "LGM-Net", "--device", "cpu"]
    assert main([*words, "--data", str(image_folder), "--output", f"{tmp_path}/o.png"]) == 0
    assert [len(psnr) for psnr in drawn.values()] == [1 + 5, 9]
    scored = ["test", names[0], "--data", str(image_folder), "--output", str(tmp_path / "scores")]
    assert main(scored) == 0
    [result] = json.loads((tmp_path / "scores/metrics.json").read_text())["datasets"].values()
    assert drawn["ISTA-Net⁺"][-1] == pytest.approx(result["psnr"], abs=1e-4)


def test_stages_have_an_axis_from_the_start_on():
    with style.plotting() as plt:
        [axes] = curves.over_stages(plt, {"A": [20.0, 25.0, 27.0]}, "Set11").axes
        assert list(axes.lines[0].get_xdata()) == [0, 1, 2]
        assert axes.get_xlabel() == "stage (0: start)"
        assert axes.get_ylabel() == "PSNR (dB)"


def test_the_figure_of_readme_is_sharp():
    """README shows it about 860 points wide; a screen of double density needs twice the pixels."""
    height, width = cv2.imread(str(PROJECT / "docs" / "figure.png")).shape[:2]
    assert 1600 < width < 2400
    assert height < 0.7 * width
