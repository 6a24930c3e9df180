"""Tables for papers: what is one row, what is compared, and what is printed."""

import csv
import io
import json
import re
import shutil
import subprocess

import pytest

from lgmnet.commands import main
from lgmnet.papers import render
from lgmnet.papers.collect import Column, collect, columns
from lgmnet.papers.grid import build
from lgmnet.papers.statistics import difference

SCORES = [26.0, 27.5, 28.0, 29.0, 30.5, 31.0, 33.0]


def write_run(folder, shift=0.0, seed=1, images=7, **changes):
    """A run folder with images that score ``SCORES`` plus ``shift`` dB."""
    folder.mkdir(parents=True)
    psnr = [score + shift for score in SCORES[:images]]
    scored = {f"image_{k}": {"psnr": v, "ssim": v / 40, "seconds": 1} for k, v in enumerate(psnr)}
    mean = sum(psnr) / images
    results = {
        "protocol": "paper", "network": "lgm_net", "options": {"D": 2}, "ratio": 0.1,
        "weights": folder.name, "color": "luma", "padding": "zeros", "noise_std": 0.0,
        "datasets": {"Set11": {"psnr": mean, "ssim": mean / 40, "images": scored}},
    } | changes  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(results), encoding="utf-8")
    (folder / "config.yaml").write_text(f"training: {{seed: {seed}, rate: 0.1}}\n")
    return str(folder)


@pytest.fixture
def runs(tmp_path):
    """Two seeds of ``a``, one run of ``b``, 1 dB below."""
    names = ("a_r0.10_seed1", 1.0, 1), ("a_r0.10_seed2", 1.5, 2), ("b_r0.10", 0.25, 1)
    return [write_run(tmp_path / name, shift, seed) for name, shift, seed in names]


def grid(runs, **options):
    methods = collect(runs)
    return build(methods, columns(methods), ["psnr", "ssim"], **options)


def test_seeds_are_one_row_with_mean_and_deviation(runs):
    found = grid(runs)
    own = [line for line in found.lines if line.kind == "measured"]
    assert [line.label for line in own] == ["a", "b"]
    assert "No two rows" not in str(found.notes)
    number = own[0].numbers[Column("Set11", 0.1), "psnr"]
    mean = sum(SCORES) / 7
    assert number.mean == pytest.approx(mean + 1.25)
    assert number.deviation == pytest.approx(0.5 / 2**0.5)  # of 1.0 and 1.5, n - 1 below
    assert own[1].numbers[Column("Set11", 0.1), "psnr"].deviation is None
    assert "± is the standard deviation over 2 trainings" in found.notes[0]


def test_the_difference_is_paired_and_its_test_is_named(runs):
    found = grid(runs, base="b")
    change = found.lines[0].differences[Column("Set11", 0.1), "psnr"]
    assert change.mean == pytest.approx(1.0)
    assert change.p == pytest.approx(2 / 2**7)  # all seven positive: 2 of 2^7 patterns of signs
    assert not found.lines[1].differences
    assert any("Wilcoxon" in note and "not corrected" in note for note in found.notes)


def test_few_images_or_equal_scores_are_never_significant(tmp_path):
    five = {str(k): float(k) for k in range(1, 6)}
    assert difference(five, dict.fromkeys(five, 0.0)).p is None
    seven = {str(k): float(k) for k in range(7)}
    assert difference(seven, seven).p == 1
    assert difference({"a": 1.0}, {"b": 1.0}) is None
    paths = [write_run(tmp_path / n, s, images=5) for n, s in (("a", 1.0), ("b", 0.0))]
    assert any("5 images are too small" in note for note in grid(paths, base="b").notes)


def test_runs_with_other_settings_or_the_same_seed_are_not_seeds(tmp_path):
    one = write_run(tmp_path / "a_seed1")
    same = write_run(tmp_path / "a_seed2")
    with pytest.raises(ValueError, match="have the seed 1; give each method its own label"):
        collect([one, same])
    (tmp_path / "a_seed2" / "config.yaml").write_text("training: {seed: 2, rate: 0.2}\n")
    with pytest.raises(ValueError, match=r"differ in training.rate; give each"):
        collect([one, same])
    assert [method.label for method in collect([one, same], ["A", "B"])] == ["A", "B"]
    (tmp_path / "a_seed2" / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"no config.yaml beside them"):
        collect([one, same])
    with pytest.raises(ValueError, match="is given twice"):
        collect([one, one])


def test_a_seed_may_start_from_weights_of_its_own(tmp_path):
    for seed in (1, 2):
        path = write_run(tmp_path / f"a_seed{seed}", seed=seed)
        text = f"training: {{seed: {seed}, start: runs/first_seed{seed}}}\n"
        (tmp_path / f"a_seed{seed}" / "config.yaml").write_text(text)
    assert len(collect([str(tmp_path / "a_seed1"), path])) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"padding": "crop"}, "one table needs one padding: it is zeros in"),
        ({"noise_std": 0.1}, "one table needs one noise_std"),
        ({"protocol": "rounded"}, "only results of the protocols rounded, not of paper"),
        ({"images": 6}, "Set11 has other images in .*such as image_6"),
    ],
)
def test_results_of_different_rules_or_images_are_not_compared(tmp_path, changes, message):
    paths = [write_run(tmp_path / "a"), write_run(tmp_path / "b", **changes)]
    with pytest.raises(ValueError, match=message):
        collect(paths)


