"""The comparison table: who is bold, how numbers are printed, what a change is called."""

from rlkit.evaluate.intervals import summarise
from rlkit.evaluate.names import system_title
from rlkit.report import compare_table


def interval(value, low=None, high=None, n=100):
    return {"value": value, "low": low, "high": high, "n": n}


def rows(values, name="order_exact"):
    return [{"clip": str(i), name: value} for i, value in enumerate(values)]


def test_best_is_bold_when_the_paired_interval_excludes_zero():
    seeds = {"base": [rows([0, 0, 1, 0] * 50)], "dpo": [rows([1, 1, 1, 0] * 50)]}
    systems = {name: summarise(data[0]) for name, data in seeds.items()}
    table = compare_table.markdown(systems, paired=compare_table.differences(seeds))
    assert "| DPO | **75.0** (" in table
    assert "| base model | 25.0 (" in table


def test_best_is_not_bold_when_the_paired_interval_includes_zero():
    seeds = {"base": [rows([0, 1] * 50)], "dpo": [rows([1, 0] * 49 + [1, 1])]}
    systems = {name: summarise(data[0]) for name, data in seeds.items()}
    assert "**" not in compare_table.markdown(systems, paired=compare_table.differences(seeds))


def test_best_is_not_bold_without_paired_differences_even_when_intervals_are_far_apart():
    systems = {"base": {"order_exact": interval(0.1, 0.0, 0.2)}, "dpo": {"order_exact": interval(0.9, 0.8, 1.0)}}
    assert "**" not in compare_table.markdown(systems)


def test_best_must_beat_every_other_system_not_only_the_worst():
    seeds = {"base": [rows([0] * 100)], "sft": [rows([1] * 98 + [0, 0])], "dpo": [rows([0, 0] + [1] * 98)]}
    systems = {name: summarise(data[0]) for name, data in seeds.items()}
    assert compare_table.best_system("order_exact", systems, compare_table.differences(seeds)) is None


def test_lower_is_better_for_padding_and_length_is_never_best():
    seeds = {
        "base": [rows([1, 2] * 50, "extra_sentences")],
        "dpo": [rows([0, 0] * 50, "extra_sentences")],
    }
    systems = {name: summarise(data[0]) for name, data in seeds.items()}
    paired = compare_table.differences(seeds)
    assert compare_table.best_system("extra_sentences", systems, paired) == "dpo"
    systems = {name: {"length_words": metrics["extra_sentences"]} for name, metrics in systems.items()}
    assert compare_table.best_system("length_words", systems, paired) is None


def test_a_base_with_one_seed_is_paired_with_each_of_three():
    base, trained = [rows([0] * 20)], [rows([1] * 20)] * 3
    paired = compare_table.differences({"base": base, "dpo": trained})
    assert paired["dpo"]["base"]["order_exact"]["n"] == 60


def test_markdown_has_one_cell_per_metric_and_a_dash_for_what_was_not_measured():
    systems = {"base": {"order_exact": interval(0.5)}, "a|b": {"length_words": interval(12.34)}}
    lines = compare_table.markdown(systems).splitlines()
    assert lines[0] == "| system | exact order, % ↑ | length |"
    assert lines[2] == "| base model | 50.0 | – |"
    assert lines[3] == "| a\\|b | – | 12.3 |"


def test_verdict_follows_direction_and_paired_interval():
    systems = {
        "base": {"extra_sentences": interval(1.0, 0.9, 1.1), "event_recall": interval(0.90, 0.88, 0.92)},
        "dpo": {"extra_sentences": interval(0.05, 0.0, 0.1), "event_recall": interval(0.89, 0.87, 0.91)},
    }
    paired = {"dpo": {"base": {"event_recall": interval(-0.01, -0.015, -0.005)}}}
    lines = {line["metric"]: line for line in compare_table.before_after(systems, "base", "dpo", paired)}
    assert lines["extra_sentences"]["verdict"] == "better"
    assert lines["extra_sentences"]["change"] == "−0.95"
    assert lines["event_recall"]["verdict"] == "worse"
    assert lines["event_recall"]["change"] == "−1.0"
    assert lines["event_recall"]["change_interval"] == "−1.5 to −0.5"
    without = {line["metric"]: line for line in compare_table.before_after(systems, "base", "dpo")}
    assert without["event_recall"]["verdict"] == "same"


def test_best_of_four_is_the_bases_and_a_system_called_best_of_n_is_its_own():
    assert system_title("best_of_4") == "base model, best of 4"
    assert system_title("best_of_n") == "best_of_n"
