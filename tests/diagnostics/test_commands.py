"""The three commands, as one types them."""

from __future__ import annotations

from typer.testing import CliRunner

from erclip.cli import app


def invoke(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_ledger(run, tmp_path):
    out = tmp_path / "page"
    result = invoke("ledger", run[0], "--beta", "0.02,0.1", "--clip", "0.1", "--out", out)
    assert result.exit_code == 0, result.output
    assert "What each rule clips" in result.output
    html = (out / "ledger.html").read_text().replace("\xa0", " ")
    for words in ("ERC, as trained", "ERC ±0.02, paper", "ERC ±0.1, directional", "−0.1/+0.1"):
        assert words in html
    assert html.count("<figure") == 4
    assert html.count("<script") == 1  # values under the pointer
    assert "://" not in html


def test_noise_floor(tmp_path):
    out = tmp_path / "noise"
    options = ["--dtype", "float32", "--layouts", "batch", "--prompts", 2, "--max-tokens", 8]
    result = invoke("noise-floor", "embedded", *options, "--out", out)
    assert result.exit_code == 0, result.output
    assert "no token clipped falsely" in result.output.replace("\n", " ")
    assert "Noise floor of embedded" in (out / "noise-floor.html").read_text()


def test_compare_of_one_run_says_what_is_missing(run):
    result = invoke("compare", run[0], run[0])
    assert "was given 2 times" in str(result.exception)
