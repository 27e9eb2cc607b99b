"""Bands over seeds, long logs made short, and panels that are left out."""

import numpy as np
import pytest

from his4mae_jax.compare.curves import POINTS, Row, band, codebook_health, dsc_and_loss, legend_columns, thinned


def test_band_is_over_the_steps_all_seeds_have():
    x, mean, least, largest = band([{20: 3.0, 10: 1.0, 30: 9.0}, {10: 2.0, 20: 7.0}])
    assert list(x) == [10, 20] and list(mean) == [1.5, 5.0]
    assert list(least) == [1.0, 3.0] and list(largest) == [2.0, 7.0]
    assert band([]).shape == band([{1: 1.0}, {2: 1.0}]).shape == (4, 0)


def test_long_logs_are_averaged_in_groups():
    long = {step: float(step % 2) for step in range(8 * POINTS)}
    short = thinned(long)
    assert len(short) == POINTS and set(short.values()) == {0.5}
    assert list(short)[:2] == [3.5, 11.5]
    assert thinned({2: 1.0, 1: 3.0}) == {1: 3.0, 2: 1.0}


def test_panels_and_rows_without_data_are_left_out(tmp_path, drawn):
    plain = Row("supervised", 11, dashed=True, dsc=[{1: 0.5, 2: 0.6}])
    assert dsc_and_loss([plain, Row("no curve", 0, loss=[{1: 0.1}])], tmp_path / "curves.png")
    (ax,) = drawn[0].axes
    assert ax.get_title() == "Mean DSC" and ax.lines[0].get_linestyle() == "--"
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["supervised"]
    assert not codebook_health([plain], tmp_path / "health.png")
    assert not dsc_and_loss([], tmp_path / "none.png")
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


@pytest.mark.parametrize("sizes, scale", [((300.0, 200.0), "linear"), ((8.0, 500.0), "log")])
def test_perplexities_of_codebooks_of_several_sizes_have_a_log_axis(tmp_path, drawn, sizes, scale):
    rows = [Row(f"K{i}", i, perplexity=[{1.0: size, 2.0: size}], dead=[{1.0: 0.5}]) for i, size in enumerate(sizes)]
    assert codebook_health(rows, tmp_path / "health.png")
    perplexity, dead = drawn[0].axes
    assert perplexity.get_yscale() == scale and dead.get_ylim() == (-0.03, 1.03)
    np.testing.assert_array_equal(perplexity.lines[1].get_ydata(), [sizes[1]] * 2)


def test_a_legend_is_one_row_where_it_fits():
    assert legend_columns(["a", "b", "a longer name"], 10) == 3
    assert legend_columns(["a longer name by far"] * 8, 10) == 4
    assert legend_columns(["a name that is wider than all the picture"], 2) == 1