def test_wrong_input_is_named(tmp_path, runs, capsys):
    def fails(*words):
        assert main(["table", *words]) == 1
        return capsys.readouterr().err

    assert "there is no 'runs/none'; give a run folder" in fails("runs/none")
    (tmp_path / "empty").mkdir()
    assert "has no results; score it with: python test.py" in fails(str(tmp_path / "empty"))
    assert "--base is 'c', expected one of the rows: a, b" in fails(*runs, "--base", "c")
    assert "unknown score 'lpips', expected psnr" in fails(*runs, "--scores", "lpips")
    assert "no result is of 'BSD68'; there are Set11" in fails(*runs, "--data", "BSD68")
    assert "1 labels for 3 paths" in fails(*runs, "--labels", "A")
    (tmp_path / "a_r0.10_seed1" / "metrics.json").write_text("{")
    assert "is not valid JSON" in fails(runs[0])
    (tmp_path / "a_r0.10_seed1" / "metrics.json").write_text("[]")
    assert "was not written by test.py" in fails(runs[0])


def test_published_rows_stand_below_with_the_settings_that_differ(runs):
    found = grid(runs)
    [line] = [line for line in found.lines if line.kind == "published"]
    assert line.label == "LGM-Net"
    assert line.numbers[Column("Set11", 0.1), "psnr"].mean == 31.78
    assert any("compared with LGM-Net (published): D = 2" in note for note in found.notes)
    assert len(grid(runs, published="all").lines) > 10
    assert len(grid(runs, published="none").lines) == 2


def test_markdown_has_the_best_value_in_bold_and_the_differences_below(runs):
    text = render.markdown(grid(runs, base="b", published="none"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[:5]]
    assert rows[0] == ["method", "Set11 at 10 % PSNR (dB)", "Set11 at 10 % SSIM"]
    assert rows[2] == ["a", "**30.54 ± 0.35**", "**0.7634 ± 0.0088**"]
    assert rows[3] == ["difference to b", "+1.00*", "+0.0250*"]
    assert rows[4] == ["b", "29.54", "0.7384"]


def test_latex_has_equal_columns_in_all_lines_and_no_bare_sign(runs):
    text = render.latex(grid(runs, base="b"))
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert body[0] == r"\begin{tabular}{lcc}"
    assert body[-1] == r"\end{tabular}"
    assert r"\cmidrule(lr){2-3}" in body
    assert r"\textbf{30.54 $\pm$ 0.35}" not in text  # the published row is better
    assert r"\textbf{31.78}" in text
    for line in body:
        if line.endswith(r"\\"):
            spans = [int(n) for n in re.findall(r"multicolumn\{(\d+)\}", line)]
            cells = len(re.findall(r"(?<!\\)&", line)) + 1 + sum(spans) - len(spans)
            assert cells == 3
        assert not re.search(r"(?<!\\)[%#_]", line)
        assert line.count("{") == line.count("}")
    assert render.tex("a_b 10 % ISTA-Net⁺ Φ\\") == (
        r"a\_b 10 \% ISTA-Net$^{+}$ $\Phi$\textbackslash{}"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex")
def test_latex_compiles_with_every_sign(runs, tmp_path):
    (tmp_path / "table.tex").write_text(render.latex(grid(runs, base="b")), encoding="utf-8")
    signs = render.tex(" ".join(render.SIGNS) + " μ₀² |x̂⁺| é –")
    document = (
        "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n\\input{table.tex}\n\n"
        f"\\parbox{{10cm}}{{{signs}}}\n\\end{{document}}\n"
    )
    (tmp_path / "document.tex").write_text(document, encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode("latin-1")[-1500:]


def test_signs_of_latex_are_written_out():
    assert render.tex("λ = 0.1, μ₀²") == r"$\lambda$ = 0.1, $\mu$$_0$$^2$"


def test_csv_keeps_all_digits(runs, tmp_path, capsys):
    out = tmp_path / "t.csv"
    assert main(["table", *runs, "--csv", "--base", "b", "--output", str(out)]) == 0
    assert f"written to {out}" in capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    first = rows[0]
    assert float(first["mean"]) == pytest.approx(sum(SCORES) / 7 + 1.25, abs=1e-12)
    assert (first["runs"], first["images"], first["base"]) == ("2", "7", "b")
    assert float(first["p_wilcoxon"]) == 2 / 2**7


def test_shipped_weights_are_found_by_name(capsys):
    words = ["lgm_net_tiny_r0.10", "ista_net_plus_5_r0.10", "--data", "Set11", "--latex"]
    assert main(["table", *words]) == 0
    text = capsys.readouterr().out
    assert r"lgm\_net\_tiny & 29.71 & 0.8905" in text
    assert r"ista\_net\_plus\_5 & 28.57 & 0.8737" in text


def test_columns_are_in_the_order_of_sets_and_ratios(tmp_path):
    names = [("b_r0.25", 0.25), ("b_r0.10", 0.1)]
    paths = [write_run(tmp_path / name, ratio=ratio) for name, ratio in names]
    assert columns(collect(paths)) == [Column("Set11", 0.1), Column("Set11", 0.25)]


def test_a_table_that_compares_nothing_says_so(tmp_path):
    names = ("a_r0.10", 0.1), ("b_r0.25", 0.25)
    apart = grid([write_run(tmp_path / name, ratio=ratio) for name, ratio in names])
    assert "No two rows were scored on the same test set" in apart.notes[0]
    assert "No two rows" not in str(grid([str(tmp_path / "a_r0.10")]).notes)


def test_shipped_scores_of_older_versions_name_their_training_data():
    [method] = collect(["lgm_net_tiny_r0.10"])
    results = method.cells[Column("Set11", 0.1)][0].results
    assert results["training_data"] == "BSDS500, extra"
    assert results["sampling"]["phi_init"] == "pca"


def test_a_set_that_was_not_scored_says_where_scores_are(capsys):
    assert main(["table", "lgm_net_tiny_r0.10", "--data", "photos"]) == 1
    assert "are in results/<weights>: name this folder" in capsys.readouterr().err
