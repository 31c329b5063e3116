"""How corruptions look, and how accuracy falls with their severity. Letters: S side of the input, px."""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from drtune.data.packed import PackedSplit
from drtune.data.transforms import InputSpec
from drtune.evaluation.corruptions import Pixels
from drtune.evaluation.pictures.images import HEAD, MARGIN, TILE, draw_tile, fitted
from drtune.evaluation.pictures.style import CLASS_COLOURS, CLASS_MARKERS, DPI, GREY, new_figure, styled
from drtune.evaluation.robustness import Scores, first_image, set_name
from drtune.evaluation.settings import Corruption, EvaluateSettings, Severity

CAPTION = 0.3  # inches


def corruption_figures(
    scores: Scores, split: PackedSplit, spec: InputSpec, settings: EvaluateSettings, *, name: str
) -> dict[str, Figure]:
    """`robustness` and `corruptions`, by file name; none where `settings` name no corruption.

    Args:
        scores: what `measure` says of the split, under its name, and what `measure_corrupted` says.
        split: packed images; the first is shown.
        spec: the input the model expects.
        settings: the `evaluate` section.
        name: of the split.
    """
    if not settings.corruptions:
        return {}
    return {
        "robustness": severity_curves(scores, settings.corruptions, settings.severities, split=name),
        "corruptions": corruption_sheet(*first_image(split, spec, settings), split=name),
    }


@styled
def severity_curves(
    scores: Scores, corruptions: list[Corruption], severities: list[Severity], *, split: str
) -> Figure:
    """Accuracy against severity, one line a corruption with 95 % intervals; the clean accuracy is severity 0.

    Args:
        scores: `n`, `accuracy`, `accuracy_low` and `accuracy_high` of `split` and of each
            `robustness.set_name`.
        corruptions: which to draw.
        severities: at which they were measured, in any order.
        split: name of the split without corruption, also for the title.
    """
    figure = new_figure(7, 4.4)
    axes = figure.add_subplot()
    levels = sorted(severities)
    clean, mean = 100 * scores[split]["accuracy"], 100 * scores[set_name()]["accuracy"]
    axes.axhline(clean, color=GREY, linestyle=":", zorder=1)
    for number, corruption in enumerate(corruptions):
        own = 100 * scores[set_name(corruption)]["accuracy"]
        colour = CLASS_COLOURS[number]
        # Side by side, so that intervals at the same severity do not hide one another.
        aside = 0.04 * (number - (len(corruptions) - 1) / 2)
        sets = [scores[set_name(corruption, level)] for level in levels]
        heights = interval_bars(axes, [level + aside for level in levels], sets, colour)
        axes.plot(
            [0, *(level + aside for level in levels)],
            [clean, *heights],
            label=f"{spoken(corruption)}: mean {own:.1f}%",
            color=colour,
            marker=CLASS_MARKERS[number],
        )
    interval_bars(axes, [0], [scores[split]], "black")
    axes.plot(0, clean, color="black", marker="o")
    axes.set_xticks([0, *levels], ["clean", *map(str, levels)])
    axes.set(ylim=(0, 103), xlabel="severity (1 weak to 5 strong)", ylabel="accuracy (%), 95 % intervals")
    figure.legend(loc="outside right center")
    n = int(scores[split]["n"])
    figure.suptitle(
        f"Robustness, {split} split, n = {n}\naccuracy {clean:.1f}%, mean under corruption {mean:.1f}%"
    )
    return figure


@styled
def corruption_sheet(
    clean: Pixels, corrupted: Mapping[tuple[Corruption, Severity], Pixels], *, split: str
) -> Figure:
    """One image under each corruption (row) and severity (column), beside itself without corruption.

    Args:
        clean: [S, S, 3] uint8.
        corrupted: the same for each corruption and severity; every corruption has the same severities.
        split: name of the split, for the title.
    """
    names = list(dict.fromkeys(name for name, _ in corrupted))
    levels = sorted({severity for _, severity in corrupted})
    width = max(MARGIN + (1 + len(levels)) * (TILE + MARGIN), 5.0)
    height = HEAD + len(names) * (TILE + CAPTION + MARGIN)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    left = (width - (1 + len(levels)) * (TILE + MARGIN) + MARGIN) / 2
    for row, name in enumerate(names):
        tiles = [("clean", clean), *((f"{spoken(name)} {level}", corrupted[name, level]) for level in levels)]
        y = height - HEAD - TILE - row * (TILE + CAPTION + MARGIN)
        for column, (caption, pixels) in enumerate(tiles):
            x = left + column * (TILE + MARGIN)
            draw_tile(axes, fitted(pixels, round(TILE * DPI)), x, y)
            axes.text(x, y - 0.06, caption, color=GREY, fontsize=8, va="top")
    words = f"First image of the {split} split, corrupted"
    axes.text(width / 2, height - 0.15, words, fontsize=12, ha="center", va="top")
    axes.set(xlim=(0, width), ylim=(0, height), aspect="auto")
    return figure


def interval_bars(axes: Axes, places: list[float], sets: list[dict[str, float]], colour: str) -> list[float]:
    """Draw the interval of each accuracy at its place, and return the accuracies in percent."""
    low, middle, high = ([100 * one[f"accuracy{end}"] for one in sets] for end in ("_low", "", "_high"))
    axes.vlines(places, low, high, color=colour, linewidth=0.8)
    return middle


def spoken(corruption: str) -> str:
    """`gaussian_noise` as words."""
    return corruption.replace("_", " ")
