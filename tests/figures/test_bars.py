"""The bar chart: a bar for every class and method, and none without scores."""

from matplotlib.image import imread

from his4mae_jax.figures.bars import dsc_bars


def test_bars_for_every_class_and_method(tmp_path, drawn, metrics):
    path = tmp_path / "bars.png"
    dsc_bars(metrics, path)
    ax = drawn[0].axes[0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["nucleus", "golgi", "mean"]
    assert [bar.get_height() for bar in ax.patches] == [0.9, 0.0, 0.9, 0.4, 0.0, 0.4]
    assert [text.get_text() for text in ax.texts].count("n/a") == 2
    key = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert key == ["his4mae (C = 4)", "intensity (C = 4)", "many-to-one"]
    assert imread(path).std() > 0.01


def test_below_a_class_stands_the_name_of_its_cluster(tmp_path, drawn, metrics):
    matching = {"one_to_one": {"1": "nucleus", "2": "golgi", "3": None}}
    dsc_bars(metrics | {"matching": matching}, tmp_path / "bars.png", {1: "round $x", 2: "golgi", 3: "rest"})
    ticks = [label.get_text() for label in drawn[0].axes[0].get_xticklabels()]
    assert ticks == ["nucleus\nround $x", "golgi", "mean"]


def test_no_scores_no_picture(tmp_path):
    dsc_bars({"method": "his4mae", "clusters": 4}, tmp_path / "bars.png")
    assert list(tmp_path.iterdir()) == []
